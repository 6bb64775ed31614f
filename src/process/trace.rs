//! System calls as strace shows them: a line a call, arguments decoded as far as their form tells.
//!
//! Differences: structures are shown as addresses, and a call that waits is shown when it has returned.
//! Source: strace(1).

use super::syscall::address::Address;
use super::syscall::call::{Answer, Arguments};
use super::syscall::names;
use super::syscall::table::{self, Form, Row};
use super::task::{End, Task};
use crate::bus::bus::lock;
use std::fmt::Write as _;
use std::io::Write;
use std::sync::Mutex;

/// Most bytes of a text that are shown (strace's `-s`).
const TEXT_MAX: usize = 32;
/// Most bytes of a path that are shown.
const PATH_MAX: usize = 4096;

/// Names of flags, the widest first where one contains another.
type Names = &'static [(u64, &'static str)];

const OPEN: Names = &[
    (0o20_200_000, "O_TMPFILE"),
    (0o4_010_000, "O_SYNC"),
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o10_000, "O_DSYNC"),
    (0o40_000, "O_DIRECT"),
    (0o100_000, "O_LARGEFILE"),
    (0o200_000, "O_DIRECTORY"),
    (0o400_000, "O_NOFOLLOW"),
    (0o1_000_000, "O_NOATIME"),
    (0o2_000_000, "O_CLOEXEC"),
    (0o10_000_000, "O_PATH"),
];
const AT: Names = &[
    (0x100, "AT_SYMLINK_NOFOLLOW"),
    (0x200, "AT_REMOVEDIR"),
    (0x400, "AT_SYMLINK_FOLLOW"),
    (0x800, "AT_NO_AUTOMOUNT"),
    (0x1000, "AT_EMPTY_PATH"),
];
const PROT: Names = &[(1, "PROT_READ"), (2, "PROT_WRITE"), (4, "PROT_EXEC")];
const MAP: Names = &[
    (0x10, "MAP_FIXED"),
    (0x20, "MAP_ANONYMOUS"),
    (0x800, "MAP_DENYWRITE"),
    (0x4000, "MAP_NORESERVE"),
    (0x8000, "MAP_POPULATE"),
    (0x2_0000, "MAP_STACK"),
    (0x10_0000, "MAP_FIXED_NOREPLACE"),
];
const SOCKET_KINDS: Names = &[(0o2_000_000, "SOCK_CLOEXEC"), (0o4000, "SOCK_NONBLOCK")];
const FAMILIES: Names = &[(0, "AF_UNSPEC"), (1, "AF_UNIX"), (2, "AF_INET"), (10, "AF_INET6"), (16, "AF_NETLINK")];
const SOCKETS: &[&str] = &["0", "SOCK_STREAM", "SOCK_DGRAM", "SOCK_RAW", "4", "SOCK_SEQPACKET"];
const MESSAGE: Names = &[
    (0x1, "MSG_OOB"),
    (0x2, "MSG_PEEK"),
    (0x4, "MSG_DONTROUTE"),
    (0x20, "MSG_TRUNC"),
    (0x40, "MSG_DONTWAIT"),
    (0x80, "MSG_EOR"),
    (0x100, "MSG_WAITALL"),
    (0x2000, "MSG_ERRQUEUE"),
    (0x4000, "MSG_NOSIGNAL"),
    (0x8000, "MSG_MORE"),
    (0x4000_0000, "MSG_CMSG_CLOEXEC"),
];
const ACCESS: Names = &[(4, "R_OK"), (2, "W_OK"), (1, "X_OK")];
const CLOCKS: &[&str] = &[
    "CLOCK_REALTIME",
    "CLOCK_MONOTONIC",
    "CLOCK_PROCESS_CPUTIME_ID",
    "CLOCK_THREAD_CPUTIME_ID",
    "CLOCK_MONOTONIC_RAW",
    "CLOCK_REALTIME_COARSE",
    "CLOCK_MONOTONIC_COARSE",
    "CLOCK_BOOTTIME",
];
const WHENCE: &[&str] = &["SEEK_SET", "SEEK_CUR", "SEEK_END", "SEEK_DATA", "SEEK_HOLE"];
const FCNTL: &[&str] = &["F_DUPFD", "F_GETFD", "F_SETFD", "F_GETFL", "F_SETFL"];
const IOCTL: Names = &[
    (0x5401, "TCGETS"),
    (0x5402, "TCSETS"),
    (0x5403, "TCSETSW"),
    (0x5404, "TCSETSF"),
    (0x540f, "TIOCGPGRP"),
    (0x5410, "TIOCSPGRP"),
    (0x5413, "TIOCGWINSZ"),
    (0x5414, "TIOCSWINSZ"),
    (0x541b, "FIONREAD"),
    (0x5421, "FIONBIO"),
    (0x5450, "FIONCLEX"),
    (0x5451, "FIOCLEX"),
];
const SIGNALS: &[&str] = &[
    "0",
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// Names of errors by number (Linux `include/uapi/asm-generic/errno.h`).
#[rustfmt::skip]
const ERRORS: &[&str] = &[
    "", "EPERM", "ENOENT", "ESRCH", "EINTR", "EIO", "ENXIO", "E2BIG",
    "ENOEXEC", "EBADF", "ECHILD", "EAGAIN", "ENOMEM", "EACCES", "EFAULT", "ENOTBLK",
    "EBUSY", "EEXIST", "EXDEV", "ENODEV", "ENOTDIR", "EISDIR", "EINVAL", "ENFILE",
    "EMFILE", "ENOTTY", "ETXTBSY", "EFBIG", "ENOSPC", "ESPIPE", "EROFS", "EMLINK",
    "EPIPE", "EDOM", "ERANGE", "EDEADLK", "ENAMETOOLONG", "ENOLCK", "ENOSYS", "ENOTEMPTY",
    "ELOOP", "", "ENOMSG", "EIDRM", "ECHRNG", "EL2NSYNC", "EL3HLT", "EL3RST",
    "ELNRNG", "EUNATCH", "ENOCSI", "EL2HLT", "EBADE", "EBADR", "EXFULL", "ENOANO",
    "EBADRQC", "EBADSLT", "", "EBFONT", "ENOSTR", "ENODATA", "ETIME", "ENOSR",
    "ENONET", "ENOPKG", "EREMOTE", "ENOLINK", "EADV", "ESRMNT", "ECOMM", "EPROTO",
    "EMULTIHOP", "EDOTDOT", "EBADMSG", "EOVERFLOW", "ENOTUNIQ", "EBADFD", "EREMCHG", "ELIBACC",
    "ELIBBAD", "ELIBSCN", "ELIBMAX", "ELIBEXEC", "EILSEQ", "ERESTART", "ESTRPIPE", "EUSERS",
    "ENOTSOCK", "EDESTADDRREQ", "EMSGSIZE", "EPROTOTYPE", "ENOPROTOOPT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EOPNOTSUPP",
    "EPFNOSUPPORT", "EAFNOSUPPORT", "EADDRINUSE", "EADDRNOTAVAIL", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ECONNABORTED",
    "ECONNRESET", "ENOBUFS", "EISCONN", "ENOTCONN", "ESHUTDOWN", "ETOOMANYREFS", "ETIMEDOUT", "ECONNREFUSED",
    "EHOSTDOWN", "EHOSTUNREACH", "EALREADY", "EINPROGRESS", "ESTALE", "EUCLEAN", "ENOTNAM", "ENAVAIL",
    "EISNAM", "EREMOTEIO", "EDQUOT", "ENOMEDIUM", "EMEDIUMTYPE", "ECANCELED",
];

/// Where calls are shown.
pub struct Trace {
    out: Mutex<Box<dyn Write + Send>>,
}

/// A call that is being made.
pub struct Line {
    row: Option<&'static Row>,
    number: u64,
    arguments: Arguments,
    /// What was shown of arguments that the call may change.
    shown: Vec<Option<String>>,
}

impl Trace {
    /// Shows calls on `out`.
    pub fn new(out: Box<dyn Write + Send>) -> Trace {
        Trace { out: Mutex::new(out) }
    }

    /// A call begins.
    pub fn begin(&self, task: &Task, number: u64, arguments: Arguments) -> Line {
        let row = table::find(number);
        let forms = row.map_or(&[][..], |row| row.forms);
        let before = |(index, form): (usize, &Form)| {
            let value = arguments[index];
            match form {
                Form::Path => Some(path(task, value)),
                Form::In => Some(bytes(task, value, arguments[(index + 1).min(5)])),
                Form::Time => Some(time(task, value)),
                Form::Address => Some(address(task, value, arguments[(index + 1).min(5)])),
                _ => None,
            }
        };
        Line { row, number, arguments, shown: forms.iter().enumerate().map(before).collect() }
    }

    /// A call has given its answer, or has ended its thread.
    pub fn finish(&self, task: &Task, line: Line, answer: Answer) {
        let mut text = String::new();
        match line.row {
            Some(row) => {
                let shown = row.forms.iter().zip(&line.shown).zip(line.arguments);
                let arguments: Vec<_> = shown
                    .map(|((form, before), value)| before.clone().unwrap_or_else(|| after(task, *form, value, answer)))
                    .collect();
                let _ = write!(text, "{}({})", row.name, arguments.join(", "));
            }
            None => {
                let _ = match names::name(line.number) {
                    Some(name) => write!(text, "{name}("),
                    None => write!(text, "syscall_{:#x}(", line.number),
                };
                let _ = write!(text, "{})", line.arguments.map(|value| format!("{value:#x}")).join(", "));
            }
        }
        let result = match answer {
            _ if line.row.is_some_and(|row| row.name.starts_with("exit")) => "?".into(),
            // strace shows an address as such.
            Ok(value) if line.row.is_some_and(|row| ["brk", "mmap", "mremap"].contains(&row.name)) => {
                format!("{value:#x}")
            }
            Ok(value) if value < 0x1_0000_0000 || (value as i64) < 0 => (value as i64).to_string(),
            Ok(value) => format!("{value:#x}"),
            Err(error) => format!("-1 {} ({})", named(ERRORS, error.raw_os_error()), words(error)),
        };
        self.show(task.id, &format!("{text:<39} = {result}"));
    }

    /// A process has ended.
    pub fn ended(&self, id: i32, end: End) {
        let text = match end {
            End::Exited(status) => format!("+++ exited with {status} +++"),
            End::Killed(number) => format!("+++ killed by {} +++", signal(number)),
        };
        self.show(id, &text);
    }

    /// Shows a line of a thread.
    pub fn show(&self, id: i32, text: &str) {
        // Who reads it may be gone, which is no reason to end the program.
        let _ = lock(&self.out).write_all(format!("[{id}] {text}\n").as_bytes());
    }
}

/// What the host calls an error.
fn words(error: rustix::io::Errno) -> String {
    let text = std::io::Error::from(error).to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// A signal's name.
pub fn signal(number: i32) -> String {
    let name = usize::try_from(number).ok().and_then(|index| SIGNALS.get(index));
    name.map_or_else(|| format!("SIG_{number}"), |name| (*name).to_owned())
}

fn after(task: &Task, form: Form, value: u64, answer: Answer) -> String {
    let number = value as i32;
    match form {
        Form::Out | Form::OutText => match answer {
            Ok(count) => bytes(task, value, if form == Form::OutText { count.min(PATH_MAX as u64) } else { count }),
            Err(_) => pointer(value),
        },
        Form::At if number == libc::AT_FDCWD => "AT_FDCWD".into(),
        Form::Fd | Form::At => number.to_string(),
        Form::Path | Form::In | Form::Time | Form::Address | Form::Pointer => pointer(value),
        Form::Size => value.to_string(),
        Form::Number => (value as i64).to_string(),
        Form::Hex => {
            if value == 0 {
                "0".into()
            } else {
                format!("{value:#x}")
            }
        }
        Form::Mode => format!("0{:o}", value & 0o7777),
        Form::OpenFlags => {
            let access = ["O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"][value as usize & 3];
            let rest = flags(OPEN, value & 0xffff_fffc);
            if rest == "0" { access.into() } else { format!("{access}|{rest}") }
        }
        Form::AtFlags => flags(AT, value & 0xffff_ffff),
        Form::Prot => {
            if value == 0 {
                "PROT_NONE".into()
            } else {
                flags(PROT, value)
            }
        }
        Form::MapFlags => {
            let kind = match value & 0xf {
                1 => "MAP_SHARED",
                2 => "MAP_PRIVATE",
                3 => "MAP_SHARED_VALIDATE",
                _ => "0",
            };
            let rest = flags(MAP, value & !0xf);
            if rest == "0" { kind.into() } else { format!("{kind}|{rest}") }
        }
        Form::AccessMode => {
            if value == 0 {
                "F_OK".into()
            } else {
                flags(ACCESS, value)
            }
        }
        Form::Whence => named(WHENCE, number),
        Form::Clock => named(CLOCKS, number),
        Form::Fcntl if number == libc::F_DUPFD_CLOEXEC => "F_DUPFD_CLOEXEC".into(),
        Form::Fcntl => named(FCNTL, number),
        Form::Ioctl => one_of(IOCTL, value).unwrap_or_else(|| format!("{value:#x}")),
        Form::Family => one_of(FAMILIES, value).unwrap_or_else(|| number.to_string()),
        Form::SocketKind => match (value & 0xf, flags(SOCKET_KINDS, value & 0xffff_fff0)) {
            // accept4(2) takes flags alone.
            (0, flags) => flags,
            (kind, flags) if flags == "0" => named(SOCKETS, kind as i32),
            (kind, flags) => format!("{}|{flags}", named(SOCKETS, kind as i32)),
        },
        Form::MessageFlags => flags(MESSAGE, value & 0xffff_ffff),
        Form::Signal => signal(number),
    }
}

fn named(names: &[&str], number: i32) -> String {
    let name = usize::try_from(number).ok().and_then(|index| names.get(index));
    name.map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

fn one_of(names: Names, value: u64) -> Option<String> {
    let found = names.iter().find(|(number, _)| *number == value & 0xffff_ffff);
    found.map(|(_, name)| (*name).to_owned())
}

fn flags(names: Names, value: u64) -> String {
    let (mut left, mut words) = (value, Vec::new());
    for (bits, name) in names {
        if left & bits == *bits {
            left &= !bits;
            words.push((*name).to_owned());
        }
    }
    if left != 0 || words.is_empty() {
        words.push(if left == 0 { "0".into() } else { format!("{left:#x}") });
    }
    words.join("|")
}

fn pointer(value: u64) -> String {
    if value == 0 { "NULL".into() } else { format!("{value:#x}") }
}

fn path(task: &Task, address: u64) -> String {
    match task.memory().read_text(address, PATH_MAX) {
        Ok(text) => quoted(&text, text.len()),
        Err(_) => pointer(address),
    }
}

fn time(task: &Task, address: u64) -> String {
    match task.read::<16>(address) {
        Ok(bytes) => {
            let time = super::syscall::time::time_spec(bytes);
            format!("{{tv_sec={}, tv_nsec={}}}", time.tv_sec, time.tv_nsec)
        }
        Err(_) => pointer(address),
    }
}

fn address(task: &Task, at: u64, size: u64) -> String {
    let unix = |sign: &str, name: &[u8]| format!("{{sa_family=AF_UNIX, sun_path={sign}{}}}", quoted(name, name.len()));
    match super::syscall::address::read(task, at, size) {
        Ok(Address::Unspecified) => "{sa_family=AF_UNSPEC}".into(),
        // In one piece, as it is typed elsewhere.
        Ok(Address::Internet(address)) => format!("{{{address:?}}}"),
        Ok(Address::Unnamed) => "{sa_family=AF_UNIX}".into(),
        Ok(Address::Abstract(name)) => unix("@", &name),
        Ok(Address::Path(path)) => unix("", &path),
        Ok(Address::Other) | Err(_) => pointer(at),
    }
}

fn bytes(task: &Task, address: u64, count: u64) -> String {
    let shown = count.min(TEXT_MAX as u64) as usize;
    match task.read_vec(address, shown) {
        Ok(bytes) => quoted(&bytes, count as usize),
        Err(_) => pointer(address),
    }
}

/// Bytes between quotes, with dots where they are not all of `whole`.
fn quoted(bytes: &[u8], whole: usize) -> String {
    let mut text = String::from("\"");
    for byte in bytes {
        match byte {
            b'\n' => text += "\\n",
            b'\t' => text += "\\t",
            b'\r' => text += "\\r",
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(*byte));
            }
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => {
                let _ = write!(text, "\\{byte:o}");
            }
        }
    }
    text.push('"');
    if bytes.len() < whole {
        text += "...";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_texts_are_shown_as_strace_does() {
        assert_eq!(flags(OPEN, 0o2_000_100), "O_CREAT|O_CLOEXEC");
        assert_eq!(
            (flags(PROT, 3), flags(AT, 0), flags(MAP, 1 << 40)),
            ("PROT_READ|PROT_WRITE".into(), "0".into(), "0x10000000000".into())
        );
        assert_eq!(quoted(b"a\"\n\x01", 9), "\"a\\\"\\n\\1\"...");
        assert_eq!((signal(11), signal(40), named(WHENCE, 9)), ("SIGSEGV".into(), "SIG_40".into(), "9".into()));
    }
}
