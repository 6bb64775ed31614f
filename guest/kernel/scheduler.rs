//! Who runs: a queue of all that are ready, one for each processor of those bound to it, and turns of 10 ms.
//!
//! [`leave`] is the one way from the kernel to ring 3: it goes on with the thread that came in, or with another, or sleeps.
//! Source: Intel SDM vol. 1 §10.5 (FXSAVE, FXRSTOR).

use core::arch::asm;
use core::cell::Cell;

use guest::cpu;

use super::Locked;
use super::abi::ANY_CPU;
use super::list::{List, QUEUE};
use super::processor::{self, CPUS_MAX, Cpu};
use super::space::kernel_root;
use super::thread::{Context, State, Thread};
use super::{session, time, trap};

static READY: Locked<List<QUEUE>> = Locked(List::new());
static BOUND: Locked<[List<QUEUE>; CPUS_MAX]> = Locked([const { List::new() }; CPUS_MAX]);
/// Processors without work, a bit each, that nobody has woken yet.
static IDLE: Locked<Cell<u64>> = Locked(Cell::new(0));

/// What FXRSTOR makes the vector registers at first: zeroes, exceptions masked (Intel SDM vol. 1 table 10-2, §8.1.5).
#[repr(C, align(16))]
struct Vectors([u64; 64]);
static INITIAL: Vectors = {
    let mut words = [0; 64];
    words[0] = 0x37f;
    words[3] = 0x1f80;
    Vectors(words)
};

unsafe extern "C" {
    fn kernel_resume(context: &Context) -> !;
}

/// The queue that `thread` waits in when it is ready.
fn queue(thread: &Thread) -> &'static List<QUEUE> {
    match thread.bound.get() {
        ANY_CPU => &READY,
        cpu => &BOUND[cpu as usize],
    }
}

/// `thread` can run: soon, if a processor sleeps.
pub fn make_ready(thread: &'static Thread) {
    thread.state.set(State::Ready);
    queue(thread).push(thread);
    let candidates = match thread.bound.get() {
        ANY_CPU => IDLE.get(),
        cpu => IDLE.get() & 1 << cpu,
    };
    if candidates != 0
        && let Some(cpu) = processor::all().find(|cpu| candidates & 1 << cpu.index() != 0)
    {
        IDLE.set(IDLE.get() & !(1 << cpu.index()));
        processor::interrupt(cpu.index());
    }
}

/// `thread` ends: it does not wait for a processor any more.
pub fn forget(thread: &Thread) {
    if thread.state.get() == State::Ready {
        queue(thread).remove(thread);
    }
}

/// Whether somebody waits for this processor.
pub fn somebody_waits(cpu: &Cpu) -> bool {
    READY.first().is_some() || BOUND[cpu.index() as usize].first().is_some()
}

/// The next that this processor may run; bound ones and others take turns.
fn pick(cpu: &Cpu) -> Option<&'static Thread> {
    let bound = &BOUND[cpu.index() as usize];
    let (first, second) = if cpu.prefers_bound.get() { (bound, &*READY) } else { (&*READY, bound) };
    match first.pop() {
        Some(thread) => {
            cpu.prefers_bound.set(!cpu.prefers_bound.get());
            Some(thread)
        }
        None => second.pop(),
    }
}

/// Out of the kernel: frees the lock and runs who is to run on this processor.
pub fn leave(cpu: &'static Cpu) -> ! {
    if let Some(thread) = cpu.current.get() {
        if thread.killed.get() {
            retire(cpu, thread);
            thread.process().end_thread(thread, 0);
        } else if thread.state.get() != State::Running {
            retire(cpu, thread);
        } else if stays(cpu) {
            resume(thread);
        } else {
            retire(cpu, thread);
            keep_vectors(thread);
            thread.preemptions.set(thread.preemptions.get() + 1);
            thread.state.set(State::Ready);
            queue(thread).push(thread);
        }
    }
    choose(cpu)
}

/// Runs what is ready, and sleeps while nothing is.
fn choose(cpu: &'static Cpu) -> ! {
    loop {
        if session::can_go_on(cpu) {
            session::go_on();
        }
        if let Some(thread) = pick(cpu) {
            run(cpu, thread);
        }
        cpu.load_space(kernel_root());
        IDLE.set(IDLE.get() | 1 << cpu.index());
        time::arm(cpu, time::now_ns(), u64::MAX);
        processor::unlock();
        cpu::wait_for_interrupt();
        processor::lock(cpu);
        // Perhaps it was the timer, and that a moment early by our clock: it does not fire again by itself.
        cpu.timer_ns.set(u64::MAX);
        IDLE.set(IDLE.get() & !(1 << cpu.index()));
        trap::events();
    }
}

/// A processor begins, without work and without the lock, on its own stack.
pub extern "C" fn begin_idle() -> ! {
    let cpu = processor::this();
    processor::lock(cpu);
    choose(cpu)
}

/// Whether the thread that came into the kernel goes on.
fn stays(cpu: &Cpu) -> bool {
    if session::can_go_on(cpu) {
        return false;
    }
    if !cpu.timer_fired.replace(false) {
        return true;
    }
    let now = time::now_ns();
    if now >= cpu.slice_end_ns.get() {
        if somebody_waits(cpu) {
            return false;
        }
        cpu.slice_end_ns.set(now + time::SLICE_NS);
    }
    cpu.timer_ns.set(u64::MAX);
    time::arm(cpu, now, cpu.slice_end_ns.get());
    true
}

/// `thread` leaves the processor.
fn retire(cpu: &Cpu, thread: &Thread) {
    cpu.current.set(None);
    let ran = cpu::time_stamp() - cpu.since_ticks.get();
    thread.cpu_ticks.set(thread.cpu_ticks.get() + ran);
}

/// Runs `thread`, which was taken from its queue.
fn run(cpu: &'static Cpu, thread: &'static Thread) -> ! {
    thread.state.set(State::Running);
    cpu.current.set(Some(thread));
    cpu.load(thread);
    let pid = thread.process().pid.get();
    if thread.vectors_kept.replace(false) {
        load_vectors(thread.vectors.get() as u64);
        cpu.vectors_of.set(pid);
    } else if cpu.vectors_of.replace(pid) != pid {
        // It waited in a call, which keeps no vector registers; but those of another process are not for its eyes.
        load_vectors(&raw const INITIAL as u64);
    }
    let now = time::now_ns();
    cpu.slice_end_ns.set(now + time::SLICE_NS);
    cpu.timer_fired.set(false);
    time::arm(cpu, now, now + time::SLICE_NS);
    cpu.since_ticks.set(cpu::time_stamp());
    resume(thread)
}

fn resume(thread: &'static Thread) -> ! {
    processor::unlock();
    // SAFETY: the context is that of a thread of ring 3, whose memory is loaded.
    unsafe { kernel_resume(&thread.context) }
}

/// Keeps the vector registers of a thread that did not expect to lose the processor.
fn keep_vectors(thread: &Thread) {
    // SAFETY: the area is the thread's, of 512 bytes, aligned to 16.
    unsafe { asm!("fxsave64 [{}]", in(reg) thread.vectors.get(), options(nostack, preserves_flags)) };
    thread.vectors_kept.set(true);
}

fn load_vectors(area: u64) {
    // SAFETY: what FXSAVE has written, or the constant above.
    unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags, readonly)) };
}
