//! Network devices under a hostile driver, behind PCI, at a port that is full at times and has frames at times. What the port gets is a frame
//! within bounds, and the driver's next frame goes.

#![no_main]

use hostel::backend::net_port::{Arrived, FRAME_MAX, HEADER_BYTES, NOTHING_LEFT, NetPort, OFFLOADS, Sent};
use hostel::backend::rate::Limiter;
use hostel::event_loop::Waker;
use hostel::virtio::net::Net;
use hostel::virtio::rig::{Request, Rig, Via};
use hostel_fuzz::hostile::Script;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

/// What the port does next: a byte an action, and then it takes everything and has nothing.
#[derive(Default)]
struct Plan(Vec<u8>);

struct Port {
    plan: Arc<Mutex<Plan>>,
    idle: Waker,
    frame: Vec<u8>,
    /// Length of the frame that has come.
    coming: Option<usize>,
}

const LENGTHS: [usize; 4] = [14, 60, 1514, 60_000];

impl NetPort for Port {
    fn features(&self) -> u64 {
        OFFLOADS
    }
    fn send(&mut self, _header: &[u8; HEADER_BYTES], frame: &[u8]) -> Sent {
        assert!((14..=FRAME_MAX - HEADER_BYTES).contains(&frame.len()), "{} bytes", frame.len());
        let full = self.plan.lock().expect("one thread").0.pop().is_some_and(|action| action % 4 == 0);
        // Room comes at once: the descriptor always takes bytes, and never has any.
        if full { Sent::Full } else { Sent::Taken }
    }
    fn peek(&mut self) -> Option<Arrived<'_>> {
        if self.coming.is_none() {
            let action = self.plan.lock().expect("one thread").0.pop()?;
            self.coming = (action % 3 != 0).then_some(LENGTHS[usize::from(action / 3) % LENGTHS.len()]);
        }
        let length = self.coming?;
        Some(Arrived { header: &NOTHING_LEFT, frame: &self.frame[..length] })
    }
    fn take(&mut self) {
        self.coming = None;
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.idle.fd())
    }
}

thread_local! {
    static BENCH: RefCell<(Rig, Arc<Mutex<Plan>>)> = {
        let plan = Arc::new(Mutex::new(Plan::default()));
        let idle = Waker::new().expect("a waker");
        let port = Port { plan: plan.clone(), idle, frame: vec![0x55; 60_000], coming: None };
        let net = Net::new([2, 0, 0, 0, 0, 1], Box::new(port), Limiter::default());
        RefCell::new((Rig::new(Box::new(net), Via::Pci), plan))
    };
}

fuzz_target!(|input: (Script, Vec<u8>)| {
    let (script, plan) = input;
    BENCH.with_borrow_mut(|(rig, port)| {
        port.lock().expect("one thread").0 = plan;
        let good = Request { queue: 1, readable: vec![0; HEADER_BYTES + 60], writable: 0 };
        script.run(rig, &good, <[u8]>::is_empty);
    });
});
