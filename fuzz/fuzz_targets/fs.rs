//! A shared directory under a hostile client: requests of any form, in any order, by known nodes and handles and by others. Each is
//! answered or dropped; nothing outside the directory changes, nor anything in one that is only to be read; after all of it a good
//! client is served.

#![no_main]

use arbitrary::Arbitrary;
use hostel::backend::share::client::{Client, message};
use hostel::backend::share::protocol::{Fields, ROOT, opcode};
use hostel::backend::share::server::Rights;
use hostel::backend::share::table::Limits;
use hostel::memory::ram::GuestRam;
use hostel::virtio::fs::Fs;
use hostel::virtio::rig::{Request, Rig, Via};
use hostel_fuzz::hostile::Script;
use hostel_fuzz::knob::Knob;
use hostel_fuzz::watched::Watched;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LIMITS: Limits = Limits { nodes: 24, handles: 12 };
/// Names that there are, that there may be, and that lead elsewhere.
const NAMES: [&[u8]; 16] = [
    b"file\0",
    b"directory\0",
    b"up\0",
    b"link\0",
    b"pipe\0",
    b"a\0",
    b"b\0",
    b"c\0",
    b"..\0",
    b".\0",
    b"\0",
    b"../secret\0",
    b"directory/inner\0",
    b"/etc/passwd\0",
    b"no end",
    b"user.name\0",
];
/// Requests that have a handle, and what comes behind it.
const BY_HANDLE: [u32; 12] = [
    opcode::READ,
    opcode::WRITE,
    opcode::RELEASE,
    opcode::FSYNC,
    opcode::FLUSH,
    opcode::READDIR,
    opcode::READDIRPLUS,
    opcode::RELEASEDIR,
    opcode::FALLOCATE,
    opcode::LSEEK,
    opcode::COPY_FILE_RANGE,
    opcode::SETATTR,
];

#[derive(Arbitrary, Debug)]
enum Step {
    /// A request that names one or two entries, after so many words of arguments.
    Named {
        opcode: u8,
        node: u8,
        words: Vec<Word>,
        first: u8,
        second: Option<u8>,
        room: Room,
    },
    /// A request by a handle, with further arguments.
    Handle {
        opcode: u8,
        node: u8,
        handle: u8,
        words: Vec<Word>,
        bytes: u16,
        room: Room,
    },
    /// Any request.
    Any {
        opcode: u8,
        node: u64,
        arguments: Vec<u8>,
        room: Room,
    },
    /// Any bytes.
    Bytes {
        bytes: Vec<u8>,
        room: Room,
    },
    Forget {
        node: u8,
        lookups: u8,
    },
    Again,
}

/// A word of the arguments: mostly a small one, or one that a flag or number could be.
#[derive(Arbitrary, Debug)]
enum Word {
    Small(u8),
    Bit(u8),
    Node(u8),
    Any(u32),
}

#[derive(Arbitrary, Debug)]
enum Room {
    Enough,
    Bytes(u8),
    Many(u16),
}

#[derive(Arbitrary, Debug)]
struct Input {
    read_only: bool,
    /// One time in sixteen the kit's driver does this to a device, whose threads answer, instead.
    script: Knob<Script>,
    steps: Vec<Step>,
}

/// The client, and the numbers that it was told.
struct Bench<'a> {
    client: &'a mut Client,
    nodes: Vec<u64>,
    handles: Vec<u64>,
}

impl Bench<'_> {
    fn node(&self, index: u8) -> u64 {
        self.nodes[usize::from(index) % self.nodes.len()]
    }

    fn words(&self, words: &[Word]) -> Vec<u8> {
        let word = |word: &Word| match word {
            Word::Small(value) => u32::from(*value),
            Word::Bit(bit) => 1 << (bit % 32),
            Word::Node(index) => self.node(*index) as u32,
            Word::Any(value) => *value,
        };
        words.iter().take(24).flat_map(|value| word(value).to_le_bytes()).collect()
    }

    fn ask(&mut self, opcode: u32, node: u64, arguments: &[u8], room: &Room) {
        let room = match room {
            Room::Enough => 1 << 16,
            Room::Bytes(bytes) => (*bytes).into(),
            Room::Many(bytes) => (*bytes).into(),
        };
        let Some(reply) = self.client.send(&message(opcode, node, (0, 0), arguments), room) else { return };
        let long = |at: usize| reply.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight")));
        if reply[4..8] != [0; 4] || self.nodes.len() + self.handles.len() > 100 {
            return;
        }
        use opcode::*;
        match opcode {
            LOOKUP | MKDIR | MKNOD | SYMLINK | LINK | CREATE | TMPFILE => self.nodes.extend(long(16)),
            OPEN | OPENDIR => self.handles.extend(long(16)),
            _ => {}
        }
        if matches!(opcode, CREATE | TMPFILE) {
            self.handles.extend(long(16 + 128));
        }
    }

    fn step(&mut self, step: &Step) {
        let name = |index: &u8| NAMES[usize::from(*index) % NAMES.len()];
        match step {
            Step::Named { opcode, node, words, first, second, room } => {
                let second = second.as_ref().map_or(&b""[..], name);
                let arguments = [&self.words(words)[..], name(first), second].concat();
                self.ask(u32::from(opcode % 56), self.node(*node), &arguments, room);
            }
            Step::Handle { opcode, node, handle, words, bytes, room } => {
                let handle = self.handles.get(usize::from(*handle) % self.handles.len().max(1)).copied().unwrap_or(1);
                let opcode = BY_HANDLE[usize::from(*opcode) % BY_HANDLE.len()];
                let valid = if opcode == opcode::SETATTR { &[0xff, 0xff, 0, 0, 0, 0, 0, 0][..] } else { &[] };
                let mut arguments = [valid, &handle.to_le_bytes(), &self.words(words)].concat();
                arguments.resize(arguments.len().max(88) + usize::from(*bytes), 0x55);
                self.ask(opcode, self.node(*node), &arguments, room);
            }
            Step::Any { opcode, node, arguments, room } => {
                let node = u8::try_from(*node).map_or(*node, |index| self.node(index));
                self.ask((*opcode).into(), node, arguments, room);
            }
            Step::Bytes { bytes, room: Room::Bytes(room) } => drop(self.client.send(bytes, (*room).into())),
            Step::Bytes { bytes, .. } => drop(self.client.send(bytes, 1 << 16)),
            Step::Forget { node, lookups } => self.client.forget(self.node(*node), (*lookups).into()),
            Step::Again => drop(self.client.initialize()),
        }
    }
}

/// Makes a directory with `shared` in it, which is what a client gets, and `secret` beside that.
fn fill(outside: &Path) -> Vec<PathBuf> {
    let shared = outside.join("shared");
    let directory = shared.join("directory");
    fs::create_dir_all(&directory).expect("it can be made");
    fs::write(outside.join("secret"), "secret").expect("it can be made");
    fs::write(shared.join("file"), "content").expect("it can be made");
    fs::write(directory.join("inner"), "content").expect("it can be made");
    symlink("..", shared.join("up")).expect("it can be made");
    symlink("../secret", shared.join("link")).expect("it can be made");
    vec![shared, directory]
}

/// The directory, a client that may write and one that may not, and a device under the kit's driver. They are kept from one input to the
/// next, but for a directory that was changed, and its clients.
struct Share {
    watched: Watched,
    ram: Arc<GuestRam>,
    clients: [Client; 2],
    kit: Rig,
}

impl Share {
    fn new() -> Share {
        let watched = Watched::new("fs", fill);
        let ram = Arc::new(Client::ram().expect("the host has memory"));
        let clients = clients(&ram, watched.path());
        let kit = watched.path().join("kit");
        fs::create_dir(&kit).expect("it can be made");
        let device = Fs::open(&kit, "fuzz", Rights::Write, 1).expect("it can be shared");
        fs::remove_dir(&kit).expect("it is there");
        watched.has_changed();
        Share { watched, ram, clients, kit: Rig::new(Box::new(device), Via::Mmio) }
    }

    /// Has a client do what `steps` say, and looks at what came of it.
    fn run(&mut self, read_only: bool, steps: &[Step]) {
        let client = &mut self.clients[usize::from(read_only)];
        client.server.reset();
        client.initialize().expect("it is new");
        let mut bench = Bench { client, nodes: vec![ROOT], handles: Vec::new() };
        steps.iter().take(64).for_each(|step| bench.step(step));

        let changed = self.watched.has_changed();
        assert!(!(changed && read_only), "it was not to be written");
        if changed {
            let outside = self.watched.path();
            assert_eq!(fs::read(outside.join("secret")).expect("it is there"), b"secret", "it is outside");
            assert_eq!(fs::read_dir(outside).expect("it is there").count(), 2, "nothing is made outside");
        }
        serves(client, read_only);
        if changed {
            self.watched.renew();
            self.clients = clients(&self.ram, self.watched.path());
            // The old directory is gone only now that no client holds it.
            self.watched.has_changed();
        } else if !read_only {
            fs::remove_file(self.watched.path().join("shared/afterwards")).expect("it was made");
            self.watched.has_changed();
        }
    }
}

fn clients(ram: &Arc<GuestRam>, outside: &Path) -> [Client; 2] {
    let client = |rights| Client::on(ram.clone(), &outside.join("shared"), rights, LIMITS);
    [Rights::Write, Rights::Read].map(|rights| client(rights).expect("it can be shared"))
}

/// A good client is served.
fn serves(client: &mut Client, read_only: bool) {
    client.initialize().expect("another client may come");
    let modes = Fields::default().word(1).zeroes_to(68).word(0o755).zeroes_to(88).done();
    let _ = client.ask(opcode::SETATTR, ROOT, &modes, 104);
    assert_eq!(client.attributes(ROOT).expect("it is there").mode & libc::S_IFMT, libc::S_IFDIR);
    if !read_only {
        let name = "afterwards";
        let (_, handle) = client.create(ROOT, name, libc::O_RDWR, 0o600).expect("a good client is served");
        assert_eq!(client.write(handle, 0, b"good", 0), Ok(4));
        assert_eq!(client.read(handle, 0, 100).expect("it is open"), b"good");
    }
}

/// FUSE_INIT of protocol 7.31, without wishes, as a request of the kit's driver (Linux `fuse.h`).
fn initialization() -> Request {
    let wishes = Fields::default().word(7).word(31).word(1 << 17).word(0).done();
    Request { queue: 1, readable: message(opcode::INIT, 0, (0, 0), &wishes), writable: 256 }
}

/// A reply with its own length in its header and no error.
fn is_reply(bytes: &[u8]) -> bool {
    bytes.len() > 16 && bytes[..4] == (bytes.len() as u32).to_le_bytes() && bytes[4..8] == [0; 4]
}

thread_local! {
    static SHARE: RefCell<Share> = RefCell::new(Share::new());
}

fuzz_target!(|input: Input| {
    SHARE.with_borrow_mut(|share| match &input.script.0 {
        Some(script) => script.run(&mut share.kit, &initialization(), is_reply),
        None => share.run(input.read_only, &input.steps),
    });
});
