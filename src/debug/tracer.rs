//! Watches one vCPU for a trace: makes each exit an [`ExitEvent`] and hands it to the trace's thread.
//!
//! The vCPU never waits for a reader: an event that finds the channel full is counted as dropped.

use super::code_cache::CodeCache;
use super::event::{DeviceRegister, ExitEvent};
use crate::kvm::exit::{Exit, Reply};
use crate::kvm::vcpu::Synced;
use crate::vcpu::cpu::Cpu;
use crate::vcpu::handler::ExitObserver;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Instant;

/// Names the register that an access reaches; asked before the access is answered.
pub type NameRegister = Box<dyn Fn(&Exit) -> Option<DeviceRegister> + Send>;

/// A 64-bit word of guest-physical memory; `None` where there is no RAM.
pub type ReadWord = Box<dyn FnMut(u64) -> Option<u64> + Send>;

/// Watches one vCPU.
pub struct Tracer {
    clock: TraceClock,
    name: NameRegister,
    read: ReadWord,
    codes: CodeCache,
    events: SyncSender<ExitEvent>,
    dropped: Arc<AtomicU64>,
    /// When the guest was entered last.
    entered_ns: u64,
    /// The exit that is being answered, and since when: what the trace itself takes is nobody's time.
    open: Option<(ExitEvent, u64)>,
}

/// The clock of a trace.
#[derive(Clone, Copy, Debug)]
pub struct TraceClock {
    /// An instant, and what the trace's time was then.
    at: (Instant, u64),
}

impl TraceClock {
    /// A clock on which it is `now_ns` now.
    pub fn starting_at(now_ns: u64) -> TraceClock {
        TraceClock { at: (Instant::now(), now_ns) }
    }

    /// Nanoseconds since the program's begin.
    pub fn now_ns(&self) -> u64 {
        self.at.1 + self.at.0.elapsed().as_nanos() as u64
    }
}

impl Tracer {
    pub(super) fn new(
        clock: TraceClock,
        name: NameRegister,
        read: ReadWord,
        events: SyncSender<ExitEvent>,
        dropped: Arc<AtomicU64>,
    ) -> Tracer {
        let codes = CodeCache::default();
        Tracer { clock, name, read, codes, events, dropped, entered_ns: clock.now_ns(), open: None }
    }
}

impl ExitObserver for Tracer {
    fn attached(&mut self, cpu: &mut dyn Cpu) {
        cpu.sync(Synced::All);
        self.entered_ns = self.clock.now_ns();
    }

    fn exited(&mut self, exit: Exit, cpu: &mut dyn Cpu) {
        let at_ns = self.clock.now_ns();
        let event = ExitEvent {
            vcpu: cpu.id(),
            at_ns,
            guest_ns: at_ns - self.entered_ns,
            host_ns: 0,
            exit,
            reply: None,
            register: (self.name)(&exit),
            code: cpu.synced_state().map(|state| self.codes.around(&state, &mut self.read)),
        };
        self.open = Some((event, self.clock.now_ns()));
    }

    fn answered(&mut self, _exit: Exit, reply: Option<Reply>) {
        let Some((event, since_ns)) = self.open.take() else { return };
        self.entered_ns = self.clock.now_ns();
        let event = ExitEvent { reply, host_ns: self.entered_ns - since_ns, ..event };
        match self.events.try_send(event) {
            Ok(()) => {}
            // A trace that is over needs no more events.
            Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::cpu_state::CpuState;
    use crate::vcpu::scripted::ScriptedCpu;
    use std::sync::mpsc::sync_channel;

    const OUT: Exit = Exit::PioWrite { port: 0x3f8, size: 1, value: 0x41 };
    const THR: DeviceRegister = DeviceRegister { device: "COM1", register: "THR" };

    /// RAM of one page at 0x7000 whose bytes are their own offsets.
    fn read(gpa: u64) -> Option<u64> {
        (0x7000..0x8000).contains(&gpa).then(|| u64::from_le_bytes(std::array::from_fn(|i| (gpa as usize + i) as u8)))
    }

    fn tracer(room: usize) -> (Tracer, std::sync::mpsc::Receiver<ExitEvent>, Arc<AtomicU64>) {
        let (sender, events) = sync_channel(room);
        let dropped = Arc::new(AtomicU64::new(0));
        let name: NameRegister = Box::new(|exit| (*exit == OUT).then_some(THR));
        (Tracer::new(TraceClock::starting_at(5), name, Box::new(read), sender, dropped.clone()), events, dropped)
    }

    fn exit_once(tracer: &mut Tracer, offset: u16) {
        let mut cpu = ScriptedCpu::new(vec![]).in_state(CpuState::real_mode(0, offset));
        tracer.attached(&mut cpu);
        tracer.exited(OUT, &mut cpu);
        tracer.answered(OUT, Some(Reply::Resume));
    }

    #[test]
    fn an_exit_carries_its_register_its_code_and_its_answer() {
        let (mut tracer, events, _) = tracer(1);
        exit_once(&mut tracer, 0x7020);
        let event = events.recv().unwrap();
        assert_eq!((event.exit, event.register, event.reply), (OUT, Some(THR), Some(Reply::Resume)));
        let code = event.code.unwrap();
        assert_eq!((code.rip, code.bits, code.before, code.after), (0x7020, 16, 16, 16));
        assert_eq!(code.bytes, std::array::from_fn(|i| 0x10 + i as u8));
        assert!(event.at_ns >= 5);
    }

    #[test]
    fn code_at_the_edge_of_ram_is_cut() {
        let (mut tracer, events, _) = tracer(2);
        exit_once(&mut tracer, 0x7004);
        exit_once(&mut tracer, 0x7ffc);
        let code = events.recv().unwrap().code.unwrap();
        assert_eq!((code.before, code.after), (4, 16));
        assert_eq!(code.bytes[12..20], [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(events.recv().unwrap().code.map(|code| (code.before, code.after)), Some((16, 4)));
    }

    #[test]
    fn a_full_channel_drops_and_counts() {
        let (mut tracer, events, dropped) = tracer(1);
        for _ in 0..3 {
            exit_once(&mut tracer, 0x7020);
        }
        assert_eq!((dropped.load(Ordering::Relaxed), events.try_iter().count()), (2, 1));
    }
}
