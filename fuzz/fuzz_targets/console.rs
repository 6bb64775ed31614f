//! Virtio consoles under a hostile driver: control messages, buffers and descriptors of any form, in any order, while the host types,
//! resizes, and stops reading. Nothing hangs; the host never gets a byte that it has no room for; after all of it a good driver is
//! told of the ports and bytes pass both ways. Half of the inputs are for the driver of the kit instead.

#![no_main]

use arbitrary::Arbitrary;
use hostel::arch::layout::MIB;
use hostel::backend::console_port::{ConsolePort, TerminalSize};
use hostel::event_loop::Waker;
use hostel::memory::map::MemoryMap;
use hostel::memory::ram::GuestRam;
use hostel::virtio::console::Console;
use hostel::virtio::driver::DriverQueue;
use hostel::virtio::function::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, VirtioFunction};
use hostel::virtio::rig::{RINGS, RINGS_STEP, Request, Rig, Via};
use hostel::virtio::rings::Descriptor;
use hostel_fuzz::hostile::Script;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

const QUEUES: u16 = 6;
const ENTRIES: u16 = 16;
const MESSAGE: u64 = 0x8000;
const BUFFER: u64 = 0x1_0000;
/// Served so often, a hundred bytes are on their way.
const ROUNDS: usize = 40;

#[derive(Arbitrary, Debug)]
enum Step {
    /// A control message, mostly one that there is, cut to so many bytes.
    Control {
        id: u8,
        event: u8,
        value: bool,
        length: u8,
    },
    /// Buffers by page and length for a queue.
    Buffers {
        queue: u8,
        readable: Vec<(u8, u16)>,
        writable: Vec<(u8, u16)>,
    },
    /// A descriptor as it comes, made available in a queue.
    Descriptor {
        queue: u8,
        index: u8,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    },
    Available {
        queue: u8,
        index: u16,
    },
    /// What the host does at a port.
    Type {
        port: bool,
        bytes: Vec<u8>,
    },
    Room {
        port: bool,
        bytes: u16,
    },
    Resize {
        columns: u16,
        rows: u16,
    },
    Serve(u8),
    Reset {
        features: u64,
    },
}

/// Whose driver it is, and what it does.
#[derive(Arbitrary, Debug)]
enum Driver {
    Own(Vec<Step>),
    Kit(Script),
}

#[derive(Default)]
struct Host {
    name: Option<&'static str>,
    room: usize,
    got: usize,
    input: VecDeque<u8>,
    size: Option<TerminalSize>,
}

struct Plug(Arc<Mutex<Host>>);

impl ConsolePort for Plug {
    fn name(&self) -> Option<&'static str> {
        self.0.lock().expect("one thread").name
    }
    fn room(&mut self) -> usize {
        self.0.lock().expect("one thread").room
    }
    fn write(&mut self, bytes: &[u8]) {
        let mut host = self.0.lock().expect("one thread");
        assert!(!bytes.is_empty() && bytes.len() <= host.room, "more than there is room for");
        host.room -= bytes.len();
        host.got += bytes.len();
    }
    fn has_input(&mut self) -> bool {
        !self.0.lock().expect("one thread").input.is_empty()
    }
    fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut host = self.0.lock().expect("one thread");
        let count = bytes.len().min(host.input.len());
        bytes.iter_mut().zip(host.input.drain(..count)).for_each(|(to, from)| *to = from);
        count
    }
    fn size(&self) -> Option<TerminalSize> {
        self.0.lock().expect("one thread").size
    }
}

type Hosts = [Arc<Mutex<Host>>; 2];

/// A console, and what is behind its ports.
fn console() -> (Box<Console>, Hosts) {
    let host = |name| Arc::new(Mutex::new(Host { name, ..Host::default() }));
    let hosts = [host(None), host(Some("name"))];
    let ports = hosts.iter().map(|host| Box::new(Plug(host.clone())) as Box<dyn ConsolePort>).collect();
    (Box::new(Console::new(ports, Waker::new().expect("a waker"))), hosts)
}

/// What is behind a port has done nothing yet, and takes so many bytes.
fn anew(host: &Mutex<Host>, room: usize) {
    let mut host = host.lock().expect("one thread");
    *host = Host { name: host.name, room, ..Host::default() };
}

/// The device and its driver, which are kept from one input to the next.
struct Bench {
    function: VirtioFunction,
    hosts: Hosts,
    queues: Vec<DriverQueue>,
    ram: Arc<GuestRam>,
}

impl Bench {
    fn new() -> Bench {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).expect("a size")).expect("RAM"));
        let (device, hosts) = console();
        let function = VirtioFunction::new(device, ram.clone(), Waker::new().expect("a waker")).expect("kicks");
        Bench { function, hosts, queues: Vec::new(), ram }
    }

    /// A console under the kit's driver.
    fn kit() -> (Rig, Hosts) {
        let (device, hosts) = console();
        (Rig::new(device, Via::Mmio), hosts)
    }

    /// Does what `steps` say, and what a good driver and its host do afterwards.
    fn run(&mut self, steps: Vec<Step>) {
        self.hosts.iter().for_each(|host| anew(host, 100));
        self.drive(u64::MAX);
        steps.into_iter().take(64).for_each(|step| self.step(step));

        self.drive(u64::MAX);
        for host in &self.hosts {
            anew(host, 1000);
            host.lock().expect("one thread").input.extend(b"typed");
        }
        self.control(0, 0, true, 8);
        assert_eq!(self.receive(2), [0, 0, 0, 0, 1, 0, 1, 0]);
        assert_eq!(self.receive(2), [1, 0, 0, 0, 1, 0, 1, 0]);
        for (port, queue) in [(0u32, 0), (1, 4)] {
            self.control(port, 6, true, 8);
            assert_eq!(self.receive(queue), b"typed");
            self.queues[queue + 1].send(&[(BUFFER, 100)], &[]);
            let answered = (0..ROUNDS).any(|_| {
                self.function.serve(None);
                self.queues[queue + 1].used().is_some()
            });
            assert_eq!((self.host(port == 1).got, answered), (100, true));
        }
        assert_eq!(self.function.status() & NEEDS_RESET, 0);
    }

    fn drive(&mut self, features: u64) {
        self.function.set_status(0);
        let rings = |index: u64| RINGS + index * RINGS_STEP;
        let size = rings(QUEUES.into()) - RINGS;
        self.ram.write(RINGS, &vec![0; size as usize]).expect("it is RAM");
        self.queues =
            (0..u64::from(QUEUES)).map(|index| DriverQueue::new(self.ram.clone(), rings(index), ENTRIES)).collect();
        self.function.set_driver_features(self.function.features() & (features | 1 << 32));
        self.function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        for (index, queue) in (0..).zip(&self.queues) {
            self.function.set_up_queue(index, |setup| *setup = queue.setup());
        }
        self.function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    fn host(&self, port: bool) -> std::sync::MutexGuard<'_, Host> {
        self.hosts[usize::from(port)].lock().expect("one thread")
    }

    fn control(&mut self, id: u32, event: u16, value: bool, length: u32) {
        let message = [&id.to_le_bytes()[..], &event.to_le_bytes(), &u16::from(value).to_le_bytes()].concat();
        self.ram.write(MESSAGE, &message).expect("it is RAM");
        self.queues[3].send(&[(MESSAGE, length)], &[]);
        self.function.serve(Some(3));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Control { id, event, value, length } => {
                let id = [0, 1, 2, u32::MAX][usize::from(id % 4)];
                let length = if length < 200 { 8 } else { u32::from(length) - 200 };
                self.control(id, u16::from(event % 9), value, length);
            }
            Step::Buffers { queue, readable, writable } => {
                let buffers = |list: Vec<(u8, u16)>| -> Vec<_> {
                    list.iter().take(6).map(|(page, size)| (BUFFER + u64::from(*page) * 512, (*size).into())).collect()
                };
                let queue = queue % QUEUES as u8;
                self.queues[usize::from(queue)].send(&buffers(readable), &buffers(writable));
                self.function.serve(Some(queue.into()));
            }
            Step::Descriptor { queue, index, address, length, flags, next } => {
                let (queue, index) = (usize::from(queue % QUEUES as u8), u16::from(index) % ENTRIES);
                self.queues[queue].write_descriptor(index, Descriptor { address, length, flags, next });
                self.queues[queue].offer(index);
                self.function.serve(Some(queue));
            }
            Step::Available { queue, index } => {
                let queue = usize::from(queue % QUEUES as u8);
                self.queues[queue].set_available(index);
                self.function.serve(Some(queue));
            }
            Step::Type { port, bytes } => self.host(port).input.extend(bytes),
            Step::Room { port, bytes } => self.host(port).room = bytes.into(),
            Step::Resize { columns, rows } => self.host(false).size = Some(TerminalSize { columns, rows }),
            Step::Serve(queue) => self.function.serve((queue < QUEUES as u8).then_some(queue.into())),
            Step::Reset { features } => self.drive(features),
        }
        self.function.serve(None);
        if self.function.status() & NEEDS_RESET != 0 {
            self.drive(u64::MAX);
        }
    }

    /// What comes into a buffer that is offered to this queue.
    fn receive(&mut self, queue: usize) -> Vec<u8> {
        self.queues[queue].send(&[], &[(BUFFER, 64)]);
        self.function.serve(Some(queue));
        let used = self.queues[queue].used().expect("it is served");
        let mut bytes = vec![0; used.1 as usize];
        self.ram.read(BUFFER, &mut bytes).expect("it is RAM");
        bytes
    }
}

thread_local! {
    static BENCHES: RefCell<(Bench, (Rig, Hosts))> = RefCell::new((Bench::new(), Bench::kit()));
}

fuzz_target!(|driver: Driver| {
    BENCHES.with_borrow_mut(|(bench, (rig, hosts))| match driver {
        Driver::Own(steps) => bench.run(steps),
        Driver::Kit(script) => {
            hosts.iter().for_each(|host| anew(host, usize::MAX));
            let good = Request { queue: 1, readable: b"hello".to_vec(), writable: 0 };
            script.run(rig, &good, <[u8]>::is_empty);
        }
    });
});
