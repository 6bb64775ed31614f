//! Images for the loaders' tests, right or wrong in every field, and a small machine to load them into.

use super::format::ImageFormat;
use super::image::Image;
use super::kernel::{Kernel, Unpack};
use super::load::{BootRequest, Loaded, load};
use crate::arch::layout::MIB;
use crate::memory::map::MemoryMap;
use crate::memory::ram::GuestRam;

/// RAM of the machine that [`boot`] loads into.
pub const RAM_SIZE: u64 = 16 * MIB;

/// Loads `bytes` into a machine.
pub fn boot(bytes: &[u8], forced: Option<ImageFormat>, request: &BootRequest) -> Result<(Loaded, GuestRam), String> {
    let image = Image::from_bytes("test", bytes);
    let kernel = Kernel::identify(&image, forced, Unpack::OnHost { cache: None }).map_err(|error| error.to_string())?;
    boot_kernel(&kernel, request)
}

/// Loads `kernel` into a machine.
pub fn boot_kernel(kernel: &Kernel, request: &BootRequest) -> Result<(Loaded, GuestRam), String> {
    let map = MemoryMap::new(RAM_SIZE).unwrap();
    let ram = GuestRam::new(&map).unwrap();
    let loaded = load(kernel, request, &ram, &map).map_err(|error| error.to_string())?;
    Ok((loaded, ram))
}

/// The 64-bit word at `gpa`.
pub fn word(ram: &GuestRam, gpa: u64) -> u64 {
    ram.read_u64(gpa).unwrap()
}

/// A program header as a test wants it.
#[derive(Clone, Copy)]
pub struct Header {
    /// `p_type`.
    pub kind: u32,
    /// `p_offset`.
    pub offset: u64,
    /// `p_paddr`; `p_vaddr` is the same.
    pub gpa: u64,
    /// `p_filesz`.
    pub file_size: u64,
    /// `p_memsz`.
    pub memory_size: u64,
}

/// Where [`elf`] puts the content: behind the headers.
pub const CONTENT: u64 = 0x1000;

/// `PT_LOAD` of `memory_size` bytes at `gpa`, of which `file_size` are the content's first.
pub fn segment(gpa: u64, file_size: u64, memory_size: u64) -> Header {
    Header { kind: 1, offset: CONTENT, gpa, file_size, memory_size }
}

/// `PT_NOTE` of `size` bytes, `offset` bytes into the content.
pub fn note(offset: u64, size: u64) -> Header {
    Header { kind: 4, offset: CONTENT + offset, gpa: 0, file_size: size, memory_size: size }
}

/// An executable for x86 of `bits` bits.
pub fn elf(bits: u32, entry: u64, headers: &[Header], content: &[u8]) -> Vec<u8> {
    let (class, machine) = if bits == 64 { (2, 62u16) } else { (1, 3) };
    let mut file = vec![0x7f, b'E', b'L', b'F', class, 1, 1];
    file.resize(16, 0);
    let address = |file: &mut Vec<u8>, value: u64| match bits {
        64 => file.extend(value.to_le_bytes()),
        _ => file.extend((value as u32).to_le_bytes()),
    };
    file.extend(2u16.to_le_bytes());
    file.extend(machine.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    let (size, header_size) = if bits == 64 { (64u16, 56u16) } else { (52, 32) };
    for value in [entry, size.into(), 0] {
        address(&mut file, value);
    }
    file.extend(0u32.to_le_bytes());
    for half in [size, header_size, headers.len() as u16, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for header in headers {
        file.extend(header.kind.to_le_bytes());
        if bits == 64 {
            file.extend(7u32.to_le_bytes());
        }
        for value in [header.offset, header.gpa, header.gpa, header.file_size, header.memory_size] {
            address(&mut file, value);
        }
        if bits == 32 {
            file.extend(7u32.to_le_bytes());
        }
        address(&mut file, 4);
    }
    file.resize(CONTENT as usize, 0);
    file.extend(content);
    file
}

/// Where the protected-mode kernel of [`bzimage`] begins in the file.
pub const KERNEL_OFFSET: usize = 1024;
/// Where the payload of [`bzimage`] begins in the protected-mode kernel.
pub const PAYLOAD_OFFSET: usize = 0x300;

/// A bzImage around `payload`, relocatable, that prefers 4 MiB and needs 1 MiB to unpack itself.
pub fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; KERNEL_OFFSET + PAYLOAD_OFFSET];
    let fields: [(usize, &[u8]); 14] = [
        (0x1f1, &[1]),                                   // setup_sects
        (0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]),              // boot_flag, jump to 0x26c
        (0x202, b"HdrS"),                                // header
        (0x206, &[0x0f, 0x02]),                          // version
        (0x211, &[1]),                                   // loadflags: LOADED_HIGH
        (0x22c, &0x7fff_ffffu32.to_le_bytes()),          // initrd_addr_max
        (0x230, &0x20_0000u32.to_le_bytes()),            // kernel_alignment
        (0x234, &[1]),                                   // relocatable_kernel
        (0x236, &[1]),                                   // xloadflags: XLF_KERNEL_64
        (0x238, &255u32.to_le_bytes()),                  // cmdline_size
        (0x248, &(PAYLOAD_OFFSET as u32).to_le_bytes()), // payload_offset
        (0x24c, &(payload.len() as u32).to_le_bytes()),  // payload_length
        (0x258, &(4 * MIB).to_le_bytes()),               // pref_address
        (0x260, &(MIB as u32).to_le_bytes()),            // init_size
    ];
    for (offset, bytes) in fields {
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    file[KERNEL_OFFSET..].fill(0xcc);
    file.extend(payload);
    file
}
