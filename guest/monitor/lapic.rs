//! The virtual LAPIC: priorities, end of interrupt, an interrupt to oneself, and the timer.
//!
//! The timer counts while the guest runs or halts, and stands still while the monitor works for it or the other guest runs: by the wall
//! clock a guest whose handler takes many traps would do nothing but serve its timer. It strikes when the monitor looks at it next, at a
//! trap or at its own tick. Left out: other processors, the local inputs, the TSC deadline and x2APIC, which CPUID does not offer.
//! Source: Intel SDM vol. 3A ch. 11 (registers: table 11-1; priorities: §11.8.3; timer: §11.5.4).

use crate::machine::cycles_per_ms;

/// Bus clocks in a millisecond, as under KVM (KVM API KVM_CAP_X86_APIC_BUS_CYCLES_NS).
const CLOCKS_PER_MS: u64 = 1_000_000;
const VERSION: u32 = 5 << 16 | 0x14;
const ENABLED: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;

pub struct Lapic {
    requested: [u32; 8],
    in_service: [u32; 8],
    task_priority: u32,
    spurious: u32,
    command_high: u32,
    command_low: u32,
    timer: u32,
    initial: u32,
    divide: u32,
    /// The guest's time, in cycles of the time stamp counter.
    now: u64,
    /// When the timer strikes next; 0: not at all.
    deadline: u64,
}

/// The highest vector of a set.
fn highest(set: &[u32; 8]) -> Option<u8> {
    let word = set.iter().rposition(|bits| *bits != 0)?;
    Some(word as u8 * 32 + set[word].ilog2() as u8)
}

impl Lapic {
    pub const fn new() -> Lapic {
        Lapic {
            requested: [0; 8],
            in_service: [0; 8],
            task_priority: 0,
            spurious: 0,
            command_high: 0,
            command_low: 0,
            timer: 0,
            initial: 0,
            divide: 0,
            now: 0,
            deadline: 0,
        }
    }

    /// TPR.
    pub fn priority(&self) -> u64 {
        self.task_priority.into()
    }

    pub fn set_priority(&mut self, priority: u64) {
        self.task_priority = priority as u32 & 0xff;
    }

    fn request(&mut self, vector: u8) {
        self.requested[usize::from(vector / 32)] |= 1 << (vector % 32);
    }

    /// The interrupt to be delivered now, if its priority is above that of what is being served.
    pub fn pending(&self) -> Option<u8> {
        let vector = highest(&self.requested).filter(|_| self.spurious & ENABLED != 0)?;
        let served = highest(&self.in_service).map_or(0, u32::from).max(self.task_priority);
        (u32::from(vector) >> 4 > served >> 4).then_some(vector)
    }

    /// Takes the interrupt to be delivered into service.
    pub fn accept(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.requested[usize::from(vector / 32)] &= !(1 << (vector % 32));
        self.in_service[usize::from(vector / 32)] |= 1 << (vector % 32);
        Some(vector)
    }

    /// Lets time pass, and requests the timer's interrupt if it has come.
    pub fn pass(&mut self, cycles: u64) {
        self.now += cycles;
        if self.deadline == 0 || self.now < self.deadline {
            return;
        }
        if self.timer & MASKED == 0 {
            self.request(self.timer as u8);
        }
        let next = self.deadline + self.period();
        // Periods that nobody looked at are lost.
        self.deadline = if self.timer & PERIODIC == 0 { 0 } else { next.max(self.now) };
    }

    /// Bus clocks a count.
    fn divisor(&self) -> u64 {
        1 << ((self.divide & 3 | self.divide >> 1 & 4) + 1 & 7)
    }

    /// Cycles of the time stamp counter from the initial count to zero.
    fn period(&self) -> u64 {
        u64::from(self.initial) * self.divisor() / 64 * cycles_per_ms() / (CLOCKS_PER_MS / 64)
    }

    /// What the timer has still to count.
    fn current(&self) -> u32 {
        let left = self.deadline.saturating_sub(self.now);
        (left * (CLOCKS_PER_MS / 64) / cycles_per_ms() * 64 / self.divisor()) as u32
    }

    /// Reads the register at `offset`.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            0x30 => VERSION,
            0x80 => self.task_priority,
            0xf0 => self.spurious,
            0x100..=0x170 => self.in_service[(offset >> 4 & 7) as usize],
            0x200..=0x270 => self.requested[(offset >> 4 & 7) as usize],
            0x300 => self.command_low,
            0x310 => self.command_high,
            0x320 => self.timer,
            0x330..=0x370 => MASKED,
            0x380 => self.initial,
            0x390 => self.current(),
            0x3e0 => self.divide,
            _ => 0, // ID 0 among them
        }
    }

    /// Writes the register at `offset`.
    pub fn write(&mut self, offset: u64, value: u32) {
        match offset {
            0x80 => self.task_priority = value & 0xff,
            0xb0 => {
                if let Some(vector) = highest(&self.in_service) {
                    self.in_service[usize::from(vector / 32)] &= !(1 << (vector % 32));
                }
            }
            0xf0 => self.spurious = value & 0x1ff,
            0x300 => {
                self.command_low = value & 0xc_cfff;
                // Fixed delivery to oneself: by shorthand, to all, or by the number 0.
                let to_self = match value >> 18 & 3 {
                    0 => self.command_high >> 24 == 0,
                    shorthand => shorthand != 3,
                };
                if value >> 8 & 7 == 0 && to_self {
                    self.request(value as u8);
                }
            }
            0x310 => self.command_high = value & 0xff00_0000,
            0x320 => self.timer = value & 0x3_00ff,
            0x380 => {
                self.initial = value;
                self.deadline = if value == 0 { 0 } else { self.now + self.period() };
            }
            0x3e0 => self.divide = value & 0xb,
            _ => {}
        }
    }
}
