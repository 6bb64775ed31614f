//! One guest instruction as text: Intel syntax, with its bytes.

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter};

/// Longest x86 instruction (Intel SDM vol. 2A §2.3.11).
pub const INSTRUCTION_BYTES_MAX: usize = 15;

/// The instruction at `rip` for code of `bits` bits (16, 32 or 64), and how many of `bytes` it has. `None` if they are no
/// instruction, or not all of one.
pub fn decode(bits: u32, rip: u64, bytes: &[u8]) -> Option<(String, usize)> {
    let instruction = Decoder::with_ip(bits, bytes, rip, DecoderOptions::NONE).decode();
    if instruction.is_invalid() {
        return None;
    }
    Some((text(&instruction), instruction.len()))
}

/// An instruction as text.
pub fn text(instruction: &Instruction) -> String {
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_space_after_operand_separator(true);
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    let mut text = String::new();
    formatter.format(instruction, &mut text);
    text
}

/// Bytes in hexadecimal: "0f 22 d8".
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// The instruction that begins with `bytes`, with its bytes in hexadecimal: "mov cr3, rax   (0f 22 d8)".
pub fn describe(bits: u32, rip: u64, bytes: &[u8]) -> String {
    match decode(bits, rip, bytes) {
        Some((text, length)) => format!("{text}   ({})", hex(&bytes[..length])),
        None if bytes.is_empty() => "not readable".to_owned(),
        None => format!("no instruction   ({})", hex(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_decoded_by_the_width_of_the_code() {
        assert_eq!(describe(64, 0x1000, &[0x0f, 0x22, 0xd8, 0x90]), "mov cr3, rax   (0f 22 d8)");
        assert_eq!(describe(16, 0x7c00, &[0xeb, 0xfe]), "jmp short 0x7c00   (eb fe)");
        assert_eq!(describe(32, 0, &[0xb8, 0x78, 0x56, 0x34, 0x12]), "mov eax, 0x12345678   (b8 78 56 34 12)");
        assert_eq!(describe(64, 0, &[0x48, 0x8b, 0x47, 0x08]), "mov rax, [rdi+8]   (48 8b 47 08)");
    }

    #[test]
    fn what_is_no_instruction_is_shown_as_bytes() {
        assert_eq!(describe(64, 0, &[0x0f, 0xff]), "no instruction   (0f ff)");
        assert_eq!(describe(64, 0, &[0x48]), "no instruction   (48)");
        assert_eq!(describe(64, 0, &[]), "not readable");
        for byte in 0..=255 {
            for bits in [16, 32, 64] {
                describe(bits, u64::MAX, &[byte; INSTRUCTION_BYTES_MAX]);
            }
        }
    }
}
