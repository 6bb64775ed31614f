//! Interrupts into KVM: wires of the full irqchip, messages of the split one.
//!
//! Source: KVM API KVM_IRQ_LINE, KVM_SIGNAL_MSI, KVM_SET_GSI_ROUTING.

use super::calls::KvmFd;
use crate::bus::irq::{IrqLine, Msi, MsiSink};
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi, kvm_irq_routing_msi__bindgen_ty_1, kvm_msi,
};
use kvm_ioctls::VmFd;
use std::sync::Arc;

/// An input of the in-kernel PIC and IOAPIC.
pub struct KvmLine {
    pub(super) vm: Arc<KvmFd<VmFd>>,
    pub(super) gsi: u32,
}

impl IrqLine for KvmLine {
    fn set_level(&self, high: bool) {
        // The only failures are of set-up (no irqchip, no such input), which `Vm::line` rules out.
        let (gsi, level) = (self.gsi, if high { "high" } else { "low" });
        let _ = self.vm.call("KVM_IRQ_LINE", format_args!("input {gsi} {level}"), |fd| fd.set_irq_line(gsi, high));
    }
}

/// The in-kernel LAPICs, as receivers of messages.
pub struct KvmMsiSink {
    pub(super) vm: Arc<KvmFd<VmFd>>,
}

impl MsiSink for KvmMsiSink {
    fn send(&self, msi: Msi) {
        let message = kvm_msi {
            address_lo: msi.address as u32,
            address_hi: (msi.address >> 32) as u32,
            data: msi.data,
            ..kvm_msi::default()
        };
        // A message to a LAPIC that does not exist or is off is lost, as on hardware.
        let words = format_args!("{:#x} to {:#x}", msi.data, msi.address);
        let _ = self.vm.call("KVM_SIGNAL_MSI", words, |fd| fd.signal_msi(message));
    }

    fn watch_level_inputs(&self, routes: &[Option<Msi>]) {
        let entries: Vec<_> = (0u32..)
            .zip(routes)
            .filter_map(|(gsi, route)| {
                let msi = (*route)?;
                Some(kvm_irq_routing_entry {
                    gsi,
                    type_: KVM_IRQ_ROUTING_MSI,
                    u: kvm_irq_routing_entry__bindgen_ty_1 {
                        msi: kvm_irq_routing_msi {
                            address_lo: msi.address as u32,
                            address_hi: (msi.address >> 32) as u32,
                            data: msi.data,
                            __bindgen_anon_1: kvm_irq_routing_msi__bindgen_ty_1 { pad: 0 },
                        },
                    },
                    ..kvm_irq_routing_entry::default()
                })
            })
            .collect();
        let Ok(table) = KvmIrqRouting::from_entries(&entries) else { return };
        // KVM refuses only tables that are too long; the IOAPIC has 24 inputs.
        let words = format_args!("{} inputs as messages", entries.len());
        let _ = self.vm.call("KVM_SET_GSI_ROUTING", words, |fd| fd.set_gsi_routing(&table));
    }
}
