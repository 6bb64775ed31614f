//! What a client has sent and was not answered: requests are taken from its front.

use crate::http::{self, Input, REQUEST_BYTES_MAX, Request, Status};
use crate::network::{Network, PATIENCE_MS};

/// The bytes of one connection.
pub struct Inbox {
    bytes: [u8; REQUEST_BYTES_MAX],
    used: usize,
    since_ms: u64,
}

/// What a client wants.
pub enum Wants {
    /// Nothing yet.
    Nothing,
    /// An answer to a request, or that it is refused.
    Answer(Result<Request, Status>),
    /// Nothing any more: it is gone, or was silent for too long.
    Over,
}

impl Inbox {
    /// One without bytes.
    pub const EMPTY: Inbox = Inbox { bytes: [0; REQUEST_BYTES_MAX], used: 0, since_ms: 0 };

    /// For a new client.
    pub fn clear(&mut self, network: &Network) {
        self.used = 0;
        self.since_ms = network.now_ms();
    }

    /// Takes in what has come, and the first request of it.
    pub fn look(&mut self, network: &mut Network, connection: usize) -> Wants {
        self.used += network.receive(connection, self.bytes.get_mut(self.used..).unwrap_or_default());
        match http::parse(self.bytes.get(..self.used).unwrap_or_default()) {
            Input::Request(request, bytes) => {
                self.bytes.copy_within(bytes..self.used, 0);
                self.used -= bytes;
                self.since_ms = network.now_ms();
                Wants::Answer(Ok(request))
            }
            Input::Refused(status) => Wants::Answer(Err(status)),
            Input::Part if !network.is_open(connection) => Wants::Over,
            Input::Part if network.now_ms().saturating_sub(self.since_ms) > PATIENCE_MS => Wants::Over,
            Input::Part => Wants::Nothing,
        }
    }
}
