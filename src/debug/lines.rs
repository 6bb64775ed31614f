//! A trace as lines of text, one an exit: when, on which vCPU, why, where, with which value, after how long in the guest,
//! answered in how long, and by which instruction.
//!
//! Runs of like exits are one line (`fold.rs`). Lines are written whole, so they do not tear on a terminal that shows the
//! guest's console too.

use super::columns::Columns;
use super::event::{ExitEvent, ExitKind};
use super::explain::first_seen::FirstSeen;
use super::filter::Filter;
use super::fold::{Fold, Folding, Run};
use super::sink::{TraceEnd, TraceSink, Traced, Verdict};
use crate::arch::msr;
use crate::kvm::exit::{Exit, Reply};
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// How long a run of like exits may wait for the next one before it is shown.
const RUN_SHOWN_AFTER: Duration = Duration::from_millis(500);

/// Characters of a run that are shown: what the FIFO of a serial port takes at once (PC16550D §8.4).
const CHARACTERS_SHOWN: usize = 16;

/// What stands above the columns.
const HEADER: &str =
    "  time ms cpu exit       B where                    value               guest µs host µs  instruction";
/// Where the columns begin that follow the first.
const EXIT: usize = 14;
const SIZE: usize = 25;
const WHERE: usize = 27;
const VALUE: usize = 52;
const INSTRUCTION: usize = 90;
/// Where the columns end that are aligned to the right.
const GUEST_END: usize = 80;
const HOST_END: usize = 88;

/// Writes lines.
pub struct Lines {
    out: Box<dyn Write + Send>,
    filter: Filter,
    fold: Fold,
    colour: bool,
    line: Columns,
    has_header: bool,
    /// Exits that do not pass.
    hidden: u64,
    explained: Option<FirstSeen>,
    quiet_since: Option<Instant>,
}

impl Lines {
    /// Lines to `out` of the exits that pass `filter`; `colour` is for terminals.
    pub fn new(out: Box<dyn Write + Send>, filter: Filter, folding: Folding, colour: bool) -> Lines {
        let (fold, line) = (Fold::new(folding), Columns::default());
        Lines { out, filter, fold, colour, line, has_header: false, hidden: 0, explained: None, quiet_since: None }
    }

    /// Before the first line of each kind of exit, one that explains it.
    pub fn explaining(self) -> Lines {
        Lines { explained: Some(FirstSeen::default()), ..self }
    }

    fn show(&mut self, run: Option<Run>) -> io::Result<()> {
        let Some(run) = run else { return Ok(()) };
        if !self.has_header {
            self.has_header = true;
            self.out.write_all(format!("{HEADER}\n").as_bytes())?;
        }
        let kind = ExitKind::of(&run.event.exit);
        if let Some(line) = self.explained.as_mut().and_then(|explained| explained.line(kind)) {
            self.out.write_all(line.as_bytes())?;
        }
        write(&run, self.colour, &mut self.line).expect("a string takes everything");
        let out = &mut self.out;
        self.line.end(|line| out.write_all(line))
    }
}

impl TraceSink for Lines {
    fn exit(&mut self, exit: &Traced) -> io::Result<()> {
        if !self.filter.passes(exit.event) {
            self.hidden += 1;
            return Ok(());
        }
        self.quiet_since = None;
        let over = self.fold.take(exit);
        self.show(over)
    }

    fn pause(&mut self) -> io::Result<()> {
        if self.quiet_since.get_or_insert_with(Instant::now).elapsed() > RUN_SHOWN_AFTER {
            let last = self.fold.end();
            self.show(last)?;
        }
        self.out.flush()
    }

    fn finish(&mut self, end: &TraceEnd) -> io::Result<Verdict> {
        let last = self.fold.end();
        self.show(last)?;
        if self.hidden > 0 && !self.has_header {
            let note = format!("none of {} exits is one of those asked for\n", self.hidden);
            self.out.write_all(note.as_bytes())?;
        }
        if end.dropped > 0 {
            let note = format!("{} exits are missing here: the trace fell behind\n", end.dropped);
            self.out.write_all(note.as_bytes())?;
        }
        self.out.flush()?;
        Ok(Verdict::Fine)
    }
}

/// A run as a line. A field that is too wide for its column pushes those behind it, until one has room again.
fn write(run: &Run, colour: bool, line: &mut Columns) -> fmt::Result {
    let event = &run.event;
    let kind = ExitKind::of(&event.exit);
    let us = event.at_ns / 1_000;
    write!(line, "{:5}.{:03} {:3}", us / 1_000, us % 1_000, event.vcpu)?;
    line.begin(EXIT)?;
    line.painted(colour.then_some(paint(kind)), kind.name())?;
    if let Some(size) = size(&event.exit) {
        line.begin(SIZE)?;
        write!(line, "{size}")?;
    }
    line.begin(WHERE)?;
    place(event, line)?;
    if run.count > 1 {
        write!(line, " x {}", run.count)?;
    }
    line.begin(VALUE)?;
    value(run, line)?;
    line.microseconds(GUEST_END, event.guest_ns)?;
    line.microseconds(HOST_END, event.host_ns)?;
    line.begin(INSTRUCTION)?;
    instruction(run, line)
}

/// The colour of a kind: cyan and blue for ports, yellow and magenta for memory, red for what ends a guest, else green.
fn paint(kind: ExitKind) -> u8 {
    match kind {
        ExitKind::PioRead => 36,
        ExitKind::PioWrite => 34,
        ExitKind::MmioRead => 33,
        ExitKind::MmioWrite => 35,
        ExitKind::Shutdown | ExitKind::Failure => 31,
        _ => 32,
    }
}

/// Bytes of an access.
fn size(exit: &Exit) -> Option<u8> {
    match *exit {
        Exit::PioRead { size, .. } | Exit::PioWrite { size, .. } => Some(size),
        Exit::MmioRead { size, .. } | Exit::MmioWrite { size, .. } => Some(size),
        _ => None,
    }
}

/// Address and name: "0x3f8 COM1 THR"; what else tells an exit from others of its kind.
fn place(event: &ExitEvent, line: &mut Columns) -> fmt::Result {
    let address = match event.exit {
        Exit::PioRead { port, .. } | Exit::PioWrite { port, .. } => u64::from(port),
        Exit::MmioRead { addr, .. } | Exit::MmioWrite { addr, .. } => addr,
        Exit::IoapicEoi { vector } => return write!(line, "vector {vector:#x}"),
        Exit::Hypercall { number } => return write!(line, "number {number:#x}"),
        Exit::SystemEvent { kind } => return write!(line, "KVM_SYSTEM_EVENT {kind}"),
        Exit::Debug { dr6, .. } => return write!(line, "DR6 {dr6:#x}"),
        Exit::MsrRead { index, .. } | Exit::MsrWrite { index, .. } => {
            let name = msr::name(index).map_or_else(String::new, |name| format!(" {name}"));
            return write!(line, "MSR {index:#x}{name}");
        }
        _ => return line.write_str(&event.target()),
    };
    match event.register {
        Some(to) => write!(line, "{address:#x} {} {}", to.device, to.register),
        None => write!(line, "{address:#x}, no device"),
    }
}

/// What was read or written: in as many digits as bytes, a character beside it; of a run its text.
fn value(run: &Run, line: &mut Columns) -> fmt::Result {
    if run.count > 1 && !run.characters.is_empty() {
        return text(&run.characters, line);
    }
    let event = &run.event;
    if let Some(value) = event.value() {
        let width = 2 + 2 * usize::from(size(&event.exit).unwrap_or(0));
        write!(line, "{value:#0width$x}")?;
    }
    match run.characters.first() {
        Some(byte) => write!(line, " '{}'", byte.escape_ascii())?,
        None if !run.is_constant => line.write_str(" …")?,
        None => {}
    }
    match (event.reply, event.value()) {
        (Some(Reply::Fault), Some(_)) => line.write_str(" #GP"),
        (Some(Reply::Fault), None) => line.write_str("#GP"),
        _ => Ok(()),
    }
}

/// Characters in quotes, cut.
fn text(characters: &[u8], line: &mut Columns) -> fmt::Result {
    let shown = &characters[..characters.len().min(CHARACTERS_SHOWN)];
    let more = if shown.len() < characters.len() { "…" } else { "" };
    write!(line, "\"{}\"{more}", shown.escape_ascii())
}

/// "0x1000d4 write+0x44 out dx, al": of the symbol only what follows the modules that it is in.
fn instruction(run: &Run, line: &mut Columns) -> fmt::Result {
    if let Some(rip) = run.rip() {
        write!(line, "{rip:#x}")?;
    }
    if let Some(symbol) = &run.symbol {
        write!(line, " {}", without_modules(symbol))?;
    }
    match &run.instruction {
        Some(found) => write!(line, " {}", found.text),
        None => Ok(()),
    }
}

/// The last part of a Rust path that is a name.
fn without_modules(symbol: &str) -> &str {
    let start = symbol.trim_end_matches(|c: char| c != ':').strip_suffix("::").map_or(0, |modules| modules.len() + 2);
    if symbol[start..].starts_with('{') { symbol } else { &symbol[start..] }
}

#[cfg(test)]
mod tests {
    use super::super::event::{Code, DeviceRegister};
    use super::super::fixture::{event, serial};
    use super::super::locate::Located;
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            assert!(bytes.ends_with(b"\n"), "lines are written whole: {bytes:?}");
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(folding: Folding, colour: bool, exits: &[(ExitEvent, Option<Located>, Option<&str>)]) -> String {
        let page = Page::default();
        let mut lines = Lines::new(Box::new(page.clone()), Filter::default(), folding, colour);
        for (event, instruction, symbol) in exits {
            lines.exit(&Traced { event, instruction: instruction.as_ref(), symbol: *symbol }).unwrap();
        }
        lines.finish(&TraceEnd::default()).unwrap();
        let text = page.0.lock().unwrap().clone();
        String::from_utf8(text).unwrap()
    }

    fn out() -> Option<Located> {
        let text = "out dx, al".to_owned();
        Some(Located { rip: 0x10_00d4, length: 1, text, passed: false, is_string: false })
    }

    fn all_kinds() -> Vec<(ExitEvent, Option<Located>, Option<&'static str>)> {
        let read = |exit, value| ExitEvent { reply: Some(Reply::Value(value)), ..event(exit) };
        let in_device =
            |event, device, register| ExitEvent { register: Some(DeviceRegister { device, register }), ..event };
        let code = Some(Code { rip: 0x7c00, bits: 16, dx: 0, bytes: [0; 32], before: 0, after: 0 });
        let msr =
            ExitEvent { reply: Some(Reply::Fault), ..event(Exit::MsrRead { index: 0x1234_5678, filtered: false }) };
        vec![
            (serial(b'H'), out(), Some("guest::serial::write+0x44")),
            (serial(b'\n'), out(), None),
            (in_device(read(Exit::PioRead { port: 0x3fd, size: 1 }, 0x60), "COM1", "LSR"), None, None),
            (read(Exit::PioRead { port: 0x1234, size: 4 }, 0xffff_ffff), None, None),
            (
                in_device(event(Exit::MmioWrite { addr: 0xfec0_0010, size: 4, value: 0x1_0000 }), "IOAPIC", "IOWIN"),
                None,
                None,
            ),
            (msr, None, None),
            (event(Exit::IoapicEoi { vector: 0x31 }), None, None),
            (ExitEvent { guest_ns: 3_000_000_000, code, reply: None, ..event(Exit::Halt) }, None, None),
        ]
    }

    #[test]
    fn each_exit_is_a_line_in_columns() {
        let expected = "
  time ms cpu exit       B where                    value               guest µs host µs  instruction
   12.500   0 pio-write  1 0x3f8 COM1 THR           0x48 'H'                 2.0     0.5  0x1000d4 write+0x44 out dx, al
   12.500   0 pio-write  1 0x3f8 COM1 THR           0x0a '\\n'                2.0     0.5  0x1000d4 out dx, al
   12.500   0 pio-read   1 0x3fd COM1 LSR           0x60                     2.0     0.5
   12.500   0 pio-read   4 0x1234, no device        0xffffffff               2.0     0.5
   12.500   0 mmio-write 4 0xfec00010 IOAPIC IOWIN  0x00010000               2.0     0.5
   12.500   0 msr-read     MSR 0x12345678           #GP                      2.0     0.5
   12.500   0 eoi          vector 0x31                                       2.0     0.5
   12.500   0 hlt                                                      3000000.0     0.5  0x7c00
";
        assert_eq!(lines(Folding::Nothing, false, &all_kinds()), expected.trim_start_matches('\n'));
        assert!(expected.lines().all(|line| line.chars().count() <= 120));
    }

    #[test]
    fn a_run_is_one_line_with_its_text_and_the_sum_of_its_times() {
        let text = b"Hello from a guest";
        let mut exits: Vec<_> = text.map(|byte| (serial(byte), out(), None)).into();
        for value in [7, 7, 8] {
            exits.push((event(Exit::PioWrite { port: 0x80, size: 2, value }), None, None));
        }
        let expected = "
   12.500   0 pio-write  1 0x3f8 COM1 THR x 18      \"Hello from a gue\"…     36.0     9.0  0x1000d4 out dx, al
   12.500   0 pio-write  2 0x80, no device x 3      0x0007 …                 6.0     1.5
";
        assert_eq!(lines(Folding::Like, false, &exits), format!("{HEADER}{expected}"));
        assert_eq!(lines(Folding::Nothing, false, &exits).lines().count(), 1 + 18 + 3);
    }

    #[test]
    fn colour_changes_no_column_and_a_fault_of_the_guest_reaches_no_terminal() {
        let plain = lines(Folding::Nothing, false, &all_kinds());
        let coloured = lines(Folding::Nothing, true, &all_kinds());
        assert!(coloured.contains("   0 \x1b[34mpio-write\x1b[0m  1 0x3f8"));
        let stripped: String = coloured
            .split("\x1b[")
            .map(|part| {
                part.split_once('m')
                    .map_or(part, |(code, rest)| if code.chars().all(|c| c.is_ascii_digit()) { rest } else { part })
            })
            .collect();
        assert_eq!(stripped, plain);
        let escape = [(serial(0x1b), None, None), (serial(b'['), None, None)];
        assert!(!lines(Folding::Like, false, &escape).contains('\x1b'));
    }

    #[test]
    fn each_kind_is_explained_before_its_first_line() {
        let page = Page::default();
        let filter = Filter::default();
        let mut lines = Lines::new(Box::new(page.clone()), filter, Folding::Nothing, false).explaining();
        for event in [serial(b'a'), serial(b'b'), event(Exit::Halt)] {
            lines.exit(&Traced { event: &event, instruction: None, symbol: None }).unwrap();
        }
        lines.finish(&TraceEnd::default()).unwrap();
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        let explained: Vec<_> = text.lines().map(|line| line.starts_with("explain: ")).collect();
        assert_eq!(explained, [false, true, false, false, true, false], "{text}");
    }

    #[test]
    fn what_is_missing_is_said() {
        let page = Page::default();
        let mut lines = Lines::new(Box::new(page.clone()), Filter::default(), Folding::Like, false);
        lines.finish(&TraceEnd { dropped: 3, ..TraceEnd::default() }).unwrap();
        assert_eq!(*page.0.lock().unwrap(), b"3 exits are missing here: the trace fell behind\n");
    }

    #[test]
    fn symbols_are_shown_without_their_modules() {
        assert_eq!(without_modules("guest::serial::write+0x44"), "write+0x44");
        assert_eq!(without_modules("early_printk"), "early_printk");
        assert_eq!(without_modules("a::b::{{closure}}+0x1"), "a::b::{{closure}}+0x1");
        assert_eq!(without_modules(""), "");
    }
}
