//! What a machine costs in memory beside the guest's own: this program runs itself with the sample `shell`, which waits for
//! input, and its mappings are looked at.
//!
//! Source: Linux Documentation/filesystems/proc.rst, `/proc/PID/smaps`.

use super::report::BenchError;
use serde::Serialize;
use std::env;
use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};

/// RAM of the guest: its mapping is recognized by its size.
const RAM: &str = "--mem=128M";
const RAM_KIB: u64 = 128 << 10;
/// What the guest prints when it waits.
const PROMPT: &[u8] = b"> ";

/// Resident memory of a machine that waits, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Of the guest's RAM.
    pub guest_kib: u64,
    /// All else.
    pub beyond_kib: u64,
    /// Of that, what is changed and nobody else's.
    pub private_dirty_kib: u64,
}

/// Measures it.
///
/// # Errors
/// The program cannot be started, or shows no prompt.
pub fn measure() -> Result<Memory, BenchError> {
    let mut command = Command::new(env::current_exe().map_err(BenchError::Start)?);
    command.args(["run", "shell", RAM]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(BenchError::Start)?;
    let memory = wait_for_prompt(&mut child)
        .and_then(|()| fs::read_to_string(format!("/proc/{}/smaps", child.id())))
        .map(|smaps| of_mappings(&smaps));
    // It waits for input that never comes.
    let _ = child.kill();
    let _ = child.wait();
    memory.map_err(BenchError::Start)
}

fn wait_for_prompt(child: &mut Child) -> std::io::Result<()> {
    let output = child.stdout.as_mut().expect("its output is a pipe");
    let (mut seen, mut bytes) = (Vec::new(), [0; 512]);
    while !seen.ends_with(PROMPT) {
        match output.read(&mut bytes)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => seen.extend(&bytes[..count]),
        }
    }
    Ok(())
}

/// Sums up `smaps`, whose lines are a mapping's head or "Name:  12 kB".
fn of_mappings(smaps: &str) -> Memory {
    let mut memory = Memory::default();
    let mut is_guest = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        let kib: u64 = value.parse().unwrap_or(0);
        match (name, is_guest) {
            // The first line below a head.
            ("Size:", _) => is_guest = kib == RAM_KIB,
            ("Rss:", true) => memory.guest_kib += kib,
            ("Rss:", false) => memory.beyond_kib += kib,
            ("Private_Dirty:", false) => memory.private_dirty_kib += kib,
            _ => {}
        }
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_ram_is_told_from_the_rest() {
        let smaps = "\
7f0000000000-7f0008000000 rw-p 00000000 00:00 0
Size:             131072 kB
Rss:                 300 kB
Private_Dirty:       300 kB
7f0008000000-7f0008002000 r-xp 00000000 08:01 7 /usr/bin/hostel
Size:                  8 kB
Rss:                   8 kB
Private_Dirty:         0 kB
7f0009000000-7f0009002000 rw-p 00000000 00:00 0 [heap]
Size:                  8 kB
Rss:                   4 kB
Private_Dirty:         4 kB
";
        assert_eq!(of_mappings(smaps), Memory { guest_kib: 300, beyond_kib: 12, private_dirty_kib: 4 });
        assert_eq!(of_mappings("nonsense\n"), Memory::default());
    }
}
