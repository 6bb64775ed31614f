//! The virtio devices of a machine: which ones its configuration asks for, where they stand, and how they are wired.

use crate::arch::irqchip::Irqchip;
use crate::arch::layout::{
    PCI_ECAM, PCI_WINDOW, PCI_WINDOW_SIZE, PORT_PCI, VIRTIO_MMIO, VIRTIO_MMIO_IRQ, VIRTIO_MMIO_MAX, VIRTIO_MMIO_STEP,
};
use crate::backend::balloon::BalloonControl;
use crate::backend::block::image::DiskError;
use crate::backend::net_passt::{self, PasstError};
use crate::backend::net_pcap::{Capture, Captured};
use crate::backend::net_port::NetPort;
use crate::backend::net_switch::{self, SwitchError};
use crate::backend::net_tap::{NetTap, TapError};
use crate::backend::rate::Limiter;
use crate::backend::share::host::ShareError;
use crate::backend::socket_file::{SocketError, SocketFile};
use crate::backend::vsock::exchange::Exchange;
use crate::bus::bus::{Bus, Shared};
use crate::bus::device::DeviceNode;
use crate::bus::irq::IrqLine;
use crate::config::{DevicesConfig, NetChoice, NetKind, TransportChoice};
use crate::event_loop::Waker;
use crate::kvm::vm::Vm;
use crate::pci::root::{DEVICES, ECAM_SIZE, PciEcam, PciFunction, PciPorts, PciRoot, PciWindow};
use crate::virtio::balloon::Balloon;
use crate::virtio::blk::Blk;
use crate::virtio::device::{DeviceKind, VirtioDevice};
use crate::virtio::fs::Fs;
use crate::virtio::function::VirtioFunction;
use crate::virtio::net::{self, Net};
use crate::virtio::rng::Rng;
use crate::virtio::transport::mmio::{MmioTransport, WINDOW};
use crate::virtio::transport::pci::{BAR_SIZE, VirtioPci};
use crate::virtio::vsock::Vsock;
use crate::virtio::worker;
use sha2::{Digest, Sha256};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// The PCI host bridge; what is behind it is found by enumeration.
const PCI: DeviceNode = DeviceNode {
    name: "PCI",
    what: "host bridge, with the virtio devices behind it",
    ports: Some((PORT_PCI, 8)),
    mmio: Some((PCI_WINDOW, PCI_WINDOW_SIZE)),
    irq: None,
};

/// A device that cannot be had.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each names its source")]
pub enum DeviceError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Passt(#[from] PasstError),
    #[error(transparent)]
    Tap(#[from] TapError),
    #[error(transparent)]
    Switch(#[from] SwitchError),
    #[error(transparent)]
    Share(#[from] ShareError),
    #[error("create {}: {source}", path.display())]
    Capture { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("limit a network device: {0}")]
    Limiter(io::Error),
    #[error("watch the sockets behind {}: {source}", path.display())]
    Exchange { path: PathBuf, source: io::Error },
}

/// Devices that are open.
pub struct Opened {
    /// The devices, in the order of their places.
    pub devices: Vec<Box<dyn VirtioDevice>>,
    /// The name of the socket device's socket, which goes away with it: the devices themselves are left to the end of the process.
    pub socket: Option<SocketFile>,
}

/// Opens the devices that `config` asks for, in the order of their places, behind the console, which is the first. `name` is the
/// machine's, `cpus` the number of its vCPUs, `balloon` what its balloon is held by.
///
/// # Errors
/// The host refuses what is behind one of them.
pub fn open(
    config: &DevicesConfig,
    name: &str,
    cpus: u32,
    balloon: Option<&BalloonControl>,
) -> Result<Opened, DeviceError> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    if config.rng {
        devices.push(Box::new(Rng));
    }
    if let Some(control) = balloon {
        devices.push(Box::new(Balloon::new(control.clone())));
    }
    for (index, choice) in config.disk.iter().enumerate() {
        let id = choice.id.clone().unwrap_or_else(|| format!("disk{index}"));
        devices.push(Box::new(Blk::open(&choice.path, choice.options.clone(), &id, cpus)?));
    }
    let created =
        |path: &PathBuf| Capture::create(path).map_err(|source| DeviceError::Capture { path: path.clone(), source });
    let capture = config.pcap.as_ref().map(created).transpose()?;
    for (index, net) in config.net.iter().enumerate() {
        let mut port: Box<dyn NetPort> = match &net.kind {
            NetKind::User(forwards) => Box::new(net_passt::start(forwards)?),
            NetKind::Tap(interface) => Box::new(NetTap::open(interface)?),
            NetKind::Switch(name) => Box::new(net_switch::connect(name)?),
        };
        if let Some(capture) = &capture {
            port = Box::new(Captured::new(port, capture.clone()));
        }
        let limiter = Limiter::new(net.rates, net::LANES).map_err(DeviceError::Limiter)?;
        devices.push(Box::new(Net::new(address(net, name, index), port, limiter)));
    }
    let mut socket = None;
    if let Some(path) = &config.vsock {
        let (listener, file) = SocketFile::listen(path)?;
        let exchange = Exchange::new(listener, path);
        let exchange = exchange.map_err(|source| DeviceError::Exchange { path: path.clone(), source })?;
        devices.push(Box::new(Vsock::new(exchange)));
        socket = Some(file);
    }
    for (tag, share) in config.tags().zip(&config.share) {
        devices.push(Box::new(Fs::open(&share.path, &tag, share.rights.clone(), config.share.len())?));
    }
    Ok(Opened { devices, socket })
}

/// The address of network device number `index`: its own, or one that stays the same for machine `name`, locally administered and of
/// one device.
pub fn address(net: &NetChoice, name: &str, index: usize) -> [u8; 6] {
    if let Some(address) = net.mac {
        return address;
    }
    let hash = Sha256::digest(format!("{name} {index}"));
    [0x02, hash[0], hash[1], hash[2], hash[3], hash[4]]
}

/// Most devices that there is room for.
pub fn most(transport: TransportChoice) -> usize {
    match transport {
        TransportChoice::Pci => DEVICES - 1, // the bridge is one
        TransportChoice::Mmio => VIRTIO_MMIO_MAX,
    }
}

/// Names of the devices that `config` asks for, and what they are.
pub fn names(config: &DevicesConfig) -> Vec<(&'static str, &'static str)> {
    let mut names: Vec<_> = config.virtio_console.then_some(("virtio-console", "virtio console")).into_iter().collect();
    names.extend(config.rng.then_some(("virtio-rng", "virtio entropy device")));
    names.extend(config.balloon.map(|_| ("virtio-balloon", "virtio memory balloon")));
    names.extend(config.disk.iter().map(|_| ("virtio-blk", "virtio disk")));
    names.extend(config.net.iter().map(|_| ("virtio-net", "virtio network device")));
    names.extend(config.vsock.iter().map(|_| ("virtio-vsock", "virtio socket device")));
    names.extend(config.share.iter().map(|_| ("virtio-fs", "virtio shared directory")));
    names
}

/// What `--dry-run` and the ACPI tables list of them.
pub fn nodes(config: &DevicesConfig, irqchip: Irqchip) -> Vec<DeviceNode> {
    let names = names(config);
    if names.is_empty() {
        return Vec::new();
    }
    match config.transport {
        TransportChoice::Pci => vec![PCI],
        TransportChoice::Mmio => (0u32..)
            .zip(names)
            .map(|(index, (name, what))| DeviceNode {
                name,
                what,
                ports: None,
                mmio: Some((VIRTIO_MMIO + u64::from(index) * VIRTIO_MMIO_STEP, WINDOW)),
                irq: (irqchip != Irqchip::None).then_some(VIRTIO_MMIO_IRQ + index),
            })
            .collect(),
    }
}

/// Wires `devices` to `vm` and its buses, and starts the thread that runs them. `line` gives an input of the IOAPIC.
///
/// # Errors
/// The host gives no descriptor or thread.
pub fn wire(
    vm: &Vm,
    config: &DevicesConfig,
    devices: Vec<Box<dyn VirtioDevice>>,
    line: &dyn Fn(u32) -> Box<dyn IrqLine>,
    ports: &mut Bus,
    mmio: &mut Bus,
) -> io::Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let changed = Waker::new()?;
    let (mut functions, mut together) = (Vec::new(), Vec::new());
    for device in devices {
        // A share may wait for the host's files, which no other device is to feel.
        let alone = device.kind() == DeviceKind::FileSystem;
        let waker = if alone { Waker::new()? } else { changed.clone() };
        let function = shared(VirtioFunction::new(device, vm.ram().clone(), waker.clone())?);
        functions.push(function.clone());
        match alone {
            true => drop(worker::start("share", vec![function], waker)?),
            false => together.push(function),
        }
    }
    let free = "the place is kept free";
    match config.transport {
        TransportChoice::Pci => {
            let behind = (0u64..).zip(&functions).map(|(index, function)| {
                let bar = PCI_WINDOW + index * BAR_SIZE;
                let doorbells = Box::new(vm.doorbells());
                Box::new(VirtioPci::new(function.clone(), bar, Box::new(vm.msi_sink()), doorbells))
                    as Box<dyn PciFunction>
            });
            let root = shared(PciRoot::new(behind.collect()));
            ports.insert(PCI.name, PORT_PCI.into(), 8, shared(PciPorts(root.clone()))).expect(free);
            mmio.insert("PCI ECAM", PCI_ECAM, ECAM_SIZE, shared(PciEcam(root.clone()))).expect(free);
            let window = PciWindow { root, base: PCI_WINDOW };
            mmio.insert(PCI.name, PCI_WINDOW, PCI_WINDOW_SIZE, shared(window)).expect(free);
        }
        TransportChoice::Mmio => {
            for (index, function) in (0u32..).zip(&functions) {
                let base = VIRTIO_MMIO + u64::from(index) * VIRTIO_MMIO_STEP;
                let line = line(VIRTIO_MMIO_IRQ + index);
                let transport = MmioTransport::new(function.clone(), base, line, Box::new(vm.doorbells()));
                mmio.insert("virtio", base, WINDOW, shared(transport)).expect(free);
            }
        }
    }
    if !together.is_empty() {
        worker::start("devices", together, changed)?;
    }
    Ok(())
}

fn shared<D>(device: D) -> Shared<D> {
    Arc::new(Mutex::new(device))
}
