//! The initramfs inside the binary, which a Linux kernel gets when the user gives none.
//!
//! The build script packs it: the init of `guest/init` and a console node. Linux unpacks it into its root file system and
//! starts `/init`. Source: Linux buffer-format.rst "initramfs buffer format".

/// An uncompressed `newc` cpio archive.
pub static INITRAMFS: &[u8] = &ARCHIVE;
/// A static of its own, so that `link/start.ld` can put it behind what each start reads.
static ARCHIVE: [u8; include_bytes!(concat!(env!("OUT_DIR"), "/initramfs")).len()] =
    *include_bytes!(concat!(env!("OUT_DIR"), "/initramfs"));

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in the archive: each entry is a header of 110 bytes, its name and its data, both padded to four bytes.
    fn names(mut archive: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        while !archive.is_empty() {
            let field = |at: usize| {
                let digits = str::from_utf8(&archive[at..at + 8]).expect("newc numbers are text");
                usize::from_str_radix(digits, 16).expect("newc numbers are hexadecimal")
            };
            let (data_bytes, name_bytes) = (field(54), field(94));
            names.push(String::from_utf8_lossy(&archive[110..110 + name_bytes - 1]).into_owned());
            archive = &archive[(110 + name_bytes).next_multiple_of(4) + data_bytes.next_multiple_of(4)..];
        }
        names
    }

    #[test]
    fn holds_init_and_what_it_starts_from() {
        assert_eq!(names(INITRAMFS), ["dev", "proc", "sys", "dev/console", "init", "TRAILER!!!"]);
    }

    #[test]
    fn stays_small_as_every_binary_carries_it() {
        assert!(INITRAMFS.len() < 64 << 10, "{} bytes", INITRAMFS.len());
    }
}
