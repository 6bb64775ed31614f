//! Entropy devices under a hostile driver, behind PCI: a request gets random bytes whatever came before.

#![no_main]

use hostel::virtio::rig::{Request, Rig, Via};
use hostel::virtio::rng::Rng;
use hostel_fuzz::hostile::Script;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

thread_local! {
    static RIG: RefCell<Rig> = RefCell::new(Rig::new(Box::new(Rng), Via::Pci));
}

fuzz_target!(|script: Script| {
    let good = Request { queue: 0, readable: Vec::new(), writable: 16 };
    RIG.with_borrow_mut(|rig| script.run(rig, &good, |bytes| bytes.len() == 16));
});
