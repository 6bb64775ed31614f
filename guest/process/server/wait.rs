//! Sleeping until something happens: a frame, the end of the console's input, the end of a disk's read, another thread.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use process::abi::{INPUT, POLL_MAX, Poll, READABLE};
use process::call;

/// How long a design sleeps at most: connections are looked through for those that have been silent for too long.
pub const IDLE_NS_MAX: u64 = 500_000_000;
/// Most files that can be waited for: the card and the console take the other places.
pub const FILES_MAX: usize = POLL_MAX as usize - 2;
/// What ends the console's input, as if Ctrl-D had been typed.
const END_OF_INPUT: u8 = 4;

static IS_OVER: AtomicBool = AtomicBool::new(false);

/// Whether the console's input has ended, and the server with it.
pub fn is_over() -> bool {
    IS_OVER.load(Ordering::Relaxed)
}

/// A file whose read has begun, to be waited for.
pub fn file(descriptor: u64) -> Poll {
    Poll { descriptor: descriptor as u32, wanted: READABLE, ..Poll::default() }
}

/// Sleeps until the network card `card` has a frame, one of `files` is done (its `ready` says so), `word` is woken or not what it is
/// said to be, or for `idle_ns`.
pub fn wait(card: u64, files: &mut [Poll], idle_ns: u64, word: Option<(&AtomicU32, u32)>) {
    let mut entries = [file(INPUT); POLL_MAX as usize];
    let used = files.len() + 2;
    let [_, frames, places @ ..] = &mut entries;
    *frames = file(card);
    places.iter_mut().zip(files.iter()).for_each(|(place, file)| *place = *file);
    let Some(asked) = entries.get_mut(..used) else { return };
    let _ = match word {
        Some((word, expected)) => call::poll_or_woken(asked, idle_ns, word, expected),
        None => call::poll(asked, idle_ns),
    };
    let [input, _, places @ ..] = &entries;
    files.iter_mut().zip(places).for_each(|(file, place)| file.ready = place.ready);
    if input.ready & READABLE != 0 {
        let mut typed = [0; 16];
        let bytes = call::try_read(INPUT, &mut typed, 0);
        let is_end = bytes.is_ok_and(|bytes| bytes == 0 || typed.iter().take(bytes).any(|byte| *byte == END_OF_INPUT));
        IS_OVER.fetch_or(is_end, Ordering::Relaxed);
    }
}
