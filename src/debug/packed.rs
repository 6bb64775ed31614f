//! An exit and its reply as three words, for a ring of plain atomics (`recorder.rs`).
//!
//! What it leaves out: the code bytes of [`Failure::Emulation`].

use super::event::ExitKind;
use crate::kvm::exit::{Exit, Failure, Reply};

/// The head of a packed exit: the kind's place in [`ExitKind::ALL`] in its lowest byte, a size in the next, a reply in the
/// third, and a flag of the exit in the fourth.
const SIZE_SHIFT: u32 = 8;
const REPLY_SHIFT: u32 = 16;
const FLAG: u64 = 1 << 24;
/// In the head, for the recorder's own use: RIP is known.
pub const HAS_RIP: u64 = 1 << 32;
const REPLY_NONE: u64 = 0;
const REPLY_RESUME: u64 = 1;
const REPLY_VALUE: u64 = 2;
const REPLY_FAULT: u64 = 3;

/// An exit and its reply as words. What a read got shares its word with what a write wrote.
pub fn pack(exit: Exit, reply: Option<Reply>) -> [u64; 3] {
    let (size, flag, first, mut second) = match exit {
        Exit::PioRead { port, size } => (size, false, port.into(), 0),
        Exit::PioWrite { port, size, value } => (size, false, port.into(), value),
        Exit::MmioRead { addr, size } => (size, false, addr, 0),
        Exit::MmioWrite { addr, size, value } => (size, false, addr, value),
        Exit::MsrRead { index, filtered } => (0, filtered, index.into(), 0),
        Exit::MsrWrite { index, filtered, value } => (0, filtered, index.into(), value),
        Exit::IoapicEoi { vector } => (0, false, vector.into(), 0),
        Exit::SystemEvent { kind } => (0, false, kind.into(), 0),
        // The vector fits where other exits have a size.
        Exit::Debug { vector, rip, dr6 } => (vector, false, rip, dr6),
        Exit::Hypercall { number } => (0, false, number, 0),
        Exit::Halt | Exit::Shutdown | Exit::SetTpr | Exit::IrqWindowOpen | Exit::Interrupted => (0, false, 0, 0),
        Exit::Failure(Failure::FailedEntry { reason }) => (0, false, reason, 0),
        Exit::Failure(Failure::Emulation { .. }) => (1, false, 0, 0),
        Exit::Failure(Failure::Internal { suberror }) => (2, false, suberror.into(), 0),
        Exit::Failure(Failure::Unknown { reason }) => (3, false, reason.into(), 0),
    };
    let reply = match reply {
        None => REPLY_NONE,
        Some(Reply::Resume) => REPLY_RESUME,
        Some(Reply::Fault) => REPLY_FAULT,
        Some(Reply::Value(value)) => {
            second = value;
            REPLY_VALUE
        }
    };
    let kind = ExitKind::of(&exit) as u64;
    let flag = if flag { FLAG } else { 0 };
    [kind | u64::from(size) << SIZE_SHIFT | reply << REPLY_SHIFT | flag, first, second]
}

/// What [`pack`] packed; `None` for words that it never makes.
pub fn unpack(&[head, first, second]: &[u64; 3]) -> Option<(Exit, Option<Reply>)> {
    let size = (head >> SIZE_SHIFT) as u8;
    let filtered = head & FLAG != 0;
    let (port, addr, index, value) = (first as u16, first, first as u32, second);
    let exit = match *ExitKind::ALL.get(usize::from(head as u8))? {
        ExitKind::PioRead => Exit::PioRead { port, size },
        ExitKind::PioWrite => Exit::PioWrite { port, size, value },
        ExitKind::MmioRead => Exit::MmioRead { addr, size },
        ExitKind::MmioWrite => Exit::MmioWrite { addr, size, value },
        ExitKind::MsrRead => Exit::MsrRead { index, filtered },
        ExitKind::MsrWrite => Exit::MsrWrite { index, filtered, value },
        ExitKind::IoapicEoi => Exit::IoapicEoi { vector: first as u8 },
        ExitKind::Halt => Exit::Halt,
        ExitKind::Shutdown => Exit::Shutdown,
        ExitKind::SystemEvent => Exit::SystemEvent { kind: index },
        ExitKind::Debug => Exit::Debug { vector: size, rip: first, dr6: second },
        ExitKind::Hypercall => Exit::Hypercall { number: first },
        ExitKind::SetTpr => Exit::SetTpr,
        ExitKind::IrqWindow => Exit::IrqWindowOpen,
        ExitKind::Interrupted => Exit::Interrupted,
        ExitKind::Failure => Exit::Failure(match size {
            0 => Failure::FailedEntry { reason: first },
            1 => Failure::Emulation { code: [0; 15], code_len: 0 },
            2 => Failure::Internal { suberror: index },
            _ => Failure::Unknown { reason: index },
        }),
    };
    let reply = match head >> REPLY_SHIFT & 0xff {
        REPLY_RESUME => Some(Reply::Resume),
        REPLY_VALUE => Some(Reply::Value(second)),
        REPLY_FAULT => Some(Reply::Fault),
        _ => None,
    };
    Some((exit, reply))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_comes_back_as_it_was() {
        let exits = [
            Exit::PioRead { port: u16::MAX, size: 4 },
            Exit::PioWrite { port: 1, size: 2, value: 3 },
            Exit::MmioRead { addr: u64::MAX, size: 8 },
            Exit::MmioWrite { addr: 1 << 40, size: 7, value: u64::MAX },
            Exit::MsrRead { index: 0xc000_0080, filtered: true },
            Exit::MsrWrite { index: 0x10, filtered: false, value: 5 },
            Exit::IoapicEoi { vector: 255 },
            Exit::Halt,
            Exit::Shutdown,
            Exit::SystemEvent { kind: 3 },
            Exit::Debug { vector: 3, rip: 1 << 63, dr6: 4 },
            Exit::Hypercall { number: 12 },
            Exit::SetTpr,
            Exit::IrqWindowOpen,
            Exit::Interrupted,
            Exit::Failure(Failure::FailedEntry { reason: 0x8000_0021 }),
            Exit::Failure(Failure::Emulation { code: [0; 15], code_len: 0 }),
            Exit::Failure(Failure::Internal { suberror: 3 }),
            Exit::Failure(Failure::Unknown { reason: 99 }),
        ];
        for exit in exits {
            for reply in [None, Some(Reply::Resume), Some(Reply::Fault)] {
                assert_eq!(unpack(&pack(exit, reply)), Some((exit, reply)));
            }
        }
        let read = (Exit::MmioRead { addr: 7, size: 1 }, Some(Reply::Value(u64::MAX)));
        assert_eq!(unpack(&pack(read.0, read.1)), Some(read));
        assert_eq!(unpack(&[0xff, 0, 0]), None);
    }
}
