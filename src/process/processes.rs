//! The table of processes: who runs, who has ended and waits to be asked about, and who is on the way out.
//!
//! A process ends when its last thread is gone. Threads that are to end are made to notice: a signal of the host's takes them out of the
//! guest or out of a call that waits, and is repeated until they are gone, since one that comes just before such a call is lost.
//! Sources: wait4(2), setpgid(2), exit_group(2).

use super::signal::info::Info;
use super::task::End;
use super::world::{FIRST_ID, Process};
use crate::bus::bus::lock;
use crate::kvm::kick;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Highest number of a process or thread (Linux `pid_max` by default); then they begin again.
const ID_MAX: i32 = 32_768;
/// Number of nobody, whose children those of ended processes become.
const NOBODY: i32 = 1;
/// How often timers fire at most, whatever their intervals.
const TIMERS_STEP: Duration = Duration::from_micros(100);
/// How long a thread has to notice before it is told again.
const PATIENCE: Duration = Duration::from_millis(2);

/// All processes and threads.
pub struct Processes {
    table: Mutex<Table>,
    changed: Condvar,
}

struct Table {
    next_id: i32,
    processes: BTreeMap<i32, Entry>,
    threads: BTreeMap<i32, (i32, Option<JoinHandle<()>>)>,
    /// Why the run cannot go on.
    broken: Option<String>,
    /// Whether its user wants it to end.
    is_interrupted: bool,
}

struct Entry {
    process: Arc<Process>,
    threads: usize,
    /// How it has ended; it stays until its parent has asked.
    ended: Option<End>,
}

/// How a run ended, seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// The first process has ended.
    Ended(End),
    /// The machine failed.
    Broken(String),
    /// The deadline passed.
    Deadline,
    /// SIGINT, for the second time.
    Interrupted,
}

impl Default for Processes {
    fn default() -> Processes {
        let table = Table {
            next_id: FIRST_ID,
            processes: BTreeMap::new(),
            threads: BTreeMap::new(),
            broken: None,
            is_interrupted: false,
        };
        Processes { table: Mutex::new(table), changed: Condvar::new() }
    }
}

impl Processes {
    /// A number that nobody has.
    pub fn new_id(&self) -> i32 {
        let mut table = lock(&self.table);
        loop {
            let id = table.next_id;
            table.next_id = if id == ID_MAX { FIRST_ID } else { id + 1 };
            if !table.processes.contains_key(&id) && !table.threads.contains_key(&id) {
                return id;
            }
        }
    }

    /// Thread `id` of `process` is about to run, with these signals blocked.
    pub fn add(&self, process: &Arc<Process>, id: i32, blocked: u64) {
        let mut table = lock(&self.table);
        lock(&process.signals).add_thread(id, blocked);
        let fresh = || Entry { process: process.clone(), threads: 0, ended: None };
        table.processes.entry(process.id).or_insert_with(fresh).threads += 1;
        table.threads.insert(id, (process.id, None));
    }

    /// The host's thread behind thread `id`, if that runs still.
    pub fn set_handle(&self, id: i32, handle: JoinHandle<()>) {
        if let Some((_, slot)) = lock(&self.table).threads.get_mut(&id) {
            *slot = Some(handle);
        }
    }

    /// Threads of a process that run.
    pub fn threads(&self, process: i32) -> usize {
        lock(&self.table).processes.get(&process).map_or(0, |entry| entry.threads)
    }

    /// Thread `id` of a process is gone, with all that it held; true where it was the last.
    pub fn remove(&self, process: &Process, id: i32, end: End) -> bool {
        let mut table = lock(&self.table);
        table.threads.remove(&id);
        lock(&process.signals).remove_thread(id);
        let Some(entry) = table.processes.get_mut(&process.id) else { return false };
        entry.threads -= 1;
        let last = entry.threads == 0;
        if last {
            let end = process.ending().unwrap_or(end);
            entry.ended = Some(end);
            table.tell_parent(process, end);
            for child in table.processes.values().filter(|child| child.process.parent() == process.id) {
                child.process.parent.store(NOBODY, Ordering::Relaxed);
            }
            table
                .processes
                .retain(|id, entry| entry.ended.is_none() || entry.process.parent() != NOBODY || *id == FIRST_ID);
        }
        self.changed.notify_all();
        last
    }

    /// Sends a signal to a process, or to a thread of it, from the thread `from` where it is one's. Whoever is to do something about it
    /// is made to notice, but for the sender, who looks by himself.
    ///
    /// # Errors
    /// EAGAIN: too many are pending.
    pub fn signal(&self, process: &Process, thread: Option<i32>, info: Info, from: Option<i32>) -> Result<(), Errno> {
        let is_own =
            |from| info.signal() != libc::SIGKILL && lock(&process.signals).leads_to(from, thread, info.signal());
        if from.is_some_and(is_own) {
            return post(process, thread, info);
        }
        let _table = lock(&self.table);
        let sent = post(process, thread, info);
        self.changed.notify_all();
        sent
    }

    /// A timer was set: the next to fire may be another.
    pub fn look_at_timers(&self) {
        let _table = lock(&self.table);
        self.changed.notify_all();
    }

    /// The process that thread `id` belongs to.
    pub fn process_of(&self, id: i32) -> Option<Arc<Process>> {
        let table = lock(&self.table);
        let (process, _) = table.threads.get(&id)?;
        table.processes.get(process).map(|entry| entry.process.clone())
    }

    /// Has all threads of a process end.
    pub fn end(&self, process: &Process, end: End) {
        let _table = lock(&self.table);
        process.begin_end(end);
        self.changed.notify_all();
    }

    /// The processes that `wanted` names as kill(2) does, seen from `from`: a number, 0 for its group, -1 for all, less for a group.
    pub fn find(&self, wanted: i32, from: &Process) -> Vec<Arc<Process>> {
        let table = lock(&self.table);
        let processes = table.processes.values().map(|entry| &entry.process);
        processes
            .filter(|process| match wanted {
                1.. => process.id == wanted,
                0 => process.group() == from.group(),
                -1 => process.id != from.id,
                _ => process.group() == wanted.wrapping_neg(),
            })
            .cloned()
            .collect()
    }

    /// The processes of a group.
    pub fn of_group(&self, group: i32) -> Vec<Arc<Process>> {
        let table = lock(&self.table);
        let processes = table.processes.values().map(|entry| &entry.process);
        processes.filter(|process| process.group() == group).cloned().collect()
    }

    /// Waits, in this thread of `parent`, for the end of a child that `wanted` names as wait4(2) does; `None` where none has ended and
    /// `at_once`.
    ///
    /// # Errors
    /// ECHILD: there is none; EINTR: a signal came.
    pub fn wait(
        &self,
        (parent, thread): (&Process, i32),
        wanted: i32,
        at_once: bool,
        keep: bool,
    ) -> Result<Option<(i32, End)>, Errno> {
        let mut table = lock(&self.table);
        loop {
            let is_meant = |entry: &&Entry| {
                let process = &entry.process;
                process.parent() == parent.id
                    && match wanted {
                        -1 => true,
                        0 => process.group() == parent.group(),
                        1.. => process.id == wanted,
                        _ => process.group() == wanted.wrapping_neg(),
                    }
            };
            let mut children = table.processes.values().filter(is_meant).peekable();
            if children.peek().is_none() {
                return Err(Errno::CHILD);
            }
            if let Some((id, end)) = children.find_map(|entry| Some((entry.process.id, entry.ended?))) {
                if !keep {
                    table.processes.remove(&id);
                }
                return Ok(Some((id, end)));
            }
            if at_once {
                return Ok(None);
            }
            if parent.interrupts(thread) {
                return Err(Errno::INTR);
            }
            table = self.changed.wait(table).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// The machine cannot go on.
    pub fn break_off(&self, reason: String) {
        lock(&self.table).broken.get_or_insert(reason);
        self.changed.notify_all();
    }

    /// The run is to end, whatever programs do about it.
    pub fn interrupt(&self) {
        lock(&self.table).is_interrupted = true;
        self.changed.notify_all();
    }

    /// Waits for the end of the run; meanwhile has those threads notice that are to end or have a signal, and timers fire. `wake` wakes
    /// those that wait in Hostel.
    pub fn supervise(&self, deadline: Option<Instant>, wake: impl Fn()) -> RunEnd {
        let mut table = lock(&self.table);
        loop {
            if let Some(reason) = table.broken.take() {
                return RunEnd::Broken(reason);
            }
            if let Some(end) = table.processes.get(&FIRST_ID).and_then(|entry| entry.ended) {
                return RunEnd::Ended(end);
            }
            if table.is_interrupted {
                return RunEnd::Interrupted;
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return RunEnd::Deadline;
            }
            let timer = table.fire(now);
            let is_late =
                |process: &i32, id| table.processes.get(process).is_some_and(|entry| entry.process.interrupts(id));
            let late = table.threads.iter().filter(|(id, (process, _))| is_late(process, **id));
            let mut count = 0;
            for (_, (process, handle)) in late {
                handle.iter().for_each(kick::kick);
                table.processes.get(process).iter().for_each(|entry| entry.process.signalled.notify_all());
                count += 1;
            }
            let timer = timer.map(|timer| timer.max(now + TIMERS_STEP));
            let next = [deadline, timer].into_iter().flatten().min();
            let mut limit = next.map_or(Duration::from_secs(3600), |next| next.saturating_duration_since(now));
            if count > 0 {
                limit = limit.min(PATIENCE);
                drop(table);
                wake();
                self.changed.notify_all();
                table = lock(&self.table);
            }
            let result = self.changed.wait_timeout(table, limit);
            table = result.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }
}

impl Table {
    /// A process has ended: its parent gets a signal, and need not ask where it has said that it will not.
    fn tell_parent(&mut self, process: &Process, end: End) {
        let Some(parent) = self.processes.get(&process.parent()).map(|entry| entry.process.clone()) else { return };
        if process.end_signal == libc::SIGCHLD && lock(&parent.signals).reaps_children() {
            self.processes.remove(&process.id);
        }
        if process.end_signal != 0 {
            // One that is pending already tells as much.
            let _ = post(&parent, None, Info::child(process.end_signal, process.id, end));
        }
    }

    /// Sends what timers have to send until `now`; when the next one fires.
    fn fire(&self, now: Instant) -> Option<Instant> {
        let running = self.processes.values().filter(|entry| entry.ended.is_none());
        let next = running.filter_map(|Entry { process, .. }| {
            let mut timers = lock(&process.timers);
            for (thread, info) in timers.fire(now) {
                // A signal too many is lost, as an alarm is whose signal is pending still.
                let _ = post(process, thread, info);
            }
            timers.next()
        });
        next.min()
    }
}

/// Sends a signal. SIGKILL ends a process at once, whatever its threads do.
fn post(process: &Process, thread: Option<i32>, info: Info) -> Result<(), Errno> {
    if info.signal() == libc::SIGKILL {
        process.begin_end(End::Killed(libc::SIGKILL));
        return Ok(());
    }
    let posted = lock(&process.signals).post(thread, info);
    process.signalled.notify_all();
    posted
}

#[cfg(test)]
mod tests {
    use super::super::signal::info::SI_USER;
    use super::super::signal::state::{Action, IGNORE};
    use super::*;

    #[test]
    fn a_child_is_asked_about_once() {
        let processes = Processes::default();
        let parent = Arc::new(Process::new(processes.new_id(), NOBODY, FIRST_ID));
        processes.add(&parent, parent.id, 0);
        let asker = (&*parent, parent.id);
        assert_eq!(processes.wait(asker, -1, false, false), Err(Errno::CHILD));
        let child = Arc::new(Process::new(processes.new_id(), parent.id, FIRST_ID));
        processes.add(&child, child.id, 0);
        assert_eq!(processes.wait(asker, -1, true, false), Ok(None));
        assert_eq!(processes.wait(asker, 99, true, false), Err(Errno::CHILD));
        assert!(processes.remove(&child, child.id, End::Exited(4)));
        assert_eq!(processes.wait(asker, 0, false, true), Ok(Some((child.id, End::Exited(4)))));
        assert_eq!(processes.wait(asker, child.id, false, false), Ok(Some((child.id, End::Exited(4)))));
        assert_eq!(processes.wait(asker, -1, true, false), Err(Errno::CHILD));
    }

    #[test]
    fn a_parent_is_told_by_a_signal_and_interrupted_by_others() {
        let processes = Processes::default();
        let parent = Arc::new(Process::new(processes.new_id(), NOBODY, FIRST_ID));
        processes.add(&parent, parent.id, 0);
        let asker = (&*parent, parent.id);
        let handle =
            |signal, handler| lock(&parent.signals).set_action(signal, Action { handler, ..Action::default() });
        let child = || {
            let child = Arc::new(Process::new(processes.new_id(), parent.id, FIRST_ID));
            processes.add(&child, child.id, 0);
            child
        };
        let (first, second) = (child(), child());
        handle(libc::SIGCHLD, 0x1000);
        assert!(processes.remove(&first, first.id, End::Exited(3)));
        let told = lock(&parent.signals).take(parent.id).map(|(info, _)| info);
        assert_eq!(told, Some(Info::child(libc::SIGCHLD, first.id, End::Exited(3))));
        processes.signal(&parent, None, Info::new(libc::SIGTERM, SI_USER), None).unwrap();
        assert_eq!(processes.wait(asker, first.id, false, false), Ok(Some((first.id, End::Exited(3)))));
        assert_eq!(processes.wait(asker, second.id, false, false), Err(Errno::INTR));
        handle(libc::SIGCHLD, IGNORE);
        assert!(processes.remove(&second, second.id, End::Exited(0)));
        assert_eq!(processes.wait(asker, -1, false, false), Err(Errno::CHILD), "nobody wanted to know");
        processes.signal(&parent, None, Info::new(libc::SIGKILL, SI_USER), None).unwrap();
        assert_eq!(parent.ending(), Some(End::Killed(libc::SIGKILL)));
    }

    #[test]
    fn alarms_fire_while_the_run_is_waited_for() {
        let processes = Processes::default();
        let first = Arc::new(Process::new(processes.new_id(), NOBODY, FIRST_ID));
        processes.add(&first, first.id, !0);
        let (now, short) = (Instant::now(), Duration::from_millis(5));
        lock(&first.timers).set_real(now, (short, Duration::ZERO));
        assert_eq!(processes.supervise(Some(now + short * 4), || ()), RunEnd::Deadline);
        assert_eq!(lock(&first.signals).take_of(first.id, !0).map(|info| info.signal()), Some(libc::SIGALRM));
    }

    #[test]
    fn the_run_ends_with_the_first_process_or_at_the_deadline() {
        let processes = Processes::default();
        let first = Arc::new(Process::new(processes.new_id(), NOBODY, FIRST_ID));
        processes.add(&first, first.id, 0);
        assert_eq!(processes.supervise(Some(Instant::now()), || ()), RunEnd::Deadline);
        processes.end(&first, End::Killed(9));
        assert!(processes.remove(&first, first.id, End::Exited(0)));
        assert_eq!(processes.supervise(None, || ()), RunEnd::Ended(End::Killed(9)));
        processes.break_off("why".into());
        assert_eq!(processes.supervise(None, || ()), RunEnd::Broken("why".into()));
    }
}
