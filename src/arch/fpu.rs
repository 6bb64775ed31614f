//! The x87 and SSE registers, as a debugger shows and sets them.
//!
//! Leaves out AVX and what else only XSAVE reaches. Source: Intel SDM vol. 1 §8.1 (x87), §10.2 (SSE).

/// x87 and SSE registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the manual's own names")]
pub struct FpuState {
    /// ST(0) to ST(7), 80 bits each.
    pub st: [[u8; 10]; 8],
    pub control: u16,
    pub status: u16,
    /// One bit a register: it holds something (the abridged form of FXSAVE).
    pub tags: u8,
    pub last_opcode: u16,
    pub last_instruction: u64,
    pub last_operand: u64,
    pub xmm: [u128; 16],
    pub mxcsr: u32,
}
