//! Console device: a terminal, and beside it named ports, each with a queue either way.
//!
//! With MULTIPORT the driver is told of the ports by control messages; without, it has the first one only. What the guest writes waits
//! in its queue while the host has no room, and what the host has waits there until the guest opens the port. Control messages for the
//! driver are not queued but noted, a bit a port and kind, so that a driver without buffers costs nothing. Leaves out ports that come
//! and go, and the emergency write. A resize message has columns before rows, as §5.3.6.2 says and Linux since 2025 reads it; older
//! drivers take one for the other.
//! Source: virtio 1.2 §5.3.

use super::device::{DeviceKind, Queues, VirtioDevice};
use super::queue::{Chain, QueueFault};
use crate::backend::console_port::{ConsolePort, TerminalSize};
use crate::event_loop::Waker;
use std::os::fd::BorrowedFd;

/// Feature: the configuration has the terminal's size.
const SIZE: u64 = 1;
/// Feature: there are several ports, and control messages about them.
const MULTIPORT: u64 = 1 << 1;

/// Queues of control messages: to the driver and from it.
const CONTROL_RECEIVE: usize = 2;
const CONTROL_TRANSMIT: usize = 3;
/// Entries of each queue.
const QUEUE_SIZE: u16 = 32;
/// Most ports of a device: what is there for is a console and a few names.
pub const PORTS_MAX: usize = 4;

/// Bytes of a control message without what follows it.
const CONTROL_BYTES: usize = 8;
/// Events of control messages (§5.3.6.2).
const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const RESIZE: u16 = 5;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;
/// What the driver may have to be told of a port, in this order.
const TOLD: [u16; 5] = [DEVICE_ADD, CONSOLE_PORT, PORT_NAME, PORT_OPEN, RESIZE];

/// Bytes that are copied at once.
const PIECE: usize = 4096;
/// Bytes that a port moves either way in a round at most; then the others have their turn.
const ROUND_BYTES: usize = 64 << 10;

/// The device.
pub struct Console {
    ports: Vec<Port>,
    queue_sizes: Vec<u16>,
    /// Columns, rows, number of ports, and the emergency write that is not offered.
    config: [u8; 12],
    multiport: bool,
    /// Woken by whoever is behind a port, and by the device for what it leaves for another round.
    wake: Waker,
}

struct Port {
    host: Box<dyn ConsolePort>,
    /// Events of which the driver is still to be told, a bit each.
    untold: u16,
    /// The driver knows it, and the guest has it open.
    known: bool,
    open: bool,
    size: Option<TerminalSize>,
    /// What is half written to the host.
    unsent: Option<Chain>,
}

impl Console {
    /// A device with these ports, of which the first is the terminal. `wake` is woken for each of them.
    ///
    /// # Panics
    /// There is no port, or there are more than [`PORTS_MAX`].
    pub fn new(ports: Vec<Box<dyn ConsolePort>>, wake: Waker) -> Console {
        assert!((1..=PORTS_MAX).contains(&ports.len()), "a console and a few names");
        let ports: Vec<_> = ports
            .into_iter()
            .map(|host| Port { host, untold: 0, known: false, open: false, size: None, unsent: None })
            .collect();
        let mut config = [0; 12];
        config[4..8].copy_from_slice(&(ports.len() as u32).to_le_bytes());
        let queue_sizes = vec![QUEUE_SIZE; 2 * ports.len() + 2];
        let mut console = Console { ports, queue_sizes, config, multiport: false, wake };
        console.look_at_size();
        console
    }

    /// Takes over the terminal's size, if it is another one.
    fn look_at_size(&mut self) -> bool {
        let port = &mut self.ports[0];
        let Some(size) = port.host.size().filter(|size| port.size != Some(*size)) else { return false };
        port.size = Some(size);
        // Before the driver knows the port, the message follows by itself.
        port.untold |= u16::from(port.known) << RESIZE;
        self.config[..2].copy_from_slice(&size.columns.to_le_bytes());
        self.config[2..4].copy_from_slice(&size.rows.to_le_bytes());
        true
    }

    /// Takes the driver's control messages. What makes no sense is ignored.
    fn obey(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        while let Some(mut chain) = queues.pop(CONTROL_TRANSMIT)? {
            let mut message = [0; CONTROL_BYTES];
            let Some(queue) = queues.queue(CONTROL_TRANSMIT) else { return Ok(()) };
            let length = chain.read(queue.ram(), &mut message);
            queues.push(CONTROL_TRANSMIT, &chain);
            if length == CONTROL_BYTES && self.multiport {
                let [a, b, c, d, event @ .., _, _] = message;
                self.hear(u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes(event), message[6] != 0);
            }
        }
        // The answers go out in a round of their queue.
        self.wake.wake();
        Ok(())
    }

    fn hear(&mut self, id: u32, event: u16, value: bool) {
        if event == DEVICE_READY && value {
            self.ports.iter_mut().for_each(|port| port.untold |= 1 << DEVICE_ADD);
        }
        let Some(port) = self.ports.get_mut(id as usize) else { return };
        match event {
            PORT_READY if value => {
                port.known = true;
                let what = if port.host.name().is_some() { PORT_NAME } else { CONSOLE_PORT };
                port.untold |= 1 << what | 1 << PORT_OPEN | u16::from(port.size.is_some()) << RESIZE;
            }
            PORT_OPEN => port.open = value,
            _ => {}
        }
    }

    /// Tells the driver what there is to tell, as far as it has buffers.
    fn tell(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        for (id, port) in (0u32..).zip(&mut self.ports) {
            for event in TOLD {
                if port.untold & 1 << event == 0 {
                    continue;
                }
                let Some(mut chain) = queues.pop(CONTROL_RECEIVE)? else { return Ok(()) };
                let message = port.message(id, event);
                if let Some(queue) =
                    queues.queue(CONTROL_RECEIVE).filter(|_| message.len() as u64 <= chain.writable_bytes())
                {
                    chain.write(queue.ram(), &message);
                }
                queues.push(CONTROL_RECEIVE, &chain);
                port.untold &= !(1 << event);
            }
        }
        Ok(())
    }

    /// Moves on what goes through a port's queue: first those of the first port, then, behind the control queues, those of the others;
    /// each the one to the guest before the one from it (§5.3.2).
    fn pass(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueFault> {
        let port = &mut self.ports[if index < CONTROL_RECEIVE { 0 } else { index / 2 - 1 }];
        let more = if index.is_multiple_of(2) { port.receive(index, queues)? } else { port.transmit(index, queues)? };
        if more {
            self.wake.wake();
        }
        Ok(())
    }
}

impl Port {
    fn message(&self, id: u32, event: u16) -> Vec<u8> {
        let mut message = [&id.to_le_bytes()[..], &event.to_le_bytes(), &1u16.to_le_bytes()].concat();
        let TerminalSize { columns, rows } = self.size.unwrap_or_default();
        match event {
            PORT_NAME => message.extend(self.host.name().unwrap_or_default().bytes()),
            RESIZE => message.extend([columns.to_le_bytes(), rows.to_le_bytes()].concat()),
            _ => {}
        }
        message
    }

    /// Writes to the host what the guest has for it. True: the round is over before that.
    fn transmit(&mut self, index: usize, queues: &mut Queues) -> Result<bool, QueueFault> {
        let (mut bytes, mut left) = ([0; PIECE], ROUND_BYTES);
        loop {
            let chain = self.unsent.take();
            let Some(mut chain) = chain.map_or_else(|| queues.pop(index), |chain| Ok(Some(chain)))? else {
                return Ok(false);
            };
            while let Some(queue) = queues.queue(index).filter(|_| chain.readable_bytes() > 0) {
                let room = self.host.room().min(PIECE).min(left);
                if room == 0 {
                    self.unsent = Some(chain);
                    return Ok(left == 0);
                }
                let count = chain.read(queue.ram(), &mut bytes[..room]);
                self.host.write(&bytes[..count]);
                left -= count;
            }
            queues.push(index, &chain);
        }
    }

    /// Gives the guest what the host has, while it has the port open and buffers. True: the round is over before that.
    fn receive(&mut self, index: usize, queues: &mut Queues) -> Result<bool, QueueFault> {
        let (mut bytes, mut left) = ([0; PIECE], ROUND_BYTES);
        while self.open && self.host.has_input() {
            if left == 0 {
                return Ok(true);
            }
            let Some(mut chain) = queues.pop(index)? else { return Ok(false) };
            let room = chain.writable_bytes().min(PIECE.min(left) as u64) as usize;
            if let Some(queue) = queues.queue(index).filter(|_| room > 0) {
                let count = self.host.read(&mut bytes[..room]);
                chain.write(queue.ram(), &bytes[..count]);
                left -= count;
            }
            queues.push(index, &chain);
        }
        Ok(false)
    }
}

impl VirtioDevice for Console {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Console
    }

    fn features(&self) -> u64 {
        SIZE | MULTIPORT
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn start(&mut self, features: u64) {
        self.multiport = features & MULTIPORT != 0;
        // A driver that knows of one port alone has it open.
        self.ports[0].open = !self.multiport;
    }

    fn reset(&mut self) {
        for port in &mut self.ports {
            (port.untold, port.known, port.open, port.unsent) = (0, false, false, None);
        }
    }

    fn serve(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueFault> {
        match index {
            CONTROL_RECEIVE => self.tell(queues),
            CONTROL_TRANSMIT => self.obey(queues),
            index => self.pass(index, queues),
        }
    }

    fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        Some(self.wake.fd())
    }

    fn host_ready(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        self.wake.reset();
        if self.look_at_size() {
            queues.config_has_changed();
        }
        self.tell(queues)?;
        let passing = (0..self.queue_sizes.len()).filter(|index| !(CONTROL_RECEIVE..=CONTROL_TRANSMIT).contains(index));
        passing.into_iter().try_for_each(|index| self.pass(index, queues))
    }
}

#[cfg(test)]
mod tests {
    use super::super::driver::{self, DriverQueue};
    use super::*;
    use crate::arch::layout::MIB;
    use crate::bus::bus::lock;
    use crate::memory::map::MemoryMap;
    use crate::memory::ram::GuestRam;
    use crate::virtio::function::{NEEDS_RESET, VirtioFunction};
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    /// What is behind a port of the tests.
    #[derive(Default)]
    struct Host {
        name: Option<&'static str>,
        room: usize,
        got: Vec<u8>,
        input: VecDeque<u8>,
        size: Option<TerminalSize>,
    }

    struct Plug(Arc<Mutex<Host>>);

    impl ConsolePort for Plug {
        fn name(&self) -> Option<&'static str> {
            lock(&self.0).name
        }
        fn room(&mut self) -> usize {
            lock(&self.0).room
        }
        fn write(&mut self, bytes: &[u8]) {
            let mut host = lock(&self.0);
            host.room -= bytes.len();
            host.got.extend(bytes);
        }
        fn has_input(&mut self) -> bool {
            !lock(&self.0).input.is_empty()
        }
        fn read(&mut self, bytes: &mut [u8]) -> usize {
            let mut host = lock(&self.0);
            let count = bytes.len().min(host.input.len());
            bytes.iter_mut().zip(host.input.drain(..count)).for_each(|(to, from)| *to = from);
            count
        }
        fn size(&self) -> Option<TerminalSize> {
            lock(&self.0).size
        }
    }

    const BUFFER: u64 = 0x1_0000;
    const MESSAGE: u64 = 0x8000;

    struct Guest {
        function: VirtioFunction,
        hosts: [Arc<Mutex<Host>>; 2],
        queues: Vec<DriverQueue>,
        ram: Arc<GuestRam>,
    }

    /// A guest that drives a terminal and a port called `status`, each with room for `room` bytes.
    fn guest(features: u64, room: usize) -> Guest {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let host = |name| Arc::new(Mutex::new(Host { name, room, ..Host::default() }));
        let hosts = [host(None), host(Some("status"))];
        lock(&hosts[0]).size = Some(TerminalSize { columns: 100, rows: 30 });
        let ports = hosts.iter().map(|host| Box::new(Plug(host.clone())) as Box<dyn ConsolePort>).collect();
        let console = Console::new(ports, Waker::new().unwrap());
        let mut function = VirtioFunction::new(Box::new(console), ram.clone(), Waker::new().unwrap()).unwrap();
        let queues: Vec<_> = (1..=6).map(|page| DriverQueue::new(ram.clone(), page * 0x1000, 16)).collect();
        let used = if features & MULTIPORT != 0 { queues.len() } else { 2 };
        driver::start(&mut function, features | 1 << 32, &queues[..used]);
        Guest { function, hosts, queues, ram }
    }

    impl Guest {
        /// Sends these bytes through a queue.
        fn send(&mut self, queue: usize, bytes: &[u8]) {
            self.ram.write(MESSAGE, bytes).unwrap();
            self.queues[queue].send(&[(MESSAGE, bytes.len() as u32)], &[]);
            self.function.serve(Some(queue));
        }

        fn control(&mut self, id: u32, event: u16, value: u16) {
            self.send(CONTROL_TRANSMIT, &[&id.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat());
            assert!(self.queues[CONTROL_TRANSMIT].used().is_some());
            self.function.serve(None);
        }

        /// Offers a buffer to a queue and returns what comes.
        fn receive(&mut self, queue: usize, size: u32) -> Option<Vec<u8>> {
            self.queues[queue].send(&[], &[(BUFFER, size)]);
            self.function.serve(Some(queue));
            self.used(queue)
        }

        /// What has come into a buffer that was offered before.
        fn used(&mut self, queue: usize) -> Option<Vec<u8>> {
            let mut bytes = vec![0; self.queues[queue].used()?.1 as usize];
            self.ram.read(BUFFER, &mut bytes).unwrap();
            Some(bytes)
        }

        fn is_well(&self) -> bool {
            self.function.status() & NEEDS_RESET == 0
        }
    }

    #[test]
    fn a_driver_learns_of_the_ports_by_messages() {
        let mut guest = guest(SIZE | MULTIPORT, 1000);
        assert_eq!(guest.function.read_config(0, 8), 2 << 32 | 30 << 16 | 100);
        guest.control(u32::MAX, DEVICE_READY, 1);
        let told = |guest: &mut Guest| guest.receive(CONTROL_RECEIVE, 100);
        assert_eq!(told(&mut guest).unwrap(), [0, 0, 0, 0, 1, 0, 1, 0]);
        assert_eq!(told(&mut guest).unwrap(), [1, 0, 0, 0, 1, 0, 1, 0]);
        assert_eq!(told(&mut guest), None, "that is all; the buffer stays");
        guest.control(1, PORT_READY, 1);
        assert_eq!(guest.used(CONTROL_RECEIVE).unwrap(), b"\x01\0\0\0\x07\0\x01\0status");
        assert_eq!(told(&mut guest).unwrap(), [1, 0, 0, 0, 6, 0, 1, 0]);
        guest.control(0, PORT_READY, 1);
        for want in [&[0, 0, 0, 0, 4, 0, 1, 0][..], &[0, 0, 0, 0, 6, 0, 1, 0], &[0, 0, 0, 0, 5, 0, 1, 0, 100, 0, 30, 0]]
        {
            assert_eq!(told(&mut guest).unwrap(), want);
        }
        lock(&guest.hosts[0]).size = Some(TerminalSize { columns: 80, rows: 24 });
        guest.function.serve(None);
        assert_eq!(told(&mut guest).unwrap(), [0, 0, 0, 0, 5, 0, 1, 0, 80, 0, 24, 0]);
        assert_eq!((guest.function.read_config(0, 4), guest.function.config_generation()), (24 << 16 | 80, 1));
    }

    #[test]
    fn bytes_go_both_ways_and_wait_for_a_guest_that_opens_the_port() {
        let mut guest = guest(SIZE | MULTIPORT, 10);
        lock(&guest.hosts[1]).input.extend(b"for the guest");
        assert_eq!(guest.receive(4, 8), None, "not open");
        guest.control(1, PORT_OPEN, 1);
        assert_eq!(guest.used(4).unwrap(), b"for the ");
        assert_eq!(guest.receive(4, 8).unwrap(), b"guest");
        guest.send(5, b"from it");
        assert_eq!((guest.queues[5].used(), &lock(&guest.hosts[1]).got[..]), (Some((0, 0)), &b"from it"[..]));
        guest.control(1, PORT_OPEN, 0);
        lock(&guest.hosts[1]).input.extend(b"late");
        assert_eq!(guest.receive(4, 8), None);
    }

    #[test]
    fn a_driver_without_multiport_has_one_open_port() {
        let mut guest = guest(SIZE, 10);
        lock(&guest.hosts[0]).input.extend(b"x");
        assert_eq!(guest.receive(0, 8).unwrap(), b"x");
        guest.send(1, b"y");
        assert_eq!(lock(&guest.hosts[0]).got, b"y");
        lock(&guest.hosts[0]).size = Some(TerminalSize { columns: 1, rows: 2 });
        guest.function.serve(None);
        assert_eq!((guest.function.read_config(0, 4), guest.is_well()), (2 << 16 | 1, true));
    }

    #[test]
    fn sec49_what_the_host_has_no_room_for_waits_in_the_guest() {
        let mut guest = guest(SIZE | MULTIPORT, 6);
        guest.send(1, b"twelve bytes");
        assert_eq!((guest.queues[1].used(), &lock(&guest.hosts[0]).got[..]), (None, &b"twelve"[..]));
        guest.send(1, b"next");
        assert_eq!(guest.queues[1].used(), None);
        lock(&guest.hosts[0]).room = 100;
        guest.function.serve(None);
        // The buffers are one: what waited was read where the next bytes stand by then.
        assert_eq!((guest.queues[1].used(), guest.queues[1].used()), (Some((0, 0)), Some((1, 0))));
        assert_eq!(lock(&guest.hosts[0]).got.len(), 16);
        guest.function.set_status(0);
        guest.function.serve(None);
        assert_eq!(guest.function.waits_for().len(), 0);
    }

    #[test]
    fn sec45_control_messages_of_any_form_are_ignored_and_the_next_is_obeyed() {
        let mut guest = guest(SIZE | MULTIPORT, 10);
        for bytes in [&b""[..], b"short", &[0xff; 8], &[0xff; 40], &[0, 0, 0, 0, 9, 0, 1, 0], &[7, 0, 0, 0, 3, 0, 1, 0]]
        {
            guest.send(CONTROL_TRANSMIT, bytes);
            assert!(guest.queues[CONTROL_TRANSMIT].used().is_some(), "{bytes:?}");
        }
        guest.queues[CONTROL_TRANSMIT].send(&[], &[(BUFFER, 8)]);
        guest.function.serve(Some(CONTROL_TRANSMIT));
        assert_eq!(guest.queues[CONTROL_TRANSMIT].used().unwrap().1, 0);
        guest.function.serve(None);
        assert_eq!(guest.receive(CONTROL_RECEIVE, 100), None, "nothing is told");
        guest.control(0, DEVICE_READY, 1);
        assert_eq!(guest.used(CONTROL_RECEIVE).unwrap(), [0, 0, 0, 0, 1, 0, 1, 0]);
        assert_eq!(guest.receive(CONTROL_RECEIVE, 7).unwrap(), b"", "too short a buffer gets nothing");
        assert!(guest.is_well());
    }

    #[test]
    fn sec10_messages_for_a_driver_without_buffers_take_no_memory() {
        let mut guest = guest(SIZE | MULTIPORT, 10);
        for _ in 0..10_000 {
            guest.control(0, DEVICE_READY, 1);
            guest.control(1, PORT_READY, 1);
        }
        let mut told = 0;
        while guest.receive(CONTROL_RECEIVE, 100).is_some() {
            told += 1;
        }
        assert_eq!((told, guest.is_well()), (4, true), "each thing once: two ports, a name, that it is open");
    }

    #[test]
    fn sec52_a_huge_buffer_is_moved_in_rounds() {
        let mut guest = guest(SIZE | MULTIPORT, usize::MAX);
        let whole = (0..8).map(|_| (0, 0xf_0000)).collect::<Vec<(u64, u32)>>();
        guest.queues[1].send(&whole, &[]);
        guest.function.serve(Some(1));
        assert_eq!((guest.queues[1].used(), lock(&guest.hosts[0]).got.len()), (None, ROUND_BYTES));
        let mut rounds = 1;
        while guest.queues[1].used().is_none() {
            guest.function.serve(None);
            rounds += 1;
        }
        assert_eq!((rounds, lock(&guest.hosts[0]).got.len()), (8 * 15, 8 * 0xf_0000));
        // The other way: one buffer takes a piece, and its length says so.
        guest.control(0, PORT_OPEN, 1);
        lock(&guest.hosts[0]).input.extend(vec![b'z'; 10_000]);
        assert_eq!(guest.receive(0, 0x8_0000).map(|bytes| bytes.len()), Some(PIECE));
        assert_eq!(guest.receive(0, 0).map(|bytes| bytes.len()), Some(0));
        assert!(guest.is_well());
    }
}
