//! A client against the server: what is asked, and what the directory on the host then is.

use super::bench::{Bench, LIMITS, is_root};
use super::client::{Entry, text};
use super::guise::{Guise, Shown};
use super::protocol::{Fields, ROOT, opcode};
use super::server::Rights;
use super::table::Limits;
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

#[test]
fn client_and_server_agree() {
    let mut bench = Bench::new(false);
    let reply = bench.client.initialize().unwrap();
    let word = |at: usize| u32::from_le_bytes(reply[at..at + 4].try_into().unwrap());
    assert_eq!((reply.len(), word(0), word(4), word(20), word(28) & 0xffff), (64, 7, 38, 1 << 20, 256));
    // Neither locks, nor writeback (16), nor submounts (27), nor access control lists (20), nor extended SETXATTR (29).
    assert_eq!(word(12) & (1 << 1 | 1 << 10 | 1 << 16 | 1 << 20 | 1 << 27 | 1 << 29), 0);
    let init = |major: u32, minor: u32| Fields::default().word(major).word(minor).zeroes_to(64).done();
    assert_eq!(bench.client.ask(opcode::INIT, 0, &init(7, 30), 64), Err(Errno::PROTO));
    assert_eq!(bench.client.ask(opcode::INIT, 0, &init(6, 40), 64), Err(Errno::PROTO));
    let newer = bench.client.ask(opcode::INIT, 0, &init(8, 0), 64).unwrap();
    assert_eq!(newer[..4], [7, 0, 0, 0], "it may ask again");
    bench.client.ask(opcode::DESTROY, 0, &[], 0).unwrap();
    assert_eq!(bench.client.attributes(ROOT), Err(Errno::IO), "nothing before the next FUSE_INIT");
}

#[test]
fn files_are_shown_as_what_they_are_said_to_be() {
    let fill = |path: &Path| {
        fs::write(path.join("device"), "").unwrap();
        fs::write(path.join("mail"), "text").unwrap();
        fs::write(path.join("plain"), "").unwrap();
        fs::set_permissions(path.join("plain"), fs::Permissions::from_mode(0o604)).unwrap();
    };
    let guise = |path: &Path| {
        let mut guise = Guise::default();
        for (name, mode, uid, device) in
            [("device", libc::S_IFBLK | 0o660, 0, (8, 300)), ("mail", 0o100_440, 8, (0, 0))]
        {
            let found = fs::metadata(path.join(name)).unwrap();
            guise.note(found.ino(), found.mode() as u16, Shown { uid, gid: 6, mode: mode as u16, device });
        }
        Rights::ReadAs(Arc::new(guise))
    };
    let mut bench = Bench::with_rights(LIMITS, fill, guise);
    for (name, mode, owner) in
        [("device", 0o060_660, (0, 6)), ("mail", 0o100_440, (8, 6)), ("plain", 0o100_604, (0, 0))]
    {
        let looked = bench.client.lookup(ROOT, name).unwrap();
        let asked = bench.client.attributes(looked.node).unwrap();
        for found in [looked, asked] {
            assert_eq!((found.mode, found.owner), (mode, owner), "{name}");
        }
    }
    let device = bench.client.lookup(ROOT, "device").unwrap().node;
    let attributes = bench.client.ask(opcode::GETATTR, device, &[0; 16], 112).unwrap();
    // As new_encode_dev() in `kdev_t.h` has it, behind 76 bytes of `struct fuse_attr` and 16 before that.
    assert_eq!(attributes[92..96], (300u32 & 0xff | 8 << 8 | (300 & !0xff) << 12).to_le_bytes());
    let mail = bench.client.lookup(ROOT, "mail").unwrap().node;
    assert_eq!(bench.client.open(mail, libc::O_RDWR), Err(Errno::ROFS), "it cannot be written");
    let handle = bench.client.open(mail, libc::O_RDONLY).unwrap();
    assert_eq!(bench.client.read(handle, 0, 100).unwrap(), b"text");
    assert_eq!(bench.client.ask(opcode::UNLINK, ROOT, &text("mail"), 0), Err(Errno::ROFS));
}

#[test]
fn files_are_made_written_read_and_renamed() {
    let mut bench = Bench::new(false);
    let directory = bench.make(opcode::MKDIR, ROOT, &[0o755, 0o22], &["directory"]).unwrap();
    let (file, handle) = bench.client.create(directory.node, "file", libc::O_RDWR, 0o640).unwrap();
    assert_eq!(bench.client.write(handle, 3, b"written", 0), Ok(7));
    assert_eq!(bench.client.read(handle, 0, 100).unwrap(), b"\0\0\0written");
    assert_eq!(bench.client.read(handle, 10, 100).unwrap(), b"");
    assert_eq!(bench.client.attributes(file.node).unwrap().size, 10);
    let fields = Fields::default().long(file.node).bytes(&text("hard"));
    let hard = Entry::parse(&bench.client.ask(opcode::LINK, ROOT, &fields.done(), 128).unwrap());
    assert_eq!((hard.node, hard.links), (file.node, 2), "one file has one node");
    bench.make(opcode::SYMLINK, ROOT, &[], &["soft", "../secret"]).unwrap();
    let soft = bench.client.lookup(ROOT, "soft").unwrap();
    assert_eq!(bench.client.ask(opcode::READLINK, soft.node, &[], 100).unwrap(), b"../secret");
    assert_eq!(bench.client.open(soft.node, libc::O_RDONLY), Err(Errno::PERM));
    bench.rename((ROOT, "hard"), (directory.node, "moved"), RenameFlags::empty()).unwrap();
    assert_eq!(
        bench.rename((directory.node, "moved"), (directory.node, "file"), RenameFlags::NOREPLACE),
        Err(Errno::EXIST)
    );
    bench.rename((directory.node, "moved"), (ROOT, "soft"), RenameFlags::EXCHANGE).unwrap();
    assert_eq!(
        (bench.read("soft").len(), fs::read_link(bench.path.join("directory/moved")).unwrap()),
        (10, "../secret".into())
    );
    assert_eq!(bench.rename((ROOT, "soft"), (ROOT, "soft2"), RenameFlags::from_bits_retain(8)), Err(Errno::INVAL));
    for (name, parent) in [("soft", ROOT), ("file", directory.node)] {
        bench.client.ask(opcode::UNLINK, parent, &text(name), 0).unwrap();
    }
    assert_eq!(bench.client.write(handle, 0, b"still", 0), Ok(5), "what is open has no need of a name");
    assert_eq!(bench.client.ask(opcode::RMDIR, ROOT, &text("directory"), 0), Err(Errno::NOTEMPTY));
    assert_eq!(bench.client.ask(opcode::UNLINK, ROOT, &text("directory"), 0), Err(Errno::ISDIR));
    bench.client.ask(opcode::UNLINK, directory.node, &text("moved"), 0).unwrap();
    bench.client.ask(opcode::RMDIR, ROOT, &text("directory"), 0).unwrap();
    assert_eq!(bench.client.create(directory.node, "late", 0, 0o600), Err(Errno::NOENT));
    assert_eq!(bench.client.lookup(ROOT, "directory"), Err(Errno::NOENT));
    bench.client.release(handle).unwrap();
    assert_eq!(bench.client.read(handle, 0, 1), Err(Errno::BADF));
}

#[test]
fn modes_are_as_asked_whatever_this_process_would_take_away() {
    let mut bench = Bench::new(false);
    bench.client.create(ROOT, "file", libc::O_WRONLY, 0o666).unwrap();
    bench.make(opcode::MKDIR, ROOT, &[0o1777, 0], &["directory"]).unwrap();
    bench.make(opcode::MKNOD, ROOT, &[libc::S_IFREG | 0o620, 0, 0, 0], &["node"]).unwrap();
    let mode = |name: &str| fs::metadata(bench.path.join(name)).unwrap().mode() & 0o7777;
    assert_eq!([mode("file"), mode("directory"), mode("node")], [0o666, 0o1777, 0o620]);
}

#[test]
fn files_belong_to_who_asks_if_root_serves_and_to_the_server_else() {
    let mut bench = Bench::new(false);
    let own = bench.client.user;
    bench.client.user = (1234, 5678);
    let (file, _) = bench.client.create(ROOT, "file", libc::O_RDWR, 0o400).unwrap();
    let directory = bench.make(opcode::MKDIR, ROOT, &[0o700, 0], &["directory"]).unwrap();
    let link = bench.make(opcode::SYMLINK, ROOT, &[], &["link", "x"]).unwrap();
    let inner = bench.make(opcode::MKNOD, directory.node, &[libc::S_IFIFO | 0o600, 0, 0, 0], &["pipe"]).unwrap();
    let owner = if is_root() { (1234, 5678) } else { own };
    assert_eq!([file, directory, link, inner].map(|entry| entry.owner), [owner; 4]);
    bench.client.user = (u32::MAX, 7);
    let refused = bench.client.create(ROOT, "nobody", libc::O_RDWR, 0o600).map(|_| ());
    assert_eq!(refused, if is_root() { Err(Errno::INVAL) } else { Ok(()) });
    bench.client.user = own;
    assert_eq!(rustix::process::geteuid().as_raw(), own.0, "it is itself again");
    let given = bench.set(file.node, 1 << 1 | 1 << 2, &[(76, 1), (80, 2)]).map(|entry| entry.owner);
    assert_eq!(given, if is_root() { Ok((1, 2)) } else { Err(Errno::PERM) });
    assert_eq!(bench.set(file.node, 1 << 1, &[(76, u32::MAX.into())]), Err(Errno::INVAL));
}

#[test]
fn attributes_are_set() {
    let mut bench = Bench::new(false);
    let (file, handle) = bench.client.create(ROOT, "file", libc::O_RDWR, 0o644).unwrap();
    bench.client.write(handle, 0, b"0123456789", 0).unwrap();
    assert_eq!(bench.set(file.node, 1 << 3, &[(16, 4)]).unwrap().size, 4);
    assert_eq!(bench.set(file.node, 1 << 3 | 1 << 6, &[(8, handle), (16, 6)]).unwrap().size, 6);
    assert_eq!(bench.read("file"), "0123\0\0");
    assert_eq!(bench.set(file.node, 1, &[(68, 0o4711)]).unwrap().mode, libc::S_IFREG | 0o4711);
    // Times: seconds at 32 and 40, nanoseconds at 56 and 60; the access time now.
    bench.set(file.node, 1 << 4 | 1 << 5 | 1 << 7, &[(40, 981_173_106), (60, 5)]).unwrap();
    let metadata = fs::metadata(bench.path.join("file")).unwrap();
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (981_173_106, 5));
    assert!(metadata.atime() > 1_700_000_000);
    bench.set(file.node, 1 << 5, &[(40, -2i64 as u64), (60, 0)]).unwrap();
    assert_eq!(fs::metadata(bench.path.join("file")).unwrap().mtime(), -2, "before 1970");
    assert_eq!(bench.set(file.node, 1 << 5, &[(60, 0x3fff_ffff)]), Err(Errno::INVAL), "no time");
    let link = bench.make(opcode::SYMLINK, ROOT, &[], &["link", "file"]).unwrap();
    bench.set(link.node, 1 << 5, &[(40, 77)]).unwrap();
    assert_eq!(fs::symlink_metadata(bench.path.join("link")).unwrap().mtime(), 77);
    assert_eq!(bench.set(link.node, 1, &[(68, 0o777)]), Err(Errno::OPNOTSUPP));
    let found = bench.client.ask(opcode::STATFS, file.node, &[], 80).unwrap();
    assert_eq!((found.len(), &found[44..48]), (80, &255u32.to_le_bytes()[..]));
}

#[test]
fn set_user_id_ends_when_somebody_else_writes() {
    let mut bench = Bench::new(false);
    let (file, handle) = bench.client.create(ROOT, "file", libc::O_RDWR, 0o644).unwrap();
    for flags in [0, 4] {
        bench.set(file.node, 1, &[(68, 0o6755)]).unwrap();
        bench.client.write(handle, 0, b"x", flags).unwrap();
        let kept = is_root() && flags == 0;
        let mode = bench.client.attributes(file.node).unwrap().mode & 0o7777;
        assert_eq!(mode, if kept { 0o6755 } else { 0o755 });
    }
    bench.set(file.node, 1, &[(68, 0o6745)]).unwrap();
    bench.set(file.node, 1 << 3 | 1 << 11, &[(16, 0)]).unwrap();
    assert_eq!(bench.client.attributes(file.node).unwrap().mode & 0o7777 & !0o2000, 0o745);
}

#[test]
fn extended_attributes_are_kept() {
    let mut bench = Bench::new(false);
    let (file, _) = bench.client.create(ROOT, "file", libc::O_RDWR, 0o644).unwrap();
    let set = |name: &str, value: &[u8], flags: u32| {
        Fields::default().word(value.len() as u32).word(flags).bytes(&text(name)).bytes(value).done()
    };
    let get = |name: &str, size: u32| Fields::default().word(size).word(0).bytes(&text(name)).done();
    let set_first = bench.client.ask(opcode::SETXATTR, file.node, &set("user.a", b"value", 0), 0);
    if set_first == Err(Errno::OPNOTSUPP) {
        return; // the host's file system has none
    }
    assert_eq!(bench.client.ask(opcode::SETXATTR, file.node, &set("user.a", b"x", 1), 0), Err(Errno::EXIST));
    assert_eq!(bench.client.ask(opcode::GETXATTR, file.node, &get("user.a", 0), 8).unwrap()[..4], [5, 0, 0, 0]);
    assert_eq!(bench.client.ask(opcode::GETXATTR, file.node, &get("user.a", 100), 100).unwrap(), b"value");
    assert_eq!(bench.client.ask(opcode::GETXATTR, file.node, &get("user.a", 4), 4), Err(Errno::RANGE));
    assert_eq!(bench.client.ask(opcode::GETXATTR, file.node, &get("user.b", 4), 4), Err(Errno::NODATA));
    assert_eq!(bench.client.ask(opcode::LISTXATTR, file.node, &get("", 100)[..8], 100).unwrap(), b"user.a\0");
    assert_eq!(bench.client.ask(opcode::REMOVEXATTR, file.node, &text("user.a"), 0), Ok(vec![]));
    assert_eq!(bench.client.ask(opcode::REMOVEXATTR, file.node, &text("user.a"), 0), Err(Errno::NODATA));
    for bad in
        [set("", b"", 0), set(&"n".repeat(256), b"", 0), set("user.a", b"v", 0)[..15].to_vec(), set("user.a", b"v", 8)]
    {
        assert!(bench.client.ask(opcode::SETXATTR, file.node, &bad, 0).is_err());
    }
}

#[test]
fn what_else_can_be_done_to_open_files() {
    let mut bench = Bench::new(false);
    let (file, handle) = bench.client.create(ROOT, "file", libc::O_RDWR, 0o644).unwrap();
    let longs = |values: &[u64]| values.iter().fold(Fields::default(), |fields, value| fields.long(*value));
    bench.client.ask(opcode::FALLOCATE, file.node, &longs(&[handle, 0, 1 << 20, 0]).done(), 0).unwrap();
    assert_eq!(bench.client.attributes(file.node).unwrap().size, 1 << 20);
    bench.client.write(handle, 0, &[7; 1 << 20], 0).unwrap();
    assert_eq!(bench.client.read(handle, 0, 1 << 20).unwrap(), [7; 1 << 20]);
    let punch = longs(&[handle, 1 << 18, 1 << 18, 3]).done();
    if bench.client.ask(opcode::FALLOCATE, file.node, &punch, 0) != Err(Errno::OPNOTSUPP) {
        let seek = |offset: u64, whence: u32| longs(&[handle, offset]).word(whence).word(0).done();
        let at = |reply: Vec<u8>| u64::from_le_bytes(reply.try_into().unwrap());
        assert_eq!(bench.client.ask(opcode::LSEEK, file.node, &seek(0, 4), 8).map(at), Ok(1 << 18));
        assert_eq!(bench.client.ask(opcode::LSEEK, file.node, &seek(1 << 18, 3), 8).map(at), Ok(1 << 19));
        assert_eq!(bench.client.ask(opcode::LSEEK, file.node, &seek(1 << 20, 3), 8), Err(Errno::NXIO));
        assert_eq!(bench.client.ask(opcode::LSEEK, file.node, &seek(0, 0), 8), Err(Errno::INVAL));
    }
    assert_eq!(
        bench.client.ask(opcode::FALLOCATE, file.node, &longs(&[handle, 0, 4096, 8]).done(), 0),
        Err(Errno::OPNOTSUPP)
    );
    let (_, copy) = bench.client.create(ROOT, "copy", libc::O_RDWR, 0o644).unwrap();
    let arguments = longs(&[handle, 0, 0, copy, 100, 1000, 0]).done();
    assert_eq!(
        bench.client.ask(opcode::COPY_FILE_RANGE, file.node, &arguments, 8).unwrap()[..4],
        1000u32.to_le_bytes()
    );
    assert_eq!(bench.client.read(copy, 99, 3).unwrap(), [0, 7, 7]);
    for (opcode, flags) in [(opcode::FSYNC, 0), (opcode::FSYNC, 1)] {
        bench.client.ask(opcode, file.node, &longs(&[handle, flags]).done(), 0).unwrap();
    }
    bench.client.ask(opcode::SYNCFS, ROOT, &[0; 8], 0).unwrap();
    let (directory, _) = bench.client.open_as(opcode::OPENDIR, ROOT, 0).unwrap();
    bench.client.ask(opcode::FSYNCDIR, ROOT, &longs(&[directory, 0]).done(), 0).unwrap();
    assert_eq!(bench.client.read(directory, 0, 10), Err(Errno::BADF));
    // Beyond what any file can have.
    for offset in [u64::MAX, i64::MAX as u64, 1 << 63] {
        assert_eq!(bench.client.read(handle, offset, 10), Err(Errno::INVAL));
        assert_eq!(bench.client.write(handle, offset, b"x", 0), Err(Errno::INVAL));
    }
    let unnamed = Fields::default().word(libc::O_RDWR as u32).word(0o600).word(0).word(0).bytes(&text("/")).done();
    match bench.client.ask(opcode::TMPFILE, ROOT, &unnamed, 144) {
        Err(error) => assert_eq!(error, Errno::OPNOTSUPP),
        Ok(reply) => {
            let unnamed = Entry::parse(&reply);
            assert_eq!(unnamed.links, 0);
            let fields = Fields::default().long(unnamed.node).bytes(&text("named"));
            bench.client.ask(opcode::LINK, ROOT, &fields.done(), 128).unwrap();
            assert_eq!(bench.read("named"), "");
        }
    }
}

#[test]
fn pages_are_kept_as_long_as_a_file_is_what_it_was() {
    let mut bench = Bench::with(false, LIMITS, |path| {
        fs::write(path.join("file"), "as it was").unwrap();
        let old = fs::File::open(path.join("file")).unwrap();
        old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    });
    let file = bench.client.lookup(ROOT, "file").unwrap();
    let keeps = |bench: &mut Bench| bench.client.open_as(opcode::OPEN, file.node, libc::O_RDONLY).unwrap().1 & 2 != 0;
    assert_eq!([keeps(&mut bench), keeps(&mut bench), keeps(&mut bench)], [false, true, true]);
    fs::write(bench.path.join("file"), "changed").unwrap();
    assert_eq!(
        [keeps(&mut bench), keeps(&mut bench)],
        [false, false],
        "it may change again within a step of the clock"
    );
}

#[test]
fn a_listing_tells_of_files_that_are_known_what_a_lookup_would() {
    let mut bench = Bench::with(false, LIMITS, |path| {
        fs::write(path.join("file"), "1").unwrap();
        symlink("file", path.join("link")).unwrap();
    });
    let told = |bench: &mut Bench, name: &str| {
        let mut listed = bench.list_entries(ROOT, true, 4096).into_iter();
        listed.find(|(listed, ..)| listed == name).unwrap().2.unwrap()
    };
    let (file, link) = (bench.client.lookup(ROOT, "file").unwrap(), bench.client.lookup(ROOT, "link").unwrap());
    assert_eq!((told(&mut bench, "file"), told(&mut bench, "link")), (file, link));
    fs::write(bench.path.join("file"), "12345").unwrap();
    let grown = told(&mut bench, "file");
    assert_eq!((grown.node, grown.size), (file.node, 5));
    // One lookup and three listings, each of which counts.
    bench.client.forget(file.node, 3);
    assert!(bench.client.attributes(file.node).is_ok());
    bench.client.forget(file.node, 1);
    assert_eq!(bench.client.attributes(file.node), Err(Errno::STALE));
    // Another file of a name that is known, and a known file by another name.
    fs::write(bench.path.join("new"), "123").unwrap();
    fs::rename(bench.path.join("link"), bench.path.join("moved")).unwrap();
    fs::rename(bench.path.join("new"), bench.path.join("file")).unwrap();
    let other = told(&mut bench, "file");
    assert_eq!((other.size, [file.node, link.node].contains(&other.node)), (3, false));
    assert_eq!(told(&mut bench, "moved"), Entry { ..link });
}

#[test]
fn what_the_host_has_in_memory_is_read_without_waiting_and_is_the_same() {
    let mut bench = Bench::with(false, LIMITS, |path| fs::write(path.join("file"), vec![7; 10_000]).unwrap());
    let node = bench.client.lookup(ROOT, "file").unwrap().node;
    let handle = bench.client.open(node, libc::O_RDONLY).unwrap();
    bench.client.read(handle, 0, 10_000).unwrap();
    let mut cached = |handle: u64, offset: u64, size: u32| {
        let arguments = Fields::default().long(handle).long(offset).word(size).zeroes_to(40);
        bench.client.ask_cached(opcode::READ, node, &arguments.done(), size)
    };
    // Not every file system can tell.
    assert!(matches!(cached(handle, 4096, 4096), None | Some(Ok(_))));
    for (offset, size, count) in [(1, 9000, 9000), (4096, 8192, 5904), (0, 20_000, 10_000), (10_000, 1, 0)] {
        if let Some(bytes) = cached(handle, offset, size) {
            assert_eq!(bytes, Ok(vec![7; count]), "to the end of the file");
        }
    }
    for (handle, offset) in [(handle, u64::MAX), (handle + 1, 0)] {
        assert_eq!(cached(handle, offset, 8192), None, "there is nothing");
    }
    assert_eq!(bench.client.ask_cached(opcode::GETATTR, node, &[0; 16], 104), None, "something else");
}

#[test]
fn directories_are_listed_whole_whatever_the_size_of_requests() {
    let mut bench = Bench::with(false, Limits { nodes: 2100, handles: 10 }, |path| {
        (0..2000).for_each(|number| fs::write(path.join(format!("file-{number}")), "").unwrap());
        fs::create_dir(path.join("directory")).unwrap();
        symlink("x", path.join(format!("link-{}", "l".repeat(250)))).unwrap();
    });
    for (plus, size) in [(false, 4096), (true, 4096), (false, 600), (true, 700), (true, 1 << 20)] {
        let mut found = bench.list(ROOT, plus, size);
        let nodes = found.iter().filter(|(_, _, node)| *node != 0).count();
        assert_eq!(nodes, if plus { 2002 } else { 0 }, "all but the dots");
        found.sort();
        found.dedup_by(|a, b| a.0 == b.0);
        assert_eq!(found.len(), 2004, "{plus} {size}");
        let kind = |name: &str| found.iter().find(|(found, ..)| found.starts_with(name)).map(|(_, kind, _)| *kind);
        assert_eq!(
            [kind("."), kind("directory"), kind("link-"), kind("file-77")],
            [Some(4), Some(4), Some(10), Some(8)]
        );
    }
    assert_eq!(bench.client.server.table.counts(), (2002, 0));
    // Full: names still come, without nodes.
    bench.make(opcode::MKDIR, ROOT, &[0o755, 0], &["more"]).unwrap();
    for number in 0..200 {
        fs::write(bench.path.join(format!("more/{number}")), "").unwrap();
    }
    let more = bench.client.lookup(ROOT, "more").unwrap();
    let found = bench.list(more.node, true, 4096);
    let nodes = found.iter().filter(|(_, _, node)| *node != 0).count();
    assert_eq!((found.len(), nodes), (202, 2100 - 2003));
    let (handle, _) = bench.client.open_as(opcode::OPENDIR, more.node, 0).unwrap();
    let arguments = Fields::default().long(handle).long(u64::MAX).word(4096).zeroes_to(40).done();
    assert_eq!(bench.client.ask(opcode::READDIR, more.node, &arguments, 4096), Err(Errno::INVAL));
    assert_eq!(bench.client.ask(opcode::READDIR, more.node, &arguments, 0), Err(Errno::INVAL), "no room at all");
}
