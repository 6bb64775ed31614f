//! Options of `hostel exec`, parsed into valid values. The doc comments are the help texts.

use super::syscall::table;
use super::world::Rules;
use crate::arch::layout::MIB;
use crate::memory::map::MemoryMap;
use crate::memory::size::parse_size;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Memory unless told otherwise.
const DEFAULT_MEMORY: u64 = 1024 * MIB;

/// Options of `hostel exec`.
#[derive(Args, Clone, Debug)]
pub struct ExecConfig {
    /// The program and its arguments; without a slash it is looked for in PATH
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,

    /// The directory that the program sees as /
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,

    /// Let it change the host's files; without, they are read-only
    #[arg(long)]
    pub allow_write: bool,

    /// Let its sockets reach the host's networks and the host's own sockets; without, those of its own machine
    #[arg(long)]
    pub allow_net: bool,

    /// Print each system call, library call of a program for Windows or function of DOS, as strace does, on standard error
    #[arg(long)]
    pub trace: bool,

    /// Answer these system calls with EPERM
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = parse_call)]
    pub deny: Vec<u64>,

    /// Answer all system calls but these with EPERM; exit is always possible
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = parse_call)]
    pub allow: Vec<u64>,

    /// Most memory of all its processes together: 64M, 2G; a bare number is MiB [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    pub mem: Option<u64>,

    /// End it after this time, with status 124: 10s, 500ms, 2m
    #[arg(long, value_name = "TIME", value_parser = crate::config::parse_duration)]
    pub timeout: Option<Duration>,
}

impl ExecConfig {
    /// Most memory.
    pub fn memory(&self) -> u64 {
        self.mem.unwrap_or(DEFAULT_MEMORY)
    }

    /// Which calls are possible.
    pub fn rules(&self) -> Rules {
        let (denied, allowed) = (self.deny.iter().copied().collect(), self.allow.iter().copied().collect());
        Rules { denied, allowed, net: self.allow_net }
    }
}

fn parse_call(name: &str) -> Result<u64, String> {
    table::number(name).ok_or_else(|| "no system call of this name is answered".into())
}

fn parse_memory(text: &str) -> Result<u64, String> {
    /// Ring 0's pages, tables, and a little for the program.
    const LEAST: u64 = 4 * MIB;
    let size = parse_size(text)?;
    MemoryMap::new(size).map_err(|error| error.to_string())?;
    if size < LEAST { Err("a program needs at least 4M".into()) } else { Ok(size) }
}
