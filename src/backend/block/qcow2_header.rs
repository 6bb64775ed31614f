//! The header of a qcow2 image, judged before anything else of the image is believed: an untrusted file says here how much is read
//! and kept in memory.
//!
//! Accepted are versions 2 and 3 without encryption, external data file, internal snapshots and all that a reader may not ignore; with
//! a backing file where the user gives one, whatever the header calls it, and without where not. Source: QEMU docs/interop/qcow2.txt "Header".

/// Bytes of the header that are looked at: those of version 3 without what later ones added.
pub const HEADER_BYTES: usize = 104;
/// "QFI" and 0xfb.
const MAGIC: u32 = 0x5146_49fb;
/// Sizes of a cluster, as powers of two: what QEMU makes and takes.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Most bytes of the first-level table: as QEMU, enough for 2 EiB in the largest clusters.
const L1_BYTES_MAX: u64 = 32 << 20;
/// Most bytes of the table of reference counts' blocks, as QEMU.
const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;
/// What tables take of a file at most, as a part of all that is in it: with clusters of 512 bytes and the widest counts, an entry of
/// the second level and a count take a 64th each, and what leads to them a 64th of that.
const TABLES_PART: u64 = 16;
/// Clusters that a file has more than that: those that are not full of each kind of table, and a table of reference counts twice while it
/// grows.
const CLUSTERS_MORE: u64 = 16;
/// Reference counts of 2^0 to 2^6 bits.
const REFCOUNT_ORDER_MAX: u32 = 6;
/// Incompatible feature: the image was not closed, and its reference counts are to be made anew.
const DIRTY: u64 = 1 << 0;
/// Incompatible feature: known to be broken.
const CORRUPT: u64 = 1 << 1;
/// Incompatible feature: the data are in another file.
const EXTERNAL_DATA: u64 = 1 << 2;

/// Why an image is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No header.
    #[error("it has no qcow2 header")]
    NotQcow2,
    /// A version that is not known.
    #[error("version {0} of the format is not known: 2 and 3 are")]
    Version(u32),
    /// A file behind it.
    #[error("it lies over another file, which backing=PATH would name; `qemu-img convert` makes one image of both")]
    Backing,
    /// No file behind it.
    #[error("it lies over no other file, as backing= says")]
    NoBacking,
    /// Encrypted.
    #[error("it is encrypted")]
    Encrypted,
    /// Snapshots in it.
    #[error("it has internal snapshots: `qemu-img convert` makes an image without")]
    Snapshots,
    /// Its data are elsewhere.
    #[error("its data are in another file, which is never opened")]
    ExternalData,
    /// It has to be repaired.
    #[error("it was not closed, or is known to be broken: `qemu-img check -r all` repairs it")]
    Dirty,
    /// Something that no reader may ignore.
    #[error("it uses features (incompatible, {0:#x}) that are not supported")]
    Features(u64),
    /// A number that makes no sense.
    #[error("its header makes no sense: {0}")]
    Nonsense(&'static str),
}

/// Judges the header of an image in a file of `file_bytes`, which has a backing file or not.
///
/// # Errors
/// The image is not one that can be used.
pub fn check(header: &[u8; HEADER_BYTES], file_bytes: u64, has_backing: bool) -> Result<(), HeaderError> {
    let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let version = match (word(0), word(4)) {
        (MAGIC, version @ 2..=3) => version,
        (MAGIC, version) => return Err(HeaderError::Version(version)),
        _ => return Err(HeaderError::NotQcow2),
    };
    match (long(8) != 0 || word(16) != 0, has_backing) {
        (true, false) => return Err(HeaderError::Backing),
        (false, true) => return Err(HeaderError::NoBacking),
        _ => {}
    }
    let (cluster_bits, size) = (word(20), long(24));
    if !CLUSTER_BITS.contains(&cluster_bits) {
        return Err(HeaderError::Nonsense("the size of its clusters"));
    }
    match word(32) {
        0 => {}
        _ => return Err(HeaderError::Encrypted),
    }
    if word(60) != 0 {
        return Err(HeaderError::Snapshots);
    }
    let cluster = 1u64 << cluster_bits;
    let table = |offset: u64, bytes: u64, most: u64| {
        let end = offset.checked_add(bytes).filter(|_| bytes <= most && offset.is_multiple_of(cluster) && offset > 0);
        end.is_some_and(|end| end <= file_bytes)
    };
    let l1_bytes = u64::from(word(36)) * 8;
    // An entry of the first level leads to a cluster of entries, each of which leads to a cluster.
    let l1_needed = size.div_ceil(cluster / 8 * cluster) * 8;
    if l1_bytes < l1_needed || !table(long(40), l1_bytes, L1_BYTES_MAX) && l1_bytes > 0 {
        return Err(HeaderError::Nonsense("size or place of its first-level table"));
    }
    if word(56) == 0 || !table(long(48), u64::from(word(56)) * cluster, REFCOUNT_TABLE_BYTES_MAX) {
        return Err(HeaderError::Nonsense("size or place of its table of reference counts"));
    }
    if version == 2 {
        return Ok(());
    }
    if word(96) > REFCOUNT_ORDER_MAX || u64::from(word(100)) > cluster || (word(100) as usize) < HEADER_BYTES {
        return Err(HeaderError::Nonsense("the width of its reference counts, or its own length"));
    }
    match long(72) {
        0 => Ok(()),
        features if features & EXTERNAL_DATA != 0 => Err(HeaderError::ExternalData),
        features if features & !(DIRTY | CORRUPT) == 0 => Err(HeaderError::Dirty),
        features => Err(HeaderError::Features(features)),
    }
}

/// Where in the file the table of reference counts begins, says a header that was judged.
pub fn refcounts_at(header: &[u8; HEADER_BYTES]) -> u64 {
    u64::from_be_bytes(header[48..56].try_into().expect("eight bytes"))
}

/// Bytes of the file when all of the disk has been written, at most, where it has `file_bytes` before; says a header that was judged.
pub fn file_bytes_max(header: &[u8; HEADER_BYTES], file_bytes: u64) -> u64 {
    let size = u64::from_be_bytes(header[24..32].try_into().expect("eight bytes"));
    let cluster_bits = u32::from_be_bytes(header[20..24].try_into().expect("four bytes"));
    let full = file_bytes.saturating_add(size);
    full.saturating_add(full / TABLES_PART).saturating_add(CLUSTERS_MORE << cluster_bits)
}

/// Judges the first entry of that table: it leads to the count of the header's own cluster. Without one, `imago` would make it in
/// that cluster, over the header, and look for it without end.
///
/// # Errors
/// The image is not one that can be used.
pub fn check_first_refcounts(entry: u64) -> Result<(), HeaderError> {
    // The low nine bits are reserved.
    if entry >> 9 == 0 { Err(HeaderError::Nonsense("nothing counts who uses its own cluster")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of an image of this many bytes with clusters of 64 KiB: first-level table in cluster 3, reference counts in 1.
    fn header(size: u64) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_be_bytes());
        put(4, &3u32.to_be_bytes());
        put(20, &16u32.to_be_bytes());
        put(24, &size.to_be_bytes());
        put(36, &(size.div_ceil(1 << 29) as u32).to_be_bytes());
        put(40, &(3u64 << 16).to_be_bytes());
        put(48, &(1u64 << 16).to_be_bytes());
        put(56, &1u32.to_be_bytes());
        put(96, &4u32.to_be_bytes());
        put(100, &104u32.to_be_bytes());
        header
    }

    fn with(at: usize, bytes: &[u8]) -> Result<(), HeaderError> {
        let mut header = header(1 << 30);
        header[at..at + bytes.len()].copy_from_slice(bytes);
        check(&header, 1 << 20, false)
    }

    #[test]
    fn sec35_headers_that_lie_are_refused_before_anything_is_read_for_them() {
        assert_eq!(with(0, &[]), Ok(()));
        for (at, bytes, why) in [
            (0, &b"QFI"[..], Ok(())),
            (0, b"KDMV", Err(HeaderError::NotQcow2)),
            (4, &[0, 0, 0, 4], Err(HeaderError::Version(4))),
            (4, &[0, 0, 0, 1], Err(HeaderError::Version(1))),
            (4, &[0, 0, 0, 2], Ok(())),
            (15, &[1], Err(HeaderError::Backing)),
            (19, &[1], Err(HeaderError::Backing)),
            (35, &[1], Err(HeaderError::Encrypted)),
            (35, &[2], Err(HeaderError::Encrypted)),
            (63, &[1], Err(HeaderError::Snapshots)),
            (79, &[1], Err(HeaderError::Dirty)),
            (79, &[2], Err(HeaderError::Dirty)),
            (79, &[5], Err(HeaderError::ExternalData)),
            (79, &[0x10], Err(HeaderError::Features(0x10))),
            (72, &[0x80], Err(HeaderError::Features(1 << 63))),
        ] {
            assert_eq!(with(at, bytes), why, "{at} {bytes:?}");
        }
        for (at, bytes) in [
            (23, &[8][..]),
            (23, &[22]),
            (20, &[0xff; 4]),
            (24, &[0xff; 8]), // a disk of 16 EiB: the first-level table is too short
            (36, &[0; 4]),    // none at all
            (36, &[0xff; 4]), // 32 GiB of it
            (40, &[0xff; 8]), // beyond the end, and wraps
            (47, &[1]),       // not at a cluster
            (40, &[0; 8]),    // where the header is
            (48, &[0; 8]),
            (48, &[0x7f; 8]),
            (56, &[0xff; 4]),
            (56, &[0; 4]),
            (96, &[0, 0, 0, 7]),
            (96, &[0xff; 4]),
            (100, &[0, 0, 0, 103]),
            (100, &[0xff; 4]),
        ] {
            assert!(matches!(with(at, bytes), Err(HeaderError::Nonsense(_))), "{at} {bytes:?}: {:?}", with(at, bytes));
        }
    }
}
