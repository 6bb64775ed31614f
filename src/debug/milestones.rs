//! The milestones of a run as a table: when each was reached, and how long after the one before.

use super::sink::{TraceEnd, TraceSink, Traced, Verdict};
use std::fmt::Write as _;
use std::io::{self, Write};

/// Characters of the longest bar.
const BAR_MAX: f64 = 32.0;

/// Writes the table at the end.
pub struct Milestones {
    out: Box<dyn Write + Send>,
}

impl Milestones {
    /// A table that goes to `out`.
    pub fn new(out: Box<dyn Write + Send>) -> Milestones {
        Milestones { out }
    }
}

impl TraceSink for Milestones {
    fn exit(&mut self, _exit: &Traced) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, end: &TraceEnd) -> io::Result<Verdict> {
        self.out.write_all(table(end).as_bytes())?;
        self.out.flush()?;
        Ok(Verdict::Fine)
    }
}

/// A line a milestone: milliseconds since the start, since the one before, its name, and a bar of that time's share.
fn table(end: &TraceEnd) -> String {
    let all_ns = end.milestones.last().map_or(0, |(_, at_ns)| *at_ns).max(1);
    let mut text = String::from("milestones, in ms since the start and since the one before\n");
    let mut before_ns = 0;
    for (milestone, at_ns) in &end.milestones {
        let step_ns = at_ns.saturating_sub(before_ns);
        let bar = "#".repeat((step_ns as f64 / all_ns as f64 * BAR_MAX).round() as usize);
        let [at, step] = [*at_ns, step_ns].map(|ns| ns as f64 / 1e6);
        let line = format!("  {at:10.3} {step:10.3}  {:17} {bar}", milestone.name());
        writeln!(text, "{}", line.trim_end()).expect("strings take all");
        before_ns = *at_ns;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::sink::Milestone;
    use super::*;

    #[test]
    fn the_table_shows_times_and_their_shares() {
        let milestones =
            vec![(Milestone::ProcessStart, 0), (Milestone::KvmReady, 1_500_000), (Milestone::End, 2_000_000)];
        let text = table(&TraceEnd { milestones, ..TraceEnd::default() });
        let expected = "\
milestones, in ms since the start and since the one before
       0.000      0.000  process start
       1.500      1.500  KVM ready         ########################
       2.000      0.500  end               ########
";
        assert_eq!(text, expected);
        assert_eq!(table(&TraceEnd::default()).lines().count(), 1);
    }
}
