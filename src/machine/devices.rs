//! Which devices a machine has, where they stand, and how they are wired. Behaviour is theirs; this file only connects.

use super::virtio;
use crate::arch::irqchip::Irqchip;
use crate::arch::layout::{
    IOAPIC, IOAPIC_SIZE, IRQ_ACPI_EVENTS, IRQ_COM1, IRQ_RTC, PORT_ACPI, PORT_ACPI_SIZE, PORT_COM1, PORT_DEBUG_CONSOLE,
    PORT_DEBUG_EXIT, PORT_I8042_DATA, PORT_PVPANIC, PORT_RTC,
};
use crate::bus::bus::{Bus, Shared};
use crate::bus::device::{BusDevice, DeviceNode};
use crate::bus::irq::{IrqLine, Unconnected};
use crate::bus::request::GuestRequests;
use crate::bus::stream::SerialOutput;
use crate::config::DevicesConfig;
use crate::devices::acpi_pm::AcpiPm;
use crate::devices::debug_console::DebugConsole;
use crate::devices::debug_exit::DebugExit;
use crate::devices::i8042::{self, I8042};
use crate::devices::ioapic::{Ioapic, IoapicPin};
use crate::devices::pvpanic::Pvpanic;
use crate::devices::rtc::Rtc;
use crate::devices::serial::Serial;
use crate::kvm::vm::Vm;
use crate::virtio::device::VirtioDevice;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// What the devices hold of the host.
pub struct Host {
    /// Where COM1 sends.
    pub serial: Box<dyn SerialOutput>,
    /// Where the debug console sends.
    pub debug_console: Box<dyn SerialOutput>,
    /// Virtio devices, with what they hold.
    pub virtio: Vec<Box<dyn VirtioDevice>>,
}

/// A machine's devices in their places.
pub struct Wired {
    /// Ports.
    pub ports: Bus,
    /// Memory-mapped registers.
    pub mmio: Bus,
    /// The IOAPIC, where it is ours.
    pub ioapic: Option<Shared<Ioapic>>,
    /// What devices ask of the machine.
    pub requests: GuestRequests,
    /// COM1.
    pub serial: Shared<Serial>,
    /// Power button and reset register.
    pub acpi: Shared<AcpiPm>,
}

const COM1: DeviceNode = port_device("COM1", "16550A serial port", PORT_COM1, 8, Some(IRQ_COM1));
const RTC: DeviceNode = port_device("RTC", "MC146818 clock and CMOS memory", PORT_RTC, 2, Some(IRQ_RTC));
const KEYBOARD: DeviceNode =
    port_device("i8042", "keyboard controller, for reset", PORT_I8042_DATA, i8042::PORTS, None);
const DEBUG_CONSOLE: DeviceNode = port_device("debugcon", "debug console", PORT_DEBUG_CONSOLE, 1, None);
const DEBUG_EXIT: DeviceNode = port_device("debug-exit", "isa-debug-exit", PORT_DEBUG_EXIT, 4, None);
const PVPANIC: DeviceNode = port_device("pvpanic", "panic notifier", PORT_PVPANIC, 1, None);
const ACPI_PM: DeviceNode = port_device(
    "ACPI",
    "sleep control, reset register, power button",
    PORT_ACPI,
    PORT_ACPI_SIZE,
    Some(IRQ_ACPI_EVENTS),
);
const IOAPIC_NODE: DeviceNode = DeviceNode {
    name: "IOAPIC",
    what: "82093AA interrupt controller",
    ports: None,
    mmio: Some((IOAPIC, IOAPIC_SIZE)),
    irq: None,
};

const fn port_device(name: &'static str, what: &'static str, port: u16, count: u16, irq: Option<u32>) -> DeviceNode {
    DeviceNode { name, what, ports: Some((port, count)), mmio: None, irq }
}

/// The devices of a machine with these interrupt controllers, as `--dry-run` and the ACPI tables list them.
pub fn nodes(irqchip: Irqchip, config: &DevicesConfig) -> Vec<DeviceNode> {
    let mut nodes = vec![COM1, RTC, KEYBOARD, DEBUG_CONSOLE, DEBUG_EXIT, PVPANIC, ACPI_PM];
    match irqchip {
        Irqchip::None => nodes.iter_mut().for_each(|node| node.irq = None),
        Irqchip::Split => nodes.push(IOAPIC_NODE),
        Irqchip::Full => nodes.push(DeviceNode { what: "82093AA interrupt controller, in the kernel", ..IOAPIC_NODE }),
    }
    nodes.extend(virtio::nodes(config, irqchip));
    nodes
}

/// Names of the devices that a user may mean, whatever the interrupt controllers.
pub fn names(config: &DevicesConfig) -> Vec<&'static str> {
    nodes(Irqchip::Split, config).iter().map(|node| node.name).collect()
}

/// Makes the devices of `vm` and puts them on its buses.
///
/// # Errors
/// The host gives no descriptor or thread for the virtio devices.
pub fn wire(vm: &Vm, irqchip: Irqchip, config: &DevicesConfig, host: Host) -> io::Result<Wired> {
    let ioapic = (irqchip == Irqchip::Split).then(|| shared(Ioapic::new(Box::new(vm.msi_sink()))));
    let line = |input: u32| -> Box<dyn IrqLine> {
        match (irqchip, &ioapic) {
            (Irqchip::Full, _) => Box::new(vm.line(input)),
            (_, Some(ioapic)) => Box::new(IoapicPin::new(ioapic.clone(), input as usize)),
            (_, None) => Box::new(Unconnected),
        }
    };
    let requests = GuestRequests::default();
    let serial = shared(Serial::new(line(IRQ_COM1), host.serial));
    let acpi = shared(AcpiPm::new(line(IRQ_ACPI_EVENTS), requests.clone()));
    let mut ports = Bus::default();
    place(&mut ports, &COM1, serial.clone());
    place(&mut ports, &RTC, shared(Rtc::new(Box::new(wall_clock))));
    place(&mut ports, &KEYBOARD, shared(I8042::new(requests.clone())));
    place(&mut ports, &DEBUG_CONSOLE, shared(DebugConsole::new(host.debug_console)));
    place(&mut ports, &DEBUG_EXIT, shared(DebugExit::new(requests.clone())));
    place(&mut ports, &PVPANIC, shared(Pvpanic::new(requests.clone())));
    place(&mut ports, &ACPI_PM, acpi.clone());
    let mut mmio = Bus::default();
    if let Some(ioapic) = &ioapic {
        mmio.insert(IOAPIC_NODE.name, IOAPIC, IOAPIC_SIZE, ioapic.clone()).expect("the bus is empty");
    }
    virtio::wire(vm, config, host.virtio, &line, &mut ports, &mut mmio)?;
    Ok(Wired { ports, mmio, ioapic, requests, serial, acpi })
}

/// Puts a device where its node says.
fn place(bus: &mut Bus, node: &DeviceNode, device: Shared<dyn BusDevice>) {
    let (first, count) = node.ports.expect("a port device");
    bus.insert(node.name, first.into(), count.into(), device).expect("the port map has no overlaps");
}

fn shared<D>(device: D) -> Shared<D> {
    Arc::new(Mutex::new(device))
}

/// Seconds since 1970, as the host's clock has them.
fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
