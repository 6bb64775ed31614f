//! The guest's requests without a machine: the same blocks in the same order, as many at a time, through one io_uring.
//!
//! Source: io_uring(7).

use anyhow::{Context, Result, ensure};
use io_uring::{IoUring, opcode, types};
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// What the requests need to know.
struct Requests {
    ring: IoUring,
    fd: types::Fd,
    reads: bool,
    in_order: bool,
    bytes: usize,
    blocks: u64,
    /// As in `guest/bin/disk-bench.rs`.
    next: u64,
    /// The buffers, one after the other, at a multiple of a page.
    buffers: *mut u8,
}

/// Runs what the words say (file, past the page cache or not, and those of the guest) and returns the guest's line of it.
pub fn cycles(words: &[String]) -> Result<String> {
    let [path, direct, what, depth, kib, count] = words else { anyhow::bail!("{words:?}") };
    let (depth, kib, count): (usize, usize, u64) = (depth.parse()?, kib.parse()?, count.parse()?);
    let flags = if direct == "true" { libc::O_DIRECT } else { 0 };
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    let bytes = kib << 10;
    let mut memory = vec![1u8; bytes * depth + 4096];
    let start = memory.as_ptr().align_offset(4096);
    let buffers = memory[start..].as_mut_ptr();
    let mut requests = Requests {
        ring: IoUring::new(depth as u32)?,
        fd: types::Fd(file.as_raw_fd()),
        reads: what.ends_with("read"),
        in_order: !what.starts_with("rand"),
        bytes,
        blocks: file.metadata()?.len() / bytes as u64,
        next: 1,
        buffers,
    };
    requests.run(count, depth)?;
    let cycles = requests.run(count, depth)?;
    Ok(format!("{what} depth {depth} KiB {kib}: {count} requests in {cycles} cycles"))
}

impl Requests {
    /// Offers and awaits so many requests; returns the cycles that it took.
    fn run(&mut self, count: u64, depth: usize) -> Result<u64> {
        // SAFETY: reads a counter.
        let start = unsafe { core::arch::x86_64::_rdtsc() };
        let (mut to_offer, mut to_await) = (count, count);
        let mut free: Vec<usize> = (0..depth).collect();
        while to_await > 0 {
            while let Some(index) = free.pop_if(|_| to_offer > 0) {
                self.offer(index)?;
                to_offer -= 1;
            }
            self.ring.submit_and_wait(1)?;
            for entry in self.ring.completion() {
                ensure!(entry.result() == self.bytes as i32, "a request ends with {}", entry.result());
                free.push(entry.user_data() as usize);
                to_await -= 1;
            }
        }
        // SAFETY: as above.
        Ok(unsafe { core::arch::x86_64::_rdtsc() } - start)
    }

    fn offer(&mut self, index: usize) -> Result<()> {
        let offset = self.block() * self.bytes as u64;
        let size = self.bytes as u32;
        // SAFETY: one of as many buffers as there are indices, all in memory that outlives the ring's work.
        let buffer = unsafe { self.buffers.add(index * self.bytes) };
        let entry = match self.reads {
            true => opcode::Read::new(self.fd, buffer, size).offset(offset).build(),
            false => opcode::Write::new(self.fd, buffer, size).offset(offset).build(),
        };
        // SAFETY: the buffer is used by one request at a time and read by nobody meanwhile.
        unsafe { self.ring.submission().push(&entry.user_data(index as u64)) }.context("the ring has room")
    }

    fn block(&mut self) -> u64 {
        if self.in_order {
            self.next += 1;
        } else {
            self.next ^= self.next << 13;
            self.next ^= self.next >> 7;
            self.next ^= self.next << 17;
        }
        self.next % self.blocks
    }
}
