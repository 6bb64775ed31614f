//! Getting a vCPU out of the guest from another thread.
//!
//! A signal alone races with the entry: one that arrives just before KVM_RUN would be lost. So the handler, which runs on
//! the vCPU's own thread, sets `immediate_exit` in `kvm_run`, and the entry that follows returns at once.
//! Source: KVM API §5 `immediate_exit`.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::thread::JoinHandle;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// Installs the handler of the kick signal; once a process, before the first vCPU thread starts.
///
/// # Errors
/// The host refuses the handler.
pub fn install_handler() -> io::Result<()> {
    register_signal_handler(SIGRTMIN(), on_kick).map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

/// Interrupts the vCPU that `thread` runs; without effect on a thread that has ended.
pub fn kick<T>(thread: &JoinHandle<T>) {
    let _ = thread.kill(SIGRTMIN());
}

/// A thread that may run a vCPU for somebody else: known by its number, for it gives away no handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallingThread(rustix::thread::Pid);

impl CallingThread {
    /// The thread that asks.
    pub fn this() -> CallingThread {
        CallingThread(rustix::thread::gettid())
    }

    /// Interrupts the vCPU that the thread runs. The caller sees to it that the thread still lives: its number may be given to
    /// another of this process, where a kick has no effect but an interrupted system call.
    pub fn kick(self) {
        let (process, thread) = (rustix::process::getpid().as_raw_nonzero(), self.0.as_raw_nonzero());
        // SAFETY: tgkill(2) takes numbers only, and the signal's handler is `on_kick`, which any thread may run.
        unsafe { libc::syscall(libc::SYS_tgkill, process.get(), thread.get(), SIGRTMIN()) };
    }
}

/// From now on a kick of this thread sets `*flag`.
pub(super) fn bind(flag: *mut u8) {
    IMMEDIATE_EXIT.set(flag);
}

/// No kick of this thread sets `*flag` any more.
pub(super) fn unbind(flag: *mut u8) {
    if IMMEDIATE_EXIT.get() == flag {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

extern "C" fn on_kick(_signal: libc::c_int, _info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: `flag` points into the `kvm_run` mapping of a vCPU that lives: `Vcpu`'s drop, on this same thread, unbinds
        // it first.
        unsafe { flag.write_volatile(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU8, Ordering};
    use std::sync::mpsc::channel;

    #[test]
    fn a_kick_sets_the_flag_of_its_thread_and_of_no_other() {
        static FLAGS: [AtomicU8; 2] = [AtomicU8::new(0), AtomicU8::new(0)];
        install_handler().unwrap();
        let (ready, bound) = channel();
        let threads = FLAGS.each_ref().map(|flag| {
            let ready = ready.clone();
            std::thread::spawn(move || {
                bind(flag.as_ptr());
                ready.send(()).unwrap();
                while flag.load(Ordering::SeqCst) == 0 {
                    std::thread::yield_now();
                }
                unbind(flag.as_ptr());
            })
        });
        bound.iter().take(2).count();
        let [first, second] = threads;
        kick(&first);
        first.join().unwrap();
        assert_eq!(FLAGS[1].load(Ordering::SeqCst), 0);
        kick(&second);
        second.join().unwrap();
    }
}
