//! Segment registers and their descriptors.
//!
//! Source: Intel SDM vol. 3A §3.4.5 (descriptor format), §3.4.5.1 (types), §8.2.3 (64-bit TSS).

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Linear base address.
    pub base: u64,
    /// Last valid offset, in bytes (already scaled by the granularity).
    pub limit: u32,
    /// Visible selector.
    pub selector: u16,
    /// Type field, 4 bits.
    pub kind: u8,
    /// Code or data (true), or system segment (false).
    pub code_or_data: bool,
    /// Descriptor privilege level.
    pub dpl: u8,
    /// Present.
    pub present: bool,
    /// 64-bit code.
    pub long: bool,
    /// 32-bit default operand size.
    pub default_32: bool,
    /// Limit counts 4 KiB units.
    pub granular: bool,
}

/// Type: code, execute and read, accessed.
const TYPE_CODE: u8 = 0b1011;
/// Type: data, read and write, accessed.
const TYPE_DATA: u8 = 0b0011;
/// Type: 32 or 64-bit TSS, busy.
const TYPE_TSS_BUSY: u8 = 0b1011;

impl Segment {
    /// Real-mode segment: base is selector × 16, 64 KiB.
    pub const fn real_mode(selector: u16, code: bool) -> Segment {
        Segment {
            base: (selector as u64) << 4,
            limit: 0xffff,
            selector,
            kind: if code { TYPE_CODE } else { TYPE_DATA },
            code_or_data: true,
            dpl: 0,
            present: true,
            long: false,
            default_32: false,
            granular: false,
        }
    }

    /// Flat 4 GiB ring-0 code segment for 32-bit (`long` false) or 64-bit code.
    pub const fn flat_code(selector: u16, long: bool) -> Segment {
        Segment { kind: TYPE_CODE, long, default_32: !long, ..Segment::flat_data(selector) }
    }

    /// Flat 4 GiB ring-0 data segment.
    pub const fn flat_data(selector: u16) -> Segment {
        Segment {
            base: 0,
            limit: u32::MAX,
            selector,
            kind: TYPE_DATA,
            code_or_data: true,
            dpl: 0,
            present: true,
            long: false,
            default_32: true,
            granular: true,
        }
    }

    /// Busy TSS at address 0 with the smallest legal limit, which VMX wants in TR at entry
    /// (Intel SDM vol. 3C §27.3.1.2).
    pub const fn task_state(selector: u16) -> Segment {
        Segment {
            base: 0,
            limit: 0x67,
            selector,
            kind: TYPE_TSS_BUSY,
            code_or_data: false,
            dpl: 0,
            present: true,
            long: false,
            default_32: false,
            granular: false,
        }
    }

    /// The 8-byte descriptor of this segment, as it stands in a GDT.
    pub const fn descriptor(&self) -> u64 {
        let limit = if self.granular { self.limit >> 12 } else { self.limit } as u64;
        let access =
            self.kind as u64 | (self.code_or_data as u64) << 4 | (self.dpl as u64) << 5 | (self.present as u64) << 7;
        let flags = (self.long as u64) << 1 | (self.default_32 as u64) << 2 | (self.granular as u64) << 3;
        (limit & 0xffff)
            | (self.base & 0xff_ffff) << 16
            | access << 40
            | ((limit >> 16) & 0xf) << 48
            | flags << 52
            | (self.base >> 24 & 0xff) << 56
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_match_the_manual() {
        assert_eq!(Segment::flat_code(0x10, true).descriptor(), 0x00af_9b00_0000_ffff);
        assert_eq!(Segment::flat_code(0x10, false).descriptor(), 0x00cf_9b00_0000_ffff);
        assert_eq!(Segment::flat_data(0x18).descriptor(), 0x00cf_9300_0000_ffff);
        assert_eq!(Segment::task_state(0x20).descriptor(), 0x0000_8b00_0000_0067);
    }

    #[test]
    fn a_real_mode_base_is_the_selector_times_16() {
        assert_eq!(Segment::real_mode(0x1234, true).base, 0x12340);
    }
}
