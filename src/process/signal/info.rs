//! What is told of a signal: `siginfo_t`, as far as it is used.
//!
//! Leaves out SIGIO's and SIGSYS' fields, for nothing here sends these two.
//! Sources: sigaction(2) "The siginfo_t argument to a SA_SIGINFO handler"; Linux `include/uapi/asm-generic/siginfo.h` (layout, codes).

use crate::process::task::End;
use crate::process::trace;

/// Bytes of a `siginfo_t`.
pub const INFO_SIZE: usize = 128;
/// Bytes of it that any signal uses.
pub const USED_SIZE: usize = 48;

/// Sent by kill(2).
pub const SI_USER: i32 = 0;
/// Sent by the kernel.
pub const SI_KERNEL: i32 = 0x80;
/// Sent by sigqueue(3).
pub const SI_QUEUE: i32 = -1;
/// Sent by a timer of timer_create(2).
pub const SI_TIMER: i32 = -2;
/// Sent by tkill(2).
pub const SI_TKILL: i32 = -6;
/// Integer division by zero, and floating-point errors in the order of their bits in MXCSR.
pub const FPE_INTDIV: i32 = 1;
/// An operand that is none.
pub const ILL_ILLOPN: i32 = 2;
/// Nothing is mapped there.
pub const SEGV_MAPERR: i32 = 1;
/// Not with these rights.
pub const SEGV_ACCERR: i32 = 2;
/// Not aligned.
pub const BUS_ADRALN: i32 = 1;
/// Nothing lies behind the address.
pub const BUS_ADRERR: i32 = 2;
/// A single step.
pub const TRAP_TRACE: i32 = 2;
/// A child ended by itself.
const CLD_EXITED: i32 = 1;
/// A child was ended by a signal.
const CLD_KILLED: i32 = 2;

/// Offsets of fields: sender and its user, or a timer and its overrun; status of a child; address of a fault; what a timer or sigqueue(3)
/// hands over.
const PID: usize = 16;
const UID: usize = 20;
const STATUS: usize = 24;
const ADDRESS: usize = 16;
const VALUE: usize = 24;

/// A signal and what is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info([u8; USED_SIZE]);

impl Info {
    /// Only number and code.
    pub fn new(signal: i32, code: i32) -> Info {
        let mut info = Info([0; USED_SIZE]);
        info.put(0, &signal.to_le_bytes());
        info.put(8, &code.to_le_bytes());
        info
    }

    /// Sent by a process; all act as the same user of the host.
    pub fn sent(signal: i32, code: i32, process: i32) -> Info {
        let mut info = Info::new(signal, code);
        info.put(PID, &process.to_le_bytes());
        info.put(UID, &rustix::process::getuid().as_raw().to_le_bytes());
        info
    }

    /// A fault of an instruction, at `address`.
    pub fn fault(signal: i32, code: i32, address: u64) -> Info {
        let mut info = Info::new(signal, code);
        info.put(ADDRESS, &address.to_le_bytes());
        info
    }

    /// A child's end.
    pub fn child(signal: i32, process: i32, end: End) -> Info {
        let (code, status) = match end {
            End::Exited(status) => (CLD_EXITED, status.into()),
            End::Killed(signal) => (CLD_KILLED, signal),
        };
        let mut info = Info::sent(signal, code, process);
        info.put(STATUS, &status.to_le_bytes());
        info
    }

    /// A timer of timer_create(2) has fired, and `overrun` times unseen.
    pub fn timer(signal: i32, timer: i32, overrun: i32, value: u64) -> Info {
        let mut info = Info::new(signal, SI_TIMER);
        info.put(PID, &timer.to_le_bytes());
        info.put(UID, &overrun.to_le_bytes());
        info.put(VALUE, &value.to_le_bytes());
        info
    }

    /// What a program says that is to be told, in sigqueue(3).
    pub fn from_program(signal: i32, bytes: [u8; USED_SIZE]) -> Info {
        let mut info = Info(bytes);
        info.put(0, &signal.to_le_bytes());
        info
    }

    /// The signal's number.
    pub fn signal(&self) -> i32 {
        self.word(0)
    }

    /// Why it came.
    pub fn code(&self) -> i32 {
        self.word(8)
    }

    /// All bytes.
    pub fn bytes(&self) -> [u8; INFO_SIZE] {
        let mut bytes = [0; INFO_SIZE];
        bytes[..USED_SIZE].copy_from_slice(&self.0);
        bytes
    }

    /// As strace shows it.
    pub fn describe(&self) -> String {
        let (signal, code) = (self.signal(), self.code());
        let name = trace::signal(signal);
        let faults = matches!(signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL | libc::SIGTRAP);
        let rest = match code {
            SI_KERNEL => String::new(),
            SI_TIMER => format!(", si_timerid={}, si_overrun={}", self.word(PID), self.word(UID)),
            SI_QUEUE => {
                format!(", si_pid={}, si_uid={}, si_int={}", self.word(PID), self.word(UID), self.word(VALUE))
            }
            1.. if signal == libc::SIGCHLD => {
                let (process, user, status) = (self.word(PID), self.word(UID), self.word(STATUS));
                let status = if code == CLD_EXITED { status.to_string() } else { trace::signal(status) };
                format!(", si_pid={process}, si_uid={user}, si_status={status}, si_utime=0, si_stime=0")
            }
            1.. if faults => match self.long(ADDRESS) {
                0 => ", si_addr=NULL".into(),
                address => format!(", si_addr={address:#x}"),
            },
            _ => format!(", si_pid={}, si_uid={}", self.word(PID), self.word(UID)),
        };
        format!("--- {name} {{si_signo={name}, si_code={}{rest}}} ---", code_name(signal, code))
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn word(&self, at: usize) -> i32 {
        i32::from_le_bytes(self.0[at..at + 4].try_into().expect("a word has four bytes"))
    }

    fn long(&self, at: usize) -> u64 {
        super::extended::long(&self.0, at)
    }
}

/// Name of a code, which may mean another thing with each signal.
fn code_name(signal: i32, code: i32) -> String {
    let of = |names: &[&str]| {
        let name = usize::try_from(code - 1).ok().and_then(|index| names.get(index));
        name.map_or_else(|| code.to_string(), |name| (*name).to_owned())
    };
    match (signal, code) {
        (_, SI_USER) => "SI_USER".into(),
        (_, SI_KERNEL) => "SI_KERNEL".into(),
        (_, SI_QUEUE) => "SI_QUEUE".into(),
        (_, SI_TIMER) => "SI_TIMER".into(),
        (_, SI_TKILL) => "SI_TKILL".into(),
        (libc::SIGSEGV, _) => of(&["SEGV_MAPERR", "SEGV_ACCERR"]),
        (libc::SIGBUS, _) => of(&["BUS_ADRALN", "BUS_ADRERR"]),
        (libc::SIGILL, _) => of(&["ILL_ILLOPC", "ILL_ILLOPN"]),
        (libc::SIGTRAP, _) => of(&["TRAP_BRKPT", "TRAP_TRACE"]),
        (libc::SIGFPE, _) => {
            of(&["FPE_INTDIV", "FPE_INTOVF", "FPE_FLTDIV", "FPE_FLTOVF", "FPE_FLTUND", "FPE_FLTRES", "FPE_FLTINV"])
        }
        (libc::SIGCHLD, _) => of(&["CLD_EXITED", "CLD_KILLED"]),
        _ => code.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_shown_as_strace_shows_it() {
        for (info, text) in [
            (
                Info::fault(libc::SIGSEGV, SEGV_MAPERR, 8),
                "--- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=0x8} ---",
            ),
            (Info::new(libc::SIGALRM, SI_KERNEL), "--- SIGALRM {si_signo=SIGALRM, si_code=SI_KERNEL} ---"),
        ] {
            assert_eq!(info.describe(), text);
        }
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(
            Info::child(libc::SIGCHLD, 7, End::Killed(9)).describe(),
            format!(
                "--- SIGCHLD {{si_signo=SIGCHLD, si_code=CLD_KILLED, si_pid=7, si_uid={uid}, si_status=SIGKILL, \
                 si_utime=0, si_stime=0}} ---"
            )
        );
        assert_eq!(
            Info::sent(libc::SIGUSR1, SI_TKILL, 3).describe(),
            format!("--- SIGUSR1 {{si_signo=SIGUSR1, si_code=SI_TKILL, si_pid=3, si_uid={uid}}} ---")
        );
    }

    #[test]
    fn fields_lie_where_programs_look_for_them() {
        let bytes = Info::child(libc::SIGCHLD, 0x0102_0304, End::Exited(7)).bytes();
        assert_eq!((bytes[0], bytes[8], &bytes[16..20], bytes[24]), (17, 1, &[4, 3, 2, 1][..], 7));
        let queued = Info::from_program(34, [0xff; USED_SIZE]);
        assert_eq!((queued.signal(), queued.code(), queued.bytes()[USED_SIZE]), (34, -1, 0));
    }
}
