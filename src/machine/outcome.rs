//! Every way in which a run ends, which one counts where several meet, and the exit status of each.
//!
//! Odd statuses are the guest's own, by the convention of isa-debug-exit; even ones are Hostel's.

use crate::arch::cpu_state::CpuState;
use crate::kvm::exit::Failure;

/// Exit status: a bad option.
pub const USAGE: i32 = 2;
/// Exit status: a bad image, or the host refused something.
pub const HOST_ERROR: i32 = 10;

/// Exit status with `--root`: Hostel or the machine failed, and not the command.
pub const NO_COMMAND: i32 = 125;
/// Exit status of a command that is not there, and of one that cannot be started, as shells have them.
const NOT_FOUND: i32 = 127;
const NOT_STARTED: i32 = 126;

/// How the command of `--root` ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandEnd {
    /// With this status.
    Exited(u8),
    /// By this signal.
    Signaled(u8),
    /// It could not be started, for this error number (errno(3)).
    Unstarted(i32),
    /// The guest could not prepare its start, for this reason.
    Failed(String),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The guest powered off.
    PoweredOff,
    /// The guest reset the machine.
    Reset,
    /// All vCPUs are halted for good.
    Halted,
    /// The guest ended itself with this value.
    DebugExit(u32),
    /// The command of `--root` ended.
    Command(CommandEnd),
    /// Every expectation was met, and no other end was waited for.
    ExpectationsMet,
    /// The user pressed Ctrl-A x, or typed `quit`.
    Quit,
    /// This signal came.
    Signal(i32),
    /// An expectation was not met when the run ended otherwise.
    ExpectationUnmet {
        /// The pattern.
        pattern: String,
    },
    /// The trace is not what it was asked to be.
    TraceBroken {
        /// What differs, in lines.
        what: String,
    },
    /// The deadline passed.
    Deadline,
    /// The guest's kernel panicked.
    Panicked {
        /// What it said, if it said it on the console.
        line: Option<String>,
    },
    /// Triple fault.
    TripleFault(Stopped),
    /// KVM could not go on.
    Failed(Failure, Stopped),
    /// A pattern of `--reject` matched.
    Rejected {
        /// The pattern.
        pattern: String,
        /// The line that it matched in.
        line: String,
    },
}

/// A vCPU that stopped by a machine failure.
#[derive(Clone, Debug, PartialEq)]
pub struct Stopped {
    /// Which one.
    pub vcpu: u32,
    /// Its registers, where KVM still told them.
    pub state: Option<CpuState>,
}

impl Outcome {
    /// Whether the run came to an end that nobody waits for impatiently: the guest's own, or the expected one.
    pub fn is_orderly(&self) -> bool {
        matches!(
            self,
            Outcome::PoweredOff
                | Outcome::Reset
                | Outcome::Halted
                | Outcome::DebugExit(_)
                | Outcome::Command(_)
                | Outcome::ExpectationsMet
        )
    }

    /// Where two meet, the one of higher rank counts; between equals, the first.
    fn rank(&self) -> u32 {
        match self {
            Outcome::Signal(_) | Outcome::Quit => 6,
            Outcome::Rejected { .. } => 5,
            Outcome::TripleFault(_) | Outcome::Failed(..) | Outcome::Panicked { .. } => 4,
            Outcome::Deadline => 3,
            Outcome::ExpectationUnmet { .. } | Outcome::TraceBroken { .. } => 2,
            Outcome::PoweredOff
            | Outcome::Reset
            | Outcome::Halted
            | Outcome::DebugExit(_)
            | Outcome::Command(_)
            | Outcome::ExpectationsMet => 1,
        }
    }

    /// This outcome, or `other` where that counts more.
    pub fn or_worse(self, other: Outcome) -> Outcome {
        if other.rank() > self.rank() { other } else { self }
    }

    /// Exit status of the process. `ok_exit` is the value of the guest's that counts as success.
    pub fn status(&self, ok_exit: Option<u32>) -> i32 {
        match self {
            Outcome::PoweredOff | Outcome::Reset | Outcome::Halted | Outcome::ExpectationsMet => 0,
            Outcome::DebugExit(value) if Some(*value) == ok_exit => 0,
            Outcome::Command(CommandEnd::Exited(status)) => (*status).into(),
            Outcome::Command(CommandEnd::Signaled(signal)) => 128 + i32::from(*signal),
            Outcome::Command(CommandEnd::Unstarted(libc::ENOENT)) => NOT_FOUND,
            Outcome::Command(CommandEnd::Unstarted(_)) => NOT_STARTED,
            Outcome::Command(CommandEnd::Failed(_)) => NO_COMMAND,
            // Seven bits are left beside the one that tells the guest's values from ours.
            Outcome::DebugExit(value) => ((value & 0x7f) << 1 | 1) as i32,
            Outcome::Panicked { .. } => 12,
            Outcome::TripleFault(_) => 14,
            Outcome::Failed(..) => 16,
            Outcome::ExpectationUnmet { .. } | Outcome::TraceBroken { .. } => 18,
            Outcome::Rejected { .. } => 20,
            Outcome::Deadline => 124,
            Outcome::Quit => 130,
            Outcome::Signal(signal) => 128 + signal,
        }
    }

    /// Exit status with `--root`, where the machine's own end comes before the command's and so is a failure.
    pub fn status_with_command(&self, ok_exit: Option<u32>) -> i32 {
        match self {
            Outcome::PoweredOff
            | Outcome::Reset
            | Outcome::Halted
            | Outcome::Panicked { .. }
            | Outcome::TripleFault(_)
            | Outcome::Failed(..) => NO_COMMAND,
            other => other.status(ok_exit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOPPED: Stopped = Stopped { vcpu: 0, state: None };

    #[test]
    fn statuses_are_those_of_the_manual() {
        let cases = [
            (Outcome::PoweredOff, 0),
            (Outcome::Reset, 0),
            (Outcome::Halted, 0),
            (Outcome::ExpectationsMet, 0),
            (Outcome::DebugExit(0), 1),
            (Outcome::DebugExit(3), 7),
            (Outcome::DebugExit(0x7f), 255),
            (Outcome::DebugExit(0x80), 1),
            (Outcome::Panicked { line: None }, 12),
            (Outcome::TripleFault(STOPPED), 14),
            (Outcome::Failed(Failure::Unknown { reason: 1 }, STOPPED), 16),
            (Outcome::ExpectationUnmet { pattern: "x".into() }, 18),
            (Outcome::TraceBroken { what: "x".into() }, 18),
            (Outcome::Rejected { pattern: "x".into(), line: "x".into() }, 20),
            (Outcome::Deadline, 124),
            (Outcome::Quit, 130),
            (Outcome::Signal(libc::SIGTERM), 143),
            (Outcome::Command(CommandEnd::Exited(7)), 7),
            (Outcome::Command(CommandEnd::Signaled(9)), 137),
            (Outcome::Command(CommandEnd::Unstarted(libc::ENOENT)), 127),
            (Outcome::Command(CommandEnd::Unstarted(libc::EACCES)), 126),
            (Outcome::Command(CommandEnd::Failed("x".into())), 125),
        ];
        for (outcome, status) in cases {
            assert_eq!(outcome.status(None), status, "{outcome:?}");
        }
        for early in [Outcome::PoweredOff, Outcome::Panicked { line: None }, Outcome::TripleFault(STOPPED)] {
            assert_eq!(early.status_with_command(None), 125, "{early:?}");
        }
        assert_eq!(Outcome::Deadline.status_with_command(None), 124);
        assert_eq!(Outcome::DebugExit(300).status(Some(300)), 0);
        assert_eq!(Outcome::DebugExit(44).status(Some(300)), 89, "only the whole value counts");
    }

    #[test]
    fn reject_before_failure_before_deadline_before_unmet_before_the_guest() {
        let order = [
            Outcome::Rejected { pattern: String::new(), line: String::new() },
            Outcome::TripleFault(STOPPED),
            Outcome::Deadline,
            Outcome::ExpectationUnmet { pattern: String::new() },
            Outcome::DebugExit(0),
        ];
        for (index, high) in order.iter().enumerate() {
            for low in &order[index + 1..] {
                assert_eq!(low.clone().or_worse(high.clone()), *high);
                assert_eq!(high.clone().or_worse(low.clone()), *high);
            }
        }
        assert_eq!(Outcome::PoweredOff.or_worse(Outcome::Reset), Outcome::PoweredOff);
    }
}
