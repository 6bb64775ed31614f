//! The control thread's wait: a handful of descriptors, a deadline, and a waker for other threads.
//!
//! What is waited for changes from turn to turn (input while there is room for it, output while it is blocked), so each
//! wait names its descriptors: poll(2), not epoll. Source: poll(2), eventfd(2).

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// A descriptor to wait for.
#[derive(Clone, Copy, Debug)]
pub struct Interest<'a, T> {
    /// What a ready descriptor is reported as.
    pub token: T,
    /// The descriptor.
    pub fd: BorrowedFd<'a>,
    /// Whether it shall take bytes (true) or give them (false).
    pub output: bool,
}

/// Waits until one of `interests` is ready or broken, at most `timeout`. Returns the tokens; none when the time has passed
/// or a signal came.
///
/// # Errors
/// The host refuses to wait.
pub fn wait<T: Copy>(interests: &[Interest<'_, T>], timeout: Option<Duration>) -> io::Result<Vec<T>> {
    let flags = |output| if output { PollFlags::OUT } else { PollFlags::IN };
    let mut fds: Vec<_> =
        interests.iter().map(|interest| PollFd::from_borrowed_fd(interest.fd, flags(interest.output))).collect();
    // A timeout beyond what the clock can say is as good as none.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ready = interests.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
    Ok(ready.map(|(interest, _)| interest.token).collect())
}

/// Wakes a waiting thread from another one, or from a signal handler. Clones wake the same one.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A waker; wait for [`Waker::fd`] to give bytes.
    ///
    /// # Errors
    /// The host gives no more descriptors.
    pub fn new() -> io::Result<Waker> {
        Ok(Waker(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// What to wait for.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Makes the wait return.
    pub fn wake(&self) {
        // It fails only when the counter is full, and then the waiter is awake.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Takes the wake-ups that came, so that the next wait sleeps again.
    pub fn reset(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

/// Passes writes of the guest on to wakers, without an exit to user space where KVM does it (ioeventfd).
pub trait Doorbells: Send + Sync {
    /// From now on a write to guest-physical `address` (of the 32-bit `value`, where one is given) wakes `kick`.
    fn arm(&self, address: u64, value: Option<u32>, kick: &Waker);

    /// No write is passed on any more.
    fn disarm(&self);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_for(waker: &Waker, timeout: Option<Duration>) -> Vec<u32> {
        wait(&[Interest { token: 7, fd: waker.fd(), output: false }], timeout).unwrap()
    }

    #[test]
    fn a_waker_ends_the_wait_until_it_is_reset() {
        let waker = Waker::new().unwrap();
        assert_eq!(wait_for(&waker, Some(Duration::ZERO)), Vec::<u32>::new());
        waker.clone().wake();
        waker.wake();
        assert_eq!(wait_for(&waker, None), [7]);
        waker.reset();
        assert_eq!(wait_for(&waker, Some(Duration::from_millis(1))), Vec::<u32>::new());
    }

    #[test]
    fn regular_files_are_always_ready() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let both = [false, true].map(|output| Interest { token: output, fd: file.as_fd(), output });
        assert_eq!(wait(&both, None).unwrap(), [false, true]);
    }
}
