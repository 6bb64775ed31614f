//! Instructions: how long they are, and which operands they name.
//!
//! The tables hold the one-byte opcodes, those after 0x0f and the lengths of those after 0x0f 0x38 and 0x0f 0x3a. Left out: VEX,
//! EVEX and 16-bit addresses, which a kernel without vector registers has no use for; they decode to `None`.
//! Source: Intel SDM vol. 2 §2.1, §2.2.1 (formats, REX), tables 2-2 and 2-3 (ModRM, SIB), appendix A (opcode maps).

use core::mem::MaybeUninit;
use core::ptr::addr_of_mut;

use guest::interrupt::Frame;

/// Longest instruction that there is.
pub const LONGEST: usize = 15;

/// An instruction, taken apart.
pub struct Instruction {
    /// Bytes of it.
    pub length: u64,
    /// One byte; `0x0f00` and up: after 0x0f; `0x3800`, `0x3a00` and up: after two.
    pub opcode: u16,
    /// Bytes of its operands: 2, 4 or 8. Instructions on bytes are told by their opcode.
    pub size: u8,
    /// 0xf2 or 0xf3, or 0.
    pub repeat: u8,
    /// 0x64 for FS, 0x65 for GS, or 0: the others have the base 0.
    pub segment: u8,
    pub modrm: u8,
    pub immediate: u64,
    rex: u8,
    sib: u8,
    displacement: u64,
    narrow_address: bool,
}

/// Room for the instruction that trapped, and for the one that the scan looks at: on the stack they would be cleared by vector registers.
pub const TRAPPED: usize = 0;
pub const SCANNED: usize = 1;

/// One of the two rooms.
pub fn room(index: usize) -> &'static mut Instruction {
    static mut ROOM: MaybeUninit<[Instruction; 2]> = MaybeUninit::zeroed();
    // SAFETY: all zeros are an instruction; one trap and one scan at a time, with interrupts off.
    unsafe { &mut (*addr_of_mut!(ROOM).cast::<[Instruction; 2]>())[index] }
}

/// Bits of REX: 64-bit operands; what the numbers of the register, of the index and of the base or other register begin with.
const REX_W: u8 = 1 << 3;
const REX_R: u8 = 1 << 2;
const REX_X: u8 = 1 << 1;
const REX_B: u8 = 1 << 0;

/// Numbers of registers.
pub const RAX: u8 = 0;
pub const RCX: u8 = 1;
pub const RDX: u8 = 2;
pub const RBX: u8 = 3;
const RSP: u8 = 4;
pub const RSI: u8 = 6;
pub const RDI: u8 = 7;
pub const R11: u8 = 11;
/// Where [`Frame::registers`] has the register with a number. RSP is elsewhere.
static SLOTS: [u8; 16] = [14, 12, 11, 13, 0, 8, 10, 9, 7, 6, 5, 4, 3, 2, 1, 0];

/// The register with a number, whole.
pub fn register(frame: &mut Frame, number: u8) -> &mut u64 {
    match number {
        RSP => &mut frame.rsp,
        _ => &mut frame.registers[usize::from(SLOTS[usize::from(number & 15)])],
    }
}

/// Writes the low `size` bytes of a register; four of them clear the rest (Intel SDM vol. 1 §3.4.1.1).
pub fn set_register(frame: &mut Frame, number: u8, size: u8, value: u64) {
    let register = register(frame, number);
    *register = match size {
        1 => *register & !0xff | value & 0xff,
        2 => *register & !0xffff | value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    };
}

/// The next byte.
fn byte(bytes: &[u8], at: &mut usize) -> Option<u8> {
    *at += 1;
    bytes.get(*at - 1).copied()
}

/// The next number of `size` bytes, its sign extended.
fn number(bytes: &[u8], at: &mut usize, size: u8) -> Option<u64> {
    let (mut value, mut shift) = (0, 0);
    while shift < u32::from(size) * 8 {
        value |= u64::from(byte(bytes, at)?) << shift;
        shift += 8;
    }
    let unused = (64 - shift) & 63;
    Some(((value << unused) as i64 >> unused) as u64)
}

impl Instruction {
    /// Takes the instruction apart that `bytes` begin with; `long`: as 64-bit code, otherwise as 32-bit code. `None`: it is
    /// incomplete or not in the tables.
    pub fn decode(&mut self, bytes: &[u8], long: bool) -> Option<()> {
        let at = &mut 0;
        let mut opcode = self.prefixes(bytes, at, long)?;
        let mut map = 0;
        if opcode == 0x0f {
            (map, opcode) = (0x0f00, byte(bytes, at)?);
            if opcode == 0x38 || opcode == 0x3a {
                (map, opcode) = (u16::from(opcode) << 8, byte(bytes, at)?);
            }
        } else if matches!(opcode, 0x62 | 0xc4 | 0xc5) {
            return None;
        }
        self.opcode = map | u16::from(opcode);
        self.modrm = 0;
        if has_modrm(self.opcode) {
            self.operand(bytes, at, long)?;
        }
        // PUSHF, POPF, near calls and jumps: 64 bits in 64-bit code without being told.
        let is_long = matches!(self.opcode, 0x9c | 0x9d) || self.opcode == 0xff && matches!(self.reg(), 2 | 4);
        if long && is_long && self.size == 4 {
            self.size = 8;
        }
        self.immediate = number(bytes, at, self.immediate_bytes(long))?;
        self.length = *at as u64;
        Some(())
    }

    /// The prefixes, and the first byte of the opcode.
    fn prefixes(&mut self, bytes: &[u8], at: &mut usize, long: bool) -> Option<u8> {
        (self.rex, self.repeat, self.segment, self.size, self.narrow_address) = (0, 0, 0, 4, false);
        loop {
            match byte(bytes, at)? {
                0x66 => self.size = 2,
                0x67 if long => self.narrow_address = true,
                0x67 => return None,
                repeat @ (0xf2 | 0xf3) => self.repeat = repeat,
                segment @ (0x64 | 0x65) => self.segment = segment,
                0x26 | 0x2e | 0x36 | 0x3e | 0xf0 => {}
                rex @ 0x40..=0x4f if long => {
                    self.rex = rex;
                    self.size = if rex & REX_W != 0 { 8 } else { self.size };
                    return byte(bytes, at);
                }
                opcode => return Some(opcode),
            }
        }
    }

    /// ModRM, SIB and displacement.
    fn operand(&mut self, bytes: &[u8], at: &mut usize, long: bool) -> Option<()> {
        self.modrm = byte(bytes, at)?;
        let (form, base) = (self.modrm >> 6, self.modrm & 7);
        // Moves of control registers know no memory operand, whatever the form says.
        if form == 3 || matches!(self.opcode, 0x0f20..=0x0f23) {
            return Some(());
        }
        self.sib = if base == 4 { byte(bytes, at)? } else { base };
        let size = if form == 0 && self.sib & 7 == 5 { 4 } else { [0, 1, 4][usize::from(form)] };
        self.displacement = number(bytes, at, size)?;
        if !long {
            self.displacement &= 0xffff_ffff;
        }
        Some(())
    }

    /// Bytes of the immediate operand.
    fn immediate_bytes(&self, long: bool) -> u8 {
        let word = self.size.min(4);
        match self.opcode {
            0x00..=0x3f if self.opcode & 7 == 4 => 1,
            0x00..=0x3f if self.opcode & 7 == 5 => word,
            0x68 | 0x69 | 0x81 | 0xa9 | 0xc7 => word,
            0xe8 | 0xe9 | 0x0f80..=0x0f8f => 4,
            0x6a | 0x6b | 0x70..=0x7f | 0x80 | 0x82 | 0x83 | 0xa8 | 0xb0..=0xb7 | 0xc0 | 0xc1 | 0xc6 | 0xcd => 1,
            0xd4 | 0xd5 | 0xe0..=0xe7 | 0xeb => 1,
            0xb8..=0xbf => self.size,
            0xf6 if self.reg() < 2 => 1,
            0xf7 if self.reg() < 2 => word,
            0xa0..=0xa3 if long && !self.narrow_address => 8,
            0xa0..=0xa3 => 4,
            0xc2 | 0xca => 2,
            0xc8 => 3,
            0x9a | 0xea => word + 2,
            0x0f70..=0x0f73 | 0x0fa4 | 0x0fac | 0x0fba | 0x0fc2 | 0x0fc4..=0x0fc6 | 0x3a00..=0x3aff => 1,
            _ => 0,
        }
    }

    /// The register operand of ModRM, or what extends the opcode, without REX.
    pub fn reg(&self) -> u8 {
        self.modrm >> 3 & 7
    }

    /// The number of the register operand.
    pub fn register(&self) -> u8 {
        self.reg() | if self.rex & REX_R != 0 { 8 } else { 0 }
    }

    /// The number of the other register, where [`names_memory`](Self::names_memory) is false.
    pub fn other(&self) -> u8 {
        self.modrm & 7 | if self.rex & REX_B != 0 { 8 } else { 0 }
    }

    /// Whether ModRM names memory and not a second register.
    pub fn names_memory(&self) -> bool {
        self.modrm >> 6 != 3
    }

    /// The register of a byte operation and where in it the byte is: without REX the numbers 4 to 7 are second bytes.
    pub fn byte_register(&self) -> (u8, u32) {
        match self.register() {
            number @ 4..=7 if self.rex == 0 => (number - 4, 8),
            number => (number, 0),
        }
    }

    /// The offset of the memory operand, without a segment's base.
    pub fn offset(&self, frame: &mut Frame, long: bool) -> u64 {
        let form = self.modrm >> 6;
        let mut offset = self.displacement;
        if form == 0 && self.sib & 7 == 5 {
            if self.modrm & 7 == 5 && long {
                offset = offset.wrapping_add(frame.rip).wrapping_add(self.length);
            }
        } else {
            let base = self.sib & 7 | if self.rex & REX_B != 0 { 8 } else { 0 };
            offset = offset.wrapping_add(*register(frame, base));
        }
        if self.modrm & 7 == 4 {
            let index = self.sib >> 3 & 7 | if self.rex & REX_X != 0 { 8 } else { 0 };
            if index != RSP {
                offset = offset.wrapping_add(*register(frame, index) << (self.sib >> 6));
            }
        }
        if long && !self.narrow_address { offset } else { offset & 0xffff_ffff }
    }
}

/// Whether a ModRM byte follows the opcode.
fn has_modrm(opcode: u16) -> bool {
    match opcode {
        0x00..=0x3f => opcode & 7 < 4,
        0x62 | 0x63 | 0x69 | 0x6b | 0x80..=0x8f | 0xc0 | 0xc1 | 0xc6 | 0xc7 | 0xd0..=0xd3 | 0xd8..=0xdf => true,
        0xf6 | 0xf7 | 0xfe | 0xff => true,
        0x0f05..=0x0f0b | 0x0f30..=0x0f37 | 0x0f77 | 0x0f80..=0x0f8f | 0x0fa0..=0x0fa2 | 0x0fa8..=0x0faa => false,
        0x0fc8..=0x0fcf => false,
        _ => opcode >= 0x0f00,
    }
}
