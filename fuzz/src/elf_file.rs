//! ELF files of both classes, right but for a few fields. Source: ELF gABI "ELF Header", "Program Header", "Note Section".

use crate::knob::{Address, Knob, Magnitude};
use arbitrary::Arbitrary;

/// Where the segments' bytes begin: behind the headers of as many segments as are made here.
pub const CONTENT: u64 = 0x400;
/// Most segments of a file, but for a wrong count.
const SEGMENTS_MAX: usize = 8;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// An ELF file to be.
#[derive(Arbitrary, Debug)]
pub struct ElfFile<'a> {
    class_32: bool,
    class: Knob<u8>,
    byte_order: Knob<u8>,
    kind: Knob<u16>,
    machine: Knob<u16>,
    entry: Knob<Address>,
    table: Knob<Magnitude>,
    header_size: Knob<u16>,
    count: Knob<u16>,
    notes: Vec<Note<'a>>,
    note_segment: Knob<Segment>,
    segments: Vec<Segment>,
}

/// A program header; where the knobs are right, one that loads bytes of the file.
#[derive(Arbitrary, Debug)]
struct Segment {
    kind: Knob<u32>,
    offset: Knob<Magnitude>,
    gpa: Address,
    gva: Knob<Address>,
    file_size: u16,
    huge_file_size: Knob<Magnitude>,
    zeros: u16,
    memory_size: Knob<Magnitude>,
    align: Knob<Magnitude>,
}

/// A note; with the knobs right, one that names the entry of a PVH kernel.
#[derive(Arbitrary, Debug)]
struct Note<'a> {
    owner: Owner<'a>,
    kind: Knob<u32>,
    entry: Knob<Address>,
    wide: bool,
    sizes: Knob<(u32, u32)>,
}

#[derive(Arbitrary, Debug)]
enum Owner<'a> {
    Xen,
    Linux,
    Other(&'a [u8]),
}

impl ElfFile<'_> {
    /// The file's bytes: headers, notes, then `content`.
    pub fn build(mut self, content: &[u8]) -> Vec<u8> {
        self.segments.truncate(SEGMENTS_MAX);
        let narrow = self.class_32;
        let first = self.segments.first().map_or(0, |segment| segment.gpa.0);
        let notes = note_segment(self.notes, first);
        let size = CONTENT + (notes.len() + content.len()) as u64;
        let mut headers = Vec::new();
        for segment in self.segments {
            segment.build(narrow, CONTENT + notes.len() as u64, size, &mut headers);
        }
        match self.note_segment.0 {
            Some(segment) => segment.build(narrow, CONTENT, size, &mut headers),
            None => {
                push_header(narrow, &mut headers, PT_NOTE, [CONTENT, 0, 0, notes.len() as u64, notes.len() as u64, 4])
            }
        }
        let (own_size, header_size) = if narrow { (52u16, 32u16) } else { (64, 56) };
        let mut file = b"\x7fELF".to_vec();
        file.extend([self.class.or(if narrow { 1 } else { 2 }), self.byte_order.or(1), 1]);
        file.resize(16, 0);
        file.extend(self.kind.or(2).to_le_bytes());
        file.extend(self.machine.or(62).to_le_bytes());
        file.extend(1u32.to_le_bytes());
        for address in [self.entry.or(Address(first)).0, self.table.or(Magnitude(own_size.into())).0, 0] {
            push_address(narrow, &mut file, address);
        }
        file.extend(0u32.to_le_bytes());
        let count = (headers.len() / usize::from(header_size)) as u16;
        for half in [own_size, self.header_size.or(header_size), self.count.or(count), 0, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        file.extend(headers);
        file.resize(CONTENT as usize, 0);
        file.extend(notes);
        file.extend(content);
        file
    }
}

impl Segment {
    /// Adds the program header of a segment whose bytes begin at `offset` of a file of `size` bytes.
    fn build(self, narrow: bool, offset: u64, size: u64, headers: &mut Vec<u8>) {
        let file_size = self.huge_file_size.or(Magnitude(u64::from(self.file_size) % (size - offset + 1))).0;
        let memory_size = self.memory_size.or(Magnitude(file_size.saturating_add(self.zeros.into()))).0;
        let (gpa, gva) = (self.gpa.0, self.gva.or(self.gpa).0);
        let fields =
            [self.offset.or(Magnitude(offset)).0, gva, gpa, file_size, memory_size, self.align.or(Magnitude(4)).0];
        push_header(narrow, headers, self.kind.or(PT_LOAD), fields);
    }
}

/// Offset, linear and physical address, sizes in file and memory, alignment.
fn push_header(narrow: bool, headers: &mut Vec<u8>, kind: u32, fields: [u64; 6]) {
    headers.extend(kind.to_le_bytes());
    if !narrow {
        headers.extend(7u32.to_le_bytes());
    }
    let (last, others) = fields.split_last().expect("six fields");
    others.iter().for_each(|field| push_address(narrow, headers, *field));
    if narrow {
        headers.extend(7u32.to_le_bytes());
    }
    push_address(narrow, headers, *last);
}

fn push_address(narrow: bool, bytes: &mut Vec<u8>, value: u64) {
    if narrow { bytes.extend((value as u32).to_le_bytes()) } else { bytes.extend(value.to_le_bytes()) }
}

/// The notes as bytes; the right entry is `entry`.
fn note_segment(notes: Vec<Note>, entry: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for note in notes.into_iter().take(SEGMENTS_MAX) {
        let owner = match note.owner {
            Owner::Xen => b"Xen\0",
            Owner::Linux => &b"Linux\0"[..],
            Owner::Other(name) => name,
        };
        let entry = note.entry.or(Address(entry)).0;
        let content = &entry.to_le_bytes()[..if note.wide { 8 } else { 4 }];
        let (owner_size, content_size) = note.sizes.or((owner.len() as u32, content.len() as u32));
        for word in [owner_size, content_size, note.kind.or(18)] {
            bytes.extend(word.to_le_bytes());
        }
        for part in [owner, content] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    bytes
}
