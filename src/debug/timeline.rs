//! `--export FILE.json`: a trace for Perfetto and `chrome://tracing`. The machine is a process, a vCPU a thread of it, on
//! which slices of guest code and slices of exits follow each other; milestones are instants, facts stand at the end.
//!
//! Each exit is written as it comes, so memory does not grow with the trace. Leaves out flows between tracks.
//! Source: "Trace Event Format" (JSON Object Format; complete, instant and metadata events).

use super::event::{ExitEvent, ExitKind};
use super::sink::{TraceEnd, TraceSink, Traced, Verdict};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

/// The machine; there is one process in the file.
const PID: u32 = 1;
/// Track of the milestones. Those of the vCPUs count from 1: some viewers take thread 0 for an idle one.
const MACHINE_TID: u32 = 0x1000;

/// Writes trace events.
pub struct Timeline {
    out: Box<dyn Write + Send>,
    /// What stands before the next event.
    before: &'static str,
    vcpus: BTreeSet<u32>,
}

/// One trace event; times are in microseconds.
#[derive(Serialize)]
struct Event<'a> {
    ph: &'static str,
    pid: u32,
    tid: u32,
    ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'static str>,
    /// Scope of an instant: "p", the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Args<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Args<'a> {
    Name {
        name: &'a str,
    },
    SortIndex {
        sort_index: u32,
    },
    Exit {
        #[serde(skip_serializing_if = "Option::is_none")]
        value: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        rip: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        instruction: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        symbol: Option<&'a str>,
    },
}

impl Timeline {
    /// Trace events to `out`.
    pub fn new(out: Box<dyn Write + Send>) -> Timeline {
        Timeline { out, before: "{\"traceEvents\":[\n", vcpus: BTreeSet::new() }
    }

    fn write(&mut self, event: &Event) -> io::Result<()> {
        self.out.write_all(self.before.as_bytes())?;
        self.before = ",\n";
        Ok(serde_json::to_writer(&mut self.out, event)?)
    }

    /// A name, or a place in the order, of the process or of one of its tracks.
    fn metadata(&mut self, name: &'static str, tid: u32, args: Args) -> io::Result<()> {
        self.write(&Event { ph: "M", pid: PID, tid, ts: 0.0, dur: None, name, cat: None, s: None, args: Some(args) })
    }

    fn slice(
        &mut self,
        from_ns: u64,
        ns: u64,
        event: &ExitEvent,
        what: (&str, &'static str, Option<Args>),
    ) -> io::Result<()> {
        let (name, kind, args) = what;
        let (ts, dur) = (microseconds(from_ns), Some(microseconds(ns)));
        let tid = tid(event.vcpu);
        self.write(&Event { ph: "X", pid: PID, tid, ts, dur, name, cat: Some(kind), s: None, args })
    }
}

impl TraceSink for Timeline {
    fn exit(&mut self, traced: &Traced) -> io::Result<()> {
        let event = traced.event;
        self.vcpus.insert(event.vcpu);
        if event.guest_ns > 0 {
            let from_ns = event.at_ns.saturating_sub(event.guest_ns);
            self.slice(from_ns, event.guest_ns, event, ("guest", "guest", None))?;
        }
        let kind = ExitKind::of(&event.exit).name();
        let target = event.target();
        let name = if target.is_empty() { kind } else { &target };
        let rip = traced.instruction.map(|found| found.rip).or(event.code.map(|code| code.rip));
        let hexadecimal = |number| format!("{number:#x}");
        let args = Args::Exit {
            value: event.value().map(hexadecimal),
            rip: rip.map(hexadecimal),
            instruction: traced.instruction.map(|found| found.text.as_str()),
            symbol: traced.symbol,
        };
        self.slice(event.at_ns, event.host_ns, event, (name, kind, Some(args)))
    }

    fn finish(&mut self, end: &TraceEnd) -> io::Result<Verdict> {
        let image = end.facts.iter().find(|(name, _)| *name == "image").map_or("", |(_, image)| image);
        self.metadata("process_name", MACHINE_TID, Args::Name { name: &format!("hostel {image}") })?;
        self.metadata("thread_name", MACHINE_TID, Args::Name { name: "milestones" })?;
        for vcpu in std::mem::take(&mut self.vcpus) {
            self.metadata("thread_name", tid(vcpu), Args::Name { name: &format!("vCPU {vcpu}") })?;
            self.metadata("thread_sort_index", tid(vcpu), Args::SortIndex { sort_index: tid(vcpu) })?;
        }
        for (milestone, at_ns) in &end.milestones {
            let (ts, name) = (microseconds(*at_ns), milestone.name());
            let (cat, s) = (Some("milestone"), Some("p"));
            self.write(&Event { ph: "i", pid: PID, tid: MACHINE_TID, ts, dur: None, name, cat, s, args: None })?;
        }
        let mut facts: BTreeMap<&str, &str> = end.facts.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let dropped = end.dropped.to_string();
        facts.insert("ended", &end.reason);
        facts.insert("exits that are missing", &dropped);
        self.out.write_all(b"\n],\"displayTimeUnit\":\"ns\",\"otherData\":")?;
        serde_json::to_writer(&mut self.out, &facts)?;
        self.out.write_all(b"}\n")?;
        self.out.flush()?;
        Ok(Verdict::Fine)
    }
}

fn tid(vcpu: u32) -> u32 {
    vcpu + 1
}

fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Written, serial};
    use super::super::sink::Milestone;
    use super::*;

    #[test]
    fn an_exit_is_a_slice_of_guest_and_one_of_its_own() {
        let file = Written::default();
        let mut timeline = Timeline::new(Box::new(file.clone()));
        let event = ExitEvent { vcpu: 3, ..serial(b'A') };
        timeline.exit(&Traced { event: &event, instruction: None, symbol: Some("a\"</b>\n") }).unwrap();
        let milestones = vec![(Milestone::FirstSerialByte, 12_500_000)];
        let facts = vec![("image", "x".to_owned())];
        let end = TraceEnd { dropped: 7, milestones, facts, ..TraceEnd::default() };
        assert_eq!(timeline.finish(&end).unwrap(), Verdict::Fine);
        let lines = [
            r#"{"traceEvents":["#,
            r#"{"ph":"X","pid":1,"tid":4,"ts":12498.0,"dur":2.0,"name":"guest","cat":"guest"},"#,
            r#"{"ph":"X","pid":1,"tid":4,"ts":12500.0,"dur":0.5,"name":"COM1 THR","cat":"pio-write","#,
            r#""args":{"value":"0x41","symbol":"a\"</b>\n"}},"#,
            r#"{"ph":"M","pid":1,"tid":4096,"ts":0.0,"name":"process_name","args":{"name":"hostel x"}},"#,
            r#"{"ph":"M","pid":1,"tid":4096,"ts":0.0,"name":"thread_name","args":{"name":"milestones"}},"#,
            r#"{"ph":"M","pid":1,"tid":4,"ts":0.0,"name":"thread_name","args":{"name":"vCPU 3"}},"#,
            r#"{"ph":"M","pid":1,"tid":4,"ts":0.0,"name":"thread_sort_index","args":{"sort_index":4}},"#,
            r#"{"ph":"i","pid":1,"tid":4096,"ts":12500.0,"name":"first serial byte","cat":"milestone","s":"p"}"#,
            r#"],"displayTimeUnit":"ns","otherData":{"ended":"","exits that are missing":"7","image":"x"}}"#,
        ];
        assert_eq!(file.text().replace('\n', ""), lines.concat());
    }

    #[test]
    fn a_trace_without_exits_is_a_timeline_too() {
        let file = Written::default();
        Timeline::new(Box::new(file.clone())).finish(&TraceEnd::default()).unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&file.text()).unwrap()["traceEvents"].is_array());
    }
}
