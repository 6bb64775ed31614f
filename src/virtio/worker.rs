//! The thread that runs devices of a machine: waits for kicks and for the host's side of each, and lets it work. One runs most of
//! them; a device that may wait for the host has one of its own.
//!
//! Before it sleeps it looks a moment at the devices that allow it, if what came last came soon: a driver that has one request
//! at a time then neither kicks nor waits until this thread has woken up.

use super::function::VirtioFunction;
use crate::bus::bus::{Shared, lock};
use crate::event_loop::{self, Interest, Waker};
use std::hint::spin_loop;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

/// How long to look for what comes next: what a fast disk takes for a block. Falling asleep and waking up cost half of that.
const LOOK: Duration = Duration::from_micros(100);
/// Away for so long, a thread that let others have its processor came back after somebody who has work for all of it: longer than
/// the host's threads take for a disk's requests.
const AWAY: Duration = Duration::from_millis(2);
/// How long it is not given away then.
const CROWDED: Duration = Duration::from_millis(100);
/// How long to look at most, however much there is to do, before the descriptors of all devices are asked for.
const TURN: Duration = Duration::from_micros(200);

/// Something to wait for: which device, and what of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// What is waited for has changed.
    Changed,
    /// The device's index, and its queue or, for `None`, its own descriptor.
    Device(usize, Option<usize>),
}

/// Starts the thread, of this name. `changed` wakes it when what a device waits for has changed. It runs as long as the process.
///
/// # Errors
/// The host gives no thread.
pub fn start(name: &str, functions: Vec<Shared<VirtioFunction>>, changed: Waker) -> io::Result<JoinHandle<()>> {
    // With one processor, looking only keeps the guest from it.
    let may_look = thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
    Builder::new().name(name.into()).spawn(move || {
        loop {
            serve(&functions, &changed, may_look);
        }
    })
}

/// Serves the devices until what they wait for has changed.
fn serve(functions: &[Shared<VirtioFunction>], changed: &Waker, may_look: bool) {
    let waits = waits(functions);
    let mut interests = vec![Interest { token: Token::Changed, fd: changed.fd(), output: false }];
    interests.extend(waits.iter().map(|(token, fd, output)| Interest {
        token: *token,
        fd: fd.as_fd(),
        output: *output,
    }));
    // It may have been looked at until now.
    functions.iter().for_each(|function| lock(function).end_looking());
    let (mut timeout, mut crowded_until) = (None, Instant::now());
    loop {
        let asleep = Instant::now();
        let ready = event_loop::wait(&interests, timeout).expect("poll(2) of valid descriptors");
        let came_soon = timeout.is_some() || asleep.elapsed() < LOOK;
        for token in ready {
            match token {
                Token::Changed => {
                    changed.reset();
                    // What else was ready is found again.
                    return;
                }
                Token::Device(device, what) => lock(&functions[device]).serve(what),
            }
        }
        let busy = may_look && came_soon && look(functions, &mut crowded_until);
        timeout = busy.then_some(Duration::ZERO);
        if !busy {
            functions.iter().for_each(|function| lock(function).end_looking());
        }
    }
}

/// Serves the devices that can be looked at until nothing has come for [`LOOK`], or none of them is worth it. True: there was still
/// something to do after [`TURN`]. Threads of the host that work for a device get the processor meanwhile, unless others take it too.
fn look(functions: &[Shared<VirtioFunction>], crowded_until: &mut Instant) -> bool {
    let begin = Instant::now();
    let mut last = begin;
    loop {
        let (mut found, mut worth, mut others_work) = (false, false, false);
        for function in functions {
            let mut function = lock(function);
            found |= function.look();
            worth |= function.is_worth_a_look();
            others_work |= function.waits_for_threads();
        }
        let now = Instant::now();
        if found {
            last = now;
        }
        if !worth || now - last > LOOK {
            return false;
        }
        if now - begin > TURN {
            return true;
        }
        if !others_work {
            spin_loop();
            continue;
        }
        if now < *crowded_until {
            return false;
        }
        thread::yield_now();
        let back = Instant::now();
        if back - now > AWAY {
            *crowded_until = back + CROWDED;
        }
    }
}

/// Duplicates of the descriptors that the devices wait for now: no device is locked while they are waited on.
fn waits(functions: &[Shared<VirtioFunction>]) -> Vec<(Token, OwnedFd, bool)> {
    let mut waits = Vec::new();
    for (device, function) in functions.iter().enumerate() {
        let function = lock(function);
        for wait in function.waits_for() {
            // Without a descriptor left, this device stands still; the others go on.
            let fd = wait.fd.try_clone_to_owned().ok();
            waits.extend(fd.map(|fd| (Token::Device(device, wait.queue), fd, wait.output)));
        }
    }
    waits
}
