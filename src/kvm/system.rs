//! `/dev/kvm` itself: opening it, what it supports, and what to do when it is not there.
//!
//! Source: KVM API §4.1 to §4.5.

use crate::arch::cpuid::CpuidLeaf;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use std::io;

/// Where KVM is found.
pub const DEVICE: &str = "/dev/kvm";

/// The only version of the KVM API that exists (KVM API §4.1).
const API_VERSION: i32 = 12;

/// The host's KVM, opened.
pub struct System {
    pub(super) fd: kvm_ioctls::Kvm,
}

/// What can fail before and while a machine is set up.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// No device node.
    #[error(
        "open /dev/kvm: it does not exist. The processor's virtualization is off or not passed to this machine, or the \
         module is missing: try `modprobe kvm_intel` or `modprobe kvm_amd`, look into the firmware's settings, or enable \
         nested virtualization on the outer host; `hostel doctor` tells more"
    )]
    Missing,
    /// No permission.
    #[error(
        "open /dev/kvm: permission denied. Add your user to its group (`sudo usermod -aG kvm $USER`, then log in again), or \
         install the udev rule KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0666\"; `hostel doctor` tells more"
    )]
    Forbidden,
    /// Any other failure to open it.
    #[error("open /dev/kvm: {0}")]
    Open(io::Error),
    /// Not the API this program was written for.
    #[error("/dev/kvm speaks API version {0}, not 12: is it KVM?")]
    Version(i32),
    /// A call that KVM refused.
    #[error("{what}: {source}")]
    Call {
        /// The call, by its KVM name, and on what.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// More vCPUs than this KVM allows.
    #[error("{wanted} vCPUs: this host's KVM allows {max}")]
    TooManyCpus {
        /// vCPUs asked for.
        wanted: u32,
        /// vCPUs possible.
        max: usize,
    },
}

/// Makes a [`KvmError::Call`] of an error of `kvm-ioctls`.
pub(super) fn call(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |error| KvmError::Call { what, source: io::Error::from_raw_os_error(error.errno()) }
}

impl System {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// It is missing, forbidden, or not KVM.
    pub fn open() -> Result<System, KvmError> {
        let fd = kvm_ioctls::Kvm::new().map_err(|error| {
            let source = io::Error::from_raw_os_error(error.errno());
            match source.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => KvmError::Missing,
                Some(libc::EACCES | libc::EPERM) => KvmError::Forbidden,
                _ => KvmError::Open(source),
            }
        })?;
        match fd.get_api_version() {
            API_VERSION => Ok(System { fd }),
            other => Err(KvmError::Version(other)),
        }
    }

    /// The CPUID leaves that this KVM can give a guest.
    ///
    /// # Errors
    /// KVM refuses to tell.
    pub fn supported_cpuid(&self) -> Result<Vec<CpuidLeaf>, KvmError> {
        let cpuid = self.fd.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(call("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(cpuid.as_slice().iter().map(leaf).collect())
    }

    /// Value of a capability by its number, as KVM_CHECK_EXTENSION gives it: 0 where it is missing.
    pub fn capability(&self, number: u32) -> i32 {
        self.fd.check_extension_raw(number.into())
    }

    /// vCPUs that one machine can have.
    pub fn max_cpus(&self) -> usize {
        self.fd.get_max_vcpus()
    }
}

/// KVM_CPUID_FLAG_SIGNIFCANT_INDEX: the leaf depends on ECX.
const SIGNIFICANT_INDEX: u32 = 1;

fn leaf(entry: &kvm_cpuid_entry2) -> CpuidLeaf {
    CpuidLeaf {
        function: entry.function,
        index: entry.index,
        has_index: entry.flags & SIGNIFICANT_INDEX != 0,
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
    }
}

/// The leaves in KVM's form.
pub(super) fn cpuid(leaves: &[CpuidLeaf]) -> CpuId {
    let entries: Vec<_> = leaves
        .iter()
        .map(|leaf| kvm_cpuid_entry2 {
            function: leaf.function,
            index: leaf.index,
            flags: if leaf.has_index { SIGNIFICANT_INDEX } else { 0 },
            eax: leaf.eax,
            ebx: leaf.ebx,
            ecx: leaf.ecx,
            edx: leaf.edx,
            ..kvm_cpuid_entry2::default()
        })
        .collect();
    CpuId::from_entries(&entries).expect("KVM gave no more leaves than it takes")
}
