//! Sockets, epoll and eventfd under `hostel exec`, next to the same programs run natively; and what is refused without `--allow-net`.
//!
//! Needs KVM; a C compiler, busybox-static and python3 each for a part. Only the loopback is used.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{Finished, hostel};
use common::programs::{alike_with, built, busybox};
use common::{kvm, scratch::Scratch};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread::{self, JoinHandle};

/// Has the loopback there, which nobody has raised in the lab.
fn loopback() {
    if std::env::var_os("HOSTEL_LAB_KERNEL").is_some() {
        let status = Command::new("ifconfig").args(["lo", "up"]).status();
        assert!(status.expect("busybox has it").success());
    }
}

/// A static program of `tests/programs`.
fn program(name: &str) -> Option<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name).with_extension("c");
    let flags = ["-O1", "-w", "-static", "-pthread", source.to_str().expect("the path is text")];
    built(name, std::slice::from_ref(&source), "cc", &flags)
}

#[test]
fn sockets_of_the_machine_and_events_do_what_they_do_natively() {
    if !kvm::available() {
        return;
    }
    let Some(local) = program("local") else { return };
    let scratch = Scratch::new("sockets-local");
    let place = scratch.path().to_str().expect("the path is text");
    for options in [&["--allow-write"][..], &["--allow-write", "--allow-net"]] {
        let run = alike_with(options, &[&local, place], "");
        assert_eq!((run.status, run.stderr.as_str()), (5, ""), "{}", run.stdout);
        assert_eq!(std::fs::read_dir(place).expect("it is there").count(), 0, "all were unlinked");
    }
}

#[test]
fn sockets_of_the_hosts_networks_do_what_they_do_natively() {
    if !kvm::available() {
        return;
    }
    let Some(net) = program("net") else { return };
    loopback();
    let run = alike_with(&["--allow-net"], &[&net], "");
    assert_eq!((run.status, run.stderr.as_str()), (6, ""), "{}", run.stdout);
}

/// Answers one request for each of `answers`, on a port of the loopback; gives the port.
fn serve(answers: &'static [&'static str]) -> (u16, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has ports left");
    let port = listener.local_addr().expect("it is bound").port();
    let server = thread::spawn(move || {
        let answer = |text: &&str| {
            let (mut stream, _) = listener.accept().expect("the program connects");
            let lines = BufReader::new(stream.try_clone().expect("there are descriptors left")).lines();
            let request: Vec<String> =
                lines.map(|line| line.expect("it is text")).take_while(|line| !line.is_empty()).collect();
            write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).expect("it reads");
            request[0].clone()
        };
        answers.iter().map(answer).collect()
    });
    (port, server)
}

#[test]
fn busybox_fetches_a_page_and_is_told_that_it_may_not() {
    if !kvm::available() {
        return;
    }
    let Some(busybox) = busybox() else { return };
    loopback();
    let (port, server) = serve(&["a page\n"]);
    let url = format!("http://127.0.0.1:{port}/page");
    let wget = |options: &[&str]| -> Finished {
        hostel(&[&["exec"], options, &["--", busybox, "wget", "-q", "-O", "-", &url]].concat(), "")
    };
    let refused = wget(&[]);
    assert!(refused.stderr.contains("Permission denied") && refused.status == 1, "{}", refused.stderr);
    let last = "hostel: refused with EACCES, since --allow-net was not given: Internet sockets";
    assert_eq!(refused.stderr.lines().last(), Some(last));
    let fetched = wget(&["--allow-net"]);
    assert_eq!((fetched.stdout.as_str(), fetched.status), ("a page\n", 0), "{}", fetched.stderr);
    assert_eq!(server.join().expect("it answered"), ["GET /page HTTP/1.1"]);
}

const PYTHON: &str = r#"
import http.server, select, selectors, socket, socketserver, threading, urllib.request

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.path.encode() * 1000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = "http://127.0.0.1:%d" % server.server_port
for path in ("/first", "/second"):
    with urllib.request.urlopen(url + path, timeout=60) as answer:
        body = answer.read()
        print(path, answer.status, len(body), body == path.encode() * 1000)
server.shutdown()
server.server_close()
one, other = socket.socketpair()
with selectors.DefaultSelector() as selector:
    selector.register(other, selectors.EVENT_READ, "data")
    print(type(selector).__name__, selector.select(0))
    one.sendall(b"x")
    print([key.data for key, _ in selector.select()], other.recv(9), select.select([other], [one], [], 0)[1] == [one])
try:
    socket.create_connection(("127.0.0.1", server.server_port), 60)
except OSError as error:
    print(error)
"#;

#[test]
fn python_serves_pages_and_fetches_them() {
    if !kvm::available() {
        return;
    }
    let python = "/usr/bin/python3";
    if !Path::new(python).exists() {
        return kvm::skip("python3 is not installed");
    }
    let run = alike_with(&["--allow-net"], &[python, "-c", PYTHON], "");
    assert_eq!((run.status, run.stdout.lines().count()), (0, 5), "{}", run.stderr);
}
