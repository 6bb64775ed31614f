//! A trace as lines of text, one an exit: when, on which vCPU, what, on which register, with which value, at which instruction,
//! after how long in the guest, answered in how long.

use super::event::ExitKind;
use super::sink::{TraceEnd, TraceSink, Traced, Verdict};
use crate::kvm::exit::Exit;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Writes lines.
pub struct Lines {
    out: Box<dyn Write + Send>,
    line: String,
}

impl Lines {
    /// Lines to `out`.
    pub fn new(out: Box<dyn Write + Send>) -> Lines {
        Lines { out, line: String::new() }
    }
}

impl TraceSink for Lines {
    fn exit(&mut self, exit: &Traced) -> io::Result<()> {
        self.line.clear();
        format(&mut self.line, exit);
        self.out.write_all(self.line.as_bytes())
    }

    fn pause(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn finish(&mut self, end: &TraceEnd) -> io::Result<Verdict> {
        if end.dropped > 0 {
            writeln!(self.out, "{} exits are missing here: the trace fell behind", end.dropped)?;
        }
        self.out.flush()?;
        Ok(Verdict::Fine)
    }
}

fn format(line: &mut String, traced: &Traced) {
    let event = traced.event;
    let target = event.target();
    let size = match event.exit {
        Exit::PioRead { size, .. } | Exit::PioWrite { size, .. } => size,
        Exit::MmioRead { size, .. } | Exit::MmioWrite { size, .. } => size,
        _ => 8,
    };
    let width = 2 + 2 * usize::from(size);
    let value = event.value().map_or(String::new(), |value| format!("{value:#0width$x}"));
    let instruction = traced.instruction.map_or("", |found| found.text.as_str());
    let rip = traced.instruction.map(|found| found.rip).or(event.code.map(|code| code.rip)).unwrap_or(0);
    writeln!(
        line,
        "{:12.6} vcpu{} {:11} {target:20} {value:10} {rip:#x} {} {instruction} guest {} ns host {} ns",
        event.at_ns as f64 / 1e9,
        event.vcpu,
        ExitKind::of(&event.exit).name(),
        traced.symbol.unwrap_or(""),
        event.guest_ns,
        event.host_ns,
    )
    .expect("strings take all");
}
