//! bzImages, right but for a few fields, around payloads of every compression.
//! Source: Linux boot.rst "The Real-Mode Kernel Header".

use crate::elf_file::ElfFile;
use crate::knob::{Address, Knob, Magnitude};
use arbitrary::Arbitrary;
use hostel::arch::layout::MIB;
use hostel::boot::samples::HELLO_FORMS;
use lzma_rust2::{CheckType, FilterType, LzmaOptions, LzmaWriter, XzOptions, XzWriter};
use std::io::Write;
use std::sync::LazyLock;

/// Where the protected-mode kernel begins in the file: one sector of setup code behind the first.
const KERNEL: usize = 1024;
/// Where the payload begins in the kernel: behind the 64-bit entry at 0x200.
const PAYLOAD: u32 = 0x210;

/// A bzImage to be.
#[derive(Arbitrary, Debug, Default)]
pub struct BzImageFile<'a> {
    setup_sects: Knob<u8>,
    jump: Knob<u8>,
    version: Knob<u16>,
    loadflags: Knob<u8>,
    initrd_addr_max: Knob<Magnitude>,
    alignment: Knob<Magnitude>,
    relocatable: Knob<u8>,
    xloadflags: Knob<u16>,
    cmdline_size: Knob<u32>,
    payload_offset: Knob<Magnitude>,
    payload_length: Knob<Magnitude>,
    pref_address: Knob<Address>,
    init_size: Knob<Magnitude>,
    payload: Payload<'a>,
}

/// What a bzImage holds.
#[derive(Arbitrary, Debug)]
enum Payload<'a> {
    /// One of [`PACKED`], with bytes changed.
    Packed(u8, Knob<Vec<(u16, u8)>>),
    /// An ELF file, not compressed.
    Plain(Box<ElfFile<'a>>, &'a [u8]),
    /// The magic number of one of [`PACKED`], then any bytes.
    Raw(u8, &'a [u8]),
}

impl Default for Payload<'_> {
    fn default() -> Self {
        Payload::Raw(0, &[])
    }
}

impl BzImageFile<'_> {
    /// A right one, of a kernel that takes a command line of `size` bytes.
    pub fn with_cmdline_size(size: u32) -> Self {
        BzImageFile { cmdline_size: Knob(Some(size)), ..BzImageFile::default() }
    }

    /// The file's bytes.
    pub fn build(self) -> Vec<u8> {
        let payload = self.payload.build();
        let mut file = vec![0; KERNEL + PAYLOAD as usize];
        let fields: [(usize, &[u8]); 15] = [
            (0x1f1, &[self.setup_sects.or(1)]),
            (0x1fe, &[0x55, 0xaa, 0xeb, self.jump.or(0x6a)]),
            (0x202, b"HdrS"),
            (0x206, &self.version.or(0x20f).to_le_bytes()),
            (0x211, &[self.loadflags.or(1)]),
            (0x22c, &word(self.initrd_addr_max, 0x7fff_ffff)),
            (0x230, &word(self.alignment, 0x20_0000)),
            (0x234, &[self.relocatable.or(1)]),
            (0x236, &self.xloadflags.or(1).to_le_bytes()),
            (0x238, &self.cmdline_size.or(2047).to_le_bytes()),
            (0x248, &word(self.payload_offset, PAYLOAD)),
            (0x24c, &word(self.payload_length, payload.len() as u32)),
            (0x258, &self.pref_address.or(Address(4 * MIB)).0.to_le_bytes()),
            (0x260, &word(self.init_size, MIB as u32)),
            (KERNEL + 0x200, &[0xf4]),
        ];
        for (offset, bytes) in fields {
            file[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        file.extend(payload);
        file
    }
}

fn word(field: Knob<Magnitude>, right: u32) -> [u8; 4] {
    field.0.map_or(right, |wrong| wrong.0 as u32).to_le_bytes()
}

impl Payload<'_> {
    fn build(self) -> Vec<u8> {
        let packed = |which: u8| &PACKED[usize::from(which) % PACKED.len()];
        match self {
            Payload::Packed(which, changes) => {
                let mut bytes = packed(which).clone();
                for (at, byte) in changes.or(Vec::new()) {
                    let at = usize::from(at) % bytes.len();
                    bytes[at] = byte;
                }
                bytes
            }
            Payload::Plain(elf, content) => elf.build(content),
            Payload::Raw(which, bytes) => [&packed(which)[..6], bytes].concat(),
        }
    }
}

/// `hello` for the Linux entry, packed in each way that a decoder of Hostel's reads, and bzip2's magic number, which none does.
static PACKED: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let hello = HELLO_FORMS[1].1;
    let zstd = ruzstd::encoding::compress_to_vec(hello, ruzstd::encoding::CompressionLevel::Fastest);
    vec![b"BZh91A".to_vec(), gzip(hello), zstd, lz4(hello), xz(hello), lzma(hello)]
});

const IN_MEMORY: &str = "a vector takes all that is written to it";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect(IN_MEMORY);
    encoder.finish().expect(IN_MEMORY)
}

/// A legacy frame of one block (lz4_Frame_format.md "Legacy frame").
fn lz4(bytes: &[u8]) -> Vec<u8> {
    let block = lz4_flex::block::compress(bytes);
    [&b"\x02\x21\x4c\x18"[..], &(block.len() as u32).to_le_bytes(), &block].concat()
}

/// As Linux' build does it: CRC32, and the x86 filter.
fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut options = XzOptions::with_preset(0);
    options.set_check_sum_type(CheckType::Crc32);
    options.prepend_pre_filter(FilterType::BcjX86, 0);
    let mut writer = XzWriter::new(Vec::new(), options).expect(IN_MEMORY);
    writer.write_all(bytes).expect(IN_MEMORY);
    writer.finish().expect(IN_MEMORY)
}

fn lzma(bytes: &[u8]) -> Vec<u8> {
    let mut writer = LzmaWriter::new_use_header(Vec::new(), &LzmaOptions::with_preset(0), None).expect(IN_MEMORY);
    writer.write_all(bytes).expect(IN_MEMORY);
    writer.finish().expect(IN_MEMORY)
}
