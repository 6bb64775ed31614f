//! The stubs that imports are bound to: each traps to Hostel with its number.
//!
//! They are those of Windows' own ntdll: RCX, which SYSCALL overwrites, is kept in R10, the number goes into EAX, and the call
//! returns to where it came from. The number is the function's index in the table.
//! Sources: Intel SDM vol. 2B "SYSCALL"; Microsoft "x64 calling convention" (RAX, R10 and R11 are the callee's to use).

use super::functions::FUNCTIONS;

/// Bytes of a stub.
pub const STUB_SIZE: u64 = 16;

/// All stubs, one behind the other.
pub fn stubs() -> Vec<u8> {
    (0..FUNCTIONS.len() as u32).flat_map(stub).collect()
}

fn stub(index: u32) -> [u8; STUB_SIZE as usize] {
    // int3 behind the end: nothing gets there.
    let mut code = [0xcc; STUB_SIZE as usize];
    code[..3].copy_from_slice(&[0x49, 0x89, 0xca]); // mov r10, rcx
    code[3] = 0xb8; // mov eax, index
    code[4..8].copy_from_slice(&index.to_le_bytes());
    code[8..11].copy_from_slice(&[0x0f, 0x05, 0xc3]); // syscall; ret
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};

    #[test]
    fn a_stub_keeps_rcx_and_returns() {
        let code = stub(0x1234);
        let mut decoder = Decoder::new(64, &code, DecoderOptions::NONE);
        let instructions: Vec<_> = (0..4).map(|_| decoder.decode()).collect();
        let mnemonics: Vec<_> = instructions.iter().map(|instruction| instruction.mnemonic()).collect();
        assert_eq!(mnemonics, [Mnemonic::Mov, Mnemonic::Mov, Mnemonic::Syscall, Mnemonic::Ret]);
        assert_eq!(instructions[0].to_string(), "mov r10,rcx");
        assert_eq!(instructions[1].immediate32(), 0x1234);
    }
}
