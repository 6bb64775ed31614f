//! Disks under a hostile driver: chains and descriptors of any form, in any order. Each ends in an answer or in DEVICE_NEEDS_RESET, never
//! in a hang; the file keeps its size, and its content where it is not to be written; after all of it a good request is done. Half of the
//! inputs are for the driver of the kit instead.

#![no_main]

use arbitrary::Arbitrary;
use hostel::arch::layout::MIB;
use hostel::backend::block::disk::{DiskOptions, Mode};
use hostel::event_loop::{self, Interest, Waker};
use hostel::memory::map::MemoryMap;
use hostel::memory::ram::GuestRam;
use hostel::virtio::blk::Blk;
use hostel::virtio::driver::DriverQueue;
use hostel::virtio::function::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, VirtioFunction};
use hostel::virtio::rig::{Request, Rig, Via};
use hostel::virtio::rings::Descriptor;
use hostel_fuzz::hostile::{HANG, Script};
use hostel_fuzz::knob::Knob;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

const RINGS: u64 = 0x1000;
const ENTRIES: u16 = 16;
const HEADER: u64 = 0x8000;
const SIZE: usize = 512 * 64;
/// What the disk holds at first.
static CONTENT: [u8; SIZE] = [0xdd; SIZE];

#[derive(Arbitrary, Debug)]
enum Step {
    /// A request: its type among those that there are, or any; its sector near an end of the disk, or any; its buffers by page and length.
    Request {
        kind: u8,
        sector: u8,
        readable: Vec<(u8, u16)>,
        writable: Vec<(u8, u16)>,
    },
    /// The range of a DISCARD or WRITE_ZEROES.
    Range {
        discard: bool,
        sector: u8,
        count: u32,
        flags: u8,
    },
    /// A descriptor as it comes, made available.
    Descriptor {
        index: u8,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    },
    Available(u16),
    Reset {
        features: u64,
    },
}

#[derive(Arbitrary, Debug)]
struct Input {
    /// Which of [`MODES`].
    mode: u8,
    /// One time in sixteen: the host's best engine, as a machine has it, and not the one that needs no other thread.
    best: Knob<()>,
    driver: Driver,
}

/// Whose driver it is, and what it does.
#[derive(Arbitrary, Debug)]
enum Driver {
    Own(Vec<Step>),
    Kit(Script),
}

const MODES: [Mode; 3] = [Mode::Write, Mode::Read, Mode::Overlay];

/// A disk of this content, and its file. In memory: a flush waits for a disk.
fn disk(options: DiskOptions) -> (Box<Blk>, File) {
    let path = PathBuf::from(format!("/dev/shm/hostel-fuzz-blk-{}", std::process::id()));
    std::fs::write(&path, CONTENT).expect("the directory takes a file");
    let file = File::options().read(true).write(true).open(&path).expect("it is there");
    let device = Box::new(Blk::open(&path, options, "fuzz", 1).expect("it is a disk"));
    // The descriptors keep it.
    std::fs::remove_file(&path).expect("it is there");
    (device, file)
}

/// The device and its driver, and the disk's file. They are kept from one input to the next: opening a disk takes longer than all that is
/// done to it.
struct Bench {
    mode: Mode,
    file: File,
    function: VirtioFunction,
    queue: DriverQueue,
    ram: Arc<GuestRam>,
}

impl Bench {
    fn new(mode: Mode, inline: bool) -> Bench {
        let (device, file) = disk(DiskOptions { mode, inline, ..DiskOptions::default() });
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).expect("a size")).expect("RAM"));
        let function = VirtioFunction::new(device, ram.clone(), Waker::new().expect("a waker")).expect("kicks");
        let queue = DriverQueue::new(ram.clone(), RINGS, ENTRIES);
        Bench { mode, file, function, queue, ram }
    }

    /// Does what `steps` say to a disk that is as it was at first, and looks at it afterwards.
    fn run(&mut self, steps: &[Step]) {
        self.drive(u64::MAX);
        if self.mode == Mode::Write {
            self.file.write_all_at(&CONTENT, 0).expect("it can be written");
        }
        steps.iter().take(64).for_each(|step| self.step(step));

        self.drive(u64::MAX);
        self.request(0, 63, &[], &[(0x1_0000, 512), (0xa000, 1)]);
        let mut status = [0xee];
        self.ram.read(0xa000, &mut status).expect("it is RAM");
        assert_eq!((status, self.function.status()), ([0], 15), "a good request is done");
        assert_eq!(self.file.metadata().expect("it is open").len(), SIZE as u64);
        if self.mode != Mode::Write {
            let mut content = [0; SIZE];
            self.file.read_exact_at(&mut content, 0).expect("it can be read");
            assert!(content == CONTENT, "it was not to be written");
        }
    }

    fn drive(&mut self, features: u64) {
        self.function.set_status(0);
        self.ram.write(RINGS, &[0; 0x1000]).expect("it is RAM");
        self.queue = DriverQueue::new(self.ram.clone(), RINGS, ENTRIES);
        let setup = self.queue.setup();
        self.function.set_driver_features(self.function.features() & (features | 1 << 32));
        self.function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        self.function.set_up_queue(0, |queue| *queue = setup);
        self.function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Serves until a chain is used or the device needs a reset.
    fn answered(&mut self) {
        self.function.serve(Some(0));
        while self.function.status() & NEEDS_RESET == 0 && self.queue.used().is_none() {
            let waits = self.function.waits_for();
            let interests = waits.iter().map(|wait| Interest { token: wait.queue, fd: wait.fd, output: false });
            let ready = event_loop::wait(&interests.collect::<Vec<_>>(), Some(HANG)).expect("it can be waited for");
            assert!(!ready.is_empty(), "a request hangs");
            ready.into_iter().for_each(|what| self.function.serve(what));
        }
    }

    fn request(&mut self, kind: u32, sector: u64, readable: &[(u64, u32)], writable: &[(u64, u32)]) {
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        self.ram.write(HEADER, &header).expect("it is RAM");
        self.queue.send(&[&[(HEADER, 16)], readable].concat(), writable);
        self.answered();
    }

    fn step(&mut self, step: &Step) {
        let place = |sector: u8| match sector {
            0..96 => sector.into(),
            96..128 => u64::MAX - u64::from(sector),
            _ => 1 << (sector % 64),
        };
        match step {
            Step::Request { kind, sector, readable, writable } => {
                let kind = [0, 1, 4, 8, 11, 13, 0, u32::from(*kind)][usize::from(kind % 8)];
                let buffers = |list: &[(u8, u16)]| -> Vec<_> {
                    list.iter()
                        .take(6)
                        .map(|(page, size)| (0x1_0000 + u64::from(*page) * 512, (*size).into()))
                        .collect()
                };
                self.request(kind, place(*sector), &buffers(readable), &buffers(writable));
            }
            Step::Range { discard, sector, count, flags } => {
                let range = [&place(*sector).to_le_bytes()[..], &count.to_le_bytes(), &[*flags, 0, 0, 0]].concat();
                self.ram.write(0x9000, &range).expect("it is RAM");
                self.request(if *discard { 11 } else { 13 }, 0, &[(0x9000, 16)], &[(0xa000, 1)]);
            }
            Step::Descriptor { index, address, length, flags, next } => {
                let index = u16::from(*index) % ENTRIES;
                let (address, length, flags, next) = (*address, *length, *flags, *next);
                self.queue.write_descriptor(index, Descriptor { address, length, flags, next });
                self.queue.offer(index);
                self.answered();
            }
            // A jump may make any number of chains available: what comes of them is not waited for.
            Step::Available(index) => {
                self.queue.set_available(*index);
                self.function.serve(Some(0));
                self.drive(u64::MAX);
            }
            Step::Reset { features } => self.drive(*features),
        }
        if self.function.status() & NEEDS_RESET != 0 {
            self.drive(u64::MAX);
        }
    }
}

/// Under the kit's driver: what was written stays, so that a good request is one that is answered.
fn run_script(rig: &mut Rig, script: &Script) {
    let good = Request { queue: 0, readable: vec![0; 16], writable: 513 };
    script.run(rig, &good, |bytes| bytes.len() == 513 && bytes[512] == 0);
}

struct Benches {
    inline: [Bench; 3],
    best: [Bench; 3],
    kit: [Rig; 2],
}

thread_local! {
    static BENCHES: RefCell<Benches> = RefCell::new(Benches {
        inline: MODES.map(|mode| Bench::new(mode, true)),
        best: MODES.map(|mode| Bench::new(mode, false)),
        kit: [true, false].map(|inline| {
            Rig::new(disk(DiskOptions { mode: Mode::Overlay, inline, ..DiskOptions::default() }).0, Via::Pci)
        }),
    });
}

fuzz_target!(|input: Input| {
    let best = input.best.0.is_some();
    BENCHES.with_borrow_mut(|Benches { inline, best: of_host, kit }| match &input.driver {
        Driver::Kit(script) => run_script(&mut kit[usize::from(best)], script),
        Driver::Own(steps) => {
            let benches = if best { of_host } else { inline };
            benches[usize::from(input.mode) % MODES.len()].run(steps);
        }
    });
});
