//! A guest that is called: its vCPU, which runs on the thread of the caller, its exits, and its calls of the host.
//!
//! A call sets the registers, enters the guest and is over when that writes to the port of returns: one exit. Registers come and go
//! in the area that KVM shares with this process, without further system calls. A call of the host is one exit too.
//! Sources: KVM API KVM_CAP_SYNC_REGS; x86-64 psABI §3.2.2 (stack, red zone), §3.2.3.

use super::deadline::Deadline;
use super::elf::Export;
use super::error::{CallError, Fault};
use super::functions::Function;
use super::memory::Memory;
use super::ring0::{GUEST_SLOT, PORT_CALL, PORT_FAULT, PORT_RETURN, RETURN, USER_FLAGS, raised};
use super::signature::{PARAMETER_SLOTS, describe};
use super::values::{Arguments, FromGuest};
use crate::arch::cpu_state::{CpuState, Registers};
use crate::arch::fpu::FpuState;
use crate::kvm::exit::{Exit, Reply};
use crate::kvm::vcpu::Vcpu;
use crate::kvm::vm::Vm;
use std::collections::HashMap;

/// How deep calls of guest and host can be nested.
pub const DEPTH_MAX: u32 = 16;
/// Bytes below the stack pointer that are a function's own (x86-64 psABI §3.2.2).
const RED_ZONE: u64 = 128;
/// Parts into which KVM divides one access at most, when the last exit is brought to its end: a page of single bytes.
const PARTS_MAX: usize = 8192;
/// Vector of the page fault.
const PAGE_FAULT: u8 = 14;
/// x87 and SSE as a function finds them (x86-64 psABI §3.4.1).
const FPU: FpuState = FpuState {
    st: [[0; 10]; 8],
    control: 0x37f,
    status: 0,
    tags: 0,
    last_opcode: 0,
    last_instruction: 0,
    last_operand: 0,
    xmm: [0; 16],
    mxcsr: 0x1f80,
};

/// The machine of one guest.
pub struct Cell {
    /// The vCPU; it exchanges general registers.
    pub vcpu: Vcpu,
    /// Its machine.
    pub vm: Vm,
    /// Its memory.
    pub memory: Memory,
    /// What it can be called by.
    pub exports: HashMap<String, Export>,
    /// Addresses of the records by which it calls functions of the host, ascending, and the functions' numbers.
    pub imports: Vec<(u64, usize)>,
    /// How long calls may take.
    pub deadline: Deadline,
    /// Calls of the guest that have not returned.
    pub depth: u32,
    /// No call was cut short since the guest was loaded or reset.
    pub usable: bool,
    /// Registers as they were then.
    pub entry: CpuState,
}

impl Cell {
    /// Makes a call that no other is in the course of.
    ///
    /// # Errors
    /// The guest has no such function, or did not come to its end.
    pub fn call<A: Arguments, R: FromGuest>(
        &mut self,
        functions: &[Function],
        name: &str,
        arguments: &A,
    ) -> Result<R, CallError> {
        // A call in whose course a function of the host panicked has not returned.
        self.usable &= self.depth == 0;
        let stack = self.memory.map().return_slot();
        self.memory.free_behind(0);
        let begun = self.deadline.begin().map_err(|error| CallError::because(&error.to_string()));
        let result = begun.and_then(|()| self.call_on(functions, name, arguments, stack));
        self.deadline.end();
        result
    }

    /// Makes a call whose return address is put at `stack`.
    fn call_on<A: Arguments, R: FromGuest>(
        &mut self,
        functions: &[Function],
        name: &str,
        arguments: &A,
        stack: u64,
    ) -> Result<R, CallError> {
        if !self.usable {
            return Err(CallError::NeedsReset);
        }
        let export = self.exports.get(name).ok_or_else(|| CallError::NoFunction(name.into()))?;
        let address = export.address;
        if !export.signature.is(R::TYPE, A::TYPES) {
            let (program, call) = (export.signature.to_string(), describe(R::TYPE, A::TYPES));
            return Err(CallError::Types { name: name.into(), program, call });
        }
        let slots = arguments.pass(&mut self.memory)?;
        self.depth += 1;
        let result = self.run(functions, address, slots, stack).and_then(|slots| R::take(slots, &self.memory));
        self.depth -= 1;
        self.usable = result.is_ok();
        result
    }

    /// Runs the function at `address` until it returns.
    fn run(
        &mut self,
        functions: &[Function],
        address: u64,
        slots: [u64; PARAMETER_SLOTS],
        stack: u64,
    ) -> Result<[u64; 2], CallError> {
        let [rdi, rsi, rdx, rcx, r8, r9] = slots;
        self.memory.put_word(stack, RETURN)?;
        let mut registers = Registers {
            rip: address,
            rsp: stack,
            rflags: USER_FLAGS,
            rdi,
            rsi,
            rdx,
            rcx,
            r8,
            r9,
            ..Registers::default()
        };
        self.vcpu.exchange(&registers);
        let passed = self.memory.passed();
        loop {
            let exit = self.enter()?;
            if exit == Exit::Interrupted {
                continue;
            }
            registers = self.vcpu.exchanged();
            match exit {
                Exit::PioWrite { port: PORT_CALL, .. } => self.serve(functions, registers, passed)?,
                Exit::PioWrite { port: PORT_RETURN, .. } => return Ok([registers.rax, registers.rdx]),
                Exit::PioWrite { port: PORT_FAULT, .. } => return Err(self.fault(exit, &registers)),
                _ => return Err(stopped(exit, &registers)),
            }
        }
    }

    /// Enters the guest, unless it may not be.
    fn enter(&mut self) -> Result<Exit, CallError> {
        if !self.usable {
            return Err(CallError::NeedsReset);
        }
        if !self.deadline.may_enter() {
            return Err(CallError::Deadline(self.deadline.limit().unwrap_or_default()));
        }
        self.vcpu.bind_to_thread();
        let exit = self.vcpu.run(Reply::Resume);
        self.vcpu.unbind_from_thread();
        self.deadline.left();
        Ok(exit?)
    }

    /// Does what the guest asks of the host. `passed` bytes of the buffer are its caller's.
    fn serve(&mut self, functions: &[Function], mut registers: Registers, passed: u64) -> Result<(), CallError> {
        let Registers { rax: record, rip, rdi, rsi, rdx, rcx, r8, r9, .. } = registers;
        let found = self.imports.binary_search_by_key(&record, |(record, _)| *record);
        let Ok(index) = found else { return Err(CallError::NoHostFunction { record, rip }) };
        let function = &functions[self.imports[index].1];
        self.memory.free_behind(passed);
        let mut guest = Guest { cell: self, functions, registers: &mut registers, is_settled: false };
        let result = (function.body)(&mut guest, [rdi, rsi, rdx, rcx, r8, r9]).map_err(|error| match error {
            CallError::Host { name, message } if name.is_empty() => {
                CallError::Host { name: function.name.clone(), message }
            }
            error => error,
        });
        [registers.rax, registers.rdx] = result?;
        self.vcpu.exchange(&registers);
        Ok(())
    }

    /// What the handler of an exception tells.
    fn fault(&self, exit: Exit, registers: &Registers) -> CallError {
        let Some(raised) = raised(registers) else { return stopped(exit, registers) };
        let address = (raised.vector == PAGE_FAULT).then(|| self.vcpu.state().map(|state| state.cr2));
        let address = match address.transpose() {
            Ok(address) => address,
            Err(error) => return error.into(),
        };
        CallError::Fault(Fault { vector: raised.vector, rip: self.memory.ring0_word(raised.frame), address })
    }

    /// Makes the guest what it was when it was loaded: the pages that were written since, and all registers. How many pages these were.
    ///
    /// # Errors
    /// The host's KVM refuses.
    pub fn reset(&mut self) -> Result<u64, CallError> {
        if !self.usable || self.depth > 0 {
            self.deadline.end();
            self.settle()?;
            self.vcpu.drop_exception()?;
        }
        self.vm.take_written(GUEST_SLOT, self.memory.written())?;
        let pages = self.memory.restore().map_err(|error| CallError::because(&error.to_string()))?;
        self.vcpu.set_state(&self.entry)?;
        self.vcpu.set_fpu(&FPU)?;
        (self.usable, self.depth) = (true, 0);
        Ok(pages)
    }

    /// Brings the last exit to its end, so that registers are those between two instructions. How many parts of it were left.
    fn settle(&mut self) -> Result<usize, CallError> {
        for parts in 0..PARTS_MAX {
            if self.vcpu.complete(Reply::Resume)?.is_none() {
                return Ok(parts);
            }
        }
        Err(CallError::because("an access of the guest has no end"))
    }
}

/// The guest, as a function of the host sees it that was called from there.
pub struct Guest<'a> {
    cell: &'a mut Cell,
    functions: &'a [Function],
    /// Registers of the guest where it called.
    registers: &'a mut Registers,
    /// They are those behind the instruction that called.
    is_settled: bool,
}

impl Guest<'_> {
    /// Calls a function of the guest, as [`super::sandbox::Sandbox::call`] does.
    ///
    /// # Errors
    /// As there. The call in whose course this one was made cannot go on after an error for which the sandbox must be reset.
    pub fn call<A: Arguments, R: FromGuest>(&mut self, name: &str, arguments: A) -> Result<R, CallError> {
        if self.cell.depth >= DEPTH_MAX {
            return Err(CallError::TooDeep(DEPTH_MAX));
        }
        if !self.is_settled {
            // KVM may still have to step over the instruction, for which it looks at RIP.
            if self.cell.settle()? > 0 {
                return Err(stopped(Exit::PioWrite { port: PORT_CALL, size: 1, value: 0 }, self.registers));
            }
            *self.registers = self.cell.vcpu.exchanged();
            self.is_settled = true;
        }
        let passed = self.cell.memory.passed();
        let stack = (self.registers.rsp.wrapping_sub(RED_ZONE) & !15).wrapping_sub(8);
        let result = self.cell.call_on(self.functions, name, &arguments, stack);
        self.cell.memory.free_behind(passed);
        result
    }

    /// Its memory.
    pub(super) fn memory(&mut self) -> &mut Memory {
        &mut self.cell.memory
    }
}

impl CallError {
    /// The error of a function of the host that fails for this reason.
    pub fn because(message: &str) -> CallError {
        CallError::Host { name: String::new(), message: message.into() }
    }
}

/// What the guest did that has no meaning here.
fn stopped(exit: Exit, registers: &Registers) -> CallError {
    let what = match exit {
        Exit::PioRead { port, .. } => format!("it read port {port:#x}"),
        Exit::PioWrite { port, .. } => format!("it wrote to port {port:#x}"),
        Exit::MmioRead { addr, .. } | Exit::MmioWrite { addr, .. } => format!("there is no memory at {addr:#x}"),
        Exit::Shutdown => "triple fault".into(),
        Exit::Failure(failure) => format!("KVM could not go on ({failure:?})"),
        exit => format!("{exit:?}"),
    };
    CallError::Stopped { what, rip: registers.rip }
}
