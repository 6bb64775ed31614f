//! Shared directories under an unmodified distribution kernel, in the lab: what a guest makes, the host finds, and the other way
//! round; a directory that is only to be read stays as it was.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{Finished, hostel};
use common::kvm::lab_kernel;
use common::linux_guest::initramfs;
use common::scratch::Scratch;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// Boots the lab's kernel into this script.
fn boot(kernel: &str, scratch: &Scratch, script: &str, devices: &[&str]) -> Finished {
    let initrd = scratch.file("initrd", &initramfs(script));
    let arguments = ["run", kernel, "--initrd", &initrd, "--cmdline=quiet", "--timeout", "240s"];
    let run = hostel(&[arguments.as_slice(), devices].concat(), "");
    println!("{devices:?}: status {} after {:?}\n{}\n{}", run.status, run.elapsed, run.stdout, run.stderr);
    run
}

/// What the guest printed behind `name=`.
fn said<'a>(run: &'a Finished, name: &str) -> &'a str {
    let value = run.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("the guest did not say {name}")).trim_end()
}

const WORKS: &str = r#"
mkdir /ro
mount -t virtiofs work /mnt && mount -t virtiofs share1 /ro && echo mounted=yes
cd /mnt
echo hello=$(cat hello)
echo link=$(readlink out) $(cat out 2>/dev/null || echo leads nowhere here)
mkdir -p a/b && echo written >a/b/file && chmod 640 a/b/file && chown 12:34 a/b/file && touch -d '2001-02-03 04:05:06' a/b/file
ln a/b/file a/hard && ln -s b/file a/soft && echo linked=$(cat a/soft) $(stat -c %h a/hard)
echo more >>a/b/file
mv a/b/file a/b/renamed && mv a moved
echo count=$(ls many | wc -l) $(ls -l many | grep -c ^-rw)
for i in $(seq 2001 2050); do : >many/$i; done
rm many/1?? && echo left=$(ls -a many | wc -l)
dd if=/dev/urandom of=big bs=64k count=48 2>/dev/null
echo sum=$(sha1sum <big)
echo 3 >/proc/sys/vm/drop_caches
echo again=$(sha1sum <big)
cp /bin/busybox echo && ./echo ran=from the share
mkfifo pipe && (echo through >pipe & echo pipe=$(cat pipe))
mknod device c 1 3 2>/dev/null || echo device=refused
truncate -s 100 big && echo size=$(stat -c %s big)
mkdir gone && cd gone && rmdir ../gone && (: >x) 2>/dev/null || echo gone=yes
cd /mnt; df . | tail -n 1 | grep -q work && echo df=yes
cd /ro
echo inside=$(cat inside)
(echo x >inside) 2>/dev/null || echo write=refused
(: >new) 2>/dev/null || echo create=refused
rm inside 2>/dev/null || echo remove=refused
mv inside other 2>/dev/null || echo rename=refused
chmod 777 inside 2>/dev/null || echo mode=refused
ln inside hard 2>/dev/null || echo link_ro=refused
mount -o remount,rw /ro; (: >new) 2>/dev/null || echo remount=refused
cd /; umount /mnt /ro && echo unmounted=yes
"#;

/// Every file below a directory: its mode and content.
fn tree(directory: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("it can be listed").flatten() {
        let content = fs::read(entry.path()).expect("it can be read");
        let mode = entry.metadata().expect("it is there").mode();
        found.insert(entry.file_name().into_string().expect("names are text"), (mode, content));
    }
    found
}

#[test]
fn a_guest_works_in_a_directory_and_leaves_one_alone() {
    let Some(kernel) = lab_kernel() else { return };
    let scratch = Scratch::new("share");
    let (work, still) = (scratch.join("work"), scratch.join("still"));
    [&work, &still].iter().for_each(|directory| fs::create_dir(directory).expect("it can be made"));
    scratch.file("work/hello", b"from the host");
    scratch.file("still/inside", b"as it was");
    scratch.file("secret", b"secret");
    symlink(scratch.join("secret"), scratch.path().join("work/out")).expect("it can be made");
    fs::create_dir(scratch.join("work/many")).expect("it can be made");
    (1..=2000).for_each(|number| drop(scratch.file(&format!("work/many/{number}"), b"")));
    let before = tree(Path::new(&still));

    let shares = ["--cpus", "2", "--share", &format!("{work}:work"), "--share", &format!("{still},ro")];
    let run = boot(&kernel, &scratch, WORKS, &shares);
    assert_eq!((run.status, said(&run, "mounted"), said(&run, "unmounted")), (0, "yes", "yes"));
    assert_eq!(said(&run, "hello"), "from the host");
    assert_eq!(said(&run, "link"), format!("{} leads nowhere here", scratch.join("secret")));
    assert_eq!((said(&run, "linked"), said(&run, "count"), said(&run, "left")), ("written 2", "2000 2000", "1952"));
    let sum = said(&run, "sum");
    assert_eq!((sum.len() > 40, said(&run, "again")), (true, sum));
    assert_eq!((said(&run, "ran"), said(&run, "pipe"), said(&run, "size")), ("from the share", "through", "100"));
    assert_eq!((said(&run, "device"), said(&run, "gone"), said(&run, "df")), ("refused", "yes", "yes"));
    for refused in ["write", "create", "remove", "rename", "mode", "link_ro", "remount"] {
        assert_eq!(said(&run, refused), "refused", "{refused}");
    }
    assert_eq!((said(&run, "inside"), tree(Path::new(&still)) == before), ("as it was", true));

    let work = Path::new(&work);
    let file = fs::metadata(work.join("moved/hard")).expect("it is there");
    assert_eq!(fs::read(work.join("moved/b/renamed")).expect("it is there"), b"written\nmore\n");
    assert_eq!((file.permissions().mode() & 0o777, file.uid(), file.gid(), file.nlink()), (0o640, 12, 34, 2));
    assert_eq!(fs::read_link(work.join("moved/soft")).expect("it is there"), Path::new("b/file"));
    assert_eq!(fs::read_dir(work.join("many")).expect("it is there").count(), 1950);
    assert!(fs::read(work.join("echo")).expect("it is there") == fs::read("/bin/busybox").expect("the lab has it"));
    assert_eq!((work.join("big").metadata().expect("it is there").len(), work.join("device").exists()), (100, false));
}

/// Needs no guest that looks: the machine does not start.
#[test]
fn directories_that_cannot_be_shared_are_told() {
    if !common::kvm::available() {
        return;
    }
    let scratch = Scratch::new("no-share");
    let file = scratch.file("file", b"");
    for (directory, why) in [
        ("/none/such", "share /none/such: No such file"),
        (file.as_str(), "Not a directory"),
        ("/proc", "share /proc: what is there is made up by the kernel"),
    ] {
        let run = hostel(&["run", "hello", "--share", directory], "");
        assert_eq!(run.status, 10, "{run:?}");
        assert!(run.stderr.contains(why), "{run:?}");
    }
    let run = hostel(&["run", "hello", "--share", "/:a", "--share", "/:a"], "");
    assert_eq!(run.status, 2, "{run:?}");
    assert!(run.stderr.contains("two shares have the tag a"), "{run:?}");
}
