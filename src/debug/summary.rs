//! A trace summed up: exits by kind and device with their times, and the instructions that cause most of them.
//!
//! What it holds is bounded, however long a guest runs: percentiles come from histograms (`histogram.rs`), to a 32nd, and of hostile
//! code that leaves at ever new addresses the first [`INSTRUCTIONS_MAX`] are told apart.

use super::counters::Counted;
use super::event::ExitKind;
use super::histogram::Histogram;
use super::sink::{TraceEnd, TraceSink, Traced, Verdict};
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Instructions that are told apart; a Linux kernel that boots has a few hundred.
const INSTRUCTIONS_MAX: usize = 65_536;
/// Instructions that are shown.
const HOTTEST: usize = 10;
/// Characters of the longest bar.
const BAR_MAX: f64 = 16.0;

/// How a summary is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Tables.
    Text,
    /// One JSON object.
    Json,
}

/// Sums up.
pub struct Summary {
    out: Box<dyn Write + Send>,
    form: Form,
    kinds: BTreeMap<(ExitKind, &'static str), Tally>,
    instructions: HashMap<u64, Hot>,
    count: u64,
    began_ns: Option<u64>,
}

/// What is known of one kind of exits to one device.
#[derive(Default)]
struct Tally {
    guest_ns: u64,
    host: Histogram,
}

/// An instruction that left the guest.
struct Hot {
    count: u64,
    text: String,
    symbol: String,
}

impl Summary {
    /// A summary that goes to `out`.
    pub fn new(out: Box<dyn Write + Send>, form: Form) -> Summary {
        let (kinds, instructions) = (BTreeMap::new(), HashMap::new());
        Summary { out, form, kinds, instructions, count: 0, began_ns: None }
    }
}

impl TraceSink for Summary {
    fn exit(&mut self, exit: &Traced) -> io::Result<()> {
        let event = exit.event;
        self.count += 1;
        self.began_ns.get_or_insert(event.at_ns.saturating_sub(event.guest_ns));
        let device = event.register.map_or("", |to| to.device);
        let tally = self.kinds.entry((ExitKind::of(&event.exit), device)).or_default();
        tally.guest_ns += event.guest_ns;
        tally.host.add(event.host_ns);
        let Some(found) = exit.instruction else { return Ok(()) };
        if let Some(hot) = self.instructions.get_mut(&found.rip) {
            hot.count += 1;
        } else if self.instructions.len() < INSTRUCTIONS_MAX {
            let symbol = exit.symbol.unwrap_or_default().to_owned();
            self.instructions.insert(found.rip, Hot { count: 1, text: found.text.clone(), symbol });
        }
        Ok(())
    }

    fn finish(&mut self, end: &TraceEnd) -> io::Result<Verdict> {
        let sums = self.sums(end);
        let text = match self.form {
            Form::Text => sums.text(),
            Form::Json => serde_json::to_string(&sums)? + "\n",
        };
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        Ok(Verdict::Fine)
    }
}

/// The summary as data.
#[derive(Serialize)]
struct Sums {
    end: String,
    exits: u64,
    dropped: u64,
    elapsed_ns: u64,
    guest_ns: u64,
    host_ns: u64,
    kinds: Vec<Row>,
    hottest: Vec<HotRow>,
    /// Returns of KVM_RUN.
    reached_hostel: u64,
    answered_by_kvm_alone: Option<u64>,
    /// KVM's own counters, by its names.
    kvm_counters: BTreeMap<&'static str, u64>,
    #[serde(skip)]
    counted: Counted,
}

#[derive(Serialize)]
struct Row {
    exit: &'static str,
    device: &'static str,
    count: u64,
    share: f64,
    per_second: f64,
    guest_ns: u64,
    host_ns: u64,
    host_p50_ns: u64,
    host_p99_ns: u64,
    host_max_ns: u64,
}

#[derive(Serialize)]
struct HotRow {
    count: u64,
    share: f64,
    rip: String,
    symbol: String,
    instruction: String,
}

impl Summary {
    fn sums(&self, end: &TraceEnd) -> Sums {
        let elapsed_ns = end.ended_ns.saturating_sub(self.began_ns.unwrap_or(end.ended_ns));
        let share = |count: u64| count as f64 / self.count.max(1) as f64;
        let row = |(&(kind, device), tally): (&(ExitKind, &'static str), &Tally)| Row {
            exit: kind.name(),
            device,
            count: tally.host.count(),
            share: share(tally.host.count()),
            per_second: tally.host.count() as f64 * 1e9 / elapsed_ns.max(1) as f64,
            guest_ns: tally.guest_ns,
            host_ns: tally.host.sum_ns(),
            host_p50_ns: tally.host.percentile_ns(50),
            host_p99_ns: tally.host.percentile_ns(99),
            host_max_ns: tally.host.max_ns(),
        };
        let mut kinds: Vec<_> = self.kinds.iter().map(row).collect();
        kinds.sort_by_key(|row| std::cmp::Reverse(row.count));
        let mut hottest: Vec<_> = self.instructions.iter().collect();
        hottest.sort_by_key(|(rip, hot)| (std::cmp::Reverse(hot.count), **rip));
        let hot = |(rip, hot): (&u64, &Hot)| HotRow {
            count: hot.count,
            share: share(hot.count),
            rip: format!("{rip:#x}"),
            symbol: hot.symbol.clone(),
            instruction: hot.text.clone(),
        };
        Sums {
            end: end.reason.clone(),
            exits: self.count,
            dropped: end.dropped,
            elapsed_ns,
            guest_ns: self.kinds.values().map(|tally| tally.guest_ns).sum(),
            host_ns: self.kinds.values().map(|tally| tally.host.sum_ns()).sum(),
            kinds,
            hottest: hottest.into_iter().take(HOTTEST).map(hot).collect(),
            reached_hostel: end.counted.reached(),
            answered_by_kvm_alone: end.counted.alone(),
            kvm_counters: end.counted.named().into_iter().map(|(_, name, value)| (name, value)).collect(),
            counted: end.counted.clone(),
        }
    }
}

impl Sums {
    fn text(&self) -> String {
        let mut text = format!(
            "{} exits in {}, {} of it in the guest and {} in Hostel{}\n",
            self.exits,
            duration(self.elapsed_ns),
            duration(self.guest_ns),
            duration(self.host_ns),
            if self.dropped > 0 {
                format!("; {} more are not counted: the trace fell behind", self.dropped)
            } else {
                String::new()
            },
        );
        text += &counted(&self.counted);
        if self.exits == 0 {
            return text;
        }
        text += "\nexit       device         count   share                   a second      guest   host p50      p99      max\n";
        let most = self.kinds.iter().map(|row| row.share).fold(0.0, f64::max);
        for row in &self.kinds {
            writeln!(
                text,
                "{:10} {:10} {:9} {:5.1} % {:16} {:10.0} {:>10} {:>10} {:>8} {:>8}",
                row.exit,
                row.device,
                row.count,
                100.0 * row.share,
                bar(row.share / most),
                row.per_second,
                duration(row.guest_ns),
                duration(row.host_p50_ns),
                duration(row.host_p99_ns),
                duration(row.host_max_ns),
            )
            .expect("a string takes everything");
        }
        if !self.hottest.is_empty() {
            text += "\nhottest instructions\n";
        }
        for row in &self.hottest {
            let line = format!(
                "{:9} {:5.1} % {:>12} {:32} {}",
                row.count,
                100.0 * row.share,
                row.rip,
                row.instruction,
                row.symbol
            );
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// What KVM counted, in lines; nothing where nothing was counted.
fn counted(counted: &Counted) -> String {
    if counted.vcpus.is_empty() {
        return String::new();
    }
    let named = counted.named().into_iter().map(|(words, name, value)| format!("{value:9} {words} ({name})\n"));
    format!("{}\n{}", counted.sentence(), named.collect::<String>())
}

/// A bar of eighths of a character, `share` of the longest one.
fn bar(share: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = ((share * BAR_MAX * 8.0).round() as usize).max(1);
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// In the unit that gives at most three digits before the point: "4.9 µs".
fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::ExitEvent;
    use super::super::fixture::{Written, event, serial};
    use super::super::locate::Located;
    use super::*;
    use crate::kvm::exit::Exit;

    fn summary(form: Form, exits: &[(ExitEvent, Option<&Located>)]) -> String {
        let written = Written::default();
        let mut summary = Summary::new(Box::new(written.clone()), form);
        for (event, instruction) in exits {
            summary
                .exit(&Traced { event, instruction: *instruction, symbol: Some("guest::serial::write+0x44") })
                .unwrap();
        }
        let end = TraceEnd { ended_ns: 14_498_000, reason: "the guest powered off".into(), ..TraceEnd::default() };
        summary.finish(&end).unwrap();
        written.text()
    }

    fn out() -> Located {
        Located { rip: 0x1000, length: 1, text: "out dx, al".into(), passed: false, is_string: false }
    }

    #[test]
    fn kinds_and_instructions_are_counted_and_drawn() {
        let out = out();
        let mut exits = vec![(serial(b'x'), Some(&out)); 3];
        exits.push((ExitEvent { host_ns: 1_500_000, ..event(Exit::Halt) }, None));
        let expected = "\
4 exits in 2.0 ms, 8.0 µs of it in the guest and 1.5 ms in Hostel

exit       device         count   share                   a second      guest   host p50      p99      max
pio-write  COM1               3  75.0 % ████████████████       1500     6.0 µs     500 ns   500 ns   500 ns
hlt                           1  25.0 % █████▍                  500     2.0 µs     1.5 ms   1.5 ms   1.5 ms

hottest instructions
        3  75.0 %       0x1000 out dx, al                       guest::serial::write+0x44
";
        assert_eq!(summary(Form::Text, &exits), expected);
        assert!(expected.lines().all(|line| line.chars().count() <= 120));
    }

    #[test]
    fn as_json_it_has_the_same_figures() {
        let out = out();
        let json: serde_json::Value =
            serde_json::from_str(&summary(Form::Json, &[(serial(b'x'), Some(&out))])).unwrap();
        assert_eq!((&json["exits"], &json["end"]), (&1.into(), &"the guest powered off".into()));
        assert_eq!((&json["kinds"][0]["exit"], &json["kinds"][0]["device"]), (&"pio-write".into(), &"COM1".into()));
        assert_eq!((&json["kinds"][0]["host_p99_ns"], &json["hottest"][0]["rip"]), (&500.into(), &"0x1000".into()));
    }

    #[test]
    fn no_exit_is_a_summary_too() {
        assert_eq!(summary(Form::Text, &[]), "0 exits in 0 ns, 0 ns of it in the guest and 0 ns in Hostel\n");
    }

    #[test]
    fn a_guest_that_leaves_everywhere_does_not_fill_memory() {
        let mut summary = Summary::new(Box::new(io::sink()), Form::Text);
        let event = event(Exit::Halt);
        for rip in 0..INSTRUCTIONS_MAX as u64 + 10 {
            let found = Located { rip, ..out() };
            summary.exit(&Traced { event: &event, instruction: Some(&found), symbol: None }).unwrap();
        }
        assert_eq!((summary.instructions.len(), summary.count), (INSTRUCTIONS_MAX, INSTRUCTIONS_MAX as u64 + 10));
    }
}
