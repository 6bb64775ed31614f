//! Budgets: how many exits of a kind, on a device or at all a run may have.

use super::event::ExitKind;
use super::sink::{TraceEnd, TraceSink, Traced, Verdict};
use std::io;

/// The word for all exits.
const TOTAL: &str = "total";

/// A limit: `pio=200`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is counted: a kind or both directions of one ("pio-read", "pio"), a device's name, or "total".
    pub what: String,
    /// How many there may be.
    pub at_most: u64,
}

impl Limit {
    /// Whether there is such a thing to count in a machine with these devices.
    pub fn counts_something(&self, devices: &[&str]) -> bool {
        let is_kind = ExitKind::ALL.iter().any(|kind| kind.is_meant_by(&self.what));
        is_kind || self.what == TOTAL || devices.iter().any(|device| device.eq_ignore_ascii_case(&self.what))
    }

    fn counts(&self, exit: &Traced) -> bool {
        let device = exit.event.register.map(|to| to.device);
        self.what == TOTAL
            || ExitKind::of(&exit.event.exit).is_meant_by(&self.what)
            || device.is_some_and(|device| device.eq_ignore_ascii_case(&self.what))
    }
}

/// Counts exits against limits.
#[derive(Debug)]
pub struct Budget {
    /// Each limit, and what was counted for it.
    spent: Vec<(Limit, u64)>,
}

impl Budget {
    /// A budget of these limits.
    pub fn new(limits: Vec<Limit>) -> Budget {
        Budget { spent: limits.into_iter().map(|limit| (limit, 0)).collect() }
    }
}

impl TraceSink for Budget {
    fn exit(&mut self, exit: &Traced) -> io::Result<()> {
        for (limit, count) in &mut self.spent {
            *count += u64::from(limit.counts(exit));
        }
        Ok(())
    }

    fn finish(&mut self, end: &TraceEnd) -> io::Result<Verdict> {
        // What no sink has seen may have been of any kind: a budget that is kept all the same is kept for sure.
        let exceeded = self.spent.iter().filter(|(limit, count)| count + end.dropped > limit.at_most);
        let tell = |(limit, count): &(Limit, u64)| {
            let Limit { what, at_most } = limit;
            match count.checked_sub(*at_most) {
                Some(more) if more > 0 => format!("{what}: {count} exits, {more} more than the {at_most} it may have"),
                _ => format!("{what}: {count} exits of {at_most}, and {} that were not seen", end.dropped),
            }
        };
        let lines: Vec<String> = exceeded.map(tell).collect();
        if lines.is_empty() {
            return Ok(Verdict::Fine);
        }
        Ok(Verdict::Broken(format!("over its budget of exits\n{}", lines.join("\n"))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{DeviceRegister, ExitEvent};
    use super::super::fixture::event;
    use super::*;
    use crate::kvm::exit::Exit;

    fn limit(what: &str, at_most: u64) -> Limit {
        Limit { what: what.to_owned(), at_most }
    }

    /// What a budget says to a write and a read of COM1, and a HLT.
    fn verdict(limits: &[(&str, u64)], dropped: u64) -> Verdict {
        let mut budget = Budget::new(limits.iter().map(|(what, at_most)| limit(what, *at_most)).collect());
        let com1 = Some(DeviceRegister { device: "COM1", register: "SCR" });
        for (exit, register) in [
            (Exit::PioWrite { port: 0x3ff, size: 1, value: 1 }, com1),
            (Exit::PioRead { port: 0x3ff, size: 1 }, com1),
            (Exit::Halt, None),
        ] {
            let event = ExitEvent { register, ..event(exit) };
            budget.exit(&Traced { event: &event, instruction: None, symbol: None }).unwrap();
        }
        budget.finish(&TraceEnd { dropped, ..TraceEnd::default() }).unwrap()
    }

    #[test]
    fn what_is_within_its_limits_is_fine() {
        assert_eq!(verdict(&[("pio", 2), ("pio-read", 1), ("com1", 2), ("mmio", 0), ("total", 3)], 0), Verdict::Fine);
        assert_eq!(verdict(&[("total", 5)], 2), Verdict::Fine);
    }

    #[test]
    fn what_exceeds_one_is_told_with_by_how_much() {
        let Verdict::Broken(why) = verdict(&[("pio", 2), ("COM1", 0), ("total", 2)], 0) else {
            panic!("two are exceeded")
        };
        let lines: Vec<_> = why.lines().skip(1).collect();
        let told = ["COM1: 2 exits, 2 more than the 0 it may have", "total: 3 exits, 1 more than the 2 it may have"];
        assert_eq!(lines, told);
        let Verdict::Broken(why) = verdict(&[("hlt", 2)], 7) else { panic!("seven may be too many") };
        assert!(why.ends_with("hlt: 1 exits of 2, and 7 that were not seen"), "{why}");
    }

    #[test]
    fn limits_are_of_something() {
        let counts = |what| limit(what, 1).counts_something(&["COM1"]);
        assert!(counts("pio") && counts("com1") && counts("total") && !counts("poi") && !counts(""));
    }
}
