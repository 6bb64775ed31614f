//! The compressed kernel inside a bzImage, unpacked on the host.
//!
//! The formats are what Linux' build offers: gzip, xz (with its x86 filter), zstd, lz4 (legacy frame), lzma, and none. bzip2
//! and lzo, which no distribution uses, are left to the image's own decompressor. Decoding stops at the stream's end: Linux
//! puts the size of the unpacked kernel behind it.
//! Sources: Linux boot.rst "payload_offset"; Linux scripts/Makefile.lib (`size_append`); lz4_Frame_format.md "Legacy frame".

use lz4_flex::block::decompress_into;
use ruzstd::decoding::StreamingDecoder;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Read};
use std::num::NonZero;
use std::{fmt, thread};

/// Most bytes that a kernel may have, packed or not. Linux' largest configurations stay below a quarter of it.
pub const UNPACKED_MAX: u32 = 1 << 30;

/// Most memory that an xz or lzma decoder may take for its dictionary, in KiB. Linux asks for 128 MiB at most
/// (scripts/xz_wrap.sh).
const DICTIONARY_MAX_KIB: u32 = 256 << 10;

/// Largest window of a zstd frame, in bytes: what `zstd -22 --ultra` uses, as Linux' build calls it.
const ZSTD_WINDOW_MAX: u64 = 128 << 20;

/// What an lz4 block of a legacy frame unpacks to, but for the last, which is shorter.
const LZ4_BLOCK: usize = 8 << 20;

/// What a byte of an lz4 block unpacks to at most: it adds 255 to a length (lz4_Block_format.md "Compressed block format").
const LZ4_RATIO: usize = 255;

/// How many times its size a payload's content is believed to have before it is seen. Linux' payloads are a third to a sixth of
/// theirs; a stream that holds more costs reallocation.
const EXPECTED_RATIO: usize = 8;

/// How a payload is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the formats' own names")]
pub enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
    Lz4,
    Lzma,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::None => "uncompressed",
            Compression::Gzip => "gzip",
            Compression::Xz => "xz",
            Compression::Zstd => "zstd",
            Compression::Lz4 => "lz4",
            Compression::Lzma => "lzma",
        })
    }
}

impl Compression {
    /// Bytes that [`Compression::of`] looks at.
    pub const MAGIC_SIZE: u64 = 6;

    /// Tells the compression from a payload's first bytes; `None` where no decoder here reads it.
    pub fn of(payload: &[u8]) -> Option<Compression> {
        let magics: [(&[u8], Compression); 6] = [
            (b"\x7fELF", Compression::None),
            (b"\x1f\x8b", Compression::Gzip),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"\x02\x21\x4c\x18", Compression::Lz4),
            (b"\x5d\0\0", Compression::Lzma),
        ];
        magics.iter().find(|(magic, _)| payload.starts_with(magic)).map(|(_, compression)| *compression)
    }

    /// Unpacks `payload` to at most `max` bytes.
    ///
    /// # Errors
    /// The stream is broken, ends early, or holds more.
    pub fn unpack(self, payload: &[u8], max: usize) -> io::Result<Vec<u8>> {
        // It only saves reallocation, so it may be wrong; but a small file must not ask for much memory.
        let told = payload.last_chunk().map_or(0, |size| u32::from_le_bytes(*size) as usize);
        let size = told.min(max).min(payload.len().saturating_mul(EXPECTED_RATIO));
        // Of the type that other streams have, so that each decoder is in the program once; they ask for much at a time.
        let mut rest = payload;
        let stream: &mut dyn BufRead = &mut rest;
        match self {
            Compression::None => read_at_most(payload, payload.len(), max),
            Compression::Gzip => read_at_most(flate2::bufread::GzDecoder::new(stream), size, max),
            Compression::Xz => {
                read_at_most(lzma_rust2::XzReader::new_mem_limit(stream, false, DICTIONARY_MAX_KIB), size, max)
            }
            Compression::Zstd => {
                let decoder = StreamingDecoder::new_with_max_window_size(stream, ZSTD_WINDOW_MAX);
                read_at_most(decoder.map_err(io::Error::other)?, size, max)
            }
            Compression::Lz4 => unpack_lz4(payload, max),
            Compression::Lzma => {
                read_at_most(lzma_rust2::LzmaReader::new_mem_limit(payload, DICTIONARY_MAX_KIB, None)?, size, max)
            }
        }
    }
}

fn read_at_most(reader: impl Read, expected: usize, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(expected);
    let size = reader.take(max as u64 + 1).read_to_end(&mut bytes)?;
    if size > max { Err(too_large(max)) } else { Ok(bytes) }
}

fn not_full() -> io::Error {
    io::Error::other("an lz4 block before the last is not full")
}

fn too_large(max: usize) -> io::Error {
    io::Error::other(format!("it unpacks to more than {max} bytes"))
}

/// Unpacks the blocks of a legacy frame side by side: each stands for its own 8 MiB.
fn unpack_lz4(payload: &[u8], max: usize) -> io::Result<Vec<u8>> {
    let blocks = lz4_blocks(payload, max.div_ceil(LZ4_BLOCK))?;
    let mut bytes = vec![0; blocks.len() * LZ4_BLOCK];
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = blocks.len().div_ceil(threads).max(1);
    let unpack = |out: &mut [u8], blocks: &[&[u8]]| -> io::Result<Vec<usize>> {
        let unpacked = out.chunks_mut(LZ4_BLOCK).zip(blocks).map(|(out, block)| decompress_into(block, out));
        unpacked.collect::<Result<_, _>>().map_err(io::Error::other)
    };
    let sizes: io::Result<Vec<Vec<usize>>> = thread::scope(|scope| {
        let shares = bytes.chunks_mut(share * LZ4_BLOCK).zip(blocks.chunks(share));
        let workers: Vec<_> = shares.map(|(out, blocks)| scope.spawn(move || unpack(out, blocks))).collect();
        workers.into_iter().map(|worker| worker.join().expect("a decoder does not panic")).collect()
    });
    let sizes = sizes?.concat();
    if let Some((last, full)) = sizes.split_last() {
        if full.iter().any(|size| *size != LZ4_BLOCK) {
            return Err(not_full());
        }
        bytes.truncate(full.len() * LZ4_BLOCK + last);
    }
    if bytes.len() > max { Err(too_large(max)) } else { Ok(bytes) }
}

/// The blocks of a legacy frame, `max` at most. What follows the last is the size of all, or nothing.
fn lz4_blocks(payload: &[u8], max: usize) -> io::Result<Vec<&[u8]>> {
    let mut rest = &payload[4..];
    let mut blocks = Vec::new();
    while rest.len() > 4 {
        let (size, tail) = rest.split_first_chunk().expect("longer than 4 bytes");
        let size = u32::from_le_bytes(*size) as usize;
        if size > tail.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if blocks.len() == max {
            return Err(too_large(max * LZ4_BLOCK));
        }
        if blocks.last().is_some_and(|block: &&[u8]| block.len() < LZ4_BLOCK / LZ4_RATIO) {
            return Err(not_full());
        }
        blocks.push(&tail[..size]);
        rest = &tail[size..];
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// What every format shortens, with calls for the x86 filter to rewrite.
    fn plain() -> Vec<u8> {
        b"\x7fELF\xe8\x10\0\0\0 kernel ".repeat(1000)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut frame = b"\x02\x21\x4c\x18".to_vec();
        for block in bytes.chunks(LZ4_BLOCK) {
            let packed = lz4_flex::block::compress(block);
            frame.extend((packed.len() as u32).to_le_bytes());
            frame.extend(packed);
        }
        frame
    }

    /// `plain()` by xz 5.4: `xz --check=crc32 --x86 --lzma2=dict=1MiB`, and `xz --format=lzma`.
    const XZ: &[u8] = include_bytes!("payload.xz");
    const LZMA: &[u8] = include_bytes!("payload.lzma");

    fn packed() -> Vec<(Compression, Vec<u8>)> {
        vec![
            (Compression::None, plain()),
            (Compression::Gzip, gzip(&plain())),
            (Compression::Zstd, zstd(&plain())),
            (Compression::Lz4, lz4(&plain())),
            (Compression::Xz, XZ.to_vec()),
            (Compression::Lzma, LZMA.to_vec()),
        ]
    }

    #[test]
    fn each_format_is_told_and_unpacked() {
        for (compression, packed) in packed() {
            assert_eq!(Compression::of(&packed), Some(compression));
            assert_eq!(compression.unpack(&packed, 1 << 20).unwrap(), plain(), "{compression}");
        }
        assert_eq!(Compression::of(b"BZh9"), None);
        assert_eq!(Compression::of(b""), None);
    }

    #[test]
    fn a_size_may_follow_the_stream() {
        for (compression, mut packed) in packed() {
            if compression != Compression::None {
                packed.extend((plain().len() as u32).to_le_bytes());
                assert_eq!(compression.unpack(&packed, 1 << 20).unwrap(), plain(), "{compression}");
            }
        }
    }

    #[test]
    fn the_largest_zstd_window_of_linux_is_accepted() {
        // Window descriptor 0x88: 128 MiB. Then one raw block, the last, of one byte.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 0x88, 1 << 3 | 1, 0, 0, b'k'];
        assert_eq!(Compression::Zstd.unpack(&frame, 100).unwrap(), b"k");
        let larger = [0x28, 0xb5, 0x2f, 0xfd, 0, 0x90, 1 << 3 | 1, 0, 0, b'k'];
        assert!(Compression::Zstd.unpack(&larger, 100).is_err());
    }

    #[test]
    fn lz4_blocks_follow_each_other() {
        let plain: Vec<u8> = (0..LZ4_BLOCK as u32 / 2).flat_map(|number| number.to_le_bytes()).collect();
        assert_eq!(Compression::Lz4.unpack(&lz4(&plain), UNPACKED_MAX as usize).unwrap(), plain);
    }

    #[test]
    fn sec62_decompression_bombs_are_capped() {
        let size = 4 << 20;
        for bomb in [gzip(&vec![0; size]), zstd(&vec![0; size]), lz4(&vec![0; size])] {
            let compression = Compression::of(&bomb).unwrap();
            let error = compression.unpack(&bomb, size - 1).unwrap_err().to_string();
            assert_eq!(error, format!("it unpacks to more than {} bytes", size - 1), "{compression}");
            assert_eq!(compression.unpack(&bomb, size).unwrap().len(), size);
        }
        let many_blocks = lz4(&vec![0; 2 * LZ4_BLOCK]);
        assert!(Compression::Lz4.unpack(&many_blocks, LZ4_BLOCK).is_err());
    }

    #[test]
    fn sec62_a_small_payload_does_not_ask_for_much_memory() {
        for (compression, mut packed) in packed() {
            if matches!(compression, Compression::Gzip | Compression::Xz | Compression::Zstd | Compression::Lzma) {
                packed.extend(u32::MAX.to_le_bytes());
                let capacity = compression.unpack(&packed, UNPACKED_MAX as usize).unwrap().capacity();
                assert!(capacity < 1 << 20, "{compression}: {capacity}");
            }
        }
        let mut small_blocks = b"\x02\x21\x4c\x18".to_vec();
        (0..128).for_each(|_| small_blocks.extend([1, 0, 0, 0, 0]));
        let error = lz4_blocks(&small_blocks, 128).unwrap_err().to_string();
        assert_eq!(error, "an lz4 block before the last is not full");
    }

    #[test]
    fn sec62_truncated_payloads_are_refused() {
        for (compression, packed) in packed() {
            for size in [4, 13, packed.len() / 2, packed.len() - 6] {
                let refused = compression.unpack(&packed[..size], 1 << 20).map(|bytes| bytes == plain());
                assert_ne!(refused.ok(), Some(true), "{compression} of {size} bytes");
            }
        }
    }

    proptest! {
        #[test]
        fn sec62_damaged_payloads_never_panic(
            which in 0usize..6,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let (compression, mut packed) = packed().swap_remove(which);
            for (index, byte) in changes {
                let index = index.index(packed.len() - 4) + 4;
                packed[index] = byte;
            }
            let unpacked = compression.unpack(&packed, 1 << 16);
            prop_assert!(unpacked.map_or(0, |bytes| bytes.len()) <= 1 << 16);
        }
    }
}
