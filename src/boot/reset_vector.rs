//! What stands where a BIOS would begin: nine bytes that reset the machine.
//!
//! Real-mode programs restart a PC by a jump to F000:FFF0, and so does Linux where ACPI is hardware-reduced and there is no
//! EFI, whatever the FADT says of a reset register (Linux arch/x86/kernel/reboot.c, `efi_reboot_required`; realmode/rm/
//! reboot.S). Source: Intel SDM vol. 3A §10.1.4 (first instruction executed).

use crate::arch::layout::{ACPI_END, ACPI_TABLES, PORT_ACPI_RESET};

/// Linear address of F000:FFF0.
pub const RESET_VECTOR: u64 = 0xf_fff0;

const _: () = assert!(ACPI_TABLES < RESET_VECTOR && RESET_VECTOR + CODE.len() as u64 <= ACPI_END);

/// 16-bit code: writes 1, the FADT's RESET_VALUE, to the reset register.
pub const CODE: [u8; 9] = {
    let [low, high] = PORT_ACPI_RESET.to_le_bytes();
    [
        0xb0, 0x01, // mov al, 1
        0xba, low, high, // mov dx, PORT_ACPI_RESET
        0xee, // out dx, al
        0xf4, // hlt
        0xeb, 0xfd, // jmp to the hlt
    ]
};

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

    #[test]
    fn the_code_resets_and_never_runs_on() {
        let decoder = Decoder::with_ip(16, &CODE, 0xfff0, DecoderOptions::NONE);
        let text: Vec<String> = decoder
            .into_iter()
            .map(|instruction| {
                let mut text = String::new();
                IntelFormatter::new().format(&instruction, &mut text);
                text
            })
            .collect();
        assert_eq!(text, ["mov al,1", "mov dx,602h", "out dx,al", "hlt", "jmp short 0FFF6h"]);
    }
}
