//! virtio-blk: reads one sector of a disk, by hand.
//!
//! A request is a chain of three buffers: a header that says what to do and where, the data, and a byte for the status. The guest
//! fills them, describes them to the device, kicks it, and looks at the used ring until the chain is back. A word names the
//! sector (0). Powers off; exits with 1 (status 3) where there is no disk or the sector cannot be read.
//! Sources: virtio 1.2 §5.2.6 (requests), §5.2.4 (configuration).

#![no_std]
#![no_main]

use core::ptr::addr_of;

use guest::memory::read8;
use guest::start_info::StartInfo;
use guest::text::Hex;
use guest::virtio::{BLOCK, Device, Queue, Shared};
use guest::words::Words;
use guest::{power, print, serial};

/// Bytes of a sector, whatever the disk is made of.
const SECTOR_BYTES: usize = 512;
/// How many of them are shown.
const SHOWN: u64 = 16;
/// Status of a request that was done.
const OK: u8 = 0;

/// A request: header, data, status.
#[repr(C)]
struct Request {
    /// What to do; 0 reads.
    kind: u32,
    reserved: u32,
    sector: u64,
    data: [u8; SECTOR_BYTES],
    status: u8,
}

static QUEUE: Shared<Queue<4>> = Shared::new(Queue::new());
static REQUEST: Shared<Request> =
    Shared::new(Request { kind: 0, reserved: 0, sector: 0, data: [0; SECTOR_BYTES], status: 0 });

#[unsafe(no_mangle)]
extern "C" fn guest_main(boot_information: u64) -> ! {
    let Some(disk) = Device::find(BLOCK) else {
        print!("no disk; --transport mmio --disk FILE gives one\n");
        power::exit(1)
    };
    let (queue, request) = (QUEUE.take(), REQUEST.take());
    disk.begin(0);
    disk.set_queue(0, queue);
    disk.ready();
    print!("the disk's sectors: ", u64::from(disk.config(4)) << 32 | u64::from(disk.config(0)), "\n");

    request.sector = Words::of(StartInfo::at(boot_information).command_line()).number().unwrap_or(0);
    request.status = 0xff;
    let [header, data, status] =
        [addr_of!(request.kind) as u64, addr_of!(request.data) as u64, addr_of!(request.status) as u64];
    queue.describe(0, header, 16);
    queue.chain(0, 1);
    queue.describe_writable(1, data, SECTOR_BYTES as u32);
    queue.chain(1, 2);
    queue.describe_writable(2, status, 1);
    queue.offer(0);
    disk.kick(0);
    while queue.used().is_none() {}

    if read8(status) != OK {
        print!("sector ", request.sector, " cannot be read: status ", u64::from(read8(status)), "\n");
        power::exit(1)
    }
    print!("sector ", request.sector, " begins with");
    (data..data + SHOWN).for_each(|at| print!(" ", Hex(read8(at).into())));
    print!("\nas text: ");
    for byte in (data..data + SHOWN).map(read8) {
        serial::write(&[if byte.is_ascii_graphic() { byte } else { b'.' }]);
    }
    print!("\n");
    power::off()
}
