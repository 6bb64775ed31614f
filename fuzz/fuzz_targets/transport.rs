//! Registers under a hostile driver: those of PCI's configuration space, of the BAR wherever it was moved to, and of the window in
//! memory. Every access is answered, no register of a driven device changes what was set up, and a good driver is served after it.

#![no_main]

use arbitrary::Arbitrary;
use hostel::bus::bus::lock;
use hostel::pci::root::PciFunction;
use hostel::virtio::function::DRIVER_OK;
use hostel::virtio::rig::{Request, Rig, Via};
use hostel::virtio::rng::Rng;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

#[derive(Arbitrary, Debug)]
enum Step {
    /// A register of the device: mostly one that there is.
    Register {
        offset: u16,
        far: bool,
        size: u8,
        value: u64,
        write: bool,
    },
    /// A place in configuration space.
    Space {
        offset: u8,
        size: u8,
        value: u32,
        write: bool,
    },
    /// A step of a good driver.
    Status(u8),
    Accept {
        extra: u8,
    },
    SetUp,
    Kick(u16),
    Settle,
}

thread_local! {
    static RIGS: RefCell<[Rig; 2]> =
        RefCell::new([Via::Pci, Via::Mmio].map(|via| Rig::new(Box::new(Rng), via)));
}

fn run(rig: &mut Rig, step: &Step) {
    match *step {
        Step::Register { offset, far, size, value, write } => {
            let offset = u64::from(offset) % if far { 0x8000 } else { 0x100 };
            let size = size % 8 + 1;
            if write { rig.write(offset, size, value) } else { _ = rig.read(offset, size) }
        }
        Step::Space { offset, size, value, write } => {
            let size = [1, 2, 4][usize::from(size % 3)];
            if let Some(pci) = rig.pci() {
                if write {
                    pci.write_config(offset.into(), size, value)
                } else {
                    _ = pci.read_config(offset.into(), size)
                }
            }
        }
        Step::Status(status) => rig.set_status(status),
        Step::Accept { extra } => {
            let features = rig.offered() | if extra < 16 { 1 << extra } else { 0 };
            rig.accept(features);
        }
        Step::SetUp => rig.set_up(0, rig.queues[0].setup()),
        Step::Kick(index) => rig.kick(index),
        Step::Settle => rig.settle(),
    }
}

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (memory, steps) = input;
    RIGS.with_borrow_mut(|rigs| {
        let rig = &mut rigs[usize::from(memory)];
        rig.set_status(0);
        for step in steps.iter().take(64) {
            let before = lock(&rig.function).queue_setup(0);
            let was_driven = rig.status() & DRIVER_OK != 0;
            run(rig, step);
            let is_driven = rig.status() & DRIVER_OK != 0;
            assert!(!(was_driven && is_driven) || lock(&rig.function).queue_setup(0) == before, "{step:?}");
        }
        rig.drive(u64::MAX);
        let good = Request { queue: 0, readable: Vec::new(), writable: 16 };
        let answer = rig.ask(&good, std::time::Duration::from_secs(100));
        assert_eq!(answer.map(|bytes| bytes.len()), Some(16));
    });
});
