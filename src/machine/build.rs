//! From a configuration to a machine that stands ready: first everything that needs no KVM ([`prepare`], which is all that
//! `--dry-run` does), then the calls that make it a virtual machine ([`Blueprint::build`]).

use super::devices::{self, Host, Wired};
use super::initramfs::{self, Initrd, InitrdError};
use super::io::MachineIo;
use super::notices::{Note, Notices};
use super::phases::now_us;
use crate::arch::cpuid;
use crate::arch::irqchip::Irqchip;
use crate::arch::layout::{ACPI_TABLES, HUGE_PAGE};
use crate::backend::kernel_cache::{KernelCache, StoreJob};
use crate::boot::acpi::{self, AcpiTable};
use crate::boot::cmdline::Words;
use crate::boot::error::{BootError, Problem};
use crate::boot::format::ImageFormat;
use crate::boot::image::Image;
use crate::boot::kernel::{Kernel, Unpack};
use crate::boot::load::{self, BootRequest, Loaded, Pages};
use crate::boot::reset_vector;
use crate::boot::samples::{self, Sample};
use crate::bus::bus::Shared;
use crate::bus::device::DeviceNode;
use crate::config::{DevicesConfig, OnPanic, RunConfig};
use crate::devices::acpi_pm::AcpiPm;
use crate::devices::serial::Serial;
use crate::kvm::calls::Watch;
use crate::kvm::msr_filter::MsrFilter;
use crate::kvm::nested;
use crate::kvm::system::{KvmError, System};
use crate::kvm::vcpu::Vcpu;
use crate::kvm::vm::Vm;
use crate::memory::map::MemoryMap;
use crate::memory::ram::{GuestRam, RamError};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The sample guest that runs when no image is named.
const DEFAULT_SAMPLE: &str = "shell";

/// IA32_MTRR_DEF_TYPE (Intel SDM vol. 3A §12.11.2.1).
const MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs enabled, memory is write-back unless told otherwise: what firmware leaves behind.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// A machine whose memory is written and whose parts are decided, before KVM knows of it.
pub struct Blueprint {
    /// Name of the image, for messages.
    pub name: String,
    /// What the image is and how it is entered, in words.
    pub how: String,
    /// Whether the guest is a Linux kernel.
    pub is_linux: bool,
    /// vCPUs.
    pub cpus: u32,
    /// Interrupt controllers.
    pub irqchip: Irqchip,
    /// Where RAM lies.
    pub map: MemoryMap,
    /// RAM, with everything in it.
    pub ram: Arc<GuestRam>,
    /// When it was mapped, as [`super::phases::Phases`] have it.
    pub ram_mapped_us: u64,
    /// What was written where, and the entry state.
    pub loaded: Loaded,
    /// The command line.
    pub cmdline: String,
    /// What is told of the initrd, which is in RAM.
    pub initrd: Initrd,
    /// Whether a panic of the guest's kernel ends the machine.
    pub ends_on_panic: bool,
    /// The ACPI tables; none on a machine without interrupt controllers, which they would describe.
    pub tables: Vec<AcpiTable>,
    /// The devices.
    pub nodes: Vec<DeviceNode>,
    /// What the machine has of the host.
    pub devices: DevicesConfig,
    /// What caches the kernel, when it was unpacked just now.
    pub store: Option<StoreJob>,
}

/// A machine that stands ready, its vCPUs not yet on threads.
pub struct Machine {
    /// The virtual machine; kept as long as the vCPUs.
    pub vm: Vm,
    /// The vCPUs, number 0 in its entry state.
    pub vcpus: Vec<Vcpu>,
    /// What answers their exits.
    pub io: Arc<MachineIo>,
    /// COM1, which the host feeds.
    pub serial: Shared<Serial>,
    /// The power button.
    pub acpi: Shared<AcpiPm>,
}

/// What is watched of the machine besides its exits.
#[derive(Default)]
pub struct Watched {
    /// Who is told the calls of KVM.
    pub calls: Watch,
    /// MSRs whose accesses exit.
    pub msrs: Option<MsrFilter>,
}

/// Why no machine could be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The image, its initrd or its command line.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// What is to be loaded as the initrd.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// Guest RAM.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The host's KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// What the virtio devices need of the host.
    #[error("set up the virtio devices: {0}")]
    Virtio(#[from] io::Error),
    /// Several vCPUs without LAPICs.
    #[error(
        "{0} vCPUs without interrupt controllers: nothing could start the others; use --irqchip split, or --cpus 1"
    )]
    NoStartup(u32),
}

/// The image that a user means by `name`: a sample guest or a file; the default sample without a name.
///
/// # Errors
/// There is none.
pub fn image(name: Option<&Path>) -> Result<Image<'static>, BootError> {
    match (sample(name), name) {
        (Some(sample), _) => Ok(Image::from_bytes(sample.name, sample.image)),
        (None, Some(path)) if is_bare_name(path) && !path.exists() => Err(no_such_guest(path)),
        (None, Some(path)) => Image::open(path),
        (None, None) => unreachable!("the default sample exists"),
    }
}

/// Finds the image, decides the machine and writes its memory.
///
/// # Errors
/// The image cannot be booted, or the host gives no memory.
pub fn prepare(config: &RunConfig) -> Result<Blueprint, BuildError> {
    prepare_image(config, sample(config.image.as_deref()), image(config.image.as_deref())?)
}

/// The same for an image that is there, which is that of `sample` if it is one's.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_image(config: &RunConfig, sample: Option<&Sample>, image: Image) -> Result<Blueprint, BuildError> {
    let in_guest = config.boot.no_host_decompress || config.boot.kaslr;
    let cache = KernelCache::of_user();
    let unpack = if in_guest { Unpack::InGuest } else { Unpack::OnHost { cache: cache.as_ref() } };
    let kernel = Kernel::identify(&image, config.boot.format.map(Into::into), unpack)?;
    if config.boot.kaslr && kernel.format() != ImageFormat::BzImage {
        return Err(Problem::NoPlaceFor { format: kernel.format(), what: "--kaslr" }.of(image.name()).into());
    }
    let irqchip = irqchip(config, sample, kernel.format());
    let cpus = config.machine.cpus.unwrap_or_else(|| sample.map_or(1, |sample| sample.cpus.into()));
    if cpus > 1 && irqchip == Irqchip::None {
        return Err(BuildError::NoStartup(cpus));
    }
    let map = config.machine.mem.clone();
    let ram = Arc::new(GuestRam::new(&map)?);
    let ram_mapped_us = now_us();
    let nodes = devices::nodes(irqchip, &config.devices);
    let tables = if irqchip == Irqchip::None { Vec::new() } else { acpi::tables(cpus, irqchip, &nodes) };
    for table in &tables {
        ram.write(table.address, &table.bytes)?;
    }
    if !tables.is_empty() {
        ram.write(reset_vector::RESET_VECTOR, &reset_vector::CODE)?;
    }
    let words = Words {
        linux: kernel.is_linux(),
        pci: nodes.iter().any(|node| node.name == "PCI"),
        virtio_console: config.devices.virtio_console,
        command: config.root.is_some(),
        linux_defaults: kernel.is_linux() && !config.boot.no_default_cmdline,
        user: &config.boot.cmdline,
        arguments: &config.args,
    };
    let cmdline = words.join();
    let mut initrd = initramfs::initrd(config, &kernel, &image)?;
    let initrd_image = initrd.image.take();
    let request = BootRequest {
        cmdline: &cmdline,
        initrd: initrd_image.as_ref(),
        rsdp: (!tables.is_empty()).then_some(ACPI_TABLES),
        load_address: config.boot.load_address.map(Into::into),
        // Mapped pages are small ones, and each costs an exit when the guest uses it first.
        pages: match kernel.is_cached() && !config.boot.share_pages && nested::is_nested() {
            true => Pages::Copied,
            false => Pages::Mapped,
        },
    };
    // The first write to a huge page zeroes all of it: less than that is written sooner into small pages.
    let loads_much = !kernel.is_cached()
        || request.pages == Pages::Copied
        || initrd_image.as_ref().is_some_and(|initrd| initrd.size() >= HUGE_PAGE);
    if kernel.is_linux() && loads_much {
        ram.advise_huge_pages();
    }
    let loaded = load::load(&kernel, &request, &ram, &map)?;
    // What the host moves to and from a disk goes by pages, and each costs: 256 small ones for 1 MiB.
    if kernel.is_linux() || !config.devices.disk.is_empty() {
        ram.advise_huge_pages();
    }
    let (how, is_linux) = (kernel.describe(), kernel.is_linux());
    let ends_on_panic = config.ends.on_panic == OnPanic::Exit;
    let store = cache.and_then(|cache| kernel.into_store_job(&cache));
    let name = image.name().into();
    let devices = config.devices.clone();
    Ok(Blueprint {
        name,
        how,
        is_linux,
        cpus,
        irqchip,
        map,
        ram,
        ram_mapped_us,
        loaded,
        cmdline,
        initrd,
        ends_on_panic,
        tables,
        nodes,
        devices,
        store,
    })
}

impl Blueprint {
    /// Makes the virtual machine. `host` is what its devices hold of the host; `note` is told sentences about the guest
    /// that the user should read, on a vCPU's thread; `watched` sees what it asks for.
    ///
    /// # Errors
    /// KVM is missing, forbidden, or refuses.
    pub fn build(&self, host: Host, note: Note, watched: Watched) -> Result<Machine, BuildError> {
        let system = System::open_watched(watched.calls)?;
        let most = system.max_cpus();
        if self.cpus as usize > most {
            return Err(KvmError::TooManyCpus { wanted: self.cpus, max: most }.into());
        }
        let vm = Vm::new(&system, self.irqchip, self.ram.clone())?;
        if let Some(msrs) = &watched.msrs {
            vm.filter_msrs(msrs)?;
        }
        let supported = system.supported_cpuid()?;
        let mut vcpus = Vec::with_capacity(self.cpus as usize);
        for id in 0..self.cpus {
            let vcpu = vm.create_vcpu(id)?;
            vcpu.set_cpuid(&cpuid::for_vcpu(&supported, id, self.cpus, self.irqchip))?;
            if self.is_linux {
                vcpu.set_msr(MTRR_DEF_TYPE, MTRR_WRITE_BACK)?;
            }
            vcpus.push(vcpu);
        }
        vcpus[0].set_state(&self.loaded.state)?;
        let Wired { ports, mmio, ioapic, requests, serial, acpi } =
            devices::wire(&vm, self.irqchip, &self.devices, host)?;
        let io = MachineIo {
            ports,
            mmio,
            ioapic,
            requests,
            exits: AtomicU64::new(0),
            ends_on_panic: self.ends_on_panic,
            notices: Notices::new(note),
        };
        Ok(Machine { vm, vcpus, io: Arc::new(io), serial, acpi })
    }
}

/// Whether it could be meant as the name of a sample guest.
fn is_bare_name(path: &Path) -> bool {
    path.components().count() == 1 && !path.is_absolute()
}

fn no_such_guest(name: &Path) -> BootError {
    Problem::NoSuchGuest.of(&name.display().to_string())
}

/// The sample guest that an image names; a file of that name is reached as `./NAME`.
fn sample(image: Option<&Path>) -> Option<&'static Sample> {
    match image {
        None => samples::find(DEFAULT_SAMPLE),
        Some(path) => path.to_str().and_then(samples::find),
    }
}

fn irqchip(config: &RunConfig, sample: Option<&Sample>, format: ImageFormat) -> Irqchip {
    match (config.machine.irqchip, sample, format) {
        (Some(choice), _, _) => choice.into(),
        (None, Some(sample), _) => sample.irqchip,
        (None, None, ImageFormat::Flat16 | ImageFormat::Multiboot) => Irqchip::Full,
        (None, None, _) => Irqchip::Split,
    }
}
