//! What a Linux guest finds as its initrd: the user's file, or the embedded initramfs with the modules that drive the machine's
//! virtio devices.
//!
//! A kernel of a distribution has those drivers as modules. They are looked for where its packages put them, by its version.

use super::{root, virtio};
use crate::boot::error::{BootError, Problem};
use crate::boot::image::Image;
use crate::boot::initramfs::{self, INITRAMFS};
use crate::boot::kernel::Kernel;
use crate::boot::modules::{self, Module, ModuleDirectory, ModuleError};
use crate::config::{RunConfig, TransportChoice};
use std::path::{Path, PathBuf};

/// What is loaded as the initrd, and what is to be told of it.
#[derive(Default)]
pub struct Initrd {
    /// The file; `None` for none.
    pub image: Option<Image<'static>>,
    /// Modules in it that are loaded, in order.
    pub modules: Vec<String>,
    /// What is run with `--root`, in words.
    pub command: Option<String>,
    /// Where they come from.
    pub from: Option<PathBuf>,
    /// What the user should know: modules that are not there.
    pub warning: Option<String>,
}

/// An initrd that cannot be had.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each names its source")]
pub enum InitrdError {
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Module(#[from] ModuleError),
}

/// The initrd that `config` asks for.
///
/// # Errors
/// A file cannot be read.
pub fn initrd(config: &RunConfig, kernel: &Kernel, image: &Image) -> Result<Initrd, InitrdError> {
    if let Some(path) = &config.boot.initrd {
        return Ok(Initrd { image: Some(Image::open(path)?), ..Initrd::default() });
    }
    if config.root.is_some() && !kernel.is_linux() {
        return Err(Problem::NoPlaceFor { format: kernel.format(), what: "--root" }.of(kernel.name()).into());
    }
    if !kernel.is_linux() || config.boot.no_initrd {
        return Ok(Initrd::default());
    }
    let mut initrd = Initrd::default();
    let drivers = drivers(config);
    let modules = if drivers.is_empty() { Vec::new() } else { initrd.find_modules(config, image, &drivers)? };
    initrd.modules = modules.iter().map(|module| module.name.clone()).collect();
    let name = "the embedded initramfs";
    initrd.image = Some(match &config.root {
        None if modules.is_empty() => Image::from_bytes(name, INITRAMFS),
        None => Image::from_vec(name, initramfs::with(&modules, &[], &[])),
        Some(choice) => {
            let files = root::files(choice, config, image.name());
            initrd.command = Some(root::describe(choice, config));
            Image::from_vec(name, initramfs::with(&modules, &root::DIRECTORIES, &files))
        }
    });
    Ok(initrd)
}

impl Initrd {
    /// The modules of `drivers`, as far as they are found.
    fn find_modules(
        &mut self,
        config: &RunConfig,
        image: &Image,
        drivers: &[&str],
    ) -> Result<Vec<Module>, InitrdError> {
        let wanted = drivers.join(", ");
        let Some(version) = modules::version(image).map_err(|problem| problem.of(image.name()))? else {
            self.warning = Some(format!("{} does not tell its version: no modules for {wanted}", image.name()));
            return Ok(Vec::new());
        };
        let places = places(config, &version);
        let root = config.root.as_ref().map(|root| root.path.as_path());
        let Some(directory) = ModuleDirectory::find(&places, root) else {
            let looked = places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ");
            self.warning = Some(format!(
                "no modules of Linux {version}: the guest has {wanted} only if they are built in. Looked in {looked}; \
                 --modules DIR names another place"
            ));
            return Ok(Vec::new());
        };
        let (found, missing) = directory.collect(drivers)?;
        if !missing.is_empty() {
            let path = directory.path().display();
            self.warning = Some(format!("{path} has no modules {}: the guest lacks those drivers", missing.join(", ")));
        }
        self.from = Some(directory.path().to_owned());
        Ok(found)
    }
}

/// Modules that drive the virtio devices of a machine.
fn drivers(config: &RunConfig) -> Vec<&'static str> {
    let mut drivers: Vec<_> = virtio::names(&config.devices).into_iter().map(|(name, _)| driver(name)).collect();
    if !drivers.is_empty() {
        drivers.insert(0, if config.devices.transport == TransportChoice::Pci { "virtio_pci" } else { "virtio_mmio" });
    }
    drivers.dedup();
    drivers.extend(config.root.as_ref().filter(|root| !root.writes).map(|_| "overlay"));
    drivers
}

/// Linux' name of the driver of a device; mostly it is the device's own.
fn driver(device: &'static str) -> &'static str {
    match device {
        "virtio-fs" => "virtiofs",
        "virtio-vsock" => "vmw_vsock_virtio_transport",
        name => name,
    }
}

/// Where the modules of Linux `version` may be, the likeliest first.
fn places(config: &RunConfig, version: &str) -> Vec<PathBuf> {
    let below = |root: &Path| ["lib/modules", "usr/lib/modules"].map(|modules| root.join(modules).join(version));
    if let Some(directory) = &config.boot.modules {
        return [directory.clone(), directory.join(version)].into_iter().chain(below(directory)).collect();
    }
    // Not those of an archive: its links could make any file of the host a module.
    let root = config.root.iter().filter(|root| root.packed.is_none());
    let mut places: Vec<_> = root.flat_map(|root| below(&root.path)).collect();
    let image = config.image.as_deref().and_then(|image| std::path::absolute(image).ok());
    let beside = image.as_deref().and_then(Path::parent);
    // Some distributions keep the image itself among its modules.
    places.extend(beside.filter(|place| place.ends_with(version)).map(Path::to_owned));
    // Beside it, and beside the `boot` that it is in.
    places.extend([beside, beside.and_then(Path::parent)].into_iter().flatten().flat_map(below));
    places.extend(below(Path::new("/")));
    let mut seen = std::collections::BTreeSet::new();
    places.retain(|place| seen.insert(place.clone()));
    places
}
