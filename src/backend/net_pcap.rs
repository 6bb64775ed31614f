//! Frames on their way, written to a file as tcpdump and tshark read it.
//!
//! Source: draft-gharris-opsawg-pcap "General File Structure".

use super::net_port::{Arrived, HEADER_BYTES, NetPort, Sent};
use crate::bus::bus::lock;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// Magic number: little-endian, times in microseconds.
const MAGIC: u32 = 0xa1b2_c3d4;
/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;
/// Longest part of a frame that is kept.
const SNAP_BYTES: u32 = 262_144;

/// A capture file, for all devices of a machine.
#[derive(Clone)]
pub struct Capture(Arc<Mutex<BufWriter<File>>>);

impl Capture {
    /// Creates or empties the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(path: &Path) -> io::Result<Capture> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&MAGIC.to_le_bytes())?;
        file.write_all(&[2, 0, 4, 0])?; // version 2.4
        file.write_all(&[0; 8])?; // times are UTC
        file.write_all(&SNAP_BYTES.to_le_bytes())?;
        file.write_all(&ETHERNET.to_le_bytes())?;
        file.flush()?;
        Ok(Capture(Arc::new(Mutex::new(file))))
    }

    fn note(&self, frame: &[u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let kept = &frame[..frame.len().min(SNAP_BYTES as usize)];
        let fields = [now.as_secs() as u32, now.subsec_micros(), kept.len() as u32, frame.len() as u32];
        let mut file = lock(&self.0);
        // A disk that is full ends the capture, not the machine. Each frame is written out: the end may come at any time.
        let _ = fields.iter().try_for_each(|field| file.write_all(&field.to_le_bytes()));
        let _ = file.write_all(kept).and_then(|()| file.flush());
    }
}

/// A port whose frames are captured.
pub struct Captured {
    port: Box<dyn NetPort>,
    capture: Capture,
}

impl Captured {
    /// `port`, its frames noted in `capture`.
    pub fn new(port: Box<dyn NetPort>, capture: Capture) -> Captured {
        Captured { port, capture }
    }
}

impl NetPort for Captured {
    fn features(&self) -> u64 {
        self.port.features()
    }

    fn start(&mut self, features: u64) {
        self.port.start(features);
    }

    fn send(&mut self, header: &[u8; HEADER_BYTES], frame: &[u8]) -> Sent {
        let sent = self.port.send(header, frame);
        if sent == Sent::Taken {
            self.capture.note(frame);
        }
        sent
    }

    fn flush(&mut self) {
        self.port.flush();
    }

    fn peek(&mut self) -> Option<Arrived<'_>> {
        self.port.peek()
    }

    fn take(&mut self) {
        if let Some(arrived) = self.port.peek() {
            self.capture.note(arrived.frame);
        }
        self.port.take();
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.port.fd()
    }

    fn room_fd(&self) -> Option<BorrowedFd<'_>> {
        self.port.room_fd()
    }

    fn has_moved(&mut self) -> bool {
        self.port.has_moved()
    }

    fn wants_room(&self) -> bool {
        self.port.wants_room()
    }
}
