//! The image formats, the marks of those without a header of their own kind, and the names of what does not boot.
//!
//! Sources: Linux boot.rst "The Real-Mode Kernel Header"; Xen pvh.pandoc; Multiboot 0.6.96 §3.1; PE Format.

use std::fmt;

/// How an image is loaded and entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// Linux' own compressed image.
    BzImage,
    /// ELF with the note `XEN_ELFNOTE_PHYS32_ENTRY`.
    Pvh,
    /// Multiboot 1 kernel.
    Multiboot,
    /// 64-bit ELF, entered by the 64-bit Linux boot protocol.
    Linux64,
    /// 16-bit real-mode binary without a header.
    Flat16,
    /// 64-bit binary without a header.
    Flat64,
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ImageFormat::BzImage => "Linux bzImage",
            ImageFormat::Pvh => "ELF with a PVH note",
            ImageFormat::Multiboot => "Multiboot 1 kernel",
            ImageFormat::Linux64 => "64-bit ELF for the Linux entry",
            ImageFormat::Flat16 => "flat 16-bit binary",
            ImageFormat::Flat64 => "flat 64-bit binary",
        })
    }
}

/// What an error says is supported.
pub const SUPPORTED: &str = "Linux bzImage; ELF with a PVH note, with a Multiboot 1 header, or 64-bit and static; \
     boot sectors (55 AA at 510); any other binary with --format flat16 or flat64";

/// Bytes of an image that [`ImageFormat`] is told from; more than a Multiboot header search needs (8192), and enough for
/// the name of what does not boot.
pub const HEAD_SIZE: u64 = 8192;

/// Whether the image begins as a Linux kernel with a setup header: `boot_flag` and `header`.
pub fn is_bzimage(head: &[u8]) -> bool {
    head.get(0x1fe..0x200) == Some(&[0x55, 0xaa]) && head.get(0x202..0x206) == Some(b"HdrS")
}

/// Whether the image ends its first sector as a boot sector does.
pub fn is_boot_sector(head: &[u8]) -> bool {
    head.get(510..512) == Some(&[0x55, 0xaa])
}

/// Whether the image is a program for Windows, with or without windows of its own (PE Format "Windows Subsystem").
pub fn is_windows_program(head: &[u8]) -> bool {
    let number = |at: usize, size| {
        Some(head.get(at..)?.get(..size)?.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    let subsystem = || {
        let header =
            number(0x3c, 4).filter(|header| head.get(*header..).is_some_and(|tail| tail.starts_with(b"PE\0\0")))?;
        number(header + 24 + 68, 2)
    };
    head.starts_with(b"MZ") && matches!(subsystem(), Some(2 | 3))
}

/// Magic numbers of what people hand to a virtual machine monitor by mistake: offset, bytes, name.
const KNOWN: &[(usize, &[u8], &str)] = &[
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"\xfd7zXZ\0", "an xz file"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file"),
    (0, b"BZh", "a bzip2 file"),
    (0, b"\x04\x22\x4d\x18", "an lz4 file"),
    (0, b"\x02\x21\x4c\x18", "an lz4 file"),
    (0, b"\x5d\0\0", "an lzma file"),
    (0, b"\x89LZO", "an lzop file"),
    (0, b"PK\x03\x04", "a zip file"),
    (0, b"070701", "a cpio archive (an initramfs? That is for --initrd)"),
    (0, b"!<arch>", "an ar archive or Debian package"),
    (257, b"ustar", "a tar archive"),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"KDMV", "a VMDK disk image"),
    (0, b"vhdxfile", "a VHDX disk image"),
    (0x438, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
    (0, b"hsqs", "a squashfs file system"),
    (0, b"XFSB", "an XFS file system"),
    (0, b"MZ", "a PE/EFI program"),
    (0, b"#!", "a script"),
    (0, b"\xd0\x0d\xfe\xed", "a device tree"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image"),
    (0, b"ANDROID!", "an Android boot image"),
    (0x38, b"ARM\x64", "an arm64 Linux kernel"),
    (0, b"\x07\x01", "an a.out file"),
    (0, b"\x0b\x01", "an a.out file"),
    (0, b"\xcf\xfa\xed\xfe", "a Mach-O program"),
    (0, b"\xca\xfe\xba\xbe", "a Java class or Mach-O program"),
    (0, b"\0asm", "a WebAssembly module"),
    (0, b"\x7fELF", "an ELF file"),
];

/// What a file that no loader takes seems to be.
pub fn describe(head: &[u8]) -> &'static str {
    let known = KNOWN.iter().find(|(offset, magic, _)| head.get(*offset..).is_some_and(|tail| tail.starts_with(magic)));
    match known {
        Some((_, _, name)) => name,
        None if head.iter().all(|byte| *byte == 0) => "a file of zeros",
        None if head.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~')) => "a text file",
        None => "a file of unknown kind",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bzimage_needs_both_marks() {
        let mut head = vec![0; 0x300];
        head[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        assert!(is_boot_sector(&head) && !is_bzimage(&head));
        head[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(is_bzimage(&head));
        assert!(!is_bzimage(&head[..0x205]) && !is_boot_sector(&head[..511]));
    }

    #[test]
    fn a_windows_program_has_its_subsystem() {
        let mut head = vec![0; 0x200];
        head[..2].copy_from_slice(b"MZ");
        head[0x3c] = 0x80;
        head[0x80..0x84].copy_from_slice(b"PE\0\0");
        for (subsystem, is) in [(3, true), (2, true), (10, false), (1, false)] {
            head[0x80 + 24 + 68] = subsystem;
            assert_eq!(is_windows_program(&head), is, "{subsystem}");
        }
        head[0x3c..0x40].fill(0xff);
        assert!(!is_windows_program(&head) && !is_windows_program(b"MZ"));
    }

    #[test]
    fn what_does_not_boot_has_a_name() {
        let mut ext4 = vec![0; 0x500];
        ext4[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        for (head, name) in [
            (&b"#!/bin/sh\n"[..], "a script"),
            (b"\x1f\x8b\x08", "a gzip file"),
            (b"hello\n", "a text file"),
            (&[0; 64], "a file of zeros"),
            (b"\x01\x02\x03", "a file of unknown kind"),
            (&ext4, "an ext2, ext3 or ext4 file system"),
        ] {
            assert_eq!(describe(head), name);
        }
    }
}
