//! What threads cost in one model: each operation is repeated, and divided by how often it was done.

use core::cell::Cell;
use core::hint::black_box;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use models::kernel;
use models::model::{Handle, Model};
use models::sync::{Condvar, Mutex};

use crate::work::work;

/// Light-weight processes that the speed-up is looked at with.
pub const LWPS: [usize; 3] = [1, 2, 4];
/// A loop is made longer until it takes so long: no longer, or it is interrupted for sure.
const LONG_NS: u64 = 1_000_000;
/// Threads that share the work.
const WORKERS: usize = 64;
/// How often something is tried whose best counts, since what disturbs only takes.
const RUNS: usize = 5;
/// How long the thread that blocks does so.
const BLOCK_NS: u64 = 30_000_000;

/// What is asked for.
#[derive(Clone, Copy)]
pub struct Question {
    pub threads: usize,
    /// Steps of work in all.
    pub steps: u64,
    pub cpus: usize,
    /// What the process had before it had any thread.
    pub memory_before: Option<kernel::Memory>,
}

/// What an operation takes.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    /// Thousandths of a nanosecond, and of a system call.
    pub time: u64,
    pub calls: u64,
}

/// Bytes of a thread: its stack, as far as it is touched, and what the kernel has for it.
#[derive(Clone, Copy)]
pub struct Memory {
    pub user: u64,
    pub kernel: u64,
}

/// What was found out about a model.
#[derive(Clone, Copy, Default)]
pub struct Figures {
    pub create: Cost,
    pub switch: Cost,
    pub lock: Cost,
    pub hand_over: Cost,
    /// Percent of the time that one thread blocked in which others ran.
    pub others: u64,
    /// How much faster the work is done with so many LWPs than with one, in thousandths; 0: there are not so many processors.
    pub speed_up: [u64; LWPS.len()],
    /// Threads that came to the meeting and went home from it.
    pub met: u64,
    /// `None`: the kernel does not tell.
    pub memory: Option<Memory>,
}

/// Between two looks at the clock.
struct Stopwatch {
    time: u64,
    calls: u64,
}

impl Stopwatch {
    /// To ask for the calls may be a call, so the clock is looked at last here and first at the end.
    fn start() -> Stopwatch {
        let calls = kernel::system_calls();
        Stopwatch { time: kernel::now(), calls }
    }

    /// What each of so many operations took since the start, without the calls that the looks themselves make.
    fn cost(&self, operations: u64) -> Cost {
        let time = kernel::now() - self.time;
        let calls = kernel::system_calls();
        let look = kernel::system_calls() - calls;
        Cost { time: time * 1000 / operations, calls: (calls - self.calls - look) * 1000 / operations }
    }
}

/// Has `body` do so many operations as it is told, more each time until they take long enough by the best time of one so far; it says
/// how many it did.
fn repeated(mut body: impl FnMut(u64) -> u64) -> Cost {
    let mut best = Cost { time: u64::MAX, calls: 0 };
    let (mut wanted, mut runs) = (20, 0);
    while runs < RUNS {
        let watch = Stopwatch::start();
        let done = body(wanted);
        let cost = watch.cost(done);
        if cost.time < best.time {
            best = cost;
        }
        if best.time * wanted / 1000 < LONG_NS {
            wanted *= 2;
        } else {
            runs += 1;
        }
    }
    best
}

/// Measures model `M`.
pub fn measure<M: Model>(question: Question) -> Figures {
    let mut figures = Figures::default();
    for part in [create::<M>, switch::<M>, lock::<M>, hand_over::<M>, blocking::<M>] {
        run::<M, _>(1, || part(question, &mut figures));
    }
    run::<M, _>(question.cpus, || meet::<M>(question, &mut figures));
    speed_up::<M>(question, &mut figures);
    figures
}

/// Runs `body` as the first thread of model `M` on so many LWPs.
fn run<M: Model, F: FnMut()>(lwps: usize, mut body: F) {
    fn entry<F: FnMut()>(body: usize) -> usize {
        // SAFETY: `run` below returns only when this has.
        unsafe { (*(body as *mut F))() };
        0
    }
    M::run(lwps, entry::<F>, &raw mut body as usize);
}

/// Creates a thread that runs `body`, which the caller keeps until it has joined it.
fn create_with<M: Model, F: Fn() + Sync>(body: &F) -> Handle {
    fn entry<F: Fn()>(body: usize) -> usize {
        // SAFETY: by the caller's promise.
        unsafe { (*(body as *const F))() };
        0
    }
    M::create(entry::<F>, &raw const *body as usize).expect("the kernel has one more thread")
}

/// Handles of threads, in memory that the kernel gives for the purpose.
struct Crowd<M> {
    handles: &'static [Cell<Option<Handle>>],
    model: PhantomData<M>,
}

impl<M: Model> Crowd<M> {
    fn of(threads: usize) -> Crowd<M> {
        let bytes = threads * size_of::<Cell<Option<Handle>>>();
        let memory = kernel::map(bytes.next_multiple_of(4096)).expect("the kernel has memory for handles");
        // SAFETY: fresh memory of that size, all zero, which is `None`.
        let handles = unsafe { core::slice::from_raw_parts(memory as *const Cell<Option<Handle>>, threads) };
        Crowd { handles, model: PhantomData }
    }

    /// Creates all, each with the argument that it gets for its number.
    fn create(&self, entry: fn(usize) -> usize, argument: impl Fn(usize) -> usize) {
        for (number, handle) in self.handles.iter().enumerate() {
            handle.set(M::create(entry, argument(number)));
            assert!(handle.get().is_some(), "the kernel has no more threads");
        }
    }

    /// Waits for all, and returns the sum of what they return.
    fn join(&self) -> usize {
        self.handles.iter().filter_map(Cell::take).map(M::join).sum()
    }
}

/// Threads that do nothing: twice, since the first time they touch fresh memory.
fn create<M: Model>(question: Question, figures: &mut Figures) {
    let crowd = Crowd::<M>::of(question.threads);
    let threads = question.threads as u64;
    crowd.create(|_| 0, |_| 0);
    if let (Some(before), Some(now)) = (question.memory_before, kernel::memory()) {
        figures.memory = Some(Memory {
            user: now.process_bytes.saturating_sub(before.process_bytes) / threads,
            kernel: now.kernel_bytes / threads,
        });
    }
    crowd.join();
    let watch = Stopwatch::start();
    crowd.create(|_| 0, |_| 0);
    crowd.join();
    figures.create = watch.cost(threads);
}

/// Yields of each of two threads, and whether they are to stop.
static YIELDS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static STOP: AtomicBool = AtomicBool::new(false);

fn yield_counted<M: Model>(number: usize) {
    let counter = &YIELDS[number];
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    M::yield_now();
}

fn yields() -> u64 {
    YIELDS.iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
}

/// Two threads on one processor that yield to each other: each time, one stops and the other goes on.
fn switch<M: Model>(_question: Question, figures: &mut Figures) {
    STOP.store(false, Ordering::Relaxed);
    kernel::bind(true);
    let yield_too = || {
        kernel::bind(true);
        while !STOP.load(Ordering::Relaxed) {
            yield_counted::<M>(1);
        }
    };
    let other = create_with::<M, _>(&yield_too);
    M::yield_now();
    figures.switch = repeated(|wanted| {
        let before = yields();
        for _ in 0..wanted {
            yield_counted::<M>(0);
        }
        yields() - before
    });
    STOP.store(true, Ordering::Relaxed);
    M::join(other);
    kernel::bind(false);
}

/// A mutex that nobody else wants.
fn lock<M: Model>(_question: Question, figures: &mut Figures) {
    let mutex = Mutex::<M, u64>::new(0);
    figures.lock = repeated(|wanted| {
        for _ in 0..wanted {
            *mutex.lock() += 1;
        }
        wanted
    });
}

/// Whose turn it is, of two threads that wait for each other.
struct Turns<M> {
    turn: Mutex<M, u64>,
    changed: Condvar<M>,
    rounds: u64,
}

impl<M: Model> Turns<M> {
    fn play(&self, own: u64) {
        for _ in 0..self.rounds {
            let mut turn = self.turn.lock();
            while *turn != own {
                turn = self.changed.wait(turn);
            }
            *turn = 1 - own;
            self.changed.notify_one();
        }
    }
}

/// Two threads that hand a turn to each other.
fn hand_over<M: Model>(_question: Question, figures: &mut Figures) {
    figures.hand_over = repeated(|wanted| {
        let turns = Turns::<M> { turn: Mutex::new(0), changed: Condvar::new(), rounds: wanted / 2 };
        let play = || turns.play(1);
        let other = create_with::<M, _>(&play);
        turns.play(0);
        M::join(other);
        wanted
    });
}

/// One thread blocks in the kernel, and this one looks at the clock again and again: in the longest gap between two looks, it stood.
fn blocking<M: Model>(_question: Question, figures: &mut Figures) {
    for _ in 0..RUNS {
        let (began, ended) = (AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX));
        let block = || {
            began.store(kernel::now(), Ordering::Release);
            M::block(BLOCK_NS);
            ended.store(kernel::now(), Ordering::Release);
        };
        let (mut last, mut longest) = (0, 0);
        let other = create_with::<M, _>(&block);
        let (began, ended) = loop {
            M::yield_now();
            let (began, ended) = (began.load(Ordering::Acquire), ended.load(Ordering::Acquire));
            let now = kernel::now().min(ended);
            longest = longest.max(now.saturating_sub(last.max(began)));
            last = now;
            if ended != u64::MAX {
                break (began, ended);
            }
        };
        M::join(other);
        figures.others = figures.others.max(100 - longest * 100 / (ended - began).max(1));
    }
}

/// Where threads wait for each other.
struct Meeting<M> {
    arrived: Mutex<M, usize>,
    complete: Condvar<M>,
    expected: usize,
}

/// Every so many of them that come to a meeting block for a moment first.
const LATE: usize = 8;
const MOMENT_NS: u64 = 20_000;

/// Threads that all wait until the last of them is there, on as many LWPs as there are processors: nothing is measured, but each
/// must be counted once, be woken and be joined.
fn meet<M: Model>(question: Question, figures: &mut Figures) {
    let meeting = Meeting::<M> { arrived: Mutex::new(0), complete: Condvar::new(), expected: question.threads };
    let entry = |meeting| {
        // SAFETY: who made it waits below.
        let meeting = unsafe { &*(meeting as *const Meeting<M>) };
        let mut arrived = meeting.arrived.lock();
        *arrived += 1;
        if arrived.is_multiple_of(LATE) {
            drop(arrived);
            M::block(MOMENT_NS);
            arrived = meeting.arrived.lock();
        }
        if *arrived == meeting.expected {
            meeting.complete.notify_all();
        }
        while *arrived < meeting.expected {
            arrived = meeting.complete.wait(arrived);
        }
        1
    };
    let crowd = Crowd::<M>::of(question.threads);
    crowd.create(entry, |_| &raw const meeting as usize);
    let went = crowd.join();
    figures.met = went.min(*meeting.arrived.lock()) as u64;
}

/// The same work, shared by threads on 1, 2 and 4 LWPs.
fn speed_up<M: Model>(question: Question, figures: &mut Figures) {
    let mut shortest = [u64::MAX; LWPS.len()];
    for _ in 0..RUNS {
        for (shortest, lwps) in shortest.iter_mut().zip(LWPS).filter(|(_, lwps)| *lwps <= question.cpus) {
            // The kernel's own threads are the LWPs; the other models have many threads on them.
            let workers = if M::NAME == "1:1" { lwps } else { WORKERS.min(question.threads) };
            let share = question.steps as usize / workers;
            run::<M, _>(lwps, || {
                let crowd = Crowd::<M>::of(workers);
                let start = kernel::now();
                crowd.create(|steps| black_box(work(steps as u64)) as usize & 1, |_| share);
                crowd.join();
                *shortest = (kernel::now() - start).min(*shortest);
            });
        }
    }
    for (speed_up, time) in figures.speed_up.iter_mut().zip(shortest).filter(|(_, time)| *time != u64::MAX) {
        *speed_up = shortest[0] * 1000 / time.max(1);
    }
}
