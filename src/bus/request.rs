//! What a guest asks of the whole machine through a device: power off, reset, a status, a panic.
//!
//! A device only files the request; whoever runs the vCPU looks after each access, so no further instruction runs once the
//! machine is to end. With nothing filed the look is one relaxed load.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A request of the guest to its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestRequest {
    /// Power off.
    PowerOff,
    /// Reset.
    Reset,
    /// End with this value (isa-debug-exit).
    DebugExit(u32),
    /// The guest's kernel panicked (pvpanic).
    Panicked,
    /// The guest's kernel panicked and its crash kernel takes over: the machine goes on.
    CrashLoaded,
}

/// Most requests that wait at a time; the guest can repeat itself, the first ones decide.
const WAITING_MAX: usize = 16;

/// The requests that devices filed and nobody took yet. Clones share one queue.
#[derive(Clone, Debug, Default)]
pub struct GuestRequests(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    any: AtomicBool,
    waiting: Mutex<VecDeque<GuestRequest>>,
}

impl GuestRequests {
    /// Files a request; beyond [`WAITING_MAX`] it is dropped, because an earlier one has decided already.
    pub fn file(&self, request: GuestRequest) {
        let mut waiting = self.0.waiting.lock().expect("no holder of this lock panics");
        if waiting.len() < WAITING_MAX {
            waiting.push_back(request);
        }
        self.0.any.store(true, Ordering::Release);
    }

    /// Takes the oldest request.
    pub fn take(&self) -> Option<GuestRequest> {
        if !self.0.any.load(Ordering::Relaxed) {
            return None;
        }
        let mut waiting = self.0.waiting.lock().expect("no holder of this lock panics");
        let request = waiting.pop_front();
        self.0.any.store(!waiting.is_empty(), Ordering::Release);
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_out_in_order_and_are_bounded() {
        let requests = GuestRequests::default();
        assert_eq!(requests.take(), None);
        requests.file(GuestRequest::CrashLoaded);
        for value in 0..100 {
            requests.clone().file(GuestRequest::DebugExit(value));
        }
        assert_eq!(requests.take(), Some(GuestRequest::CrashLoaded));
        let rest = std::iter::from_fn(|| requests.take()).count();
        assert_eq!(rest, WAITING_MAX - 1);
    }
}
