//! A site for the servers of the sample kernel: files as a tar archive, which is their disk.
//!
//! Source: POSIX.1-2017 `pax` "ustar Interchange Format".

/// Bytes of a block.
const BLOCK: usize = 512;

/// The archive of these files, by name.
pub fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut disk = Vec::new();
    for (name, content) in files {
        let mut header = [0; BLOCK];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        put(100, b"0000644\x000000000\x000000000\0");
        put(124, format!("{:011o}\x0000000000000\0", content.len()).as_bytes());
        put(148, b"        0");
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        disk.extend(header);
        disk.extend(content);
        disk.resize(disk.len().next_multiple_of(BLOCK), 0);
    }
    disk.resize(disk.len() + 2 * BLOCK, 0);
    disk
}

/// So many bytes that tell their file and their place in it.
pub fn content(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 + at / 251 + seed * 7) as u8).collect()
}
