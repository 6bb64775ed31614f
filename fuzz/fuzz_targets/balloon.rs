//! Balloons under a hostile driver, behind PCI: page numbers, statistics and reports of any form. What is given back is RAM, the size that
//! the driver tells is never more than that, and the next request is answered.

#![no_main]

use hostel::backend::balloon::BalloonControl;
use hostel::virtio::balloon::Balloon;
use hostel::virtio::rig::{RAM, Request, Rig, Via};
use hostel_fuzz::hostile::Script;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::time::Duration;

thread_local! {
    static BENCH: RefCell<(Rig, BalloonControl)> = {
        let control = BalloonControl::new(RAM / 2, RAM).expect("a waker");
        RefCell::new((Rig::new(Box::new(Balloon::new(control.clone())), Via::Pci), control))
    };
}

fuzz_target!(|input: (Script, u32)| {
    let (script, target) = input;
    BENCH.with_borrow_mut(|(rig, control)| {
        let refused = control.set_target(target.into()).is_err();
        assert_eq!(refused, u64::from(target) >= RAM);
        let good = Request { queue: 0, readable: vec![0xff; 4], writable: 0 };
        script.run(rig, &good, <[u8]>::is_empty);
        let size = control.describe(Duration::ZERO);
        let mib = size.trim_start_matches("balloon ").split(' ').next().and_then(|mib| mib.parse::<u64>().ok());
        assert!(mib.expect("a number") <= RAM >> 20, "{size}");
    });
});
