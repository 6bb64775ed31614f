//! bzImages, unpacked by the host and entered as they are: whatever setup header and payload hold, the image is refused with
//! one line or loaded as the ELF target demands (`machine.rs`), and its kernel gets `boot_params`.

#![no_main]

use arbitrary::Arbitrary;
use hostel::arch::layout::ZERO_PAGE;
use hostel::boot::format::ImageFormat;
use hostel::boot::kernel::Unpack;
use hostel_fuzz::bzimage_file::BzImageFile;
use hostel_fuzz::knob::Damage;
use hostel_fuzz::machine::{Request, boot};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    file: BzImageFile<'a>,
    damage: Damage,
    in_guest: bool,
    request: Request<'a>,
}

fuzz_target!(|input: Input| {
    let mut image = input.file.build();
    input.damage.apply(&mut image);
    let unpack = if input.in_guest { Unpack::InGuest } else { Unpack::OnHost { cache: None } };
    let Ok(machine) = boot(&image, None, unpack, input.request) else { return };
    let state = &machine.loaded.state;
    if machine.format == ImageFormat::BzImage && state.code_bits() == 64 {
        assert_eq!(state.regs.rsi, ZERO_PAGE);
    }
});
