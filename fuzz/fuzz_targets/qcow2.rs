//! Disks in qcow2 images of which words are changed, in the header and in the tables. Each is refused with one line, or gives a disk whose
//! requests end, with an error or without; and the file is not longer than that of a full image of the size that the header says.

#![no_main]

use arbitrary::Arbitrary;
use hostel::arch::layout::MIB;
use hostel::backend::block::buffers::HostBuffers;
use hostel::backend::block::disk::{Disk, DiskOptions, Mode, Request};
use hostel::backend::block::image::{DiskFormat, SECTOR};
use hostel::event_loop::{self, Interest};
use hostel::memory::map::{GuestRange, MemoryMap};
use hostel::memory::ram::GuestRam;
use hostel_fuzz::hostile::HANG;
use hostel_fuzz::knob::Knob;
use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Most bytes of a cluster that the format knows.
const CLUSTER_MAX: u64 = 2 << 20;
const CLUSTER_BITS: u32 = 12;
const CLUSTER: usize = 1 << CLUSTER_BITS;
/// An entry's cluster has no other user.
const COPIED: u64 = 1 << 63;
/// What the image's header says of the disk's size.
const SIZE: u64 = 2 << 20;

#[derive(Arbitrary, Debug)]
struct Input {
    read_only: bool,
    /// One time in sixteen the requests are worked off by a thread, as in a machine.
    thread: Knob<()>,
    /// Words of the image: cluster, place in it (the header's fields mostly are at places of their own), value.
    changes: Vec<(u8, u8, u64)>,
    requests: Vec<(u8, u16, u8)>,
}

/// An image of six clusters: header, table of reference counts, counts, first level, second level, data.
fn image() -> Vec<u8> {
    let mut image = vec![0; 6 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, &CLUSTER_BITS.to_be_bytes());
    put(24, &SIZE.to_be_bytes());
    put(36, &1u32.to_be_bytes());
    put(40, &(3 * CLUSTER as u64).to_be_bytes());
    put(48, &(CLUSTER as u64).to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    put(CLUSTER, &(2 * CLUSTER as u64).to_be_bytes());
    (0..6).for_each(|cluster| put(2 * CLUSTER + 2 * cluster, &1u16.to_be_bytes()));
    put(3 * CLUSTER, &((4 * CLUSTER as u64) | COPIED).to_be_bytes());
    put(4 * CLUSTER, &((5 * CLUSTER as u64) | COPIED).to_be_bytes());
    image
}

/// The image's file and RAM for its requests, which are kept from one input to the next.
struct Bench {
    path: String,
    file: File,
    ram: Arc<GuestRam>,
    /// The image before it is changed.
    image: Vec<u8>,
}

impl Bench {
    fn new() -> Bench {
        let name = format!("/dev/shm/hostel-fuzz-qcow2-{}", std::process::id());
        let file = File::options().read(true).write(true).create_new(true).open(&name);
        let file = file.expect("the directory takes a file");
        // It is opened by its descriptor.
        std::fs::remove_file(name).expect("it is there");
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).expect("a size")).expect("RAM"));
        Bench { path, file, ram, image: image() }
    }

    /// The image with words changed is all that the file holds.
    fn write(&self, changes: &[(u8, u8, u64)]) {
        let mut image = self.image.clone();
        for (cluster, place, value) in changes.iter().take(8) {
            let at = usize::from(cluster % 6) * CLUSTER + usize::from(*place) * 4;
            image[at..at + 8].copy_from_slice(&value.to_be_bytes());
        }
        self.file.set_len(image.len() as u64).expect("it can be cut");
        self.file.write_all_at(&image, 0).expect("it can be written");
    }

    fn request(&self, disk: &mut Disk<()>, (kind, sector, count): (u8, u16, u8)) {
        let (sector, count) = (u64::from(sector), u64::from(count));
        let range = [GuestRange { start: 0x1000, size: count * 512 }];
        let buffers = HostBuffers::of_guest(&self.ram, &range).expect("it is RAM");
        let request = match kind % 5 {
            0 => Request::Read(sector, buffers),
            1 => Request::Write { sector, buffers, durable: kind & 8 != 0 },
            2 => Request::Flush,
            3 => Request::Discard { sector, count },
            _ => Request::WriteZeroes { sector, count, unmap: kind & 8 != 0, durable: kind & 16 != 0 },
        };
        disk.begin((), request);
        while disk.finish().count() == 0 {
            let ready = [Interest { token: (), fd: disk.ready(), output: false }];
            let ready = event_loop::wait(&ready, Some(HANG)).expect("it can be waited for");
            assert!(!ready.is_empty(), "a request hangs");
        }
    }
}

thread_local! {
    static BENCH: Bench = Bench::new();
}

fuzz_target!(|input: Input| {
    BENCH.with(|bench| {
        bench.write(&input.changes);
        let mode = if input.read_only { Mode::Read } else { Mode::Write };
        let inline = input.thread.0.is_none();
        let options = DiskOptions { mode, format: DiskFormat::Qcow2, inline, ..DiskOptions::default() };
        let mut disk = match Disk::open(Path::new(&bench.path), options, 4) {
            Ok(disk) => disk,
            Err(error) => {
                let text = error.to_string();
                return assert!(text.contains(&bench.path) && !text.contains('\n'), "{text}");
            }
        };
        input.requests.iter().take(32).for_each(|request| bench.request(&mut disk, *request));
        let full = bench.image.len() as u64 + (disk.sectors() + 1) * SECTOR;
        drop(disk);
        let bytes = bench.file.metadata().expect("it is open").len();
        assert!(bytes <= full + full / 16 + 16 * CLUSTER_MAX, "{bytes} bytes");
    });
});
