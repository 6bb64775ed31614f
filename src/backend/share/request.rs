//! A request of the guest as it lies in its RAM: a header and arguments to be read, room for a reply to be written.
//!
//! Header and arguments are copied once, before anything is made of them. What a READ or WRITE moves is not copied: it is named to
//! the host's kernel as buffers. Source: `fuse.h`.

use super::protocol::{IN_HEADER, InHeader, OUT_HEADER, opcode};
use crate::backend::block::buffers::HostBuffers;
use crate::memory::map::GuestRange;
use crate::memory::ram::GuestRam;
use rustix::io::Errno;
use std::sync::Arc;

/// Most bytes of arguments that are copied: two names, or the largest extended attribute with its name.
const ARGUMENTS_MAX: u64 = (64 << 10) + 4096;

/// A request.
pub struct Request {
    ram: Arc<GuestRam>,
    readable: Vec<GuestRange>,
    writable: Vec<GuestRange>,
}

impl Request {
    /// A request in these ranges, all of which are RAM.
    pub fn new(ram: Arc<GuestRam>, readable: Vec<GuestRange>, writable: Vec<GuestRange>) -> Request {
        Request { ram, readable, writable }
    }

    /// Its header; `None` where not even that is there.
    pub fn header(&self) -> Option<InHeader> {
        let mut bytes = [0; IN_HEADER];
        (self.read(0, &mut bytes) == IN_HEADER).then(|| InHeader::parse(&bytes))
    }

    /// Whether it is one that mostly waits for the host's disks.
    pub fn may_take_long(&self) -> bool {
        use opcode::*;
        self.header().is_some_and(|header| {
            matches!(header.opcode, SETATTR | FSYNC | FSYNCDIR | SYNCFS | FALLOCATE | COPY_FILE_RANGE)
        })
    }

    /// Bytes of it, with its header.
    pub fn size(&self) -> u64 {
        size(&self.readable)
    }

    /// Bytes behind the header.
    pub fn arguments_size(&self) -> u64 {
        self.size().saturating_sub(IN_HEADER as u64)
    }

    /// A copy of what is behind the header, at most `most` bytes.
    ///
    /// # Errors
    /// E2BIG: there is more than any request has that is copied.
    pub fn arguments(&self, most: u64) -> Result<Vec<u8>, Errno> {
        let wanted = self.arguments_size().min(most);
        if wanted > ARGUMENTS_MAX {
            return Err(Errno::TOOBIG);
        }
        let mut bytes = vec![0; wanted as usize];
        self.read(IN_HEADER as u64, &mut bytes);
        Ok(bytes)
    }

    /// Whether there is room for a reply at all.
    pub fn has_reply(&self) -> bool {
        size(&self.writable) >= OUT_HEADER as u64
    }

    /// Bytes that a reply may have behind its header.
    pub fn room(&self) -> u64 {
        size(&self.writable).saturating_sub(OUT_HEADER as u64)
    }

    /// What is to be written to a file: `bytes` of the request from `at` behind the header on.
    pub fn source(&self, at: u64, bytes: u64) -> Option<HostBuffers> {
        HostBuffers::of_guest(&self.ram, &parts(&self.readable, IN_HEADER as u64 + at, bytes)).ok()
    }

    /// Where what is read of a file goes: up to `bytes`, behind the reply's header.
    pub fn sink(&self, bytes: u64) -> Option<HostBuffers> {
        HostBuffers::of_guest(&self.ram, &parts(&self.writable, OUT_HEADER as u64, bytes)).ok()
    }

    /// Writes the reply's header for `error` and a body of `in_place` bytes, which is there, or `body`. Returns the bytes of the
    /// reply: 0 where there is no room for it.
    pub fn reply(&self, unique: u64, error: Option<Errno>, body: &[u8], in_place: u32) -> u32 {
        let length = OUT_HEADER as u64 + body.len() as u64 + u64::from(in_place);
        if size(&self.writable) < length {
            return 0;
        }
        let errno = error.map_or(0, |error| -error.raw_os_error());
        let header = [&(length as u32).to_le_bytes()[..], &errno.to_le_bytes(), &unique.to_le_bytes()].concat();
        self.write(0, &header);
        self.write(OUT_HEADER as u64, body);
        length as u32
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for range in cut(&self.readable, at, bytes.len() as u64) {
            let size = range.size as usize;
            self.ram.read(range.start, &mut bytes[done..done + size]).expect("a request is RAM");
            done += size;
        }
        done
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let mut done = 0;
        for range in cut(&self.writable, at, bytes.len() as u64) {
            let size = range.size as usize;
            self.ram.write(range.start, &bytes[done..done + size]).expect("a request is RAM");
            done += size;
        }
    }
}

fn size(ranges: &[GuestRange]) -> u64 {
    ranges.iter().map(|range| range.size).sum()
}

/// The parts of `ranges` that hold up to `bytes` of them from `at` on.
fn cut(ranges: &[GuestRange], at: u64, bytes: u64) -> impl Iterator<Item = GuestRange> {
    let (mut skip, mut left) = (at, bytes);
    ranges.iter().filter_map(move |range| {
        let skipped = skip.min(range.size);
        let size = left.min(range.size - skipped);
        skip -= skipped;
        left -= size;
        (size > 0).then_some(GuestRange { start: range.start + skipped, size })
    })
}

fn parts(ranges: &[GuestRange], at: u64, bytes: u64) -> Vec<GuestRange> {
    cut(ranges, at, bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::MIB;
    use crate::memory::map::MemoryMap;

    fn range(start: u64, size: u64) -> GuestRange {
        GuestRange { start, size }
    }

    #[test]
    fn ranges_are_cut_at_any_byte() {
        let ranges = [range(0x1000, 16), range(0x2000, 0), range(0x3000, 8)];
        assert_eq!(parts(&ranges, 0, 100), [range(0x1000, 16), range(0x3000, 8)]);
        assert_eq!(parts(&ranges, 15, 2), [range(0x100f, 1), range(0x3000, 1)]);
        assert_eq!(parts(&ranges, 16, 3), [range(0x3000, 3)]);
        assert_eq!(
            (parts(&ranges, 24, 1), parts(&ranges, u64::MAX, 1), parts(&ranges, 3, 0)),
            (vec![], vec![], vec![])
        );
    }

    #[test]
    fn headers_and_replies_are_whole_or_not_there() {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let request = |readable, writable| {
            Request::new(ram.clone(), vec![range(0x1000, readable)], vec![range(0x2000, writable)])
        };
        assert_eq!((request(39, 0).header(), request(39, 0).arguments_size()), (None, 0));
        ram.write(0x1004, &26u32.to_le_bytes()).unwrap();
        assert_eq!(request(40, 0).header().map(|header| header.opcode), Some(26));
        assert_eq!(request(1 << 18, 0).arguments(u64::MAX), Err(Errno::TOOBIG));
        assert_eq!(request(1 << 18, 0).arguments(40).map(|bytes| bytes.len()), Ok(40));
        assert_eq!((request(40, 15).reply(1, None, &[], 0), request(40, 19).reply(1, None, &[0; 4], 0)), (0, 0));
        assert_eq!(ram.read_u64(0x2000), Some(0), "nothing of it is written");
        assert_eq!(request(40, 20).reply(7, Some(Errno::NOENT), &[9; 4], 0), 20);
        let mut reply = [0; 20];
        ram.read(0x2000, &mut reply).unwrap();
        assert_eq!(reply, [20, 0, 0, 0, 254, 255, 255, 255, 7, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9]);
    }
}
