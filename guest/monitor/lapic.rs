//! The virtual LAPIC: priorities, end of interrupt, an interrupt to oneself, and the timer.
//!
//! The timer counts while the guest runs or halts, and stands still while the monitor works for it or the other guest runs: by the wall
//! clock a guest whose handler takes many traps would do nothing but serve its timer. It strikes when the monitor looks at it next, at a
//! trap or at its own tick. Left out: other processors, interrupts by shorthand, the local inputs, the TSC deadline and x2APIC, which
//! CPUID does not offer.
//! Source: Intel SDM vol. 3A ch. 11 (registers: table 11-1; priorities: §11.8.3; timer: §11.5.4).

use crate::machine::cycles_per_ms;

/// Bus clocks in a millisecond, as under KVM (KVM API KVM_CAP_X86_APIC_BUS_CYCLES_NS).
const CLOCKS_PER_MS: u64 = 1_000_000;
/// SVR: the LAPIC is on. LVT: silent; starts over at zero.
const ENABLED: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;

/// Registers by their number, which is their offset by 16: priority, EOI, spurious vector, interrupts in service and requested
/// (eight each), command, timer.
const PRIORITY: usize = 0x8;
const EOI: usize = 0xb;
const SPURIOUS: usize = 0xf;
const IN_SERVICE: usize = 0x10;
const REQUESTED: usize = 0x20;
const COMMAND: usize = 0x30;
const COMMAND_HIGH: usize = 0x31;
const TIMER: usize = 0x32;
const INITIAL: usize = 0x38;
const CURRENT: usize = 0x39;
const DIVIDE: usize = 0x3e;

pub struct Lapic {
    registers: [u32; 0x40],
    /// The guest's time, in cycles of the time stamp counter.
    now: u64,
    /// When the timer strikes next; 0: not at all.
    deadline: u64,
}

impl Lapic {
    /// TPR.
    pub fn priority(&mut self) -> &mut u32 {
        &mut self.registers[PRIORITY]
    }

    /// Puts a vector into one of the two sets, or takes it out.
    fn set(&mut self, set: usize, vector: u8, on: bool) {
        let (word, bit) = (&mut self.registers[set + usize::from(vector / 32)], 1 << (vector % 32));
        *word = *word & !bit | if on { bit } else { 0 };
    }

    /// The highest vector of a set; 0: it is empty.
    fn highest(&self, set: usize) -> u8 {
        let words = &self.registers[set..set + 8];
        let word = words.iter().rposition(|bits| *bits != 0).unwrap_or(0);
        word as u8 * 32 + words[word].checked_ilog2().unwrap_or(0) as u8
    }

    /// The interrupt to be delivered now, if its priority is above that of what is being served.
    pub fn pending(&self) -> Option<u8> {
        let vector = self.highest(REQUESTED);
        let served = u32::from(self.highest(IN_SERVICE)).max(self.registers[PRIORITY]);
        (self.registers[SPURIOUS] & ENABLED != 0 && u32::from(vector) >> 4 > served >> 4).then_some(vector)
    }

    /// Takes the interrupt to be delivered into service.
    pub fn accept(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.set(REQUESTED, vector, false);
        self.set(IN_SERVICE, vector, true);
        Some(vector)
    }

    /// Lets time pass, and requests the timer's interrupt if it has come.
    pub fn pass(&mut self, cycles: u64) {
        self.now += cycles;
        if self.deadline == 0 || self.now < self.deadline {
            return;
        }
        let timer = self.registers[TIMER];
        if timer & MASKED == 0 {
            self.set(REQUESTED, timer as u8, true);
        }
        // Periods that nobody looked at are lost.
        self.deadline = if timer & PERIODIC == 0 { 0 } else { (self.deadline + self.period()).max(self.now) };
    }

    /// Bus clocks of one count, as a power of two.
    fn divide_shift(&self) -> u32 {
        let divide = self.registers[DIVIDE];
        (divide & 3 | divide >> 1 & 4) + 1 & 7
    }

    /// Cycles of the time stamp counter from the initial count to zero.
    fn period(&self) -> u64 {
        let clocks = u64::from(self.registers[INITIAL]) << self.divide_shift(); // 39 bits, times cycles of 23
        clocks * cycles_per_ms() / CLOCKS_PER_MS
    }

    /// Reads the register at `offset`.
    pub fn read(&self, offset: u64) -> u32 {
        match (offset >> 4) as usize {
            0x3 => 5 << 16 | 0x14, // the version: six entries of its table
            CURRENT => {
                let left = self.deadline.saturating_sub(self.now);
                (left * CLOCKS_PER_MS / cycles_per_ms() >> self.divide_shift()) as u32
            }
            number => self.registers.get(number).copied().unwrap_or(0),
        }
    }

    /// Writes the register at `offset`.
    pub fn write(&mut self, offset: u64, value: u32) {
        let number = (offset >> 4) as usize;
        if matches!(number, PRIORITY | SPURIOUS | COMMAND_HIGH | TIMER | INITIAL | DIVIDE) {
            self.registers[number] = value;
        }
        match number {
            EOI => self.set(IN_SERVICE, self.highest(IN_SERVICE), false),
            // Fixed delivery to the number 0, which is oneself. It is delivered as soon as it is sent.
            COMMAND if value & 0xc_0700 == 0 && self.registers[COMMAND_HIGH] >> 24 == 0 => {
                self.set(REQUESTED, value as u8, true);
            }
            INITIAL => self.deadline = if value == 0 { 0 } else { self.now + self.period() },
            _ => {}
        }
    }
}
