//! Streams that may be packed: by gzip, zstd or xz, as their first bytes say, in one piece or in several behind each other.
//!
//! What a decoder may take of memory is bounded, and what it gives comes in pieces as it is asked for.
//! Sources: RFC 1952 §2.2; RFC 8878 §3.1; The .xz File Format §2.1.1.1.

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{self, BufRead, ErrorKind, Read};

/// Most memory that an xz decoder may take for its dictionary, in KiB: `xz -9` takes 64 MiB.
const DICTIONARY_MAX_KIB: u32 = 256 << 10;
/// Largest window of a zstd frame, in bytes: that of `zstd -22 --ultra`.
const WINDOW_MAX: u64 = 128 << 20;

/// What `stream` holds when it is unpacked; itself where it is not packed.
///
/// # Errors
/// It cannot be read, or begins with nothing that a decoder takes.
pub fn decoded<'a>(stream: &'a mut dyn BufRead) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match stream.fill_buf()? {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(stream)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Box::new(Frames::new(stream)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            Box::new(lzma_rust2::XzReader::new_mem_limit(stream, true, DICTIONARY_MAX_KIB))
        }
        _ => Box::new(stream),
    })
}

/// The frames of a zstd stream, one behind the other; those that hold nothing (skippable ones) are passed over.
struct Frames<'a> {
    stream: &'a mut dyn BufRead,
    decoder: FrameDecoder,
    /// In the middle of a frame.
    is_inside: bool,
}

impl<'a> Frames<'a> {
    fn new(stream: &'a mut dyn BufRead) -> Frames<'a> {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_MAX);
        Frames { stream, decoder, is_inside: false }
    }

    /// Begins the next frame. False: there is none.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.stream.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.stream) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let passed = io::copy(&mut (&mut self.stream).take(length.into()), &mut io::sink())?;
                    if passed < length.into() {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl Read for Frames<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_inside && !self.begin()? {
                return Ok(0);
            }
            self.is_inside = true;
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let decoded = self.decoder.decode_blocks(&mut self.stream, BlockDecodingStrategy::UptoBlocks(1));
                decoded.map_err(io::Error::other)?;
            }
            match self.decoder.read(bytes)? {
                0 if !bytes.is_empty() => self.is_inside = false,
                count => return Ok(count),
            }
        }
    }
}
