//! A guest's sockets: the name of the socket on the host comes and goes with the machine.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{PROGRAM, hostel};
use common::kvm;
use common::scratch::Scratch;
use common::session::Session;
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;

#[test]
fn the_socket_is_there_as_long_as_the_machine() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("vsock");
    let path = scratch.join("vm.sock");
    let start = || {
        let mut command = Command::new(PROGRAM);
        command.args(["run", "shell", "--vsock", &path]);
        let mut session = Session::on_pipes(command);
        session.wait_for("> ");
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
        session
    };
    // What a machine left that was killed.
    drop(UnixListener::bind(&path).expect("the directory takes a socket"));
    let session = start();
    let second = hostel(&["run", "hello", "--vsock", &path], "");
    assert!(second.status == 10 && second.stderr.contains("another process does"), "{second:?}");
    assert_eq!(session.end().0, 0);
    assert!(!fs::exists(&path).expect("the directory is there"));
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let session = start();
        session.signal(signal);
        assert_eq!(session.end().0, status);
        assert!(!fs::exists(&path).expect("the directory is there"), "{signal:?}");
    }
    fs::write(&path, "a file").expect("the directory takes a file");
    let run = hostel(&["run", "hello", "--vsock", &path], "");
    assert!(run.status == 10 && run.stderr.contains("it exists and is no socket"), "{run:?}");
    assert_eq!(fs::read(&path).expect("it is there"), b"a file");
    let run = hostel(&["run", "hello", "--vsock", &"a".repeat(100)], "");
    assert!(run.status == 2 && run.stderr.contains("96 at most"), "{run:?}");
}
