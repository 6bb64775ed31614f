//! Open files: the console, the network card, the disk.
//!
//! A descriptor is a place in its process's table. One of the disk has a block of 4 KiB, the one that was read last; a read elsewhere has
//! the disk fill it, and the thread sleeps until that is done, or is told to come again.

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::slice;

use guest::memory::write8;
use guest::serial;

use super::abi::{self, Error, FILE_READ_MAX, NAME_BYTES_MAX, NO_BLOCK, PAGE, READABLE, WRITABLE, WRITE_MAX};
use super::calls::Outcome;
use super::process::Process;
use super::thread::Thread;
use super::wait::{self, After, file_key};
use super::{console, disk, frames, net, time};

/// What a descriptor leads to.
#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub enum Kind {
    Closed,
    Console,
    Net,
    Disk,
}

/// What is in a descriptor's block.
#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub enum Block {
    /// Nothing.
    Empty,
    /// The disk is filling it.
    Coming,
    /// What the disk has there.
    Here,
    /// The disk could not.
    Failed,
}

/// An open file.
pub struct File {
    pub kind: Cell<Kind>,
    pub state: Cell<Block>,
    /// The block's memory, a frame of the kernel's, and which of the disk's it is.
    pub frame: Cell<u64>,
    pub block: Cell<u64>,
}

/// How long to wait before asking again for a place in a full queue.
const FULL_NS: u64 = 1_000_000;

/// The open file behind a descriptor.
fn find(process: &'static Process, descriptor: u64) -> Result<&'static File, Error> {
    process.files.get(descriptor as usize).filter(|file| file.kind.get() != Kind::Closed).ok_or(Error::BadFile)
}

/// Opens what has this name.
pub fn open(process: &'static Process, name: u64, bytes: u64) -> Outcome {
    if bytes > NAME_BYTES_MAX {
        return Err(Error::NoEntry);
    }
    let mut text = MaybeUninit::<[u8; NAME_BYTES_MAX as usize]>::uninit();
    process.space.copy_in(text.as_mut_ptr() as u64, name, bytes)?;
    // SAFETY: so many bytes have been copied there.
    let kind = match unsafe { slice::from_raw_parts(text.as_ptr().cast::<u8>(), bytes as usize) } {
        abi::CONSOLE => Kind::Console,
        abi::NET if net::mac() != 0 => Kind::Net,
        abi::DISK if disk::bytes() != 0 => Kind::Disk,
        _ => return Err(Error::NoEntry),
    };
    let place = process.files.iter().position(|file| file.kind.get() == Kind::Closed).ok_or(Error::NoMemory)?;
    let file = &process.files[place];
    if kind == Kind::Disk {
        file.frame.set(frames::KERNEL.any().ok_or(Error::NoMemory)?);
        file.state.set(Block::Empty);
    }
    file.kind.set(kind);
    Ok(Some(place as u64))
}

/// Closes a descriptor. Threads that wait for it come again, and find it closed.
pub fn close_descriptor(process: &'static Process, descriptor: u64) -> Outcome {
    let file = find(process, descriptor)?;
    close(file);
    wait::wake(file_key(&raw const *file as u64), u64::MAX, 0);
    wait::wake_pollers();
    Ok(Some(0))
}

/// Closes a file, if it is open. A block that is still coming is freed when it has come.
pub fn close(file: &'static File) {
    if file.kind.replace(Kind::Closed) == Kind::Disk {
        if file.state.replace(Block::Empty) == Block::Coming {
            disk::abandon(file);
        } else {
            frames::KERNEL.free(file.frame.get());
        }
    }
}

/// Bytes of the disk.
pub fn size(process: &'static Process, descriptor: u64) -> Outcome {
    match find(process, descriptor)?.kind.get() {
        Kind::Disk => Ok(Some(disk::bytes())),
        _ => Err(Error::BadFile),
    }
}

/// Reads.
pub fn read(thread: &'static Thread, descriptor: u64, to: u64, bytes: u64, offset: u64, flags: u64) -> Outcome {
    let process = thread.process();
    let file = find(process, descriptor)?;
    let (done, key) = match file.kind.get() {
        Kind::Console => (read_console(process, to, bytes)?, wait::CONSOLE),
        Kind::Net => (net::receive(process, to, bytes)?, wait::NET),
        _ => (read_disk(process, file, to, bytes, offset)?, file_key(&raw const *file as u64)),
    };
    if done.is_some() {
        return Ok(done);
    }
    if flags & NO_BLOCK != 0 {
        return Err(Error::Again);
    }
    let is_full = file.kind.get() == Kind::Disk && file.state.get() != Block::Coming;
    let deadline = if is_full { time::now_ns() + FULL_NS } else { abi::FOREVER };
    wait::wait(thread, key, deadline, After::Again);
    Ok(None)
}

/// What was typed; `None`: nothing yet. What is typed is for the program in front: one in the background waits until it is that, or
/// the input ends.
fn read_console(process: &Process, to: u64, bytes: u64) -> Outcome {
    if bytes == 0 || console::has_ended() {
        return Ok(Some(0));
    }
    if !process.is_foreground.get() {
        return Ok(None);
    }
    let mut done = 0;
    while done < bytes && console::has_byte() {
        let physical = process.space.resolve(to.wrapping_add(done), true).ok_or(Error::Fault)?;
        let Some(byte) = console::take() else { break };
        write8(physical, byte);
        done += 1;
    }
    Ok((done != 0 || console::has_ended()).then_some(done))
}

/// What the disk has at `offset`; `None`: it is being read.
fn read_disk(process: &Process, file: &'static File, to: u64, bytes: u64, offset: u64) -> Outcome {
    let Some(rest) = disk::bytes().checked_sub(offset) else { return Ok(Some(0)) };
    let (block, within) = (offset / FILE_READ_MAX, offset % FILE_READ_MAX);
    let bytes = bytes.min(rest).min(PAGE - within);
    if bytes == 0 {
        return Ok(Some(0));
    }
    match file.state.get() {
        Block::Here if file.block.get() == block => {
            process.space.copy_out(to, file.frame.get() + within, bytes)?;
            return Ok(Some(bytes));
        }
        Block::Failed if file.block.get() == block => {
            file.state.set(Block::Empty);
            return Err(Error::Io);
        }
        Block::Coming => {}
        _ => {
            file.block.set(block);
            file.state.set(if disk::start(file) { Block::Coming } else { Block::Empty });
        }
    }
    Ok(None)
}

/// Writes to the console, or sends a frame.
pub fn write(thread: &'static Thread, descriptor: u64, from: u64, bytes: u64) -> Outcome {
    let process = thread.process();
    match find(process, descriptor)?.kind.get() {
        Kind::Console => {
            let bytes = bytes.min(WRITE_MAX);
            let mut text = MaybeUninit::<[u8; WRITE_MAX as usize]>::uninit();
            process.space.copy_in(text.as_mut_ptr() as u64, from, bytes)?;
            // SAFETY: so many bytes have been copied there.
            serial::write(unsafe { slice::from_raw_parts(text.as_ptr().cast(), bytes as usize) });
            Ok(Some(bytes))
        }
        Kind::Net => match net::send(process, from, bytes)? {
            Some(sent) => Ok(Some(sent)),
            None => {
                wait::wait(thread, wait::NET, time::now_ns() + FULL_NS, After::Again);
                Ok(None)
            }
        },
        _ => Err(Error::BadFile),
    }
}

/// What could be done with a descriptor without waiting; `None`: there is no such.
pub fn readiness(process: &'static Process, descriptor: u32) -> Option<u32> {
    let file = find(process, descriptor.into()).ok()?;
    let (can_read, can_write) = match file.kind.get() {
        Kind::Console => (console::has_ended() || console::has_byte() && process.is_foreground.get(), true),
        Kind::Net => (net::can_receive(), net::can_send()),
        _ => (file.state.get() != Block::Coming, false),
    };
    Some(if can_read { READABLE } else { 0 } | if can_write { WRITABLE } else { 0 })
}
