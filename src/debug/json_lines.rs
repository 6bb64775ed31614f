//! A trace as JSON, one object a line: each exit, and at last how the run ended.
//!
//! Fields of an exit; those that do not apply are left out. Times are nanoseconds since the program's begin; addresses and
//! values are strings in hexadecimal, for JSON's numbers are exact to 53 bits only.
//!
//! | field | |
//! |---|---|
//! | `at_ns`, `guest_ns`, `host_ns` | when the guest left, how long it had run, how long the answer took |
//! | `vcpu`, `exit` | which vCPU, and the kind of the exit as `--only` takes it |
//! | `port`, `address`, `msr`, `vector`, `number`, `dr6` | what it is about, by kind |
//! | `device`, `register` | their names, where a device stands there |
//! | `size`, `value` | bytes of the access; what was written or read |
//! | `reply` | `go on`, `value`, `#GP`, or `stop` where the vCPU's run ended |
//! | `count`, `text` | of a folded string instruction: its elements, and their characters |
//! | `rip`, `symbol`, `instruction` | where the instruction is, and what |
//!
//! The last line has `end`, in words, `at_ns`, and `dropped`: exits that are missing because the trace fell behind.

use super::event::{ExitEvent, ExitKind};
use super::filter::Filter;
use super::fold::{Fold, Folding, Run};
use super::sink::{TraceEnd, TraceSink, Traced, Verdict};
use crate::kvm::exit::{Exit, Reply};
use serde::{Serialize, Serializer};
use std::io::{self, Write};

/// Writes JSON.
pub struct JsonLines {
    out: Box<dyn Write + Send>,
    filter: Filter,
    fold: Fold,
}

impl JsonLines {
    /// Lines to `out` of the exits that pass `filter`.
    pub fn new(out: Box<dyn Write + Send>, filter: Filter, folding: Folding) -> JsonLines {
        JsonLines { out, filter, fold: Fold::new(folding) }
    }

    fn show(&mut self, run: Option<Run>) -> io::Result<()> {
        match run {
            Some(run) => self.write(&Line::of(&run)),
            None => Ok(()),
        }
    }

    fn write(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.out.write_all(&line)
    }
}

impl TraceSink for JsonLines {
    fn exit(&mut self, exit: &Traced) -> io::Result<()> {
        if !self.filter.passes(exit.event) {
            return Ok(());
        }
        let over = self.fold.take(exit);
        self.show(over)
    }

    fn pause(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn finish(&mut self, end: &TraceEnd) -> io::Result<Verdict> {
        let last = self.fold.end();
        self.show(last)?;
        self.write(&End { end: &end.reason, at_ns: end.ended_ns, dropped: end.dropped })?;
        self.out.flush()?;
        Ok(Verdict::Fine)
    }
}

/// The last line.
#[derive(Serialize)]
struct End<'a> {
    end: &'a str,
    at_ns: u64,
    dropped: u64,
}

/// An exit.
#[derive(Default, Serialize)]
struct Line<'a> {
    at_ns: u64,
    vcpu: u32,
    exit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    msr: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dr6: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    register: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Hex>,
    reply: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    guest_ns: u64,
    host_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rip: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    symbol: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instruction: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn of(run: &'a Run) -> Line<'a> {
        let ExitEvent { vcpu, at_ns, guest_ns, host_ns, exit, reply, register, .. } = run.event;
        let is_run = run.count > 1;
        let line = Line {
            at_ns,
            vcpu,
            exit: ExitKind::of(&exit).name(),
            device: register.map(|to| to.device),
            register: register.map(|to| to.register),
            value: run.event.value().map(Hex),
            reply: match reply {
                Some(Reply::Resume) => "go on",
                Some(Reply::Value(_)) => "value",
                Some(Reply::Fault) => "#GP",
                None => "stop",
            },
            count: is_run.then_some(run.count),
            text: (is_run && !run.characters.is_empty()).then(|| String::from_utf8_lossy(&run.characters).into_owned()),
            guest_ns,
            host_ns,
            rip: run.rip().map(Hex),
            symbol: run.symbol.as_deref(),
            instruction: run.instruction.as_ref().map(|found| found.text.as_str()),
            ..Line::default()
        };
        line.about(&exit)
    }

    fn about(self, exit: &Exit) -> Line<'a> {
        match *exit {
            Exit::PioRead { port, size } | Exit::PioWrite { port, size, .. } => {
                Line { port: Some(Hex(port.into())), size: Some(size), ..self }
            }
            Exit::MmioRead { addr, size } | Exit::MmioWrite { addr, size, .. } => {
                Line { address: Some(Hex(addr)), size: Some(size), ..self }
            }
            Exit::MsrRead { index, .. } | Exit::MsrWrite { index, .. } => Line { msr: Some(Hex(index.into())), ..self },
            Exit::IoapicEoi { vector } => Line { vector: Some(Hex(vector.into())), ..self },
            Exit::Hypercall { number } => Line { number: Some(Hex(number)), ..self },
            Exit::SystemEvent { kind } => Line { number: Some(Hex(kind.into())), ..self },
            Exit::Debug { dr6, .. } => Line { dr6: Some(Hex(dr6)), ..self },
            _ => self,
        }
    }
}

/// A number as "0x3f8".
#[derive(Clone, Copy)]
struct Hex(u64);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Written, event, serial};
    use super::super::locate::Located;
    use super::*;

    fn lines(folding: Folding, exits: &[Traced]) -> String {
        let written = Written::default();
        let mut lines = JsonLines::new(Box::new(written.clone()), Filter::default(), folding);
        for exit in exits {
            lines.exit(exit).unwrap();
        }
        let end = TraceEnd { ended_ns: 9, reason: "powered off".into(), dropped: 2, ..TraceEnd::default() };
        lines.finish(&end).unwrap();
        written.text()
    }

    #[test]
    fn each_exit_is_an_object_and_so_is_the_end() {
        let text = "out dx, al".to_owned();
        let out = Located { rip: 0x1000, length: 1, text, passed: false, is_string: false };
        let byte = serial(b'H');
        let high = event(Exit::MmioWrite { addr: u64::MAX - 7, size: 8, value: u64::MAX });
        let halt = ExitEvent { reply: None, ..event(Exit::Halt) };
        let exits = [
            Traced { event: &byte, instruction: Some(&out), symbol: Some("guest::write") },
            Traced { event: &high, instruction: None, symbol: None },
            Traced { event: &halt, instruction: None, symbol: None },
        ];
        let expected = concat!(
            r#"{"at_ns":12500000,"vcpu":0,"exit":"pio-write","port":"0x3f8","device":"COM1","register":"THR","size":1,"#,
            r#""value":"0x48","reply":"go on","guest_ns":2000,"host_ns":500,"rip":"0x1000","symbol":"guest::write","#,
            r#""instruction":"out dx, al"}"#,
            "\n",
            r#"{"at_ns":12500000,"vcpu":0,"exit":"mmio-write","address":"0xfffffffffffffff8","size":8,"#,
            r#""value":"0xffffffffffffffff","reply":"go on","guest_ns":2000,"host_ns":500}"#,
            "\n",
            r#"{"at_ns":12500000,"vcpu":0,"exit":"hlt","reply":"stop","guest_ns":2000,"host_ns":500}"#,
            "\n",
            r#"{"end":"powered off","at_ns":9,"dropped":2}"#,
            "\n",
        );
        assert_eq!(lines(Folding::Nothing, &exits), expected);
    }

    #[test]
    fn a_string_instruction_is_one_object_if_asked() {
        let text = "rep outsb dx, [rsi]".to_owned();
        let outs = Located { rip: 0x1000, length: 2, text, passed: false, is_string: true };
        let bytes = [b'\"', 0xff, b'\n'].map(serial);
        let exits: Vec<_> =
            bytes.iter().map(|event| Traced { event, instruction: Some(&outs), symbol: None }).collect();
        let text = lines(Folding::Strings, &exits);
        let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((&first["count"], &first["text"]), (&3.into(), &"\"\u{fffd}\n".into()));
        assert_eq!(lines(Folding::Nothing, &exits).lines().count(), 3 + 1);
    }
}
