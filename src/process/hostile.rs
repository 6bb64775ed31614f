//! System calls of a hostile program, made of bytes (`hostile_arguments.rs`), and in between words that it writes where calls look
//! for structures. Used by the fuzz target and by a test of every day.
//!
//! A handler is a place that is never executed: what comes back from it is a frame, its own or what stands elsewhere.
//! Nothing waits: a call that would is asked without waiting where it can be, or else left out, which is looked up in the program's
//! memory beforehand. Nothing grows: what makes a file long is cut to 1 MiB, or is so long that no file can be.
//! Source: Linux `arch/x86/entry/syscalls/syscall_64.tbl`.

use super::fixture::{Bench, DATA, DATA_SIZE, Machine};
use super::hostile_arguments::{decode, prepare, value};
use super::syscall::call::Arguments;
use super::syscall::table::Form;
use super::task::Task;
use crate::arch::layout::{MIB, PAGE_SIZE};
use rustix::fs::OFlags;
use std::path::{Path, PathBuf};

/// Bytes of a call: the program, the number, and kind and value of six arguments.
pub const CALL_SIZE: usize = 14;
/// High bits of a call's first byte: the program makes none, but writes to its memory.
const POKE: u8 = 0xe0;
/// Most calls of an input.
const CALLS_MAX: usize = 48;
/// Longest time that is waited, in nanoseconds.
const WAIT_MAX: i64 = 1_000_000;

/// Fills `outside` with a root, `shared`, that things lead out of; returns it.
///
/// # Errors
/// What the host says.
pub fn fill(outside: &Path) -> std::io::Result<PathBuf> {
    let root = outside.join("shared");
    std::fs::create_dir_all(root.join("directory"))?;
    std::fs::write(outside.join("secret"), "secret")?;
    std::fs::write(root.join("file"), "content".repeat(100))?;
    std::fs::write(root.join("script"), "#!/program\n")?;
    std::fs::write(root.join("program"), program())?;
    std::os::unix::fs::symlink("..", root.join("up"))?;
    std::os::unix::fs::symlink("../secret", root.join("link"))?;
    for name in ["program", "script"] {
        std::fs::set_permissions(root.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    Ok(root)
}

/// The smallest program: one segment, which is its own headers and zeros behind them.
fn program() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    let words = |file: &mut Vec<u8>, words: &[u64]| words.iter().for_each(|word| file.extend(word.to_le_bytes()));
    words(&mut file, &[DATA + 120, 64, 0, 0x0038_0040_0000_0000, 1, 0x6_0000_0001]);
    words(&mut file, &[0, DATA, DATA, 120, DATA_SIZE, PAGE_SIZE]);
    file
}

/// Does what `input` says below `root`, on `machine`, which is returned as it was. Asserts after each call that its answer is one that
/// Linux could give, and at the end what [`Bench`] asserts.
///
/// # Panics
/// Something of it does not hold.
pub fn run(machine: Machine, root: &Path, input: &[u8]) -> Machine {
    let Some((how, calls)) = input.split_first().filter(|(_, calls)| calls.len() >= CALL_SIZE) else { return machine };
    let open = [
        ("/file", OFlags::RDONLY),
        ("/directory", OFlags::RDONLY),
        ("/script", if how & 1 != 0 { OFlags::RDWR } else { OFlags::RDONLY }),
    ];
    let mut bench = Bench::on(machine, root, how & 1 != 0, how & 2 != 0, &open);
    bench.task(0).map(prepare);
    for bytes in calls.chunks_exact(CALL_SIZE).take(CALLS_MAX) {
        let index = usize::from(bytes[0]);
        let Some(task) = bench.task(index) else { break };
        if bytes[0] & 0xf0 == POKE {
            poke(task, bytes);
            continue;
        }
        let (number, wanted) = decode(bytes);
        if number as i64 == libc::SYS_rt_sigreturn {
            // Behind the RET of a handler, or somewhere else.
            let [how, ..] = wanted;
            task.regs.rsp = if how & 1 == 0 { task.regs.rsp.wrapping_add(8) } else { DATA + (how & 0x1ff8) };
        }
        let Some((number, arguments)) = tame(task, number, wanted) else { continue };
        let answer = bench.call(index, number, arguments).unwrap_or(0) as i64;
        // What comes back from a handler's frame is whatever stands there.
        let is_free = number as i64 == libc::SYS_rt_sigreturn;
        assert!(
            is_free || answer >= -133,
            "call {number} with {arguments:x?} gave {answer}, which is no error of Linux'"
        );
        if bytes[0] >= 0xf0 {
            bench.check();
        }
    }
    bench.finish()
}

/// Writes a word of some form, or any, where calls look for structures.
fn poke(task: &mut Task, bytes: &[u8]) {
    const FORMS: [Form; 6] = [Form::Pointer, Form::Fd, Form::Number, Form::Size, Form::Signal, Form::Hex];
    let offset = u64::from(u16::from_le_bytes([bytes[1], bytes[2]])) % (DATA_SIZE / 4 - 1) * 4;
    let [kind, word] = [bytes[4], bytes[5]];
    let raw = bytes[6..].first_chunk().map_or(0, |raw| u64::from_le_bytes(*raw));
    let value = FORMS.get(usize::from(bytes[3] % 8)).map_or(raw, |form| value(*form, [kind, word]));
    // The program may have unmapped it.
    let _ = task.write(DATA + offset, &value.to_le_bytes());
}

/// Whether the time at `address` is over at once, or is none. A time in the past is, where it is absolute.
fn is_short(task: &Task, address: u64, unit: i64) -> bool {
    let word = |at: u64| task.read_u64(at).map(|word| word as i64);
    match (word(address), word(address.wrapping_add(8))) {
        (Ok(seconds), Ok(fraction)) => seconds < 0 || fraction < 0 || (seconds == 0 && fraction <= WAIT_MAX / unit),
        _ => address != 0,
    }
}

/// The call as it is made: it waits for nothing, makes nothing long, and what it makes can be removed. `None` where it would wait.
fn tame(task: &Task, mut number: u64, mut arguments: Arguments) -> Option<(u64, Arguments)> {
    let cut = |size: &mut u64| *size = if *size <= i64::MAX as u64 { (*size).min(MIB) } else { *size };
    let set = |argument: &mut u64, flags: i32| *argument |= flags as u64;
    let [a, b, c, d, e, _] = &mut arguments;
    match number as i64 {
        libc::SYS_poll => *c &= 1,
        libc::SYS_ppoll | libc::SYS_clock_nanosleep if !is_short(task, *c, 1) => return None,
        libc::SYS_pselect6 if !is_short(task, *e, 1) => return None,
        libc::SYS_select if !is_short(task, *e, 1000) => return None,
        libc::SYS_nanosleep if !is_short(task, *a, 1) => return None,
        libc::SYS_futex if matches!(*b as u32 & 0x7f, 0 | 9) && !is_short(task, *d, 1) => return None,
        libc::SYS_rt_sigtimedwait if !is_short(task, *c, 1) => return None,
        libc::SYS_pause | libc::SYS_rt_sigsuspend => return None,
        libc::SYS_rt_sigaction if *d & 1 == 0 => *d = 8,
        libc::SYS_wait4 => set(c, libc::WNOHANG),
        libc::SYS_flock => set(b, libc::LOCK_NB),
        // A pipe that is full or empty says so.
        libc::SYS_pipe => (number, *b) = (libc::SYS_pipe2 as u64, libc::O_NONBLOCK as u64),
        libc::SYS_pipe2 => set(b, libc::O_NONBLOCK),
        libc::SYS_socket | libc::SYS_socketpair => set(b, libc::SOCK_NONBLOCK),
        libc::SYS_accept => (number, *d) = (libc::SYS_accept4 as u64, libc::SOCK_NONBLOCK as u64),
        libc::SYS_accept4 => set(d, libc::SOCK_NONBLOCK),
        libc::SYS_eventfd => (number, *b) = (libc::SYS_eventfd2 as u64, libc::EFD_NONBLOCK as u64),
        libc::SYS_eventfd2 | libc::SYS_timerfd_create => set(b, libc::EFD_NONBLOCK),
        libc::SYS_sendmsg | libc::SYS_recvmsg => set(c, libc::MSG_DONTWAIT),
        libc::SYS_sendto | libc::SYS_recvfrom | libc::SYS_sendmmsg | libc::SYS_recvmmsg => set(d, libc::MSG_DONTWAIT),
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => *d &= 1,
        libc::SYS_epoll_pwait2 if !is_short(task, *d, 1) => return None,
        libc::SYS_fcntl if *b as i32 == libc::F_SETFL => set(c, libc::O_NONBLOCK),
        libc::SYS_ioctl if *b == libc::FIONBIO => return None,
        libc::SYS_fallocate => [c, d].into_iter().for_each(cut),
        libc::SYS_pwrite64 | libc::SYS_pwritev | libc::SYS_sendfile => cut(d),
        libc::SYS_copy_file_range => cut(e),
        libc::SYS_chmod | libc::SYS_fchmod | libc::SYS_mkdir => set(b, 0o700),
        libc::SYS_fchmodat | libc::SYS_mkdirat => set(c, 0o700),
        libc::SYS_umask => *a &= 0o077,
        _ => {}
    }
    Some((number, arguments))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::syscall::table;
    use proptest::prelude::*;

    /// A directory in memory where there is such a thing.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let memory = PathBuf::from("/dev/shm");
            let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
            let path = base.join(format!("hostel-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Scratch(path.canonicalize().unwrap())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_hostile_program_gets_answers_and_nothing_else(
            input in prop::collection::vec(any::<u8>(), 1..1 + CALL_SIZE * 32)
        ) {
            static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
            let _turn = TURN.lock();
            let outside = Scratch::new("hostile");
            let root = fill(&outside.0).unwrap();
            run(Machine::new(), &root, &input);
            prop_assert_eq!(std::fs::read(outside.0.join("secret")).unwrap(), b"secret");
            prop_assert_eq!(std::fs::read_dir(&outside.0).unwrap().count(), 2, "nothing is made outside");
        }
    }

    #[test]
    fn what_is_tried_reaches_each_call() {
        let numbers: std::collections::BTreeSet<u64> =
            (0..=255).map(|row| decode(&[[0, row].as_slice(), &[0; 12]].concat()).0).collect();
        assert!(table::ROWS.iter().all(|row| numbers.contains(&row.number)));
    }
}
