//! The host's side of frames to it: a socket that answers as the guest `net-bench` would.

use anyhow::{Context, Result};
use std::net::UdpSocket;
use std::thread;

/// Where kind and number are in a datagram, and kinds.
const KIND: usize = 12;
const NUMBER: usize = 14;
const CALL: u8 = 1;
const HERE: u8 = 2;
const DATA: u8 = 3;
const ACKNOWLEDGE: u8 = 4;
const END: u8 = 7;
/// The longest datagram.
const DATAGRAM_MAX: usize = 2048;

/// Answers on a port of the loopback interface, as long as this program runs. Returns the port.
pub fn start() -> Result<u16> {
    let socket = UdpSocket::bind("127.0.0.1:0").context("a socket of the host's")?;
    let port = socket.local_addr()?.port();
    thread::spawn(move || answer(&socket));
    Ok(port)
}

fn answer(socket: &UdpSocket) {
    let mut datagram = [0; DATAGRAM_MAX];
    while let Ok((bytes, from)) = socket.recv_from(&mut datagram) {
        let Some(number) = datagram[..bytes].get(NUMBER..NUMBER + 4) else { continue };
        let number = u32::from_le_bytes(number.try_into().expect("four bytes"));
        let (kind, number) = match datagram[KIND] {
            CALL => (HERE, 0),
            DATA if number & 1 != 0 => (ACKNOWLEDGE, number >> 1),
            END => (END, 0),
            _ => continue,
        };
        datagram[KIND] = kind;
        datagram[NUMBER..NUMBER + 4].copy_from_slice(&u32::to_le_bytes(number));
        // One that is lost is missed by the guest, which tells so.
        let _ = socket.send_to(&datagram[..bytes], from);
    }
}
