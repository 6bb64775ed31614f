//! The functions of DOS under a hostile program, without a vCPU: registers and memory of any content, files below a root of their own. Each
//! is answered with an error that DOS knows or without; files outside the root stay as they were, and all of them where the root is only
//! to be read; after all of it a file is read as it is.

#![no_main]

use arbitrary::Arbitrary;
use hostel::process::dos::blocks::Blocks;
use hostel::process::dos::call::{Call, Words};
use hostel::process::dos::functions::{FUNCTIONS, Return, answer};
use hostel::process::dos::memory::{Far, Memory};
use hostel::process::dos::program::{self, PSP};
use hostel::process::files::{Files, OpenFile};
use hostel::process::host_files::HostFiles;
use hostel::process::hostile::fill;
use hostel::process::paths::Root;
use hostel::process::task::Place;
use hostel_fuzz::confined::confine;
use hostel_fuzz::knob::Knob;
use hostel_fuzz::watched::Watched;
use libfuzzer_sys::fuzz_target;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Mutex;

/// Where texts and buffers of the program mostly lie, so far from each other.
const DATA: u16 = 0x200;
const ROOM: u16 = 0x100;
/// Most steps.
const STEPS: usize = 64;
/// Paths of files that there are, that there may be, and that lead elsewhere.
const PATHS: [&[u8]; 12] = [
    b"C:\\file\0",
    b"file\0",
    b"C:\\new\0",
    b"directory\\new\0",
    b"\\directory\0",
    b"C:\\link\0",
    b"C:\\up\\secret\0",
    b"..\\secret\0",
    b"C:\\..\\..\\secret\0",
    b"NUL\0",
    b"D:\\file\0",
    b"\0",
];

#[derive(Arbitrary, Debug)]
enum Step {
    /// A function, by its row in the table, with AL and BX; the rest is a place of the data unless it says otherwise.
    Call { row: u8, al: u8, bx: u8, cx: u16, room: u8, registers: Knob<[u16; 5]> },
    /// A path goes to a place of the data.
    Path { path: u8, room: u8 },
    /// Bytes go anywhere.
    Write { segment: u16, offset: u16, bytes: Vec<u8> },
}

#[derive(Arbitrary, Debug)]
struct Input {
    allow_write: bool,
    steps: Vec<Step>,
}

/// What is kept from one input to the next.
struct Bench {
    watched: Watched,
    memory: Memory,
    zeroes: Vec<u8>,
}

/// What a program has.
struct Program<'a> {
    memory: &'a Memory,
    blocks: Blocks,
    files: HostFiles<'a>,
}

impl Program<'_> {
    fn call(&mut self, regs: Words) -> (Return, Words) {
        let mut call = Call { regs, memory: self.memory, blocks: &mut self.blocks, files: &mut self.files };
        let answer = answer(&mut call);
        (answer, call.regs)
    }

    fn step(&mut self, step: &Step) {
        let place = |room: u8| DATA + ROOM * u16::from(room % 8);
        match step {
            Step::Call { row, al, bx, cx, room, registers } => {
                let number = FUNCTIONS.get(usize::from(*row)).map_or(*row, |function| function.number);
                let ax = u16::from_be_bytes([number, *al]);
                let [bx, cx, dx, ds, es] = registers.0.unwrap_or([(*bx).into(), *cx, place(*room), PSP, PSP]);
                let (answer, regs) = self.call(Words { ax, bx, cx, dx, ds, es });
                if answer == Return::To(Some(true)) {
                    assert!((1..=31).contains(&regs.ax), "error {}", regs.ax);
                }
            }
            Step::Path { path, room } => {
                let at = Far { segment: PSP, offset: place(*room) };
                self.memory.write(at, PATHS[usize::from(*path) % PATHS.len()]);
            }
            Step::Write { segment, offset, bytes } => {
                self.memory.write(Far { segment: *segment, offset: *offset }, bytes);
            }
        }
    }

    /// A file is opened and read.
    fn works(&mut self) {
        let at = Far { segment: PSP, offset: DATA };
        self.memory.write(at, b"C:\\directory\\..\\script\0");
        let mut ask = |ax, bx, cx| self.call(Words { ax, bx, cx, dx: DATA, ds: PSP, es: PSP });
        let (opened, regs) = ask(0x3d00, 0, 0);
        let (read, _) = ask(0x3f00, regs.ax, 2);
        assert_eq!((opened, read), (Return::To(Some(false)), Return::To(Some(false))));
        assert_eq!(self.memory.read(at, 2), b"#!");
    }
}

impl Bench {
    fn new() -> Bench {
        let watched = Watched::new("dos", |outside| {
            let root = fill(outside).expect("it can be made");
            vec![root.join("directory"), root]
        });
        confine(watched.path());
        Bench { watched, memory: Memory::new().expect("the host has a megabyte"), zeroes: vec![0; 1 << 20] }
    }

    /// Has a program that has just begun do something.
    fn with(&self, allow_write: bool, does: impl FnOnce(&mut Program)) {
        let shared = self.watched.path().join("shared");
        let root = Root::open(&shared, allow_write).expect("it is there");
        let mut open = Files::default();
        let null = Path::new("/dev/null");
        for path in [&shared.join("file"), null, null] {
            let file = File::options().read(true).write(path == null).open(path).expect("it is there");
            open.add(OpenFile::new(file.into(), true), false, 0).expect("there are few");
        }
        let (open, place) = (Mutex::new(open), Mutex::new(Place { directory: b"/".to_vec(), umask: 0 }));
        let files = HostFiles { root: &root, open: &open, place: &place };
        does(&mut Program { memory: &self.memory, blocks: Blocks::default(), files });
    }

    fn run(&self, input: &Input) {
        self.memory.0.write(0, &self.zeroes).expect("it is RAM");
        program::load(&self.memory, b"\xc3", b"/a.com", &[]).expect("it fits");
        self.with(input.allow_write, |program| input.steps.iter().take(STEPS).for_each(|step| program.step(step)));
        if self.watched.has_changed() {
            let outside = self.watched.path();
            assert!(input.allow_write, "it was not to be written");
            assert_eq!(fs::read(outside.join("secret")).expect("it is there"), b"secret", "it is outside");
            assert_eq!(fs::read_dir(outside).expect("it is there").count(), 2, "nothing is made outside");
            self.watched.renew();
        }
        self.with(false, |program| program.works());
    }
}

thread_local! {
    static BENCH: Bench = Bench::new();
}

fuzz_target!(|input: Input| BENCH.with(|bench| bench.run(&input)));
