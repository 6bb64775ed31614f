//! A private layer over a disk that is not to be changed: what the guest writes goes to an unnamed sparse file, sector by sector at
//! the same place, and is read from there again. It is gone with the machine.
//!
//! Which sectors are in the layer stands in bits, in pages made when one of theirs is set: at most 1/4096 of the disk.
//! Source: open(2) `O_TMPFILE`.

use super::image::SECTOR;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Resource, getrlimit};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Sectors of a page of bits.
const PAGE_SECTORS: u64 = 1 << 15;
const WORDS: usize = (PAGE_SECTORS / 64) as usize;

/// The layer.
pub struct Layer {
    /// What was written, where the disk has it.
    pub file: Arc<File>,
    written: HashMap<u64, Box<[u64; WORDS]>>,
}

impl Layer {
    /// An empty layer over a disk of this many sectors.
    ///
    /// # Errors
    /// The directory for temporary files takes none.
    pub fn new(sectors: u64) -> io::Result<Layer> {
        let (file, bytes) = (unnamed_file()?, sectors * SECTOR);
        // The kernel would end this process for it.
        if getrlimit(Resource::Fsize).current.is_some_and(|most| most < bytes) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        file.set_len(bytes)?;
        Ok(Layer { file: Arc::new(file), written: HashMap::new() })
    }

    /// Whether `first` is in the layer, and how many sectors from there on, up to `end`, are where it is.
    pub fn run(&self, first: u64, end: u64) -> (bool, u64) {
        let here = self.word(first) >> (first % 64) & 1 != 0;
        let mut at = first;
        while at < end {
            let others = if here { !self.word(at) } else { self.word(at) } >> (at % 64);
            let (same, left) = (u64::from(others.trailing_zeros()), 64 - at % 64);
            at += same.min(left);
            if same < left {
                break;
            }
        }
        (here, at.min(end) - first)
    }

    /// These sectors have been written to the layer.
    pub fn mark(&mut self, sectors: Range<u64>) {
        let mut at = sectors.start;
        while at < sectors.end {
            let count = (64 - at % 64).min(sectors.end - at);
            let page = self.written.entry(at / PAGE_SECTORS).or_insert_with(|| Box::new([0; WORDS]));
            page[(at % PAGE_SECTORS / 64) as usize] |= u64::MAX >> (64 - count) << (at % 64);
            at += count;
        }
    }

    /// The bits of the 64 sectors around this one.
    fn word(&self, sector: u64) -> u64 {
        self.written.get(&(sector / PAGE_SECTORS)).map_or(0, |page| page[(sector % PAGE_SECTORS / 64) as usize])
    }
}

/// A file without a name in the directory for temporary files (`TMPDIR`, or `/tmp`).
///
/// # Errors
/// The directory takes none.
pub fn unnamed_file() -> io::Result<File> {
    let directory = std::env::temp_dir();
    match open(&directory, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let path = directory.join(format!("hostel-layer-{}", std::process::id()));
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            std::fs::remove_file(path)?;
            Ok(file)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_where_the_layer_begins_and_ends() {
        let mut layer = Layer::new(1 << 20).unwrap();
        assert_eq!(layer.run(0, 1 << 20), (false, 1 << 20));
        layer.mark(10..12);
        layer.mark(PAGE_SECTORS - 1..PAGE_SECTORS + 1);
        assert_eq!((layer.run(0, 100), layer.run(10, 100), layer.run(12, 100)), ((false, 10), (true, 2), (false, 88)));
        assert_eq!(layer.run(11, 12), (true, 1));
        layer.mark(128..64 * 5 + 1);
        assert_eq!(
            (layer.run(12, 1000), layer.run(128, 1000), layer.run(200, 210)),
            ((false, 116), (true, 193), (true, 10))
        );
        assert_eq!(layer.run(PAGE_SECTORS - 1, 1 << 20), (true, 2));
        assert_eq!(layer.file.metadata().unwrap().len(), 512 << 20);
    }
}
