//! Which port of a switch each address is behind: learned from senders, forgotten when they fall silent.
//!
//! Each port has a share of the table of its own, so a machine that makes addresses up takes none from others; and an address
//! that is in use does not go to another port that claims it. Source: IEEE 802.1D §7.8 (the learning process), §7.9.2 (ageing).

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Addresses that are learned of one port; what comes for others is flooded.
pub const ADDRESSES_A_PORT: usize = 256;
/// How long an address is kept that sends nothing.
const AGE_MAX: Duration = Duration::from_secs(300);
/// How long an address that has sent something stays where it is, whoever claims it.
const STAYS: Duration = Duration::from_secs(1);
/// How often what is too old is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// The table.
#[derive(Debug, Default)]
pub struct Addresses {
    places: HashMap<Mac, Place>,
    /// How many addresses each port has.
    counts: HashMap<usize, usize>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Place {
    port: usize,
    seen: Instant,
}

/// Whether an address is that of one device, not of a group.
pub fn is_one(address: &Mac) -> bool {
    address[0] & 1 == 0
}

impl Addresses {
    /// A frame from `address` has come by `port`.
    pub fn learn(&mut self, address: &Mac, port: usize, now: Instant) {
        if !is_one(address) {
            return;
        }
        match self.places.get_mut(address) {
            Some(place) if place.port == port => place.seen = now,
            Some(place) if now.duration_since(place.seen) < STAYS => {}
            _ => {
                self.forget(address);
                let count = self.counts.entry(port).or_default();
                if *count < ADDRESSES_A_PORT {
                    *count += 1;
                    self.places.insert(*address, Place { port, seen: now });
                }
            }
        }
    }

    /// The port behind which `address` is, if it is known.
    pub fn find(&self, address: &Mac, now: Instant) -> Option<usize> {
        let place = self.places.get(address)?;
        (now.duration_since(place.seen) < AGE_MAX).then_some(place.port)
    }

    /// Nobody is behind `port` any more.
    pub fn forget_port(&mut self, port: usize) {
        self.places.retain(|_, place| place.port != port);
        self.counts.remove(&port);
    }

    /// Forgets what is too old, now and then.
    pub fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now.duration_since(swept) < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        let old = |place: &Place| now.duration_since(place.seen) >= AGE_MAX;
        let counts = &mut self.counts;
        self.places.retain(|_, place| {
            let stays = !old(place);
            if !stays && let Some(count) = counts.get_mut(&place.port) {
                *count -= 1;
            }
            stays
        });
    }

    fn forget(&mut self, address: &Mac) {
        if let Some(place) = self.places.remove(address)
            && let Some(count) = self.counts.get_mut(&place.port)
        {
            *count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn made_up(number: usize) -> Mac {
        let [.., a, b, c, d] = number.to_be_bytes();
        [2, 1, a, b, c, d]
    }

    #[test]
    fn an_address_in_use_stays_and_a_silent_one_moves_or_is_forgotten() {
        let (mut addresses, start) = (Addresses::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(addresses.find(&MAC, start), None);
        addresses.learn(&MAC, 3, start);
        addresses.learn(&MAC, 4, at(999));
        assert_eq!(addresses.find(&MAC, at(999)), Some(3), "port 4 only claims it");
        addresses.learn(&MAC, 4, at(1000));
        assert_eq!(addresses.find(&MAC, at(1000)), Some(4));
        assert_eq!(addresses.find(&MAC, at(300_999)), Some(4));
        assert_eq!(addresses.find(&MAC, at(301_000)), None);
        addresses.learn(&MAC, 4, at(302_000));
        addresses.forget_port(4);
        assert_eq!(addresses.find(&MAC, at(302_000)), None);
        addresses.learn(&[3, 0, 0, 0, 0, 1], 1, start);
        assert!(addresses.places.is_empty(), "groups send nothing");
    }

    #[test]
    fn who_makes_addresses_up_takes_none_from_others_and_gets_room_when_they_are_old() {
        let (mut addresses, start) = (Addresses::default(), Instant::now());
        (0..100_000).for_each(|number| addresses.learn(&made_up(number), 7, start));
        assert_eq!(addresses.places.len(), ADDRESSES_A_PORT);
        addresses.learn(&MAC, 1, start);
        assert_eq!(addresses.find(&MAC, start), Some(1));
        assert_eq!(addresses.find(&made_up(ADDRESSES_A_PORT), start), None);
        // Addresses that jump from port to port leave no count behind.
        let mut now = start;
        for port in 0..1000 {
            now += STAYS;
            addresses.learn(&MAC, port % 3, now);
        }
        assert_eq!(addresses.counts.values().sum::<usize>(), addresses.places.len());
        now += AGE_MAX;
        addresses.sweep(now);
        assert_eq!((addresses.places.len(), addresses.counts.values().sum()), (0, 0));
        addresses.learn(&made_up(ADDRESSES_A_PORT), 7, now);
        assert_eq!(addresses.find(&made_up(ADDRESSES_A_PORT), now), Some(7));
    }
}
