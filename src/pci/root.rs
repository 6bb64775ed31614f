//! The host bridge: finds the function that a configuration or memory access means.
//!
//! One bus, 32 devices with one function each. Device 0 is the bridge itself. Configuration space is reached by the ports 0xcf8 and
//! 0xcfc and by ECAM; memory BARs lie in one window, anywhere in which a driver may move them.
//! Source: PCI 3.0 §3.2.2.3.2 (configuration mechanism), PCI Firmware 3.2 §4.1 (ECAM).

use super::config::{ConfigSpace, Identity};
use crate::bus::bus::{Shared, lock};
use crate::bus::device::{ALL_ONES, BusDevice};

/// Devices of the bus.
pub const DEVICES: usize = 32;
/// Bytes of ECAM for one bus.
pub const ECAM_SIZE: u64 = 1 << 20;
/// Configuration address: enabled.
const ENABLE: u32 = 1 << 31;

/// The bridge by its numbers: a host bridge of Intel that no system has a quirk for.
const BRIDGE: Identity = Identity { id: (0x8086, 0x0d57), class: (6, 0, 0), revision: 0, subsystem: (0, 0) };

/// A function on the bus.
pub trait PciFunction: Send {
    /// Its configuration space.
    fn config(&self) -> &ConfigSpace;

    /// The driver reads configuration space.
    fn read_config(&mut self, offset: usize, size: u8) -> u32;

    /// The driver writes configuration space.
    fn write_config(&mut self, offset: usize, size: u8, value: u32);

    /// Reads at `offset` in the BAR.
    fn read_bar(&mut self, offset: u64, size: u8) -> u64;

    /// Writes at `offset` in the BAR.
    fn write_bar(&mut self, offset: u64, size: u8, value: u64);

    /// Name of the register at `offset` in the BAR.
    fn register_name(&self, offset: u64, write: bool) -> &'static str;
}

/// The bus.
pub struct PciRoot {
    functions: Vec<Option<Box<dyn PciFunction>>>,
    address: u32,
}

/// The bridge's own function: numbers, and nothing to do.
struct Bridge(ConfigSpace);

impl PciFunction for Bridge {
    fn config(&self) -> &ConfigSpace {
        &self.0
    }
    fn read_config(&mut self, offset: usize, size: u8) -> u32 {
        self.0.read(offset, size)
    }
    fn write_config(&mut self, offset: usize, size: u8, value: u32) {
        self.0.write(offset, size, value);
    }
    fn read_bar(&mut self, _offset: u64, _size: u8) -> u64 {
        ALL_ONES
    }
    fn write_bar(&mut self, _offset: u64, _size: u8, _value: u64) {}
    fn register_name(&self, _offset: u64, _write: bool) -> &'static str {
        ""
    }
}

impl PciRoot {
    /// The bridge as device 0, `functions` from device 1 on.
    pub fn new(functions: Vec<Box<dyn PciFunction>>) -> PciRoot {
        assert!(functions.len() < DEVICES, "{} functions on one bus", functions.len());
        let bridge: Box<dyn PciFunction> = Box::new(Bridge(ConfigSpace::new(BRIDGE)));
        PciRoot { functions: std::iter::once(bridge).chain(functions).map(Some).collect(), address: 0 }
    }

    fn function(&mut self, bus: u64, device: u64, function: u64) -> Option<&mut Box<dyn PciFunction>> {
        let known = bus == 0 && function == 0;
        self.functions.get_mut(usize::try_from(device).ok()?).filter(|_| known)?.as_mut()
    }

    fn at_address(&mut self, offset: u64) -> Option<(&mut Box<dyn PciFunction>, usize)> {
        let address = self.address;
        if address & ENABLE == 0 {
            return None;
        }
        let field = |shift: u32, bits: u32| u64::from(address >> shift & ((1 << bits) - 1));
        let register = (address & 0xfc) as usize + offset as usize;
        Some((self.function(field(16, 8), field(11, 5), field(8, 3))?, register))
    }

    fn with_bar_at(&mut self, address: u64) -> Option<(&mut Box<dyn PciFunction>, u64)> {
        let functions = self.functions.iter_mut().flatten();
        functions.into_iter().find_map(|function| {
            let offset = function.config().bar_offset(address)?;
            Some((function, offset))
        })
    }
}

/// The configuration ports: address at offset 0, data at 4.
pub struct PciPorts(pub Shared<PciRoot>);

impl BusDevice for PciPorts {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        let mut root = lock(&self.0);
        match (offset, size) {
            (0, 4) => root.address.into(),
            (4.., 1 | 2 | 4) => match root.at_address(offset - 4) {
                Some((function, register)) => function.read_config(register, size).into(),
                None => ALL_ONES,
            },
            _ => ALL_ONES,
        }
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        let mut root = lock(&self.0);
        match (offset, size) {
            (0, 4) => root.address = value as u32,
            (4.., 1 | 2 | 4) => {
                if let Some((function, register)) = root.at_address(offset - 4) {
                    function.write_config(register, size, value as u32);
                }
            }
            _ => {}
        }
    }

    fn register_name(&self, offset: u64, _write: bool) -> &'static str {
        if offset < 4 { "CONFIG_ADDRESS" } else { "CONFIG_DATA" }
    }
}

/// Configuration space in memory.
pub struct PciEcam(pub Shared<PciRoot>);

/// Device, function and register of an ECAM offset.
fn ecam(offset: u64) -> (u64, u64, usize) {
    (offset >> 15 & 0x1f, offset >> 12 & 7, (offset & 0xfff) as usize)
}

impl BusDevice for PciEcam {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        let (device, function, register) = ecam(offset);
        match lock(&self.0).function(offset >> 20, device, function) {
            Some(function) if matches!(size, 1 | 2 | 4) => function.read_config(register, size).into(),
            _ => ALL_ONES,
        }
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        let (device, function, register) = ecam(offset);
        if let Some(function) = lock(&self.0).function(offset >> 20, device, function)
            && matches!(size, 1 | 2 | 4)
        {
            function.write_config(register, size, value as u32);
        }
    }

    fn register_name(&self, _offset: u64, _write: bool) -> &'static str {
        "CONFIG"
    }
}

/// The window in which BARs lie; it begins at `base`.
pub struct PciWindow {
    /// The bus.
    pub root: Shared<PciRoot>,
    /// First guest-physical address.
    pub base: u64,
}

impl BusDevice for PciWindow {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        match lock(&self.root).with_bar_at(self.base + offset) {
            Some((function, offset)) => function.read_bar(offset, size),
            None => ALL_ONES,
        }
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        if let Some((function, offset)) = lock(&self.root).with_bar_at(self.base + offset) {
            function.write_bar(offset, size, value);
        }
    }

    fn register_name(&self, offset: u64, write: bool) -> &'static str {
        match lock(&self.root).with_bar_at(self.base + offset) {
            Some((function, offset)) => function.register_name(offset, write),
            None => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    const WINDOW: u64 = 0xd000_0000;
    const WINDOW_SIZE: u64 = 0x1000_0000;
    const BAR: u64 = 0x8000;
    const IDENTITY: Identity = Identity { id: (0x1af4, 0x1044), class: (0xff, 0, 0), revision: 1, subsystem: (0, 0) };

    /// Answers with its number and the offset in its BAR.
    struct Probe(u64, ConfigSpace);

    impl PciFunction for Probe {
        fn config(&self) -> &ConfigSpace {
            &self.1
        }
        fn read_config(&mut self, offset: usize, size: u8) -> u32 {
            self.1.read(offset, size)
        }
        fn write_config(&mut self, offset: usize, size: u8, value: u32) {
            self.1.write(offset, size, value);
        }
        fn read_bar(&mut self, offset: u64, _size: u8) -> u64 {
            assert!(offset < BAR, "{offset:#x} is not in the BAR");
            self.0 << 32 | offset
        }
        fn write_bar(&mut self, offset: u64, _size: u8, _value: u64) {
            assert!(offset < BAR, "{offset:#x} is not in the BAR");
        }
        fn register_name(&self, _offset: u64, _write: bool) -> &'static str {
            "PROBE"
        }
    }

    /// Functions 1 and 2, side by side in the window.
    fn bus() -> (PciEcam, PciWindow, PciPorts) {
        let probe = |number: u64| {
            let mut config = ConfigSpace::new(IDENTITY);
            config.place_bar(WINDOW + number * BAR, BAR);
            Box::new(Probe(number, config)) as Box<dyn PciFunction>
        };
        let root = Arc::new(Mutex::new(PciRoot::new(vec![probe(1), probe(2)])));
        (PciEcam(root.clone()), PciWindow { root: root.clone(), base: WINDOW }, PciPorts(root))
    }

    #[test]
    fn functions_are_found_by_both_ways_of_configuration() {
        let (mut ecam, mut window, mut ports) = bus();
        let ids = [0, 1, 2, 3].map(|device: u64| ecam.read(device << 15, 4));
        assert_eq!(ids, [0x0d57_8086, 0x1044_1af4, 0x1044_1af4, ALL_ONES]);
        ports.write(0, 4, 0x8000_1000);
        assert_eq!((ports.read(0, 4), ports.read(4, 4), ports.read(6, 2)), (0x8000_1000, 0x1044_1af4, 0x1044));
        ports.write(0, 4, 0x1000);
        assert_eq!(ports.read(4, 4), ALL_ONES, "not enabled");
        assert_eq!((window.read(BAR + 5, 1), window.read(2 * BAR, 4)), (1 << 32 | 5, 2 << 32));
        assert_eq!((window.read(0, 4), window.register_name(BAR, false)), (ALL_ONES, "PROBE"));
    }

    #[test]
    fn sec25_a_bar_is_reached_where_it_was_moved_to_or_nowhere() {
        let (mut ecam, mut window, _) = bus();
        let bases = [0, 1, BAR, 0x10_0000, WINDOW, WINDOW + 2 * BAR, WINDOW + WINDOW_SIZE - BAR, WINDOW + WINDOW_SIZE];
        let odd = [WINDOW + 0x7fff, WINDOW - 1, 0xfee0_0000, 0xffff_8000, 1 << 32, 1 << 63, u64::MAX, u64::MAX - BAR];
        for base in bases.into_iter().chain(odd) {
            ecam.write(1 << 15 | 0x10, 4, base & 0xffff_ffff);
            ecam.write(1 << 15 | 0x14, 4, base >> 32);
            let (low, high) = (ecam.read(1 << 15 | 0x10, 4) & !0xf, ecam.read(1 << 15 | 0x14, 4));
            let taken = high << 32 | low;
            assert_eq!(taken, base & !(BAR - 1), "whole BARs");
            for offset in [0, 1, BAR - 1, BAR, 2 * BAR - 1, 2 * BAR, WINDOW_SIZE - BAR, WINDOW_SIZE - 1] {
                let (address, value) = (WINDOW + offset, window.read(offset, 1));
                window.write(offset, 8, u64::MAX);
                let moved = address.checked_sub(taken).filter(|at| *at < BAR && taken.checked_add(BAR).is_some());
                let other = offset.checked_sub(2 * BAR).filter(|at| *at < BAR);
                let expected = moved.map(|at| 1 << 32 | at).or(other.map(|at| 2 << 32 | at)).unwrap_or(ALL_ONES);
                assert_eq!(value, expected, "BAR at {base:#x}, access at {address:#x}");
            }
        }
    }

    #[test]
    fn sec17_every_place_of_the_bus_and_every_width_is_answered() {
        let (mut ecam, _, mut ports) = bus();
        for offset in (0..0x1100).chain(0xff00..0x1_0100).chain(ECAM_SIZE - 0x10..ECAM_SIZE).chain([u64::MAX]) {
            for size in 1..=8 {
                ecam.write(offset, size, u64::MAX);
                ecam.read(offset, size);
            }
        }
        for address in [0, u32::MAX, 0x8000_00ff, 0x8000_08fc, 0x8000_09fc, 0x80ff_ff00] {
            ports.write(0, 4, address.into());
            for offset in 0..8 {
                for size in 1..=8 {
                    ports.write(offset, size, u64::MAX);
                    ports.write(0, 4, address.into());
                    ports.read(offset, size);
                }
            }
        }
    }
}
