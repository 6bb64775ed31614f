//! How a linear address is mapped, in words: each table's entry on the way with its flags, and why an access faults.
//!
//! Leaves out protection keys and the write-protect rules of shadow stacks.
//! Sources: Intel SDM vol. 3A §4.6 (access rights), §4.7 (page-fault exceptions); Intel SDM vol. 1 §3.3.7.1 (canonical addresses).

use crate::arch::cpu_state::{CR0_PG, CR0_WP, CR4_LA57, CR4_SMAP, CR4_SMEP, CpuState, EFER_LMA, EFER_NXE, RFLAGS_AC};
use crate::arch::paging::{ACCESSED, DIRTY, GLOBAL, NO_EXECUTE, PAGE, PRESENT, Step, USER, WRITABLE, Walk, walk};
use std::fmt::Write;

/// Reads a 64-bit word of guest-physical memory; `None` where there is no RAM.
pub type Read<'a> = &'a mut dyn FnMut(u64) -> Option<u64>;

/// What is done with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// An instruction is fetched.
    Fetch,
    /// Data is read.
    Read,
    /// Data is written.
    Write,
}

/// An access that faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Vector of the exception.
    pub vector: u8,
    /// Why: "0x1000 is not mapped (PT entry at 0x5008 is not present)".
    pub why: String,
}

/// Vector of the general-protection exception.
pub const GENERAL_PROTECTION: u8 = 13;
/// Vector of the page fault.
pub const PAGE_FAULT: u8 = 14;

/// Why `access` to the linear address `gva` faults for the vCPU in `state`, which runs in `ring`; `None` if it does not.
pub fn fault(state: &CpuState, gva: u64, access: Access, ring: u8, read: Read) -> Option<Fault> {
    if !is_canonical(state, gva) {
        return Some(Fault { vector: GENERAL_PROTECTION, why: format!("{gva:#x} is no canonical address") });
    }
    if state.cr0 & CR0_PG == 0 {
        return None;
    }
    let walk = walk(state, gva, read);
    let page_fault = |why: String| Some(Fault { vector: PAGE_FAULT, why: format!("{gva:#x} {why}") });
    if walk.gpa.is_none() {
        return page_fault(format!("is not mapped ({})", end(walk.steps.last())));
    }
    let rights = Rights::of(state, &walk.steps);
    let user = ring == 3;
    if user && !rights.user {
        return page_fault("belongs to ring 0, and ring 3 uses it".into());
    }
    match access {
        Access::Fetch if rights.no_execute => page_fault("is mapped as not executable (NX)".into()),
        Access::Fetch if !user && rights.user && state.cr4 & CR4_SMEP != 0 => {
            page_fault("is a user's page, which SMEP keeps ring 0 from executing".into())
        }
        Access::Write if !rights.writable && (user || state.cr0 & CR0_WP != 0) => {
            page_fault("is mapped read-only".into())
        }
        Access::Read | Access::Write
            if !user && rights.user && state.cr4 & CR4_SMAP != 0 && state.regs.rflags & RFLAGS_AC == 0 =>
        {
            page_fault("is a user's page, which SMAP keeps ring 0 from touching".into())
        }
        _ => None,
    }
}

/// The walks of RIP and of the stack's top, a line a table; entries that both pass are told once.
pub fn describe(state: &CpuState, rip: u64, stack: u64, read: Read) -> String {
    let (of_rip, of_stack) = (walk(state, rip, read), walk(state, stack, read));
    let mut text = lead(state, "rip", rip, &of_rip, read);
    text.push_str(&entries(&of_rip.steps));
    text.push_str(&lead(state, "stack", stack, &of_stack, read));
    let same = of_rip.steps.iter().zip(&of_stack.steps).take_while(|(one, other)| one == other).count();
    if let Some(last) = of_stack.steps[..same].last() {
        let then = if same < of_stack.steps.len() { ", then" } else { "" };
        writeln!(text, "    entries as above to the {}{then}", last.table).expect("strings take all");
    }
    text.push_str(&entries(&of_stack.steps[same..]));
    text
}

/// "rip 0x1000 leads to physical 0x5000".
fn lead(state: &CpuState, name: &str, gva: u64, walk: &Walk, read: Read) -> String {
    let target = match walk.gpa {
        Some(gpa) if read(gpa & !7).is_some() => format!("physical {gpa:#x}"),
        Some(gpa) => format!("physical {gpa:#x}, where no RAM is"),
        None => "nothing".to_owned(),
    };
    let how = if state.cr0 & CR0_PG == 0 { ", paging is off" } else { "" };
    format!("  {name} {gva:#x} leads to {target}{how}\n")
}

fn entries(steps: &[Step]) -> String {
    let line = |step: &Step| format!("    {:4} {:#x}: {}\n", step.table, step.entry_gpa, entry(step));
    steps.iter().map(line).collect()
}

/// "0x2063 present, writable, ring 0, accessed, dirty".
fn entry(step: &Step) -> String {
    let Some(entry) = step.entry else { return "not in RAM".to_owned() };
    if entry & PRESENT == 0 {
        return format!("{entry:#x} not present");
    }
    let either = |bit: u64, set: &'static str, clear: &'static str| if entry & bit != 0 { set } else { clear };
    // Bits 6 and 8 of an entry that leads to a table mean nothing.
    let is_page = step.table == "PT" || entry & PAGE != 0;
    let of_page = |bit: u64, word: &'static str| if is_page { either(bit, word, "") } else { "" };
    let words = [
        either(WRITABLE, "writable", "read-only"),
        either(USER, "ring 3 too", "ring 0"),
        either(ACCESSED, "accessed", ""),
        of_page(DIRTY, "dirty"),
        if step.table == "PT" { "" } else { of_page(PAGE, "a page itself") },
        of_page(GLOBAL, "global"),
        either(NO_EXECUTE, "not executable", ""),
    ];
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    format!("{entry:#x} present, {}", words.join(", "))
}

/// Why a walk ended without an address.
fn end(step: Option<&Step>) -> String {
    match step {
        Some(Step { table, entry_gpa, entry: Some(_) }) => {
            format!("its {table} entry at {entry_gpa:#x} is not present")
        }
        Some(Step { table, entry_gpa, entry: None }) => format!("its {table} entry would be at {entry_gpa:#x}, no RAM"),
        None => "no tables".to_owned(),
    }
}

fn is_canonical(state: &CpuState, gva: u64) -> bool {
    if state.efer & EFER_LMA == 0 {
        return true;
    }
    let unused = if state.cr4 & CR4_LA57 != 0 { 7 } else { 16 };
    ((gva << unused) as i64 >> unused) as u64 == gva
}

/// What all the entries of a walk allow together.
struct Rights {
    writable: bool,
    user: bool,
    no_execute: bool,
}

impl Rights {
    fn of(state: &CpuState, steps: &[Step]) -> Rights {
        // The first table of PAE paging has no rights (Intel SDM vol. 3A §4.4.1).
        let has_rights = |step: &&Step| state.efer & EFER_LMA != 0 || step.table != "PDPT";
        let entries = || steps.iter().filter(has_rights).filter_map(|step| step.entry);
        Rights {
            writable: entries().all(|entry| entry & WRITABLE != 0),
            user: entries().all(|entry| entry & USER != 0),
            no_execute: state.efer & EFER_NXE != 0 && entries().any(|entry| entry & NO_EXECUTE != 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::cpu_state::{CR4_PAE, EFER_LME};

    /// PML4 at 0x1000 .. PT at 0x4000, which maps the first pages with these entries.
    fn read(pages: &[u64]) -> impl FnMut(u64) -> Option<u64> {
        move |gpa| match gpa {
            0x1000 | 0x2000 | 0x3000 => Some((gpa + 0x1000) | PRESENT | WRITABLE | USER | DIRTY),
            0x4000..0x5000 => Some(pages.get((gpa as usize - 0x4000) / 8).copied().unwrap_or(0)),
            0x1000..0x5000 => Some(0),
            0x7000..0x8000 => Some(0x9090_9090_9090_9090),
            _ => None,
        }
    }

    fn state(more_cr4: u64) -> CpuState {
        let (cr4, efer) = (CR4_PAE | more_cr4, EFER_LME | EFER_LMA | EFER_NXE);
        CpuState { cr3: 0x1000, cr0: CR0_PG | CR0_WP | 1, cr4, efer, ..CpuState::long_mode(0) }
    }

    const PAGES: [u64; 4] = [
        0x7000 | PRESENT | WRITABLE,
        0x7000 | PRESENT | NO_EXECUTE,
        0x7000 | PRESENT | WRITABLE | USER,
        0xf000_0000 | PRESENT | ACCESSED | DIRTY | GLOBAL,
    ];

    fn why(cr4: u64, gva: u64, access: Access, ring: u8) -> Option<String> {
        fault(&state(cr4), gva, access, ring, &mut read(&PAGES)).map(|fault| fault.why)
    }

    #[test]
    fn accesses_fault_by_the_rights_of_the_tables() {
        let said = |text: &str| Some(text.to_owned());
        assert_eq!(why(0, 0x10, Access::Write, 0), None);
        assert_eq!(why(0, 0x10, Access::Read, 3), said("0x10 belongs to ring 0, and ring 3 uses it"));
        assert_eq!(why(0, 0x1010, Access::Fetch, 0), said("0x1010 is mapped as not executable (NX)"));
        assert_eq!(why(0, 0x1010, Access::Write, 0), said("0x1010 is mapped read-only"));
        assert_eq!(why(0, 0x2010, Access::Fetch, 0), None);
        let smep = "0x2010 is a user's page, which SMEP keeps ring 0 from executing";
        assert_eq!(why(CR4_SMEP, 0x2010, Access::Fetch, 0), said(smep));
        assert!(why(CR4_SMAP, 0x2010, Access::Read, 0).unwrap().contains("SMAP"));
        assert_eq!(why(CR4_SMAP | CR4_SMEP, 0x2010, Access::Read, 3), None);
        assert_eq!(
            why(0, 0x4010, Access::Read, 0),
            said("0x4010 is not mapped (its PT entry at 0x4020 is not present)")
        );
        let lost = fault(&CpuState { cr3: 0xa000, ..state(0) }, 0, Access::Read, 0, &mut read(&PAGES)).unwrap();
        assert_eq!(lost.why, "0x0 is not mapped (its PML4 entry would be at 0xa000, no RAM)");
    }

    #[test]
    fn addresses_that_are_none_raise_general_protection() {
        let fault = fault(&state(0), 1 << 47, Access::Read, 0, &mut read(&PAGES)).unwrap();
        assert_eq!((fault.vector, fault.why.as_str()), (13, "0x800000000000 is no canonical address"));
        assert!(!why(CR4_LA57, u64::MAX << 56, Access::Read, 0).unwrap().contains("canonical"));
        assert!(is_canonical(&CpuState::protected_mode(0), 1 << 47));
    }

    #[test]
    fn a_walk_is_told_entry_by_entry() {
        let text = describe(&state(0), 0x3008, 0x1010, &mut read(&PAGES));
        let expected = "\
\x20 rip 0x3008 leads to physical 0xf0000008, where no RAM is
    PML4 0x1000: 0x2047 present, writable, ring 3 too
    PDPT 0x2000: 0x3047 present, writable, ring 3 too
    PD   0x3000: 0x4047 present, writable, ring 3 too
    PT   0x4018: 0xf0000161 present, read-only, ring 0, accessed, dirty, global
  stack 0x1010 leads to physical 0x7010
    entries as above to the PD, then
    PT   0x4008: 0x8000000000007001 present, read-only, ring 0, not executable
";
        assert_eq!(text, expected);
        let text = describe(&CpuState::protected_mode(0), 0x7000, 0xf000, &mut read(&PAGES));
        let rip = "  rip 0x7000 leads to physical 0x7000, paging is off\n";
        assert_eq!(text, format!("{rip}  stack 0xf000 leads to physical 0xf000, where no RAM is, paging is off\n"));
    }

    #[test]
    fn hostile_tables_are_only_told() {
        for word in [None, Some(0), Some(u64::MAX)] {
            for gva in [0, 1 << 46, u64::MAX] {
                describe(&state(0), gva, !gva, &mut |_| word);
                fault(&state(u64::MAX), gva, Access::Write, 3, &mut |_| word);
            }
        }
    }
}
