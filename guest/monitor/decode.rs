//! Instructions: how long they are, and which operands they name.
//!
//! The tables hold the one-byte opcodes, those after 0x0f and the lengths of those after 0x0f 0x38 and 0x0f 0x3a. Left out: VEX,
//! EVEX and 16-bit addresses, which a kernel without vector registers has no use for; they decode to `None`.
//! Source: Intel SDM vol. 2 §2.1, §2.2.1 (formats, REX), tables 2-2 and 2-3 (ModRM, SIB), appendix A (opcode maps).

use core::slice::Iter;

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
    pub modrm: u8,
    pub immediate: u64,
    /// Its bits, from the highest: 64-bit operands; what the numbers of the register, of the index and of the base or other register
    /// begin with.
    pub rex: u8,
    sib: u8,
    displacement: u64,
    narrow_address: bool,
}

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
    let (register, mask) = (register(frame, number), u64::MAX >> (64 - 8 * size));
    *register = value & mask | if size < 4 { *register & !mask } else { 0 };
}

/// The next number of `size` bytes, its sign extended.
fn number(bytes: &mut Iter<u8>, size: u8) -> Option<u64> {
    let mut value = 0;
    for index in 0..size {
        value |= u64::from(*bytes.next()?) << (8 * index);
    }
    let unused = (64 - 8 * size) & 63;
    Some(((value << unused) as i64 >> unused) as u64)
}

impl Instruction {
    /// Takes the instruction apart that `code` begins with; `long`: as 64-bit code, otherwise as 32-bit code. `None`: it is
    /// incomplete or not in the tables.
    pub fn decode(&mut self, code: &[u8], long: bool) -> Option<()> {
        let bytes = &mut code.iter();
        self.opcode = match self.prefixes(bytes, long)? {
            0x0f => match *bytes.next()? {
                map @ (0x38 | 0x3a) => u16::from(map) << 8 | u16::from(*bytes.next()?),
                opcode => 0x0f00 | u16::from(opcode),
            },
            0x62 | 0x67 | 0xc4 | 0xc5 => return None,
            opcode => opcode.into(),
        };
        self.modrm = if has_modrm(self.opcode) { *bytes.next()? } else { 0xc0 };
        // Moves of control registers know no memory operand, whatever the form says.
        if self.names_memory() && !matches!(self.opcode, 0x0f20..=0x0f23) {
            let (form, base) = (self.modrm >> 6, self.modrm & 7);
            self.sib = if base == 4 { *bytes.next()? } else { base };
            let size = if form == 0 && self.sib & 7 == 5 { 4 } else { [0, 1, 4][usize::from(form)] };
            self.displacement = number(bytes, size)?;
        }
        // PUSHF, POPF, near calls and jumps: 64 bits in 64-bit code without being told.
        let is_long = matches!(self.opcode, 0x9c | 0x9d) || self.opcode == 0xff && matches!(self.reg(), 2 | 4);
        if long && is_long && self.size == 4 {
            self.size = 8;
        }
        self.immediate = number(bytes, self.immediate_bytes(long))?;
        self.length = (code.len() - bytes.len()) as u64;
        Some(())
    }

    /// The prefixes, and the first byte of the opcode.
    fn prefixes(&mut self, bytes: &mut Iter<u8>, long: bool) -> Option<u8> {
        (self.rex, self.repeat, self.size, self.narrow_address) = (0, 0, 4, false);
        loop {
            match *bytes.next()? {
                0x66 => self.size = 2,
                0x67 if long => self.narrow_address = true,
                repeat @ (0xf2 | 0xf3) => self.repeat = repeat,
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf0 => {}
                rex @ 0x40..=0x4f if long => {
                    self.rex = rex;
                    self.size = if rex & 8 != 0 { 8 } else { self.size };
                    return bytes.next().copied();
                }
                opcode => return Some(opcode),
            }
        }
    }

    /// Bytes of the immediate operand.
    fn immediate_bytes(&self, long: bool) -> u8 {
        let word = self.size.min(4);
        match self.opcode {
            0x00..=0x3f if self.opcode & 7 == 4 => 1,
            0x00..=0x3f if self.opcode & 7 == 5 => word,
            0x68 | 0x69 | 0x81 | 0xa9 | 0xc7 => word,
            0xe8 | 0xe9 | 0x0f80..=0x0f8f => 4,
            0x6a | 0x6b | 0x70..=0x80 | 0x82 | 0x83 | 0xa8 | 0xb0..=0xb7 | 0xc0 | 0xc1 | 0xc6 | 0xcd => 1,
            0xd4 | 0xd5 | 0xe0..=0xe7 | 0xeb => 1,
            0xb8..=0xbf => self.size,
            0xf6 | 0xf7 if self.reg() < 2 => {
                if self.opcode == 0xf6 {
                    1
                } else {
                    word
                }
            }
            0xa0..=0xa3 => {
                if long && !self.narrow_address {
                    8
                } else {
                    4
                }
            }
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
        self.reg() | self.rex << 1 & 8
    }

    /// The number of the other register, where [`names_memory`](Self::names_memory) is false.
    pub fn other(&self) -> u8 {
        self.modrm & 7 | self.rex << 3 & 8
    }

    /// Whether ModRM names memory and not a second register.
    pub fn names_memory(&self) -> bool {
        self.modrm >> 6 != 3
    }

    /// The offset of the memory operand.
    pub fn offset(&self, frame: &mut Frame, long: bool) -> u64 {
        let mut offset = self.displacement;
        if self.modrm >> 6 > 0 || self.sib & 7 != 5 {
            offset = offset.wrapping_add(*register(frame, self.sib & 7 | self.rex << 3 & 8));
        } else if self.modrm & 7 == 5 && long {
            offset = offset.wrapping_add(frame.rip).wrapping_add(self.length);
        }
        let index = self.sib >> 3 & 7 | self.rex << 2 & 8;
        if self.modrm & 7 == 4 && index != RSP {
            offset = offset.wrapping_add(*register(frame, index) << (self.sib >> 6));
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
