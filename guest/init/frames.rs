//! The frames that the agent and the host exchange: four bytes of length, little-endian, one byte that says what it is, and so many
//! bytes of data. docs/agent.md has the kinds.

use crate::syscalls::{self, Errno};
use core::fmt;

/// Most bytes of data in a frame.
pub const DATA_MAX: usize = 64 << 10;

/// A connection is of no use any more: its other side has gone, or sent what is no frame.
pub struct Gone;

/// A connection and the frame that came last.
pub struct Frames {
    connection: usize,
    data: [u8; DATA_MAX],
    length: usize,
}

impl Frames {
    /// Frames over `connection`.
    pub fn new(connection: usize) -> Self {
        Self { connection, data: [0; DATA_MAX], length: 0 }
    }

    /// The connection, to wait for the next frame.
    pub fn file(&self) -> usize {
        self.connection
    }

    /// Waits for the next frame and returns its kind.
    pub fn receive(&mut self) -> Result<u8, Gone> {
        let mut head = [0; 5];
        fill(self.connection, &mut head)?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if length > DATA_MAX {
            let _ = self.send(b'f', b"the frame is too long");
            return Err(Gone);
        }
        fill(self.connection, &mut self.data[..length])?;
        self.length = length;
        Ok(head[4])
    }

    /// Data of the frame that came last.
    pub fn data(&self) -> &[u8] {
        &self.data[..self.length]
    }

    /// Sends a frame.
    pub fn send(&self, kind: u8, data: &[u8]) -> Result<(), Gone> {
        let mut head = [0; 5];
        head[..4].copy_from_slice(&(data.len() as u32).to_le_bytes());
        head[4] = kind;
        let sent =
            syscalls::write_all(self.connection, &head).and_then(|()| syscalls::write_all(self.connection, data));
        sent.map_err(|_| Gone)
    }

    /// Sends a text of at most a few hundred bytes.
    pub fn send_text(&self, kind: u8, text: fmt::Arguments<'_>) -> Result<(), Gone> {
        let mut line = Text { bytes: [0; 512], length: 0 };
        // What is too long is cut.
        let _ = fmt::Write::write_fmt(&mut line, text);
        self.send(kind, &line.bytes[..line.length])
    }

    /// Says why a request failed.
    pub fn fail(&self, error: Errno) -> Result<(), Gone> {
        self.send_text(b'f', format_args!("{error}"))
    }
}

fn fill(connection: usize, mut bytes: &mut [u8]) -> Result<(), Gone> {
    while !bytes.is_empty() {
        match syscalls::read(connection, bytes) {
            Ok(0) | Err(_) => return Err(Gone),
            Ok(count) => bytes = &mut bytes[count..],
        }
    }
    Ok(())
}

/// A text that is put together.
struct Text {
    bytes: [u8; 512],
    length: usize,
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.length..self.length + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}
