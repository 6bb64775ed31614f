//! What a network device is plugged into: a passt of our own that answers a guest's first questions, and the switch.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::PROGRAM;
use common::kvm;
use common::scratch::Scratch;
use hostel::backend::net_passt::{self, PasstError};
use hostel::backend::net_port::{FRAME_MAX, HEADER_BYTES, NetPort, Sent};
use hostel::backend::net_stream::NetStream;
use hostel::event_loop::{self, Interest};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

/// An ARP request of 10.0.2.15 for 10.0.2.2, behind an empty virtio header (RFC 826).
fn arp_request(mac: [u8; 6]) -> Vec<u8> {
    let mut frame = vec![0; HEADER_BYTES];
    frame.extend([0xff; 6]);
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend([10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2]);
    frame.resize(HEADER_BYTES + 60, 0);
    frame
}

/// Waits for the next frame behind `port`; its text behind the Ethernet header.
fn text(port: &mut dyn NetPort) -> Vec<u8> {
    let mut frame = vec![0; FRAME_MAX];
    loop {
        if let Some(length) = port.receive(&mut frame) {
            return frame[HEADER_BYTES + 14..length].to_vec();
        }
        let fd = port.fd().expect("the switch lives");
        let ready = event_loop::wait(&[Interest { token: (), fd, output: false }], Some(Duration::from_secs(20)));
        assert!(!ready.expect("poll(2)").is_empty(), "no frame");
    }
}

/// Ports of a switch that is a process of its own, as each machine has one.
#[test]
fn a_switch_passes_frames_between_its_ports_and_goes_with_the_last() {
    let scratch = Scratch::new("switch");
    let directory = scratch.join("hostel");
    fs::create_dir(&directory).expect("the scratch directory takes one");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let start = || {
        let mut switch = Command::new(PROGRAM);
        switch.args(["switch", "lan"]).env("XDG_RUNTIME_DIR", scratch.join(""));
        switch.spawn().expect("the program can be started")
    };
    let mut switch = start();
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
        [&[0; HEADER_BYTES][..], &[2, 0, 0, 0, 0, to], &[2, 0, 0, 0, 0, from], &[0x88, 0xb5], text].concat()
    };
    assert_eq!(one.send(&frame(2, 1, b"ping")), Sent::Taken);
    assert_eq!(text(&mut two), b"ping");
    assert_eq!(two.send(&frame(1, 2, &[7; 60_000])), Sent::Taken);
    assert_eq!(text(&mut one), [7; 60_000]);
    drop((one, two));
    assert!(switch.wait().expect("it ends").success());
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
    assert_eq!(port.send(&arp_request(mac)), Sent::Taken);
    let until = Instant::now() + Duration::from_secs(20);
    let mut frame = vec![0; FRAME_MAX];
    loop {
        // Among what comes unasked (router advertisements) is the reply: operation 2, to us.
        while let Some(length) = port.receive(&mut frame) {
            let frame = &frame[HEADER_BYTES..length];
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
