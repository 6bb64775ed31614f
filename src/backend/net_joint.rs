//! The cable between the only two machines of a switch: when there can be one, and when it is shut.
//!
//! `net_cable.rs` has the machines' side, `net_stream.rs` the words.

use super::net_stream::NetStream;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use std::os::fd::{AsFd, OwnedFd};

/// A cable that was handed out.
pub(super) struct Joint {
    number: u8,
    ports: [usize; 2],
    /// Which of them has sent its last by the switch.
    moved: [bool; 2],
    /// One of its ends, to shut both.
    end: OwnedFd,
}

impl Joint {
    /// Joins two ports whose machines have a driver, and for whom nothing waits. `Err`: not now. `None`: the host gives no cable.
    pub(super) fn of(ports: [(usize, &mut NetStream); 2], number: u8) -> Result<Option<Joint>, ()> {
        let [(here, stream), (there, other)] = ports;
        let (Some(does), Some(other_does)) = (stream.driver_does(), other.driver_does()) else { return Err(()) };
        if !stream.has_sent_all() || !other.has_sent_all() {
            return Err(());
        }
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let Ok((end, other_end)) = pair else { return Ok(None) };
        let joint = Joint { number, ports: [here, there], moved: [false; 2], end };
        let given = stream.give_cable(number, joint.end.as_fd(), other_does)
            && other.give_cable(number, other_end.as_fd(), does);
        if !given {
            joint.shut();
        }
        Ok(given.then_some(joint))
    }

    /// Whether it leads to port `index`.
    pub(super) fn leads_to(&self, index: usize) -> bool {
        self.ports.contains(&index)
    }

    /// The machine at port `index` has sent its last by the switch, and goes on by cable `number`. If that is this one, the port that is
    /// to hear of it; once.
    pub(super) fn moved(&mut self, index: usize, number: u8) -> Option<usize> {
        let side = self.ports.iter().position(|&port| port == index).filter(|_| self.number == number)?;
        let is_first = !std::mem::replace(&mut self.moved[side], true);
        is_first.then_some(self.ports[1 - side])
    }

    /// Whether both have: only then there can be another cable, or what is still in this one would be forgotten for it.
    pub(super) fn is_settled(&self) -> bool {
        self.moved == [true; 2]
    }

    /// Nothing goes in any more. What is in it can still be read, and then both machines come back to the switch.
    pub(super) fn shut(&self) {
        // It is a socket, and connected.
        let _ = shutdown(&self.end, Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn each_end_is_told_once_that_the_other_has_moved() {
        let end = UnixStream::pair().unwrap().0.into();
        let mut joint = Joint { number: 7, ports: [3, 5], moved: [false; 2], end };
        assert_eq!((joint.moved(4, 7), joint.moved(3, 6), joint.is_settled()), (None, None, false));
        assert_eq!((joint.moved(3, 7), joint.moved(3, 7), joint.is_settled()), (Some(5), None, false));
        assert_eq!((joint.moved(5, 7), joint.moved(5, 7), joint.is_settled()), (Some(3), None, true));
    }
}
