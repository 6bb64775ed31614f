//! Flat binaries: one that fits stands in RAM as it was and is entered at its first byte; one that does not is refused
//! (`machine.rs` holds the checks that all images share).

#![no_main]

use arbitrary::Arbitrary;
use hostel::arch::layout::{FLAT16_ENTRY, FLAT64_ENTRY, LOW_RAM_END};
use hostel::boot::format::ImageFormat;
use hostel::boot::kernel::Unpack;
use hostel::boot::samples::HELLO_FORMS;
use hostel_fuzz::knob::Knob;
use hostel_fuzz::machine::{Request, boot, read};
use libfuzzer_sys::fuzz_target;

/// How the image is told from others.
#[derive(Arbitrary, Debug)]
enum Told {
    Flat16,
    Flat64,
    /// By the mark at the end of its first sector.
    BootSector,
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    told: Told,
    hello: Knob<bool>,
    size: Knob<u32>,
    request: Request<'a>,
    bytes: &'a [u8],
}

fuzz_target!(|input: Input| {
    let mut image = match input.hello.0 {
        Some(wide) => HELLO_FORMS[3 + usize::from(wide)].1.to_vec(),
        None => input.bytes.to_vec(),
    };
    if let Some(size) = input.size.0 {
        image.resize(size as usize % (2 * LOW_RAM_END as usize), 0x90);
    }
    let forced = match input.told {
        Told::Flat16 => Some(ImageFormat::Flat16),
        Told::Flat64 => Some(ImageFormat::Flat64),
        Told::BootSector => {
            image.resize(image.len().max(512), 0);
            image[510..512].copy_from_slice(&[0x55, 0xaa]);
            None
        }
    };
    let Request { cmdline, initrd, load_address, .. } = &input.request;
    let address = load_address.0.map(|address| address.0);
    let alone = cmdline.0.is_none() && initrd.0.is_none() && (address.is_none() || forced == Some(ImageFormat::Flat16));
    let Some(format) = forced else {
        let _ = boot(&image, None, Unpack::OnHost { cache: None }, input.request);
        return;
    };
    let start = if format == ImageFormat::Flat64 { FLAT64_ENTRY } else { address.unwrap_or(FLAT16_ENTRY) };
    let fits = !image.is_empty() && start < LOW_RAM_END && image.len() as u64 <= LOW_RAM_END - start;
    match boot(&image, forced, Unpack::OnHost { cache: None }, input.request) {
        Ok(machine) => {
            assert!(fits, "{start:#x}");
            assert_eq!(machine.loaded.state.linear_rip(), start);
            assert_eq!(read(&machine.ram, start, image.len()), image);
        }
        Err(message) => assert!(!fits || !alone, "{message}"),
    }
});
