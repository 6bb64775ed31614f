//! The user's terminal in raw mode, and its restoration on every way out.
//!
//! The settings to go back to stand in a static, so that whoever ends the process can restore them: the guard's drop, the
//! panic hook, a handler of fatal signals. Restoring is one atomic exchange and one ioctl, which a signal handler may do.
//! SIGINT and SIGTERM are the control loop's business; it drops the guard. SIGKILL restores nothing.
//!
//! Sources: termios(3) "Raw mode", signal-safety(7) (tcsetattr is on the list), credentials(7) on process groups.

use super::console_port::TerminalSize;
use rustix::stdio::stdin;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize,
    tcsetattr,
};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The settings that the terminal had before the first change.
static BEFORE: OnceLock<Termios> = OnceLock::new();

/// Whether the terminal is raw now because of us.
static RAW: AtomicBool = AtomicBool::new(false);

/// Signals by which the process dies of a bug; SIGABRT is also how a panic ends.
const FATAL_SIGNALS: [libc::c_int; 5] = [libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV];

/// What handled [`FATAL_SIGNALS`] before.
static FORMER_HANDLERS: [OnceLock<libc::sigaction>; FATAL_SIGNALS.len()] = [const { OnceLock::new() }; _];

/// Raw mode of the terminal on standard input. Dropping it restores the terminal.
#[derive(Debug)]
#[must_use = "dropping it restores the terminal"]
pub struct RawTerminal(());

/// A terminal that cannot be made raw.
#[derive(Debug, thiserror::Error)]
#[error("{what} the terminal on standard input: {source}")]
pub struct TerminalError {
    what: &'static str,
    source: std::io::Error,
}

impl RawTerminal {
    /// Makes the terminal on standard input raw: each key at once, unechoed, Ctrl-C as a byte. Output processing stays, so
    /// that Hostel's own lines on standard error look right.
    ///
    /// `None` if standard input is no terminal, or if this process is in its background, where changing it would stop us.
    ///
    /// # Errors
    /// The terminal refuses.
    pub fn enter() -> Result<Option<RawTerminal>, TerminalError> {
        if !in_foreground() {
            return Ok(None);
        }
        let failed = |what| move |error: rustix::io::Errno| TerminalError { what, source: error.into() };
        let before = tcgetattr(stdin()).map_err(failed("read the settings of"))?;
        let before = BEFORE.get_or_init(|| before);
        RAW.store(true, Ordering::SeqCst);
        let guard = RawTerminal(());
        tcsetattr(stdin(), OptionalActions::Now, &raw(before)).map_err(failed("set up"))?;
        Ok(Some(guard))
    }

    /// Makes the terminal raw again after the process was stopped and continued: the shell has set it up for itself.
    pub fn resume(&self) {
        if let Some(before) = BEFORE.get()
            && in_foreground()
        {
            // A terminal that went away meanwhile shows itself at the next read.
            let _ = tcsetattr(stdin(), OptionalActions::Now, &raw(before));
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether standard input is a terminal that this process may read and change now: it is not, or not yet, in the
/// terminal's background.
pub fn in_foreground() -> bool {
    isatty(stdin()) && tcgetpgrp(stdin()).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// Whether a person sits in front: standard input and standard error are terminals.
pub fn is_interactive() -> bool {
    isatty(stdin()) && isatty(rustix::stdio::stderr())
}

/// Size of the terminal that shows the guest's output, or else of the one that input comes from.
pub fn size() -> Option<TerminalSize> {
    let size = tcgetwinsize(rustix::stdio::stdout()).or_else(|_| tcgetwinsize(stdin())).ok()?;
    // A terminal that does not know says 0.
    (size.ws_col > 0 && size.ws_row > 0).then_some(TerminalSize { columns: size.ws_col, rows: size.ws_row })
}

/// Restores the terminal if it is raw because of us. May be called from anywhere, a signal handler included, and often.
pub fn restore() {
    if RAW.swap(false, Ordering::SeqCst)
        && let Some(before) = BEFORE.get()
    {
        // Nothing can be done where even this fails: the terminal is gone.
        let _ = tcsetattr(stdin(), OptionalActions::Now, before);
    }
}

/// Makes every bug of ours end the process by SIGABRT with the terminal restored: a panic on whatever thread, and the
/// signals by which a process crashes. Call it once, at the start of `main`.
pub fn restore_on_crash() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        report(panic);
        std::process::abort();
    }));
    for (signal, former) in FATAL_SIGNALS.into_iter().zip(&FORMER_HANDLERS) {
        if let Some(action) = catch(signal) {
            former.get_or_init(|| action);
        }
    }
}

fn raw(before: &Termios) -> Termios {
    let mut raw = before.clone();
    raw.input_modes -= InputModes::IGNBRK
        | InputModes::BRKINT
        | InputModes::PARMRK
        | InputModes::ISTRIP
        | InputModes::INLCR
        | InputModes::IGNCR
        | InputModes::ICRNL
        | InputModes::IXON;
    raw.local_modes -=
        LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN;
    raw.special_codes[SpecialCodeIndex::VMIN] = 1;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    raw
}

/// Has `signal` handled by [`restore_and_die`]; returns what handled it before.
fn catch(signal: libc::c_int) -> Option<libc::sigaction> {
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = restore_and_die;
    // SAFETY: both structures are plain data that live across the calls, all zeroes are valid for them, and the handler
    // has the signature that SA_SIGINFO asks for. It runs on the alternate stack that Rust gives its threads.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        let mut former: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(signal, &action, &mut former) == 0).then_some(former)
    }
}

/// Restores the terminal and hands the signal to what handled it before: Rust's own handler, which explains a stack
/// overflow, or the default, which ends the process by this signal. Only async-signal-safe calls.
extern "C" fn restore_and_die(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    restore();
    let former = FATAL_SIGNALS.iter().position(|&fatal| fatal == signal).and_then(|at| FORMER_HANDLERS[at].get());
    // SAFETY: `former` came from sigaction or is null for none kept, then the default is set; the kernel passes a valid
    // `info` to a handler set with SA_SIGINFO. A fault of the processor (si_code > 0) comes again on return, with its
    // address; a signal that was sent must be raised again.
    unsafe {
        match former {
            Some(former) => libc::sigaction(signal, former, std::ptr::null_mut()),
            None => {
                libc::signal(signal, libc::SIG_DFL);
                0
            }
        };
        if (*info).si_code <= 0 {
            libc::raise(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::OutputModes;
    use std::io::Read;
    use std::process::{Command, Stdio};

    /// Set for the copies of this test program that run below, on a terminal of their own.
    const ROLE: &str = "HOSTEL_TEST_TERMINAL_ROLE";

    #[test]
    fn raw_mode_passes_every_key_and_keeps_output_processing() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let raw = raw(&tcgetattr(&master).unwrap());
        assert!(!raw.local_modes.intersects(LocalModes::ISIG | LocalModes::ICANON | LocalModes::ECHO));
        assert!(!raw.input_modes.intersects(InputModes::ICRNL | InputModes::IXON));
        assert!(raw.output_modes.contains(OutputModes::OPOST));
        assert_eq!(raw.special_codes[SpecialCodeIndex::VMIN], 1);
    }

    /// Not a test of its own: what the copies do. Prints `raw` once the terminal is raw, then ends in the way asked for.
    #[test]
    fn role() {
        let Ok(role) = std::env::var(ROLE) else { return };
        restore_on_crash();
        let guard = RawTerminal::enter().unwrap().expect("the terminal is ours");
        assert!(!tcgetattr(stdin()).unwrap().local_modes.contains(LocalModes::ECHO));
        eprintln!("raw");
        match role.as_str() {
            "drop" => drop(guard),
            "panic" => std::thread::spawn(|| panic!("on purpose")).join().unwrap(),
            "abort" => std::process::abort(),
            // SAFETY: none; the first page is never mapped, and the fault is what the test wants.
            "fault" => unsafe { std::ptr::without_provenance_mut::<u8>(16).write_volatile(0) },
            other => panic!("{other}"),
        }
    }

    /// Runs `role` on a fresh terminal; returns the signal it died by and whether the terminal is as before.
    fn run_role(role: &str) -> (Option<i32>, bool) {
        use std::os::unix::process::ExitStatusExt;
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let before = tcgetattr(&slave).unwrap();
        // setsid -c makes the terminal the controlling one, so that the copy is its foreground.
        let mut child = Command::new("setsid")
            .arg("-c")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "backend::terminal::tests::role", "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::from(slave.try_clone().unwrap()))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains("raw"), "{role}: {said}");
        let status = child.wait().unwrap();
        let after = tcgetattr(&slave).unwrap();
        let same = after.local_modes == before.local_modes && after.input_modes == before.input_modes;
        let signal = status.signal().or(status.code().filter(|&code| code > 128).map(|code| code - 128));
        (signal, same)
    }

    #[test]
    fn the_terminal_is_restored_on_every_way_out() {
        assert_eq!(run_role("drop"), (None, true));
        assert_eq!(run_role("panic"), (Some(libc::SIGABRT), true));
        assert_eq!(run_role("abort"), (Some(libc::SIGABRT), true));
        assert_eq!(run_role("fault"), (Some(libc::SIGSEGV), true));
    }
}
