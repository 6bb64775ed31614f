//! Multiboot kernels, as ELF files and as files that say themselves where they go: refused with one line, or loaded as the
//! ELF target demands (`machine.rs`), and then entered with the magic number in EAX and the information structure in EBX.

#![no_main]

use arbitrary::Arbitrary;
use hostel::arch::layout::START_INFO;
use hostel::boot::format::ImageFormat;
use hostel::boot::kernel::Unpack;
use hostel::boot::samples::HELLO_FORMS;
use hostel_fuzz::elf_file::ElfFile;
use hostel_fuzz::knob::{Address, Damage, Knob};
use hostel_fuzz::machine::{Request, boot};
use libfuzzer_sys::fuzz_target;

const MAGIC: u32 = 0x1bad_b002;
/// The address fields are valid (Multiboot 0.6.96 §3.1.2).
const ADDRESSES: u32 = 1 << 16;

/// A Multiboot header to be; where the knobs are right, its address fields suit the file.
#[derive(Arbitrary, Debug)]
struct Header {
    flags: Knob<u32>,
    addressed: bool,
    magic: Knob<u32>,
    checksum: Knob<u32>,
    load: Address,
    header: Knob<Address>,
    load_end: Knob<u32>,
    zeros: u16,
    bss_end: Knob<u32>,
    entry: Knob<Address>,
}

impl Header {
    /// The header's bytes, `offset` bytes into a file of `size` bytes besides it.
    fn build(self, offset: usize, size: usize) -> Vec<u8> {
        let flags = self.flags.or(if self.addressed { ADDRESSES | 3 } else { 3 });
        let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(flags);
        let load = self.load.0 as u32;
        let end = load.wrapping_add(size as u32 + 32);
        let fields = [
            self.magic.or(MAGIC),
            flags,
            self.checksum.or(checksum),
            self.header.or(Address(u64::from(load) + offset as u64)).0 as u32,
            load,
            self.load_end.or(end),
            self.bss_end.or(end.wrapping_add(self.zeros.into())),
            self.entry.or(self.load).0 as u32,
        ];
        fields.map(u32::to_le_bytes).as_flattened().to_vec()
    }
}

#[derive(Arbitrary, Debug)]
enum Source<'a> {
    /// An ELF file with the header in its content.
    Elf(Box<ElfFile<'a>>),
    /// The header, so many words into the bytes.
    Plain(u8),
    Hello,
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    source: Source<'a>,
    header: Header,
    force: Knob<()>,
    damage: Damage,
    request: Request<'a>,
    bytes: &'a [u8],
}

fuzz_target!(|input: Input| {
    let mut image = match input.source {
        Source::Elf(file) => file.build(&[&input.header.build(0, input.bytes.len()), input.bytes].concat()),
        Source::Plain(words) => {
            let (before, after) = input.bytes.split_at((usize::from(words) * 4).min(input.bytes.len() / 4 * 4));
            [before, &input.header.build(before.len(), input.bytes.len()), after].concat()
        }
        Source::Hello => HELLO_FORMS[2].1.to_vec(),
    };
    input.damage.apply(&mut image);
    let forced = input.force.0.map(|()| ImageFormat::Multiboot);
    let Ok(machine) = boot(&image, forced, Unpack::OnHost { cache: None }, input.request) else { return };
    if machine.format == ImageFormat::Multiboot {
        let regs = &machine.loaded.state.regs;
        assert_eq!((regs.rax, regs.rbx), (0x2bad_b002, START_INFO));
    }
});
