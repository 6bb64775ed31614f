//! The agent in the embedded initramfs, in the lab, over the socket device of an unmodified distribution kernel: programs run, files are
//! copied, and megabytes go through connections that either side made.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

#[allow(dead_code, reason = "its main is the example's")]
#[path = "../examples/agent.rs"]
mod client;

use client::{Agent, End, PORT, Program};
use common::hostel::PROGRAM;
use common::kvm::lab_kernel;
use common::scratch::Scratch;
use common::session::Session;
use sha2::{Digest, Sha256};
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const SHELL: &str = "/busybox";

/// Bytes that no short period has.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs a line of the shell: how it ended, and what it wrote.
fn shell(path: &Path, line: &str, input: Vec<u8>) -> (End, String, String) {
    let mut agent = Agent::connect(path).expect("the agent listens");
    let program =
        Program { directory: "/proc", environment: &["COLOUR=blue", "EMPTY="], arguments: &[SHELL, "sh", "-c", line] };
    agent.start(&program).expect("the agent listens");
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let end = agent.finish(io::Cursor::new(input), &mut output, &mut errors).expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it is text");
    (end, text(output), text(errors))
}

fn copies_files(path: &Path, agent: &mut Agent, name: &str, content: &[u8]) {
    let start = Instant::now();
    agent.put(content, 0o640, name).expect("it can be written");
    let there = start.elapsed();
    let mut back = Vec::new();
    assert_eq!(agent.get(name, &mut back).expect("it can be read"), 0o640);
    let here = start.elapsed() - there;
    assert!(back == content, "{name} came back otherwise");
    let (end, output, _) = shell(path, &format!("{SHELL} sha256sum {name}"), Vec::new());
    assert_eq!((end, output), (End::Exit(0), format!("{}  {name}\n", hash(content))));
    println!("{name}: {} bytes in {there:?}, and back in {here:?}", content.len());
}

fn runs_programs(path: &Path) {
    let line = "echo $COLOUR$EMPTY in $PWD; echo no >&2; /busybox cat; exit 7";
    let (end, output, errors) = shell(path, line, b"typed\n".to_vec());
    assert_eq!((end, &output[..], &errors[..]), (End::Exit(7), "blue in /proc\ntyped\n", "no\n"));
    // More than fits anywhere on the way, in both directions at once.
    let much: Vec<u8> = noise(3 * MIB).iter().map(|byte| b'a' + byte % 26).collect();
    let (end, output, _) = shell(path, "/busybox cat", much.clone());
    assert_eq!((end, hash(output.as_bytes())), (End::Exit(0), hash(&much)));
    // A program that does not read its input, and one that leaves another behind with the pipes.
    assert_eq!(shell(path, "exit 3", much).0, End::Exit(3));
    assert_eq!(shell(path, "/busybox sleep 1000 & echo left", Vec::new()).1, "left\n");
    assert_eq!(shell(path, "kill -9 $$", Vec::new()).0, End::Signal(9));
    let program = Program { arguments: &[SHELL, "sleep", "1000"], ..Program::default() };
    let mut agent = Agent::connect(path).expect("the agent listens");
    agent.start(&program).expect("the agent listens");
    agent.send(b'K', &15u32.to_le_bytes()).expect("the agent listens");
    assert_eq!(agent.finish(io::empty(), io::sink(), io::sink()).expect("it ends"), End::Signal(15));
}

fn refuses(agent: &mut Agent) {
    let mut failure = |kind: u8, data: &[u8]| {
        agent.send(kind, data).expect("the agent listens");
        agent.receive().expect_err("it cannot be").to_string()
    };
    assert_eq!(failure(b'G', b"/none/such"), "no such file or directory");
    assert_eq!(failure(b'G', b"/proc"), "is a directory");
    assert_eq!(failure(b'E', b"\0\0/none/such\0"), "no such file or directory");
    assert_eq!(failure(b'E', b"/none\0\0/busybox\0"), "no such file or directory");
    assert_eq!(failure(b'E', b"\0\0no-such\0"), "no such file or directory");
    assert_eq!(failure(b'E', b"\0\0/proc/version\0"), "permission denied");
    for bad in [&b""[..], b"\0", b"\0\0", b"\0\0x", b"x"] {
        assert!(failure(b'E', bad).contains("expected"), "{bad:?}");
    }
    assert!(failure(b'E', &[b"\0\0".as_slice(), &b"x\0".repeat(513)].concat()).contains("expected"));
    assert_eq!(failure(b'?', b""), "there is no such request");
    for (content, name) in [(noise(1), "/proc/none"), (noise(MIB), "/none/such")] {
        let error = agent.put(&content[..], 0o600, name).expect_err("there is no such directory");
        assert_eq!(error.to_string(), "no such file or directory");
    }
    assert!(agent.status().is_ok(), "it goes on");
}

/// Waits for what a line of the shell says to be `expected`.
fn wait_until(path: &Path, line: &str, expected: &str) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let (_, output, _) = shell(path, line, Vec::new());
        if output == expected {
            return;
        }
        assert!(Instant::now() < until, "{line}: {output}");
    }
}

#[test]
fn a_host_works_in_its_guest() {
    let Some(kernel) = lab_kernel() else { return };
    let scratch = Scratch::new("agent");
    let path = scratch.join("vm.sock");
    let called = UnixListener::bind(format!("{path}_{PORT}")).expect("the directory takes a socket");
    let mut command = Command::new(PROGRAM);
    command.args(["run", &kernel, "--vsock", &path, "--cmdline", "quiet"]);
    let mut session = Session::on_pipes(command);
    // Who comes early is refused by the guest's kernel, or waits; who listens is called.
    let (stream, _) = called.accept().expect("the agent calls");
    let mut calling = Agent::called(stream);
    let busybox = std::fs::read("/bin/busybox").expect("the lab has it");
    calling.put(&busybox[..], 0o755, SHELL).expect("it can be written");

    let path = Path::new(&path);
    let mut agent = Agent::connect(path).expect("the agent listens");
    runs_programs(path);
    refuses(&mut agent);
    copies_files(path, &mut agent, "/small", b"x");
    copies_files(path, &mut agent, "/empty", b"");
    copies_files(path, &mut agent, "/inwards", &noise(4 * MIB));
    copies_files(path, &mut calling, "/outwards", &noise(4 * MIB));
    let status = agent.status().expect("it is told");
    println!("{status}");
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    assert_eq!((value("protocol"), value("processors")), (Some(1.0), Some(1.0)));
    assert!(value("uptime_seconds") > Some(0.0) && value("load_15").is_some() && value("processes") > Some(10.0));
    assert!(value("memory_free_bytes") < value("memory_total_bytes") && value("memory_total_bytes") < Some(513e6));

    // A client that goes takes its program along, and leaves no part of a file.
    let mut gone = Agent::connect(path).expect("the agent listens");
    gone.start(&Program { arguments: &[SHELL, "sleep", "2000"], ..Program::default() }).expect("the agent listens");
    wait_until(path, "/busybox ps | /busybox grep -c '[s]leep 2000'", "1\n");
    drop(gone);
    wait_until(path, "/busybox ps | /busybox grep -c '[s]leep 2000'", "0\n");
    let mut gone = Agent::connect(path).expect("the agent listens");
    gone.send(b'P', b"\xff\x01\0\0/part").expect("the agent listens");
    gone.send(b'd', &[1; 5000]).expect("the agent listens");
    wait_until(path, "/busybox ls / | /busybox grep -c part", "1\n");
    drop(gone);
    wait_until(path, "/busybox ls / | /busybox grep -c part", "0\n");
    // Frames that are none end their connection, and no other.
    let mut bad = Agent::connect(path).expect("the agent listens");
    bad.send(0xff, &[0xff; 70_000]).expect("the agent listens");
    assert!(bad.receive().is_err());
    // More connections than it serves: all are served, as others go.
    let several: Vec<_> = (0..14).map(|_| Agent::connect(path).expect("the agent listens")).collect();
    let mut waiting = Agent::connect(path).expect("the kernel takes it");
    waiting.send(b'S', &[]).expect("the kernel takes it");
    assert!(agent.status().is_ok());
    drop((several, calling));
    assert_eq!(waiting.receive().expect("it is served").0, b't');
    session.type_in("poweroff\n");
    assert_eq!(session.end().0, 0);
}

#[test]
fn the_agent_works_in_a_directory_of_the_host_too() {
    let Some(kernel) = lab_kernel() else { return };
    let scratch = Scratch::new("agent-root");
    let path = scratch.join("vm.sock");
    let called = UnixListener::bind(format!("{path}_{PORT}")).expect("the directory takes a socket");
    let mut command = Command::new(PROGRAM);
    command.args(["run", &kernel, "--root", "/", "--vsock", &path, "--", "sh", "-c", "read line; cat /told; exit 5"]);
    let mut session = Session::on_pipes(command);
    let mut agent = Agent::called(called.accept().expect("the agent calls").0);
    agent.put(&b"by the agent"[..], 0o644, "/told").expect("the layer takes files");
    // None but the three: the port by which init tells the status is not the program's.
    let line = "pwd; ls -d /lib/modules; ls /proc/self/fd | wc -l";
    agent.start(&Program { arguments: &["sh", "-c", line], ..Program::default() }).expect("the agent listens");
    let mut output = Vec::new();
    let end = agent.finish(io::empty(), &mut output, io::sink()).expect("it ends");
    assert_eq!((end, String::from_utf8_lossy(&output).as_ref()), (End::Exit(0), "/\n/lib/modules\n4\n"));
    session.type_in("go\n");
    let (status, seen) = session.end();
    assert!(status == 5 && seen.contains("by the agent"), "{status}: {seen}");
}
