//! Programs without a processor, for tests and fuzzing: processes with memory and files, whose system calls are made one at a time, and
//! what must hold of the machine's memory whatever they asked for.
//!
//! Leaves out the stub and its traps: no instruction runs. Source: mmap(2), clone(2).

use super::files::{Files, OpenFile};
use super::frames::Frames;
use super::mappings::Backing;
use super::paths::Root;
use super::signal::deliver::{Extension, deliver};
use super::signal::extended::{self, Layout};
use super::space::{Place as At, Space};
use super::stub;
use super::syscall::call;
use super::tables::{Rights, Trees, USER_END};
use super::task::{Place, Reload, Task};
use super::trace::Trace;
use super::world::{Rules, World};
use crate::arch::cpu_state::Registers;
use crate::arch::layout::{MIB, PAGE_SIZE};
use crate::arch::paging::PRESENT;
use crate::kvm::system::KvmError;
use crate::memory::map::MemoryMap;
use crate::memory::ram::GuestRam;
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Where the first program has [`DATA_SIZE`] bytes that it may read and write.
pub const DATA: u64 = 0x10_0000;
/// Bytes there.
pub const DATA_SIZE: u64 = 4 * PAGE_SIZE;
/// A page that it may only read, with nothing behind it.
pub const READ_ONLY: u64 = 0x20_0000;
/// A page that it may not touch.
pub const FORBIDDEN: u64 = 0x30_0000;
/// Two pages of a file that has less than one.
pub const MAPPED_FILE: u64 = 0x40_0000;
/// Where its heap begins.
pub const HEAP: u64 = 0x50_0000;
/// A page that it shares with its children.
pub const SHARED: u64 = 0x60_0000;

/// Vector registers that are as after reset at any time.
pub struct Reset;

impl Extension for Reset {
    fn layout(&self) -> Layout {
        // x87, SSE and AVX.
        Layout::new(7, |_| (576, 256))
    }

    fn save(&self) -> Result<Vec<u8>, KvmError> {
        Ok(extended::initial())
    }

    fn load(&self, _: &[u8]) -> Result<(), KvmError> {
        Ok(())
    }
}

/// Most programs and threads of a bench.
const TASKS_MAX: usize = 4;
/// Memory of the machine: what `--mem` asks for at least.
const MEMORY: u64 = 4 * MIB;
/// What a neighbour's memory is full of.
const MARK: u8 = 0xa5;
/// Address bits of an entry of a page table.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

const ALL: Rights = Rights { read: true, write: true, execute: false };
const READ: Rights = Rights { write: false, ..ALL };

/// A machine without programs, but for one that does nothing and must not notice the others. It serves any number of benches, one
/// after the other.
pub struct Machine {
    frames: Arc<Frames>,
    trees: Arc<Trees>,
    neighbour: Space,
    /// Ring 0's pages, as they were.
    kernel: Vec<u8>,
    /// Frames in use.
    own: u64,
}

/// A machine with programs on it.
pub struct Bench {
    machine: Machine,
    world: Arc<World>,
    tasks: Vec<Task>,
}

impl Machine {
    /// A machine of 4 MiB.
    pub fn new() -> Machine {
        let map = MemoryMap::new(MEMORY).expect("a machine may have so much");
        let ram = Arc::new(GuestRam::new(&map).expect("the host has so much"));
        let frames = Arc::new(Frames::new(ram, &map));
        let trees = Arc::new(Trees::new(frames.clone()).expect("ring 0 fits"));
        let mut neighbour = Space::new(frames.clone(), &trees).expect("a tree fits");
        neighbour.map(At::Fixed(DATA), DATA_SIZE, ALL, Backing::Anonymous).expect("it is free");
        neighbour.write(DATA, &[MARK; DATA_SIZE as usize]).expect("it is mapped");
        let mut machine = Machine { own: frames.count().0, frames, trees, neighbour, kernel: Vec::new() };
        for index in 0..stub::PAGES {
            machine.kernel.extend(page(&machine.frames, machine.trees.kernel_page(index)));
        }
        machine
    }

    /// Asserts what holds at any time, `roots` being those of the programs: frames as `--mem` bounds them, and a page of a program leads
    /// to none of a table, of ring 0, or of the neighbour.
    fn check(&mut self, roots: BTreeSet<u64>) {
        let (used, total) = self.frames.count();
        assert!(used <= total && total == MEMORY / PAGE_SIZE);
        let mut bytes = vec![0; DATA_SIZE as usize];
        self.neighbour.read(DATA, &mut bytes).expect("it is mapped");
        assert!(bytes.iter().all(|byte| *byte == MARK), "the neighbour's memory has changed");
        let (mut taken, mut pages) = tree(&self.frames, self.neighbour.root());
        taken.append(&mut pages);
        for (index, was) in (0..).zip(self.kernel.chunks(PAGE_SIZE as usize)) {
            let gpa = self.trees.kernel_page(index);
            assert!(page(&self.frames, gpa) == was, "ring 0's pages have changed");
            taken.insert(gpa);
        }
        let mut mapped = BTreeSet::new();
        for root in roots {
            let (mut tables, mut pages) = tree(&self.frames, root);
            taken.append(&mut tables);
            mapped.append(&mut pages);
        }
        assert!(taken.is_disjoint(&mapped), "a program can reach what is not its own");
        assert!(mapped.iter().all(|frame| *frame < MEMORY), "a page leads out of RAM");
    }

    /// Asserts that each frame came back, but for those of tables, which are kept for the next program. These go too, so that the next
    /// bench finds the machine as this one did.
    fn recover(&mut self) {
        let mut kept = BTreeSet::new();
        loop {
            let before = self.frames.count().0;
            let Some(space) = Space::new(self.frames.clone(), &self.trees) else { break };
            let (mut tables, pages) = tree(&self.frames, space.root());
            assert!(pages.is_empty(), "a tree that nobody uses has pages");
            kept.append(&mut tables);
            // A space that is dropped gives its tree back to be used again, which cannot be once its frames are free.
            std::mem::forget(space);
            // That was a new tree: there are no more of those that were kept.
            if self.frames.count().0 > before {
                break;
            }
        }
        self.frames.release(kept.into_iter().collect());
        let used = self.frames.count().0;
        assert_eq!(used, self.own, "frames are in use and nobody's, or were given away");
    }
}

impl Default for Machine {
    fn default() -> Machine {
        Machine::new()
    }
}

impl Bench {
    /// A machine whose programs see `root` as `/`; the first has the files below it open that are named here, from number 0 on.
    /// `traced`: each call is shown to nobody.
    pub fn new(root: &Path, allow_write: bool, traced: bool, open: &[(&str, OFlags)]) -> Bench {
        Bench::on(Machine::new(), root, allow_write, traced, open)
    }

    /// [`Bench::new`] on a machine that there is already.
    pub fn on(machine: Machine, root: &Path, allow_write: bool, traced: bool, open: &[(&str, OFlags)]) -> Bench {
        let root = Root::open(root, allow_write).expect("the root is there");
        let trace = traced.then(|| Trace::new(Box::new(std::io::sink())));
        let world = World::over(machine.frames.clone(), machine.trees.clone(), root, Rules::default(), trace);
        let mut bench = Bench { machine, world: Arc::new(world), tasks: Vec::new() };
        let first = bench.first(open);
        bench.world.processes.add(&first.process, first.id, 0);
        bench.tasks.push(first);
        bench
    }

    fn first(&self, open: &[(&str, OFlags)]) -> Task {
        let mut space = Space::new(self.world.frames.clone(), &self.world.trees).expect("a tree fits");
        let mut files = Files::default();
        for (path, flags) in open {
            let fd = self.world.root.open_file(path.as_bytes(), *flags, Mode::empty()).expect("it is there");
            files.add(OpenFile::new(fd, true), false, 0).expect("there are few");
        }
        let shared = space.shared();
        let file = files.get(0).map_or(Backing::Anonymous, |file| Backing::File(file, 0));
        for (start, size, rights, backing) in [
            (DATA, DATA_SIZE, ALL, Backing::Anonymous),
            (READ_ONLY, PAGE_SIZE, READ, Backing::Anonymous),
            (FORBIDDEN, PAGE_SIZE, Rights::default(), Backing::Anonymous),
            (MAPPED_FILE, 2 * PAGE_SIZE, ALL, file),
            (SHARED, PAGE_SIZE, ALL, shared),
        ] {
            space.map(At::Fixed(start), size, rights, backing).expect("it is free");
        }
        space.set_heap(HEAP);
        let place = Place { directory: b"/".to_vec(), umask: 0o022 };
        Task::first(self.world.clone(), space, files, place, Reload::Nothing)
    }

    /// One of the programs or threads that there are; `None` when all have ended.
    pub fn task(&mut self, index: usize) -> Option<&mut Task> {
        let count = self.tasks.len().max(1);
        self.tasks.get_mut(index % count)
    }

    /// Has that one make a call and does what the trap's loop does behind it; gives what RAX holds then.
    pub fn call(&mut self, index: usize, number: u64, [rdi, rsi, rdx, r10, r8, r9]: [u64; 6]) -> Option<u64> {
        let task = self.task(index)?;
        task.regs = Registers { rax: number, rdi, rsi, rdx, r10, r8, r9, ..task.regs };
        call::call(task);
        task.reload = Reload::Nothing;
        let answer = task.regs.rax;
        deliver(task, &Reset).expect("no KVM is asked");
        if let Some(child) = task.born.take()
            && self.tasks.len() < TASKS_MAX
        {
            self.world.processes.add(&child.process, child.id, child.blocked);
            self.tasks.push(Task { reload: Reload::Nothing, ..*child });
        }
        while let Some(at) = self.tasks.iter().position(|task| task.ends().is_some()) {
            let mut task = self.tasks.swap_remove(at);
            task.finish();
            if let Some(end) = task.ends() {
                self.world.processes.remove(&task.process, task.id, end);
            }
        }
        Some(answer)
    }

    /// Asserts what holds at any time: a page of a program leads to none of a table, of ring 0, or of the neighbour, which stay as they
    /// were, and no more frames are in use than `--mem` allows.
    ///
    /// # Panics
    /// It does not hold.
    pub fn check(&mut self) {
        self.machine.check(self.tasks.iter().map(|task| task.memory().root()).collect());
    }

    /// Ends all programs and asserts that each frame came back. Returns the machine.
    ///
    /// # Panics
    /// One is lost.
    pub fn finish(mut self) -> Machine {
        self.check();
        self.tasks.clear();
        self.machine.recover();
        self.machine
    }
}

fn page(frames: &Frames, gpa: u64) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_SIZE as usize];
    frames.ram().read(gpa, &mut bytes).expect("a table or page is RAM");
    bytes
}

/// Frames of the tables of the tree at `root`, and of the pages in its lower half.
fn tree(frames: &Frames, root: u64) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let lower = (USER_END >> 39) as usize + 1;
    let (mut tables, mut level) = (BTreeSet::from([root]), vec![root]);
    for depth in 0..4 {
        let mut below = Vec::new();
        for table in level {
            let entries = page(frames, table);
            let count = if depth == 0 { lower } else { 512 };
            let words = entries.as_chunks::<8>().0.iter().take(count).map(|bytes| u64::from_le_bytes(*bytes));
            // A page without any right has its frame still, in an entry that is not present.
            let used = words.filter(|entry| if depth == 3 { *entry != 0 } else { entry & PRESENT != 0 });
            below.extend(used.map(|entry| entry & FRAME));
        }
        if depth < 3 {
            tables.extend(&below);
        }
        level = below;
    }
    (tables, level.into_iter().collect())
}
