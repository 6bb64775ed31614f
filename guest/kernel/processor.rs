//! What each processor has: descriptor tables, a stack, the thread that it runs; and the lock that only one holds.
//!
//! Sources: Intel SDM vol. 3A §3.4.5 (segment descriptors), §7.7 (64-bit TSS), §6.14.5 (interrupt stack table), §4.10.5 (other
//! processors' translations); AMD APM vol. 2 §3.1.7 (EFER).

use core::arch::asm;
use core::cell::Cell;
use core::hint::spin_loop;
use core::ptr::{addr_of, addr_of_mut};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use guest::acpi::{Entry, for_each_madt_entry};
use guest::interrupt::{self, Frame};
use guest::start_info::StartInfo;
use guest::{apic, smp};

use super::Locked;
use super::space::{Space, kernel_root};
use super::thread::Thread;
use super::{scheduler, trap};

/// Most processors.
pub const CPUS_MAX: usize = 16;
/// Bytes of a processor's stack, and of that of exceptions which must not trust any.
const STACK_BYTES: usize = 8 << 10;
const EMERGENCY_BYTES: usize = 2 << 10;

/// Vectors: the LAPIC's timer; look at what there is to run; forget translations; the disk; the network card.
pub const TIMER: u8 = interrupt::FIRST_FREE;
pub const RESCHEDULE: u8 = interrupt::FIRST_FREE + 1;
pub const FLUSH: u8 = interrupt::FIRST_FREE + 2;
pub const DISK: u8 = interrupt::FIRST_FREE + 6;
pub const NET: u8 = interrupt::FIRST_FREE + 7;

/// MSRs.
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
/// [`EFER`]: long mode, which is on, and pages without execution.
const EFER_BITS: u64 = 1 << 8 | 1 << 11;
/// The TSS.
const TASK: u16 = 0x38;
/// A processor.
pub struct Cpu {
    pub apic_id: Cell<u32>,
    /// What it runs in ring 3; `None`: the shell, or nothing.
    pub current: Cell<Option<&'static Thread>>,
    /// When the thread's turn is over, and when the LAPIC's timer fires, in ns.
    pub slice_end_ns: Cell<u64>,
    pub timer_ns: Cell<u64>,
    /// It has fired, and nobody has looked whether the turn is over.
    pub timer_fired: Cell<bool>,
    /// Time stamp when the thread came on.
    pub since_ticks: Cell<u64>,
    /// Whose turn it is when both a bound and another thread are ready.
    pub prefers_bound: Cell<bool>,
    /// What the registers hold.
    root: Cell<u64>,
    tls: Cell<u64>,
    /// The process whose vector registers are loaded, by its id.
    pub vectors_of: Cell<u64>,
}

/// What the processor reads of a processor.
#[repr(C, align(16))]
struct Tables {
    /// As in `guest/lib/ring3.rs`: ring 0, then data and code of ring 3, then the TSS.
    gdt: [u64; 9],
    /// 104 bytes, in words of four.
    tss: [u32; 26],
}

#[repr(C, align(16))]
struct Stack<const BYTES: usize> {
    _bytes: [u8; BYTES],
}

static CPUS: Locked<[Cpu; CPUS_MAX]> = Locked([const { Cpu::new() }; CPUS_MAX]);
/// How many have their tables. Atomic, for a processor counts itself before it has the lock.
static COUNT: AtomicU64 = AtomicU64::new(0);
static mut TABLES: [Tables; CPUS_MAX] = [const { Tables { gdt: [0; 9], tss: [0; 26] } }; CPUS_MAX];
static mut STACKS: [Stack<STACK_BYTES>; CPUS_MAX] = [const { Stack { _bytes: [0; STACK_BYTES] } }; CPUS_MAX];
static mut EMERGENCY: [Stack<EMERGENCY_BYTES>; CPUS_MAX] = [const { Stack { _bytes: [0; EMERGENCY_BYTES] } }; CPUS_MAX];

static LOCK: AtomicBool = AtomicBool::new(false);
/// Who is to forget translations before it goes on.
static TO_FLUSH: [AtomicBool; CPUS_MAX] = [const { AtomicBool::new(false) }; CPUS_MAX];

/// What LGDT takes.
#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

impl Cpu {
    const fn new() -> Cpu {
        Cpu {
            apic_id: Cell::new(0),
            current: Cell::new(None),
            slice_end_ns: Cell::new(0),
            timer_ns: Cell::new(u64::MAX),
            timer_fired: Cell::new(false),
            since_ticks: Cell::new(0),
            prefers_bound: Cell::new(false),
            root: Cell::new(0),
            tls: Cell::new(0),
            vectors_of: Cell::new(0),
        }
    }

    /// The top of its stack.
    pub fn stack_top(&self) -> u64 {
        addr_of!(STACKS) as u64 + (self.index() + 1) * STACK_BYTES as u64
    }

    /// Which it is, from 0 on.
    pub fn index(&self) -> u64 {
        ((&raw const *self) as u64 - addr_of!(CPUS) as u64) / size_of::<Cpu>() as u64
    }

    /// Makes `thread` what this processor runs next: its memory, its way into the kernel, its FS base.
    pub fn load(&self, thread: &'static Thread) {
        let index = self.index() as usize;
        let end = &raw const thread.processor_stack as u64;
        thread.processor_stack.set(self.stack_top());
        thread.cpu.set(self.index());
        // SAFETY: this processor's own tables, which it reads when ring 3 is left.
        unsafe {
            let tss = addr_of_mut!((*addr_of_mut!(TABLES).cast::<Tables>().add(index)).tss).cast::<u32>();
            tss.add(1).cast::<u64>().write_unaligned(end);
        }
        self.load_space(thread.process().space.root());
        if self.tls.replace(thread.tls.get()) != thread.tls.get() {
            write_msr(FS_BASE, thread.tls.get());
        }
    }

    /// Has the page tables at `root` used.
    pub fn load_space(&self, root: u64) {
        if self.root.replace(root) != root {
            // SAFETY: every root maps the kernel as it is mapped now.
            unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
        }
    }

    /// Sets FS base, of the thread that it runs.
    pub fn set_tls(&self, base: u64) {
        self.tls.set(base);
        write_msr(FS_BASE, base);
    }
}

/// How many processors run.
pub fn count() -> u64 {
    COUNT.load(Ordering::Acquire)
}

/// The processors that run.
pub fn all() -> impl Iterator<Item = &'static Cpu> {
    CPUS.iter().take(count() as usize)
}

/// The processor with this number.
pub fn get(index: u64) -> &'static Cpu {
    &CPUS[index as usize]
}

/// The one that executes this: the stack tells. The shell's, which is none of these, is on the first.
pub fn this() -> &'static Cpu {
    let here = 0u8;
    let offset = (&raw const here as u64).wrapping_sub(addr_of!(STACKS) as u64);
    CPUS.get(offset as usize / STACK_BYTES).unwrap_or(&CPUS[0])
}

/// Waits for the kernel's lock. Interrupts are off, so what others want of this processor at once is done here.
pub fn lock(cpu: &Cpu) {
    while LOCK.swap(true, Ordering::Acquire) {
        while LOCK.load(Ordering::Relaxed) {
            flush_if_asked(cpu.index());
            spin_loop();
        }
    }
}

/// Frees the lock.
pub fn unlock() {
    LOCK.store(false, Ordering::Release);
}

/// Prepares the first processor, takes the lock for it, and starts the others.
pub fn init(info: &StartInfo) {
    trap::init();
    for (vector, handler) in
        [(TIMER, noted as fn(&mut Frame)), (RESCHEDULE, noted), (FLUSH, flush), (DISK, noted), (NET, noted)]
    {
        interrupt::on(vector, handler);
    }
    let first = apic::id();
    begin(first);
    lock(get(0));
    for_each_madt_entry(info.rsdp(), |entry| {
        if let Entry::Processor(id) = entry
            && u32::from(id) != first
            && count() < CPUS_MAX as u64
        {
            // It counts itself when it has its tables, and waits for the lock; only then may the next take the next tables.
            let before = count();
            if smp::start(id.into(), run_started) {
                while count() == before {
                    spin_loop();
                }
            } else {
                guest::print!("processor ", u64::from(id), " does not start\n");
            }
        }
    });
    apic::prepare_timer();
}

/// What a started processor runs: nothing, until there is something. On its own stack, by which it is known.
fn run_started() {
    let cpu = begin(apic::id());
    apic::prepare_timer();
    // SAFETY: nothing on the old stack is needed any more.
    unsafe {
        asm!("mov rsp, {}", "call {}", in(reg) cpu.stack_top(), in(reg) scheduler::begin_idle as *const (),
            options(noreturn));
    }
}

/// Gives the next processor, which executes this, its tables. One at a time.
fn begin(apic_id: u32) -> &'static Cpu {
    let index = count() as usize;
    CPUS[index].apic_id.set(apic_id);
    CPUS[index].root.set(kernel_root());
    // SAFETY: statics that are this processor's alone from here on.
    unsafe {
        let tables = addr_of_mut!(TABLES).cast::<Tables>().add(index);
        let emergency = addr_of!(EMERGENCY) as u64 + ((index + 1) * EMERGENCY_BYTES) as u64;
        let tss = addr_of_mut!((*tables).tss);
        let base = tss as u64;
        tss.cast::<u32>().add(9).cast::<u64>().write_unaligned(emergency); // IST 1
        tss.cast::<u32>().add(25).write((size_of::<[u32; 26]>() as u32) << 16); // no map of ports: its place is behind the end
        let limit = size_of::<[u32; 26]>() as u64 - 1;
        addr_of_mut!((*tables).gdt).write([
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_9b00_0000_ffff,
            0x008f_9b00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56,
            base >> 32,
        ]);
        let pointer = TablePointer { limit: size_of::<[u64; 9]>() as u16 - 1, base: addr_of!((*tables).gdt) as u64 };
        asm!("lgdt [{}]", "ltr {1:x}", in(reg) &raw const pointer, in(reg) TASK, options(nostack, preserves_flags));
    }
    trap::load();
    write_msr(EFER, EFER_BITS);
    COUNT.store(index as u64 + 1, Ordering::Release);
    get(index as u64)
}

/// Interrupts a processor, unless it is this one, so that it looks at what is to be done.
pub fn interrupt(cpu: u64) {
    if cpu != this().index() {
        apic::interrupt(get(cpu).apic_id.get(), RESCHEDULE);
    }
}

/// Has every other processor that uses `space` forget its translations, and waits until it has.
pub fn flush_others(space: &Space) {
    let here = this().index();
    let uses = |cpu: &&Cpu| cpu.index() != here && cpu.root.get() == space.root();
    for cpu in all().filter(uses) {
        TO_FLUSH[cpu.index() as usize].store(true, Ordering::Release);
        apic::interrupt(cpu.apic_id.get(), FLUSH);
    }
    for cpu in all().filter(uses) {
        while TO_FLUSH[cpu.index() as usize].load(Ordering::Acquire) {
            spin_loop();
        }
    }
}

/// Uses the kernel's tables if this processor uses those of `space`, which end.
pub fn leave_space(space: &Space) {
    let cpu = this();
    if cpu.root.get() == space.root() {
        cpu.load_space(kernel_root());
    }
}

/// Forgets translations if somebody waits for that. Without the lock.
pub fn flush_if_asked(cpu: u64) {
    if TO_FLUSH[cpu as usize].load(Ordering::Acquire) {
        // SAFETY: loads what is there.
        unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags)) };
        TO_FLUSH[cpu as usize].store(false, Ordering::Release);
    }
}

/// The handler of interrupts that come to a processor without work: it looks at everything when it goes on.
pub fn noted(frame: &mut Frame) {
    trap::note(frame.vector);
    apic::end_of_interrupt();
}

/// As above: [`FLUSH`].
fn flush(_: &mut Frame) {
    flush_if_asked(this().index());
    apic::end_of_interrupt();
}

/// Writes an MSR.
pub fn write_msr(msr: u32, value: u64) {
    // SAFETY: the callers name MSRs that this kernel owns.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}
