//! Command lines: the words are joined in order, the user's behind Hostel's own; a line that is printable and no longer than
//! the kernel takes stands in RAM (`machine.rs`), and any other is refused.

#![no_main]

use arbitrary::Arbitrary;
use hostel::arch::layout::CMDLINE_SIZE;
use hostel::boot::cmdline::Words;
use hostel::boot::format::ImageFormat;
use hostel::boot::kernel::Unpack;
use hostel::boot::samples::HELLO_FORMS;
use hostel_fuzz::bzimage_file::BzImageFile;
use hostel_fuzz::knob::Knob;
use hostel_fuzz::machine::{Request, boot};
use libfuzzer_sys::fuzz_target;

/// Which kernel the line is for.
#[derive(Arbitrary, Debug)]
enum Guest {
    Pvh,
    Linux64,
    Multiboot,
    Flat64,
    /// With the limit that its setup header names.
    BzImage(u16),
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    guest: Guest,
    linux_defaults: bool,
    linux: bool,
    pci: bool,
    virtio_console: bool,
    command: bool,
    user: &'a str,
    arguments: Vec<String>,
    repeat: Knob<u8>,
}

impl Guest {
    /// The image, and its limit of the line's length.
    fn image(&self) -> (Vec<u8>, usize) {
        let hello = |form: usize| (HELLO_FORMS[form].1.to_vec(), CMDLINE_SIZE as usize - 1);
        match self {
            Guest::Pvh => hello(0),
            Guest::Linux64 => hello(1),
            Guest::Multiboot => hello(2),
            Guest::Flat64 => hello(4),
            Guest::BzImage(max) => (
                BzImageFile::with_cmdline_size((*max).into()).build(),
                usize::from(*max).min(CMDLINE_SIZE as usize - 1),
            ),
        }
    }
}

fuzz_target!(|input: Input| {
    let Input { guest, linux_defaults, linux, pci, virtio_console, command, user, arguments, repeat } = input;
    let user = user.repeat(usize::from(repeat.or(1)));
    let words = Words { linux_defaults, linux, pci, virtio_console, command, user: &user, arguments: &arguments };
    let text = words.join();
    check_order(&text, &words);

    let (image, max) = guest.image();
    let forced = matches!(guest, Guest::Flat64).then_some(ImageFormat::Flat64);
    let line = if matches!(guest, Guest::Multiboot) { format!("kernel {text}") } else { text.clone() };
    let fits = line.len() <= max && line.trim().bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let request = Request { cmdline: Knob(Some(&text)), ..Request::default() };
    match boot(&image, forced, Unpack::InGuest, request) {
        Ok(_) => assert!(fits || text.is_empty(), "{line:?} was taken"),
        Err(message) => assert!(!fits && !text.is_empty(), "{line:?} was refused: {message}"),
    }
});

/// The defaults first, what the user appends behind them, the arguments last; those of a command are not for the kernel.
fn check_order(text: &str, words: &Words) {
    let for_kernel = if words.command { &[] } else { words.arguments };
    let arguments: Vec<&str> = for_kernel.iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
    let mut front = text.strip_suffix(&arguments.join(" ")).expect("the arguments come last").trim_end_matches(' ');
    if words.linux && !for_kernel.is_empty() {
        front = front.strip_suffix("--").expect("two dashes before the arguments").trim_end_matches(' ');
    }
    let front = front.strip_suffix(words.user.trim()).expect("the user's words before the arguments");
    assert_eq!(front.starts_with("console=ttyS0 "), words.linux_defaults, "{front:?}");
    assert!(words.linux_defaults || front.is_empty(), "{front:?}");
    assert!(!front.contains("panic="));
}
