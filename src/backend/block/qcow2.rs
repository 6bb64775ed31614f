//! An image in QEMU's format qcow2, worked off by the crate `imago`: the bytes of the disk are where the image's tables say.
//!
//! What is opened is what the user has named and nothing else: an image that names a backing file takes the one that the user gives for
//! it, or is refused, and so is one whose data are in another file. Whatever an image's tables say, its file never gets longer than one of
//! that size that is full ([`Bounded`]). Bytes go through
//! a buffer of bounded size, for nobody may have a reference to guest memory. The tables' cache is written to the file whenever
//! [`Qcow2::settle`] is called, so what was acknowledged after that is not lost with the process. It holds 128 tables of the second level
//! and 32 blocks of counts at most, each as large as a cluster, beside the tables that lead to them, of 32 MiB each at most.
//! Source: QEMU docs/interop/qcow2.txt.

use super::bounded::Bounded;
use super::engine::Call;
use super::image::DiskFormat;
use super::qcow2_header::{self, HEADER_BYTES, HeaderError};
use imago::FormatAccess;
use imago::qcow2::Qcow2 as Format;
use imago::raw::Raw;
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

/// Most bytes of one operation.
const BUFFER_MAX: u64 = 256 << 10;

/// An open image. One thread works it off; the lock is for the measure of it.
pub struct Qcow2 {
    access: Mutex<Layer>,
    size: u64,
}

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// Its header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// What its tables say, or the host.
    #[error(transparent)]
    Host(#[from] io::Error),
}

impl Qcow2 {
    /// The image in an open file of `bytes`.
    ///
    /// # Errors
    /// It is not one that can be used, or the host cannot read it.
    pub fn open(file: &File, bytes: u64, writable: bool, backing: Option<Layer>) -> Result<Qcow2, Qcow2Error> {
        let access = open(file, bytes, writable, backing)?;
        let size = access.size();
        Ok(Qcow2 { access: Mutex::new(access), size })
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Does an operation, or the front of it. Returns the bytes that were moved.
    ///
    /// # Errors
    /// What the host says, or the image's tables make no sense.
    pub fn run(&self, call: &Call, offset: u64) -> io::Result<u32> {
        let mut access = self.access.lock().expect("imago returns errors");
        match call {
            Call::Read(buffers) => {
                let mut bytes = vec![0; buffers.bytes().min(BUFFER_MAX) as usize];
                access.read(bytes.as_mut_slice(), offset)?;
                buffers.fill(&bytes);
                Ok(bytes.len() as u32)
            }
            Call::Write { buffers, durable } => {
                let bytes = buffers.copy(buffers.bytes().min(BUFFER_MAX) as usize);
                access.write(bytes.as_slice(), offset)?;
                if *durable {
                    access.flush()?;
                    access.sync()?;
                }
                Ok(bytes.len() as u32)
            }
            Call::Sync => {
                access.flush()?;
                access.sync()?;
                Ok(0)
            }
            Call::Allocate { size, how } if how.contains(FallocateFlags::PUNCH_HOLE) => {
                access.discard_to_zero(offset, *size)?;
                Ok(0)
            }
            Call::Allocate { size, .. } => {
                access.write_zeroes(offset, *size)?;
                Ok(0)
            }
        }
    }

    /// Writes what is cached of the tables to the file.
    ///
    /// # Errors
    /// What the host says.
    pub fn settle(&self) -> io::Result<()> {
        self.access.lock().expect("imago returns errors").flush()
    }
}

/// What an image lies over.
pub type Layer = FormatAccess<Bounded>;

/// A file of `bytes` that an image lies over, only to be read.
///
/// # Errors
/// It is an image that cannot be used, or lies over a file itself; or the host cannot read it.
pub fn layer(file: File, bytes: u64, format: DiskFormat) -> Result<Layer, Qcow2Error> {
    match format {
        DiskFormat::Raw => Ok(FormatAccess::new(Raw::open_image(Bounded::new(file, bytes), false)?)),
        DiskFormat::Qcow2 => open(&file, bytes, false, None),
    }
}

fn open(file: &File, bytes: u64, writable: bool, backing: Option<Layer>) -> Result<Layer, Qcow2Error> {
    let mut header = [0; HEADER_BYTES];
    let has = usize::try_from(bytes).unwrap_or(usize::MAX).min(HEADER_BYTES);
    file.read_exact_at(&mut header[..has], 0)?;
    qcow2_header::check(&header, bytes, backing.is_some())?;
    let mut refcounts = [0; 8];
    file.read_exact_at(&mut refcounts, qcow2_header::refcounts_at(&header))?;
    qcow2_header::check_first_refcounts(u64::from_be_bytes(refcounts))?;
    let bounded = Bounded::new(file.try_clone()?, qcow2_header::file_bytes_max(&header, bytes));
    let mut format: Format<Bounded> = Format::open_image(bounded, writable)?;
    format.set_data_file(None);
    format.set_backing(backing);
    Ok(FormatAccess::new(format))
}

#[cfg(test)]
mod tests {
    use super::super::buffers::HostBuffers;
    use super::*;
    use crate::arch::layout::MIB;
    use crate::memory::map::{GuestRange, MemoryMap};
    use crate::memory::ram::GuestRam;
    use imago::FormatCreateBuilder;
    use imago::file::File as ImageFile;
    use std::sync::Arc;

    const SIZE: u64 = 8 << 20;

    /// An image of 8 MiB in an unnamed file.
    fn image() -> File {
        let file = super::super::overlay::unnamed_file().unwrap();
        let storage: ImageFile = file.try_clone().unwrap().try_into().unwrap();
        Format::<ImageFile>::create_builder(storage).size(SIZE).create().unwrap();
        file
    }

    fn open(file: &File) -> Result<Qcow2, Qcow2Error> {
        Qcow2::open(file, file.metadata().unwrap().len(), true, None)
    }

    fn random(seed: &mut u64, below: u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % below
    }

    #[test]
    fn what_is_written_is_read_also_by_who_opens_it_after_a_kill() {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let buffers = |size| HostBuffers::of_guest(&ram, &[GuestRange { start: 0x1000, size }]).unwrap();
        let file = image();
        let mut model = vec![0; SIZE as usize];
        let mut seed = 3;
        let mut disk = open(&file).unwrap();
        for step in 0..300u64 {
            let offset = random(&mut seed, SIZE / 512 - 300) * 512;
            let size = (1 + random(&mut seed, 300)) * 512;
            let place = offset as usize..(offset + size) as usize;
            match step % 5 {
                0 | 1 => {
                    ram.write(0x1000, &vec![(step % 250) as u8 + 1; size as usize]).unwrap();
                    let call = Call::Write { buffers: buffers(size), durable: step % 2 == 0 };
                    assert_eq!(disk.run(&call, offset).unwrap(), size as u32);
                    model[place].fill((step % 250) as u8 + 1);
                }
                2 => {
                    let how = if step % 2 == 0 { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
                    disk.run(&Call::Allocate { size, how }, offset).unwrap();
                    model[place].fill(0);
                }
                _ => {
                    assert_eq!(disk.run(&Call::Read(buffers(size)), offset).unwrap(), size as u32);
                    assert_eq!(buffers(size).copy(size as usize), model[place]);
                }
            }
            disk.settle().unwrap();
            if step % 50 == 49 {
                // As if the process had been killed: nothing of it is closed or flushed.
                std::mem::forget(disk);
                disk = open(&file).unwrap();
            }
        }
        disk.run(&Call::Sync, 0).unwrap();
    }

    #[test]
    fn what_an_image_lacks_is_read_from_what_it_lies_over_which_is_never_written() {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let buffers = |size| HostBuffers::of_guest(&ram, &[GuestRange { start: 0x1000, size }]).unwrap();
        let bytes_of = |file: &File| file.metadata().unwrap().len();
        // Half as long as the image, and no multiple of a cluster.
        let below = SIZE / 2 + 512;
        let raw = super::super::overlay::unnamed_file().unwrap();
        raw.write_all_at(&vec![7; below as usize], 0).unwrap();
        let image_below = image();
        let disk = open(&image_below).unwrap();
        ram.write(0x1000, &[7; 0x1_0000]).unwrap();
        for at in (0..below).step_by(0x1_0000) {
            disk.run(&Call::Write { buffers: buffers((below - at).min(0x1_0000)), durable: false }, at).unwrap();
        }
        disk.run(&Call::Sync, 0).unwrap();
        drop(disk);
        for (file, format) in [(raw, DiskFormat::Raw), (image_below, DiskFormat::Qcow2)] {
            let mut before = vec![0; bytes_of(&file) as usize];
            file.read_exact_at(&mut before, 0).unwrap();
            let top = super::super::overlay::unnamed_file().unwrap();
            let storage: ImageFile = top.try_clone().unwrap().try_into().unwrap();
            let builder = Format::<ImageFile>::create_builder(storage).size(SIZE);
            builder.backing("/etc/passwd".into(), "raw".into()).create().unwrap();
            let layer = |file: &File| layer(file.try_clone().unwrap(), bytes_of(file), format).unwrap();
            assert!(matches!(open(&top), Err(Qcow2Error::Header(HeaderError::Backing))), "nobody allowed it");
            let alone = Qcow2::open(&image(), SIZE, true, Some(layer(&file)));
            assert!(matches!(alone, Err(Qcow2Error::Header(HeaderError::NoBacking))));
            let disk = Qcow2::open(&top, bytes_of(&top), true, Some(layer(&file))).unwrap();
            let read = |at, size| {
                ram.write(0x1000, &[1; 0x1000]).unwrap();
                disk.run(&Call::Read(buffers(size)), at).unwrap();
                buffers(size).copy(size as usize)
            };
            assert_eq!((read(0, 512), read(below - 512, 1024)), (vec![7; 512], [[7; 512], [0; 512]].concat()));
            assert_eq!(read(SIZE - 512, 512), [0; 512]);
            ram.write(0x1000, &[9; 512]).unwrap();
            disk.run(&Call::Write { buffers: buffers(512), durable: true }, 512).unwrap();
            disk.run(&Call::Allocate { size: 512, how: FallocateFlags::PUNCH_HOLE }, 1024).unwrap();
            assert_eq!(read(0, 2048), [[7; 512], [9; 512], [0; 512], [7; 512]].concat());
            disk.run(&Call::Sync, 0).unwrap();
            let mut after = vec![0; before.len()];
            file.read_exact_at(&mut after, 0).unwrap();
            assert!(after == before && bytes_of(&file) == before.len() as u64, "{format:?}");
        }
    }

    #[test]
    fn sec35_an_image_that_does_not_count_its_header_is_refused() {
        let file = image();
        let mut at = [0; 8];
        file.read_exact_at(&mut at, 48).unwrap();
        file.write_all_at(&[0; 8], u64::from_be_bytes(at)).unwrap();
        let nonsense = Qcow2Error::Header(HeaderError::Nonsense("nothing counts who uses its own cluster"));
        assert_eq!(open(&file).err().map(|error| error.to_string()), Some(nonsense.to_string()));
    }

    /// Each kind of entry leads half a petabyte away, where a file system with room for such a file would make one.
    #[test]
    fn sec35_tables_that_lead_far_away_make_no_long_file() {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let buffers = || HostBuffers::of_guest(&ram, &[GuestRange { start: 0x1000, size: 512 }]).unwrap();
        let far: u64 = 1 << 49;
        for table in ["reference counts", "first level", "second level"] {
            let file = image();
            let disk = open(&file).unwrap();
            disk.run(&Call::Write { buffers: buffers(), durable: true }, 0).unwrap();
            drop(disk);
            let long = |at| {
                let mut long = [0; 8];
                file.read_exact_at(&mut long, at).unwrap();
                u64::from_be_bytes(long)
            };
            // The highest bit: nothing else uses what the entry leads to.
            let (at, entry) = match table {
                "reference counts" => (long(48), far),
                "first level" => (long(40), far | 1 << 63),
                _ => (long(long(40)) & !(1 << 63), far | 1 << 63),
            };
            file.write_all_at(&entry.to_be_bytes(), at).unwrap();
            let before = file.metadata().unwrap().len();
            let disk = open(&file).unwrap();
            let write = |at| disk.run(&Call::Write { buffers: buffers(), durable: true }, at);
            // In the cluster that the entry leads to, and in one that needs room.
            let said = [write(0), write(4 << 20)].map(|written| written.err().map(|error| error.to_string()));
            let said = said.iter().flatten().next().expect("one of both does not work");
            assert!(said.contains("where even a full one has ended"), "{table}: {said}");
            if table == "second level" {
                write(4 << 20).unwrap();
                assert!(disk.run(&Call::Read(buffers()), 0).is_err());
            }
            let _ = disk.settle();
            std::mem::forget(disk);
            assert!(file.metadata().unwrap().len() <= before + SIZE, "{table}");
        }
    }

    #[test]
    fn a_full_image_stays_within_its_bound_whatever_its_clusters_and_counts_are() {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let buffers = |size| HostBuffers::of_guest(&ram, &[GuestRange { start: 0x1000, size }]).unwrap();
        for (cluster, width) in [(512, 64), (512, 1), (2 << 20, 64)] {
            let file = super::super::overlay::unnamed_file().unwrap();
            let storage: ImageFile = file.try_clone().unwrap().try_into().unwrap();
            let builder = Format::<ImageFile>::create_builder(storage).size(SIZE);
            builder.cluster_size(cluster).refcount_width(width).create().unwrap();
            let before = file.metadata().unwrap().len();
            let disk = open(&file).unwrap();
            let piece = 1 << 15;
            let pieces = SIZE / piece;
            // All of it, in an order that leaves holes for long, and again after half of it was given up.
            for (round, step) in [(0, 37), (1, 2), (2, 53)] {
                for place in (0..pieces).map(|at| at * step % pieces * piece) {
                    let how = FallocateFlags::PUNCH_HOLE;
                    let call = match round {
                        1 => Call::Allocate { size: piece, how },
                        _ => Call::Write { buffers: buffers(piece), durable: false },
                    };
                    disk.run(&call, place).unwrap();
                }
                disk.settle().unwrap();
            }
            drop(disk);
            let (after, most) = (file.metadata().unwrap().len(), before + SIZE + SIZE / 16 + 16 * cluster as u64);
            assert!((SIZE..=most).contains(&after), "{after} bytes of {most} in clusters of {cluster}, {width}");
        }
    }

    /// Bytes anywhere in what says where things are: an error or wrong data, and neither a panic nor a read without end.
    #[test]
    fn sec35_broken_tables_are_errors() {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let buffers = || HostBuffers::of_guest(&ram, &[GuestRange { start: 0x1000, size: 1 << 17 }]).unwrap();
        let mut seed = 11;
        let mut opened = 0;
        for _ in 0..400 {
            let file = image();
            let disk = open(&file).unwrap();
            disk.run(&Call::Write { buffers: buffers(), durable: false }, 1 << 20).unwrap();
            disk.settle().unwrap();
            drop(disk);
            let end = file.metadata().unwrap().len();
            for _ in 0..1 + random(&mut seed, 8) {
                // The header, or the first words of a cluster, which may be a table.
                let cluster = random(&mut seed, end.div_ceil(1 << 16)) << 16;
                let at = cluster + random(&mut seed, 128);
                let byte = [0, 1, 0x7f, 0x80, 0xff, random(&mut seed, 256) as u8][random(&mut seed, 6) as usize];
                file.write_all_at(&[byte], at).unwrap();
            }
            if let Ok(disk) = open(&file) {
                opened += 1;
                for offset in [0, 1 << 20, (1 << 20) + 512] {
                    let _ = disk.run(&Call::Read(buffers()), offset);
                    let _ = disk.run(&Call::Write { buffers: buffers(), durable: false }, offset);
                    let _ = disk.run(&Call::Allocate { size: 1 << 16, how: FallocateFlags::PUNCH_HOLE }, offset);
                }
                let _ = disk.settle();
                // What is still cached is not to be written anywhere.
                std::mem::forget(disk);
            }
            assert!(file.metadata().unwrap().len() < 1 << 30, "the first-level table is for 512 MiB");
        }
        assert!(opened > 100, "{opened} of 400 opened");
    }
}
