//! Counters that KVM keeps of a machine and of each vCPU: opened once, read at any time from any thread.
//!
//! KVM describes them itself: names and meanings are those of its version, and none is promised. What a description
//! contradicts is left out.
//! Source: KVM API KVM_GET_STATS_FD.

use super::calls::KvmFd;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use vmm_sys_util::ioctl::ioctl;

/// `_IO(KVMIO, 0xce)` (Linux include/uapi/linux/kvm.h).
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;

/// Bytes of the header: six 32-bit numbers.
const HEADER_BYTES: usize = 24;
/// Bytes of a descriptor before its name.
const DESCRIPTOR_BYTES: usize = 16;
/// Most counters read; KVM has about a hundred.
const COUNTERS_MAX: usize = 4096;
/// Longest name read; KVM's field has 48 bytes.
const NAME_MAX: usize = 256;

/// A counter as it was when read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// KVM's name for it: "exits".
    pub name: String,
    /// Its value; of a histogram, the samples in all its buckets.
    pub value: u64,
    /// What the value is.
    pub kind: Kind,
    /// What it is counted in: "" for a plain number, "bytes", "ns".
    pub unit: &'static str,
}

/// What a counter's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows only.
    Cumulative,
    /// As it is now.
    Instant,
    /// The highest so far.
    Peak,
    /// How many samples there were.
    Histogram,
}

/// The counters of a machine or of a vCPU.
#[derive(Debug)]
pub struct Stats {
    file: File,
    counters: Vec<Counter>,
}

/// Where a counter stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Counter {
    name: String,
    kind: Kind,
    unit: &'static str,
    /// First byte in the file.
    at: u64,
    /// 64-bit numbers.
    len: u16,
}

impl Stats {
    /// Opens the counters of what `fd` stands for; `None` where KVM has none (before Linux 5.14) or they make no sense.
    pub(super) fn open<F: AsRawFd>(fd: &KvmFd<F>) -> Option<Stats> {
        let open = |fd: &F| {
            // SAFETY: the call takes no argument and touches no memory of this process.
            match unsafe { ioctl(fd, KVM_GET_STATS_FD) } {
                number @ 0.. => Ok(number),
                _ => Err(kvm_ioctls::Error::last()),
            }
        };
        let number = fd.call("KVM_GET_STATS_FD", format_args!(""), open).ok()?;
        // SAFETY: KVM has just made this descriptor, and nothing else knows it.
        let file = unsafe { File::from_raw_fd(number) };
        let counters = counters(&|bytes, at| file.read_exact_at(bytes, at)).ok()?;
        Some(Stats { file, counters })
    }

    /// All counters as they are now, in KVM's order.
    ///
    /// # Errors
    /// The host refuses to read them.
    pub fn read(&self) -> io::Result<Vec<Stat>> {
        self.counters.iter().map(|counter| counter.read(&|bytes, at| self.file.read_exact_at(bytes, at))).collect()
    }
}

/// Reads the file at an offset.
type ReadAt<'a> = &'a dyn Fn(&mut [u8], u64) -> io::Result<()>;

impl Counter {
    fn read(&self, read_at: ReadAt) -> io::Result<Stat> {
        let mut bytes = vec![0; 8 * usize::from(self.len)];
        read_at(&mut bytes, self.at)?;
        let numbers = bytes.chunks_exact(8).map(|number| u64::from_le_bytes(number.try_into().expect("8 bytes")));
        let value = numbers.fold(0, u64::wrapping_add);
        Ok(Stat { name: self.name.clone(), value, kind: self.kind, unit: self.unit })
    }
}

/// The counters that the file describes.
fn counters(read_at: ReadAt) -> io::Result<Vec<Counter>> {
    let mut header = [0; HEADER_BYTES];
    read_at(&mut header, 0)?;
    let [name_bytes, count, descriptors, data] = [4, 8, 16, 20].map(|at| u32_at(&header, at));
    if name_bytes as usize > NAME_MAX || count as usize > COUNTERS_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut counters = Vec::new();
    let size = DESCRIPTOR_BYTES + name_bytes as usize;
    let mut descriptor = vec![0; size];
    for i in 0..u64::from(count) {
        read_at(&mut descriptor, u64::from(descriptors) + i * size as u64)?;
        counters.extend(counter(&descriptor, data));
    }
    Ok(counters)
}

/// The counter of a descriptor; `None` where its type is none that is known.
fn counter(descriptor: &[u8], data: u32) -> Option<Counter> {
    let flags = u32_at(descriptor, 0);
    let half = |at: usize| u16::from_le_bytes([descriptor[at], descriptor[at + 1]]);
    let kind = match flags & 0xf {
        0 => Kind::Cumulative,
        1 => Kind::Instant,
        2 => Kind::Peak,
        3 | 4 => Kind::Histogram,
        _ => return None,
    };
    // KVM_STATS_UNIT_*, KVM_STATS_BASE_* and the exponent.
    let unit = match (flags >> 4 & 0xf, flags >> 8 & 0xf, half(4) as i16) {
        (0, _, _) => "",
        (1, _, 0) => "bytes",
        (1, 1, 10) => "KiB",
        (1, 1, 20) => "MiB",
        (2, _, 0) => "s",
        (2, 0, -3) => "ms",
        (2, 0, -6) => "us",
        (2, 0, -9) => "ns",
        (3, _, 0) => "cycles",
        (4, _, _) => "yes or no",
        _ => "in a unit of its own",
    };
    let name = descriptor[DESCRIPTOR_BYTES..].split(|byte| *byte == 0).next()?;
    let name = String::from_utf8_lossy(name).into_owned();
    let at = u64::from(data) + u64::from(u32_at(descriptor, 8));
    Some(Counter { name, kind, unit, at, len: half(6) })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file with a counter of `flags`, `exponent` and the `values`.
    fn file(flags: u32, exponent: i16, values: &[u64]) -> Vec<u8> {
        let (id, descriptors, data) = (24u32, 32u32, 64u32);
        let mut file: Vec<u8> = [0, 16, 1, id, descriptors, data].iter().flat_map(|n| n.to_le_bytes()).collect();
        file.extend(b"kvm-1\0\0\0");
        file.extend(flags.to_le_bytes());
        file.extend(exponent.to_le_bytes());
        file.extend((values.len() as u16).to_le_bytes());
        file.extend([8, 0, 0, 0, 0, 0, 0, 0]);
        file.extend(b"exits\0garbage...");
        file.extend([0xff; 8]);
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        file
    }

    fn read(file: &[u8]) -> io::Result<Vec<Stat>> {
        let read_at = |bytes: &mut [u8], at: u64| {
            let found = usize::try_from(at).ok().and_then(|at| file.get(at..)?.get(..bytes.len()));
            bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        };
        counters(&read_at)?.iter().map(|counter| counter.read(&read_at)).collect()
    }

    fn stat(value: u64, kind: Kind, unit: &'static str) -> Stat {
        Stat { name: "exits".into(), value, kind, unit }
    }

    #[test]
    fn a_counter_is_read_with_its_kind_and_unit() {
        assert_eq!(read(&file(0, 0, &[42])).unwrap(), [stat(42, Kind::Cumulative, "")]);
        assert_eq!(read(&file(0x20, -9, &[7])).unwrap(), [stat(7, Kind::Cumulative, "ns")]);
        assert_eq!(read(&file(0x114, 20, &[1, 2, 3])).unwrap(), [stat(6, Kind::Histogram, "MiB")]);
        assert_eq!(read(&file(0xf, 0, &[1])).unwrap(), [], "a type from the future");
    }

    #[test]
    fn a_file_that_ends_early_or_claims_too_much_is_refused() {
        let good = file(0, 0, &[42]);
        for cut in 0..good.len() {
            assert!(read(&good[..cut]).is_err(), "{cut}");
        }
        for at in [4, 8] {
            let mut huge = good.clone();
            huge[at..at + 4].fill(0xff);
            assert_eq!(read(&huge).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = read(&bytes);
        }
    }
}
