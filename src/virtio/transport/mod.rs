//! Registers by which a driver reaches a virtio device: over PCI, and over plain memory.

mod halves;
pub mod mmio;
pub mod pci;
#[cfg(test)]
mod test_wires;
