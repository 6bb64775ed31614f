//! What an exit costs, by kind: a guest of a few instructions does one thing over and over, through the real run loop, with and
//! without the flight recorder.
//!
//! The guest asks by IN how often it shall do it, does it so often and asks again. What the loop itself takes is measured by
//! doing nothing, and subtracted: where ring 0 is interpreted, that is a microsecond an instruction. The guest runs in 64-bit
//! mode in ring 0, on a machine without interrupt controllers, where HLT ends at once.
//! Source: Intel SDM vol. 2 (encodings).

use crate::debug::event::ExitKind;
use crate::debug::recorder::Recorder;
use crate::doctor::measure::{MeasureError, Ring, machine};
use crate::kvm::exit::{Exit, Reply};
use crate::kvm::system::System;
use crate::kvm::vcpu::Vcpu;
use crate::kvm::vm::Vm;
use crate::vcpu::cpu::Cpu;
use crate::vcpu::handler::{ExitHandler, ExitObserver, StopReason};
use crate::vcpu::run_loop::{Control, run_loop};
use serde::Serialize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Something that a guest does, and its code.
struct Deed {
    name: &'static str,
    code: &'static [u8],
}

/// What the loop takes by itself.
const NOTHING: Deed = Deed { name: "nothing", code: &[] };

/// What is measured. EBX points into the hole below 4 GiB, where no device of this machine stands.
const DEEDS: [Deed; 8] = [
    Deed { name: "OUT to a port", code: &[0xe6, 0x84] },
    Deed { name: "IN from a port", code: &[0xe4, 0x84] },
    Deed { name: "MMIO write", code: &[0x89, 0x03] },
    Deed { name: "MMIO read", code: &[0x8b, 0x03] },
    Deed { name: "HLT, ended at once", code: &[0xf4] },
    // xor eax, eax; cpuid
    Deed { name: "CPUID", code: &[0x31, 0xc0, 0x0f, 0xa2] },
    // mov ecx, 0x1a0; rdmsr: IA32_MISC_ENABLE, which KVM keeps
    Deed { name: "RDMSR that KVM knows", code: &[0xb9, 0xa0, 0x01, 0x00, 0x00, 0x0f, 0x32] },
    // mov ecx, 0x12345678; rdmsr
    Deed { name: "RDMSR that KVM does not know", code: &[0xb9, 0x78, 0x56, 0x34, 0x12, 0x0f, 0x32] },
];

/// Where the guest asks.
const ASK: u16 = 0x10;
/// Until the rounds.
const HEAD: [u8; 17] = [
    0xba, 0x10, 0x00, 0x00, 0x00, // ask: mov edx, 0x10
    0xed, //                              in eax, dx
    0x85, 0xc0, //                        test eax, eax
    0x74, 0xf6, //                        jz ask
    0x89, 0xc6, //                        mov esi, eax
    0xbb, 0x00, 0x00, 0x00, 0xd0, //      mov ebx, 0xd0000000
];

/// A time is believed when its rounds took this long, which is short enough to fall between two disturbances; they double
/// until then.
const LONG_ENOUGH: Duration = Duration::from_millis(1);
const FIRST_ROUNDS: u32 = 16;
/// Times measured of each; the shortest counts, which the noise of the host does not reach.
const TIMES: usize = 40;

/// What one kind of exit costs.
#[derive(Clone, Debug, Serialize)]
pub struct ExitCost {
    /// What the guest does.
    pub what: &'static str,
    /// The exit that Hostel sees, by its name; `None` where KVM answers alone.
    pub exit: Option<&'static str>,
    /// Nanoseconds, from instruction to instruction.
    pub ns: f64,
    /// With the flight recorder.
    pub recorded_ns: f64,
}

/// Measures all kinds.
///
/// # Errors
/// KVM gives no machine, or cannot run the guest.
pub fn measure(system: &System) -> Result<Vec<ExitCost>, MeasureError> {
    let (nothing, _) = cost(system, &NOTHING)?;
    let cost = |deed| {
        let ([ns, recorded_ns], exit) = cost(system, deed)?;
        let own = |ns: f64, loop_ns: f64| (ns - loop_ns).max(0.0);
        let (ns, recorded_ns) = (own(ns, nothing[0]), own(recorded_ns, nothing[1]));
        Ok(ExitCost { what: deed.name, exit: exit.map(ExitKind::name), ns, recorded_ns })
    };
    DEEDS.iter().map(cost).collect()
}

/// Nanoseconds of a round without and with the recorder, and the exit that it makes.
fn cost(system: &System, deed: &Deed) -> Result<([f64; 2], Option<ExitKind>), MeasureError> {
    let mut guest = Guest::start(system, deed)?;
    let mut rounds = FIRST_ROUNDS;
    while guest.time(rounds, None)? < LONG_ENOUGH && rounds < u32::MAX / 2 {
        rounds *= 2;
    }
    let mut recorder = Recorder::new(Arc::default());
    let mut best = [Duration::MAX; 2];
    for _ in 0..TIMES {
        best[0] = best[0].min(guest.time(rounds, None)?);
        best[1] = best[1].min(guest.time(rounds, Some(&mut recorder))?);
    }
    Ok((best.map(|time| time.as_nanos() as f64 / f64::from(rounds)), guest.answers.seen))
}

/// A guest that waits for its number of rounds.
struct Guest {
    vcpu: Vcpu,
    answers: Answers,
    /// Lives as long as its vCPU.
    _vm: Vm,
}

impl Guest {
    fn start(system: &System, deed: &Deed) -> Result<Guest, MeasureError> {
        let (vm, vcpu) = machine(system, Ring::Kernel, &code(deed))?;
        Ok(Guest { vcpu, answers: Answers { rounds: None, seen: None }, _vm: vm })
    }

    /// How long `rounds` take, recorded by `recorder` if there is one.
    fn time(&mut self, rounds: u32, recorder: Option<&mut Recorder>) -> Result<Duration, MeasureError> {
        let recorder = recorder.map(|recorder| {
            recorder.attached(&mut self.vcpu);
            recorder as &mut dyn ExitObserver
        });
        self.answers.rounds = Some(rounds);
        let start = Instant::now();
        let end = run_loop(&mut self.vcpu, &mut self.answers, recorder, &mut GoOn).map_err(|error| error.source)?;
        let time = start.elapsed();
        match end {
            StopReason::Told => Ok(time),
            _ => Err(MeasureError::Exit { ring: Ring::Kernel as u8, exit: Exit::Shutdown }),
        }
    }
}

/// The guest that does `deed`.
fn code(deed: &Deed) -> Vec<u8> {
    let mut code = HEAD.to_vec();
    code.extend(deed.code);
    // dec esi; jnz to the deed; jmp ask
    let back = |length: usize| (length as u8).wrapping_neg();
    code.extend([0xff, 0xce, 0x75, back(deed.code.len() + 4)]);
    code.extend([0xeb, back(code.len() + 2)]);
    code
}

/// Tells the guest its rounds once, and ends its run when it asks again.
struct Answers {
    rounds: Option<u32>,
    /// The kind of exit that its deed makes.
    seen: Option<ExitKind>,
}

impl ExitHandler for Answers {
    fn handle(&mut self, exit: Exit, _cpu: &mut dyn Cpu) -> ControlFlow<StopReason, Reply> {
        match exit {
            Exit::PioRead { port: ASK, .. } => match self.rounds.take() {
                Some(rounds) => return ControlFlow::Continue(Reply::Value(rounds.into())),
                None => return ControlFlow::Break(StopReason::Told),
            },
            Exit::Shutdown => return ControlFlow::Break(StopReason::TripleFault),
            Exit::Failure(failure) => return ControlFlow::Break(StopReason::Failed(failure)),
            _ => self.seen = Some(ExitKind::of(&exit)),
        }
        ControlFlow::Continue(match exit {
            Exit::PioRead { .. } | Exit::MmioRead { .. } | Exit::MsrRead { .. } => Reply::Value(0),
            _ => Reply::Resume,
        })
    }
}

/// Lets an interrupted vCPU go on.
struct GoOn;

impl Control for GoOn {
    fn interrupted(&mut self, _cpu: &mut dyn Cpu) -> ControlFlow<StopReason> {
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};

    #[test]
    fn the_guests_are_the_code_that_their_comments_show() {
        for deed in DEEDS.iter().chain([&NOTHING]) {
            let code = code(deed);
            let decoded: Vec<_> = Decoder::with_ip(64, &code, 0, DecoderOptions::NONE).iter().collect();
            assert!(decoded.iter().all(|instruction| !instruction.is_invalid()), "{}", deed.name);
            let branches: Vec<_> = decoded.iter().filter(|i| i.near_branch64() != 0 || i.is_jmp_short()).collect();
            let last: Vec<_> = decoded[decoded.len() - 3..].iter().map(|i| (i.mnemonic(), i.near_branch64())).collect();
            assert_eq!(last, [(Mnemonic::Dec, 0), (Mnemonic::Jne, HEAD.len() as u64), (Mnemonic::Jmp, 0)]);
            assert_eq!(branches.len(), 2, "{}", deed.name);
            assert_eq!((decoded[3].mnemonic(), decoded[3].near_branch64()), (Mnemonic::Je, 0));
        }
    }

    #[test]
    fn the_rounds_are_told_once() {
        let mut answers = Answers { rounds: Some(7), seen: None };
        let mut cpu = crate::vcpu::scripted::ScriptedCpu::default();
        let ask = Exit::PioRead { port: ASK, size: 4 };
        assert_eq!(answers.handle(ask, &mut cpu), ControlFlow::Continue(Reply::Value(7)));
        assert_eq!(answers.handle(Exit::Halt, &mut cpu), ControlFlow::Continue(Reply::Resume));
        assert_eq!(answers.handle(ask, &mut cpu), ControlFlow::Break(StopReason::Told));
        assert_eq!(answers.seen, Some(ExitKind::Halt));
    }
}
