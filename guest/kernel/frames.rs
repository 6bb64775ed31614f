//! Physical memory in frames of 4 KiB, each owned by the kernel or by one process.
//!
//! Only the first GiB, which the entry code maps one to one, so that the kernel reaches every frame by its address. A frame that
//! nobody has used since the machine was switched on is all zeroes, which Hostel promises for RAM; one that was given back is cleared
//! when it is wanted clear. The frames of an owner are a list, so that all that a process had is free in one step.

use core::arch::asm;
use core::cell::Cell;
use core::ptr::addr_of;

use guest::memory::{GIB, read64, write64};
use guest::start_info::{RAM, StartInfo};

use super::Locked;
use super::abi::PAGE;

/// Frames that belong together; an address of 0 is none.
pub struct Owner {
    first: Cell<u64>,
    last: Cell<u64>,
    count: Cell<u64>,
}

/// Where the frames lie.
struct Memory {
    /// The neighbours of each frame in its owner's list: two words a frame, the next and the previous. Then come the frames.
    links: Cell<u64>,
    /// The first frame that was never used, and the end of all.
    fresh: Cell<u64>,
    end: Cell<u64>,
}

static MEMORY: Locked<Memory> = Locked(Memory { links: Cell::new(0), fresh: Cell::new(0), end: Cell::new(0) });
/// What was given back.
static FREE: Locked<Owner> = Locked(Owner::new());
/// What the kernel has for itself.
pub static KERNEL: Locked<Owner> = Locked(Owner::new());

unsafe extern "C" {
    /// The end of this program, from the linker.
    static guest_end: u8;
}

/// Takes the RAM behind the program.
pub fn init(info: &StartInfo) {
    let start = (addr_of!(guest_end) as u64).next_multiple_of(PAGE);
    let holds = |range: u64, bytes: u64| range <= start && start < range + bytes;
    let mut ram = info.memory_map().iter().filter(|range| range.kind == RAM && holds(range.start, range.bytes));
    let end = ram.next().map_or(start, |range| (range.start + range.bytes).min(GIB) & !(PAGE - 1));
    MEMORY.links.set(start);
    MEMORY.fresh.set((start + (end - start) / PAGE * 16).next_multiple_of(PAGE).min(end));
    MEMORY.end.set(end);
}

/// Where the link of a frame to the next stands; that to the previous is behind it.
fn link(frame: u64) -> u64 {
    MEMORY.links.get() + (frame - (MEMORY.links.get())) / PAGE * 16
}

impl Owner {
    /// Nothing.
    pub const fn new() -> Owner {
        Owner { first: Cell::new(0), last: Cell::new(0), count: Cell::new(0) }
    }

    /// How many frames it has.
    pub fn count(&self) -> u64 {
        self.count.get()
    }

    /// A frame of zeroes.
    pub fn zeroed(&self) -> Option<u64> {
        if let Some(frame) = fresh() {
            self.push(frame);
            return Some(frame);
        }
        let frame = self.any()?;
        // SAFETY: a whole frame, which nobody else has.
        unsafe {
            asm!("rep stosq", inout("rdi") frame => _, inout("rcx") PAGE / 8 => _, in("rax") 0u64,
                options(nostack, preserves_flags));
        }
        Some(frame)
    }

    /// A frame with anything in it: one that was given back, if there is one.
    pub fn any(&self) -> Option<u64> {
        let frame = match FREE.first.get() {
            0 => fresh()?,
            frame => {
                FREE.remove(frame);
                frame
            }
        };
        self.push(frame);
        Some(frame)
    }

    /// Gives one of its frames back.
    pub fn free(&self, frame: u64) {
        self.remove(frame);
        FREE.push(frame);
    }

    /// Gives all of its frames back.
    pub fn free_all(&self) {
        let (first, last) = (self.first.replace(0), self.last.replace(0));
        if first != 0 {
            let next = FREE.first.replace(first);
            write64(link(last), next);
            if next == 0 {
                FREE.last.set(last)
            } else {
                write64(link(next) + 8, last)
            }
            FREE.count.set(FREE.count.get() + self.count.replace(0));
        }
    }

    fn push(&self, frame: u64) {
        let next = self.first.replace(frame);
        write64(link(frame), next);
        write64(link(frame) + 8, 0);
        if next == 0 {
            self.last.set(frame)
        } else {
            write64(link(next) + 8, frame)
        }
        self.count.set(self.count.get() + 1);
    }

    fn remove(&self, frame: u64) {
        let (next, previous) = (read64(link(frame)), read64(link(frame) + 8));
        if previous == 0 {
            self.first.set(next)
        } else {
            write64(link(previous), next)
        }
        if next == 0 {
            self.last.set(previous)
        } else {
            write64(link(next) + 8, previous)
        }
        self.count.set(self.count.get() - 1);
    }
}

/// A frame that was never used.
fn fresh() -> Option<u64> {
    let frame = MEMORY.fresh.get();
    (frame < MEMORY.end.get()).then(|| {
        MEMORY.fresh.set(frame + PAGE);
        frame
    })
}

/// How many bytes are free.
pub fn free_bytes() -> u64 {
    MEMORY.end.get() - MEMORY.fresh.get() + FREE.count.get() * PAGE
}

/// Copies by words, which takes an eighth of the steps where each is interpreted.
pub fn copy(to: u64, from: u64, bytes: u64) {
    // SAFETY: the callers give ranges of frames or statics of their own.
    unsafe {
        asm!("rep movsq", "mov rcx, {rest}", "rep movsb", rest = in(reg) bytes % 8, inout("rdi") to => _,
            inout("rsi") from => _, inout("rcx") bytes / 8 => _, options(nostack, preserves_flags));
    }
}
