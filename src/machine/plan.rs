//! What `--dry-run` prints: the machine as it would start.

use super::build::Blueprint;
use crate::memory::map::RANGE_RAM;
use std::fmt::{Display, Formatter, Result};

impl Display for Blueprint {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "image      {}: {}", self.name, self.how)?;
        writeln!(f, "machine    {} vCPU(s), {} MiB RAM, irqchip {}", self.cpus, self.map.size() >> 20, self.irqchip)?;
        let cmdline = if self.cmdline.is_empty() { "(none)" } else { &self.cmdline };
        writeln!(f, "cmdline    {cmdline}")?;
        writeln!(f, "\nmemory map, as the guest is told")?;
        for entry in self.map.entries() {
            let kind = if entry.kind == RANGE_RAM { "RAM" } else { "reserved" };
            row(f, entry.range.start, entry.range.size, kind)?;
        }
        writeln!(f, "\nloaded")?;
        for segment in &self.loaded.segments {
            row(f, segment.range.start, segment.range.size, &segment.what)?;
        }
        if let Some(command) = &self.initrd.command {
            writeln!(f, "\ncommand\n  {command}")?;
        }
        if let Some(from) = &self.initrd.from {
            writeln!(f, "\nmodules in the initramfs, from {}", from.display())?;
            writeln!(f, "  {}", self.initrd.modules.join(" "))?;
        }
        if !self.tables.is_empty() {
            writeln!(f, "\nACPI tables")?;
        }
        for table in &self.tables {
            row(f, table.address, table.bytes.len() as u64, table.name)?;
        }
        writeln!(f, "\ndevices")?;
        for node in &self.nodes {
            let place = match (node.ports, node.mmio) {
                (Some((first, 1)), _) => format!("port {first:#x}"),
                (Some((first, count)), _) => format!("ports {first:#x}-{:#x}", first + count - 1),
                (None, Some((base, size))) => format!("mmio {base:#x}-{:#x}", base + size - 1),
                (None, None) => String::new(),
            };
            let irq = node.irq.map_or(String::new(), |irq| format!("IRQ {irq}"));
            writeln!(f, "  {:12} {place:26} {irq:7} {}", node.name, node.what)?;
        }
        let state = &self.loaded.state;
        let regs = &state.regs;
        writeln!(f, "\nentry state of vCPU 0: {}-bit code", state.code_bits())?;
        writeln!(f, "  rip {:#x}  rsp {:#x}  rflags {:#x}", state.linear_rip(), regs.rsp, regs.rflags)?;
        writeln!(f, "  rax {:#x}  rbx {:#x}  rsi {:#x}  rdi {:#x}", regs.rax, regs.rbx, regs.rsi, regs.rdi)?;
        writeln!(f, "  cr0 {:#x}  cr3 {:#x}  cr4 {:#x}  efer {:#x}", state.cr0, state.cr3, state.cr4, state.efer)?;
        for id in 1..self.cpus {
            writeln!(f, "vCPU {id} waits for INIT and SIPI")?;
        }
        Ok(())
    }
}

/// A range of guest-physical memory and what it is.
fn row(f: &mut Formatter<'_>, start: u64, size: u64, what: &str) -> Result {
    writeln!(f, "  {start:#012x}-{:#012x} {:>10} {what}", start + size - 1, bytes(size))
}

/// A size as a person reads it.
fn bytes(size: u64) -> String {
    match size {
        0..0x2800 => format!("{size} B"),
        0x2800..0xa0_0000 => format!("{} KiB", size >> 10),
        _ => format!("{} MiB", size >> 20),
    }
}
