//! Guest RAM as the host's vectored calls want it: addresses in this process, in the form of `struct iovec`.
//!
//! Whoever holds such buffers keeps the RAM mapped, so that a call which is under way never writes to anything else.
//! Source: readv(2).

use crate::memory::map::GuestRange;
use crate::memory::ram::{GuestRam, RamError};
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Most buffers of one call (UIO_MAXIOV in readv(2)).
const BUFFERS_MAX: usize = 1024;
/// What zeroes are written from, piece by piece. Constant zeroes would lie in the program's file; of atomics only the size does.
static ZEROES: [AtomicU64; 1 << 13] = [const { AtomicU64::new(0) }; 1 << 13];
/// Most bytes of zeroes in one call.
const ZEROES_MAX: u64 = 1 << 20;

/// A `struct iovec`, which may be sent to another thread: the memory is the guest's, and nobody holds a reference into it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct HostBuffer {
    address: usize,
    size: usize,
}

const _: () = assert!(size_of::<HostBuffer>() == size_of::<libc::iovec>());
const _: () = assert!(align_of::<HostBuffer>() == align_of::<libc::iovec>());

/// Buffers of one request, of which the front is done with step by step.
#[derive(Clone)]
pub struct HostBuffers {
    list: SmallVec<[HostBuffer; 2]>,
    /// What keeps them mapped; `None` for [`ZEROES`].
    ram: Option<Arc<GuestRam>>,
}

impl HostBuffers {
    /// The buffers of a guest.
    ///
    /// # Errors
    /// One of them is not RAM throughout.
    pub fn of_guest(ram: &Arc<GuestRam>, ranges: &[GuestRange]) -> Result<HostBuffers, RamError> {
        let buffer = |range: &GuestRange| {
            Ok(HostBuffer { address: ram.host_address(*range)? as usize, size: range.size as usize })
        };
        let list = ranges.iter().map(buffer).collect::<Result<_, _>>()?;
        Ok(HostBuffers { list, ram: Some(ram.clone()) })
    }

    /// Zeroes, to be written: as many bytes as one call takes, at most `bytes`.
    pub fn zeroes(bytes: u64) -> HostBuffers {
        let mut left = bytes.min(ZEROES_MAX) as usize;
        let mut list = SmallVec::new();
        while left > 0 {
            let size = left.min(size_of_val(&ZEROES));
            list.push(HostBuffer { address: ZEROES.as_ptr() as usize, size });
            left -= size;
        }
        HostBuffers { list, ram: None }
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.list.iter().map(|buffer| buffer.size as u64).sum()
    }

    /// The front, as much as one call takes, at most `bytes`.
    pub fn front(&self, bytes: u64) -> HostBuffers {
        let mut left = bytes;
        let mut list = SmallVec::with_capacity(self.list.len().min(BUFFERS_MAX));
        for buffer in self.list.iter().take(BUFFERS_MAX) {
            let size = left.min(buffer.size as u64) as usize;
            if size == 0 {
                break;
            }
            list.push(HostBuffer { size, ..*buffer });
            left -= size as u64;
        }
        HostBuffers { list, ram: self.ram.clone() }
    }

    /// Takes `bytes` away from the front.
    pub fn advance(&mut self, bytes: u64) {
        let mut left = bytes;
        let done = self.list.iter().take_while(|buffer| {
            let whole = left >= buffer.size as u64;
            left -= if whole { buffer.size as u64 } else { 0 };
            whole
        });
        let done = done.count();
        self.list.drain(..done);
        if let Some(first) = self.list.first_mut() {
            first.address += left as usize;
            first.size -= left as usize;
        }
    }

    /// Copies `bytes` to the front, as far as there is room.
    pub fn fill(&self, bytes: &[u8]) {
        let mut left = bytes;
        for (gpa, size) in self.guest_buffers() {
            let (front, rest) = left.split_at(size.min(left.len()));
            self.ram.as_ref().expect("guest buffers").write(gpa, front).expect("checked when they were named");
            left = rest;
        }
    }

    /// A copy of the front, of `bytes` at most.
    pub fn copy(&self, bytes: usize) -> Vec<u8> {
        let mut copy = vec![0; bytes.min(self.bytes() as usize)];
        let mut left = &mut copy[..];
        for (gpa, size) in self.guest_buffers() {
            let (front, rest) = left.split_at_mut(size.min(left.len()));
            self.ram.as_ref().expect("guest buffers").read(gpa, front).expect("checked when they were named");
            left = rest;
        }
        copy
    }

    /// Guest-physical addresses and bytes; none for [`ZEROES`].
    fn guest_buffers(&self) -> impl Iterator<Item = (u64, usize)> {
        let buffers = self.ram.iter().flat_map(|ram| self.list.iter().map(move |buffer| (ram, buffer)));
        buffers.map(|(ram, buffer)| {
            (ram.guest_address(buffer.address as u64).expect("checked when they were named"), buffer.size)
        })
    }

    /// Whether each buffer begins at a multiple of `address` and has a multiple of `size` bytes.
    pub fn are_aligned(&self, address: u64, size: u64) -> bool {
        let is_aligned = |buffer: &HostBuffer| {
            (buffer.address as u64).is_multiple_of(address) && (buffer.size as u64).is_multiple_of(size)
        };
        self.list.iter().all(is_aligned)
    }

    /// The only buffer, if there is no other: where it is, and its bytes. The memory stands as long as `self`, moved or not.
    pub fn single(&self) -> Option<(*mut u8, u32)> {
        match &self.list[..] {
            [buffer] => Some((buffer.address as *mut u8, u32::try_from(buffer.size).ok()?)),
            _ => None,
        }
    }

    /// The array that a vectored call takes: where it is, and how many entries it has. It stands as long as `self` is not moved,
    /// dropped or changed, and the memory that it names as long as `self`, moved or not.
    pub fn iovecs(&self) -> (*const libc::iovec, u32) {
        (self.list.as_ptr().cast(), self.list.len() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::MIB;
    use crate::memory::map::MemoryMap;

    #[test]
    fn the_front_is_cut_and_taken_away() {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let range = |start, size| GuestRange { start, size };
        let mut buffers = HostBuffers::of_guest(&ram, &[range(0x1000, 512), range(0x3000, 1024)]).unwrap();
        assert_eq!((buffers.bytes(), buffers.front(700).bytes(), buffers.front(u64::MAX).bytes()), (1536, 700, 1536));
        let first = buffers.list[1].address;
        buffers.advance(612);
        assert_eq!((buffers.bytes(), buffers.list[0].address), (924, first + 100));
        buffers.advance(924);
        assert_eq!((buffers.bytes(), buffers.iovecs().1), (0, 0));
        assert!(HostBuffers::of_guest(&ram, &[range(MIB - 1, 2)]).is_err());
    }

    #[test]
    fn bytes_are_copied_in_and_out_and_aligned_or_not() {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let range = |start, size| GuestRange { start, size };
        let buffers = HostBuffers::of_guest(&ram, &[range(0x1000, 2), range(0x3000, 3)]).unwrap();
        buffers.fill(b"abcd");
        assert_eq!((buffers.copy(3), buffers.copy(100)), (b"abc".to_vec(), b"abcd\0".to_vec()));
        assert_eq!(ram.read_u64(0x3000), Some(u64::from_le_bytes(*b"cd\0\0\0\0\0\0")));
        assert_eq!(HostBuffers::zeroes(3).copy(2), [0; 2]);
        let buffers = HostBuffers::of_guest(&ram, &[range(0x1000, 512), range(0x3200, 1024)]).unwrap();
        assert!(buffers.are_aligned(512, 512) && !buffers.are_aligned(4096, 512) && !buffers.are_aligned(512, 1024));
    }

    #[test]
    fn one_call_takes_so_many() {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let many = vec![GuestRange { start: 0, size: 1 }; 3000];
        assert_eq!(HostBuffers::of_guest(&ram, &many).unwrap().front(u64::MAX).bytes(), 1024);
        assert_eq!((HostBuffers::zeroes(u64::MAX).bytes(), HostBuffers::zeroes(513).bytes()), (ZEROES_MAX, 513));
    }
}
