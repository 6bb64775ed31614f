//! The table of system calls: number, name, form of the arguments, answer. It drives the calls, the trace, `--deny` and `--allow`, and the
//! page in docs.
//!
//! Source: Linux `arch/x86/entry/syscalls/syscall_64.tbl`.

use super::call::{Answer, Arguments};
use super::{
    alarm, attributes, descriptors, directory, epoll, events, futex, identity, kill, memory, messages, open, options,
    process, ready, signals, sockets, spawn, system, terminal, time, timers, transfer, wait,
};
use crate::process::task::Task;
use Form::*;

/// Form of an argument, as the trace shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A file's number.
    Fd,
    /// A directory's number, or AT_FDCWD.
    At,
    /// A path in memory.
    Path,
    /// An address.
    Pointer,
    /// A number without a sign.
    Size,
    /// A number with one.
    Number,
    /// A number of bits.
    Hex,
    /// Permissions.
    Mode,
    /// Bytes that the call reads; the next argument is how many.
    In,
    /// Bytes that the call has written; the result is how many.
    Out,
    /// Text that the call has written.
    OutText,
    /// A `struct timespec` that the call reads.
    Time,
    /// O_ flags.
    OpenFlags,
    /// AT_ flags.
    AtFlags,
    /// PROT_ flags.
    Prot,
    /// MAP_ flags.
    MapFlags,
    /// SEEK_ numbers.
    Whence,
    /// A signal.
    Signal,
    /// A request of ioctl(2).
    Ioctl,
    /// A command of fcntl(2).
    Fcntl,
    /// A clock.
    Clock,
    /// R_OK and its like.
    AccessMode,
    /// A family of sockets.
    Family,
    /// A type of sockets, with flags.
    SocketKind,
    /// A socket's address that the call reads; the next argument is its size.
    Address,
    /// Flags of a message.
    MessageFlags,
}

/// A system call.
pub struct Row {
    /// Its number.
    pub number: u64,
    /// Its name.
    pub name: &'static str,
    /// Its arguments.
    pub forms: &'static [Form],
    /// What answers it.
    pub answer: fn(&mut Task, Arguments) -> Answer,
}

const fn row(
    number: u64,
    name: &'static str,
    forms: &'static [Form],
    answer: fn(&mut Task, Arguments) -> Answer,
) -> Row {
    Row { number, name, forms, answer }
}

/// All calls that are answered, by number.
pub const ROWS: &[Row] = &[
    row(0, "read", &[Fd, Out, Size], transfer::read),
    row(1, "write", &[Fd, In, Size], transfer::write),
    row(2, "open", &[Path, OpenFlags, Mode], open::open),
    row(3, "close", &[Fd], open::close),
    row(4, "stat", &[Path, Pointer], attributes::stat),
    row(5, "fstat", &[Fd, Pointer], attributes::fstat),
    row(6, "lstat", &[Path, Pointer], attributes::lstat),
    row(7, "poll", &[Pointer, Size, Number], ready::poll),
    row(8, "lseek", &[Fd, Number, Whence], transfer::lseek),
    row(9, "mmap", &[Pointer, Size, Prot, MapFlags, Fd, Hex], memory::mmap),
    row(10, "mprotect", &[Pointer, Size, Prot], memory::mprotect),
    row(11, "munmap", &[Pointer, Size], memory::munmap),
    row(12, "brk", &[Pointer], memory::brk),
    row(13, "rt_sigaction", &[Signal, Pointer, Pointer, Size], signals::rt_sigaction),
    row(14, "rt_sigprocmask", &[Number, Pointer, Pointer, Size], signals::rt_sigprocmask),
    row(15, "rt_sigreturn", &[], signals::rt_sigreturn),
    row(16, "ioctl", &[Fd, Ioctl, Pointer], terminal::ioctl),
    row(17, "pread64", &[Fd, Out, Size, Number], transfer::pread),
    row(18, "pwrite64", &[Fd, In, Size, Number], transfer::pwrite),
    row(19, "readv", &[Fd, Pointer, Size], transfer::readv),
    row(20, "writev", &[Fd, Pointer, Size], transfer::writev),
    row(21, "access", &[Path, AccessMode], open::access),
    row(22, "pipe", &[Pointer], open::pipe),
    row(23, "select", &[Number, Pointer, Pointer, Pointer, Pointer], ready::select),
    row(24, "sched_yield", &[], system::sched_yield),
    row(25, "mremap", &[Pointer, Size, Size, Hex, Pointer], memory::mremap),
    row(26, "msync", &[Pointer, Size, Hex], memory::msync),
    row(28, "madvise", &[Pointer, Size, Number], memory::madvise),
    row(32, "dup", &[Fd], descriptors::dup),
    row(33, "dup2", &[Fd, Fd], descriptors::dup2),
    row(34, "pause", &[], signals::pause),
    row(35, "nanosleep", &[Time, Pointer], time::nanosleep),
    row(36, "getitimer", &[Number, Pointer], alarm::getitimer),
    row(37, "alarm", &[Number], alarm::alarm),
    row(38, "setitimer", &[Number, Pointer, Pointer], alarm::setitimer),
    row(39, "getpid", &[], identity::getpid),
    row(40, "sendfile", &[Fd, Fd, Pointer, Size], transfer::sendfile),
    row(41, "socket", &[Family, SocketKind, Number], sockets::socket),
    row(42, "connect", &[Fd, Address, Size], sockets::connect),
    row(43, "accept", &[Fd, Pointer, Pointer], sockets::accept),
    row(44, "sendto", &[Fd, In, Size, MessageFlags, Address, Size], messages::sendto),
    row(45, "recvfrom", &[Fd, Out, Size, MessageFlags, Pointer, Pointer], messages::recvfrom),
    row(46, "sendmsg", &[Fd, Pointer, MessageFlags], messages::sendmsg),
    row(47, "recvmsg", &[Fd, Pointer, MessageFlags], messages::recvmsg),
    row(48, "shutdown", &[Fd, Number], sockets::shutdown),
    row(49, "bind", &[Fd, Address, Size], sockets::bind),
    row(50, "listen", &[Fd, Number], sockets::listen),
    row(51, "getsockname", &[Fd, Pointer, Pointer], sockets::getsockname),
    row(52, "getpeername", &[Fd, Pointer, Pointer], sockets::getpeername),
    row(53, "socketpair", &[Family, SocketKind, Number, Pointer], sockets::socketpair),
    row(54, "setsockopt", &[Fd, Number, Number, Pointer, Size], options::setsockopt),
    row(55, "getsockopt", &[Fd, Number, Number, Pointer, Pointer], options::getsockopt),
    row(56, "clone", &[Hex, Pointer, Pointer, Pointer, Pointer], spawn::clone),
    row(57, "fork", &[], spawn::fork),
    row(58, "vfork", &[], spawn::vfork),
    row(59, "execve", &[Path, Pointer, Pointer], spawn::execve),
    row(60, "exit", &[Number], process::exit),
    row(61, "wait4", &[Number, Pointer, Hex, Pointer], wait::wait4),
    row(62, "kill", &[Number, Signal], kill::kill),
    row(63, "uname", &[Pointer], system::uname),
    row(72, "fcntl", &[Fd, Fcntl, Hex], descriptors::fcntl),
    row(73, "flock", &[Fd, Hex], descriptors::flock),
    row(74, "fsync", &[Fd], open::fsync),
    row(75, "fdatasync", &[Fd], open::fsync),
    row(76, "truncate", &[Path, Size], open::truncate),
    row(77, "ftruncate", &[Fd, Size], open::ftruncate),
    row(79, "getcwd", &[OutText, Size], directory::getcwd),
    row(80, "chdir", &[Path], directory::chdir),
    row(81, "fchdir", &[Fd], directory::fchdir),
    row(82, "rename", &[Path, Path], directory::rename),
    row(83, "mkdir", &[Path, Mode], directory::mkdir),
    row(84, "rmdir", &[Path], directory::rmdir),
    row(85, "creat", &[Path, Mode], open::creat),
    row(86, "link", &[Path, Path], directory::link_),
    row(87, "unlink", &[Path], directory::unlink),
    row(88, "symlink", &[Path, Path], directory::symlink),
    row(89, "readlink", &[Path, OutText, Size], open::readlink),
    row(90, "chmod", &[Path, Mode], attributes::chmod),
    row(91, "fchmod", &[Fd, Mode], attributes::fchmod),
    row(92, "chown", &[Path, Number, Number], attributes::chown),
    row(93, "fchown", &[Fd, Number, Number], attributes::fchown),
    row(94, "lchown", &[Path, Number, Number], attributes::lchown),
    row(95, "umask", &[Mode], directory::umask),
    row(96, "gettimeofday", &[Pointer, Pointer], time::gettimeofday),
    row(97, "getrlimit", &[Number, Pointer], identity::getrlimit),
    row(98, "getrusage", &[Number, Pointer], time::getrusage),
    row(99, "sysinfo", &[Pointer], system::sysinfo),
    row(100, "times", &[Pointer], time::times),
    row(102, "getuid", &[], identity::getuid),
    row(104, "getgid", &[], identity::getgid),
    row(105, "setuid", &[Number], identity::set_own),
    row(106, "setgid", &[Number], identity::set_own),
    row(107, "geteuid", &[], identity::geteuid),
    row(108, "getegid", &[], identity::getegid),
    row(109, "setpgid", &[Number, Number], wait::setpgid),
    row(110, "getppid", &[], identity::getppid),
    row(111, "getpgrp", &[], identity::getpgrp),
    row(112, "setsid", &[], wait::setsid),
    row(115, "getgroups", &[Number, Pointer], identity::getgroups),
    row(118, "getresuid", &[Pointer, Pointer, Pointer], identity::getresuid),
    row(120, "getresgid", &[Pointer, Pointer, Pointer], identity::getresgid),
    row(121, "getpgid", &[Number], wait::getpgid),
    row(124, "getsid", &[Number], identity::getsid),
    row(127, "rt_sigpending", &[Pointer, Size], signals::rt_sigpending),
    row(128, "rt_sigtimedwait", &[Pointer, Pointer, Time, Size], signals::rt_sigtimedwait),
    row(129, "rt_sigqueueinfo", &[Number, Signal, Pointer], kill::rt_sigqueueinfo),
    row(130, "rt_sigsuspend", &[Pointer, Size], signals::rt_sigsuspend),
    row(131, "sigaltstack", &[Pointer, Pointer], signals::sigaltstack),
    row(137, "statfs", &[Path, Pointer], attributes::statfs),
    row(138, "fstatfs", &[Fd, Pointer], attributes::fstatfs),
    row(157, "prctl", &[Number, Pointer, Pointer, Pointer, Pointer], process::prctl),
    row(158, "arch_prctl", &[Hex, Pointer], process::arch_prctl),
    row(162, "sync", &[], open::sync),
    row(186, "gettid", &[], identity::gettid),
    row(191, "getxattr", &[Path, Path, Pointer, Size], attributes::getxattr),
    row(192, "lgetxattr", &[Path, Path, Pointer, Size], attributes::lgetxattr),
    row(193, "fgetxattr", &[Fd, Path, Pointer, Size], attributes::fgetxattr),
    row(200, "tkill", &[Number, Signal], kill::tkill),
    row(201, "time", &[Pointer], time::time),
    row(202, "futex", &[Pointer, Hex, Size, Pointer, Pointer, Size], futex::futex),
    row(204, "sched_getaffinity", &[Number, Size, Pointer], system::sched_getaffinity),
    row(213, "epoll_create", &[Number], epoll::epoll_create),
    row(217, "getdents64", &[Fd, Pointer, Size], directory::getdents64),
    row(218, "set_tid_address", &[Pointer], process::set_tid_address),
    row(221, "fadvise64", &[Fd, Number, Size, Number], open::fadvise),
    row(222, "timer_create", &[Clock, Pointer, Pointer], timers::timer_create),
    row(223, "timer_settime", &[Number, Hex, Pointer, Pointer], timers::timer_settime),
    row(224, "timer_gettime", &[Number, Pointer], timers::timer_gettime),
    row(225, "timer_getoverrun", &[Number], timers::timer_getoverrun),
    row(226, "timer_delete", &[Number], timers::timer_delete),
    row(228, "clock_gettime", &[Clock, Pointer], time::clock_gettime),
    row(229, "clock_getres", &[Clock, Pointer], time::clock_getres),
    row(230, "clock_nanosleep", &[Clock, Number, Time, Pointer], time::clock_nanosleep),
    row(231, "exit_group", &[Number], process::exit_group),
    row(232, "epoll_wait", &[Fd, Pointer, Number, Number], epoll::epoll_wait),
    row(233, "epoll_ctl", &[Fd, Number, Fd, Pointer], epoll::epoll_ctl),
    row(234, "tgkill", &[Number, Number, Signal], kill::tgkill),
    row(257, "openat", &[At, Path, OpenFlags, Mode], open::openat),
    row(258, "mkdirat", &[At, Path, Mode], directory::mkdirat),
    row(260, "fchownat", &[At, Path, Number, Number, Hex], attributes::fchownat),
    row(262, "newfstatat", &[At, Path, Pointer, AtFlags], attributes::newfstatat),
    row(263, "unlinkat", &[At, Path, AtFlags], directory::unlinkat),
    row(264, "renameat", &[At, Path, At, Path], directory::renameat),
    row(265, "linkat", &[At, Path, At, Path, AtFlags], directory::linkat),
    row(266, "symlinkat", &[Path, At, Path], directory::symlinkat),
    row(267, "readlinkat", &[At, Path, OutText, Size], open::readlinkat),
    row(268, "fchmodat", &[At, Path, Mode], attributes::fchmodat),
    row(269, "faccessat", &[At, Path, AccessMode], open::faccessat),
    row(270, "pselect6", &[Number, Pointer, Pointer, Pointer, Time, Pointer], ready::pselect6),
    row(271, "ppoll", &[Pointer, Size, Time, Pointer, Size], ready::ppoll),
    row(280, "utimensat", &[At, Path, Pointer, AtFlags], attributes::utimensat),
    row(281, "epoll_pwait", &[Fd, Pointer, Number, Number, Pointer, Size], epoll::epoll_pwait),
    row(283, "timerfd_create", &[Clock, OpenFlags], events::timerfd_create),
    row(284, "eventfd", &[Size], events::eventfd),
    row(285, "fallocate", &[Fd, Hex, Size, Size], open::fallocate),
    row(286, "timerfd_settime", &[Fd, Hex, Pointer, Pointer], events::timerfd_settime),
    row(287, "timerfd_gettime", &[Fd, Pointer], events::timerfd_gettime),
    row(288, "accept4", &[Fd, Pointer, Pointer, SocketKind], sockets::accept4),
    row(290, "eventfd2", &[Size, Hex], events::eventfd2),
    row(291, "epoll_create1", &[OpenFlags], epoll::epoll_create1),
    row(292, "dup3", &[Fd, Fd, OpenFlags], descriptors::dup3),
    row(293, "pipe2", &[Pointer, OpenFlags], open::pipe2),
    row(295, "preadv", &[Fd, Pointer, Size, Number], transfer::preadv),
    row(296, "pwritev", &[Fd, Pointer, Size, Number], transfer::pwritev),
    row(297, "rt_tgsigqueueinfo", &[Number, Number, Signal, Pointer], kill::rt_tgsigqueueinfo),
    row(299, "recvmmsg", &[Fd, Pointer, Size, MessageFlags, Time], messages::recvmmsg),
    row(302, "prlimit64", &[Number, Number, Pointer, Pointer], identity::prlimit64),
    row(307, "sendmmsg", &[Fd, Pointer, Size, MessageFlags], messages::sendmmsg),
    row(309, "getcpu", &[Pointer, Pointer, Pointer], system::getcpu),
    row(316, "renameat2", &[At, Path, At, Path, Hex], directory::renameat2),
    row(318, "getrandom", &[Pointer, Size, Hex], system::random),
    row(326, "copy_file_range", &[Fd, Pointer, Fd, Pointer, Size, Hex], transfer::copy_file_range),
    row(332, "statx", &[At, Path, AtFlags, Hex, Pointer], attributes::statx),
    row(436, "close_range", &[Fd, Fd, Hex], open::close_range),
    row(439, "faccessat2", &[At, Path, AccessMode, AtFlags], open::faccessat2),
    row(441, "epoll_pwait2", &[Fd, Pointer, Number, Time, Pointer, Size], epoll::epoll_pwait2),
];

/// The call of a number.
pub fn find(number: u64) -> Option<&'static Row> {
    ROWS.binary_search_by_key(&number, |row| row.number).ok().map(|index| &ROWS[index])
}

/// The number of a call by its name.
pub fn number(name: &str) -> Option<u64> {
    ROWS.iter().find(|row| row.name == name).map(|row| row.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_ascend_and_are_found() {
        assert!(ROWS.windows(2).all(|pair| pair[0].number < pair[1].number));
        assert_eq!(find(257).map(|row| row.name), Some("openat"));
        assert_eq!((number("openat"), find(9999).is_none(), number("nothing")), (Some(257), true, None));
        assert!(ROWS.iter().all(|row| row.forms.len() <= 6));
    }
    #[test]
    fn the_page_lists_the_calls_that_are_answered_and_no_others() {
        let page = include_str!("../../../docs/process-vm.md");
        let table = page.lines().skip_while(|line| *line != "| about | calls | answered in |").skip(2);
        let cells = table.take_while(|line| !line.is_empty()).filter_map(|line| line.split('|').nth(2));
        let mut listed: Vec<_> =
            cells.flat_map(|cell| cell.split(',')).map(|call| call.trim().trim_matches('`')).collect();
        let mut answered: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        listed.sort_unstable();
        answered.sort_unstable();
        assert_eq!(listed, answered);
        assert!(
            page.contains(&format!("\n{} calls are.", ROWS.len())),
            "docs/process-vm.md has another number of calls"
        );
    }
}
