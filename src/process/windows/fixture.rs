//! A small program for tests: two sections, two imports, a pointer to correct, thread storage.
//!
//! Source: PE Format.

/// A program to be built.
#[derive(Clone, Debug)]
pub struct Program {
    /// Where it is linked to lie.
    pub base: u64,
    /// Its code.
    pub code: Vec<u8>,
    /// Whether all that it imports is there: it leaves the import by number away.
    pub complete: bool,
}

impl Default for Program {
    fn default() -> Program {
        Program { base: 0x1_4000_0000, code: Vec::new(), complete: false }
    }
}

impl Program {
    /// Where the PE header stands in the file.
    pub const HEADER: usize = 0x80;
    /// Where a pointer to the data section stands in memory.
    pub const POINTER: u64 = 0x2010;
    /// Where the slots of the imports stand in memory.
    pub const SLOTS: u64 = 0x2140;
    /// A program that can be started.
    pub fn complete() -> Program {
        Program { complete: true, ..Program::default() }
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let mut file = vec![0; 0x800];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        let header = Program::HEADER;
        put(0, b"MZ");
        put(0x3c, &(header as u32).to_le_bytes());
        put(header, b"PE\0\0\x64\x86\x02\0");
        put(header + 20, &[240, 0, 0x22, 0]);
        let optional = header + 24;
        for (offset, value) in
            [(0, 0x20b), (16, 0x1000), (32, 0x1000), (36, 0x200), (56, 0x4000), (60, 0x400), (68, 3), (108, 16)]
        {
            put(optional + offset, &(value as u32).to_le_bytes());
        }
        put(optional + 24, &self.base.to_le_bytes());
        put(optional + 72, &0x20_0000_u64.to_le_bytes());
        for (index, start, size) in [(1, 0x2100, 40), (5, 0x2080, 20), (9, 0x2040, 40)] {
            put(optional + 112 + index * 8, &u64::to_le_bytes(start | size << 32));
        }
        // Name, bytes in memory, address, bytes in the file, offset; flags at 36.
        for (index, memory, start, offset, flags) in
            [(0, 0x100u32, 0x1000u32, 0x400u32, 0x6000_0020u32), (1, 0x1800, 0x2000, 0x600, 0xc000_0040)]
        {
            let at = optional + 240 + index * 40;
            put(at + 8, &[memory, start, 0x200, offset].map(u32::to_le_bytes).concat());
            put(at + 36, &flags.to_le_bytes());
        }
        put(0x400, if self.code.is_empty() { b"\xf4" } else { &self.code });
        // The data section begins at 0x600 in the file, 0x2000 in memory.
        let data = |address: u64| (address - 0x2000 + 0x600) as usize;
        put(data(Program::POINTER), &(self.base + 0x2000).to_le_bytes());
        put(data(0x2020), b"template");
        put(data(0x2040), &[0x2020, 0x2028, 0x2000].map(|offset| (self.base + offset).to_le_bytes()).concat());
        put(data(0x2040 + 32), &8u32.to_le_bytes());
        // One block: page 0x2000, the pointer, three of the four addresses of the thread storage, and padding.
        put(data(0x2080), &[0x2000u32, 20].map(u32::to_le_bytes).concat());
        put(data(0x2088), &[0xa010u16, 0xa040, 0xa048, 0xa050, 0, 0].map(u16::to_le_bytes).concat());
        let descriptor = [0x2160, 0, 0, 0x2190, Program::SLOTS as u32].map(u32::to_le_bytes).concat();
        put(data(0x2100), &descriptor);
        let imports = [0x21a0u64, if self.complete { 0 } else { 1 << 63 | 7 }].map(u64::to_le_bytes).concat();
        put(data(Program::SLOTS), &imports);
        put(data(0x2160), &imports);
        put(data(0x2190), b"KERNEL32.dll\0");
        put(data(0x21a0), b"\0\0ExitProcess\0");
        file
    }
}
