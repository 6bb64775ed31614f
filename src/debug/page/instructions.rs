//! The instructions that left the guest, and how often.

use super::super::sink::Traced;
use serde::Serialize;
use std::collections::HashMap;

/// Instructions told apart. A kernel has a few hundred that leave the guest; a guest may write itself any number.
const INSTRUCTIONS_MAX: usize = 20_000;

/// All that were seen.
#[derive(Default)]
pub struct Instructions {
    index: HashMap<u64, u32>,
    rip: Vec<u64>,
    text: Vec<String>,
    symbol: Vec<String>,
    count: Vec<u64>,
    host_ns: Vec<u64>,
    class: Vec<u32>,
    /// Exits of instructions that were one too many.
    unlisted: u64,
}

/// The instructions by column; those of one position belong together.
#[derive(Serialize)]
pub struct Table<'a> {
    /// In hexadecimal: JavaScript's numbers do not hold all addresses.
    rip: Vec<String>,
    text: &'a [String],
    symbol: &'a [String],
    count: &'a [u64],
    host_ns: &'a [u64],
    /// Class of the exit that was caused first.
    class: &'a [u32],
    unlisted: u64,
}

impl Instructions {
    /// Counts an exit of `class`; returns the position of its instruction, if its address is known.
    pub fn count(&mut self, traced: &Traced, class: u32) -> Option<u32> {
        let rip = traced.instruction.map(|found| found.rip).or(traced.event.code.map(|code| code.rip))?;
        let position = match self.index.get(&rip) {
            Some(position) => *position,
            None if self.rip.len() == INSTRUCTIONS_MAX => {
                self.unlisted += 1;
                return None;
            }
            None => self.push(rip, traced, class),
        };
        self.count[position as usize] += 1;
        self.host_ns[position as usize] += traced.event.host_ns;
        Some(position)
    }

    fn push(&mut self, rip: u64, traced: &Traced, class: u32) -> u32 {
        let position = self.rip.len() as u32;
        self.index.insert(rip, position);
        self.rip.push(rip);
        self.text.push(traced.instruction.map_or(String::new(), |found| found.text.clone()));
        self.symbol.push(traced.symbol.unwrap_or_default().to_owned());
        self.count.push(0);
        self.host_ns.push(0);
        self.class.push(class);
        position
    }

    /// What was counted.
    pub fn table(&self) -> Table<'_> {
        Table {
            rip: self.rip.iter().map(|rip| format!("{rip:#x}")).collect(),
            text: &self.text,
            symbol: &self.symbol,
            count: &self.count,
            host_ns: &self.host_ns,
            class: &self.class,
            unlisted: self.unlisted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::event::{CODE_REACH, Code};
    use super::super::super::fixture::serial;
    use super::super::super::locate::Located;
    use super::*;

    /// Counts an exit whose instruction, where it is known, is at `rip`.
    fn count(instructions: &mut Instructions, rip: u64, is_known: bool) -> Option<u32> {
        let bytes = [0; 2 * CODE_REACH];
        let code = Code { rip: rip + 1, bits: 64, dx: 0, bytes, before: 0, after: 0 };
        let event = crate::debug::event::ExitEvent { code: Some(code), ..serial(1) };
        let located = Located { rip, length: 1, text: "out dx, al".into(), passed: true, is_string: false };
        let instruction = is_known.then_some(&located);
        instructions.count(&Traced { event: &event, instruction, symbol: Some("putc+0x3") }, 5)
    }

    #[test]
    fn an_instruction_is_counted_where_it_stands_or_where_the_guest_stopped() {
        let mut instructions = Instructions::default();
        let found =
            [(0x1000, true), (0x1000, true), (0x2000, false)].map(|(rip, known)| count(&mut instructions, rip, known));
        assert_eq!(found, [Some(0), Some(0), Some(1)]);
        let event = serial(1);
        assert_eq!(instructions.count(&Traced { event: &event, instruction: None, symbol: None }, 5), None);
        let table = instructions.table();
        assert_eq!(
            (table.rip, table.text),
            (vec!["0x1000".into(), "0x2001".into()], &["out dx, al".into(), String::new()][..])
        );
        assert_eq!((table.count, table.host_ns, table.class), (&[2, 1][..], &[1000, 500][..], &[5, 5][..]));
        assert_eq!((table.symbol[0].as_str(), table.unlisted), ("putc+0x3", 0));
    }

    #[test]
    fn instructions_beyond_the_limit_are_counted_together() {
        let mut instructions = Instructions::default();
        for rip in 0..INSTRUCTIONS_MAX as u64 + 3 {
            count(&mut instructions, rip, true);
        }
        assert_eq!((instructions.table().rip.len(), instructions.table().unlisted), (INSTRUCTIONS_MAX, 3));
    }
}
