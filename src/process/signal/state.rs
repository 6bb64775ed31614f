//! What a process does about signals, and which are pending: for all of it and for each of its threads.
//!
//! A signal of the whole process goes to its first thread, or where that blocks it to another that does not. A standard signal is pending
//! once, a real-time one as often as it was sent, up to a bound. Nothing waits here, and nothing is run.
//! Sources: signal(7), sigaction(2), sigqueue(3); POSIX.1-2017 §2.4.1 (signal generation and delivery).

use super::info::Info;
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};

/// Signals that there are.
pub const SIGNALS: usize = 64;
/// SIGKILL and SIGSTOP, which can neither be blocked nor handled.
pub const UNBLOCKABLE: u64 = bit(libc::SIGKILL) | bit(libc::SIGSTOP);
/// Signals that instructions cause: they come before others (Linux SYNCHRONOUS_MASK).
const SYNCHRONOUS: u64 = bit(libc::SIGSEGV)
    | bit(libc::SIGBUS)
    | bit(libc::SIGILL)
    | bit(libc::SIGTRAP)
    | bit(libc::SIGFPE)
    | bit(libc::SIGSYS);
/// Signals that do nothing unless a handler is installed: SIGCHLD, SIGURG, SIGWINCH, SIGCONT.
const IGNORED: u64 = bit(libc::SIGCHLD) | bit(libc::SIGURG) | bit(libc::SIGWINCH) | bit(libc::SIGCONT);
/// First real-time signal.
const FIRST_REAL_TIME: i32 = 32;
/// Most signals that are pending in one queue (RLIMIT_SIGPENDING is several thousand on Linux).
const PENDING_MAX: usize = 1024;

/// SIG_DFL.
pub const DEFAULT: u64 = 0;
/// SIG_IGN.
pub const IGNORE: u64 = 1;
/// SA_NOCLDWAIT.
const NO_CHILD_WAIT: u64 = libc::SA_NOCLDWAIT as u64;
/// SA_RESETHAND.
const RESET_HANDLER: u64 = libc::SA_RESETHAND as u32 as u64;

/// A signal in a set of signals: signal 1 is bit 0.
pub const fn bit(signal: i32) -> u64 {
    1 << ((signal - 1) & 63)
}

/// What a process does about a signal: `struct kernel_sigaction` as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// SIG_DFL (0), SIG_IGN (1), or the handler's address.
    pub handler: u64,
    /// SA_ flags.
    pub flags: u64,
    /// Code that returns from the handler.
    pub restorer: u64,
    /// Signals that are blocked meanwhile.
    pub mask: u64,
}

/// A process's signals.
pub struct Signals {
    actions: [Action; SIGNALS],
    shared: Queue,
    /// By number: those that run.
    threads: BTreeMap<i32, Thread>,
}

#[derive(Default)]
struct Thread {
    blocked: u64,
    own: Queue,
}

#[derive(Default)]
struct Queue {
    infos: VecDeque<Info>,
    /// Which there are.
    set: u64,
}

impl Queue {
    fn add(&mut self, info: Info) -> Result<(), Errno> {
        let signal = info.signal();
        if self.set & bit(signal) != 0 && signal < FIRST_REAL_TIME {
            return Ok(());
        }
        if self.infos.len() >= PENDING_MAX {
            return Err(Errno::AGAIN);
        }
        self.infos.push_back(info);
        self.set |= bit(signal);
        Ok(())
    }

    /// The first of the signals of `wanted`: those of instructions, then the lowest number.
    fn take(&mut self, wanted: u64) -> Option<Info> {
        let there = self.set & wanted;
        let first = if there & SYNCHRONOUS != 0 { there & SYNCHRONOUS } else { there };
        let signal = first.trailing_zeros() as i32 + 1;
        let at = self.infos.iter().position(|info| first != 0 && info.signal() == signal)?;
        let info = self.infos.remove(at);
        self.recount();
        info
    }

    fn remove_all(&mut self, signals: u64) {
        if self.set & signals != 0 {
            self.infos.retain(|info| bit(info.signal()) & signals == 0);
            self.recount();
        }
    }

    fn recount(&mut self) {
        self.set = self.infos.iter().fold(0, |set, info| set | bit(info.signal()));
    }
}

impl Default for Signals {
    fn default() -> Signals {
        Signals { actions: [Action::default(); SIGNALS], shared: Queue::default(), threads: BTreeMap::new() }
    }
}

impl Signals {
    /// Those of a child: the actions are its parent's, nothing is pending.
    pub fn for_child(&self) -> Signals {
        Signals { actions: self.actions, ..Signals::default() }
    }

    /// Another program: handlers are gone, what was ignored stays so.
    pub fn reset_handlers(&mut self) {
        for action in &mut self.actions {
            let handler = if action.handler == IGNORE { IGNORE } else { DEFAULT };
            *action = Action { handler, ..Action::default() };
        }
    }

    /// A thread begins, with these signals blocked.
    pub fn add_thread(&mut self, id: i32, blocked: u64) {
        self.threads.insert(id, Thread { blocked, own: Queue::default() });
    }

    /// A thread has ended.
    pub fn remove_thread(&mut self, id: i32) {
        self.threads.remove(&id);
    }

    /// What a thread blocks from now on.
    pub fn set_blocked(&mut self, id: i32, blocked: u64) {
        if let Some(thread) = self.threads.get_mut(&id) {
            thread.blocked = blocked;
        }
    }

    /// What is done about a signal, whose number is valid.
    pub fn action(&self, signal: i32) -> Action {
        self.actions[signal as usize - 1]
    }

    /// Changes what is done about a signal, whose number is valid. One that is ignored from now on is pending no more.
    pub fn set_action(&mut self, signal: i32, action: Action) {
        self.actions[signal as usize - 1] = action;
        if self.ignores(signal) {
            self.shared.remove_all(bit(signal));
            self.threads.values_mut().for_each(|thread| thread.own.remove_all(bit(signal)));
        }
    }

    /// Whether there is a handler of a signal, whose number is valid.
    pub fn handles(&self, signal: i32) -> bool {
        self.action(signal).handler > IGNORE
    }

    /// Whether children that have ended are not waited for.
    pub fn reaps_children(&self) -> bool {
        let action = self.action(libc::SIGCHLD);
        action.handler == IGNORE || action.flags & NO_CHILD_WAIT != 0
    }

    fn ignores(&self, signal: i32) -> bool {
        match self.action(signal).handler {
            DEFAULT => IGNORED & bit(signal) != 0,
            IGNORE => true,
            _ => false,
        }
    }

    /// A signal comes, for one thread or for any of the process. It is dropped where it would have no effect; one that is ignored
    /// and blocked stays, for a handler may come before it is let through.
    ///
    /// # Errors
    /// EAGAIN: too many are pending.
    pub fn post(&mut self, thread: Option<i32>, info: Info) -> Result<(), Errno> {
        let signal = info.signal();
        let mut concerned = self.threads.iter().filter(|(id, _)| thread.is_none_or(|thread| **id == thread));
        if self.ignores(signal) && !concerned.any(|(_, thread)| thread.blocked & bit(signal) != 0) {
            return Ok(());
        }
        match thread {
            None => self.shared.add(info),
            Some(id) => self.threads.get_mut(&id).map_or(Ok(()), |thread| thread.own.add(info)),
        }
    }

    /// A thread's instruction causes a signal, which it gets whatever it blocks: where it does, or ignores the signal, that is undone, so
    /// that it ends. Returns what it blocks then.
    pub fn force(&mut self, id: i32, info: Info) -> u64 {
        let signal = info.signal();
        let blocked = self.threads.get(&id).map_or(0, |thread| thread.blocked);
        if blocked & bit(signal) != 0 || self.action(signal).handler == IGNORE {
            self.actions[signal as usize - 1].handler = DEFAULT;
        }
        let Some(thread) = self.threads.get_mut(&id) else { return blocked };
        thread.blocked &= !bit(signal);
        // What is told is what the instruction did, not what somebody sent before.
        thread.own.remove_all(bit(signal));
        thread.own.infos.push_front(info);
        thread.own.set |= bit(signal);
        thread.blocked
    }

    /// Whether it is this thread that gets a signal sent to one thread, or to any, as soon as it looks.
    pub fn leads_to(&self, id: i32, thread: Option<i32>, signal: i32) -> bool {
        let lets_through = |(_, thread): &(&i32, &Thread)| thread.blocked & bit(signal) == 0;
        let first = || self.threads.iter().find(lets_through).map(|(id, _)| *id);
        thread.or_else(first) == Some(id)
    }

    /// Signals that are pending for a thread: its own and the process's.
    pub fn pending(&self, id: i32) -> u64 {
        self.shared.set | self.threads.get(&id).map_or(0, |thread| thread.own.set)
    }

    /// Whether a thread has a signal that it does not block.
    pub fn are_due(&self, id: i32) -> bool {
        self.due(id) != (0, 0)
    }

    /// Signals that are due for a thread: its own, and those of the process that no thread before it takes.
    fn due(&self, id: i32) -> (u64, u64) {
        let Some(thread) = self.threads.get(&id) else { return (0, 0) };
        let own = thread.own.set & !thread.blocked;
        // Mostly nothing is shared, and the others need not be looked at.
        if self.shared.set == 0 {
            return (own, 0);
        }
        let before = self.threads.range(..id).map(|(_, other)| other.blocked);
        let mine = before.fold(!thread.blocked, |mine, blocked| mine & blocked);
        (own, self.shared.set & mine)
    }

    /// The next signal that a thread has to do something about, and what.
    pub fn take(&mut self, id: i32) -> Option<(Info, Action)> {
        loop {
            let (own, shared) = self.due(id);
            let queue = if own != 0 { &mut self.threads.get_mut(&id)?.own } else { &mut self.shared };
            let info = queue.take(if own != 0 { own } else { shared })?;
            let signal = info.signal();
            if self.ignores(signal) {
                continue;
            }
            let action = self.action(signal);
            if action.handler != DEFAULT && action.flags & RESET_HANDLER != 0 {
                self.actions[signal as usize - 1].handler = DEFAULT;
            }
            return Some((info, action));
        }
    }

    /// The next pending signal of `wanted`, blocked or not: sigtimedwait(2).
    pub fn take_of(&mut self, id: i32, wanted: u64) -> Option<Info> {
        let own = self.threads.get_mut(&id).and_then(|thread| thread.own.take(wanted));
        own.or_else(|| self.shared.take(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::super::info::{SI_KERNEL, SI_USER};
    use super::*;

    const HANDLER: Action = Action { handler: 0x1000, flags: 0, restorer: 0, mask: 0 };

    fn signals(threads: &[(i32, u64)]) -> Signals {
        let mut signals = Signals::default();
        threads.iter().for_each(|(id, blocked)| signals.add_thread(*id, *blocked));
        signals
    }

    fn post(signals: &mut Signals, thread: Option<i32>, signal: i32) {
        signals.post(thread, Info::new(signal, SI_USER)).unwrap();
    }

    fn next(signals: &mut Signals, id: i32) -> Option<i32> {
        signals.take(id).map(|(info, _)| info.signal())
    }

    #[test]
    fn a_standard_signal_is_pending_once_and_a_real_time_one_as_often_as_it_was_sent() {
        let mut signals = signals(&[(2, bit(10) | bit(40))]);
        for _ in 0..3 {
            post(&mut signals, None, 10);
            post(&mut signals, None, 40);
        }
        assert_eq!((signals.pending(2), signals.are_due(2)), (bit(10) | bit(40), false));
        signals.set_blocked(2, 0);
        let taken: Vec<_> = std::iter::from_fn(|| next(&mut signals, 2)).collect();
        assert_eq!(taken, [10, 40, 40, 40]);
        signals.set_blocked(2, bit(40));
        let sent = (0..2000).filter(|_| signals.post(None, Info::new(40, SI_USER)).is_ok()).count();
        assert_eq!(sent, PENDING_MAX);
    }

    #[test]
    fn a_process_signal_goes_to_the_first_thread_that_lets_it_through() {
        let mut signals = signals(&[(2, bit(10)), (3, 0), (4, 0)]);
        post(&mut signals, None, 10);
        assert_eq!([2, 3, 4].map(|id| signals.are_due(id)), [false, true, false]);
        assert_eq!([2, 3, 4].map(|id| signals.leads_to(id, None, 10)), [false, true, false]);
        signals.set_blocked(2, 0);
        assert_eq!([2, 3, 4].map(|id| signals.are_due(id)), [true, false, false]);
        assert_eq!([2, 3, 4].map(|id| signals.leads_to(id, Some(4), 10)), [false, false, true]);
        post(&mut signals, Some(4), 15);
        assert_eq!((next(&mut signals, 3), next(&mut signals, 4), next(&mut signals, 2)), (None, Some(15), Some(10)));
    }

    #[test]
    fn what_is_ignored_is_dropped_unless_it_is_blocked() {
        let mut signals = signals(&[(2, bit(libc::SIGURG))]);
        post(&mut signals, None, libc::SIGCHLD);
        post(&mut signals, None, libc::SIGURG);
        assert_eq!(signals.pending(2), bit(libc::SIGURG));
        signals.set_action(libc::SIGURG, HANDLER);
        signals.set_blocked(2, 0);
        assert_eq!(next(&mut signals, 2), Some(libc::SIGURG));
        post(&mut signals, None, libc::SIGTERM);
        signals.set_action(libc::SIGTERM, Action { handler: IGNORE, ..HANDLER });
        assert_eq!((signals.pending(2), next(&mut signals, 2)), (0, None));
    }

    #[test]
    fn an_instructions_signal_comes_first_and_cannot_be_kept_away() {
        let mut signals = signals(&[(2, 0)]);
        let fault = Info::fault(libc::SIGSEGV, 1, 8);
        signals.set_action(libc::SIGSEGV, HANDLER);
        post(&mut signals, Some(2), 1);
        assert_eq!(signals.force(2, fault), 0);
        assert_eq!(signals.take(2), Some((fault, HANDLER)));
        signals.set_blocked(2, bit(libc::SIGSEGV));
        assert_eq!(signals.force(2, fault), 0, "it is blocked no more");
        assert_eq!(signals.take(2).map(|(_, action)| action.handler), Some(DEFAULT));
        assert_eq!(next(&mut signals, 2), Some(1));
    }

    #[test]
    fn a_handler_may_be_for_once_and_is_gone_with_its_program() {
        let mut signals = signals(&[(2, 0)]);
        signals.set_action(10, Action { flags: RESET_HANDLER, ..HANDLER });
        signals.set_action(12, HANDLER);
        post(&mut signals, None, 10);
        assert_eq!(signals.take(2).map(|(_, action)| action.handler), Some(0x1000));
        assert_eq!((signals.action(10).handler, signals.handles(12)), (DEFAULT, true));
        signals.set_action(1, Action { handler: IGNORE, ..HANDLER });
        signals.reset_handlers();
        assert_eq!([1, 12].map(|signal| signals.action(signal).handler), [IGNORE, DEFAULT]);
    }

    #[test]
    fn a_wait_takes_what_is_blocked() {
        let mut signals = signals(&[(2, !0), (3, !0)]);
        signals.post(None, Info::new(libc::SIGALRM, SI_KERNEL)).unwrap();
        post(&mut signals, Some(3), 10);
        assert_eq!(signals.take_of(2, bit(10)), None);
        assert_eq!(signals.take_of(3, bit(10) | bit(14)).map(|info| info.signal()), Some(10));
        assert_eq!(signals.take_of(3, bit(10) | bit(14)).map(|info| info.signal()), Some(14));
    }
}
