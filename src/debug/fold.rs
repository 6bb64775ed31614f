//! Runs of like exits made one: a guest that prints a line leaves a hundred times at one instruction, and nobody reads that.
//!
//! Exits are alike that one vCPU makes one after the other, of one kind, at one register or address and one instruction;
//! what they carry may differ.

use super::event::{ExitEvent, ExitKind};
use super::locate::Located;
use super::sink::Traced;
use crate::kvm::exit::Exit;

/// Characters of a run that are kept; a line of the trace shows fewer.
const CHARACTERS_MAX: usize = 64;

/// Which exits are made one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folding {
    /// All that are alike.
    Like,
    /// The elements of string instructions.
    Strings,
    /// None.
    Nothing,
}

/// Like exits, one or more.
#[derive(Clone, Debug)]
pub struct Run {
    /// The first of them; its times are sums over all.
    pub event: ExitEvent,
    /// How many.
    pub count: u64,
    /// The instruction of all.
    pub instruction: Option<Located>,
    /// Its symbol.
    pub symbol: Option<String>,
    /// Whether all carry the same value.
    pub is_constant: bool,
    /// What they carry, where that is characters; cut.
    pub characters: Vec<u8>,
}

impl Run {
    fn new(exit: &Traced) -> Run {
        let mut run = Run {
            event: *exit.event,
            count: 1,
            instruction: exit.instruction.cloned(),
            symbol: exit.symbol.map(str::to_owned),
            is_constant: true,
            characters: Vec::new(),
        };
        run.characters.extend(character(exit.event));
        run
    }

    /// Where its instruction is.
    pub fn rip(&self) -> Option<u64> {
        self.instruction.as_ref().map(|found| found.rip).or(self.event.code.map(|code| code.rip))
    }

    fn takes(&self, exit: &Traced, folding: Folding) -> bool {
        let folds = match folding {
            Folding::Like => true,
            Folding::Strings => exit.instruction.is_some_and(|found| found.is_string),
            Folding::Nothing => false,
        };
        let rip = exit.instruction.map(|found| found.rip).or(exit.event.code.map(|code| code.rip));
        folds
            && self.event.vcpu == exit.event.vcpu
            && place(&self.event.exit) == place(&exit.event.exit)
            && self.event.register == exit.event.register
            && self.rip() == rip
    }

    fn take(&mut self, event: &ExitEvent) {
        self.count += 1;
        self.event.guest_ns += event.guest_ns;
        self.event.host_ns += event.host_ns;
        self.is_constant &= self.event.value() == event.value();
        if self.characters.len() < CHARACTERS_MAX {
            self.characters.extend(character(event));
        }
    }
}

/// Makes runs of exits.
#[derive(Debug)]
pub struct Fold {
    folding: Folding,
    open: Option<Run>,
}

impl Fold {
    /// Nothing yet.
    pub fn new(folding: Folding) -> Fold {
        Fold { folding, open: None }
    }

    /// Takes the next exit. Returns the run that it is not part of, which is over.
    pub fn take(&mut self, exit: &Traced) -> Option<Run> {
        match &mut self.open {
            Some(run) if run.takes(exit, self.folding) => {
                run.take(exit.event);
                None
            }
            open => open.replace(Run::new(exit)),
        }
    }

    /// Ends the run that is open.
    pub fn end(&mut self) -> Option<Run> {
        self.open.take()
    }
}

/// What is accessed and how; nothing else of like exits is the same.
fn place(exit: &Exit) -> (ExitKind, u64, u8) {
    let kind = ExitKind::of(exit);
    match *exit {
        Exit::PioRead { port, size } | Exit::PioWrite { port, size, .. } => (kind, port.into(), size),
        Exit::MmioRead { addr, size } | Exit::MmioWrite { addr, size, .. } => (kind, addr, size),
        Exit::MsrRead { index, .. } | Exit::MsrWrite { index, .. } => (kind, index.into(), 0),
        Exit::IoapicEoi { vector } => (kind, vector.into(), 0),
        Exit::Hypercall { number } => (kind, number, 0),
        _ => (kind, 0, 0),
    }
}

/// The character that `event` carries: a byte of a serial line or of the debug console.
pub fn character(event: &ExitEvent) -> Option<u8> {
    let to = event.register?;
    let is_line = match ExitKind::of(&event.exit) {
        ExitKind::PioWrite => matches!((to.device, to.register), ("COM1", "THR") | ("debugcon", _)),
        ExitKind::PioRead => (to.device, to.register) == ("COM1", "RBR"),
        _ => false,
    };
    event.value().filter(|_| is_line).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{event, serial};
    use super::*;

    fn runs(folding: Folding, exits: &[(ExitEvent, Option<&Located>)]) -> Vec<(u64, String)> {
        let mut fold = Fold::new(folding);
        let mut all = Vec::new();
        for (event, instruction) in exits {
            all.extend(fold.take(&Traced { event, instruction: *instruction, symbol: None }));
        }
        all.extend(fold.end());
        all.iter().map(|run| (run.count, String::from_utf8_lossy(&run.characters).into_owned())).collect()
    }

    fn located(rip: u64, text: &str) -> Located {
        Located { rip, length: 1, text: text.into(), passed: false, is_string: text.starts_with("rep") }
    }

    #[test]
    fn like_exits_become_one_run_with_their_text_and_times() {
        let out = located(0x1000, "out dx, al");
        let bytes = [b'H', b'i', b'!'].map(|byte| (serial(byte), Some(&out)));
        assert_eq!(runs(Folding::Like, &bytes), [(3, "Hi!".to_owned())]);
        assert_eq!(runs(Folding::Nothing, &bytes).len(), 3);
        let mut fold = Fold::new(Folding::Like);
        for (event, _) in &bytes {
            fold.take(&Traced { event, instruction: None, symbol: None });
        }
        let run = fold.end().unwrap();
        assert_eq!((run.event.guest_ns, run.event.host_ns, run.is_constant), (3 * 2_000, 3 * 500, false));
    }

    #[test]
    fn another_processor_instruction_or_register_begins_another_run() {
        let (here, there) = (located(0x1000, "out dx, al"), located(0x2000, "out dx, al"));
        let other_cpu = ExitEvent { vcpu: 1, ..serial(b'b') };
        let divisor = Exit::PioWrite { port: 0x3f9, size: 1, value: 0 };
        let exits = [
            (serial(b'a'), Some(&here)),
            (other_cpu, Some(&here)),
            (serial(b'c'), Some(&here)),
            (serial(b'd'), Some(&there)),
            (ExitEvent { exit: divisor, ..serial(b'e') }, Some(&there)),
            (event(Exit::Halt), None),
        ];
        assert_eq!(runs(Folding::Like, &exits).len(), exits.len());
    }

    #[test]
    fn the_elements_of_a_string_instruction_fold_alone_if_asked() {
        let (string, single) = (located(0x1000, "rep outsb dx, [rsi]"), located(0x1002, "out dx, al"));
        let exits: Vec<_> = [(b'a', &string), (b'b', &string), (b'c', &single), (b'd', &single)]
            .map(|(byte, at)| (serial(byte), Some(at)))
            .into();
        let strings = runs(Folding::Strings, &exits);
        assert_eq!(strings, [(2, "ab".to_owned()), (1, "c".to_owned()), (1, "d".to_owned())]);
    }

    #[test]
    fn a_run_without_end_keeps_little() {
        let exits: Vec<_> = (0..1000).map(|_| (serial(b'x'), None)).collect();
        let runs = runs(Folding::Like, &exits);
        assert_eq!((runs.len(), runs[0].0, runs[0].1.len()), (1, 1000, CHARACTERS_MAX));
    }
}
