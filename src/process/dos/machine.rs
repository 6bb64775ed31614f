//! The life of an interrupt: a stub's HLT leaves the guest, Hostel looks which one it was, answers, and the IRET leads back.
//!
//! A HLT leaves the guest as an instruction that is over, on every kind of KVM, with RIP behind it; the stub's address tells the interrupt.
//! There is no interrupt controller and no device: nothing interrupts a program, ports read as ones, and a HLT of the program's own has
//! nothing that could end it.
//! Sources: Intel SDM vol. 3B §21.1.4 (interrupts and exceptions in real mode); KVM API KVM_EXIT_HLT; signal(7) (what Linux makes of
//! such exceptions, for the status).

use super::blocks::Blocks;
use super::call::{Call, Words};
use super::functions::{self, Return};
use super::memory::{Far, Memory};
use super::program::{STUB_SIZE, STUBS, stub};
use crate::arch::cpu_state::{CR0_PE, CpuState};
use crate::kvm::exit::{Exit, Failure, Reply};
use crate::kvm::vcpu::{Synced, Vcpu};
use crate::process::host_files::Files;
use crate::process::outcome::listed;
use crate::process::task::End;
use crate::process::trace::Trace;
use crate::process::vcpus::VcpuError;
use crate::process::world::FIRST_ID;
use std::collections::{BTreeMap, BTreeSet};

/// Carry flag.
const CARRY: u16 = 1;
/// Most ports that are named; the others are counted.
const PORTS_NAMED: usize = 8;
/// Where programs write what the screen is to show.
const VIDEO: std::ops::Range<u16> = 0xa000..0xc000;

/// A program that runs.
pub struct Machine<'a> {
    /// Its memory.
    pub memory: Memory,
    /// Its files.
    pub files: &'a mut dyn Files,
    /// Who is shown its calls.
    pub trace: Option<&'a Trace>,
    blocks: Blocks,
    /// How often each function was asked for that there is not; with AL where it is a part of one that there is.
    unknown: BTreeMap<(u8, Option<u8>), u64>,
    /// Ports that were used.
    ports: BTreeSet<u16>,
    /// What it did to be ended.
    reason: Option<String>,
}

/// What an exit leads to.
enum Next {
    /// The guest goes on.
    Run(Reply),
    /// It is over.
    End(End),
}

impl<'a> Machine<'a> {
    /// A program that has not begun.
    pub fn new(memory: Memory, files: &'a mut dyn Files, trace: Option<&'a Trace>) -> Machine<'a> {
        let (unknown, ports) = (BTreeMap::new(), BTreeSet::new());
        Machine { memory, files, trace, blocks: Blocks::default(), unknown, ports, reason: None }
    }

    /// Runs the program to its end.
    ///
    /// # Errors
    /// KVM refuses, or registers cannot be exchanged.
    pub fn run(&mut self, vcpu: &mut Vcpu, entry: &CpuState) -> Result<End, VcpuError> {
        vcpu.sync(Synced::All);
        vcpu.set_state(entry)?;
        let mut reply = Reply::Resume;
        loop {
            let exit = vcpu.run(reply)?;
            let before = vcpu.synced_state().ok_or(VcpuError::NoSync)?;
            let mut state = before;
            match self.answer(exit, &mut state) {
                Next::End(end) => return Ok(end),
                Next::Run(next) => reply = next,
            }
            if state.es != before.es {
                vcpu.set_state(&state)?;
            } else if state.regs != before.regs {
                vcpu.exchange(&state.regs);
            }
        }
    }

    /// What is to be said at the end.
    pub fn said(&mut self) -> Vec<String> {
        let mut said: Vec<_> = self.reason.take().into_iter().collect();
        let counted = |((number, part), count): (&(u8, Option<u8>), &u64)| {
            let part = part.map(|part| format!(" with {part:02X}h in AL")).unwrap_or_default();
            (format!("{number:02X}h{part}"), *count)
        };
        let unknown = self.unknown.iter().map(counted);
        said.extend(listed("functions of INT 21h that are not supported and failed", unknown));
        if !self.ports.is_empty() {
            let mut named: Vec<_> = self.ports.iter().take(PORTS_NAMED).map(|port| format!("{port:#x}")).collect();
            let more = self.ports.len() - named.len();
            named.extend((more > 0).then(|| format!("{more} more")));
            said.push(format!("ports that the program used and behind which is nothing: {}", named.join(", ")));
        }
        let is_drawn = |segment| self.memory.read(Far { segment, offset: 0 }, 0x1_0000).iter().any(|byte| *byte != 0);
        if VIDEO.step_by(0x1000).any(is_drawn) {
            said.push("the program wrote to video memory, which nothing shows".into());
        }
        said
    }

    fn answer(&mut self, exit: Exit, state: &mut CpuState) -> Next {
        match exit {
            Exit::Halt => match interrupt(state) {
                Some(vector) => self.interrupt(vector, state),
                None => self.end(libc::SIGSEGV, format!("it halted at {}, and nothing could wake it", place(state))),
            },
            Exit::PioRead { port, .. } => {
                self.ports.insert(port);
                Next::Run(Reply::Value(u64::MAX))
            }
            Exit::PioWrite { port, .. } => {
                self.ports.insert(port);
                Next::Run(Reply::Resume)
            }
            Exit::MmioRead { .. } | Exit::Hypercall { .. } => Next::Run(Reply::Value(u64::MAX)),
            Exit::MsrRead { .. } | Exit::MsrWrite { .. } => Next::Run(Reply::Fault),
            Exit::MmioWrite { .. }
            | Exit::IoapicEoi { .. }
            | Exit::SetTpr
            | Exit::IrqWindowOpen
            | Exit::Interrupted => Next::Run(Reply::Resume),
            Exit::Shutdown => {
                // Where the processor stood is told by some kinds of KVM only.
                self.end(libc::SIGSEGV, "an exception came whose handler could not be entered (triple fault)".into())
            }
            Exit::SystemEvent { .. } => self.end(libc::SIGSEGV, "it asked KVM for the machine's end".into()),
            Exit::Debug { vector, .. } => self.end(libc::SIGTRAP, format!("exception {vector} at {}", place(state))),
            Exit::Failure(failure) => self.failed(failure, state),
        }
    }

    /// A program in a mode of its own making can bring about any of these.
    fn failed(&mut self, failure: Failure, state: &CpuState) -> Next {
        let why = match failure {
            Failure::Emulation { code, code_len } => {
                let bytes: Vec<_> = code.iter().take(code_len.into()).map(|byte| format!("{byte:02x}")).collect();
                format!("this host's KVM can execute nothing at {} (bytes: {})", place(state), bytes.join(" "))
            }
            failure => format!("this host's KVM cannot go on at {}: {failure:?}", place(state)),
        };
        self.end(libc::SIGILL, why)
    }

    fn end(&mut self, signal: i32, reason: String) -> Next {
        self.reason = Some(reason);
        Next::End(End::Killed(signal))
    }

    /// Answers the interrupt; IP, CS and flags of whoever it interrupted lie on the stack.
    fn interrupt(&mut self, vector: u8, state: &mut CpuState) -> Next {
        let stack = |more: u16| Far { segment: state.ss.selector, offset: (state.regs.rsp as u16).wrapping_add(more) };
        let from = Far { segment: self.memory.word(stack(2)), offset: self.memory.word(stack(0)) };
        match vector {
            0x20 => Next::End(End::Exited(0)),
            0x21 => self.function(stack(4), state),
            _ => {
                let before = Far { offset: from.offset.wrapping_sub(2), ..from };
                let is_instruction = self.memory.read(before, 2) == [0xcd, vector];
                let (signal, name) = exception(vector);
                match name.filter(|_| !is_instruction) {
                    Some(name) => self.end(signal, format!("exception {vector} ({name}) at {from}")),
                    None => {
                        let about = service(vector).map(|name| format!(", {name},")).unwrap_or_default();
                        self.end(
                            libc::SIGSYS,
                            format!("INT {vector:02X}h{about} is not supported; it came before {from}"),
                        )
                    }
                }
            }
        }
    }

    fn function(&mut self, flags: Far, state: &mut CpuState) -> Next {
        let regs = Words::of(state);
        let Machine { memory, blocks, files, .. } = self;
        let mut call = Call { regs, memory, blocks, files: &mut **files };
        let answer = functions::answer(&mut call);
        let result = call.regs;
        if let Some(trace) = self.trace {
            trace.show(FIRST_ID, &describe(regs, result, answer));
        }
        let carry = match answer {
            Return::To(carry) => carry,
            Return::Unknown => {
                let [number, part] = regs.a();
                let part = functions::find(number).map(|_| part);
                *self.unknown.entry((number, part)).or_default() += 1;
                Some(true)
            }
            Return::Exit(status) => return Next::End(End::Exited(status)),
            Return::Output(error) => {
                return self.end(libc::SIGPIPE, format!("standard output: {}", std::io::Error::from(error)));
            }
        };
        result.put(state);
        if let Some(carry) = carry {
            let value = self.memory.word(flags) & !CARRY | u16::from(carry);
            self.memory.write(flags, &value.to_le_bytes());
        }
        Next::Run(Reply::Resume)
    }
}

/// The interrupt whose stub has just executed its HLT, if that is what it was.
fn interrupt(state: &CpuState) -> Option<u8> {
    let offset = u16::try_from(state.regs.rip).ok()?.checked_sub(1)?;
    let is_stub = state.cr0 & CR0_PE == 0 && state.cs.selector == STUBS && offset % STUB_SIZE == 0;
    let vector = u8::try_from(offset / STUB_SIZE).ok().filter(|_| is_stub)?;
    (stub(vector).offset == offset).then_some(vector)
}

fn place(state: &CpuState) -> String {
    format!("{:04X}:{:04X}", state.cs.selector, state.regs.rip)
}

/// The exception of a vector, and the signal that Linux makes of it.
fn exception(vector: u8) -> (i32, Option<&'static str>) {
    match vector {
        0 => (libc::SIGFPE, Some("division")),
        1 => (libc::SIGTRAP, Some("single step")),
        3 => (libc::SIGTRAP, Some("breakpoint")),
        4 => (libc::SIGSEGV, Some("overflow")),
        5 => (libc::SIGSEGV, Some("out of bounds")),
        6 => (libc::SIGILL, Some("invalid instruction")),
        7 => (libc::SIGILL, Some("no coprocessor")),
        8 => (libc::SIGSEGV, Some("vectors out of reach")),
        12 => (libc::SIGSEGV, Some("beyond the stack's segment")),
        13 => (libc::SIGSEGV, Some("beyond a segment")),
        16 | 19 => (libc::SIGFPE, Some("floating point")),
        _ => (libc::SIGSEGV, None),
    }
}

/// What programs use an interrupt for.
fn service(vector: u8) -> Option<&'static str> {
    Some(match vector {
        0x10 => "the BIOS's screen",
        0x11 | 0x12 => "the BIOS's equipment",
        0x13 | 0x25 | 0x26 => "disks",
        0x14 => "the BIOS's serial port",
        0x15 => "the BIOS's system services",
        0x16 => "the BIOS's keyboard",
        0x17 => "the BIOS's printer",
        0x1a => "the BIOS's clock",
        0x27 => "staying resident",
        0x2f => "other resident programs",
        0x33 => "the mouse",
        0x67 => "expanded memory",
        _ => return None,
    })
}

/// A line of the trace.
fn describe(before: Words, after: Words, answer: Return) -> String {
    let [number, _] = before.a();
    let name = functions::find(number).map_or("unknown", |function| function.name);
    let Words { ax, bx, cx, dx, ds, es } = before;
    let call = format!("{name}(ax {ax:04x}, bx {bx:04x}, cx {cx:04x}, dx {dx:04x}, ds {ds:04x}, es {es:04x})");
    let result = match answer {
        Return::To(Some(true)) | Return::Unknown => format!("error {}", after.ax),
        Return::Exit(_) | Return::Output(_) => "?".into(),
        Return::To(_) => {
            let changed = [("ax", ax, after.ax), ("bx", bx, after.bx), ("cx", cx, after.cx), ("dx", dx, after.dx)];
            let changed: Vec<_> = changed
                .into_iter()
                .filter(|(_, before, after)| before != after)
                .map(|(name, _, after)| format!("{name} {after:04x}"))
                .collect();
            if changed.is_empty() { "done".into() } else { changed.join(", ") }
        }
    };
    format!("{call:<39} = {result}")
}
