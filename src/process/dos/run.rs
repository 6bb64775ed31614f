//! A DOS program from its file to what is told of it: a machine of its own, and one thread that runs it and answers it.
//!
//! A `.COM` file has nothing in it that says what it is, so its name does, unless it begins like a program of another kind. At the deadline
//! the thread is left alone: it ends with Hostel's process, which has nothing else to do.
//! Source: Interrupt List, INT 21h function 4Bh.

use super::machine::Machine;
use super::memory::Memory;
use super::program::{self, PROGRAM_MAX};
use crate::arch::cpuid;
use crate::arch::irqchip::Irqchip;
use crate::kvm::system::{KvmError, System};
use crate::kvm::vcpu::Vcpu;
use crate::kvm::vm::Vm;
use crate::memory::ram::GuestRam;
use crate::process::files::{Files, OpenFile};
use crate::process::host_files::{HostFiles, absolute, open_program};
use crate::process::options::ExecConfig;
use crate::process::outcome::{DEADLINE, ExecError, FAILED, Finished};
use crate::process::paths::Root;
use crate::process::task::{End, Place};
use crate::process::trace::{self, Trace};
use crate::process::vcpus::VcpuError;
use crate::process::world::FIRST_ID;
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Time without a deadline.
const FOREVER: Duration = Duration::from_secs(1 << 32);

/// A DOS program's file.
pub struct Program {
    path: Vec<u8>,
    file: Arc<OpenFile>,
}

/// The DOS program at `path`, if there is one. It need not be marked as executable, since such programs seldom are.
pub fn find(root: &Root, place: &Place, path: &[u8]) -> Option<Program> {
    const NAME_END: usize = 4;
    let end = path.len().checked_sub(NAME_END)?;
    if !path[end..].eq_ignore_ascii_case(b".com") {
        return None;
    }
    let path = absolute(place, path);
    let file = open_program(root, &path)?;
    let head = file.read_at(0, 4);
    let is_other = [b"\x7fELF".as_slice(), b"#!", b"MZ"].iter().any(|mark| head.starts_with(mark));
    (!is_other).then_some(Program { path, file })
}

/// Runs the program to its end or the deadline.
///
/// # Errors
/// It does not fit, an option means nothing to it, or the machine failed.
pub fn run(
    config: &ExecConfig,
    program: &Program,
    (root, place): (Root, Place),
    trace: Option<Trace>,
) -> Result<Finished, ExecError> {
    let name = config.program[0].clone();
    if !(config.deny.is_empty() && config.allow.is_empty()) {
        return Err(ExecError::Rules { program: name, system: "DOS" });
    }
    if config.mem.is_some() {
        return Err(ExecError::Megabyte { program: name });
    }
    let memory = Memory::new()?;
    let arguments: Vec<_> = config.program[1..].iter().map(|word| word.as_bytes().to_vec()).collect();
    // One byte more than fits tells that it does not.
    let file = program.file.read_at(0, PROGRAM_MAX + 1);
    let entry = program::load(&memory, &file, &program.path, &arguments);
    let entry = entry.map_err(|source| ExecError::Dos { program: name, source })?;
    let (vm, mut vcpu) = machine(memory.0.clone()).map_err(VcpuError::from)?;
    let (sender, receiver) = mpsc::channel();
    let live = move || {
        // Its memory is the machine's as long as the vCPU runs.
        let _vm = vm;
        let (open, place) = (Mutex::new(Files::standard()), Mutex::new(place));
        let mut files = HostFiles { root: &root, open: &open, place: &place };
        let mut machine = Machine::new(memory, &mut files, trace.as_ref());
        let end = machine.run(&mut vcpu, &entry);
        if let (Ok(end), Some(trace)) = (&end, &trace) {
            trace.ended(FIRST_ID, *end);
        }
        // Nobody hears it who has given up at the deadline.
        let _ = sender.send(finished(end, machine.said()));
    };
    std::thread::Builder::new().name("dos".into()).spawn(live).map_err(ExecError::Thread)?;
    Ok(receiver.recv_timeout(config.timeout.unwrap_or(FOREVER)).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => {
            Finished { status: DEADLINE, said: vec!["the deadline has passed".into()], signal: None }
        }
        RecvTimeoutError::Disconnected => {
            Finished { status: FAILED, said: vec!["the program's thread is gone".into()], signal: None }
        }
    }))
}

/// A machine on `ram`.
fn machine(ram: Arc<GuestRam>) -> Result<(Vm, Vcpu), KvmError> {
    let system = System::open()?;
    let vm = Vm::new(&system, Irqchip::None, ram)?;
    let vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid(&cpuid::for_vcpu(&system.supported_cpuid()?, 0, 1, Irqchip::None))?;
    Ok((vm, vcpu))
}

/// What is told of an end.
fn finished(end: Result<End, VcpuError>, mut said: Vec<String>) -> Finished {
    let status = match end {
        Ok(end) => {
            if let (End::Killed(signal), Some(reason)) = (end, said.first_mut()) {
                *reason = format!("the program was ended by {}: {reason}", trace::signal(signal));
            }
            end.shell_status()
        }
        Err(error) => {
            said.insert(0, error.to_string());
            FAILED
        }
    };
    Finished { status, said, signal: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_name_tells_a_program_unless_its_bytes_tell_another() {
        let directory = std::env::temp_dir().join(format!("hostel-dos-find-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let root = Root::open(&directory, false).unwrap();
        let place = Place { directory: b"/".to_vec(), umask: 0 };
        for (name, content, is_program) in [
            ("a.com", "\u{b4}", true),
            ("B.COM", "", true),
            ("c.com", "\x7fELF", false),
            ("d.com", "#!/bin/sh", false),
            ("e.com", "MZ", false),
            ("f.exe", "\u{b4}", false),
            ("com", "\u{b4}", false),
        ] {
            std::fs::write(directory.join(Path::new(name)), content).unwrap();
            assert_eq!(find(&root, &place, name.as_bytes()).is_some(), is_program, "{name}");
        }
        assert!(find(&root, &place, b"none.com").is_none());
        std::fs::remove_dir_all(directory).unwrap();
    }
}
