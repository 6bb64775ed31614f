//! Why a vCPU stopped, in plain words: which exception the instruction at RIP raises, and why its handler cannot be entered.
//!
//! What is said is found out from the registers and memory as they are now; where nothing is certain, nothing is said.
//! Leaves out task gates, segment limits, alignment checks and exceptions of x87 and SSE arithmetic.
//! Source: Intel SDM vol. 2 (each instruction's exceptions), vol. 3A §6.3.1 (vectors).

use super::delivery;
use super::mapping::{self, Access, Fault, GENERAL_PROTECTION};
use crate::arch::cpu_state::{CR0_EM, CR0_PE, CR0_TS, CR4_OSFXSR, CR4_OSXSAVE, CpuState, RFLAGS_IOPL3};
use crate::arch::paging::read_linear;
use crate::debug::decode::{INSTRUCTION_BYTES_MAX, text};
use iced_x86::{
    Decoder, DecoderOptions, EncodingKind, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

/// Vector of the divide error.
const DIVIDE: u8 = 0;
/// Vector of invalid opcodes.
const INVALID_OPCODE: u8 = 6;
/// Vector of a missing x87 or SSE state.
const NOT_AVAILABLE: u8 = 7;

/// Bytes of zero at RIP that are taken for empty RAM.
const EMPTY_BYTES: usize = 8;

/// What a triple fault came from, in sentences; empty if it cannot be told.
pub fn of_triple_fault(state: &CpuState, read: mapping::Read) -> Vec<String> {
    let mut said = place(state, read);
    let raised = raised(state, read);
    match &raised {
        Some(Fault { vector, why }) => {
            let name = delivery::name(*vector);
            let undelivered = delivery::obstacle(state, *vector, read);
            let undelivered =
                undelivered.unwrap_or_else(|| "its handler can be entered, so it failed there".to_owned());
            said.push(format!("{name}: {why}; {undelivered}."));
        }
        None => {
            let vectors = [mapping::PAGE_FAULT, GENERAL_PROTECTION, INVALID_OPCODE];
            let obstacle =
                vectors.into_iter().find_map(|vector| Some((vector, delivery::obstacle(state, vector, read)?)));
            if let Some((vector, obstacle)) = obstacle {
                said.push(format!("Were it {}: {obstacle}.", delivery::name(vector)));
            }
        }
    }
    if let Some(obstacle) = delivery::obstacle(state, delivery::DOUBLE_FAULT, read) {
        let first = raised.map_or(mapping::PAGE_FAULT, |fault| fault.vector);
        let same = obstacle.replace("#DF", &delivery::name(first));
        let is_said = said.last().is_some_and(|sentence| sentence.contains(&same));
        said.push(if is_said {
            "Nor could #DF be delivered, for the same reason.".to_owned()
        } else {
            format!("Nor could #DF be delivered: {obstacle}.")
        });
    }
    said
}

/// What is odd about the place where a vCPU stands, in sentences.
pub fn place(state: &CpuState, read: mapping::Read) -> Vec<String> {
    let mut said = Vec::new();
    let rip = state.linear_rip();
    let mut bytes = [0xff; EMPTY_BYTES];
    let count = read_linear(state, rip, &mut bytes, read);
    if mapping::fault(state, rip, Access::Fetch, ring(state), read).is_some() {
        said.push(format!("A jump, call or return to {rip:#x}, where nothing can be executed."));
    } else if count == 0 {
        said.push(format!("RIP {rip:#x} is not in RAM: a jump, call or return went astray."));
    } else if bytes == [0; EMPTY_BYTES] {
        said.push("RIP is in zeroed memory (00 00 is `add [rax], al`): probably a jump into empty RAM.".to_owned());
    }
    if state.regs.rsp == 0 && state.cr0 & CR0_PE != 0 {
        said.push("The stack pointer is 0: what is pushed goes to the top of the address space.".to_owned());
    }
    said
}

/// The exception that the instruction at RIP raises; `None` if none can be seen.
fn raised(state: &CpuState, read: mapping::Read) -> Option<Fault> {
    let rip = state.linear_rip();
    let mut bytes = [0; INSTRUCTION_BYTES_MAX];
    let count = read_linear(state, rip, &mut bytes, read);
    if let Some(fault) = mapping::fault(state, rip, Access::Fetch, ring(state), read) {
        return Some(fault);
    }
    let instruction = Decoder::with_ip(state.code_bits(), &bytes[..count], rip, DecoderOptions::NONE).decode();
    let fault = |vector, why: String| Some(Fault { vector, why });
    if instruction.is_invalid() {
        // Of an instruction that leaves readable memory nothing is known.
        return (count == bytes.len())
            .then(|| format!("no instruction at {rip:#x}"))
            .and_then(|why| fault(INVALID_OPCODE, why));
    }
    let at = format!("`{}` at {rip:#x}", text(&instruction));
    if let Some((vector, why)) = by_itself(&instruction, state) {
        return fault(vector, format!("{at}{why}"));
    }
    let found = in_memory(&instruction, state, read)?;
    fault(found.vector, format!("{at} touches memory: {}", found.why))
}

/// The exception that an instruction raises without touching memory: vector, and what to say behind the instruction.
fn by_itself(instruction: &Instruction, state: &CpuState) -> Option<(u8, &'static str)> {
    let vector = (0..instruction.op_count()).any(|operand| instruction.op_register(operand).is_vector_register());
    let is_avx = vector && matches!(instruction.encoding(), EncodingKind::VEX | EncodingKind::EVEX);
    let is_sse = vector && !is_avx;
    let ports = matches!(
        instruction.mnemonic(),
        Mnemonic::In | Mnemonic::Out | Mnemonic::Cli | Mnemonic::Sti | Mnemonic::Insb | Mnemonic::Outsb
    );
    match instruction.mnemonic() {
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => Some((INVALID_OPCODE, "")),
        Mnemonic::Int1 => Some((1, "")),
        Mnemonic::Int3 => Some((3, "")),
        Mnemonic::Int => Some((instruction.immediate8(), "")),
        Mnemonic::Div | Mnemonic::Idiv if divisor(instruction, state) == Some(0) => Some((DIVIDE, " divides by zero")),
        _ if instruction.is_privileged() && ring(state) == 3 && !(ports && state.regs.rflags & RFLAGS_IOPL3 != 0) => {
            Some((GENERAL_PROTECTION, " is privileged, and ring 3 runs it"))
        }
        _ if is_avx && state.cr4 & CR4_OSXSAVE == 0 => Some((INVALID_OPCODE, " is AVX, and CR4.OSXSAVE is 0")),
        _ if is_sse && state.cr4 & CR4_OSFXSR == 0 => Some((INVALID_OPCODE, " is SSE, and CR4.OSFXSR is 0")),
        _ if is_sse && state.cr0 & CR0_EM != 0 => Some((INVALID_OPCODE, " is SSE, and CR0.EM is 1")),
        _ if is_sse && state.cr0 & CR0_TS != 0 => Some((NOT_AVAILABLE, " is SSE, and CR0.TS is 1")),
        _ => None,
    }
}

/// The divisor, where it is a register.
fn divisor(instruction: &Instruction, state: &CpuState) -> Option<u64> {
    let register = instruction.op0_register();
    let bits = 8 * register.size() as u32;
    let value = value(register, state)?;
    (instruction.op0_kind() == OpKind::Register && bits > 0).then(|| value << (64 - bits) >> (64 - bits))
}

/// The fault of the first access to memory that faults.
fn in_memory(instruction: &Instruction, state: &CpuState, read: mapping::Read) -> Option<Fault> {
    let mut factory = InstructionInfoFactory::new();
    for memory in factory.info(instruction).used_memory() {
        let access = match memory.access() {
            OpAccess::Write | OpAccess::ReadWrite => Access::Write,
            OpAccess::Read => Access::Read,
            // Conditional accesses may not have been made.
            _ => continue,
        };
        let address = memory.virtual_address(0, |register, _, _| value(register, state));
        let Some(address) = address else { continue };
        let address = if state.is_long() { address } else { address & 0xffff_ffff };
        if let Some(fault) = mapping::fault(state, address, access, ring(state), read) {
            return Some(fault);
        }
    }
    None
}

/// What an address is made of: a general register, whole, or the base of a segment.
fn value(register: Register, state: &CpuState) -> Option<u64> {
    let regs = &state.regs;
    Some(match register {
        // Bases of the first four count as 0 in 64-bit mode.
        Register::ES | Register::CS | Register::SS | Register::DS if state.is_long() => 0,
        Register::ES => state.es.base,
        Register::CS => state.cs.base,
        Register::SS => state.ss.base,
        Register::DS => state.ds.base,
        Register::FS => state.fs.base,
        Register::GS => state.gs.base,
        _ => match register.full_register() {
            Register::RAX => regs.rax,
            Register::RBX => regs.rbx,
            Register::RCX => regs.rcx,
            Register::RDX => regs.rdx,
            Register::RSI => regs.rsi,
            Register::RDI => regs.rdi,
            Register::RBP => regs.rbp,
            Register::RSP => regs.rsp,
            Register::R8 => regs.r8,
            Register::R9 => regs.r9,
            Register::R10 => regs.r10,
            Register::R11 => regs.r11,
            Register::R12 => regs.r12,
            Register::R13 => regs.r13,
            Register::R14 => regs.r14,
            Register::R15 => regs.r15,
            Register::RIP => regs.rip,
            _ => return None,
        },
    })
}

/// Ring that the vCPU runs in.
fn ring(state: &CpuState) -> u8 {
    if state.cr0 & CR0_PE == 0 { 0 } else { state.ss.dpl }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::cpu_state::{CR0_PG, CR0_WP, CR4_PAE};
    use crate::arch::layout::BOOT_PML4;
    use crate::arch::paging::{PRESENT, WRITABLE, identity_map};

    /// The identity map but for its last 2 MiB of 4 GiB; `code` at 1 MiB in RAM of 2 MiB that is zero elsewhere.
    fn told(state: &CpuState, code: &[u8]) -> String {
        let mut tables = identity_map(BOOT_PML4);
        tables[5][511] = 0;
        tables[5][510] = PRESENT | crate::arch::paging::PAGE | 0xffc0_0000 & !WRITABLE;
        let mut read =
            |gpa: u64| match gpa.checked_sub(BOOT_PML4).and_then(|at| tables.as_flattened().get(at as usize / 8)) {
                Some(entry) => Some(*entry),
                None if gpa >= 0x20_0000 => None,
                None => {
                    let byte = |at: u64| at.checked_sub(0x10_0000).and_then(|at| code.get(at as usize)).copied();
                    Some(u64::from_le_bytes(std::array::from_fn(|i| byte(gpa + i as u64).unwrap_or(0))))
                }
            };
        of_triple_fault(state, &mut read).join(" ")
    }

    fn state() -> CpuState {
        CpuState { cr0: CR0_PE | CR0_PG | CR0_WP, cr4: CR4_PAE, ..CpuState::long_mode(0x10_0000) }
    }

    #[test]
    fn the_exception_is_named_with_what_keeps_its_handler() {
        let no_handler = |name: &str| format!("; there is no handler: the IDT's limit 0x0 has no room for {name}.");
        let ud2 = told(&state(), &[0x0f, 0x0b]);
        assert!(ud2.starts_with(&format!("#UD: `ud2` at 0x100000{}", no_handler("#UD"))), "{ud2}");
        assert!(ud2.ends_with("Nor could #DF be delivered, for the same reason."));
        // int3; int 0x80; 06, which is none; div ecx with ECX = 0.
        assert!(told(&state(), &[0xcc]).starts_with("#BP: `int3` at 0x100000; "));
        assert!(told(&state(), &[0xcd, 0x80]).starts_with("interrupt 0x80: `int 0x80` at 0x100000; "));
        assert!(told(&state(), &[0x06; 15]).starts_with("#UD: no instruction at 0x100000; "));
        assert!(told(&state(), &[0xf7, 0xf1]).starts_with("#DE: `div ecx` at 0x100000 divides by zero; "));
        // movaps xmm0, xmm1
        let sse = told(&state(), &[0x0f, 0x28, 0xc1]);
        assert!(sse.starts_with("#UD: `movaps xmm0, xmm1` at 0x100000 is SSE, and CR4.OSFXSR is 0; "), "{sse}");
        let mut ring_3 = state();
        ring_3.ss.dpl = 3;
        assert!(told(&ring_3, &[0xf4]).contains("belongs to ring 0"), "the page is the kernel's");
    }

    #[test]
    fn memory_that_faults_is_named() {
        let mut state = state();
        state.regs.rdi = 0xffff_fff0;
        // mov [rdi+8], rax
        let store = [0x48, 0x89, 0x47, 0x08];
        let said = told(&state, &store);
        assert!(
            said.starts_with("#PF: `mov [rdi+8], rax` at 0x100000 touches memory: 0xfffffff8 is not mapped ("),
            "{said}"
        );
        state.regs.rdi = 0xffc0_0000;
        assert!(told(&state, &store).contains("0xffc00008 is mapped read-only"));
        state.regs.rdi = 1 << 60;
        assert!(told(&state, &store).starts_with("#GP: ") && told(&state, &store).contains("no canonical address"));
        state.regs.rdi = 0x1000;
        assert!(told(&state, &store).starts_with("Were it #PF: there is no handler"), "nothing wrong with it");
        // push rax
        state.regs.rsp = 0;
        let said = told(&state, &[0x50]);
        assert!(said.starts_with("The stack pointer is 0"), "{said}");
        assert!(
            said.contains("#PF: `push rax` at 0x100000 touches memory: 0xfffffffffffffff8 is not mapped"),
            "{said}"
        );
    }

    #[test]
    fn places_where_no_code_is_are_named() {
        let mut state = state();
        state.regs.rip = 0xffff_ffff_8000_0000;
        let said = told(&state, &[]);
        assert!(
            said.starts_with("A jump, call or return to 0xffffffff80000000, where nothing can be executed. #PF: "),
            "{said}"
        );
        state.regs.rip = 0x4000_0000;
        assert!(told(&state, &[]).starts_with("RIP 0x40000000 is not in RAM"));
        state.regs.rip = 0x10_8000;
        assert!(told(&state, &[]).starts_with("RIP is in zeroed memory (00 00 is"));
    }

    #[test]
    fn hostile_states_are_only_told() {
        for byte in 0..=u8::MAX {
            for word in [0, u64::MAX, 1 << 63] {
                let mut state = state();
                (state.cr4, state.cr0, state.tr.base, state.idt.base) = (word | CR4_PAE, word | CR0_PG, word, word);
                (state.regs.rsp, state.regs.rax, state.idt.limit, state.ss.dpl) =
                    (word, word, u16::MAX, word as u8 & 3);
                told(&state, &[byte; 16]);
                told(&CpuState { efer: word, ..state }, &[0x0f, byte, byte]);
            }
        }
    }
}
