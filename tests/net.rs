//! The user's network: a passt of our own answers a guest's first questions.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::kvm;
use hostel::backend::net_passt::{self, PasstError};
use hostel::backend::net_port::{FRAME_MAX, HEADER_BYTES, NetPort, Sent};
use hostel::event_loop::{self, Interest};
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
