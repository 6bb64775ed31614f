//! ELF files as PVH and Linux kernels: whatever the headers say, the image is refused with one line, or loaded where the
//! guest has RAM, each segment apart, entered inside one, and not a byte written elsewhere (`machine.rs` holds the checks).
//!
//! Images: made of fields that are mostly right; `hello` as it comes with Hostel; bytes at random. Each may be damaged.

#![no_main]

use arbitrary::Arbitrary;
use hostel::arch::layout::{START_INFO, ZERO_PAGE};
use hostel::boot::format::ImageFormat;
use hostel::boot::kernel::Unpack;
use hostel::boot::samples::HELLO_FORMS;
use hostel_fuzz::elf_file::ElfFile;
use hostel_fuzz::knob::Damage;
use hostel_fuzz::machine::{Request, boot};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Source<'a> {
    Made(Box<ElfFile<'a>>),
    Hello(u8),
    Raw,
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    source: Source<'a>,
    damage: Damage,
    request: Request<'a>,
    bytes: &'a [u8],
}

fuzz_target!(|input: Input| {
    let mut image = match input.source {
        Source::Made(file) => file.build(input.bytes),
        Source::Hello(form) => HELLO_FORMS[usize::from(form) % 3].1.to_vec(),
        Source::Raw => input.bytes.to_vec(),
    };
    input.damage.apply(&mut image);
    let Ok(machine) = boot(&image, None, Unpack::OnHost { cache: None }, input.request) else { return };
    let regs = &machine.loaded.state.regs;
    match machine.format {
        ImageFormat::Pvh => assert_eq!(regs.rbx, START_INFO),
        ImageFormat::Linux64 => assert_eq!(regs.rsi, ZERO_PAGE),
        _ => {} // damage made another kind of image of it
    }
});
