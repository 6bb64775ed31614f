//! Exits by kind and register, with how long they took.

use super::super::event::{DeviceRegister, ExitEvent, ExitKind};
use super::super::histogram::Histogram;
use crate::kvm::exit::Exit;
use serde::Serialize;
use std::collections::HashMap;

/// Kinds and registers told apart. A machine has fewer than 200; a guest may touch any address that is none.
const CLASSES_MAX: usize = 1000;

/// Exits of one kind at one register, or at one address without a device.
struct Class {
    kind: ExitKind,
    device: &'static str,
    name: String,
    guest_ns: u64,
    host: Histogram,
}

/// All that were seen.
#[derive(Default)]
pub struct Classes {
    index: HashMap<Key, u32>,
    classes: Vec<Class>,
}

/// What tells classes apart: kind, register, and where there is none, the number of the address; `None` for all that were
/// one too many.
type Key = (ExitKind, Option<(Option<DeviceRegister>, u64)>);

/// The classes by column; those of one position belong together.
#[derive(Default, Serialize)]
pub struct Table<'a> {
    kind: Vec<usize>,
    device: Vec<&'static str>,
    name: Vec<&'a str>,
    count: Vec<u64>,
    guest_ns: Vec<u64>,
    host_ns: Vec<u64>,
    p50_ns: Vec<u64>,
    p99_ns: Vec<u64>,
    max_ns: Vec<u64>,
}

impl Classes {
    /// Counts an exit; returns the position of its class.
    pub fn count(&mut self, event: &ExitEvent) -> u32 {
        let position = self.position(event);
        let class = &mut self.classes[position as usize];
        class.guest_ns = class.guest_ns.saturating_add(event.guest_ns);
        class.host.add(event.host_ns);
        position
    }

    fn position(&mut self, event: &ExitEvent) -> u32 {
        let kind = ExitKind::of(&event.exit);
        let address = match event.exit {
            _ if event.register.is_some() => 0,
            Exit::PioRead { port, .. } | Exit::PioWrite { port, .. } => port.into(),
            Exit::MmioRead { addr, .. } | Exit::MmioWrite { addr, .. } => addr,
            Exit::MsrRead { index, .. } | Exit::MsrWrite { index, .. } => index.into(),
            _ => 0,
        };
        let own = (kind, Some((event.register, address)));
        if let Some(position) = self.index.get(&own) {
            return *position;
        }
        let has_room = self.classes.len() < CLASSES_MAX;
        let (key, name) = if has_room { (own, event.target()) } else { ((kind, None), "elsewhere".to_owned()) };
        *self.index.entry(key).or_insert_with(|| {
            let device = event.register.filter(|_| has_room).map_or("", |register| register.device);
            self.classes.push(Class { kind, device, name, guest_ns: 0, host: Histogram::default() });
            self.classes.len() as u32 - 1
        })
    }

    /// What was counted.
    pub fn table(&self) -> Table<'_> {
        let mut table = Table::default();
        for class in &self.classes {
            table.kind.push(ExitKind::ALL.iter().position(|kind| *kind == class.kind).expect("ALL has all"));
            table.device.push(class.device);
            table.name.push(&class.name);
            table.count.push(class.host.count());
            table.guest_ns.push(class.guest_ns);
            table.host_ns.push(class.host.sum_ns());
            table.p50_ns.push(class.host.percentile_ns(50));
            table.p99_ns.push(class.host.percentile_ns(99));
            table.max_ns.push(class.host.max_ns());
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::{event, serial};
    use super::*;

    #[test]
    fn a_class_is_a_kind_and_a_register() {
        let mut classes = Classes::default();
        let exits = [serial(1), event(Exit::Halt), serial(2), event(Exit::PioRead { port: 0x3f8, size: 1 })];
        assert_eq!(exits.map(|exit| classes.count(&exit)), [0, 1, 0, 2]);
        let table = classes.table();
        assert_eq!((table.device, table.name), (vec!["COM1", "", ""], vec!["COM1 THR", "", "port 0x3f8"]));
        assert_eq!(
            (table.count, table.guest_ns, table.host_ns),
            (vec![2, 1, 1], vec![4000, 2000, 2000], vec![1000, 500, 500])
        );
    }

    #[test]
    fn addresses_beyond_the_limit_share_a_class_of_their_kind() {
        let mut classes = Classes::default();
        for addr in 0..2 * CLASSES_MAX as u64 {
            classes.count(&event(Exit::MmioRead { addr, size: 4 }));
        }
        // What has a class keeps it; a kind that comes late is still told apart.
        assert_eq!(classes.count(&event(Exit::MmioRead { addr: 7, size: 4 })), 7);
        classes.count(&serial(1));
        let table = classes.table();
        let from = |column: &[u64]| column[CLASSES_MAX..].to_vec();
        assert_eq!((from(&table.count), &table.name[CLASSES_MAX..]), (vec![1000, 1], &["elsewhere"; 2][..]));
    }
}
