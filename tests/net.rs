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
use hostel::backend::net_pcap::{Capture, Captured};
use hostel::backend::net_port::{NOTHING_LEFT, NetPort, Sent};
use hostel::backend::net_stream::NetStream;
use hostel::event_loop::{self, Interest};
use rustix::process::Signal;
use std::fs;
use std::net::UdpSocket;
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

/// The frames in a capture file: a header of 24 bytes, then 16 before each, the third word of which is its length.
fn captured(path: &str) -> Vec<Vec<u8>> {
    let file = fs::read(path).expect("it was written");
    let (mut rest, mut frames) = (&file[24..], Vec::new());
    while let Some((head, behind)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes(head[8..12].try_into().expect("four bytes"));
        let (frame, next) = behind.split_at(length as usize);
        frames.push(frame.to_vec());
        rest = next;
    }
    frames
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
    let runtime = Scratch::runtime("ping");
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
    let runtime = Scratch::runtime("linux");
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

/// Neither was given an address: their names make two of one image differ.
#[test]
fn a_machine_that_was_killed_is_found_again_on_the_switch() {
    if !kvm::available() {
        return;
    }
    let runtime = Scratch::runtime("again");
    let start = |name: &str, words: &[&str]| {
        let mut session = Session::on_pipes(virtio_net(&runtime, "switch:lan", &["--name", name], words));
        session.wait_for("answers ARP and ping");
        session
    };
    // Keeps the switch while the other one is away.
    let stays = start("stays", &["10.0.0.3"]);
    let ping = || {
        let words = ["10.0.0.2", "ping", "10.0.0.1"];
        let pinger = finish(virtio_net(&runtime, "switch:lan", &["--name", "pings"], &words), "");
        assert_eq!((pinger.status, pinger.stdout.as_str()), (0, PINGED), "{pinger:?}");
    };
    for _ in 0..2 {
        let answerer = start("answers", &["10.0.0.1"]);
        ping();
        answerer.signal(Signal::KILL);
        assert_eq!(answerer.end().0, 128 + 9);
    }
    assert_eq!(stays.end().0, 0);
}

/// The other side of `net-bench round` is a machine of Hostel's; QEMU is told of the switch's socket, as documented.
#[test]
fn a_qemu_joins_the_switch() {
    const GUEST: &str = concat!(env!("OUT_DIR"), "/net-bench");
    // The guest powers off by a register that is QEMU's debug exit there: (0x34 << 1) | 1.
    const POWERED_OFF: i32 = 0x69;
    if !kvm::available() {
        return;
    }
    let Some(qemu) = find_program("qemu-system-x86_64") else { return kvm::skip("QEMU is not installed") };
    let runtime = Scratch::runtime("qemu");
    let mut answerer = Command::new(PROGRAM);
    answerer.args(["run", "net-bench", "--transport", "mmio", "--timeout", "120s", "--net", "switch:lan"]);
    answerer.args(["--name", "answers", "--", "answer"]).env("XDG_RUNTIME_DIR", runtime.path());
    let answerer = Session::on_pipes(answerer);
    let socket = runtime.join("hostel/lan.sock");
    let until = Instant::now() + Duration::from_secs(20);
    while !fs::exists(&socket).expect("the directory is there") {
        assert!(Instant::now() < until, "no switch");
        std::thread::yield_now();
    }
    let mut machine = Command::new("timeout");
    machine.arg("120").arg(qemu).args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-m",
        "128",
    ]);
    machine.args([
        "-accel",
        "kvm",
        "-M",
        "microvm,acpi=off,pic=off,pit=off,rtc=off",
        "-cpu",
        "host,-arch-capabilities",
    ]);
    machine.args(["-serial", "stdio", "-device", "isa-debug-exit,iobase=0x600,iosize=4"]);
    machine.args(["-global", "virtio-mmio.force-legacy=false", "-kernel", GUEST, "-append", "round 5"]);
    machine.args(["-netdev", &format!("stream,id=n,server=off,addr.type=unix,addr.path={socket}")]);
    machine.args(["-device", "virtio-net-device,netdev=n,mac=02:00:00:00:00:02"]);
    let qemu = finish(machine, "");
    assert_eq!(qemu.status, POWERED_OFF, "{qemu:?}");
    assert!(qemu.stdout.contains("round: 5 frames of 64 bytes in "), "{qemu:?}");
    let (status, seen) = answerer.end();
    assert!(status == 0 && seen.starts_with("answered: "), "{seen}");
}

/// What a guest sees of an interface of the host that goes down, comes up and is deleted; each time it tells when it is ready for that.
const ON_A_TAP: &str = "
ip link set eth0 up
ip addr add 10.9.0.2/24 dev eth0
ping -c 3 -W 10 10.9.0.1 >/dev/null && echo before=yes
echo ready for down; read line
ping -c 2 -W 2 10.9.0.1 >/dev/null || echo down=unreachable
echo ready for up; read line
for try in 1 2 3 4 5 6 7 8 9; do ping -c 1 -W 2 10.9.0.1 >/dev/null && echo up=yes && break; done
echo ready for the end; read line
ping -c 1 -W 2 10.9.0.1 >/dev/null || echo end=unreachable
echo done; read line
";

/// In the lab, where interfaces can be made.
#[test]
fn a_tap_goes_down_and_up_and_may_vanish() {
    let Some(kernel) = kvm::lab_kernel() else { return };
    let host = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        assert!(Command::new(words[0]).args(&words[1..]).status().expect("busybox has it").success(), "{line}");
    };
    ["tunctl -t tap0", "ip addr add 10.9.0.1/24 dev tap0", "ip link set tap0 up"].iter().for_each(|line| host(line));
    let scratch = Scratch::new("tap");
    let initrd = scratch.file("initrd", &initramfs(ON_A_TAP));
    let capture = scratch.join("capture.pcap");
    let mut linux = Command::new(PROGRAM);
    linux.args(["run", &kernel, "--initrd", &initrd, "--cmdline=quiet", "--timeout", "240s"]);
    linux.args(["--net", "tap:tap0", "--pcap", &capture]);
    let mut linux = Session::on_pipes(linux);
    for (mark, line) in
        [("down", "ip link set tap0 down"), ("up", "ip link set tap0 up"), ("the end", "ip link del tap0")]
    {
        linux.wait_for(&format!("ready for {mark}"));
        host(line);
        linux.type_in("\n");
    }
    linux.wait_for("done");
    // Nothing more to wait for: the devices' thread must rest.
    let (before, start) = (ticks_of_devices(&linux), Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    let (ticks, elapsed) = (ticks_of_devices(&linux) - before, start.elapsed());
    assert!(ticks as u128 * 10 < elapsed.as_millis() / 4, "{ticks} ticks of 10 ms in {elapsed:?}");
    linux.type_in("\n");
    let (status, seen) = linux.end();
    println!("{seen}");
    assert_eq!(status, 0);
    for said in ["before=yes", "down=unreachable", "up=yes", "end=unreachable"] {
        assert!(seen.contains(said), "{said} is missing");
    }
    // Echo requests and replies, as type 8 and 0 behind the IPv4 header.
    let frames = captured(&capture);
    let echoes = |kind| frames.iter().filter(|frame| frame[12..14] == [8, 0] && frame[34] == kind).count();
    assert!(echoes(8) > echoes(0) && echoes(0) >= 4, "{} and {}", echoes(8), echoes(0));
}

/// Processor time of the devices' thread, in ticks of 10 ms: fields 14 and 15 of its `stat` (proc(5)), 12 and 13 behind the name.
fn ticks_of_devices(session: &Session) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", session.pid().as_raw_nonzero())).expect("it runs");
    let stats = tasks.flatten().map(|task| fs::read_to_string(task.path().join("stat")).expect("it runs"));
    let of = |stat: String| {
        let behind = stat.rsplit_once(") ").filter(|_| stat.contains("(devices)"))?.1.to_owned();
        Some(behind.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum::<u64>())
    };
    stats.filter_map(of).sum()
}

/// Longest frames among them: each machine leaves their segments to the other.
#[test]
fn two_machines_measure_what_goes_between_them() {
    if !kvm::available() {
        return;
    }
    let runtime = Scratch::runtime("measure");
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
    let scratch = Scratch::runtime("switch");
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

/// passt takes an interface with a way out for its template, and ends where there is none, as in the lab.
fn has_way_out() -> bool {
    let routes = std::fs::read_to_string("/proc/net/route").expect("the host has a network stack");
    let found = routes.lines().any(|line| line.split_whitespace().nth(1) == Some("00000000"));
    if !found {
        kvm::skip("there is no way out that passt could stand for");
    }
    found
}

/// Frames of a guest that come to a socket of its host, all of them: `net-bench` hears of each twenty-fourth.
#[test]
fn a_guest_reaches_its_host_through_passt() {
    const FRAMES: usize = 500;
    if !kvm::available() || !has_way_out() {
        return;
    }
    if find_program("passt").is_none() {
        return kvm::skip("passt is not installed");
    }
    let socket = UdpSocket::bind("127.0.0.1:0").expect("the host has a loopback interface");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a time that a socket can wait");
    let port = socket.local_addr().expect("it is bound").port().to_string();
    let machine = std::thread::spawn(move || {
        let mut command = Command::new(PROGRAM);
        command.args(["run", "net-bench", "--transport", "mmio", "--timeout", "60s", "--net", "user", "--"]);
        command.args(["user", &port, "1514", &FRAMES.to_string()]);
        finish(command, "")
    });
    // Kinds as in `guest/bin/net-bench.rs`: a call, data whose lowest bit asks to be acknowledged, the end.
    let (mut seen, mut data) = ([0; 2048], 0);
    loop {
        let (bytes, from) = socket.recv_from(&mut seen).expect("the guest says something");
        assert_eq!(bytes, 1514 - 42);
        let number = u32::from_le_bytes(seen[14..18].try_into().expect("four bytes"));
        let (kind, number) = match seen[12] {
            1 => (2, 0),
            3 => {
                data += 1;
                assert_eq!(number >> 1, data, "in order, and none is lost");
                if number & 1 == 0 {
                    continue;
                }
                (4, data)
            }
            kind => (kind, 0),
        };
        seen[12] = kind;
        seen[14..18].copy_from_slice(&number.to_le_bytes());
        socket.send_to(&seen[..bytes], from).expect("passt listens");
        if kind == 7 {
            break;
        }
    }
    let machine = machine.join().expect("it does not panic");
    let told = format!("user: {FRAMES} frames of 1514 bytes in ");
    assert!(machine.status == 0 && machine.stdout.starts_with(&told), "{machine:?}");
    assert_eq!(data as usize, FRAMES);
}

#[test]
fn passt_answers_behind_the_port() {
    let passt = match net_passt::start(&[]) {
        Ok(port) => port,
        Err(PasstError::Missing) => return kvm::skip("passt is not installed"),
        Err(error) => panic!("{error}"),
    };
    if !has_way_out() {
        return;
    }
    let scratch = Scratch::new("passt");
    let path = scratch.join("capture.pcap");
    let capture = Capture::create(path.as_ref()).expect("the scratch directory takes a file");
    let mut port = Captured::new(Box::new(passt), capture);
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
                let captured = captured(&path);
                assert_eq!((&captured[0], captured.last()), (&arp_request(mac), Some(&frame)));
                return;
            }
        }
        let fd = port.fd().expect("passt has ended before it answered");
        let left = until.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no answer");
        event_loop::wait(&[Interest { token: (), fd, output: false }], Some(left)).expect("poll(2)");
    }
}
