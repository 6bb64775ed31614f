//! Tar archives of members that are right but for a few fields, plain or packed.
//! Source: tar(5).

use crate::knob::{Damage, Knob, Magnitude};
use arbitrary::Arbitrary;
use lzma_rust2::{XzOptions, XzWriter};
use std::io::Write;

/// Bytes of a header, and a multiple of which content takes.
const BLOCK: usize = 512;
/// Parts of names, by a byte: mostly of the first four.
const PARTS: [&[u8]; 16] = [
    b"a",
    b"b",
    b"c",
    b"d",
    b"outside",
    b"..",
    b".",
    b"",
    b".wh.a",
    b".wh.b",
    b".wh..wh..opq",
    b".wh..wh.x",
    b".wh.",
    b"line\nend\x1b[2J",
    &[b'n'; 255],
    &[b'n'; 256],
];
/// Type flags, by a byte: files, directories and links, then what else there is, and what there is not.
const KINDS: [u8; 16] = *b"0512\x003467SVKLgxQ";
/// Keywords of extended headers.
const KEYWORDS: [&str; 8] = ["path", "linkpath", "size", "uid", "mtime", "GNU.sparse.name", "SCHILY.xattr.a", ""];
/// Most members, records of one, holes of one, and parts of a name.
const MEMBERS: usize = 24;
const RECORDS: usize = 4;
const HOLES: usize = 30;
const NAME_PARTS: usize = 8;
/// More directories in each other than there may be.
const DEEP: usize = 300;

/// An archive to be.
#[derive(Arbitrary, Debug)]
pub struct TarFile {
    members: Vec<Member>,
    /// Blocks of zeroes at the end.
    end: Knob<u8>,
    damage: Damage,
    packing: Knob<Packing>,
}

#[derive(Arbitrary, Debug)]
struct Member {
    name: Name,
    /// What it is a link to.
    target: Name,
    kind: u8,
    mode: u16,
    /// Bytes of its content, and what the header says of them.
    size: u8,
    says: Knob<Magnitude>,
    /// Bytes of the header that are changed before its sum is made.
    changes: Knob<Vec<(u16, u8)>>,
    sum: Knob<u32>,
    before: Before,
}

/// A path: where it begins, and a byte for each part. Some begin at directories of the host.
#[derive(Arbitrary, Debug)]
struct Name {
    begins: u8,
    parts: Vec<u8>,
    /// Directories in each other before all that, few or, for one in 64, [`DEEP`].
    deep: Knob<u8>,
}

/// What is said of a member before it, or in its header.
#[derive(Arbitrary, Debug)]
enum Before {
    /// Its name and target, where they are too long for its header.
    Long,
    Nothing,
    /// Records of an extended header: keyword, value, and what they say of their own length.
    Records(Vec<(u8, Name, Knob<u16>)>),
    /// Holes and the bytes between them, and where these begin.
    Holes(Vec<(u8, u8, Knob<Magnitude>)>),
}

#[derive(Arbitrary, Debug)]
enum Packing {
    Gzip,
    /// The same in two pieces, the second of which begins here.
    Pieces(u16),
    Zstd,
    Xz,
    /// One of the magic numbers before what is not packed.
    Magic(u8),
}

impl TarFile {
    /// The archive's bytes; `elsewhere` are directories of the host to which some links lead.
    pub fn build(self, elsewhere: &[Vec<u8>]) -> Vec<u8> {
        let mut file = Vec::new();
        self.members.iter().take(MEMBERS).for_each(|member| member.append(elsewhere, &mut file));
        file.resize(file.len() + BLOCK * usize::from(self.end.or(2)), 0);
        self.damage.apply(&mut file);
        match self.packing.0 {
            Some(packing) => packing.pack(&file),
            None => file,
        }
    }
}

/// A right archive of members: type flag, name, and content, or what it is a link to.
pub fn archive(members: &[(u8, &[u8], &[u8])]) -> Vec<u8> {
    let mut file = Vec::new();
    for (kind, name, rest) in members {
        let (target, content) = if *kind == b'0' { (&b""[..], *rest) } else { (*rest, &b""[..]) };
        put(&mut file, header(name, target, *kind, 0o755, content.len() as u64), content);
    }
    file.resize(file.len() + 2 * BLOCK, 0);
    file
}

impl Name {
    fn bytes(&self, elsewhere: &[Vec<u8>]) -> Vec<u8> {
        let part = |byte: &u8| PARTS[usize::from(byte % if *byte < 0x80 { 4 } else { 16 })];
        let parts: Vec<_> = self.parts.iter().take(NAME_PARTS).map(part).collect();
        let begin = match self.begins % 8 {
            0..5 => b"",
            5 => &b"/"[..],
            _ => &elsewhere[usize::from(self.begins / 8) % elsewhere.len()],
        };
        let deep = match self.deep.0.unwrap_or(0) {
            252.. => DEEP,
            few => usize::from(few % 8),
        };
        let deep = b"d/".repeat(deep);
        [begin, &deep, &parts.join(&b'/')].concat()
    }
}

impl Member {
    fn append(&self, elsewhere: &[Vec<u8>], file: &mut Vec<u8>) {
        let (name, target) = (self.name.bytes(elsewhere), self.target.bytes(elsewhere));
        let mut kind = KINDS[usize::from(self.kind % if self.kind < 0x80 { 4 } else { 16 })];
        let mut content = vec![b'x'; if kind == b'0' { self.size.into() } else { 0 }];
        let mut holes: &[(u8, u8, Knob<Magnitude>)] = &[];
        match &self.before {
            Before::Nothing => {}
            Before::Long => {
                for (kind, long) in [(b'L', &name), (b'K', &target)] {
                    if long.len() > 100 {
                        put(
                            file,
                            header(b"././@LongLink", b"", kind, 0, long.len() as u64 + 1),
                            &[long, &b"\0"[..]].concat(),
                        );
                    }
                }
            }
            Before::Records(records) => {
                let records = records.iter().take(RECORDS);
                let text: Vec<u8> = records.flat_map(|record| self.record(record, elsewhere)).collect();
                put(file, header(b"records", b"", b'x', 0, text.len() as u64), &text);
            }
            Before::Holes(all) => {
                holes = &all[..all.len().min(HOLES)];
                kind = b'S';
                content = vec![b'x'; holes.iter().map(|(_, bytes, _)| usize::from(*bytes)).sum()];
            }
        }
        let mut block = header(&name, &target, kind, self.mode, content.len() as u64);
        let more = put_holes(&mut block, holes);
        if let Some(says) = &self.says.0 {
            number(&mut block[124..136], says.0);
        }
        for (at, byte) in self.changes.0.iter().flatten() {
            block[usize::from(*at) % BLOCK] = *byte;
        }
        let sum = self.sum.0.unwrap_or_else(|| sum(&block));
        number(&mut block[148..155], sum.into());
        file.extend(block);
        file.extend(more);
        file.extend(&content);
        file.resize(file.len().next_multiple_of(BLOCK), 0);
    }

    /// A record as pax(1) has it: its length, which counts itself, keyword, value.
    fn record(&self, (keyword, value, length): &(u8, Name, Knob<u16>), elsewhere: &[Vec<u8>]) -> Vec<u8> {
        let keyword = KEYWORDS[usize::from(*keyword) % KEYWORDS.len()];
        let value = match keyword {
            "size" | "uid" | "mtime" => self.size.to_string().into_bytes(),
            _ => value.bytes(elsewhere),
        };
        let rest = [b" ", keyword.as_bytes(), b"=", &value, b"\n"].concat();
        let digits = (1..).find(|digits| (rest.len() + digits).to_string().len() == *digits).expect("there is one");
        let length = length.0.map_or(rest.len() + digits, usize::from);
        [length.to_string().as_bytes(), &rest].concat()
    }
}

/// A header without its sum; names are cut off at what it has room for.
fn header(name: &[u8], target: &[u8], kind: u8, mode: u16, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    for (at, text) in [(0, name), (157, target)] {
        let text = &text[..text.len().min(100)];
        block[at..at + text.len()].copy_from_slice(text);
    }
    for (place, value) in [(100..108, mode.into()), (108..116, 8), (116..124, 4), (124..136, size), (136..148, 1 << 30)]
    {
        number(&mut block[place], value);
    }
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar  \0");
    if let b'3' | b'4' = kind {
        number(&mut block[329..337], 1);
        number(&mut block[337..345], 3);
    }
    block
}

fn sum(block: &[u8; BLOCK]) -> u32 {
    let mut block = *block;
    block[148..156].fill(b' ');
    block.iter().map(|byte| u32::from(*byte)).sum()
}

/// A member that describes another one.
fn put(file: &mut Vec<u8>, mut block: [u8; BLOCK], content: &[u8]) {
    let sum = sum(&block);
    number(&mut block[148..155], sum.into());
    file.extend(block);
    file.extend(content);
    file.resize(file.len().next_multiple_of(BLOCK), 0);
}

/// A number in octal digits and a zero byte, or, where it is too large for these, in bytes (GNU).
fn number(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    if text.len() == digits {
        field[..digits].copy_from_slice(text.as_bytes());
    } else {
        field.fill(0);
        field[0] = 0x80;
        let bytes = value.to_be_bytes();
        let count = digits.min(bytes.len());
        let at = field.len() - count;
        field[at..].copy_from_slice(&bytes[bytes.len() - count..]);
    }
}

/// Puts a map of holes into a header, and returns the blocks with what has no room there.
fn put_holes(block: &mut [u8; BLOCK], holes: &[(u8, u8, Knob<Magnitude>)]) -> Vec<u8> {
    let mut at = 0u64;
    let mut entries = Vec::new();
    for (hole, bytes, place) in holes {
        at += u64::from(*hole);
        entries.push((place.0.as_ref().map_or(at, |place| place.0), u64::from(*bytes)));
        at += u64::from(*bytes);
    }
    let entry = |field: &mut [u8], (offset, length): (u64, u64)| {
        number(&mut field[..12], offset);
        number(&mut field[12..24], length);
    };
    let (first, rest) = entries.split_at(entries.len().min(4));
    if !first.is_empty() {
        number(&mut block[483..495], at);
    }
    first.iter().zip(block[386..482].chunks_mut(24)).for_each(|(of, field)| entry(field, *of));
    block[482] = u8::from(!rest.is_empty());
    let mut more = Vec::new();
    for (index, part) in rest.chunks(21).enumerate() {
        let mut block = [0; BLOCK];
        part.iter().zip(block.chunks_mut(24)).for_each(|(of, field)| entry(field, *of));
        block[504] = u8::from((index + 1) * 21 < rest.len());
        more.extend(block);
    }
    more
}

const IN_MEMORY: &str = "a vector takes all that is written to it";

impl Packing {
    fn pack(&self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Packing::Gzip => gzip(bytes),
            Packing::Pieces(at) => {
                let (front, rest) = bytes.split_at(bytes.len().min((*at).into()));
                [gzip(front), gzip(rest)].concat()
            }
            Packing::Zstd => ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest),
            Packing::Xz => {
                let mut writer = XzWriter::new(Vec::new(), XzOptions::with_preset(0)).expect(IN_MEMORY);
                writer.write_all(bytes).expect(IN_MEMORY);
                writer.finish().expect(IN_MEMORY)
            }
            Packing::Magic(which) => {
                let magics: [&[u8]; 4] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18", b"\xfd7zXZ\0"];
                [magics[usize::from(*which) % magics.len()], bytes].concat()
            }
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect(IN_MEMORY);
    encoder.finish().expect(IN_MEMORY)
}
