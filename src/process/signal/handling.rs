//! What a thread keeps for its signals between a trap and the next.
//!
//! Source: Linux `kernel/signal.c` (`saved_sigmask`, restarts), sigaltstack(2).

use super::frame::AltStack;

/// See the file's header.
#[derive(Debug, Default)]
pub struct Handling {
    /// The stack for handlers that want one of their own.
    pub stack: AltStack,
    /// The mask that comes back behind the handler, where a call that waits set another meanwhile.
    pub saved_mask: Option<u64>,
    /// The call that was interrupted just now.
    pub interrupted: Option<Interrupted>,
    /// The last exception: vector, error code, address of a page fault.
    pub trap: [u64; 3],
    /// A handler has returned just now: address of the extended state in its frame.
    pub returned: Option<u64>,
    /// What the program did to get a signal, where it caused that itself.
    pub reason: Option<(i32, String)>,
}

/// A call that gave EINTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted {
    /// Its number.
    pub number: u64,
    /// Whether it is made again behind a handler that was installed with SA_RESTART. It always is where none runs.
    pub restarts: bool,
}

impl Interrupted {
    /// A call with these arguments. Sleeping, waiting for signals, and waiting for files are never begun again (signal(7)).
    pub fn new(number: u64, arguments: &[u64; 6]) -> Interrupted {
        const COMMAND: u64 = 0x7f;
        let waits = match number as i64 {
            libc::SYS_poll
            | libc::SYS_ppoll
            | libc::SYS_select
            | libc::SYS_pselect6
            | libc::SYS_epoll_wait
            | libc::SYS_epoll_pwait
            | libc::SYS_epoll_pwait2
            | libc::SYS_nanosleep
            | libc::SYS_clock_nanosleep
            | libc::SYS_pause
            | libc::SYS_rt_sigsuspend
            | libc::SYS_rt_sigtimedwait => true,
            // FUTEX_WAIT and FUTEX_WAIT_BITSET with a time.
            libc::SYS_futex => matches!(arguments[1] & COMMAND, 0 | 9) && arguments[3] != 0,
            _ => false,
        };
        Interrupted { number, restarts: !waits }
    }
}

#[cfg(test)]
mod tests {
    use super::Interrupted;

    #[test]
    fn some_calls_are_not_made_again_whatever_the_handler_wants() {
        let restarts = |number: i64, arguments| Interrupted::new(number as u64, &arguments).restarts;
        assert!(restarts(libc::SYS_read, [0; 6]) && restarts(libc::SYS_wait4, [0; 6]));
        assert!(!restarts(libc::SYS_poll, [0; 6]) && !restarts(libc::SYS_nanosleep, [0; 6]));
        assert!(restarts(libc::SYS_futex, [0, 128, 0, 0, 0, 0]) && !restarts(libc::SYS_futex, [0, 137, 0, 8, 0, 0]));
    }
}
