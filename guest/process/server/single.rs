//! The server with one thread, which answers one request after the other and waits with it: for the disk, and for a slow client.
//!
//! The simplest of the three: no lock, no state but where the program is. While it waits nobody else is answered, and the network
//! stack, which lives in the same thread, does not run: while it waits for the disk, frames pile up in the card.

use crate::answer::{Client, answer};
use crate::cache::Cache;
use crate::files::Files;
use crate::inbox::{Inbox, Wants};
use crate::memory;
use crate::network::{CONNECTIONS_MAX, Network};
use crate::wait::{IDLE_NS_MAX, is_over, wait};

/// A client that is being answered.
struct Waiting<'a> {
    network: &'a mut Network,
    connection: usize,
}

impl Client for Waiting<'_> {
    fn send(&mut self, mut bytes: &[u8], more: bool) -> Option<()> {
        loop {
            let sent = self.network.send(self.connection, bytes)?;
            bytes = bytes.get(sent..)?;
            if bytes.is_empty() && more {
                return Some(());
            }
            self.network.run();
            if bytes.is_empty() {
                return Some(());
            }
            if sent == 0 {
                let idle = self.network.idle_ns(IDLE_NS_MAX);
                wait(self.network.descriptor(), &mut [], idle, None);
            }
        }
    }
}

/// Serves until the console's input ends; how many requests were answered.
pub fn serve(mut network: Network, files: Files) -> Option<u64> {
    let cache = Cache::new();
    let inboxes = memory::slice(CONNECTIONS_MAX, || Inbox::EMPTY)?;
    let mut answered = 0;
    loop {
        network.run();
        let before = answered;
        for (connection, inbox) in inboxes.iter_mut().enumerate() {
            if network.accept(connection) {
                inbox.clear(&network);
            }
            if !network.is_taken(connection) {
                continue;
            }
            match inbox.look(&mut network, connection) {
                Wants::Nothing => {}
                Wants::Over => network.release(connection, true),
                Wants::Answer(wanted) => {
                    answered += 1;
                    let keep = answer(&wanted, &files, &cache, &mut Waiting { network: &mut network, connection });
                    if keep != Some(true) {
                        network.release(connection, keep.is_none());
                    }
                }
            }
        }
        if answered == before {
            if is_over() {
                return Some(answered);
            }
            let idle = network.idle_ns(IDLE_NS_MAX);
            wait(network.descriptor(), &mut [], idle, None);
        }
    }
}
