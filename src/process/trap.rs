//! The life of a trap: a thread's vCPU leaves ring 3, Hostel looks why, answers, and lets it go on.
//!
//! An exit that is none of the stub's three has no meaning in a machine without devices: ring 3 may use no port (IOPL 0), and no
//! page of a program leads anywhere but to RAM. Such a one ends the run as an error.
//!
//! A thread that computes is taken out of the guest where it stands, in ring 3, when it has a signal; there its registers are its own, and
//! others are loaded without an IRETQ. One that is just in the stub goes on to the next trap, or to the next time that it is taken out.
//! Sources: Intel SDM vol. 3A §6.15 (exceptions, error code of a page fault), signal(7); Linux `arch/x86/kernel/traps.c` (codes).

use super::signal::deliver::{Extension, deliver};
use super::signal::extended::{self, Layout};
use super::signal::frame;
use super::signal::info::{
    BUS_ADRALN, BUS_ADRERR, FPE_INTDIV, ILL_ILLOPN, Info, SEGV_ACCERR, SEGV_MAPERR, SI_KERNEL, TRAP_TRACE,
};
use super::space::{Access, Fault};
use super::stub;
use super::syscall::call;
use super::tables::USER_END;
use super::task::{End, Task};
use super::vcpus::{VcpuError, Vcpus};
use super::world::FIRST_ID;
use crate::arch::cpu_state::Registers;
use crate::arch::layout::PAGE_SIZE;
use crate::kvm::exit::{Exit, Reply};
use crate::kvm::system::KvmError;
use crate::kvm::user_mode::Extended;
use crate::kvm::vcpu::Vcpu;
use rustix::io::Errno;
use std::sync::Arc;

/// Why a thread cannot go on, which is no fault of its program.
#[derive(Debug, thiserror::Error)]
pub enum TrapError {
    /// No vCPU, or KVM refuses to prepare it.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// KVM refuses to run it.
    #[error(transparent)]
    Run(#[from] KvmError),
    /// It left the guest for no reason that there is.
    #[error("the program's vCPU stopped at {rip:#x} in ring 3 or behind it: {exit:?}")]
    Exit {
        /// The last instruction pointer in ring 3 that is known.
        rip: u64,
        /// What came.
        exit: Exit,
    },
}

/// Runs `task` on `vcpu` until it ends.
///
/// # Errors
/// It cannot go on.
fn run(task: &mut Task, vcpus: &Arc<Vcpus>, vcpu: &mut Vcpu) -> Result<End, TrapError> {
    let stack_end = vcpus.stack_end(&task.world, vcpu);
    // The stub's own RIP and flags, as the last exit left them; at first, before its IRETQ.
    let entry = stub::state(vcpu.id(), 0, false).regs;
    let mut ring_0 = entry;
    let mut stands_in_ring_3 = false;
    loop {
        deliver(task, &Unit { vcpu, layout: vcpus.layout() })?;
        if let Some(end) = task.ends() {
            return Ok(end);
        }
        if task.reload == super::task::Reload::Program {
            ring_0 = entry;
        }
        vcpus.load(vcpu, task)?;
        if stands_in_ring_3 {
            vcpu.exchange(&Registers { rflags: frame::safe_flags(task.regs.rflags), ..task.regs });
        } else {
            resume(task, vcpu, stack_end, &ring_0);
        }
        let exit = leave(task, vcpu)?;
        let regs = vcpu.exchanged();
        stands_in_ring_3 = exit == Exit::Interrupted;
        if stands_in_ring_3 {
            task.regs = regs;
            continue;
        }
        ring_0 = Registers { rip: regs.rip, rflags: regs.rflags, ..entry };
        match exit {
            Exit::PioWrite { port: stub::SYSCALL, .. } => {
                task.regs = regs;
                system_call(task);
            }
            Exit::PioWrite { port: stub::PAGE_FAULT, .. } => {
                let [rax, error, frame @ ..]: [u64; 7] = pushed(task, stack_end);
                task.regs = Registers { rax, ..interrupted(regs, frame) };
                // A KVM that acts the change of rings out may leave SYSCALL in ring 3, where it fails to fetch the stub.
                if regs.rax == stub::ENTRY && task.regs.rip == stub::ENTRY {
                    system_call(task);
                } else {
                    page_fault(task, regs.rax, error, frame[1]);
                }
            }
            Exit::PioWrite { port: stub::EXCEPTION, .. } => exception(task, stack_end, vcpu)?,
            exit => return Err(TrapError::Exit { rip: task.regs.rip, exit }),
        }
        if let Some(child) = task.born.take() {
            begin(task, vcpus, vcpu, *child)?;
        }
    }
}

/// Runs `vcpu` until it leaves the guest by itself, or is taken out where registers may be changed and there is a reason to.
fn leave(task: &Task, vcpu: &mut Vcpu) -> Result<Exit, KvmError> {
    loop {
        let exit = vcpu.run(Reply::Resume)?;
        let is_ready = || Ok::<_, KvmError>(vcpu.exchanged().rip < USER_END && !vcpu.has_exception()?);
        if exit != Exit::Interrupted || (task.is_interrupted() && (task.ends().is_some() || is_ready()?)) {
            return Ok(exit);
        }
    }
}

/// A vCPU's extended state, for frames of signals.
struct Unit<'a> {
    vcpu: &'a Vcpu,
    layout: Layout,
}

impl Extension for Unit<'_> {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn save(&self) -> Result<Vec<u8>, KvmError> {
        self.vcpu.extended().map(|state| state.bytes())
    }

    fn load(&self, state: &[u8]) -> Result<(), KvmError> {
        self.vcpu.set_extended(&Extended::from_bytes(state))
    }
}

/// Begins the child that `task` has just made, on a vCPU of its own.
fn begin(task: &mut Task, vcpus: &Arc<Vcpus>, vcpu: &Vcpu, mut child: Task) -> Result<(), TrapError> {
    child.extended = Some(vcpu.extended()?);
    let gate = child.gate.clone();
    match start(child, vcpus) {
        Ok(()) => {
            if let Some(gate) = gate {
                gate.pass(|| task.ends().is_some());
            }
        }
        Err(StartError::Vcpu(VcpuError::TooMany) | StartError::Thread(_)) => {
            task.regs.rax = (-i64::from(Errno::AGAIN.raw_os_error())) as u64;
        }
        Err(StartError::Vcpu(error)) => return Err(error.into()),
    }
    Ok(())
}

/// Why a thread did not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// No thread of the host's.
    #[error("start a thread for the program: {0}")]
    Thread(std::io::Error),
}

/// Has `task` run to its end on a thread and a vCPU of its own; [`super::processes::Processes`] tells what becomes of it.
///
/// # Errors
/// One of both is not to be had.
pub fn start(task: Task, vcpus: &Arc<Vcpus>) -> Result<(), StartError> {
    let (vcpu, pool) = (vcpus.take()?, vcpus.clone());
    let (world, process, id) = (task.world.clone(), task.process.clone(), task.id);
    world.processes.add(&process, id, task.blocked);
    let thread = std::thread::Builder::new().name(format!("task{id}")).spawn(move || live(task, &pool, vcpu));
    match thread {
        Ok(handle) => {
            world.processes.set_handle(id, handle);
            Ok(())
        }
        Err(error) => {
            world.processes.remove(&process, id, End::Killed(libc::SIGKILL));
            Err(StartError::Thread(error))
        }
    }
}

fn live(mut task: Task, vcpus: &Arc<Vcpus>, mut vcpu: Vcpu) {
    vcpu.bind_to_thread();
    let result = run(&mut task, vcpus, &mut vcpu);
    vcpu.unbind_from_thread();
    vcpus.give_back(vcpu);
    task.finish();
    let (world, process, id, reason) = (task.world.clone(), task.process.clone(), task.id, task.reason.take());
    // Its memory and files go before anybody learns of its end.
    drop(task);
    match result {
        Ok(end) => {
            if let Some(reason) = reason {
                world.note_reason(process.id, reason);
            }
            // With the first process the run ends, and whoever waits for that tells of it.
            if world.processes.remove(&process, id, end) && process.id != FIRST_ID {
                world.tell_end(process.id, process.ending().unwrap_or(end));
            }
        }
        Err(error) => world.processes.break_off(error.to_string()),
    }
}

/// Loads registers so that the IRETQ behind the stub's OUT leads into the program. Its flags may come from registers that it could
/// set as it liked, so those that give rights are taken out.
fn resume(task: &Task, vcpu: &mut Vcpu, stack_end: u64, ring_0: &Registers) {
    let regs = &task.regs;
    let flags = frame::safe_flags(regs.rflags);
    let frame = [regs.rip, stub::USER_CS.into(), flags, regs.rsp, stub::USER_DS.into()];
    let at = stack_end - size_of_val(&frame) as u64;
    task.world.frames.ram().write(at, frame.map(u64::to_le_bytes).as_flattened()).expect("the stack is RAM");
    vcpu.exchange(&Registers { rip: ring_0.rip, rflags: ring_0.rflags, rsp: stub::frame(vcpu.id()), ..*regs });
}

/// The `N` words that were pushed last on an empty stack.
fn pushed<const N: usize>(task: &Task, stack_end: u64) -> [u64; N] {
    let mut bytes = [[0; 8]; N];
    let at = stack_end - (N * 8) as u64;
    task.world.frames.ram().read(at, bytes.as_flattened_mut()).expect("the stack is RAM");
    bytes.map(u64::from_le_bytes)
}

/// Registers with those that an exception has pushed: RIP, CS, RFLAGS, RSP, SS.
fn interrupted(regs: Registers, [rip, _, rflags, rsp, _]: [u64; stub::FRAME_WORDS]) -> Registers {
    Registers { rip, rflags, rsp, ..regs }
}

/// A SYSCALL has put RIP and flags into RCX and R11.
fn system_call(task: &mut Task) {
    (task.regs.rip, task.regs.rflags) = (task.regs.rcx, task.regs.r11);
    call::call(task);
}

/// Vector of a page fault.
const VECTOR_PAGE_FAULT: u64 = 14;

fn page_fault(task: &mut Task, address: u64, error: u64, cs: u64) {
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    let access = match error {
        _ if error & WRITE != 0 => Access::Write,
        _ if error & FETCH != 0 => Access::Execute,
        _ => Access::Read,
    };
    let from_ring_3 = cs & 3 == 3;
    let result = if from_ring_3 { task.memory().fault(address, access) } else { Err(Fault::Unmapped) };
    let what = match access {
        Access::Read => "read from",
        Access::Write => "write to",
        Access::Execute => "execution at",
    };
    let trap = [VECTOR_PAGE_FAULT, error, address];
    match result {
        Ok(()) => {}
        Err(Fault::NoMemory) => {
            task.kill(libc::SIGKILL, format!("no memory is left for {address:#x}; --mem gives more"))
        }
        Err(Fault::BeyondFile) => {
            let info = Info::fault(libc::SIGBUS, BUS_ADRERR, address);
            fail(task, info, trap, format!("{address:#x} lies beyond the end of the mapped file"));
        }
        Err(fault) => {
            let code = if fault == Fault::Forbidden { SEGV_ACCERR } else { SEGV_MAPERR };
            fail(task, Info::fault(libc::SIGSEGV, code, address), trap, format!("{what} {address:#x}"));
        }
    }
}

fn exception(task: &mut Task, stack_end: u64, vcpu: &Vcpu) -> Result<(), KvmError> {
    // The number is pushed last, behind the error code where the exception has one.
    let [first, second, frame @ ..]: [u64; 7] = pushed(task, stack_end);
    let regs = vcpu.exchanged();
    let has_code = regs.rsp % PAGE_SIZE == PAGE_SIZE - 7 * 8;
    let (vector, error) = if has_code { (first, second) } else { (second, 0) };
    task.regs = interrupted(regs, frame);
    let float = |simd| vcpu.extended().map(|state| extended::error_code(&state.bytes(), simd));
    let (signal, code, name) = match vector {
        0 => (libc::SIGFPE, FPE_INTDIV, "division"),
        1 => (libc::SIGTRAP, TRAP_TRACE, "single step"),
        3 => (libc::SIGTRAP, SI_KERNEL, "breakpoint"),
        4 => (libc::SIGSEGV, SI_KERNEL, "overflow"),
        6 => (libc::SIGILL, ILL_ILLOPN, "invalid instruction"),
        11 | 12 => (libc::SIGBUS, SI_KERNEL, "segment"),
        16 | 19 => (libc::SIGFPE, float(vector == 19)?, "floating point"),
        17 => (libc::SIGBUS, BUS_ADRALN, "alignment"),
        _ => (libc::SIGSEGV, SI_KERNEL, "protection"),
    };
    // Where the code tells what the instruction did, its address comes with it.
    let address = if matches!(vector, 0 | 1 | 6 | 16 | 19) { task.regs.rip } else { 0 };
    let trap = [vector, error, task.handling.trap[2]];
    fail(task, Info::fault(signal, code, address), trap, format!("exception {vector} ({name})"));
    Ok(())
}

/// An exception is a signal, which a handler may get; a foreign program ends by it and is told so in the words of its own system.
fn fail(task: &mut Task, info: Info, trap: [u64; 3], reason: String) {
    match task.foreign.take() {
        Some(mut guest) => {
            let address = Some(trap[2]).filter(|_| trap[0] == VECTOR_PAGE_FAULT && info.signal() == libc::SIGSEGV);
            let name = guest.end(task, trap[0], address);
            task.kill(info.signal(), format!("{name}: {reason}"));
        }
        None => {
            task.handling.trap = trap;
            task.force(info, reason);
        }
    }
}
