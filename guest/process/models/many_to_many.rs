//! Many to many: any number of threads on a few light-weight processes (LWPs), which are threads of the kernel's.
//!
//! There are as many *slots* as processors shall work, each with a queue of threads that can run. An LWP that has a slot runs what is
//! in its queue, switching as in many to one; if it is empty it takes half of another's. Before a call that blocks, an LWP gives its
//! slot away, and a stand-in goes on with it, woken or created if anybody can run: such a call costs one LWP. So there are
//! more LWPs than slots, but never more at work.
//!
//! Order of the locks: a slot's or a bucket's alone, never two. What is idle is marked before the queues are looked at once more, and
//! a queue filled before that mark is: one of the two sides sees the other.
//! Left out: preemption. A thread runs until it waits, yields, blocks or ends.

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use crate::context::{self, switch};
use crate::kernel;
use crate::model::{Handle, Model};
use crate::one_to_one::OneToOne;
use crate::queue::{BUCKETS, Queue, bucket};
use crate::spin::{SpinLock, spin_while};
use crate::thread::{Entry, Thread};

/// The model's name.
pub struct ManyToMany;

/// Most slots, and most LWPs: as many calls may block at a time, less one.
const SLOTS_MAX: usize = 16;
const LWPS_MAX: usize = 64;
/// An LWP without a slot.
const NONE: usize = usize::MAX;

/// Who can run here. Each in cache lines of its own.
#[repr(align(128))]
struct Slot {
    ready: SpinLock<Queue>,
}

/// A light-weight process. Its cells are its own, but `slot` while it is spare: then they are those of who gives it one.
#[repr(align(128))]
struct Lwp {
    /// Its registers while it runs a thread: the loop in `serve`.
    home: Thread,
    slot: Cell<usize>,
    /// Whom the loop is to run next.
    chosen: Cell<Option<&'static Thread>>,
    /// 0 while it has nothing to do: what it waits for in the kernel.
    order: AtomicU32,
    /// The kernel's thread; set by who created it.
    handle: Cell<Option<Handle>>,
}

// SAFETY: by the rule at the type.
unsafe impl Sync for Lwp {}

/// What is not at work.
struct Idle {
    /// Bit by bit, slots that no LWP has.
    slots: Cell<u64>,
    /// LWPs without a slot, of which the first so many count.
    spare: [Cell<usize>; LWPS_MAX],
    spares: Cell<usize>,
    /// LWPs that there are, and whether the kernel has refused another.
    lwps: Cell<usize>,
    refused: Cell<bool>,
}

static SLOTS: [Slot; SLOTS_MAX] = [const { Slot { ready: SpinLock::new(Queue::new()) } }; SLOTS_MAX];
static SLOTS_USED: AtomicUsize = AtomicUsize::new(0);
static LWPS: [Lwp; LWPS_MAX] = [const {
    Lwp {
        home: Thread::home(),
        slot: Cell::new(NONE),
        chosen: Cell::new(None),
        order: AtomicU32::new(0),
        handle: Cell::new(None),
    }
}; LWPS_MAX];
static WAITING: [SpinLock<Queue>; BUCKETS] = [const { SpinLock::new(Queue::new()) }; BUCKETS];
static IDLE: SpinLock<Idle> = SpinLock::new(Idle {
    slots: Cell::new(0),
    spare: [const { Cell::new(0) }; LWPS_MAX],
    spares: Cell::new(0),
    lwps: Cell::new(0),
    refused: Cell::new(false),
});
/// `Idle::slots`, for a look without the lock.
static IDLE_SLOTS: AtomicU64 = AtomicU64::new(0);
/// The first thread, by its address; with it all of them end.
static FIRST: AtomicUsize = AtomicUsize::new(0);
static ENDED: AtomicBool = AtomicBool::new(false);

impl Model for ManyToMany {
    const NAME: &'static str = "m:n";

    fn run(lwps: usize, main: Entry, argument: usize) -> usize {
        let slots = lwps.clamp(1, SLOTS_MAX);
        let thread = Thread::new(main, argument).expect("the kernel has memory for a first thread");
        context::prepare(thread, begin);
        FIRST.store(thread.address(), Ordering::Relaxed);
        SLOTS_USED.store(slots, Ordering::Relaxed);
        ENDED.store(false, Ordering::Relaxed);
        IDLE.hold(|idle| {
            idle.spares.set(0);
            idle.lwps.set(1);
            idle.set_slots(((1 << slots) - 1) & !1);
        });
        let lwp = &LWPS[0];
        lwp.slot.set(0);
        lwp.chosen.set(Some(thread));
        serve(0);
        // An LWP's creator has a lower number, so its handle is there when the creator has been waited for.
        for lwp in &LWPS[1..IDLE.hold(|idle| idle.lwps.get())] {
            if let Some(handle) = lwp.handle.take() {
                OneToOne::join(handle);
            }
        }
        thread.recycle()
    }

    fn create(entry: Entry, argument: usize) -> Option<Handle> {
        let thread = Thread::new(entry, argument)?;
        context::prepare(thread, begin);
        make_ready(own_slot(), thread);
        Some(Handle(thread))
    }

    fn exit(result: usize) -> ! {
        Thread::current().set_result(result);
        end(Thread::current())
    }

    fn join(handle: Handle) -> usize {
        Self::wait_for_end(handle.0);
        // It has told so from its own stack.
        spin_while(|| handle.0.on_stack.load(Ordering::Acquire));
        handle.0.recycle()
    }

    fn yield_now() {
        let thread = Thread::current();
        let lwp = lwp_of(thread);
        let next = SLOTS[lwp.slot.get()].ready.hold(|ready| {
            let next = ready.pop();
            if next.is_some() {
                ready.push(thread);
            }
            next
        });
        if let Some(next) = next {
            change(lwp, thread, Some(next));
        }
    }

    fn wait(word: &AtomicU32, value: u32) {
        let (thread, address) = (Thread::current(), word.as_ptr() as usize);
        thread.word.set(address);
        // Whoever changes the word wakes after that, by the same lock.
        let waits = WAITING[bucket(address)].hold(|waiting| {
            let waits = word.load(Ordering::SeqCst) == value;
            if waits {
                waiting.push(thread);
            }
            waits
        });
        if waits {
            leave(thread);
        }
    }

    fn wake(word: &AtomicU32, threads: usize) {
        let address = word.as_ptr() as usize;
        for _ in 0..threads {
            let Some(thread) = WAITING[bucket(address)].hold(|waiting| waiting.pop_waiting(address)) else { break };
            make_ready(own_slot(), thread);
        }
    }

    fn blocking<R>(call: impl FnOnce() -> R) -> R {
        let thread = Thread::current();
        let lwp = lwp_of(thread);
        let slot = lwp.slot.replace(NONE);
        IDLE.hold(|idle| idle.set_slots(idle.slots.get() | 1 << slot));
        start_if_any_ready();
        let result = call();
        // Without a slot the thread must wait for its turn like any other, and its LWP becomes a stand-in.
        match IDLE.hold(Idle::take_slot) {
            Some(slot) => lwp.slot.set(slot),
            None => {
                make_ready(slot, thread);
                change(lwp, thread, None);
            }
        }
        result
    }
}

impl Idle {
    fn set_slots(&self, slots: u64) {
        self.slots.set(slots);
        IDLE_SLOTS.store(slots, Ordering::SeqCst);
    }

    fn take_slot(&self) -> Option<usize> {
        let slots = self.slots.get();
        self.set_slots(slots & slots.wrapping_sub(1));
        (slots != 0).then(|| slots.trailing_zeros() as usize)
    }

    /// An idle slot and an LWP for it, by number, and whether there is such an LWP already.
    fn take_both(&self) -> Option<(usize, usize, bool)> {
        if self.spares.get() == 0 && (self.refused.get() || self.lwps.get() == LWPS_MAX) {
            return None;
        }
        let slot = self.take_slot()?;
        if let Some(last) = self.spares.get().checked_sub(1) {
            self.spares.set(last);
            return Some((slot, self.spare[last].get(), true));
        }
        let lwp = self.lwps.get();
        self.lwps.set(lwp + 1);
        Some((slot, lwp, false))
    }

    fn add_spare(&self, lwp: usize) {
        LWPS[lwp].order.store(0, Ordering::Relaxed);
        self.spare[self.spares.get()].set(lwp);
        self.spares.set(self.spares.get() + 1);
    }
}

/// The LWP that runs `thread`, which is the caller. A switch may change it.
fn lwp_of(thread: &Thread) -> &'static Lwp {
    &LWPS[thread.lwp.get()]
}

/// The slot of the LWP that this runs on.
fn own_slot() -> usize {
    lwp_of(Thread::current()).slot.get()
}

/// Puts `thread` among those who can run in `slot`; if a processor is idle, it is not any more.
fn make_ready(slot: usize, thread: &'static Thread) {
    SLOTS[slot].ready.hold(|ready| ready.push(thread));
    fence(Ordering::SeqCst);
    if IDLE_SLOTS.load(Ordering::Relaxed) != 0 {
        start_idle();
    }
}

/// Has an LWP work in an idle slot, if there are both.
fn start_idle() {
    let Some((slot, number, exists)) = IDLE.hold(Idle::take_both) else { return };
    let lwp = &LWPS[number];
    lwp.slot.set(slot);
    if exists {
        lwp.order.store(1, Ordering::Release);
        kernel::wake(&lwp.order, 1);
        return;
    }
    lwp.handle.set(OneToOne::create(begin_lwp, number));
    if lwp.handle.get().is_none() {
        IDLE.hold(|idle| {
            idle.refused.set(true);
            idle.set_slots(idle.slots.get() | 1 << slot);
        });
    }
}

/// Has somebody work in an idle slot if there is work: for who has just left one idle.
fn start_if_any_ready() {
    fence(Ordering::SeqCst);
    let used = SLOTS_USED.load(Ordering::Relaxed);
    if SLOTS[..used].iter().any(|slot| slot.ready.hold(|ready| ready.len() > 0)) {
        start_idle();
    }
}

fn begin_lwp(number: usize) -> usize {
    serve(number);
    0
}

/// The loop of an LWP, on the stack that the kernel gave it: runs threads, and comes here when none is left in its slot.
fn serve(number: usize) {
    let lwp = &LWPS[number];
    lwp.home.lwp.set(number);
    while !ENDED.load(Ordering::Acquire) {
        match find(lwp) {
            Some(thread) => {
                // It may have been taken from another LWP's queue before it has left that one's processor.
                spin_while(|| thread.on_stack.load(Ordering::Acquire));
                go(lwp, &lwp.home, thread);
            }
            None => rest(lwp, number),
        }
    }
}

/// Somebody to run in the LWP's slot.
fn find(lwp: &Lwp) -> Option<&'static Thread> {
    let own = lwp.slot.get();
    if let Some(thread) = lwp.chosen.take() {
        return Some(thread);
    }
    if own == NONE {
        return None;
    }
    if let Some(thread) = SLOTS[own].ready.hold(Queue::pop) {
        return Some(thread);
    }
    let used = SLOTS_USED.load(Ordering::Relaxed);
    (1..used).find_map(|distance| steal(own, (own + distance) % used))
}

/// Takes half of the threads that wait in another slot, and returns the first of them.
fn steal(own: usize, other: usize) -> Option<&'static Thread> {
    let taken = Queue::new();
    SLOTS[other].ready.hold(|ready| {
        for _ in 0..ready.len().div_ceil(2) {
            taken.push(ready.pop()?);
        }
        Some(())
    });
    let first = taken.pop();
    SLOTS[own].ready.hold(|ready| {
        while let Some(thread) = taken.pop() {
            ready.push(thread);
        }
    });
    first
}

/// Waits in the kernel until somebody gives the LWP a slot, having given up its own if it has one.
fn rest(lwp: &'static Lwp, number: usize) {
    let slot = lwp.slot.replace(NONE);
    let rests = IDLE.hold(|idle| {
        if ENDED.load(Ordering::Relaxed) {
            return false;
        }
        idle.add_spare(number);
        if slot != NONE {
            idle.set_slots(idle.slots.get() | 1 << slot);
        }
        true
    });
    if rests {
        start_if_any_ready();
        while lwp.order.load(Ordering::Acquire) == 0 {
            kernel::wait(&lwp.order, 0);
        }
    }
}

extern "C" fn begin(left: &'static Thread, thread: &'static Thread) -> ! {
    left.on_stack.store(false, Ordering::Release);
    thread.run_entry();
    end(thread)
}

fn end(thread: &'static Thread) -> ! {
    if thread.address() == FIRST.load(Ordering::Relaxed) {
        end_all();
        change(lwp_of(thread), thread, None);
    } else {
        ManyToMany::tell_end(thread);
        leave(thread);
    }
    unreachable!("a thread that has ended is in no queue")
}

/// Has the LWPs end: the loops see it, and those who wait are woken to.
fn end_all() {
    IDLE.hold(|idle| {
        ENDED.store(true, Ordering::Release);
        for lwp in &idle.spare[..idle.spares.replace(0)] {
            let order = &LWPS[lwp.get()].order;
            order.store(1, Ordering::Release);
            kernel::wake(order, 1);
        }
    });
}

/// Has somebody else run, until the calling thread is in the queue of those who can and its turn comes.
fn leave(thread: &'static Thread) {
    let lwp = lwp_of(thread);
    let next = SLOTS[lwp.slot.get()].ready.hold(Queue::pop);
    // Already woken, before it has even left: it stays.
    if !next.is_some_and(|next| ptr::eq(next, thread)) {
        change(lwp, thread, next);
    }
}

/// Switches from the calling thread to `next`, or to the LWP's loop when there is nobody or `next` has not left its processor:
/// the loop may wait for that, but two threads that wait for each other's stack would do so for ever.
#[inline(always)]
fn change(lwp: &'static Lwp, thread: &'static Thread, next: Option<&'static Thread>) {
    match next {
        Some(next) if !next.on_stack.load(Ordering::Acquire) => go(lwp, thread, next),
        chosen => {
            lwp.chosen.set(chosen);
            go(lwp, thread, &lwp.home);
        }
    }
}

/// Switches from `from`, which this runs on, to `to`, and takes note of who has left when it is back.
#[inline(always)]
fn go(lwp: &Lwp, from: &'static Thread, to: &'static Thread) {
    to.lwp.set(lwp.home.lwp.get());
    to.on_stack.store(true, Ordering::Relaxed);
    // SAFETY: `to` was in one queue and is now in none, and its processor has left it.
    let left = unsafe { switch(from, to) };
    left.on_stack.store(false, Ordering::Release);
}
