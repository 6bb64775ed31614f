//! Hardware breakpoints and watchpoints: what the processor's four debug registers hold.
//!
//! Source: Intel SDM vol. 3B §18.2 (DR0 to DR7, lengths and alignment).

use crate::kvm::debug::{DEBUG_ADDRESSES, GuestDebug};
use gdbstub::target::ext::breakpoints::WatchKind;

/// What a debug register waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The instruction here is next.
    Execution,
    /// These many bytes are read or written as gdb's kind says: 1, 2, 4 or 8.
    Data(WatchKind, u64),
}

/// A debug register in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Linear address.
    pub address: u64,
    /// What for.
    pub access: Access,
}

/// The debug registers.
#[derive(Clone, Copy, Debug, Default)]
pub struct DebugRegisters([Option<Point>; DEBUG_ADDRESSES]);

impl DebugRegisters {
    /// Takes a register for `point`. False: all are taken, or the processor has no such thing.
    pub fn insert(&mut self, point: Point) -> bool {
        if let Access::Data(_, length) = point.access
            && !(matches!(length, 1 | 2 | 4 | 8) && point.address.is_multiple_of(length))
        {
            return false;
        }
        let free = self.0.iter_mut().find(|register| register.is_none());
        free.map(|register| *register = Some(point)).is_some()
    }

    /// Frees the register of `point`. False: none has it.
    pub fn remove(&mut self, point: Point) -> bool {
        let taken = self.0.iter_mut().find(|register| **register == Some(point));
        taken.map(|register| *register = None).is_some()
    }

    /// These and, in the free registers, a breakpoint at each of `addresses`. `None`: they do not fit.
    pub fn with(mut self, mut addresses: impl Iterator<Item = u64>) -> Option<DebugRegisters> {
        addresses.all(|address| self.insert(Point { address, access: Access::Execution })).then_some(self)
    }

    /// Only the watchpoints, each in its register.
    pub fn watchpoints(self) -> DebugRegisters {
        DebugRegisters(self.0.map(|point| point.filter(|point| point.access != Access::Execution)))
    }

    /// Puts them into what is asked of a vCPU.
    pub fn apply(&self, wanted: &mut GuestDebug) {
        for (number, point) in self.0.iter().enumerate() {
            let Some(point) = point else { continue };
            wanted.addresses[number] = point.address;
            // G0 to G3: global enable, so that no task switch clears it.
            wanted.dr7 |= 2 << (2 * number) | (point.kind() | point.length() << 2) << (16 + 4 * number);
        }
    }

    /// The one that DR6 says was met: the lowest, where several were.
    pub fn met(&self, dr6: u64) -> Option<Point> {
        (0..DEBUG_ADDRESSES).find(|number| dr6 >> number & 1 != 0).and_then(|number| self.0[number])
    }

    /// Whether one of them waits for this.
    pub fn contains(&self, point: Point) -> bool {
        self.0.contains(&Some(point))
    }

    /// Whether a hardware breakpoint stands at this linear address.
    pub fn breaks_at(&self, address: u64) -> bool {
        self.contains(Point { address, access: Access::Execution })
    }
}

impl Point {
    /// R/Wn of DR7. The processor has no kind for reads alone: gdb sorts the writes out by the value.
    fn kind(self) -> u64 {
        match self.access {
            Access::Execution => 0b00,
            Access::Data(WatchKind::Write, _) => 0b01,
            Access::Data(WatchKind::Read | WatchKind::ReadWrite, _) => 0b11,
        }
    }

    /// LENn of DR7.
    fn length(self) -> u64 {
        match self.access {
            Access::Data(_, 2) => 0b01,
            Access::Data(_, 4) => 0b11,
            Access::Data(_, 8) => 0b10,
            Access::Execution | Access::Data(..) => 0b00,
        }
    }
}

/// Whether DR6 tells of a debug register that DR7 has enabled: the processor may note others, too.
pub fn is_met(dr6: u64, dr7: u64) -> bool {
    (0..DEBUG_ADDRESSES).any(|number| dr6 >> number & 1 != 0 && dr7 >> (2 * number) & 0b11 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dr7_has_kind_and_length_of_each() {
        let mut registers = DebugRegisters::default();
        let point = |address, access| Point { address, access };
        assert!(registers.insert(point(0x1001, Access::Execution)));
        assert!(registers.insert(point(0x2000, Access::Data(WatchKind::Write, 8))));
        assert!(registers.insert(point(0x3004, Access::Data(WatchKind::ReadWrite, 4))));
        let mut wanted = GuestDebug::default();
        registers.apply(&mut wanted);
        assert_eq!(wanted.addresses, [0x1001, 0x2000, 0x3004, 0]);
        assert_eq!(wanted.dr7, 0b10_1010 | 0b1111_1001_0000 << 16);
        assert_eq!(registers.met(0xffff_0ff4).unwrap().address, 0x3004);
        assert_eq!(registers.met(0xffff_4ff0), None);
        assert!(is_met(0xffff_0ff4, wanted.dr7) && !is_met(0xffff_4ff8, wanted.dr7) && !is_met(4, 0));
        assert!(registers.breaks_at(0x1001) && !registers.breaks_at(0x2000));
        let watchpoints = registers.watchpoints();
        assert!(!watchpoints.breaks_at(0x1001) && watchpoints.met(0xffff_0ff4) == registers.met(0xffff_0ff4));
    }

    #[test]
    fn there_are_four_and_some_things_they_cannot_hold() {
        let mut registers = DebugRegisters::default();
        let write = |address, length| Point { address, access: Access::Data(WatchKind::Write, length) };
        for (address, length) in [(0x1001, 2), (0x1004, 8), (0, 3), (0, 16), (0, 0)] {
            assert!(!registers.insert(write(address, length)), "{length} bytes at {address:#x}");
        }
        assert!((0..4).all(|address| registers.insert(write(address, 1))));
        assert!(!registers.insert(write(4, 1)));
        assert!(registers.with([5].into_iter()).is_none());
        assert!(registers.remove(write(2, 1)) && registers.with([5].into_iter()).is_some_and(|all| all.breaks_at(5)));
        assert!(!registers.breaks_at(5) && !registers.remove(write(2, 1)) && registers.insert(write(4, 1)));
    }
}
