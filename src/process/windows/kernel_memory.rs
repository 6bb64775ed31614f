//! KERNEL32's memory: pages, and the process's heap.
//!
//! Reserved memory is committed at once: it takes nothing until it is touched. Leaves out large pages, guard pages, write watches and
//! heaps besides the process's.
//! Sources: Microsoft "VirtualAlloc function", "VirtualQuery function", "HeapAlloc function", "HeapReAlloc function".

use super::call::{Answer, Call};
use super::kernel_files::{ERROR_INVALID_PARAMETER, ERROR_NOT_ENOUGH_MEMORY};
use super::layout;
use super::pe::{Access, PAGE};
use super::regions::{self, Region};

const ERROR_INVALID_ADDRESS: u32 = 487;
const MEM_COMMIT: u64 = 0x1000;
const MEM_RESERVE: u64 = 0x2000;
const MEM_RELEASE: u64 = 0x8000;
const MEM_FREE: u32 = 0x1_0000;
const MEM_PRIVATE: u32 = 0x2_0000;
const MEM_IMAGE: u32 = 0x100_0000;
const HEAP_ZERO_MEMORY: u64 = 8;
const HEAP_REALLOC_IN_PLACE_ONLY: u64 = 0x10;
/// Bytes that are cleared or copied at a time.
const CHUNK: usize = 1 << 16;
/// The handle of the process's heap.
const HEAP_HANDLE: u64 = layout::HEAP;
/// Bytes of MEMORY_BASIC_INFORMATION.
const INFORMATION_SIZE: u64 = 48;

pub(super) fn allocate(call: &mut Call) -> Answer {
    let [address, size, kind, protection] = call.arguments()?;
    let Some(access) =
        regions::access(protection as u32).filter(|_| kind & !(MEM_COMMIT | MEM_RESERVE) == 0 && kind != 0)
    else {
        return call.refuse(ERROR_INVALID_PARAMETER, 0);
    };
    if address != 0 && kind & MEM_RESERVE == 0 {
        // Memory that was reserved is there already; now it gets its protection.
        return match call.process.regions.protect(address, size, access) {
            Some((start, size, _)) => {
                call.memory.protect(start, size, access);
                Ok(start)
            }
            None => call.refuse(ERROR_INVALID_ADDRESS, 0),
        };
    }
    let Some(room) = size.checked_next_multiple_of(PAGE).filter(|room| *room > 0) else {
        return call.refuse(ERROR_INVALID_PARAMETER, 0);
    };
    let wanted = address - address % 0x1_0000;
    let range =
        if address == 0 { (layout::REGIONS, layout::REGIONS_END) } else { (wanted, wanted.saturating_add(room)) };
    let free =
        |start: &u64| address == 0 || (*start == wanted && (layout::REGIONS..layout::REGIONS_END).contains(start));
    let Some(start) = call.process.regions.gap(room, range.0, range.1).filter(free) else {
        return call.refuse(ERROR_INVALID_ADDRESS, 0);
    };
    let region = Region { size: room, base: start, access, image: false };
    if !call.process.regions.add(start, region) {
        return call.refuse(ERROR_NOT_ENOUGH_MEMORY, 0);
    }
    if !call.memory.map(start, room, access) {
        call.process.regions.remove(start);
        return call.refuse(ERROR_NOT_ENOUGH_MEMORY, 0);
    }
    Ok(start)
}

pub(super) fn free(call: &mut Call) -> Answer {
    let [address, size, kind] = call.arguments()?;
    if kind != MEM_RELEASE || size != 0 || !(layout::REGIONS..layout::REGIONS_END).contains(&address) {
        return call.refuse(ERROR_INVALID_PARAMETER, 0);
    }
    match call.process.regions.remove(address) {
        Some(size) => {
            call.memory.unmap(address, size);
            Ok(1)
        }
        None => call.refuse(ERROR_INVALID_ADDRESS, 0),
    }
}

pub(super) fn protect(call: &mut Call) -> Answer {
    let [address, size, protection, before] = call.arguments()?;
    let Some(access) = regions::access(protection as u32) else { return call.refuse(ERROR_INVALID_PARAMETER, 0) };
    match call.process.regions.protect(address, size, access) {
        Some((start, size, old)) => {
            call.memory.protect(start, size, access);
            call.put(before, &regions::constant(old).to_le_bytes())?;
            Ok(1)
        }
        None => call.refuse(ERROR_INVALID_ADDRESS, 0),
    }
}

pub(super) fn query(call: &mut Call) -> Answer {
    let [address, out, room] = call.arguments()?;
    if room < INFORMATION_SIZE || address >= 1 << 47 {
        return call.refuse(ERROR_INVALID_PARAMETER, 0);
    }
    let page = address - address % PAGE;
    let heap = call.process.heap.range();
    let (base, protection, size, state, kind) = match call.process.regions.find(page) {
        None if heap.contains(&page) => {
            (heap.start, regions::constant(Access::DATA), heap.end - page, MEM_COMMIT as u32, MEM_PRIVATE)
        }
        Some((start, region)) => {
            let kind = if region.image { MEM_IMAGE } else { MEM_PRIVATE };
            (region.base, regions::constant(region.access), start + region.size - page, MEM_COMMIT as u32, kind)
        }
        None => (0, 0, call.process.regions.next(page).unwrap_or(1 << 47) - page, MEM_FREE, 0),
    };
    let mut information = [0; INFORMATION_SIZE as usize];
    let mut put = |at: usize, bytes: &[u8]| information[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &page.to_le_bytes());
    put(8, &base.to_le_bytes());
    put(16, &protection.to_le_bytes());
    put(24, &size.to_le_bytes());
    put(32, &[state, protection, kind].map(u32::to_le_bytes).concat());
    call.put(out, &information)?;
    Ok(INFORMATION_SIZE)
}

/// A block of zeros; 0: there is no memory left. Only what was in a block before is cleared, so that a large one takes nothing
/// until it is touched.
pub(super) fn block_of_zeros(call: &mut Call, size: u64) -> Answer {
    let untouched = call.process.heap.untouched();
    let block = block(call, size);
    clear(call, block, untouched.saturating_sub(block).min(if block == 0 { 0 } else { size }))
}

/// Makes bytes zero.
fn clear(call: &mut Call, block: u64, size: u64) -> Answer {
    let zeros = [0; CHUNK];
    for at in (0..size).step_by(CHUNK) {
        call.put(block + at, &zeros[..(size - at).min(CHUNK as u64) as usize])?;
    }
    Ok(block)
}

/// A block of the heap; 0: there is no memory left.
pub(super) fn block(call: &mut Call, size: u64) -> u64 {
    call.process.heap.allocate(size, call.memory).unwrap_or(0)
}

/// Gives a block another size, elsewhere if it must; 0: there is no memory left, and all stays. The block must be one.
pub(super) fn resize(call: &mut Call, old: u64, size: u64) -> Answer {
    if call.process.heap.resize(old, size) {
        return Ok(old);
    }
    let new = block(call, size);
    if new == 0 {
        return Ok(0);
    }
    let kept = call.process.heap.size(old).unwrap_or(0).min(size);
    let mut bytes = vec![0; CHUNK.min(kept as usize)];
    for at in (0..kept).step_by(CHUNK) {
        let part = (kept - at).min(CHUNK as u64) as usize;
        call.memory.read(old + at, &mut bytes[..part])?;
        call.put(new + at, &bytes[..part])?;
    }
    call.process.heap.release(old);
    Ok(new)
}

pub(super) fn heap(_: &mut Call) -> Answer {
    Ok(HEAP_HANDLE)
}

pub(super) fn heap_allocate(call: &mut Call) -> Answer {
    let [_, flags, size] = call.arguments()?;
    let block = if flags & HEAP_ZERO_MEMORY != 0 { block_of_zeros(call, size)? } else { block(call, size) };
    if block == 0 { call.refuse(ERROR_NOT_ENOUGH_MEMORY, 0) } else { Ok(block) }
}

pub(super) fn heap_free(call: &mut Call) -> Answer {
    match call.registers[2] {
        0 => Ok(1),
        block if call.process.heap.release(block) => Ok(1),
        _ => call.refuse(ERROR_INVALID_PARAMETER, 0),
    }
}

pub(super) fn heap_resize(call: &mut Call) -> Answer {
    let [_, flags, old, size] = call.arguments()?;
    let Some(before) = call.process.heap.size(old) else { return call.refuse(ERROR_INVALID_PARAMETER, 0) };
    if flags & HEAP_REALLOC_IN_PLACE_ONLY != 0 {
        let resized = call.process.heap.resize(old, size);
        return if resized { Ok(old) } else { call.refuse(ERROR_NOT_ENOUGH_MEMORY, 0) };
    }
    match resize(call, old, size)? {
        0 => call.refuse(ERROR_NOT_ENOUGH_MEMORY, 0),
        new if flags & HEAP_ZERO_MEMORY != 0 && size > before => {
            clear(call, new + before, size - before)?;
            Ok(new)
        }
        new => Ok(new),
    }
}

pub(super) fn heap_size(call: &mut Call) -> Answer {
    Ok(call.process.heap.size(call.registers[2]).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::fake::Desk;
    use super::super::user::Memory;
    use super::*;

    #[test]
    fn pages_are_made_protected_asked_for_and_freed() {
        let mut desk = Desk::new();
        let at = allocate(&mut desk.call([0, 5000, MEM_COMMIT | MEM_RESERVE, 4])).unwrap();
        assert_eq!(at, layout::REGIONS);
        desk.memory.write(at + 8191, b"x").unwrap();
        assert_eq!(protect(&mut desk.call([at, 1, 2, Desk::SPACE])), Ok(1));
        assert_eq!(desk.call([0; 4]).memory.u32(Desk::SPACE), Ok(4));
        assert!(desk.memory.write(at, b"x").is_err());
        assert_eq!(query(&mut desk.call([at + 5, Desk::SPACE, 48, 0])), Ok(48));
        let field = |offset| desk.memory.text_at(Desk::SPACE + offset, 8);
        assert_eq!((field(0), field(24)), (at.to_le_bytes().to_vec(), 4096u64.to_le_bytes().to_vec()));
        assert_eq!(field(32), [MEM_COMMIT as u32, 2].map(u32::to_le_bytes).concat());
        assert_eq!(
            (free(&mut desk.call([at, 0, MEM_RELEASE, 0])), free(&mut desk.call([at, 0, MEM_RELEASE, 0]))),
            (Ok(1), Ok(0))
        );
        assert!(desk.memory.read(at, &mut [0]).is_err());
    }

    #[test]
    fn extremes_are_refused() {
        let mut desk = Desk::new();
        for arguments in [
            [0, 0, MEM_COMMIT, 4],
            [0, u64::MAX, MEM_COMMIT, 4],
            [0, 1 << 40, MEM_COMMIT, 4],
            [0, 1, MEM_COMMIT, 999],
            [layout::STUBS, 1, MEM_RESERVE, 4],
            [u64::MAX, 1, MEM_RESERVE, 4],
            [u64::MAX, u64::MAX, MEM_COMMIT, 4],
        ] {
            assert_eq!(allocate(&mut desk.call(arguments)), Ok(0), "{arguments:x?}");
        }
        assert_eq!(query(&mut desk.call([u64::MAX, Desk::SPACE, 48, 0])), Ok(0));
        assert_eq!(query(&mut desk.call([0, Desk::SPACE, 48, 0])), Ok(48));
    }

    #[test]
    fn zeros_are_zeros_the_second_time_too() {
        let mut desk = Desk::new();
        let first = block_of_zeros(&mut desk.call([0; 4]), 64).unwrap();
        desk.memory.write(first, &[1; 64]).unwrap();
        assert!(desk.process.heap.release(first));
        let second = block_of_zeros(&mut desk.call([0; 4]), 100).unwrap();
        assert_eq!((second, desk.memory.text_at(second, 100)), (first, vec![0; 100]));
        assert_eq!(block_of_zeros(&mut desk.call([0; 4]), u64::MAX), Ok(0));
    }

    #[test]
    fn a_block_that_moves_keeps_its_bytes() {
        let mut desk = Desk::new();
        let first = heap_allocate(&mut desk.call([0, 0, 4, 0])).unwrap();
        heap_allocate(&mut desk.call([0, 0, 4, 0])).unwrap();
        desk.memory.write(first, b"abcd").unwrap();
        let moved = heap_resize(&mut desk.call([0, HEAP_ZERO_MEMORY, first, 100_000])).unwrap();
        assert_ne!(moved, first);
        assert_eq!(desk.memory.text_at(moved, 8), b"abcd\0\0\0\0");
        assert_eq!(heap_size(&mut desk.call([0, 0, moved, 0])), Ok(100_000));
        assert_eq!(
            (heap_free(&mut desk.call([0, 0, moved, 0])), heap_free(&mut desk.call([0, 0, moved, 0]))),
            (Ok(1), Ok(0))
        );
    }
}
