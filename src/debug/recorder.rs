//! The flight recorder: the last exits of a vCPU, in a ring that the vCPU's thread writes and any thread may read.
//!
//! It is on in each run, so it must cost next to nothing: an exit takes one time stamp, RIP comes with the exit by
//! KVM_CAP_SYNC_REGS without a call, and the writer never waits. The ring is a seqlock of plain words: each slot has a stamp,
//! which is zero while the slot is written, and a reader skips a slot whose stamp is not the same before and after.
//! What it leaves out: registers but RIP, and exits that are interruptions by Hostel itself.

use super::event::DeviceRegister;
use super::packed::{HAS_RIP, pack, unpack};
use crate::kvm::exit::{Exit, Reply};
use crate::kvm::tsc;
use crate::kvm::vcpu::Synced;
use crate::vcpu::cpu::Cpu;
use crate::vcpu::handler::ExitObserver;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Instant;

/// Exits kept of each vCPU.
pub const EXITS_KEPT: usize = 256;

/// The words of a slot: time stamp, RIP, and the exit with its reply.
const WORDS: usize = 5;

/// One exit in the ring. `stamp` is its number, from 1 on; 0 while the words are written.
#[derive(Default)]
struct Slot {
    stamp: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// The last exits of a vCPU.
pub struct Recording {
    slots: Box<[Slot]>,
    /// The first of the two points by which ticks become time.
    begin: Moment,
}

/// A point in time, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    instant: Instant,
    ticks: u64,
}

impl Moment {
    /// Now.
    pub fn now() -> Moment {
        Moment { instant: Instant::now(), ticks: tsc::ticks() }
    }
}

/// An exit as the ring has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// How long before the moment that was asked about; 0 for what came after.
    pub ago_ns: u64,
    /// RIP as the exit left it, relative to CS; `None` where KVM does not sync registers.
    pub rip: Option<u64>,
    /// Why the guest stopped; without the code bytes of `Failure::Emulation`.
    pub exit: Exit,
    /// What it got back; `None` where its run ended.
    pub reply: Option<Reply>,
    /// The register of the device that was accessed, by the machine's present map.
    pub register: Option<DeviceRegister>,
}

impl Default for Recording {
    fn default() -> Recording {
        let slots = (0..EXITS_KEPT).map(|_| Slot::default()).collect();
        Recording { slots, begin: Moment::now() }
    }
}

impl Recording {
    /// The exits of the ring, oldest first, with times before `end`. Those that are written at this moment are left out.
    /// `name` names the register that an access reaches.
    pub fn exits(&self, end: Moment, name: &dyn Fn(&Exit) -> Option<DeviceRegister>) -> Vec<Recorded> {
        let mut found: Vec<(u64, [u64; WORDS])> = self.slots.iter().filter_map(Slot::read).collect();
        found.sort_by_key(|(stamp, _)| *stamp);
        let ticks = u128::from(end.ticks.saturating_sub(self.begin.ticks)).max(1);
        let elapsed_ns = end.instant.saturating_duration_since(self.begin.instant).as_nanos();
        let ago_ns = |at: u64| (u128::from(end.ticks.saturating_sub(at)) * elapsed_ns / ticks) as u64;
        let recorded = |[at, rip, head, first, second]: [u64; WORDS]| {
            let (exit, reply) = unpack(&[head, first, second])?;
            let rip = (head & HAS_RIP != 0).then_some(rip);
            Some(Recorded { ago_ns: ago_ns(at), rip, exit, reply, register: name(&exit) })
        };
        found.into_iter().filter_map(|(_, words)| recorded(words)).collect()
    }

    /// Writes exit number `stamp`, from 1 on. Only one thread writes.
    fn write(&self, stamp: u64, words: [u64; WORDS]) {
        let slot = &self.slots[stamp as usize % EXITS_KEPT];
        slot.stamp.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        for (to, from) in slot.words.iter().zip(words) {
            to.store(from, Ordering::Relaxed);
        }
        slot.stamp.store(stamp, Ordering::Release);
    }
}

impl Slot {
    /// The slot's stamp and words; `None` if it was never written or is being written.
    fn read(&self) -> Option<(u64, [u64; WORDS])> {
        let stamp = self.stamp.load(Ordering::Acquire);
        let words = self.words.each_ref().map(|word| word.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        (stamp != 0 && self.stamp.load(Ordering::Relaxed) == stamp).then_some((stamp, words))
    }
}

/// Records the exits of one vCPU.
pub struct Recorder {
    recording: Arc<Recording>,
    /// Exits so far.
    count: u64,
    /// Time stamp and RIP of the exit that is being answered.
    open: (u64, Option<u64>),
}

impl Recorder {
    /// Records into `recording`, which no other recorder has.
    pub fn new(recording: Arc<Recording>) -> Recorder {
        Recorder { recording, count: 0, open: (0, None) }
    }
}

impl ExitObserver for Recorder {
    fn attached(&mut self, cpu: &mut dyn Cpu) {
        cpu.sync(Synced::General);
    }

    fn exited(&mut self, _exit: Exit, cpu: &mut dyn Cpu) {
        self.open = (tsc::ticks(), cpu.synced_rip());
    }

    fn answered(&mut self, exit: Exit, reply: Option<Reply>) {
        let (at, rip) = self.open;
        let [head, first, second] = pack(exit, reply);
        let head = if rip.is_some() { head | HAS_RIP } else { head };
        self.count += 1;
        self.recording.write(self.count, [at, rip.unwrap_or(0), head, first, second]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::cpu_state::CpuState;
    use crate::vcpu::scripted::ScriptedCpu;

    fn record(recorder: &mut Recorder, exit: Exit, reply: Option<Reply>) {
        let mut cpu = ScriptedCpu::new(vec![]).in_state(CpuState::long_mode(0x1234));
        recorder.attached(&mut cpu);
        recorder.exited(exit, &mut cpu);
        recorder.answered(exit, reply);
    }

    fn exits(recording: &Recording) -> Vec<Recorded> {
        recording.exits(Moment::now(), &|_| None)
    }

    #[test]
    fn the_ring_keeps_the_last_exits_oldest_first() {
        let recording = Arc::new(Recording::default());
        assert_eq!(exits(&recording), []);
        let mut recorder = Recorder::new(recording.clone());
        for value in 0..EXITS_KEPT as u64 + 10 {
            record(&mut recorder, Exit::PioWrite { port: 0x80, size: 4, value }, Some(Reply::Resume));
        }
        let kept = exits(&recording);
        assert_eq!(kept.len(), EXITS_KEPT);
        for (at, exit) in kept.iter().enumerate() {
            assert_eq!(exit.exit, Exit::PioWrite { port: 0x80, size: 4, value: at as u64 + 10 });
            assert_eq!(exit.rip, Some(0x1234));
        }
        assert!(kept.windows(2).all(|pair| pair[0].ago_ns >= pair[1].ago_ns), "time goes on");
    }

    #[test]
    fn a_slot_that_is_being_written_is_skipped() {
        let recording = Arc::new(Recording::default());
        let mut recorder = Recorder::new(recording.clone());
        for _ in 0..3 {
            record(&mut recorder, Exit::Halt, None);
        }
        recording.slots[2].stamp.store(0, Ordering::Relaxed);
        assert_eq!(exits(&recording).len(), 2);
    }

    #[test]
    fn no_torn_exit_is_ever_read() {
        let recording = Arc::new(Recording::default());
        let mut recorder = Recorder::new(recording.clone());
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || {
                for value in 0..100_000 {
                    record(&mut recorder, Exit::MmioWrite { addr: value, size: 8, value: !value }, Some(Reply::Resume));
                }
            });
            while !writer.is_finished() {
                for exit in exits(&recording) {
                    let Exit::MmioWrite { addr, value, .. } = exit.exit else { panic!("{exit:?}") };
                    assert_eq!(addr, !value);
                }
            }
        });
    }
}
