//! What the timeline draws: a mark an exit, up to a number; above it, a mark for all exits of one vCPU and class within the
//! same short time, which grows as the trace does.

use super::super::event::ExitEvent;
use serde::{Serialize, Serializer};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Marks in a page: it stays within a few megabytes, and a browser draws all of them within a frame.
const MARKS_MAX: usize = 100_000;
/// What JavaScript's numbers hold exactly: 2^53 - 1 (ECMA-262 §21.1.2.6).
const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

/// One exit, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    vcpu: u32,
    class: u32,
    count: u64,
    /// Begin of the first.
    at_ns: u64,
    /// End of the last answer.
    end_ns: u64,
    /// Time in the guest before them, and of their answers, all together.
    guest_ns: u64,
    host_ns: u64,
    /// Of a single exit.
    value: Option<u64>,
    instruction: Option<u32>,
}

impl Mark {
    /// The mark of one exit; `class` and `instruction` are positions in the page's tables.
    pub fn of(event: &ExitEvent, class: u32, instruction: Option<u32>) -> Mark {
        let ExitEvent { vcpu, at_ns, guest_ns, host_ns, .. } = *event;
        let end_ns = at_ns + host_ns;
        Mark { vcpu, class, count: 1, at_ns, end_ns, guest_ns, host_ns, value: event.value(), instruction }
    }

    fn absorb(&mut self, other: &Mark) {
        self.count += other.count;
        self.at_ns = self.at_ns.min(other.at_ns);
        self.end_ns = self.end_ns.max(other.end_ns);
        self.guest_ns += other.guest_ns;
        self.host_ns += other.host_ns;
        self.value = None;
        self.instruction = None;
    }
}

/// All of a trace.
#[derive(Default)]
pub struct Marks {
    marks: Vec<Mark>,
    /// Length of the times within which exits share a mark; 0 while each has its own.
    width_ns: u64,
    /// Which of these times is filled, and the mark of each vCPU and class in it.
    filled: u64,
    open: HashMap<(u32, u32), usize>,
}

/// The marks by column, ascending by time; those of one position belong together.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    width_ns: u64,
    /// Each as the difference to the one before.
    at_ns: Vec<u64>,
    /// From the first's begin to the last's end; empty where no exits share a mark: it is `host_ns` then.
    span_ns: Vec<u64>,
    vcpu: Vec<u32>,
    class: Vec<u32>,
    /// Empty where no exits share a mark.
    count: Vec<u64>,
    guest_ns: Vec<u64>,
    host_ns: Vec<u64>,
    value: Vec<Value>,
    instruction: Vec<Option<u32>>,
}

/// A value that the page shows as it is: what its numbers do not hold is hexadecimal text.
#[derive(Debug)]
struct Value(Option<u64>);

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(value) if value > SAFE_INTEGER_MAX => serializer.collect_str(&format_args!("{value:#x}")),
            value => value.serialize(serializer),
        }
    }
}

impl Marks {
    /// Adds a mark.
    pub fn add(&mut self, mark: Mark) {
        self.put(mark);
        if self.marks.len() > MARKS_MAX {
            self.coarsen();
        }
    }

    fn put(&mut self, mark: Mark) {
        if let Some(time) = mark.at_ns.checked_div(self.width_ns) {
            if time != self.filled {
                self.filled = time;
                self.open.clear();
            }
            match self.open.entry((mark.vcpu, mark.class)) {
                Entry::Occupied(open) => return self.marks[*open.get()].absorb(&mark),
                Entry::Vacant(open) => open.insert(self.marks.len()),
            };
        }
        self.marks.push(mark);
    }

    /// Doubles the width until half of the room is free. In the end a mark a vCPU and class is left, and there are fewer of
    /// them.
    fn coarsen(&mut self) {
        self.marks.sort_by_key(|mark| mark.at_ns);
        let (first, last) = (self.marks[0].at_ns, self.marks[MARKS_MAX].at_ns);
        while self.marks.len() > MARKS_MAX / 2 {
            let least = (last - first) / MARKS_MAX as u64;
            self.width_ns = (2 * self.width_ns).max(least.next_power_of_two());
            self.open.clear();
            for mark in std::mem::take(&mut self.marks) {
                self.put(mark);
            }
        }
    }

    /// All of them.
    pub fn table(&mut self) -> Table {
        self.marks.sort_by_key(|mark| mark.at_ns);
        let mut table = Table { width_ns: self.width_ns, ..Table::default() };
        let mut before_ns = 0;
        for mark in &self.marks {
            table.at_ns.push(mark.at_ns - before_ns);
            before_ns = mark.at_ns;
            if self.width_ns > 0 {
                table.span_ns.push(mark.end_ns - mark.at_ns);
                table.count.push(mark.count);
            }
            table.vcpu.push(mark.vcpu);
            table.class.push(mark.class);
            table.guest_ns.push(mark.guest_ns);
            table.host_ns.push(mark.host_ns);
            table.value.push(Value(mark.value));
            table.instruction.push(mark.instruction);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(at_ns: u64, class: u32) -> Mark {
        let (vcpu, end_ns, value, instruction) = (0, at_ns + 3, Some(u64::MAX), Some(1));
        Mark { vcpu, class, count: 1, at_ns, end_ns, guest_ns: 5, host_ns: 3, value, instruction }
    }

    #[test]
    fn each_exit_has_its_mark_up_to_the_limit() {
        let mut marks = Marks::default();
        (0..MARKS_MAX as u64).rev().for_each(|i| marks.add(mark(i * 10, 0)));
        let table = marks.table();
        assert_eq!((table.width_ns, table.at_ns.len(), table.count.len()), (0, MARKS_MAX, 0));
        assert_eq!(table.at_ns[..3], [0, 10, 10]);
        let values = serde_json::to_string(&[Value(None), Value(Some(7)), Value(Some(1 << 53))]).unwrap();
        assert_eq!(values, r#"[null,7,"0x20000000000000"]"#);
    }

    #[test]
    fn above_the_limit_exits_of_a_class_share_marks_and_none_is_lost() {
        let mut marks = Marks::default();
        let exits = 5 * MARKS_MAX as u64;
        (0..exits).for_each(|i| marks.add(mark(i * 10, (i % 3) as u32)));
        let table = marks.table();
        assert!(table.width_ns.is_power_of_two() && table.at_ns.len() <= MARKS_MAX, "{}", table.at_ns.len());
        assert!(table.at_ns.len() > MARKS_MAX / 4, "{}", table.at_ns.len());
        assert_eq!(table.count.iter().sum::<u64>(), exits);
        assert_eq!((table.host_ns.iter().sum::<u64>(), table.guest_ns.iter().sum::<u64>()), (3 * exits, 5 * exits));
        assert!(table.span_ns.iter().all(|span| *span < table.width_ns + 3));
    }

    #[test]
    fn exits_at_the_same_time_end_in_one_mark_a_class() {
        let mut marks = Marks::default();
        (0..=MARKS_MAX as u32).for_each(|i| marks.add(mark(u64::MAX - 3, i % 2)));
        let table = marks.table();
        assert_eq!(table.count, [MARKS_MAX as u64 / 2 + 1, MARKS_MAX as u64 / 2]);
    }
}
