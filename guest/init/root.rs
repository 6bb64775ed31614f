//! `--root`: a directory of the host becomes the root, and a command runs there. Its status goes to Hostel through a named port of the
//! virtio console; this process stays, and takes in processes that lost their parent.
//!
//! What to do stands in files of the initramfs (`src/machine/root.rs`). With `overlay` the directory is only read, and what is written
//! goes to a file system in memory above it.
//! Sources: Linux overlayfs.rst "Upper and Lower"; virtiofs.rst; virtio 1.2 §5.3; switch_root(8).

use crate::filesystems::{self, PLAIN, READ_ONLY};
use crate::network::{self, Network};
use crate::processes::{self, Program, Sides};
use crate::syscalls::{self, Access, Ending, Errno};
use crate::{agent, commands, console, end, print};

/// What the share is mounted by.
const TAG: &str = "hostel.root";
/// The name of the port to Hostel.
const PORT: &[u8] = b"hostel.status\n";
/// Where the system's ports have their names.
const PORTS: &str = "/sys/class/virtio-ports";
/// The longest arguments, environment and path; Hostel refuses longer ones.
const TEXT: usize = 64 << 10;
const WORDS: usize = 512;
/// How often, and how far apart, a driver is looked for.
const TRIES: u32 = 500;
const PAUSE_MS: u64 = 10;

/// Why there is no command: what failed, and how.
struct Failure(&'static str, Errno);

/// Names what failed.
fn named(what: &'static str) -> impl Fn(Errno) -> Failure {
    move |error| Failure(what, error)
}

/// Does all of it if it is asked for; comes back if it is not.
pub fn start() {
    let mut mode = [0; 16];
    let Ok(mode) = commands::read_file("/hostel/mode", &mut mode) else { return };
    let Some(port) = find_port() else {
        print!("there is no port to tell Hostel the command's status: has the kernel virtio_console?\n");
        syscalls::exit(crate::FAILED)
    };
    if let Err(Failure(what, error)) = run(mode, port) {
        tell(port, format_args!("failed {what}: {error}\n"));
    }
    // Hostel ends the machine when it has read the status.
    (0..TRIES).for_each(|_| syscalls::sleep(PAUSE_MS));
    end(Ending::PowerOff)
}

/// Runs the command and tells how it ended.
fn run(mode: &str, port: usize) -> Result<(), Failure> {
    let (mut arguments, mut environment) = ([0; TEXT], [0; TEXT]);
    let (mut file, mut path, mut directory, mut sides) = ([0; 4096], [0; 4096], [0; 4096], [0; 16]);
    let (mut name, mut network) = ([0; 64], [0; 128]);
    let read = named("read what to run");
    let arguments = strings("/hostel/arguments", &mut arguments).map_err(&read)?;
    let environment = strings("/hostel/environment", &mut environment).map_err(&read)?;
    let file = commands::read_file("/hostel/file", &mut file).map_err(&read)?;
    let path = commands::read_file("/hostel/path", &mut path).map_err(&read)?;
    let directory = commands::read_file("/hostel/directory", &mut directory).map_err(&read)?;
    let sides = commands::read_file("/hostel/terminal", &mut sides).map_err(&read)?;
    let name = commands::read_file("/hostel/name", &mut name).map_err(&read)?;
    let network = Network::read(&mut network);
    let sides =
        Sides { input: sides.contains("input"), output: sides.contains("output"), size: sides.contains("size") };

    let terminal = console::open().map_err(named("open /dev/hvc0"))?;
    processes::set_up_terminal(terminal, sides).map_err(named("set up /dev/hvc0"))?;
    if sides.size {
        processes::wait_for_size(terminal);
    }
    mount_root(mode)?;
    mount_inside();
    filesystems::switch_root("/root").map_err(named("switch to the new root"))?;
    processes::set_host_name(name);
    // A kernel without networks has none to bring up.
    let _ = network::bring_up_loopback();
    if let Some(network) = network
        && let Err(error) = network.set_up(mode == "rw")
    {
        print!("cannot set the network up: {error}\n");
    }
    // It works in this root, too.
    agent::start();
    if filesystems::change_directory(directory).is_err() {
        let _ = filesystems::change_directory("/");
    }
    tell(port, format_args!("ready\n"));
    let program = Program { path, file, arguments: &arguments, environment: &environment };
    match processes::start(&program, terminal) {
        Ok(child) => {
            let status = processes::wait_for(child).map_err(named("wait for the command"))?;
            processes::drain(terminal);
            filesystems::synchronize();
            // wait(2): the low seven bits name a signal, the second byte is what the program passed to exit.
            match status & 0x7f {
                0 => tell(port, format_args!("exit {}\n", status >> 8 & 0xff)),
                signal => tell(port, format_args!("signal {signal}\n")),
            }
        }
        Err(error) => tell(port, format_args!("unstarted {}\n", error.0)),
    }
    Ok(())
}

/// Mounts the share at `/root`, under a layer in memory where it is not to be written.
fn mount_root(mode: &str) -> Result<(), Failure> {
    let share = named("mount the directory: has the kernel virtiofs?");
    if mode == "rw" {
        return filesystems::mount(TAG, "/root", "virtiofs", 0, "").map_err(share);
    }
    filesystems::mount(TAG, "/below", "virtiofs", READ_ONLY, "").map_err(share)?;
    filesystems::mount("tmpfs", "/layer", "tmpfs", 0, "mode=755").map_err(named("mount memory"))?;
    for directory in ["/layer/upper", "/layer/work"] {
        filesystems::make_directory(directory).map_err(named("make the layer"))?;
    }
    let options = "lowerdir=/below,upperdir=/layer/upper,workdir=/layer/work";
    filesystems::mount("overlay", "/root", "overlay", 0, options)
        .map_err(named("mount the layer over the directory: has the kernel overlay?"))
}

/// Mounts what a system has besides files. A directory that has no place for one of them goes without it.
fn mount_inside() {
    for (source, target, kind, flags, options) in [
        ("proc", "/root/proc", "proc", PLAIN, ""),
        ("sysfs", "/root/sys", "sysfs", PLAIN, ""),
        ("devtmpfs", "/root/dev", "devtmpfs", 0, ""),
        ("devpts", "/root/dev/pts", "devpts", 0, "ptmxmode=666,mode=620,gid=5"),
        ("tmpfs", "/root/dev/shm", "tmpfs", 0, "mode=1777"),
        ("tmpfs", "/root/run", "tmpfs", 0, "mode=755"),
    ] {
        let mounted =
            filesystems::make_directory(target).and_then(|()| filesystems::mount(source, target, kind, flags, options));
        if let Err(error) = mounted {
            print!("cannot mount {target}: {error}\n");
        }
    }
    for (target, path) in [("/proc/self/fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr")] {
        let _ = filesystems::change_directory("/root/dev").and_then(|()| filesystems::link(target, path));
    }
    let _ = filesystems::make_directory("/root/tmp");
}

/// Pointers to the strings in a file, each ended by a zero byte, and a null pointer behind them.
fn strings(path: &str, buffer: &mut [u8]) -> Result<[usize; WORDS + 1], Errno> {
    let bytes = commands::read_file(path, buffer)?.len();
    let mut pointers = [0; WORDS + 1];
    let mut at = 0;
    for pointer in pointers.iter_mut().take(WORDS) {
        if at >= bytes {
            break;
        }
        *pointer = buffer.as_ptr() as usize + at;
        at += buffer[at..bytes].iter().position(|&byte| byte == 0).map_or(bytes, |length| length + 1);
    }
    Ok(pointers)
}

/// The port to Hostel, when the driver has made it and knows its name.
fn find_port() -> Option<usize> {
    for _ in 0..TRIES {
        let found = commands::directory(PORTS, |name| {
            let mut path = [0; 64];
            let mut text = [0; 32];
            let path = commands::joined(&[PORTS.as_bytes(), b"/", name, b"/name"], &mut path)?;
            let said = commands::read_file(path, &mut text).ok()?;
            let mut device = [0; 64];
            let device = commands::joined(&[b"/dev/", name], &mut device)?;
            (said.as_bytes() == PORT).then(|| syscalls::open(device, Access::Both).ok())?
        });
        if let Ok(Some(port)) = found {
            return Some(port);
        }
        syscalls::sleep(PAUSE_MS);
    }
    None
}

/// Tells Hostel something, in a line.
fn tell(port: usize, text: core::fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; 128], length: 0 };
    let _ = core::fmt::Write::write_fmt(&mut line, text);
    if let Err(error) = syscalls::write_all(port, &line.bytes[..line.length]) {
        print!("cannot tell Hostel: {error}\n");
    }
}

/// A line that is put together.
struct Line {
    bytes: [u8; 128],
    length: usize,
}

impl core::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = self.bytes.get_mut(self.length..self.length + text.len()).ok_or(core::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}
