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
