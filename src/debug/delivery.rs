//! Why an exception's handler cannot be entered: the way from the IDT's gate to the stack and the handler, step by step.
//!
//! Leaves out task gates, limits of segments, and stacks of 32-bit changes of privilege.
//! Sources: Intel SDM vol. 3A §6.3.1 (vectors), §6.10 (IDT), §6.11 (IDT descriptors), §6.14.4 and §6.14.5 (stacks in 64-bit
//! mode), §8.7 (64-bit TSS), §21.1.4 (real-address mode).

use super::mapping::{self, Access};
use crate::arch::cpu_state::{CR0_PE, CpuState, EFER_LMA};
use crate::arch::paging::read_linear;

/// Vector of the double fault.
pub const DOUBLE_FAULT: u8 = 8;

/// Names of the exceptions by vector.
const NAMES: [&str; 22] = [
    "#DE",
    "#DB",
    "NMI",
    "#BP",
    "#OF",
    "#BR",
    "#UD",
    "#NM",
    "#DF",
    "vector 9",
    "#TS",
    "#NP",
    "#SS",
    "#GP",
    "#PF",
    "vector 15",
    "#MF",
    "#AC",
    "#MC",
    "#XM",
    "#VE",
    "#CP",
];

/// Name of the exception with `vector`.
pub fn name(vector: u8) -> String {
    NAMES.get(usize::from(vector)).map_or_else(|| format!("interrupt {vector:#x}"), |name| (*name).to_owned())
}

/// What keeps the vCPU in `state` from entering the handler of `vector`; `None` if nothing is seen.
pub fn obstacle(state: &CpuState, vector: u8, read: mapping::Read) -> Option<String> {
    let name = name(vector);
    let long = state.efer & EFER_LMA != 0;
    let protected = state.cr0 & CR0_PE != 0;
    let size: u64 = match (protected, long) {
        (false, _) => 4,
        (true, false) => 8,
        (true, true) => 16,
    };
    let (base, limit) = (state.idt.base, state.idt.limit);
    if u64::from(vector) * size + size - 1 > u64::from(limit) {
        return Some(format!("there is no handler: the IDT's limit {limit:#x} has no room for {name}"));
    }
    if !protected {
        return None;
    }
    let at = base.wrapping_add(u64::from(vector) * size);
    if let Some(fault) = mapping::fault(state, at, Access::Read, 0, read) {
        return Some(format!("the IDT cannot be read: {}", fault.why));
    }
    let mut gate = [0; 16];
    let gate = &mut gate[..size as usize];
    if read_linear(state, at, gate, read) < gate.len() {
        return Some(format!("the IDT at {base:#x} is not in RAM"));
    }
    let gate = Gate::of(gate);
    if gate.is_empty {
        return Some(format!("there is no handler: {name}'s gate in the IDT at {base:#x} is empty"));
    }
    if !gate.is_present {
        return Some(format!("{name}'s gate in the IDT is not present"));
    }
    if !matches!(gate.kind, 0xe | 0xf) && (long || !matches!(gate.kind, 6 | 7)) {
        return Some(format!("{name}'s gate in the IDT is no interrupt or trap gate but of type {:#x}", gate.kind));
    }
    if u32::from(gate.selector | 7) > u32::from(state.gdt.limit) || gate.selector & !3 == 0 {
        return Some(format!("{name}'s gate names the code segment {:#x}, which the GDT has not", gate.selector));
    }
    if let Some(fault) = mapping::fault(state, gate.offset, Access::Fetch, 0, read) {
        return Some(format!("{name}'s handler cannot be executed: {}", fault.why));
    }
    stack(state, &gate, long, read).map(|why| format!("pushing the frame of {name} failed: {why}"))
}

/// What keeps the frame from being pushed.
fn stack(state: &CpuState, gate: &Gate, long: bool, read: mapping::Read) -> Option<String> {
    // 64-bit TSS: RSP0 at 4, IST1 at 0x24.
    let from_task_state = match (long, gate.ist) {
        (true, 0) if state.ss.dpl == 3 => Some(4),
        (true, 0) | (false, _) => None,
        (true, ist) => Some(0x1c + u64::from(ist) * 8),
    };
    let top = match from_task_state {
        Some(offset) => {
            let at = state.tr.base.wrapping_add(offset);
            let mut word = [0; 8];
            if read_linear(state, at, &mut word, read) < word.len() {
                return Some(format!("the TSS at {:#x}, which names its stack, cannot be read", state.tr.base));
            }
            u64::from_le_bytes(word)
        }
        None if long => state.regs.rsp,
        // The stack of a 32-bit change of privilege is not looked for.
        None if state.ss.dpl == 3 => return None,
        None => state.ss.base.wrapping_add(state.regs.rsp) & 0xffff_ffff,
    };
    let pushed = if long { (top & !0xf).wrapping_sub(8) } else { top.wrapping_sub(4) & 0xffff_ffff };
    let fault = mapping::fault(state, pushed, Access::Write, 0, read)?;
    Some(format!("the stack at {}", fault.why))
}

/// A gate of the IDT.
struct Gate {
    is_empty: bool,
    is_present: bool,
    kind: u8,
    selector: u16,
    offset: u64,
    /// Stack of the TSS's table to change to; 0 for none.
    ist: u8,
}

impl Gate {
    /// The gate in these 8 or 16 bytes.
    fn of(bytes: &[u8]) -> Gate {
        let number = |from: usize, to: usize| {
            let bytes = bytes.get(from..to).unwrap_or_default();
            bytes.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
        };
        Gate {
            is_empty: bytes.iter().all(|byte| *byte == 0),
            is_present: bytes[5] & 0x80 != 0,
            kind: bytes[5] & 0xf,
            selector: number(2, 4) as u16,
            offset: number(0, 2) | number(6, 8) << 16 | number(8, 12) << 32,
            ist: if bytes.len() == 16 { bytes[4] & 7 } else { 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::cpu_state::TableRegister;
    use crate::arch::layout::BOOT_PML4;
    use crate::arch::paging::identity_map;

    /// The identity map of 4 GiB, and `words` from 2 MiB on.
    fn read(words: &[u64]) -> impl FnMut(u64) -> Option<u64> {
        let tables = identity_map(BOOT_PML4);
        move |gpa| match gpa.checked_sub(BOOT_PML4).and_then(|at| tables.as_flattened().get(at as usize / 8)) {
            Some(entry) => Some(*entry),
            None => (0x20_0000..0x30_0000)
                .contains(&gpa)
                .then(|| words.get((gpa as usize - 0x20_0000) / 8).copied().unwrap_or(0)),
        }
    }

    /// A present interrupt gate to `offset` in the boot code segment.
    fn gate(offset: u64, ist: u64) -> [u64; 2] {
        [(offset & 0xffff) | 0x10 << 16 | ist << 32 | 0x8e << 40 | (offset >> 16 & 0xffff) << 48, offset >> 32]
    }

    fn state() -> CpuState {
        CpuState { idt: TableRegister { base: 0x20_0000, limit: 0xfff }, ..CpuState::long_mode(0x10_0000) }
    }

    fn told(state: &CpuState, first_gate: [u64; 2]) -> String {
        obstacle(state, 0, &mut read(&first_gate)).unwrap_or_default()
    }

    #[test]
    fn each_step_to_the_handler_can_be_the_one_that_fails() {
        let good = gate(0x10_0000, 0);
        assert_eq!(told(&state(), good), "");
        let mut no_idt = state();
        no_idt.idt.limit = 14;
        assert_eq!(told(&no_idt, good), "there is no handler: the IDT's limit 0xe has no room for #DE");
        no_idt.idt = TableRegister { base: 1 << 40, limit: 0xfff };
        assert!(told(&no_idt, good).starts_with("the IDT cannot be read: 0x10000000000 is not mapped (its PML4 entry"));
        no_idt.idt.base = 0x8000_0000;
        assert_eq!(told(&no_idt, good), "the IDT at 0x80000000 is not in RAM");
        assert_eq!(told(&state(), [0, 0]), "there is no handler: #DE's gate in the IDT at 0x200000 is empty");
        assert_eq!(told(&state(), [1, 0]), "#DE's gate in the IDT is not present");
        let call_gate = [good[0] & !(0xf << 40) | 0xc << 40, 0];
        assert_eq!(told(&state(), call_gate), "#DE's gate in the IDT is no interrupt or trap gate but of type 0xc");
        let far = [good[0] & !(0xffff << 16) | 0x38 << 16, 0];
        assert_eq!(told(&state(), far), "#DE's gate names the code segment 0x38, which the GDT has not");
        assert!(
            told(&state(), gate(1 << 40, 0))
                .starts_with("#DE's handler cannot be executed: 0x10000000000 is not mapped")
        );
    }

    #[test]
    fn the_stack_is_that_of_the_gate() {
        let mut bad = state();
        bad.regs.rsp = 0;
        let why = "pushing the frame of #DE failed: the stack at 0xfffffffffffffff8 is not mapped";
        assert!(told(&bad, gate(0x10_0000, 0)).starts_with(why));
        assert_eq!(told(&CpuState { tr: at(0x20_1000), ..bad }, gate(0x10_0000, 1))[..40], why[..40], "IST1 is 0");
        let why = "pushing the frame of #DE failed: the TSS at 0x10000000000, which names its stack, cannot be read";
        assert_eq!(told(&CpuState { tr: at(1 << 40), ..bad }, gate(0x10_0000, 1)), why);
    }

    fn at(base: u64) -> crate::arch::segment::Segment {
        crate::arch::segment::Segment { base, ..crate::arch::segment::Segment::task_state(0) }
    }

    #[test]
    fn modes_have_their_own_gates() {
        let mut real = CpuState::real_mode(0, 0x7c00);
        assert_eq!(obstacle(&real, 6, &mut |_| None), None, "a vector of real mode leads anywhere");
        real.idt.limit = 0x10;
        assert!(obstacle(&real, 6, &mut |_| None).is_some());
        let mut protected = CpuState::protected_mode(0x10_0000);
        protected.idt = TableRegister { base: 0x20_0000, limit: 0x7ff };
        protected.regs.rsp = 0x20_8000;
        assert_eq!(told(&protected, gate(0x10_0000, 0)), "");
        assert_eq!((name(14), name(0x80)), ("#PF".into(), "interrupt 0x80".into()));
    }
}
