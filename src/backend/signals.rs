//! SIGINT, SIGTERM, SIGHUP, SIGCONT and SIGWINCH as events: the handler notes the signal and wakes the control thread, nothing more.
//! And SIGXFSZ, by which the kernel ends who writes beyond its limit of a file's size: caught, the write is an error like others.
//!
//! Source: signal-safety(7): a handler may store into an atomic and call write(2).

use crate::event_loop::Waker;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use vmm_sys_util::signal::register_signal_handler;

/// Signals that end a run.
const ENDING: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// The first ending signal that came; 0 for none.
static CAME: AtomicI32 = AtomicI32::new(0);
/// Whether the process was continued after a stop.
static CONTINUED: AtomicBool = AtomicBool::new(false);
/// Whether the terminal's size changed.
static RESIZED: AtomicBool = AtomicBool::new(false);
/// The eventfd that wakes the control thread; -1 before there is one.
static WAKE: AtomicI32 = AtomicI32::new(-1);

/// The process' ending signals, caught.
pub struct Signals {
    /// Keeps the descriptor in [`WAKE`] open for ever: a handler may run at any time.
    _waker: Waker,
}

impl Signals {
    /// Catches the signals from now on; `waker` wakes whoever calls [`Signals::came`]. One at a time in a process; a signal that an
    /// earlier one has caught wakes at once. One that was ignored before (nohup, a shell's background job) stays ignored.
    ///
    /// # Errors
    /// The host refuses a handler.
    pub fn catch(waker: Waker) -> io::Result<Signals> {
        WAKE.store(waker.fd().as_raw_fd(), Ordering::SeqCst);
        let wanted = ENDING.into_iter().filter(|signal| !is_ignored(*signal));
        for signal in wanted.chain([libc::SIGCONT, libc::SIGXFSZ]) {
            catch(signal)?;
        }
        if CAME.load(Ordering::SeqCst) != 0 {
            waker.wake();
        }
        Ok(Signals { _waker: waker })
    }

    /// Catches SIGINT alone; `waker` wakes whoever calls [`Signals::take`]. Once a process. Where it was ignored before it stays so.
    ///
    /// # Errors
    /// The host refuses the handler.
    pub fn catch_interrupts(waker: Waker) -> io::Result<Signals> {
        WAKE.store(waker.fd().as_raw_fd(), Ordering::SeqCst);
        if !is_ignored(libc::SIGINT) {
            catch(libc::SIGINT)?;
        }
        Ok(Signals { _waker: waker })
    }

    /// Takes the ending signal that came since the last call.
    pub fn take(&self) -> Option<i32> {
        Some(CAME.swap(0, Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// Catches changes of the terminal's size too.
    ///
    /// # Errors
    /// The host refuses a handler.
    pub fn catch_resizes(&self) -> io::Result<()> {
        catch(libc::SIGWINCH)
    }

    /// The first ending signal that came.
    pub fn came(&self) -> Option<i32> {
        Some(CAME.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// Whether the process was stopped and continued since the last call.
    pub fn continued(&self) -> bool {
        CONTINUED.swap(false, Ordering::SeqCst)
    }

    /// Whether the terminal's size changed since the last call.
    pub fn resized(&self) -> bool {
        RESIZED.swap(false, Ordering::SeqCst)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        WAKE.store(-1, Ordering::SeqCst);
    }
}

fn catch(signal: libc::c_int) -> io::Result<()> {
    register_signal_handler(signal, on_signal).map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: sigaction is plain data for which all zeroes are valid; it lives across the call, which only fills it in.
    unsafe {
        let mut present: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut present) == 0 && present.sa_sigaction == libc::SIG_IGN
    }
}

extern "C" fn on_signal(signal: libc::c_int, _info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    match signal {
        libc::SIGCONT => CONTINUED.store(true, Ordering::SeqCst),
        libc::SIGXFSZ => return,
        libc::SIGWINCH => RESIZED.store(true, Ordering::SeqCst),
        // A second ending signal changes nothing.
        _ => drop(CAME.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst)),
    }
    let wake = WAKE.load(Ordering::SeqCst);
    let one = 1u64.to_ne_bytes();
    // SAFETY: write(2) is async-signal-safe and reads eight bytes of a live array; a descriptor of -1 fails with EBADF.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::write(wake, one.as_ptr().cast(), one.len());
        *errno = before;
    }
}

/// Ends this process by `signal`, as if it had never been caught: whoever started it sees the truth.
pub fn end_by(signal: i32) -> ! {
    // SAFETY: resets a disposition and raises a signal of this process; both take plain numbers.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
    // A blocked or ignored signal does not end it: the shell's convention says it as a status.
    std::process::exit(128 + signal)
}
