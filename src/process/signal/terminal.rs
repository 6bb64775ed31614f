//! Ctrl-C: SIGINT of the host's, handed on to programs from the moment that one of them has a handler for it or ignores it.
//!
//! Before that moment it ends Hostel and all programs, as it would end most of them natively. After it the programs of the terminal's
//! foreground group get it, and a second one within a second ends Hostel all the same. SIGTERM, SIGHUP and SIGQUIT always do.
//! Sources: termios(3) (ISIG), tcsetpgrp(3).

use super::info::{Info, SI_KERNEL};
use crate::backend::signals::Signals;
use crate::bus::bus::lock;
use crate::event_loop::{Interest, Waker, wait};
use crate::process::world::{FIRST_ID, World};
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Within this time a second SIGINT ends the run.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who gets SIGINT.
pub struct Terminal {
    state: Mutex<State>,
    /// The foreground group: the first process's, until somebody says otherwise.
    foreground: AtomicI32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is none of the programs' business: this process is not Hostel, but a test.
    Apart,
    /// It ends Hostel.
    Ends,
    /// Programs get it; when they last did.
    HandedOn(Option<Instant>),
}

impl Default for Terminal {
    fn default() -> Terminal {
        Terminal { state: Mutex::new(State::Apart), foreground: AtomicI32::new(FIRST_ID) }
    }
}

impl Terminal {
    /// From now on programs may be interested.
    pub fn open(&self) {
        *lock(&self.state) = State::Ends;
    }

    /// The foreground group.
    pub fn foreground(&self) -> i32 {
        self.foreground.load(Ordering::Relaxed)
    }

    /// Makes another group that of the foreground.
    pub fn set_foreground(&self, group: i32) {
        self.foreground.store(group, Ordering::Relaxed);
    }

    /// Whether programs have got one.
    pub fn has_handed_on(&self) -> bool {
        matches!(*lock(&self.state), State::HandedOn(Some(_)))
    }

    /// One comes: true where it is for programs, false where it ends the run.
    fn hand_on(&self, now: Instant) -> bool {
        let mut state = lock(&self.state);
        let is_second = matches!(*state, State::HandedOn(Some(last)) if now.duration_since(last) < PATIENCE);
        *state = State::HandedOn(Some(now));
        !is_second
    }
}

/// A program wants to know of SIGINT: it is caught from now on, and `world`'s programs get it.
///
/// # Errors
/// The host gives no thread, or no descriptor to wake it by.
pub fn catch(world: &Arc<World>) -> io::Result<()> {
    let mut state = lock(&world.terminal.state);
    if *state != State::Ends {
        return Ok(());
    }
    let waker = Waker::new()?;
    let world = world.clone();
    let came = waker.clone();
    let hand_on = move |signals: Signals| loop {
        // It fails for nothing but an interruption.
        let _ = wait(&[Interest { token: (), fd: came.fd(), output: false }], None);
        came.reset();
        if signals.take().is_some() {
            interrupt(&world, Instant::now());
        }
    };
    let signals = Signals::catch_interrupts(waker)?;
    std::thread::Builder::new().name("terminal".into()).spawn(move || hand_on(signals))?;
    *state = State::HandedOn(None);
    Ok(())
}

fn interrupt(world: &World, now: Instant) {
    if !world.terminal.hand_on(now) {
        world.processes.interrupt();
        return;
    }
    let of_group = |group: i32| world.processes.of_group(group);
    let mut found = of_group(world.terminal.foreground());
    if found.is_empty() {
        found = of_group(FIRST_ID);
    }
    for process in found {
        // One that is pending already says as much.
        let _ = world.processes.signal(&process, None, Info::new(libc::SIGINT, SI_KERNEL), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::Bench;

    #[test]
    fn the_second_within_a_second_ends_the_run() {
        let (terminal, now) = (Terminal::default(), Instant::now());
        terminal.open();
        assert!(!terminal.has_handed_on());
        let given = [0, 1500, 2600, 2700].map(|ms| terminal.hand_on(now + Duration::from_millis(ms)));
        assert_eq!((given, terminal.has_handed_on()), ([true, true, true, false], true));
    }

    #[test]
    fn the_foreground_gets_it_or_the_first_group_where_nobody_is_there() {
        let mut bench = Bench::new(&std::env::temp_dir(), false, false, &[]);
        let task = bench.task(0).unwrap();
        let taken = |task: &crate::process::task::Task| {
            lock(&task.process.signals).take_of(task.id, !0).map(|info| info.signal())
        };
        task.process.group.store(77, Ordering::Relaxed);
        interrupt(&task.world, Instant::now());
        assert_eq!(taken(task), None);
        task.world.terminal.set_foreground(77);
        interrupt(&task.world, Instant::now() + PATIENCE);
        assert_eq!(taken(task), Some(libc::SIGINT));
        task.world.terminal.set_foreground(88);
        task.process.group.store(FIRST_ID, Ordering::Relaxed);
        interrupt(&task.world, Instant::now() + PATIENCE * 2);
        assert_eq!(taken(task), Some(libc::SIGINT));
        bench.finish();
    }
}
