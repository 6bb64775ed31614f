//! What ring 0 has for events in 64-bit mode: interrupt gates, and the task state segment with its stacks.
//!
//! Source: Intel SDM vol. 3A §6.14.1 (64-bit IDT), §8.7 (64-bit TSS), §8.2.3 (TSS descriptor), vol. 1 §19.5.2 (I/O permission bitmap).

use super::segment::Segment;

/// Bytes of a 64-bit TSS before its I/O permission bitmap.
const TSS_HEAD: usize = 104;
/// Ports that the bitmap tells of: those below, which OUT can name in one byte.
const PORTS: usize = 256;
/// Bytes of a TSS with its bitmap, and the byte of ones behind that.
pub const TSS_SIZE: usize = TSS_HEAD + PORTS / 8 + 1;

/// Present, and an interrupt gate: entered with interrupts off.
const INTERRUPT_GATE: u64 = 0x8e;

/// A gate of the IDT to `handler` in ring 0's code segment `selector`, on the stack with this number of the TSS's interrupt stack table,
/// or, for 0, on that of the privilege level. Only the processor goes through it: INT from ring 3 is #GP.
pub const fn interrupt_gate(handler: u64, selector: u16, stack: u8) -> [u64; 2] {
    let low = handler & 0xffff | (selector as u64) << 16 | (stack as u64) << 32;
    [low | INTERRUPT_GATE << 40 | (handler >> 16 & 0xffff) << 48, handler >> 32]
}

/// A TSS whose stacks, ring 0's and number 1 of the interrupt stack table, end at `stack`. Ring 3 may use `ports`, each below 256, whatever RFLAGS.IOPL is.
pub fn task_state(stack: u64, ports: &[u16]) -> [u8; TSS_SIZE] {
    let mut tss = [0; TSS_SIZE];
    tss[4..12].copy_from_slice(&stack.to_le_bytes());
    tss[36..44].copy_from_slice(&stack.to_le_bytes());
    tss[102..104].copy_from_slice(&(TSS_HEAD as u16).to_le_bytes());
    tss[TSS_HEAD..].fill(0xff);
    for port in ports {
        tss[TSS_HEAD + usize::from(port / 8)] &= !(1 << (port % 8));
    }
    tss
}

/// The 16 bytes in the GDT of a TSS at `segment.base`.
pub const fn task_descriptor(segment: &Segment) -> [u64; 2] {
    [segment.descriptor(), segment.base >> 32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_leads_to_its_handler() {
        assert_eq!(interrupt_gate(0x1122_3344_5566_7788, 8, 1), [0x5566_8e01_0008_7788, 0x1122_3344]);
    }

    #[test]
    fn a_tss_has_its_stack_and_its_ports() {
        let tss = task_state(0x8000, &[0xf0, 0xf2, 7]);
        assert_eq!((tss[5], tss[37], tss[102]), (0x80, 0x80, 104));
        assert_eq!((tss[104], tss[105], tss[104 + 0x1e], tss[136], tss.len()), (0x7f, 0xff, 0xfa, 0xff, 137));
        let segment = Segment { base: 0x1_2345_6000, ..Segment::task_state(0x28) };
        assert_eq!(task_descriptor(&segment), [0x2300_8b45_6000_0067, 1]);
    }
}
