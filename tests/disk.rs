//! Disks under an unmodified distribution kernel, in the lab: a file system is mounted, written, found again and found whole;
//! layers and read-only disks leave their files as they were.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{Finished, PROGRAM, hostel};
use common::kvm::{lab_kernel, skip};
use common::lab_image::find_program;
use common::linux_guest::initramfs;
use common::scratch::Scratch;
use common::session::Session;
use rustix::process::Signal;
use std::fs;
use std::process::Command;

const MIB: usize = 1 << 20;

/// Boots the lab's kernel into this script.
fn boot(kernel: &str, scratch: &Scratch, script: &str, devices: &[&str]) -> Finished {
    let initrd = scratch.file("initrd", &initramfs(script));
    let arguments = ["run", kernel, "--initrd", &initrd, "--cmdline=quiet", "--timeout", "240s"];
    let run = hostel(&[arguments.as_slice(), devices].concat(), "");
    println!("{devices:?}: status {} after {:?}\n{}\n{}", run.status, run.elapsed, run.stdout, run.stderr);
    run
}

/// Runs a program of e2fsprogs.
fn runs(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("it can be started");
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// What the guest printed behind `name=`.
fn said<'a>(run: &'a Finished, name: &str) -> &'a str {
    let value = run.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("the guest did not say {name}")).trim_end()
}

const WRITES: &str = "
echo serial=$(cat /sys/block/vda/serial),$(cat /sys/block/vdb/serial)
echo queues=$(ls /sys/block/vda/mq | wc -l)
echo size=$(cat /sys/block/vda/size),$(cat /sys/block/vdb/size)
mount -t ext4 /dev/vda /mnt && echo hello=$(cat /mnt/hello)
dd if=/dev/urandom of=/mnt/big bs=64k count=64 2>/dev/null
sync
echo sum=$(sha1sum </mnt/big)
echo 3 >/proc/sys/vm/drop_caches
echo again=$(sha1sum </mnt/big)
rm /mnt/hello
fstrim /mnt && echo trimmed=yes
umount /mnt
yes hostel | tr -d '\\n' | dd of=/dev/vdb bs=512 count=2047 seek=1 conv=fsync iflag=fullblock 2>/dev/null && echo raw=written
dd if=/dev/zero of=/dev/vdb bs=512 seek=2048 count=1 2>/dev/null || echo beyond=refused
dmesg | grep -iE 'error|warn|vda.*fail|vdb.*fail' | grep -v vdb,.sector
";

const READS: &str = "
mount -t ext4 /dev/vda /mnt && echo sum=$(sha1sum </mnt/big)
rm /mnt/big && dd if=/dev/zero of=/mnt/other bs=64k count=32 2>/dev/null
sync
echo 3 >/proc/sys/vm/drop_caches
echo other=$(wc -c </mnt/other)
umount /mnt
echo ro=$(cat /sys/block/vdb/ro)
echo head=$(dd if=/dev/vdb bs=512 skip=1 count=1 2>/dev/null | head -c 12)
dd if=/dev/zero of=/dev/vdb bs=512 count=1 2>/dev/null || echo write=refused
";

#[test]
fn a_file_system_survives_and_what_is_not_to_be_written_stays() {
    let Some(kernel) = lab_kernel() else { return };
    let (Some(mkfs), Some(e2fsck)) = (find_program("mkfs.ext4"), find_program("e2fsck")) else {
        return skip("e2fsprogs is not installed");
    };
    let [mkfs, e2fsck] = [mkfs, e2fsck].map(|path| path.to_str().expect("programs have names").to_owned());
    let scratch = Scratch::new("disk");
    fs::create_dir(scratch.join("files")).expect("it can be made");
    scratch.file("files/hello", b"from the host");
    // One sector is not whole: the guest does not have it.
    let (system, raw) = (scratch.file("system", &[]), scratch.file("raw", &vec![0xdd; MIB + 100]));
    runs(&mkfs, &["-q", "-d", &scratch.join("files"), &system, "16M"]);

    let disks = ["--cpus", "2", "--disk", &format!("{system},id=system"), "--disk", &raw];
    let run = boot(&kernel, &scratch, WRITES, &disks);
    assert_eq!((run.status, said(&run, "queues")), (0, "2"));
    assert_eq!((said(&run, "serial"), said(&run, "size")), ("system,disk1", "32768,2048"));
    assert_eq!((said(&run, "hello"), said(&run, "trimmed")), ("from the host", "yes"));
    assert_eq!((said(&run, "raw"), said(&run, "beyond")), ("written", "refused"));
    let sum = said(&run, "sum");
    assert_eq!((sum.len() > 40, said(&run, "again")), (true, sum));
    runs(&e2fsck, &["-f", "-n", &system]);
    let written = fs::read(&raw).expect("it can be read");
    assert!(written[512..MIB].chunks(6).all(|word| b"hostel".starts_with(word)));
    assert_eq!((&written[..512], &written[MIB..]), (&[0xdd; 512][..], &[0xdd; 100][..]));

    let before = fs::read(&system).expect("it can be read");
    let disks = ["--disk", &format!("{system},overlay"), "--disk", &format!("{raw},ro")];
    let run = boot(&kernel, &scratch, READS, &[&["--transport", "mmio", "--rng"], disks.as_slice()].concat());
    assert_eq!(run.status, 0);
    assert_eq!((said(&run, "sum"), said(&run, "other")), (sum, "2097152"));
    assert_eq!((said(&run, "ro"), said(&run, "head"), said(&run, "write")), ("1", "hostelhostel", "refused"));
    assert!(fs::read(&system).expect("it can be read") == before, "the layer's base has changed");
    assert!(fs::read(&raw).expect("it can be read") == written, "a read-only disk has changed");
}

/// Files that are acknowledged as soon as they are on the disk, beside writes that nobody waits for. Each has its own name as its content.
const ACKNOWLEDGES: &str = "
mount -t ext4 /dev/vda /mnt || exit
(while :; do dd if=/dev/urandom of=/mnt/noise bs=64k count=32; rm /mnt/noise; done) >/dev/null 2>&1 &
read first
number=$first
while :; do
    echo file $number is whole | dd of=/mnt/$number conv=fsync 2>/dev/null && echo acknowledged=$number
    number=$((number + 1))
done
";

/// An unmodified kernel's journal on a disk whose machine is killed: it is replayed, and what fsync(2) acknowledged is there.
#[test]
fn a_file_system_whose_machine_is_killed_keeps_what_it_acknowledged() {
    let Some(kernel) = lab_kernel() else { return };
    let [Some(mkfs), Some(e2fsck), Some(debugfs)] = ["mkfs.ext4", "e2fsck", "debugfs"].map(find_program) else {
        return skip("e2fsprogs is not installed");
    };
    let [mkfs, e2fsck] = [mkfs, e2fsck].map(|path| path.to_str().expect("programs have names").to_owned());
    let scratch = Scratch::new("killed");
    let (disk, initrd) = (scratch.file("disk", &[]), scratch.file("initrd", &initramfs(ACKNOWLEDGES)));
    runs(&mkfs, &["-q", &disk, "32M"]);
    let mut first = 0;
    for more in [3, 30] {
        let mut machine = Command::new(PROGRAM);
        machine.args(["run", &kernel, "--initrd", &initrd, "--cmdline=quiet", "--timeout", "240s", "--disk", &disk]);
        let mut machine = Session::on_pipes(machine);
        machine.type_in(&format!("{first}\n"));
        machine.wait_for(&format!("acknowledged={}\r\n", first + more));
        machine.signal(Signal::KILL);
        let (status, seen) = machine.end();
        assert_eq!(status, 128 + 9, "{seen}");
        let told = seen.lines().filter_map(|line| line.strip_prefix("acknowledged=")?.trim_end().parse::<u32>().ok());
        let last = told.max().expect("it was waited for");
        // 1: it has replayed the journal, and nothing else was to be done.
        let replayed = Command::new(&e2fsck).args(["-p", &disk]).output().expect("it can be started");
        assert!(matches!(replayed.status.code(), Some(0 | 1)), "{replayed:?}");
        runs(&e2fsck, &["-f", "-n", &disk]);
        for number in 0..=last {
            let cat = Command::new(&debugfs).args(["-R", &format!("cat /{number}"), &disk]).output();
            let content = String::from_utf8(cat.expect("it can be started").stdout).expect("it is text");
            assert_eq!(content, format!("file {number} is whole\n"), "acknowledged up to {last}");
        }
        println!("files up to {last} are there");
        first = last + 1;
    }
}

/// Images of QEMU's that have more than one file behind them, or are not to be read as they are.
#[test]
fn sec33_qcow2_images_that_name_other_files_are_refused() {
    if !common::kvm::available() {
        return;
    }
    let Some(qemu_img) = find_program("qemu-img") else { return skip("qemu-img is not installed") };
    let qemu_img = qemu_img.to_str().expect("programs have names");
    let scratch = Scratch::new("qcow2");
    let secret = scratch.file("secret", b"root:x:0:0");
    let [backed, external, zstd] = ["backed", "external", "zstd"].map(|name| scratch.join(name));
    let create = ["create", "-q", "-f", "qcow2"];
    runs(qemu_img, &[&create[..], &["-b", &secret, "-F", "raw", &backed, "1M"]].concat());
    let option = format!("data_file={}", scratch.join("data"));
    runs(qemu_img, &[&create[..], &["-o", &option, &external, "1M"]].concat());
    runs(qemu_img, &[&create[..], &["-o", "compression_type=zstd", &zstd, "1M"]].concat());
    for (image, why) in [
        (&backed, "it lies over another file, which backing=PATH would name"),
        (&external, "its data are in another file"),
        (&zstd, "it uses features (incompatible, 0x8)"),
        (&secret, "it has no qcow2 header"),
    ] {
        let run = hostel(&["run", "hello", "--disk", &format!("{image},format=qcow2")], "");
        assert_eq!(run.status, 10, "{run:?}");
        assert!(run.stderr.contains("as qcow2: ") && run.stderr.contains(why), "{run:?}");
    }
}

/// Needs no guest that looks: the machine does not start.
#[test]
fn disks_that_cannot_be_had_are_told() {
    if !common::kvm::available() {
        return;
    }
    let scratch = Scratch::new("no-disk");
    let small = scratch.file("small", &[0; 511]);
    let disk = scratch.file("disk", &[0; 512]);
    let directory = scratch.path().to_str().expect("the path is text");
    for (options, why) in [
        (vec!["/none/such"], "open the disk /none/such: No such file"),
        (vec![directory], "is neither a file nor a block device"),
        (vec!["/dev/null"], "is neither a file nor a block device"),
        (vec![&small], "has 511 bytes: not one whole sector of 512"),
        (vec![&disk, &disk], "is in use, by another machine"),
    ] {
        let disks = options.iter().flat_map(|path| ["--disk", path]);
        let run = hostel(&["run", "hello"].into_iter().chain(disks).collect::<Vec<_>>(), "");
        assert_eq!(run.status, 10, "{run:?}");
        assert!(run.stderr.contains(why), "{run:?}");
    }
    let shared = format!("{disk},ro");
    let layered = format!("{disk},overlay");
    let run = hostel(&["run", "hello", "--disk", &shared, "--disk", &layered, "--disk", &shared], "");
    assert_eq!(run.status, 0, "{run:?}");
}
