//! `hostel exec` from its options to what is told of it: the program's status, or why there is none.
//!
//! The control thread waits for the program's end and the deadline; each thread of a program has one of Hostel's and a vCPU. Signals are
//! not caught: one that would end the program natively ends Hostel, and its machine with it. `signal/terminal.rs` has the exception.
//! Source: signal(7).

use super::dos::run as dos;
use super::files::{Files, OpenFile};
use super::load::Image;
use super::options::ExecConfig;
use super::outcome::{DEADLINE, ExecError, FAILED, Finished, listed};
use super::paths::Root;
use super::processes::RunEnd;
use super::space::Space;
use super::syscall::names;
use super::syscall::open::HERE;
use super::task::{End, Place, Reload, Task};
use super::trace::{self, Trace};
use super::trap;
use super::vcpus::Vcpus;
use super::windows::guest;
use super::windows::start::Invocation;
use super::world::{FIRST_ID, World};
use crate::kvm::kick;
use crate::memory::map::MemoryMap;
use crate::memory::ram::GuestRam;
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::Instant;

/// Runs the program that `config` asks for, to its end or the deadline.
///
/// # Errors
/// It could not be started, or the machine failed.
pub fn run(config: &ExecConfig) -> Result<Finished, ExecError> {
    let root = Root::open(&config.root, config.allow_write)?;
    let place = place(&root);
    let trace = config.trace.then(|| Trace::new(Box::new(std::io::stderr())));
    let names = candidates(config.program[0].as_bytes());
    if let Some(program) = names.iter().find_map(|path| dos::find(&root, &place, path)) {
        return dos::run(config, &program, (root, place), trace);
    }
    let map = MemoryMap::new(config.memory())?;
    let ram = Arc::new(GuestRam::new(&map)?);
    let world = World::new(ram.clone(), &map, root, config.rules(), trace).ok_or(ExecError::NoMemory)?;
    let world = Arc::new(world);
    let mut task = first_task(world.clone(), place)?;
    start(&mut task, config)?;
    kick::install_handler().map_err(ExecError::Kick)?;
    world.terminal.open();
    trap::start(task, &Arc::new(Vcpus::new(ram)?))?;
    let deadline = config.timeout.map(|timeout| Instant::now() + timeout);
    let mut said = Vec::new();
    let mut signal = None;
    let status = match world.processes.supervise(deadline, || world.futexes.look_up()) {
        RunEnd::Ended(end) => {
            world.tell_end(FIRST_ID, end);
            // As natively, whoever started it sees that it was interrupted.
            signal = Some(libc::SIGINT).filter(|signal| end == End::Killed(*signal) && world.terminal.has_handed_on());
            match (end, world.reason()) {
                (End::Killed(signal), Some(reason)) => {
                    said.push(format!("the program was ended by {}: {reason}", trace::signal(signal)));
                }
                (End::Exited(_), reason) => said.extend(reason),
                (End::Killed(_), None) => {}
            }
            end.shell_status()
        }
        RunEnd::Deadline => {
            said.push("the deadline has passed".into());
            DEADLINE
        }
        RunEnd::Interrupted => {
            signal = Some(libc::SIGINT);
            End::Killed(libc::SIGINT).shell_status()
        }
        RunEnd::Broken(reason) => {
            said.push(reason);
            FAILED
        }
    };
    said.extend(unknown(&world));
    said.extend(refused(&world));
    Ok(Finished { status, said, signal })
}

/// A line about the calls that were not known.
fn unknown(world: &World) -> Option<String> {
    let name = |number| names::name(number).map_or_else(|| format!("number {number}"), str::to_owned);
    let calls = world.unknown().into_iter().map(|(number, count)| (name(number), count));
    listed("system calls that are not supported and got ENOSYS", calls)
}

/// A line about what sockets were not allowed.
fn refused(world: &World) -> Option<String> {
    let what = world.sockets.refused().into_iter().map(|(what, count)| (what.words().to_owned(), count));
    listed("refused with EACCES, since --allow-net was not given", what)
}

/// The thread of a process that has no program yet.
fn first_task(world: Arc<World>, place: Place) -> Result<Task, ExecError> {
    let space = Space::new(world.frames.clone(), &world.trees).ok_or(ExecError::NoMemory)?;
    Ok(Task::first(world, space, Files::standard(), place, Reload::Program))
}

/// This process's working directory as the program sees it (the root, where it lies outside), and its mask.
fn place(root: &Root) -> Place {
    // The mask is applied to each mode that a program gives, so this process needs none.
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let here = rustix::fs::open(".", flags, rustix::fs::Mode::empty());
    let directory = here.ok().and_then(|fd| root.place_of(OpenFile::new(fd, true).fd()).ok());
    Place { directory: directory.unwrap_or_else(|| b"/".to_vec()), umask: umask.bits() }
}

/// Loads the program into `task`.
fn start(task: &mut Task, config: &ExecConfig) -> Result<(), ExecError> {
    let words: Vec<Vec<u8>> = config.program.iter().map(|word| word.clone().into_vec()).collect();
    let entry = |(name, value): (OsString, OsString)| [name.into_vec(), value.into_vec()].join(&b'=');
    let environment: Vec<_> = std::env::vars_os().map(entry).collect();
    let failed = |error: Errno| ExecError::Program { program: config.program[0].clone(), source: error.into() };
    let mut result = Err(Errno::NOENT);
    for path in candidates(&words[0]) {
        if let Some(file) = guest::find(task, &path) {
            return start_foreign(task, config, path, &file);
        }
        match Image::find(task, path, words.clone(), environment.clone()) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(Errno::ACCESS) => result = Err(Errno::ACCESS),
            found => {
                result = found;
                break;
            }
        }
    }
    let image = result.map_err(failed)?;
    task.become_program(&image).map_err(failed)
}

/// Loads a program of another system into `task`.
fn start_foreign(task: &mut Task, config: &ExecConfig, path: Vec<u8>, file: &OpenFile) -> Result<(), ExecError> {
    let program = config.program[0].clone();
    if !(config.deny.is_empty() && config.allow.is_empty()) {
        return Err(ExecError::Rules { program, system: "Windows" });
    }
    let arguments = config.program[1..].iter().map(|word| word.clone().into_vec()).collect();
    let environment = std::env::vars_os().map(|(name, value)| (name.into_vec(), value.into_vec())).collect();
    let path = task.absolute(HERE, path).unwrap_or_default();
    let how = Invocation { path, arguments, environment };
    guest::load(task, file, how).map_err(|source| ExecError::Foreign { program, source })
}

/// Where a program of this name may be.
fn candidates(name: &[u8]) -> Vec<Vec<u8>> {
    if name.contains(&b'/') {
        return vec![name.to_vec()];
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    path.into_vec().split(|byte| *byte == b':').map(|place| [place, name].join(&b'/')).collect()
}
