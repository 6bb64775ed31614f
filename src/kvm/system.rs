//! `/dev/kvm` itself: opening it, what it supports, and what to do when it is not there.
//!
//! Source: KVM API §4.1 to §4.5.

use super::calls::{KvmFd, Watch};
use crate::arch::cpuid::CpuidLeaf;
use kvm_bindings::{
    CpuId, KVM_CAP_MAX_VCPUS, KVM_CAP_SET_GUEST_DEBUG2, KVM_CAP_SYNC_REGS, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use std::io;

/// Where KVM is found.
pub const DEVICE: &str = "/dev/kvm";

/// The only version of the KVM API that exists (KVM API §4.1).
const API_VERSION: i32 = 12;

/// The host's KVM, opened.
pub struct System {
    pub(super) fd: KvmFd<kvm_ioctls::Kvm>,
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
    /// Not the API this program was written for.
    #[error("/dev/kvm speaks API version {0}, not 12: is it KVM?")]
    Version(i32),
    /// A call that KVM refused.
    #[error("{name}{}{arguments}: {source}", if .arguments.is_empty() { "" } else { " " })]
    Call {
        /// Its KVM name.
        name: &'static str,
        /// Its arguments in words.
        arguments: String,
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

impl KvmError {
    /// Number of the error with which a call was refused.
    pub(super) fn errno(&self) -> Option<i32> {
        match self {
            KvmError::Call { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

impl System {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// It is missing, forbidden, or not KVM.
    pub fn open() -> Result<System, KvmError> {
        System::open_watched(None)
    }

    /// Opens `/dev/kvm`; `watch` is told each call on it and on what is made of it.
    ///
    /// # Errors
    /// It is missing, forbidden, or not KVM.
    pub fn open_watched(watch: Watch) -> Result<System, KvmError> {
        let fd = KvmFd::open(watch).map_err(|error| match error.errno() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => KvmError::Missing,
            Some(libc::EACCES | libc::EPERM) => KvmError::Forbidden,
            _ => error,
        })?;
        match fd.call("KVM_GET_API_VERSION", format_args!(""), |fd| Ok(fd.get_api_version()))? {
            API_VERSION => Ok(System { fd }),
            other => Err(KvmError::Version(other)),
        }
    }

    /// The CPUID leaves that this KVM can give a guest.
    ///
    /// # Errors
    /// KVM refuses to tell.
    pub fn supported_cpuid(&self) -> Result<Vec<CpuidLeaf>, KvmError> {
        let room = KVM_MAX_CPUID_ENTRIES;
        let cpuid = self.fd.call("KVM_GET_SUPPORTED_CPUID", format_args!(""), |fd| fd.get_supported_cpuid(room))?;
        Ok(cpuid.as_slice().iter().map(leaf).collect())
    }

    /// Value of a capability by its number, as KVM_CHECK_EXTENSION gives it: 0 where it is missing.
    pub fn capability(&self, number: u32) -> i32 {
        let name = match number {
            KVM_CAP_MAX_VCPUS => "KVM_CAP_MAX_VCPUS",
            KVM_CAP_SET_GUEST_DEBUG2 => "KVM_CAP_SET_GUEST_DEBUG2",
            KVM_CAP_SYNC_REGS => "KVM_CAP_SYNC_REGS",
            _ => "capability",
        };
        let check = |fd: &kvm_ioctls::Kvm| Ok(fd.check_extension_raw(number.into()));
        self.fd.call("KVM_CHECK_EXTENSION", format_args!("{name} ({number})"), check).unwrap_or(0)
    }

    /// vCPUs that one machine can have.
    pub fn max_cpus(&self) -> usize {
        usize::try_from(self.capability(KVM_CAP_MAX_VCPUS)).unwrap_or(0)
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
