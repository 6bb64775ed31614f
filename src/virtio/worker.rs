//! The thread that runs the devices of a machine: waits for kicks and for the host's side of each, and lets it work.

use super::function::VirtioFunction;
use crate::bus::bus::{Shared, lock};
use crate::event_loop::{self, Interest, Waker};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{Builder, JoinHandle};

/// Something to wait for: which device, and what of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// What is waited for has changed.
    Changed,
    /// The device's index, and its queue or, for `None`, its own descriptor.
    Device(usize, Option<usize>),
}

/// Starts the thread. `changed` wakes it when what a device waits for has changed. It runs as long as the process.
///
/// # Errors
/// The host gives no thread.
pub fn start(functions: Vec<Shared<VirtioFunction>>, changed: Waker) -> io::Result<JoinHandle<()>> {
    Builder::new().name("devices".into()).spawn(move || run(&functions, &changed))
}

fn run(functions: &[Shared<VirtioFunction>], changed: &Waker) {
    let mut waits = waits(functions);
    loop {
        let mut interests = vec![Interest { token: Token::Changed, fd: changed.fd(), output: false }];
        interests.extend(waits.iter().map(|(token, fd, output)| Interest {
            token: *token,
            fd: fd.as_fd(),
            output: *output,
        }));
        let ready = event_loop::wait(&interests, None).expect("poll(2) of valid descriptors");
        for token in ready {
            match token {
                Token::Changed => {
                    changed.reset();
                    waits = self::waits(functions);
                    // What else was ready is found again.
                    break;
                }
                Token::Device(device, what) => lock(&functions[device]).serve(what),
            }
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
