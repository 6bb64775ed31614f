//! The trace's own thread: takes events from the vCPUs, finds their instructions and shows them to the sinks.
//!
//! It looks into the channel every few milliseconds instead of being woken: a wake-up would cost each exit a system call.

use super::event::ExitEvent;
use super::locate::Locator;
use super::sink::{Milestone, TraceEnd, TraceSink, Traced, Verdict};
use super::symbols::Symbols;
use super::tracer::{NameRegister, ReadWord, TraceClock, Tracer};
use crate::arch::layout::{PORT_DEBUG_CONSOLE, PORT_POST};
use crate::kvm::exit::Exit;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Events that may wait for the trace's thread: at 300,000 exits a second, a fifth of a second of them.
const EVENTS_MAX: usize = 65_536;
/// Events that are put into order by time before they are shown; vCPUs answer beside each other.
const BATCH_MAX: usize = 8_192;
/// How long the thread sleeps when it finds no event: short for eyes, long for the vCPU whose processor it takes.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Names of instructions kept.
const NAMES_MAX: usize = 4096;

/// A trace that runs.
pub struct Trace {
    clock: TraceClock,
    thread: JoinHandle<Show>,
    events: SyncSender<ExitEvent>,
    dropped: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Trace {
    /// Starts a trace that is shown to `sinks`, with names from `symbols`.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn start(clock: TraceClock, sinks: Vec<Box<dyn TraceSink>>, symbols: Symbols) -> io::Result<Trace> {
        let (sender, events) = sync_channel(EVENTS_MAX);
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        let show = Show::new(sinks, symbols);
        let thread = thread::Builder::new().name("trace".into()).spawn(move || show_all(show, &events, &is_over))?;
        Ok(Trace { clock, thread, events: sender, dropped: Arc::default(), over })
    }

    /// What watches one vCPU for this trace.
    pub fn tracer(&self, name: NameRegister, read: ReadWord) -> Tracer {
        Tracer::new(self.clock, name, read, self.events.clone(), self.dropped.clone())
    }

    /// Ends the trace when no vCPU runs any more: all that waits is shown, then the end. `end` lacks what only the trace
    /// knows: dropped events and the guest's milestones. Returns what each sink found.
    pub fn finish(self, mut end: TraceEnd) -> Vec<io::Result<Verdict>> {
        self.over.store(true, Ordering::Release);
        self.thread.thread().unpark();
        let mut show = self.thread.join().expect("a panic ends the process");
        end.dropped = self.dropped.load(Ordering::Relaxed);
        end.milestones.extend(&show.milestones);
        end.milestones.sort_by_key(|(_, at_ns)| *at_ns);
        show.finish(&end)
    }
}

fn show_all(mut show: Show, events: &Receiver<ExitEvent>, over: &AtomicBool) -> Show {
    let mut batch = Vec::new();
    loop {
        // Read before the channel is: what was sent before the end is shown.
        let last = over.load(Ordering::Acquire);
        batch.extend(events.try_iter().take(BATCH_MAX));
        if batch.is_empty() {
            if last {
                return show;
            }
            show.pause();
            thread::park_timeout(LOOK_EVERY);
            continue;
        }
        batch.sort_by_key(|event: &ExitEvent| event.at_ns);
        batch.drain(..).for_each(|event| show.exit(&event));
    }
}

/// The sinks, and what is found out for all of them.
struct Show {
    /// Each with the first error it met.
    sinks: Vec<(Box<dyn TraceSink>, Option<io::Error>)>,
    symbols: Symbols,
    names: HashMap<u64, Option<String>>,
    locator: Locator,
    milestones: Vec<(Milestone, u64)>,
}

impl Show {
    fn new(sinks: Vec<Box<dyn TraceSink>>, symbols: Symbols) -> Show {
        let sinks = sinks.into_iter().map(|sink| (sink, None)).collect();
        Show { sinks, symbols, names: HashMap::new(), locator: Locator::default(), milestones: Vec::new() }
    }

    fn exit(&mut self, event: &ExitEvent) {
        if let Some(milestone) = milestone(event)
            && self.milestones.iter().all(|(other, _)| *other != milestone)
        {
            self.milestones.push((milestone, event.at_ns));
        }
        let instruction = event.code.as_ref().and_then(|code| self.locator.locate(event.exit, code));
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        let names = &mut self.names;
        let rip = instruction.map(|found| found.rip).or(event.code.map(|code| code.rip));
        let symbol = rip.and_then(|rip| names.entry(rip).or_insert_with(|| self.symbols.describe(rip)).as_deref());
        let traced = Traced { event, instruction, symbol };
        for (sink, error) in &mut self.sinks {
            if error.is_none() {
                *error = sink.exit(&traced).err();
            }
        }
    }

    fn pause(&mut self) {
        for (sink, error) in &mut self.sinks {
            if error.is_none() {
                *error = sink.pause().err();
            }
        }
    }

    fn finish(&mut self, end: &TraceEnd) -> Vec<io::Result<Verdict>> {
        let finish = |(sink, error): &mut (Box<dyn TraceSink>, Option<io::Error>)| match error.take() {
            Some(error) => Err(error),
            None => sink.finish(end),
        };
        self.sinks.iter_mut().map(finish).collect()
    }
}

/// The milestone that an exit is, if it is the first of its kind.
fn milestone(event: &ExitEvent) -> Option<Milestone> {
    const MARKS: [u16; 2] = [PORT_POST, PORT_DEBUG_CONSOLE];
    match event.exit {
        Exit::PioWrite { port, .. } if MARKS.contains(&port) => Some(Milestone::Mark),
        Exit::PioWrite { .. } if event.register.is_some_and(|to| to.device == "COM1" && to.register == "THR") => {
            Some(Milestone::FirstSerialByte)
        }
        Exit::IoapicEoi { .. } => Some(Milestone::FirstInterrupt),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::DeviceRegister;
    use super::*;
    use crate::vcpu::handler::ExitObserver;
    use crate::vcpu::scripted::ScriptedCpu;
    use std::sync::mpsc::{Sender, channel};

    const THR: DeviceRegister = DeviceRegister { device: "COM1", register: "THR" };
    const EXITS: [Exit; 3] =
        [Exit::PioWrite { port: 0x3f8, size: 1, value: 1 }, Exit::IoapicEoi { vector: 1 }, Exit::Halt];

    /// Tells what it sees; fails at the given exit.
    struct Probe {
        sender: Sender<String>,
        fails_at: Option<Exit>,
    }

    impl TraceSink for Probe {
        fn exit(&mut self, exit: &Traced) -> io::Result<()> {
            if self.fails_at == Some(exit.event.exit) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.sender.send(format!("{:?}", exit.event.exit)).unwrap();
            Ok(())
        }
        fn finish(&mut self, end: &TraceEnd) -> io::Result<Verdict> {
            let names: Vec<_> = end.milestones.iter().map(|(milestone, _)| milestone.name()).collect();
            Ok(Verdict::Broken(names.join(", ")))
        }
    }

    #[test]
    fn every_exit_is_shown_before_the_end_and_a_failing_sink_hinders_no_other() {
        let (sender, seen) = channel();
        let probe = |fails_at| Box::new(Probe { sender: sender.clone(), fails_at }) as Box<dyn TraceSink>;
        let sinks = vec![probe(None), probe(Some(EXITS[0]))];
        let trace = Trace::start(TraceClock::starting_at(0), sinks, Symbols::default()).unwrap();
        let mut tracer = trace.tracer(Box::new(|_| Some(THR)), Box::new(|_| None));
        let mut cpu = ScriptedCpu::default();
        for exit in EXITS {
            tracer.exited(exit, &mut cpu);
            tracer.answered(exit, None);
        }
        let found = trace.finish(TraceEnd::default());
        let verdict = Verdict::Broken("first serial byte, first interrupt".into());
        assert_eq!(found[0].as_ref().unwrap(), &verdict);
        assert_eq!(found[1].as_ref().unwrap_err().kind(), io::ErrorKind::StorageFull);
        let shown: Vec<_> = seen.try_iter().collect();
        assert_eq!(shown, EXITS.map(|exit| format!("{exit:?}")));
    }
}
