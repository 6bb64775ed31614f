//! A small machine to load images into, and what must hold of it afterwards.

use crate::knob::{Address, Knob};
use arbitrary::Arbitrary;
use hostel::arch::cpu_state::CpuState;
use hostel::arch::layout::{CMDLINE, GIB, MIB, PAGE_SIZE};
use hostel::boot::format::ImageFormat;
use hostel::boot::image::Image;
use hostel::boot::kernel::{Kernel, Unpack};
use hostel::boot::load::{BootRequest, Loaded, load};
use hostel::memory::map::{GuestRange, MemoryMap, RANGE_RAM};
use hostel::memory::ram::GuestRam;

/// RAM that most machines here have. What lies above it is not searched for stray bytes.
const RAM_SIZE: u64 = 16 * MIB;

/// What goes with the image.
#[derive(Arbitrary, Debug, Default)]
pub struct Request<'a> {
    /// The command line.
    pub cmdline: Knob<&'a str>,
    /// The initrd; none where the knob is right.
    pub initrd: Knob<Initrd>,
    /// Where the RSDP is said to be.
    pub rsdp: Option<u32>,
    /// Where a flat 16-bit image goes.
    pub load_address: Knob<Address>,
    /// RAM of another size.
    pub ram: Knob<Ram>,
}

/// RAM disks of other sizes than none.
#[derive(Arbitrary, Debug)]
pub enum Initrd {
    /// One that may fit.
    OfSize(u16),
    /// One that never does.
    LargerThanRam,
}

impl Initrd {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Initrd::OfSize(size) => vec![0x5a; usize::from(*size)],
            Initrd::LargerThanRam => vec![0; RAM_SIZE as usize + 1],
        }
    }
}

/// Machines of other sizes.
#[derive(Arbitrary, Debug)]
pub enum Ram {
    /// As little as there may be.
    Least,
    /// Below the 4 GiB hole and above.
    AroundTheHole,
}

/// A machine with something in it.
pub struct Machine {
    /// What the image was.
    pub format: ImageFormat,
    /// Its RAM.
    pub ram: GuestRam,
    /// What was loaded.
    pub loaded: Loaded,
}

/// Loads `bytes` and gives the machine, or the message that refuses them. Either is held to what must hold of it.
pub fn boot(bytes: &[u8], forced: Option<ImageFormat>, unpack: Unpack, request: Request) -> Result<Machine, String> {
    let image = Image::from_bytes("fuzz", bytes);
    let booted = Kernel::identify(&image, forced, unpack).and_then(|kernel| {
        assert!(!kernel.describe().is_empty());
        boot_kernel(&kernel, request)
    });
    booted.map_err(|error| {
        let message = error.to_string();
        assert!(message.starts_with("fuzz: ") || message.starts_with("initrd: "), "{message}");
        assert!(!message.contains('\n') && message.len() < 500, "{message}");
        message
    })
}

fn boot_kernel(kernel: &Kernel, request: Request) -> Result<Machine, hostel::boot::error::BootError> {
    let ram_size = match request.ram.0 {
        None => RAM_SIZE,
        Some(Ram::Least) => MIB,
        Some(Ram::AroundTheHole) => 5 * GIB,
    };
    let map = MemoryMap::new(ram_size).expect("a size that a machine can have");
    let ram = GuestRam::new(&map).expect("the host has address space");
    let initrd_bytes = request.initrd.0.map_or(Vec::new(), |initrd| initrd.bytes());
    let initrd = Image::from_bytes("initrd", &initrd_bytes);
    let cmdline = request.cmdline.or("");
    let told = BootRequest {
        cmdline,
        initrd: Some(&initrd).filter(|_| !initrd_bytes.is_empty()),
        rsdp: request.rsdp.map(u64::from),
        load_address: request.load_address.0.map(|address| address.0),
        ..BootRequest::default()
    };
    let loaded = load(kernel, &told, &ram, &map)?;
    let format = kernel.format();
    check_segments(&loaded, &map);
    check_entry(&loaded);
    check_nothing_else_is_written(&loaded, &ram);
    if !cmdline.is_empty() {
        let first_word = if format == ImageFormat::Multiboot { "kernel " } else { "" };
        let line = format!("{first_word}{cmdline}");
        let line = format!("{}\0", line.trim());
        assert_eq!(read(&ram, CMDLINE, line.len()), line.as_bytes());
    }
    if let Some(initrd) = loaded.segments.iter().find(|segment| segment.what == "initrd") {
        assert_eq!(read(&ram, initrd.range.start, initrd.range.size as usize), initrd_bytes);
    }
    Ok(Machine { format, ram, loaded })
}

/// `size` bytes at `gpa`, all RAM.
pub fn read(ram: &GuestRam, gpa: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    ram.read(gpa, &mut bytes).expect("what was loaded lies in RAM");
    bytes
}

/// Segments ascend, do not overlap, and lie in what the guest is told is RAM.
fn check_segments(loaded: &Loaded, map: &MemoryMap) {
    for pair in loaded.segments.windows(2) {
        assert!(pair[0].range.end() <= pair[1].range.start, "{pair:?}");
    }
    for segment in &loaded.segments {
        let inside = |range: &GuestRange| segment.range.start >= range.start && segment.range.end() <= range.end();
        let entries = map.entries();
        assert!(entries.iter().any(|entry| entry.kind == RANGE_RAM && inside(&entry.range)), "{segment:?}");
    }
}

/// The first instruction lies in something that was loaded, where the mode of its entry reaches it: no entry reaches beyond
/// 4 GiB, where 32 bits and the boot page tables end.
fn check_entry(loaded: &Loaded) {
    let CpuState { cs, regs, .. } = &loaded.state;
    let entry = cs.base + regs.rip;
    assert!(entry < 4 * GIB, "entered at {entry:#x}");
    let inside = |range: &GuestRange| (range.start..range.end()).contains(&entry);
    assert!(loaded.segments.iter().any(|segment| inside(&segment.range)), "entered at {entry:#x}: {loaded:?}");
}

/// No byte outside the segments was written.
fn check_nothing_else_is_written(loaded: &Loaded, ram: &GuestRam) {
    for page in touched_pages(ram) {
        let mut bytes = read(ram, page, PAGE_SIZE as usize);
        for segment in &loaded.segments {
            let offset = |gpa: u64| gpa.clamp(page, page + PAGE_SIZE) as usize - page as usize;
            bytes[offset(segment.range.start)..offset(segment.range.end())].fill(0);
        }
        assert!(bytes == [0; PAGE_SIZE as usize], "written beside the segments: page {page:#x}, {loaded:?}");
    }
}

/// Pages of the first [`RAM_SIZE`] bytes that were ever touched; all others are zero.
fn touched_pages(ram: &GuestRam) -> impl Iterator<Item = u64> {
    let slot = ram.slots()[0];
    let size = slot.size.min(RAM_SIZE) as usize;
    let mut resident = vec![0u8; size / PAGE_SIZE as usize];
    // SAFETY: the range is mapped, and the vector has a byte for each page of it.
    let result = unsafe { libc::mincore(slot.hva as *mut libc::c_void, size, resident.as_mut_ptr()) };
    assert_eq!(result, 0, "mincore of a mapped range");
    (0..).step_by(PAGE_SIZE as usize).zip(resident).filter(|(_, resident)| resident & 1 != 0).map(|(page, _)| page)
}
