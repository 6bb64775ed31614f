//! ELF files for the loaders' tests, right or wrong in every field.

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

/// Where [`build`] puts the content: behind the headers.
pub const CONTENT: u64 = 0x1000;

/// `PT_LOAD` of `memory_size` bytes at `gpa`, of which `file_size` are the content's first.
pub fn load(gpa: u64, file_size: u64, memory_size: u64) -> Header {
    Header { kind: 1, offset: CONTENT, gpa, file_size, memory_size }
}

/// `PT_NOTE` of `size` bytes, `offset` bytes into the content.
pub fn note(offset: u64, size: u64) -> Header {
    Header { kind: 4, offset: CONTENT + offset, gpa: 0, file_size: size, memory_size: size }
}

/// An executable for x86 of `bits` bits.
pub fn build(bits: u32, entry: u64, headers: &[Header], content: &[u8]) -> Vec<u8> {
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
