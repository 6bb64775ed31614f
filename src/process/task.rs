//! A thread of a program, as the system calls see it: its registers, what it shares with others, and its memory.
//!
//! Which parts two threads share is decided when one makes the other (clone(2)); each part is held by reference.
//! Source: clone(2).

use super::files::{Files, OpenFile};
use super::load::Image;
use super::paths::PATH_MAX;
use super::signal::handling::Handling;
use super::space::{Access, Space};
use super::windows::guest::Guest;
use super::world::{FIRST_ID, Process, World};
use crate::arch::cpu_state::{RFLAGS_FIXED, RFLAGS_IF, Registers};
use crate::bus::bus::lock;
use crate::kvm::user_mode::Extended;
use rustix::io::Errno;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a thread or process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It said so, with this status.
    Exited(u8),
    /// By this signal.
    Killed(i32),
}

impl End {
    /// As wait4(2) tells it.
    pub fn wait_status(self) -> u32 {
        match self {
            End::Exited(status) => u32::from(status) << 8,
            End::Killed(signal) => signal as u32 & 0x7f,
        }
    }

    /// As a shell tells it.
    pub fn shell_status(self) -> i32 {
        match self {
            End::Exited(status) => status.into(),
            End::Killed(signal) => 128 + signal,
        }
    }
}

/// Where relative paths begin, and which permissions new files do not get.
#[derive(Clone, Debug)]
pub struct Place {
    /// The working directory, an absolute path below the root.
    pub directory: Vec<u8>,
    /// The mask of umask(2).
    pub umask: u32,
}

/// What has to happen to the vCPU before the thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Only general registers.
    Nothing,
    /// The bases of FS and GS too.
    Bases,
    /// All: another program was loaded.
    Program,
}

/// A thread.
pub struct Task {
    /// What all programs share.
    pub world: Arc<World>,
    /// The process that it belongs to.
    pub process: Arc<Process>,
    /// Its number.
    pub id: i32,
    /// Its memory.
    pub space: Arc<Mutex<Space>>,
    /// Its open files.
    pub files: Arc<Mutex<Files>>,
    /// Its working directory.
    pub place: Arc<Mutex<Place>>,
    /// General registers in ring 3.
    pub regs: Registers,
    /// Base of FS.
    pub fs_base: u64,
    /// Base of GS.
    pub gs_base: u64,
    /// Signals that are blocked, signal 1 in bit 0. Whoever sends one has a copy; `set_blocked` changes both.
    pub blocked: u64,
    /// What it keeps for its signals.
    pub handling: Handling,
    /// Word that is cleared, and woken, at its end; 0 for none.
    pub clear_at_end: u64,
    /// How it has ended.
    pub end: Option<End>,
    /// What it did to be killed.
    pub reason: Option<String>,
    /// What it is where its program is not one of Linux'.
    pub foreign: Option<Box<Guest>>,
    /// What the vCPU needs before it goes on.
    pub reload: Reload,
    /// Extended state that the vCPU begins with; none: that after reset.
    pub extended: Option<Extended>,
    /// A child that the last call has made and that is to begin.
    pub born: Option<Box<Task>>,
    /// Where its parent waits until it has a program of its own, or ends.
    pub gate: Option<Arc<Gate>>,
}

/// What a parent waits at after vfork(2).
#[derive(Default)]
pub struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// The parent goes on.
    pub fn open(&self) {
        *lock(&self.is_open) = true;
        self.opened.notify_all();
    }

    /// Waits until it is open, or `given_up` says otherwise, which is asked now and then.
    pub fn pass(&self, given_up: impl Fn() -> bool) {
        /// How long the end of a waiting process may take.
        const PATIENCE: Duration = Duration::from_millis(10);
        let mut is_open = lock(&self.is_open);
        while !*is_open && !given_up() {
            let result = self.opened.wait_timeout(is_open, PATIENCE);
            is_open = result.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Task {
    /// The thread of the first process, which has done nothing yet.
    pub fn first(world: Arc<World>, space: Space, files: Files, place: Place, reload: Reload) -> Task {
        Task {
            process: Arc::new(Process::new(FIRST_ID, 1, FIRST_ID)),
            id: world.processes.new_id(),
            space: Arc::new(Mutex::new(space)),
            files: Arc::new(Mutex::new(files)),
            place: Arc::new(Mutex::new(place)),
            regs: Registers::default(),
            fs_base: 0,
            gs_base: 0,
            blocked: 0,
            handling: Handling::default(),
            clear_at_end: 0,
            end: None,
            reason: None,
            foreign: None,
            reload,
            extended: None,
            born: None,
            gate: None,
            world,
        }
    }

    /// Its memory, locked.
    pub fn memory(&self) -> MutexGuard<'_, Space> {
        lock(&self.space)
    }

    /// Copies `N` bytes out of its memory.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read<const N: usize>(&self, address: u64) -> Result<[u8; N], Errno> {
        let mut bytes = [0; N];
        self.memory().read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Copies `size` bytes out of its memory; the caller bounds them.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_vec(&self, address: u64, size: usize) -> Result<Vec<u8>, Errno> {
        let mut memory = self.memory();
        // So that nothing is allocated for what is not there.
        if memory.reachable(address, size, Access::Read) < size {
            return Err(Errno::FAULT);
        }
        let mut bytes = vec![0; size];
        memory.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// A word of 64 bits.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_u64(&self, address: u64) -> Result<u64, Errno> {
        self.read(address).map(u64::from_le_bytes)
    }

    /// Copies bytes into its memory.
    ///
    /// # Errors
    /// EFAULT.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        Ok(self.memory().write(address, bytes)?)
    }

    /// The open file of a number, as an argument.
    ///
    /// # Errors
    /// EBADF.
    pub fn file(&self, number: u64) -> Result<Arc<OpenFile>, Errno> {
        lock(&self.files).get(number as i32)
    }

    /// Gives a file the lowest free number.
    ///
    /// # Errors
    /// EMFILE.
    pub fn add_file(&self, file: Arc<OpenFile>, close_on_exec: bool) -> Result<u64, Errno> {
        lock(&self.files).add(file, close_on_exec, 0).map(|number| number as u64)
    }

    /// The text of a path argument.
    ///
    /// # Errors
    /// EFAULT, ENAMETOOLONG.
    pub fn text(&self, address: u64) -> Result<Vec<u8>, Errno> {
        self.memory().read_text(address, PATH_MAX)
    }

    /// The absolute path that a path argument means, relative to the directory `at` (AT_FDCWD: the working directory).
    ///
    /// # Errors
    /// EFAULT, ENAMETOOLONG, ENOENT for an empty one, EBADF, ENOTDIR.
    pub fn path(&self, at: u64, address: u64) -> Result<Vec<u8>, Errno> {
        match self.text(address)? {
            path if path.is_empty() => Err(Errno::NOENT),
            path => self.absolute(at, path),
        }
    }

    /// The absolute path that `path` means.
    ///
    /// # Errors
    /// EBADF, ENOTDIR, ENOENT.
    pub fn absolute(&self, at: u64, path: Vec<u8>) -> Result<Vec<u8>, Errno> {
        if path == b"/proc/self/exe" {
            return Ok(lock(&self.process.program).clone());
        }
        if path.first() == Some(&b'/') {
            return Ok(path);
        }
        let mut absolute = match at as i32 {
            libc::AT_FDCWD => lock(&self.place).directory.clone(),
            _ => {
                let file = self.file(at)?;
                let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(file.fd())?.st_mode);
                if kind != rustix::fs::FileType::Directory {
                    return Err(Errno::NOTDIR);
                }
                self.world.root.place_of(file.fd())?
            }
        };
        absolute.push(b'/');
        absolute.extend(path);
        Ok(absolute)
    }

    /// It ends by a signal that no handler gets.
    pub fn kill(&mut self, signal: i32, reason: String) {
        self.reason = Some(format!("{reason}, by the instruction at {:#x}", self.regs.rip));
        self.world.processes.end(&self.process, End::Killed(signal));
    }

    /// Whether it is to end, and how.
    pub fn ends(&self) -> Option<End> {
        self.process.ending().or(self.end)
    }

    /// The last that is done for it: the word that others may wait for is cleared, and a parent that waits goes on.
    pub fn finish(&mut self) {
        if self.clear_at_end != 0 && self.write(self.clear_at_end, &[0; 4]).is_ok() {
            let own = Arc::as_ptr(&self.space) as usize;
            let key = self.memory().object_at(self.clear_at_end, own);
            key.map(|key| self.world.futexes.wake(key, 1, u32::MAX));
        }
        if let Some(gate) = self.gate.take() {
            gate.open();
        }
    }

    /// Replaces its program, which it has alone: what execve(2) keeps stays.
    ///
    /// # Errors
    /// The program cannot be loaded; nothing of the old one is left then.
    pub fn become_program(&mut self, image: &Image) -> Result<(), Errno> {
        let mut space = Space::new(self.world.frames.clone(), &self.world.trees).ok_or(Errno::NOMEM)?;
        let (rip, rsp) = image.load(&mut space)?;
        self.space = Arc::new(Mutex::new(space));
        let mut files = lock(&self.files).clone();
        files.close_all(|_, descriptor| descriptor.close_on_exec);
        self.files = Arc::new(Mutex::new(files));
        lock(&self.process.signals).reset_handlers();
        lock(&self.process.timers).delete_all();
        self.handling = Handling::default();
        *lock(&self.process.program) = image.path.clone();
        let name = image.path.rsplit(|byte| *byte == b'/').next().unwrap_or(&[]);
        let mut short = [0; 16];
        let size = name.len().min(15);
        short[..size].copy_from_slice(&name[..size]);
        *lock(&self.process.name) = short;
        self.regs = Registers { rip, rsp, rflags: RFLAGS_FIXED | RFLAGS_IF, ..Registers::default() };
        (self.fs_base, self.gs_base, self.clear_at_end) = (0, 0, 0);
        self.reload = Reload::Program;
        if let Some(gate) = self.gate.take() {
            gate.open();
        }
        Ok(())
    }
}
