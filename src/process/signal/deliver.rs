//! Signals reach a thread: between two traps, before it goes on, each that is due ends it, or has a handler of its own run.
//!
//! A handler runs by a frame on the thread's stack and registers that lead into it; what it left in the frame comes back with rt_sigreturn(2).
//! Leaves out stopping: a signal whose default is to stop ends, like most.
//! Sources: sigaction(2), sigreturn(2), signal(7) "Interruption of system calls"; Linux `kernel/signal.c`, `arch/x86/kernel/signal.c`.

use super::extended::{self, Layout};
use super::frame::{self, AUTO_DISARM, AltStack, CONTEXT_SIZE, Context};
use super::info::{Info, SEGV_MAPERR, SI_KERNEL, SI_USER};
use super::state::{Action, DEFAULT, UNBLOCKABLE, bit};
use crate::bus::bus::lock;
use crate::kvm::system::KvmError;
use crate::process::tables::USER_END;
use crate::process::task::{End, Task};
use crate::process::trace;
use rustix::io::Errno;

/// SA_ flags that matter here: without the last, a handler has no code to return to.
const RESTART: u64 = libc::SA_RESTART as u64;
const NO_DEFER: u64 = libc::SA_NODEFER as u64;
const HAS_RESTORER: u64 = 0x0400_0000;
/// Bytes of SYSCALL.
const SYSCALL_SIZE: u64 = 2;

/// Where a thread's floating-point and vector registers are: a vCPU, or what a test has in its place.
pub trait Extension {
    /// What there is of them.
    fn layout(&self) -> Layout;

    /// Their state, [`extended::STATE_SIZE`] bytes.
    ///
    /// # Errors
    /// KVM refuses.
    fn save(&self) -> Result<Vec<u8>, KvmError>;

    /// Sets their state.
    ///
    /// # Errors
    /// KVM refuses, which may be the state's fault.
    fn load(&self, state: &[u8]) -> Result<(), KvmError>;
}

/// Does what is to be done about `task`'s signals before it goes on.
///
/// # Errors
/// KVM refuses to tell registers.
pub fn deliver(task: &mut Task, extension: &dyn Extension) -> Result<(), KvmError> {
    if let Some(address) = task.handling.returned.take() {
        reload(task, extension, address)?;
    }
    let mut call = task.handling.interrupted.take();
    while task.ends().is_none() {
        // An IRETQ to no address at all would fail in ring 0, and one to the stub would make a call.
        if task.regs.rip >= USER_END {
            let rip = task.regs.rip;
            let info = match frame::is_canonical(rip) {
                true => Info::fault(libc::SIGSEGV, SEGV_MAPERR, rip),
                false => Info::new(libc::SIGSEGV, SI_KERNEL),
            };
            task.force(info, format!("execution at {rip:#x}"));
        }
        let next = lock(&task.process.signals).take(task.id);
        let Some((info, action)) = next else { break };
        let reason = task.handling.reason.take().filter(|(signal, _)| *signal == info.signal());
        if let Some(trace) = &task.world.trace {
            trace.show(task.id, &info.describe());
        }
        if action.handler == DEFAULT {
            task.reason = reason.map(|(_, reason)| reason);
            task.world.processes.end(&task.process, End::Killed(info.signal()));
            break;
        }
        if let Some(call) = call.take().filter(|call| call.restarts && action.flags & RESTART != 0) {
            repeat(task, call.number);
        }
        if !run_handler(task, extension, &info, &action)? {
            no_frame(task, info.signal());
        }
    }
    // No handler has run: the call goes on, and so does what it blocked.
    if let Some(call) = call {
        repeat(task, call.number);
    }
    if let Some(mask) = task.handling.saved_mask.take() {
        task.set_blocked(mask);
    }
    Ok(())
}

/// Has the call be made again, by the instruction that RIP is behind.
fn repeat(task: &mut Task, number: u64) {
    task.regs.rax = number;
    task.regs.rip = task.regs.rip.wrapping_sub(SYSCALL_SIZE);
}

/// A frame could not be written: SIGSEGV, by which the program ends if that was the one.
fn no_frame(task: &mut Task, signal: i32) {
    let name = trace::signal(signal);
    let reason = format!("no frame for the handler of {name} with the stack at {:#x}", task.regs.rsp);
    if signal == libc::SIGSEGV {
        let mut signals = lock(&task.process.signals);
        signals.set_action(signal, Action::default());
    }
    task.force(Info::new(libc::SIGSEGV, SI_KERNEL), reason);
}

/// Has the thread go on in a handler; false where its frame cannot be written.
fn run_handler(task: &mut Task, extension: &dyn Extension, info: &Info, action: &Action) -> Result<bool, KvmError> {
    let layout = extension.layout();
    let mask = task.handling.saved_mask.unwrap_or(task.blocked);
    let stack = task.handling.stack;
    let place = frame::place(task.regs.rsp, action.flags, &stack, layout);
    let Some(place) = place.filter(|_| action.flags & HAS_RESTORER != 0) else { return Ok(false) };
    let is_extended = layout.is_extended();
    let interrupted =
        frame::Interrupted { regs: &task.regs, trap: task.handling.trap, mask, stack: &stack, is_extended };
    let bytes = frame::build(&interrupted, info, action.restorer, place);
    let state = extended::to_frame(&extension.save()?, layout);
    if task.write(place.extended, &state).and_then(|()| task.write(place.frame, &bytes)).is_err() {
        return Ok(false);
    }
    task.regs = frame::enter(&task.regs, info.signal(), action.handler, place);
    task.handling.saved_mask = None;
    if stack.flags & AUTO_DISARM != 0 {
        task.handling.stack = AltStack::default();
    }
    let own = if action.flags & NO_DEFER != 0 { 0 } else { bit(info.signal()) };
    task.set_blocked(task.blocked | action.mask | own);
    Ok(true)
}

/// Loads the extended state that a handler's frame holds, if it is one.
fn reload(task: &mut Task, extension: &dyn Extension, address: u64) -> Result<(), KvmError> {
    let state = match address {
        0 => Ok(Some(extended::initial())),
        _ => extended::from_frame(&extension.save()?, extension.layout(), |offset, bytes| {
            Ok(task.memory().read(address.wrapping_add(offset), bytes)?)
        }),
    };
    // What KVM refuses then is the program's fault too.
    let is_loaded = matches!(state, Ok(Some(state)) if extension.load(&state).is_ok());
    if !is_loaded {
        bad_frame(task);
    }
    Ok(())
}

fn bad_frame(task: &mut Task) {
    let reason = format!("rt_sigreturn with a bad frame, at {:#x}", task.regs.rsp);
    task.force(Info::new(libc::SIGSEGV, SI_KERNEL), reason);
}

impl Task {
    /// Blocks these signals, as far as they can be, and no others.
    pub fn set_blocked(&mut self, mask: u64) {
        self.blocked = mask & !UNBLOCKABLE;
        lock(&self.process.signals).set_blocked(self.id, self.blocked);
    }

    /// Whether a call that waits is to give EINTR: a signal is due, or the thread is to end.
    pub fn is_interrupted(&self) -> bool {
        self.process.interrupts(self.id)
    }

    /// Sends a signal to itself, as the kernel does for a call that it made.
    pub fn raise(&mut self, signal: i32) {
        // Standard signals are pending once, so there is room.
        let _ = lock(&self.process.signals).post(Some(self.id), Info::sent(signal, SI_USER, self.process.id));
    }

    /// Its instruction causes a signal, for this reason, which it gets even if it blocks it.
    pub fn force(&mut self, info: Info, reason: String) {
        let reason = format!("{reason}, by the instruction at {:#x}", self.regs.rip);
        self.handling.reason = Some((info.signal(), reason));
        self.blocked = lock(&self.process.signals).force(self.id, info);
    }

    /// Goes on where the handler's frame at RSP says: rt_sigreturn(2). Its extended state is loaded before the thread goes on.
    pub fn return_from_handler(&mut self) {
        let Ok(bytes) = self.read::<CONTEXT_SIZE>(self.regs.rsp) else { return bad_frame(self) };
        let context = Context::read(&bytes, &self.regs);
        self.set_blocked(context.mask);
        self.regs = context.regs;
        if !context.is_valid {
            return bad_frame(self);
        }
        self.handling.returned = Some(context.extended);
        // As with Linux, one that is not valid changes nothing and is not told.
        let _ = self.set_stack(context.stack);
    }

    /// Has handlers use `stack`: sigaltstack(2).
    ///
    /// # Errors
    /// EPERM: it is in use; EINVAL, ENOMEM: it is none, or too small.
    pub fn set_stack(&mut self, stack: AltStack) -> Result<(), Errno> {
        /// MINSIGSTKSZ.
        const LEAST: u64 = 2048;
        if self.handling.stack.is_used(self.regs.rsp) {
            return Err(Errno::PERM);
        }
        match stack.flags & !AUTO_DISARM {
            libc::SS_DISABLE => self.handling.stack = AltStack { start: 0, size: 0, ..stack },
            0 | libc::SS_ONSTACK if stack.size < LEAST => return Err(Errno::NOMEM),
            0 | libc::SS_ONSTACK => self.handling.stack = stack,
            _ => return Err(Errno::INVAL),
        }
        Ok(())
    }

    /// The alternate stack as it is told: whether it is in use stands in its flags.
    pub fn told_stack(&self) -> AltStack {
        let AltStack { start, flags, size } = self.handling.stack;
        let state = match size {
            0 => libc::SS_DISABLE,
            _ if self.handling.stack.is_used(self.regs.rsp) => libc::SS_ONSTACK,
            _ => 0,
        };
        AltStack { start, flags: state | flags & AUTO_DISARM, size }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{FRAME_SIZE, safe_flags};
    use super::super::handling::Interrupted;
    use super::super::state::IGNORE;
    use super::*;
    use crate::arch::cpu_state::Registers;
    use crate::process::fixture::{Bench, DATA, DATA_SIZE, READ_ONLY, Reset};
    use crate::process::stub::{self, USER_CS, USER_DS};
    use proptest::prelude::*;

    const HANDLER: Action = Action { handler: DATA, flags: HAS_RESTORER, restorer: DATA + 64, mask: 0 };
    /// RSP of the program.
    const TOP: u64 = DATA + DATA_SIZE;

    /// A program with this action for SIGUSR1.
    fn bench(action: Action) -> Bench {
        let mut bench = Bench::new(&std::env::temp_dir(), false, false, &[]);
        let task = bench.task(0).unwrap();
        task.regs = Registers { rip: 0x4444, rsp: TOP, rbx: 7, rflags: 0x602, ..Registers::default() };
        lock(&task.process.signals).set_action(libc::SIGUSR1, action);
        bench
    }

    fn interrupt(task: &mut Task, signal: i32) {
        task.raise(signal);
        deliver(task, &Reset).unwrap();
    }

    /// What the handler's RET and the restorer do.
    fn go_back(task: &mut Task) {
        task.regs.rsp += 8;
        task.return_from_handler();
        deliver(task, &Reset).unwrap();
    }

    #[test]
    fn a_handler_runs_and_what_was_interrupted_goes_on() {
        let mut bench = bench(Action { mask: bit(libc::SIGTERM), ..HANDLER });
        let task = bench.task(0).unwrap();
        let before = task.regs;
        interrupt(task, libc::SIGUSR1);
        assert_eq!((task.regs.rip, task.regs.rdi, task.regs.rbx), (DATA, libc::SIGUSR1 as u64, 7));
        assert_eq!(task.regs.rflags & 0x400, 0, "DF is off");
        assert_eq!(task.blocked, bit(libc::SIGUSR1) | bit(libc::SIGTERM));
        assert_eq!(task.read_u64(task.regs.rsp), Ok(DATA + 64));
        assert_eq!(task.read::<4>(task.regs.rsi), Ok(libc::SIGUSR1.to_le_bytes()));
        go_back(task);
        assert_eq!((task.regs, task.blocked, task.ends()), (before, 0, None));
        bench.finish();
    }

    #[test]
    fn a_handler_without_a_way_back_or_room_for_its_frame_ends_the_program() {
        for (rsp, action) in [(TOP, Action { flags: 0, ..HANDLER }), (READ_ONLY + 0x800, HANDLER), (0, HANDLER)] {
            let mut bench = bench(action);
            let task = bench.task(0).unwrap();
            task.regs.rsp = rsp;
            interrupt(task, libc::SIGUSR1);
            assert_eq!(task.ends(), Some(End::Killed(libc::SIGSEGV)), "{rsp:#x}");
            assert!(task.reason.as_ref().is_some_and(|reason| reason.starts_with("no frame for the handler")));
        }
    }

    #[test]
    fn an_interrupted_call_is_made_again_where_that_is_wanted() {
        let wait = Interrupted { number: 61, restarts: true };
        let sleep = Interrupted { number: 35, restarts: false };
        let again = Action { flags: HAS_RESTORER | RESTART, ..HANDLER };
        for (action, call, is_repeated) in [(again, wait, true), (again, sleep, false), (HANDLER, wait, false)] {
            let mut bench = bench(action);
            let task = bench.task(0).unwrap();
            task.handling.interrupted = Some(call);
            task.regs.rax = -4i64 as u64;
            interrupt(task, libc::SIGUSR1);
            assert_eq!(task.regs.rip, DATA);
            go_back(task);
            let expected = if is_repeated { (0x4442, call.number) } else { (0x4444, -4i64 as u64) };
            assert_eq!((task.regs.rip, task.regs.rax), expected);
            // Nobody handled anything: the call was taken out of its wait for nothing.
            task.handling.interrupted = Some(call);
            deliver(task, &Reset).unwrap();
            assert_eq!((task.regs.rip, task.regs.rax), (expected.0 - 2, call.number));
        }
    }

    #[test]
    fn a_mask_for_the_time_of_a_wait_comes_back_behind_the_handler() {
        let mut bench = bench(HANDLER);
        let task = bench.task(0).unwrap();
        task.handling.saved_mask = Some(bit(libc::SIGUSR1));
        interrupt(task, libc::SIGUSR1);
        go_back(task);
        assert_eq!(task.blocked, bit(libc::SIGUSR1));
        task.handling.saved_mask = Some(0);
        deliver(task, &Reset).unwrap();
        assert_eq!(task.blocked, 0, "or at once, where none has run");
        bench.finish();
    }

    #[test]
    fn a_fault_goes_to_its_handler_unless_that_is_blocked_or_no_address() {
        let fault = Info::fault(libc::SIGSEGV, 1, 8);
        for (blocked, handler, expected) in [
            (0, DATA, None),
            (bit(libc::SIGSEGV), DATA, Some(End::Killed(libc::SIGSEGV))),
            (0, IGNORE, Some(End::Killed(libc::SIGSEGV))),
            (0, 1 << 63, Some(End::Killed(libc::SIGSEGV))),
            (0, stub::ENTRY, Some(End::Killed(libc::SIGSEGV))),
        ] {
            let mut bench = bench(HANDLER);
            let task = bench.task(0).unwrap();
            lock(&task.process.signals).set_action(libc::SIGSEGV, Action { handler, ..HANDLER });
            task.set_blocked(blocked);
            task.force(fault, "read from 0x8".into());
            deliver(task, &Reset).unwrap();
            assert_eq!(task.ends(), expected, "{blocked:#x} {handler:#x}");
        }
    }

    /// A context whose registers would be harmless.
    fn context(bytes: &mut [u8]) {
        let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(184, u64::from(USER_CS) | u64::from(USER_DS) << 48);
        put(168, 0x5555);
        put(224, 0);
    }

    proptest! {
        #[test]
        fn whatever_a_frame_holds_the_program_goes_on_in_ring_3_or_ends(
            mut bytes in prop::collection::vec(any::<u8>(), FRAME_SIZE),
            harmless in any::<bool>(),
            handled in any::<bool>(),
        ) {
            let mut bench = bench(HANDLER);
            let task = bench.task(0).unwrap();
            if harmless {
                context(&mut bytes);
            }
            if handled {
                lock(&task.process.signals).set_action(libc::SIGSEGV, HANDLER);
            }
            task.write(DATA, &bytes).unwrap();
            task.regs.rsp = DATA;
            task.return_from_handler();
            deliver(task, &Reset).unwrap();
            match task.ends() {
                None => {
                    prop_assert!(task.regs.rip < USER_END);
                    prop_assert_eq!(safe_flags(task.regs.rflags), task.regs.rflags);
                }
                Some(end) => prop_assert_eq!((end, harmless), (End::Killed(libc::SIGSEGV), false)),
            }
        }
    }
}
