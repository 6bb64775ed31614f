//! Whether a guest listens to its serial port. Until it does, the terminal at the other end holds its characters back.
//!
//! A person types once a prompt shows; a pipe has everything ready before the guest's first instruction. But drivers throw
//! away what the receiver holds while they set the port up: Linux' 8250 driver empties the FIFOs and reads a character to be
//! rid of it, others test the port in loopback. So a character counts as wanted only under this rule, which serves drivers
//! by interrupt, drivers by polling, and guests that set nothing up:
//!
//! - By interrupt, a guest listens while the interrupt for received data is enabled and OUT2 lets it through; both, because
//!   drivers probe for the port by enabling all interrupts for a moment.
//! - By polling, it listens from when it has read the line status [`IN_A_ROW`] times in a row with the transmitter empty, until it
//!   empties the receiver's FIFO. Whoever reads the line status to send finds the transmitter empty once, and sends; Linux'
//!   driver, with its handler and its set-up beside each other, reads it a few times in a row and throws a character away after.
//!
//! Sources: PC16550D §8.3, §8.6.3; Linux drivers/tty/serial/8250/8250_port.c `autoconfig`, `serial8250_do_startup`.

/// Line status reads in a row that only somebody makes who waits for a character.
pub(super) const IN_A_ROW: u8 = 16;

/// Follows the guest's accesses to see whether it polls for characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// The last accesses read the line status and found the transmitter empty: so many, at most [`IN_A_ROW`].
    asked: u8,
    polls: bool,
}

impl Listener {
    /// A saved listener; `None` if none was ever saved so.
    pub fn restored(polls: bool, asked: u8) -> Option<Listener> {
        (asked <= IN_A_ROW).then_some(Listener { asked, polls })
    }

    /// What [`Listener::restored`] takes.
    pub fn saved(self) -> (bool, u8) {
        (self.polls, self.asked)
    }

    /// The guest reads the line status.
    pub fn line_status_read(&mut self, transmitter_empty: bool) {
        self.asked = if transmitter_empty { IN_A_ROW.min(self.asked + 1) } else { 0 };
        self.polls |= self.asked == IN_A_ROW;
    }

    /// The guest uses another register.
    pub fn other_access(&mut self) {
        self.asked = 0;
    }

    /// The guest empties the receiver's FIFO: it sets the port up.
    pub fn receiver_emptied(&mut self) {
        *self = Listener::default();
    }

    /// Whether the guest polls for characters.
    pub fn polls(self) -> bool {
        self.polls
    }
}
