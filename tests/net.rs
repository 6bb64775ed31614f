//! What a network device is plugged into: a passt of our own that answers a guest's first questions, and the switch, with sample
//! guests behind it.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{Finished, PROGRAM, finish};
use common::kvm;
use common::lab_image::find_program;
use common::linux_guest::initramfs;
use common::scratch::Scratch;
use common::session::Session;
use hostel::backend::net_passt::{self, PasstError};
use hostel::backend::net_port::{NOTHING_LEFT, NetPort, Sent};
use hostel::backend::net_stream::NetStream;
use hostel::event_loop::{self, Interest};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An ARP request of 10.0.2.15 for 10.0.2.2 (RFC 826).
fn arp_request(mac: [u8; 6]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend([10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2]);
    frame.resize(60, 0);
    frame
}

/// Waits for the next frame behind `port`; its text behind the Ethernet header.
fn text(port: &mut dyn NetPort) -> Vec<u8> {
    loop {
        if let Some(arrived) = port.peek() {
            let text = arrived.frame[14..].to_vec();
            port.take();
            return text;
        }
        let fd = port.fd().expect("the switch lives");
        let ready = event_loop::wait(&[Interest { token: (), fd, output: false }], Some(Duration::from_secs(20)));
        assert!(!ready.expect("poll(2)").is_empty(), "no frame");
    }
}

/// A directory in which the switches of one test are, and nobody else's.
fn runtime(name: &str) -> Scratch {
    let scratch = Scratch::new(name);
    let ours = fs::create_dir(scratch.join("hostel"))
        .and_then(|()| fs::set_permissions(scratch.join("hostel"), fs::Permissions::from_mode(0o700)));
    ours.expect("the scratch directory takes one");
    scratch
}

/// `hostel run virtio-net` with this device and these words.
fn virtio_net(runtime: &Scratch, net: &str, options: &[&str], words: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["run", "virtio-net", "--transport", "mmio", "--timeout", "60s", "--net", net]).args(options);
    command.arg("--").args(words).env("XDG_RUNTIME_DIR", runtime.path());
    command
}

/// A `virtio-net` that answers for 10.0.0.1, when it does.
fn answerer(runtime: &Scratch, options: &[&str]) -> Session {
    let mut session = Session::on_pipes(virtio_net(runtime, "switch:lan,mac=02:00:00:00:00:01", options, &[]));
    session.wait_for("answers ARP and ping");
    session
}

/// A `virtio-net` that pings it.
fn pinger(runtime: &Scratch) -> Finished {
    finish(virtio_net(runtime, "switch:lan,mac=02:00:00:00:00:02", &[], &["10.0.0.2", "ping", "10.0.0.1"]), "")
}

const PINGED: &str = "this is 10.0.0.2 and pings 10.0.0.1\nanswer 1 of 3\nanswer 2 of 3\nanswer 3 of 3\n";

#[test]
fn two_machines_on_one_switch_ping_each_other_and_tshark_reads_it() {
    if !kvm::available() {
        return;
    }
    let runtime = runtime("ping");
    let capture = runtime.join("capture.pcap");
    let answerer = answerer(&runtime, &["--pcap", &capture]);
    let pinger = pinger(&runtime);
    assert_eq!((pinger.status, pinger.stdout.as_str()), (0, PINGED), "{pinger:?}");
    let (status, seen) = answerer.end();
    assert_eq!(status, 0, "{seen}");
    // On a slow host the pinger asks a second time before it hears the answer.
    let mut lines: Vec<_> = seen.lines().collect();
    lines.dedup();
    assert!(lines.ends_with(&["ARP: who is this?", "ping 1", "ping 2", "ping 3"]), "{seen}");

    let Some(tshark) = find_program("tshark") else { return kvm::skip("tshark is not installed") };
    let fields = ["-T", "fields", "-e", "arp.opcode", "-e", "icmp.type", "-e", "icmp.checksum.status", "-e", "eth.src"];
    let read = Command::new(tshark).args(["-r", &capture]).args(fields).output();
    let read = read.expect("tshark can be started");
    assert!(read.status.success(), "{read:?}");
    // Three echoes and their answers, all with a right checksum (1).
    let echo = "\t8\t1\t02:00:00:00:00:02\n\t0\t1\t02:00:00:00:00:01\n";
    let expected = format!("1\t\t\t02:00:00:00:00:02\n2\t\t\t02:00:00:00:00:01\n{}", echo.repeat(3));
    assert_eq!(String::from_utf8_lossy(&read.stdout), expected);
}

/// In the lab: an unmodified distribution kernel and a sample guest on one switch.
#[test]
fn a_linux_and_a_sample_guest_exchange_data_on_one_switch() {
    let Some(kernel) = kvm::lab_kernel() else { return };
    let runtime = runtime("linux");
    let answerer = answerer(&runtime, &[]);
    let script = "ip link set eth0 up\nip addr add 10.0.0.2/24 dev eth0\nping -c 3 10.0.0.1 && echo pinged=yes\n";
    let initrd = runtime.file("initrd", &initramfs(script));
    let mut linux = Command::new(PROGRAM);
    linux.args(["run", &kernel, "--initrd", &initrd, "--cmdline=quiet", "--timeout", "60s", "--net", "switch:lan"]);
    linux.env("XDG_RUNTIME_DIR", runtime.path());
    let linux = finish(linux, "");
    assert!(linux.status == 0 && linux.stdout.contains("pinged=yes"), "{linux:?}");
    let (status, seen) = answerer.end();
    assert!(status == 0 && seen.contains("ARP: who is this?") && seen.matches("ping ").count() >= 3, "{seen}");
}

/// Longest frames among them: each machine leaves their segments to the other.
#[test]
fn two_machines_measure_what_goes_between_them() {
    if !kvm::available() {
        return;
    }
    let runtime = runtime("measure");
    let machine = |number: u8, words: &[&str]| {
        let mut command = Command::new(PROGRAM);
        let net = format!("switch:lan,mac=02:00:00:00:00:0{number}");
        command.args(["run", "net-bench", "--transport", "mmio", "--timeout", "120s", "--net", &net, "--"]).args(words);
        command.env("XDG_RUNTIME_DIR", runtime.path());
        command
    };
    for (words, frames) in
        [(["bulk", "1"], "bulk: 16 frames of 65226 bytes in "), (["round", "5"], "round: 5 frames of 64 bytes in ")]
    {
        let answerer = Session::on_pipes(machine(1, &["answer"]));
        let sender = finish(machine(2, &words), "");
        assert!(sender.status == 0 && sender.stdout.starts_with(frames), "{sender:?}");
        let (status, seen) = answerer.end();
        assert!(status == 0 && seen.starts_with("answered: "), "{seen}");
    }
}

/// Ports of a switch that is a process of its own, as each machine has one.
#[test]
fn a_switch_passes_frames_between_its_ports_and_goes_with_the_last() {
    let scratch = runtime("switch");
    let directory = scratch.join("hostel");
    let start = || {
        let mut switch = Command::new(PROGRAM);
        switch.args(["switch", "lan"]).env("XDG_RUNTIME_DIR", scratch.path()).stderr(Stdio::piped());
        switch.spawn().expect("the program can be started")
    };
    let switch = start();
    let socket = format!("{directory}/lan.sock");
    let until = Instant::now() + Duration::from_secs(20);
    let plug = || loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => return NetStream::new(stream.into()),
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    };
    let (mut one, mut two) = (plug(), plug());
    assert!(start().wait().expect("it ends").success(), "a second process of that name is not needed");
    let frame = |to: u8, from: u8, text: &[u8]| {
        [&[2, 0, 0, 0, 0, to][..], &[2, 0, 0, 0, 0, from], &[0x88, 0xb5], text].concat()
    };
    let send = |port: &mut NetStream, frame: &[u8]| {
        assert_eq!(port.send(&NOTHING_LEFT, frame), Sent::Taken);
        port.flush();
    };
    send(&mut one, &frame(2, 1, b"ping"));
    assert_eq!(text(&mut two), b"ping");
    send(&mut two, &frame(1, 2, &[7; 60_000]));
    assert_eq!(text(&mut one), [7; 60_000]);
    drop((one, two));
    let ended = switch.wait_with_output().expect("it ends");
    let counts = "hostel: switch lan: 2 frames came, 0 were lost for want of room, 0 were malformed\n";
    assert_eq!((ended.status.success(), String::from_utf8_lossy(&ended.stderr).as_ref()), (true, counts));
    assert!(!fs::exists(&socket).expect("the directory is there"));
}

#[test]
fn passt_answers_behind_the_port() {
    let mut port = match net_passt::start(&[]) {
        Ok(port) => port,
        Err(PasstError::Missing) => return kvm::skip("passt is not installed"),
        Err(error) => panic!("{error}"),
    };
    let mac = [0x02, 0, 0, 0, 0, 0x15];
    assert_eq!(port.send(&NOTHING_LEFT, &arp_request(mac)), Sent::Taken);
    port.flush();
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        // Among what comes unasked (router advertisements) is the reply: operation 2, to us.
        while let Some(frame) = port.peek().map(|arrived| arrived.frame.to_vec()) {
            port.take();
            if frame[..6] == mac && frame[12..14] == [0x08, 0x06] {
                assert_eq!(frame[20..22], [0, 2]);
                assert_eq!(frame[28..32], [10, 0, 2, 2]);
                return;
            }
        }
        let fd = port.fd().expect("passt has ended before it answered");
        let left = until.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no answer");
        event_loop::wait(&[Interest { token: (), fd, output: false }], Some(left)).expect("poll(2)");
    }
}
