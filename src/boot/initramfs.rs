//! The initramfs inside the binary, which a Linux kernel gets when the user gives none.
//!
//! The build script packs it: the init of `guest/init` and a console node. Linux unpacks it into its root file system and
//! starts `/init`. Source: Linux buffer-format.rst "initramfs buffer format".

use super::cpio::Archive;
use super::modules::Module;

/// An uncompressed `newc` cpio archive.
pub static INITRAMFS: &[u8] = &ARCHIVE;
/// A static of its own, so that `link/release.ld` can put it behind what each start reads.
static ARCHIVE: [u8; include_bytes!(concat!(env!("OUT_DIR"), "/initramfs")).len()] =
    *include_bytes!(concat!(env!("OUT_DIR"), "/initramfs"));

/// The list of modules that init loads, in order.
const MODULES: &str = "/modules/order";

/// The embedded initramfs with what a machine adds: modules for init to load in this order, directories, files. Linux unpacks archives
/// behind each other.
pub fn with(modules: &[Module], directories: &[&str], files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Archive::default();
    let mut order = String::new();
    for module in modules {
        let path = format!("/modules/{}.ko", module.name);
        archive.file(&path, 0o644, &module.bytes);
        order += &(path + "\n");
    }
    archive.file(MODULES, 0o644, order.as_bytes());
    directories.iter().for_each(|path| archive.directory(path));
    files.iter().for_each(|(path, bytes)| archive.file(path, 0o644, bytes));
    [INITRAMFS, &archive.finish()].concat()
}

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
    fn what_a_machine_adds_stands_behind_it() {
        let module = |name: &str| Module { name: name.into(), bytes: b"ELF".into() };
        let bytes = with(&[module("b"), module("a")], &["/root"], &[("/hostel/mode", b"rw".into())]);
        let (first, added) = bytes.split_at(INITRAMFS.len());
        assert_eq!(first, INITRAMFS);
        let names = names(added);
        assert_eq!(names[..4], ["modules", "modules/b.ko", "modules/a.ko", "modules/order"]);
        assert_eq!(names[4..], ["root", "hostel", "hostel/mode", "TRAILER!!!"]);
        let order = b"/modules/b.ko\n/modules/a.ko\n";
        assert!(added.windows(order.len()).any(|window| window == order));
    }

    #[test]
    fn stays_small_as_every_binary_carries_it() {
        assert!(INITRAMFS.len() < 64 << 10, "{} bytes", INITRAMFS.len());
    }
}
