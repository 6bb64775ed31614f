//! Doorbells of devices: writes of the guest that KVM turns into a wake-up, without an exit to user space.
//!
//! Source: KVM API KVM_IOEVENTFD.

use super::calls::KvmFd;
use crate::bus::bus::lock;
use crate::event_loop::{Doorbells, Waker};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::EventFd;

/// The doorbells of one device.
pub struct KvmDoorbells {
    pub(super) vm: Arc<KvmFd<VmFd>>,
    pub(super) armed: Mutex<Vec<Armed>>,
}

/// A doorbell that KVM knows.
pub(super) struct Armed {
    address: u64,
    value: Option<u32>,
    kick: EventFd,
}

impl Doorbells for KvmDoorbells {
    fn arm(&self, address: u64, value: Option<u32>, kick: &Waker) {
        let Ok(kick) = kick.fd().try_clone_to_owned() else { return };
        // SAFETY: the descriptor is an eventfd, just duplicated, and given away here.
        let kick = unsafe { EventFd::from_raw_fd(kick.into_raw_fd()) };
        let place = IoEventAddress::Mmio(address);
        // Where KVM refuses, the write exits, and the transport's register does the same.
        let result = self.vm.call("KVM_IOEVENTFD", format_args!("{address:#x}, value {value:?}"), |fd| match value {
            Some(value) => fd.register_ioevent(&kick, &place, value),
            None => fd.register_ioevent(&kick, &place, NoDatamatch),
        });
        if result.is_ok() {
            lock(&self.armed).push(Armed { address, value, kick });
        }
    }

    fn disarm(&self) {
        for Armed { address, value, kick } in std::mem::take(&mut *lock(&self.armed)) {
            let place = IoEventAddress::Mmio(address);
            // It was registered with the same words.
            let _ = self.vm.call("KVM_IOEVENTFD", format_args!("{address:#x}, no more"), |fd| match value {
                Some(value) => fd.unregister_ioevent(&kick, &place, value),
                None => fd.unregister_ioevent(&kick, &place, NoDatamatch),
            });
        }
    }
}
