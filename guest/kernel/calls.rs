//! The system calls: which number is which, and those that are about processes, threads and time.
//!
//! A call gives `Ok(Some(result))`, `Ok(None)` when the thread waits or has ended, or an error.

use guest::cpu;

use super::abi::{
    ARGUMENT_BYTES_MAX, END_EXIT, END_KILLED, Ended, Error, NAME_BYTES_MAX, NO_BLOCK, System, USER_BASE, USER_END,
    Usage, number,
};
use super::process::{Process, valid_cpu};
use super::processor;
use super::thread::{State, THREAD_BYTES, Thread};
use super::wait::{self, After, child_key, thread_key};
use super::{disk, files, frames, memory_calls, net, poll, programs, scheduler, table, thread, time, trap};

/// What a call gives.
pub type Outcome = Result<Option<u64>, Error>;

/// A system call: its number and arguments are in the registers.
#[unsafe(no_mangle)]
extern "C" fn kernel_called(context: u64) -> ! {
    // SAFETY: `entry.s` gives the context of the thread that ran.
    let thread = unsafe { thread::of_context(context) };
    let cpu = processor::get(thread.cpu.get());
    processor::lock(cpu);
    enter(thread);
    trap::events();
    scheduler::leave(cpu)
}

/// Does what `thread` calls for.
pub fn enter(thread: &'static Thread) {
    if thread.killed.get() {
        return;
    }
    thread.system_calls.set(thread.system_calls.get() + 1);
    let process = thread.process();
    process.system_calls.set(process.system_calls.get() + 1);
    match call(thread, thread.context.rax.get(), thread.context.arguments()) {
        Ok(Some(result)) => thread.context.rax.set(result),
        Ok(None) => {}
        Err(error) => thread.context.rax.set(error.result()),
    }
}

/// Makes the call.
fn call(thread: &'static Thread, number: u64, arguments: [u64; 5]) -> Outcome {
    let [a, b, c, d, e] = arguments;
    let process = thread.process();
    match number {
        number::GETPID => Ok(Some(process.pid.get())),
        number::GETTID => Ok(Some(thread.tid.get())),
        number::CPU => Ok(Some(thread.cpu.get())),
        number::CLOCK => Ok(Some(time::now_ns())),
        number::YIELD => give_way(thread),
        number::FUTEX_WAIT => memory_calls::futex_wait(thread, a, b as u32, c),
        number::FUTEX_WAKE => memory_calls::futex_wake(process, a, b),
        number::READ => files::read(thread, a, b, c, d, e),
        number::WRITE => files::write(thread, a, b, c),
        number::POLL => poll::poll(thread, a, b, c, d, e as u32),
        number::MAP => memory_calls::map(process, a),
        number::UNMAP => memory_calls::unmap(process, a, b),
        number::SLEEP => {
            wait::wait(thread, wait::SLEEP, time::now_ns().saturating_add(a), After::Result(0));
            Ok(None)
        }
        number::THREAD_CREATE => thread_create(process, a, b, c, d, e),
        number::THREAD_EXIT => {
            process.end_thread(thread, a);
            Ok(None)
        }
        number::THREAD_JOIN => thread_join(thread, a, b, c),
        number::THREAD_BIND => bind(thread, a),
        number::SET_TLS => set_tls(thread, a),
        number::SPAWN => spawn(process, a, b, c, d),
        number::WAIT => wait_for_child(thread, a, b, c),
        number::EXIT => {
            process.end(Ended { kind: END_EXIT, value: a });
            Ok(None)
        }
        number::KILL => kill(a),
        number::SYSTEM => system(process, a),
        number::USAGE => usage(thread, a),
        number::SNAPSHOT => table::snapshot(process, a, b),
        number::OPEN => files::open(process, a, b),
        number::CLOSE => files::close_descriptor(process, a),
        number::SIZE => files::size(process, a),
        _ => Err(Error::NoCall),
    }
}

/// Gives the processor to whoever waits for it.
fn give_way(thread: &'static Thread) -> Outcome {
    if scheduler::somebody_waits(processor::get(thread.cpu.get())) {
        thread.context.rax.set(0);
        thread.voluntary_switches.set(thread.voluntary_switches.get() + 1);
        scheduler::make_ready(thread);
        return Ok(None);
    }
    Ok(Some(0))
}

fn thread_create(process: &'static Process, entry: u64, stack_top: u64, argument: u64, tls: u64, cpu: u64) -> Outcome {
    let cpu = valid_cpu(cpu)?;
    let own = USER_BASE..USER_END;
    // What is loaded into RIP and FS base must be an address at all; that there is memory shows when it is used.
    if !own.contains(&entry) || !own.contains(&stack_top) || stack_top % 16 != 0 || !(tls == 0 || own.contains(&tls)) {
        return Err(Error::Invalid);
    }
    let thread = Thread::new(process, entry, stack_top - 8, argument)?;
    thread.tls.set(tls);
    thread.bound.set(cpu);
    scheduler::make_ready(thread);
    Ok(Some(thread.tid.get()))
}

fn thread_join(thread: &'static Thread, tid: u64, value: u64, flags: u64) -> Outcome {
    let process = thread.process();
    let other = Thread::find(tid).filter(|other| core::ptr::eq(other.process(), process)).ok_or(Error::NoProcess)?;
    if core::ptr::eq(other, thread) {
        return Err(Error::Invalid);
    }
    if other.state.get() == State::Ended {
        if value != 0 {
            process.space.copy_out(value, other.value.as_ptr() as u64, 8)?;
        }
        other.forget();
        return Ok(Some(0));
    }
    if flags & NO_BLOCK != 0 {
        return Err(Error::Again);
    }
    wait::wait(thread, thread_key(tid), super::abi::FOREVER, After::Again);
    Ok(None)
}

fn bind(thread: &'static Thread, cpu: u64) -> Outcome {
    thread.bound.set(valid_cpu(cpu)?);
    if cpu != super::abi::ANY_CPU && cpu != thread.cpu.get() {
        thread.context.rax.set(0);
        scheduler::make_ready(thread);
        return Ok(None);
    }
    Ok(Some(0))
}

fn set_tls(thread: &'static Thread, base: u64) -> Outcome {
    if base != 0 && !(USER_BASE..USER_END).contains(&base) {
        return Err(Error::Invalid);
    }
    thread.tls.set(base);
    processor::get(thread.cpu.get()).set_tls(base);
    Ok(Some(0))
}

fn spawn(process: &'static Process, name: u64, name_bytes: u64, arguments: u64, argument_bytes: u64) -> Outcome {
    if name_bytes > NAME_BYTES_MAX || argument_bytes > ARGUMENT_BYTES_MAX {
        return Err(Error::Invalid);
    }
    // Without clearing them first, which would take vector registers or many steps.
    let mut texts = core::mem::MaybeUninit::<[u8; (NAME_BYTES_MAX + ARGUMENT_BYTES_MAX) as usize]>::uninit();
    let place = texts.as_mut_ptr() as u64;
    process.space.copy_in(place, name, name_bytes)?;
    process.space.copy_in(place + NAME_BYTES_MAX, arguments, argument_bytes)?;
    // SAFETY: so many bytes of each have been copied there.
    let (name, arguments) = unsafe {
        (
            core::slice::from_raw_parts(place as *const u8, name_bytes as usize),
            core::slice::from_raw_parts((place + NAME_BYTES_MAX) as *const u8, argument_bytes as usize),
        )
    };
    let program = programs::find(name).ok_or(Error::NoEntry)?;
    let child = Process::spawn(program, arguments, process.pid.get(), process.is_foreground.get())?;
    Ok(Some(child.pid.get()))
}

fn wait_for_child(thread: &'static Thread, pid: u64, ended: u64, flags: u64) -> Outcome {
    let process = thread.process();
    let mut has_child = false;
    for child in Process::all().filter(|child| child.parent.get() == process.pid.get()) {
        if pid != 0 && pid != child.pid.get() {
            continue;
        }
        has_child = true;
        if child.is_gone.get() {
            let how = child.ended.get().unwrap_or_default();
            process.space.copy_out(ended, &raw const how as u64, size_of::<Ended>() as u64)?;
            child.reap();
            return Ok(Some(child.pid.get()));
        }
    }
    if !has_child {
        return Err(Error::NoChild);
    }
    if flags & NO_BLOCK != 0 {
        return Err(Error::Again);
    }
    wait::wait(thread, child_key(process.pid.get()), super::abi::FOREVER, After::Again);
    Ok(None)
}

fn kill(pid: u64) -> Outcome {
    let process = Process::find(pid).filter(|process| process.ended.get().is_none()).ok_or(Error::NoProcess)?;
    process.end(Ended { kind: END_KILLED, value: 0 });
    Ok(Some(0))
}

fn system(process: &Process, place: u64) -> Outcome {
    let system = System {
        cpus: processor::count(),
        ticks_per_ms: time::ticks_per_ms(),
        slice_ns: time::SLICE_NS,
        thread_bytes: THREAD_BYTES,
        free_bytes: frames::free_bytes(),
        mac: net::mac(),
        disk_bytes: disk::bytes(),
    };
    process.space.copy_out(place, &raw const system as u64, size_of::<System>() as u64)?;
    Ok(Some(0))
}

fn usage(thread: &Thread, place: u64) -> Outcome {
    let process = thread.process();
    let running = cpu::time_stamp() - processor::get(thread.cpu.get()).since_ticks.get();
    let usage = Usage {
        system_calls: thread.system_calls.get(),
        voluntary_switches: thread.voluntary_switches.get(),
        preemptions: thread.preemptions.get(),
        cpu_ticks: thread.cpu_ticks.get() + running,
        process_pages: process.space.pages(),
        process_threads: process.thread_count.get(),
        process_system_calls: process.system_calls.get(),
    };
    process.space.copy_out(place, &raw const usage as u64, size_of::<Usage>() as u64)?;
    Ok(Some(0))
}
