//! Whether a guest listens to its serial port. Until it does, the terminal at the other end holds its characters back.
//!
//! A person types once a prompt shows; a pipe has everything ready before the guest's first instruction. But drivers throw
//! away what the receiver holds while they set the port up: Linux' 8250 driver empties the FIFOs and reads a character to be
//! rid of it, others test the port in loopback. So a character counts as wanted only under this rule, which serves drivers
//! by interrupt, drivers by polling, and guests that set nothing up:
//!
//! - By interrupt, a guest listens while the interrupt for received data is enabled and OUT2 lets it through; both, because
//!   drivers probe for the port by enabling all interrupts for a moment.
//! - By polling, it listens from when it has read the line status twice in a row with the transmitter empty, until it empties
//!   the receiver's FIFO. Whoever reads the line status to send finds the transmitter empty once, and sends.
//!
//! Sources: PC16550D §8.3, §8.6.3; Linux drivers/tty/serial/8250/8250_port.c `autoconfig`, `serial8250_do_startup`.

/// Follows the guest's accesses to see whether it polls for characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    polls: bool,
    /// The last access read the line status and found the transmitter empty.
    asked: bool,
}

impl Listener {
    /// A saved listener.
    pub fn restored(polls: bool, asked: bool) -> Listener {
        Listener { polls, asked }
    }

    /// What [`Listener::restored`] takes.
    pub fn saved(self) -> [bool; 2] {
        [self.polls, self.asked]
    }

    /// The guest reads the line status.
    pub fn line_status_read(&mut self, transmitter_empty: bool) {
        self.polls |= self.asked && transmitter_empty;
        self.asked = transmitter_empty;
    }

    /// The guest uses another register.
    pub fn other_access(&mut self) {
        self.asked = false;
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
