//! The control thread's wait: epoll over file descriptors with a token each, and a waker for other threads.
//!
//! Source: epoll(7), eventfd(2).

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Which file descriptor became ready: the number it was added with.
pub type Token = u64;

/// Most ready descriptors taken at once.
const READY_MAX: usize = 8;

/// An epoll instance.
pub struct EventLoop {
    epoll: OwnedFd,
    ready: Vec<epoll::Event>,
}

impl EventLoop {
    /// An empty loop.
    ///
    /// # Errors
    /// The host gives no more descriptors.
    pub fn new() -> io::Result<EventLoop> {
        Ok(EventLoop { epoll: epoll::create(CreateFlags::CLOEXEC)?, ready: Vec::with_capacity(READY_MAX) })
    }

    /// Waits for input on `fd`, too, and reports it as `token`. Regular files cannot be waited for: false.
    ///
    /// # Errors
    /// The host refuses the descriptor.
    pub fn add(&self, fd: impl AsFd, token: Token) -> io::Result<bool> {
        match epoll::add(&self.epoll, fd, EventData::new_u64(token), EventFlags::IN) {
            Ok(()) => Ok(true),
            Err(Errno::PERM) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for `fd` no longer.
    pub fn remove(&self, fd: impl AsFd) {
        // It fails only where the descriptor was not added: nothing to remove.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits until something is ready, at most `timeout`. Returns the tokens; none when the time has passed or a signal
    /// came.
    ///
    /// # Errors
    /// The host refuses to wait.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Vec<Token>> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        self.ready.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.ready), timeout.as_ref()) {
            Ok(_) => Ok(self.ready.iter().map(|event| event.data.u64()).collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Wakes an [`EventLoop`] from another thread or a signal handler. Clones wake the same loop.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A waker, to be added to the loop by [`Waker::fd`].
    ///
    /// # Errors
    /// The host gives no more descriptors.
    pub fn new() -> io::Result<Waker> {
        Ok(Waker(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// What the loop waits for.
    pub fn fd(&self) -> impl AsFd + '_ {
        self.0.as_fd()
    }

    /// Makes the loop's wait return.
    pub fn wake(&self) {
        // It fails only when the counter is full, and then the loop is awake.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Takes the wake-ups that came, so that the loop can sleep again.
    pub fn reset(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waker_ends_the_wait_once() {
        let mut events = EventLoop::new().unwrap();
        let waker = Waker::new().unwrap();
        assert!(events.add(waker.fd(), 7).unwrap());
        assert_eq!(events.wait(Some(Duration::ZERO)).unwrap(), Vec::<Token>::new());
        waker.clone().wake();
        waker.wake();
        assert_eq!(events.wait(None).unwrap(), [7]);
        waker.reset();
        assert_eq!(events.wait(Some(Duration::from_millis(1))).unwrap(), Vec::<Token>::new());
    }

    #[test]
    fn a_regular_file_is_told_apart() {
        let events = EventLoop::new().unwrap();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(!events.add(&file, 1).unwrap());
    }
}
