//! Windows programs: refused with one line, or laid out and put into memory, every section apart from the others and inside the image,
//! and every import bound inside it.

#![no_main]

use arbitrary::Arbitrary;
use hostel::process::windows::bytes::Bytes;
use hostel::process::windows::image::Image;
use hostel::process::windows::pe::{IMAGE_MAX, Pe};
use hostel_fuzz::knob::{Damage, Knob};
use libfuzzer_sys::fuzz_target;

/// Where the PE header stands.
const HEADER: usize = 0x80;
/// Bytes of headers in the file.
const HEADERS: usize = 0x400;
const BASE: u64 = 0x1_4000_0000;

/// A section; where the knobs are right it lies behind the one before.
#[derive(Arbitrary, Debug)]
struct Section<'a> {
    start: Knob<u32>,
    size: Knob<u32>,
    zeros: u16,
    offset: Knob<u32>,
    flags: u8,
    bytes: &'a [u8],
}

/// A directory: which, and where in the last section.
#[derive(Arbitrary, Debug)]
struct Directory {
    index: u8,
    offset: u16,
    start: Knob<u32>,
    size: Knob<u32>,
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    sections: Vec<Section<'a>>,
    directories: Vec<Directory>,
    entry: Knob<u32>,
    image: Knob<u32>,
    headers: Knob<u32>,
    count: Knob<u16>,
    damage: Damage,
    base: u64,
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Input<'_> {
    fn build(self) -> Vec<u8> {
        let mut sections = self.sections;
        sections.truncate(8);
        let mut file = vec![0; HEADERS];
        let optional = HEADER + 24;
        put(&mut file, 0, b"MZ");
        put(&mut file, 0x3c, &(HEADER as u32).to_le_bytes());
        put(&mut file, HEADER, b"PE\0\0\x64\x86");
        put(&mut file, HEADER + 6, &self.count.or(sections.len() as u16).to_le_bytes());
        put(&mut file, HEADER + 20, &[240, 0, 0x22, 0]);
        let (mut start, mut last) = (0x1000u32, 0x1000);
        for (index, section) in sections.into_iter().enumerate() {
            let size = section.bytes.len() as u32 + u32::from(section.zeros);
            let fields = [
                section.size.or(size),
                section.start.or(start),
                section.bytes.len() as u32,
                section.offset.or(file.len() as u32),
            ];
            // The first section is code, so that an entry lies in it.
            let flags = if index == 0 { 0x6000_0000 } else { u32::from(section.flags) << 24 };
            let at = optional + 240 + index * 40;
            put(&mut file, at + 8, &fields.map(u32::to_le_bytes).concat());
            put(&mut file, at + 36, &flags.to_le_bytes());
            file.extend_from_slice(section.bytes);
            last = start;
            start = (start + size).next_multiple_of(0x1000);
        }
        for (offset, value) in [
            (0, 0x20b),
            (16, self.entry.or(0x1000)),
            (32, 0x1000),
            (56, self.image.or(start)),
            (60, self.headers.or(HEADERS as u32)),
            (68, 3),
            (108, 16),
        ] {
            put(&mut file, optional + offset, &value.to_le_bytes());
        }
        put(&mut file, optional + 24, &BASE.to_le_bytes());
        for directory in self.directories {
            let at = optional + 112 + usize::from(directory.index % 16) * 8;
            put(&mut file, at, &directory.start.or(last + u32::from(directory.offset)).to_le_bytes());
            put(&mut file, at + 4, &directory.size.or(0x100).to_le_bytes());
        }
        self.damage.apply(&mut file);
        file
    }
}

fuzz_target!(|input: Input| {
    let elsewhere = input.base & 0x7fff_ffff_0000;
    let file = input.build();
    let pe = match Pe::parse(&file) {
        Ok(pe) => pe,
        Err(error) => return assert!(!error.to_string().contains('\n')),
    };
    let mut end = pe.headers;
    for section in &pe.sections {
        assert!(section.start >= end && section.file_size <= section.size);
        assert!(section.offset + section.file_size <= file.len() as u64);
        end = section.start + section.size;
    }
    assert!(end <= pe.size && pe.size <= IMAGE_MAX);
    for base in [pe.base, elsewhere] {
        let Ok(mut image) = Image::lay_out(&pe, base) else { continue };
        assert_eq!(image.bytes.len() as u64, pe.size);
        if let Ok(Some(storage)) = image.thread_storage(&pe) {
            assert!(storage.index >= base && storage.index - base <= pe.size - 4);
        }
        for import in image.imports(&pe).unwrap_or_default() {
            image.bind(&import, 0x1234_5678_9abc_def0);
            assert_eq!(Bytes(&image.bytes).u64(import.slot), Some(0x1234_5678_9abc_def0));
        }
    }
});
