//! The devices: one row each, with how to make it and a request that it answers whatever came before.

use hostel::backend::balloon::BalloonControl;
use hostel::backend::block::disk::{DiskOptions, Mode};
use hostel::backend::console_port::{ConsolePort, TerminalSize};
use hostel::backend::net_port::{Arrived, HEADER_BYTES, NOTHING_LEFT, NetPort, OFFLOADS, Sent};
use hostel::backend::rate::{Limiter, Rates};
use hostel::backend::share::server::Rights;
use hostel::backend::vsock::exchange::Exchange;
use hostel::event_loop::Waker;
use hostel::virtio::balloon::Balloon;
use hostel::virtio::blk::Blk;
use hostel::virtio::console::Console;
use hostel::virtio::device::VirtioDevice;
use hostel::virtio::fs::Fs;
use hostel::virtio::net::Net;
use hostel::virtio::rig::{RAM, Request};
use hostel::virtio::rng::Rng;
use hostel::virtio::vsock::Vsock;
use std::fs;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A device.
pub struct Row {
    pub name: &'static str,
    pub build: fn() -> Box<dyn VirtioDevice>,
    pub good: fn() -> Request,
    /// Whether what was written is the answer.
    pub is_right: fn(&[u8]) -> bool,
    /// Bytes of its configuration that are the driver's to write.
    pub writable_config: Range<u64>,
}

pub const ROWS: &[Row] = &[
    Row {
        name: "rng",
        build: || Box::new(Rng),
        good: || request(0, &[], 16),
        is_right: |bytes| bytes.len() == 16,
        writable_config: 0..0,
    },
    Row { name: "blk", build: blk, good: || request(0, &[0; 16], 513), is_right: is_disk, writable_config: 0..0 },
    Row {
        name: "blk, layered",
        build: layered,
        good: || request(0, &[0; 16], 513),
        is_right: is_disk,
        writable_config: 0..0,
    },
    Row {
        name: "blk, limited",
        build: limited,
        good: || request(0, &[0; 16], 513),
        is_right: is_disk,
        writable_config: 0..0,
    },
    Row {
        name: "net",
        build: net,
        good: || request(1, &[0; HEADER_BYTES + 60], 0),
        is_right: <[u8]>::is_empty,
        writable_config: 0..0,
    },
    Row {
        name: "console",
        build: console,
        good: || request(1, b"hello", 0),
        is_right: <[u8]>::is_empty,
        writable_config: 0..0,
    },
    Row {
        name: "vsock",
        build: vsock,
        good: || request(1, &VSOCK_RESET, 0),
        is_right: <[u8]>::is_empty,
        writable_config: 0..0,
    },
    Row { name: "fs", build: fs, good: fs_init, is_right: is_reply, writable_config: 0..0 },
    Row {
        name: "balloon",
        build: balloon,
        good: || request(0, &[0xff; 4], 0),
        is_right: <[u8]>::is_empty,
        writable_config: 4..8,
    },
];

fn request(queue: usize, readable: &[u8], writable: u32) -> Request {
    Request { queue, readable: readable.to_vec(), writable }
}

/// A path of its own for temporary files.
fn path() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("hostel-hostile-{}-{number}", std::process::id()))
}

/// A disk whose file has no name any more.
fn disk(options: DiskOptions) -> Box<dyn VirtioDevice> {
    let path = path();
    fs::write(&path, [0xdd; 512 * 64]).unwrap();
    let device = Blk::open(&path, options, "hostile", 2).unwrap();
    fs::remove_file(&path).unwrap();
    Box::new(device)
}

fn blk() -> Box<dyn VirtioDevice> {
    disk(DiskOptions::default())
}

fn layered() -> Box<dyn VirtioDevice> {
    disk(DiskOptions { mode: Mode::Overlay, ..DiskOptions::default() })
}

/// A disk that is held for a moment again and again.
fn limited() -> Box<dyn VirtioDevice> {
    let rates = Rates { bytes: Some(100 << 20), operations: Some(100_000) };
    disk(DiskOptions { rates, ..DiskOptions::default() })
}

/// A sector and the status "done".
fn is_disk(bytes: &[u8]) -> bool {
    bytes.len() == 513 && bytes[512] == 0
}

/// A port that takes every frame and always has one, short and long ones in turn.
struct Port {
    idle: Waker,
    frame: Vec<u8>,
    taken: usize,
}

const FRAMES: [usize; 3] = [60, 1514, 60_000];

impl NetPort for Port {
    fn features(&self) -> u64 {
        OFFLOADS
    }
    fn send(&mut self, _header: &[u8; HEADER_BYTES], _frame: &[u8]) -> Sent {
        Sent::Taken
    }
    fn peek(&mut self) -> Option<Arrived<'_>> {
        Some(Arrived { header: &NOTHING_LEFT, frame: &self.frame[..FRAMES[self.taken % FRAMES.len()]] })
    }
    fn take(&mut self) {
        self.taken += 1;
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.idle.fd())
    }
}

fn net() -> Box<dyn VirtioDevice> {
    let port = Port { idle: Waker::new().unwrap(), frame: vec![0x55; 60_000], taken: 0 };
    Box::new(Net::new([2, 0, 0, 0, 0, 1], Box::new(port), Limiter::default()))
}

/// A port that takes everything and has a little to say.
struct Terminal {
    name: Option<&'static str>,
    input: usize,
}

impl ConsolePort for Terminal {
    fn name(&self) -> Option<&'static str> {
        self.name
    }
    fn room(&mut self) -> usize {
        4096
    }
    fn write(&mut self, _bytes: &[u8]) {}
    fn has_input(&mut self) -> bool {
        self.input > 0
    }
    fn read(&mut self, bytes: &mut [u8]) -> usize {
        let count = bytes.len().min(self.input);
        bytes[..count].fill(b'x');
        self.input -= count;
        count
    }
    fn size(&self) -> Option<TerminalSize> {
        Some(TerminalSize { columns: 80, rows: 25 })
    }
}

fn console() -> Box<dyn VirtioDevice> {
    let ports: Vec<Box<dyn ConsolePort>> =
        vec![Box::new(Terminal { name: None, input: 100 }), Box::new(Terminal { name: Some("agent"), input: 100 })];
    Box::new(Console::new(ports, Waker::new().unwrap()))
}

/// A packet that resets a connection which there is not: nothing answers it (virtio 1.2 §5.10.6). From 3 to 2, type 1, operation 3.
const VSOCK_RESET: [u8; 44] = {
    let mut packet = [0; 44];
    (packet[0], packet[8], packet[28], packet[30]) = (3, 2, 1, 3);
    packet
};

fn vsock() -> Box<dyn VirtioDevice> {
    let path = path();
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    fs::remove_file(&path).unwrap();
    Box::new(Vsock::new(Exchange::new(listener, &path).unwrap()))
}

/// FUSE_INIT of protocol 7.31: 56 bytes, its code, a number of its own; the version, read-ahead, no wishes (Linux fuse.h).
fn fs_init() -> Request {
    let mut message = vec![0; 56];
    for (at, word) in [(0, 56u32), (4, 26), (8, 1), (40, 7), (44, 31), (48, 0x2_0000)] {
        message[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    Request { queue: 1, readable: message, writable: 256 }
}

/// The header of a reply with its own length in it and no error (Linux fuse.h).
fn is_reply(bytes: &[u8]) -> bool {
    bytes.len() > 16 && bytes[..4] == (bytes.len() as u32).to_le_bytes() && bytes[4..8] == [0; 4]
}

fn fs() -> Box<dyn VirtioDevice> {
    let path = path();
    fs::create_dir(&path).unwrap();
    let device = Fs::open(&path, "hostile", Rights::Write, 1).unwrap();
    fs::remove_dir(&path).unwrap();
    Box::new(device)
}

fn balloon() -> Box<dyn VirtioDevice> {
    Box::new(Balloon::new(BalloonControl::new(RAM / 2, RAM).unwrap()))
}
