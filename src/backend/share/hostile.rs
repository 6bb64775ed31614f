//! What a hostile client asks of the server, and a hostile user of the host does meanwhile.

use super::bench::{Bench, LIMITS, is_root, tree};
use super::client::{Client, message, text};
use super::protocol::{Fields, ROOT, opcode};
use super::server::Rights;
use super::table::Limits;
use rustix::fs::{FileType, Mode, RenameFlags};
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn sec57_only_regular_files_and_directories_are_opened_and_no_device_is_made() {
    let mut bench = Bench::with(false, LIMITS, |path| {
        let at = fs::File::open(path).unwrap();
        let make = |name: &str, kind, device| rustix::fs::mknodat(&at, name, kind, Mode::RUSR | Mode::WUSR, device);
        make("pipe", FileType::Fifo, 0).unwrap();
        drop(std::os::unix::net::UnixListener::bind(path.join("socket")).unwrap());
        if is_root() {
            // The device of /dev/zero, whose reads would not end.
            make("zero", FileType::CharacterDevice, rustix::fs::makedev(1, 5)).unwrap();
        }
    });
    for name in ["pipe", "socket", "zero"].iter().take(if is_root() { 3 } else { 2 }) {
        let entry = bench.client.lookup(ROOT, name).unwrap();
        for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR | libc::O_TRUNC, libc::O_DIRECTORY] {
            assert_eq!(bench.client.open(entry.node, flags), Err(Errno::PERM), "{name}");
        }
        assert_eq!(bench.set(entry.node, 1 << 3, &[(16, 0)]), Err(Errno::PERM), "{name} cannot be truncated");
        assert_eq!(bench.client.open_as(opcode::OPENDIR, entry.node, 0), Err(Errno::NOTDIR));
        assert_eq!(bench.client.create(ROOT, name, libc::O_RDWR, 0o600).map(drop), Err(Errno::PERM), "{name}");
        assert_eq!(bench.client.create(ROOT, name, libc::O_RDWR | libc::O_EXCL, 0o600).map(drop), Err(Errno::EXIST));
    }
    let node = |bench: &mut Bench, kind: u32, device: u32| {
        bench.make(opcode::MKNOD, ROOT, &[kind | 0o666, device, 0, 0], &["made"]).map(|entry| entry.mode & libc::S_IFMT)
    };
    for kind in [libc::S_IFCHR, libc::S_IFBLK, libc::S_IFDIR, libc::S_IFLNK, 0] {
        assert_eq!(node(&mut bench, kind, 0x103), Err(Errno::PERM));
    }
    assert_eq!(node(&mut bench, libc::S_IFBLK, 0), Err(Errno::PERM));
    for kind in [libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFREG] {
        assert_eq!(node(&mut bench, kind, 0x103), Ok(kind));
        fs::remove_file(bench.path.join("made")).unwrap();
    }
}

#[test]
fn sec58_names_that_lead_elsewhere_are_refused_by_every_request() {
    let mut bench = Bench::with(false, LIMITS, |path| fs::create_dir(path.join("sub")).unwrap());
    let sub = bench.client.lookup(ROOT, "sub").unwrap().node;
    let before = tree(&bench.outside);
    let long = "n".repeat(256);
    let nested = format!("sub/{long}");
    for name in ["..", ".", "", "../secret", "sub/..", "/", "/etc/passwd", "sub/", "./sub", &long, &nested] {
        let expected = if name == long { Errno::NAMETOOLONG } else { Errno::INVAL };
        for parent in [ROOT, sub] {
            let asked = [
                bench.client.lookup(parent, name).map(drop),
                bench.client.create(parent, name, libc::O_RDWR | libc::O_TRUNC, 0o666).map(drop),
                bench.make(opcode::MKDIR, parent, &[0o777, 0], &[name]).map(drop),
                bench.make(opcode::MKNOD, parent, &[libc::S_IFREG | 0o666, 0, 0, 0], &[name]).map(drop),
                bench.make(opcode::SYMLINK, parent, &[], &[name, "target"]).map(drop),
                bench.client.ask(opcode::UNLINK, parent, &text(name), 0).map(drop),
                bench.client.ask(opcode::RMDIR, parent, &text(name), 0).map(drop),
                bench.rename((parent, name), (parent, "fine"), RenameFlags::empty()),
                bench.rename((ROOT, "sub"), (parent, name), RenameFlags::empty()),
                bench.rename((ROOT, "sub"), (parent, name), RenameFlags::EXCHANGE),
                bench.make(opcode::RENAME, parent, &[parent as u32, 0], &[name, "fine"]).map(drop),
                bench.make(opcode::RENAME, ROOT, &[parent as u32, 0], &["sub", name]).map(drop),
                bench.make(opcode::LINK, parent, &[sub as u32, 0], &[name]).map(drop),
            ];
            assert_eq!(asked, [Err(expected); 13], "{name:?}");
        }
    }
    // A name must end, and nothing may follow it.
    for opcode in [opcode::LOOKUP, opcode::UNLINK, opcode::RMDIR] {
        for bytes in [&b"sub"[..], b"sub\0more\0", b""] {
            assert_eq!(bench.client.ask(opcode, ROOT, bytes, 128), Err(Errno::INVAL));
        }
    }
    assert!(tree(&bench.outside) == before);
}

/// Somebody on the host swaps a directory and a file for links that lead out, while a client walks and opens.
#[test]
fn sec59_no_swap_at_any_moment_leads_out() {
    let mut bench = Bench::with(false, LIMITS, |path| {
        fs::create_dir(path.join("directory")).unwrap();
        fs::write(path.join("directory/secret"), "inside").unwrap();
        symlink("..", path.join("up")).unwrap();
        fs::write(path.join("file"), "inside").unwrap();
        symlink("../secret", path.join("link")).unwrap();
    });
    let (at, stop) = (fs::File::open(&bench.path).unwrap(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let swapper = std::thread::spawn(move || {
        let mut swaps = 0u32;
        while !stopped.load(Ordering::Relaxed) {
            for (old, new) in [("directory", "up"), ("file", "link")] {
                rustix::fs::renameat_with(&at, old, &at, new, RenameFlags::EXCHANGE).unwrap();
                swaps += 1;
            }
        }
        swaps
    });
    let (mut opened, mut refused) = (0, 0);
    // The lab's processor is emulated.
    let rounds = if std::env::var_os("HOSTEL_LAB_KERNEL").is_some() { 5_000 } else { 50_000 };
    for round in 0..rounds {
        let path = if round % 2 == 0 { "file" } else { "directory/secret" };
        let Ok(entry) = bench.client.walk(path) else {
            refused += 1;
            continue;
        };
        match bench.client.open(entry.node, libc::O_RDWR) {
            Ok(handle) => {
                assert_eq!(bench.client.read(handle, 0, 100).unwrap(), b"inside");
                bench.client.write(handle, 0, b"inside", 0).unwrap();
                bench.client.release(handle).unwrap();
                opened += 1;
            }
            Err(error) => {
                assert_eq!(error, Errno::PERM, "a link");
                refused += 1;
            }
        }
        if round % 100 == 0 {
            let made = bench.client.create(ROOT, "file", libc::O_RDWR | libc::O_TRUNC, 0o600);
            if let Ok((_, handle)) = made {
                bench.client.write(handle, 0, b"inside", 0).unwrap();
                bench.client.release(handle).unwrap();
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    let swaps = swapper.join().unwrap();
    println!("{swaps} swaps, {opened} files opened, {refused} times not");
    assert!(opened > 100 && refused > 100 && swaps > 1000);
    assert_eq!(fs::read_to_string(bench.outside.join("secret")).unwrap(), "secret");
}

#[test]
fn sec59_links_in_the_way_are_not_followed_by_any_request() {
    let mut bench = Bench::with(false, LIMITS, |path| {
        symlink("..", path.join("up")).unwrap();
        symlink("../secret", path.join("link")).unwrap();
        symlink("/proc/self/root", path.join("root")).unwrap();
    });
    let before = tree(&bench.outside);
    for name in ["up", "root", "link"] {
        let node = bench.client.lookup(ROOT, name).unwrap().node;
        assert_eq!(bench.client.lookup(node, "secret"), Err(Errno::NOTDIR));
        assert_eq!(bench.client.create(node, "x", libc::O_RDWR, 0o666).map(drop), Err(Errno::NOTDIR));
        assert_eq!(bench.make(opcode::MKDIR, node, &[0o777, 0], &["x"]).map(drop), Err(Errno::NOTDIR));
        assert_eq!(bench.client.ask(opcode::UNLINK, node, &text("secret"), 0), Err(Errno::NOTDIR));
        assert_eq!(bench.rename((node, "secret"), (ROOT, "x"), RenameFlags::empty()), Err(Errno::NOTDIR));
        assert_eq!(bench.rename((ROOT, "up"), (node, "x"), RenameFlags::empty()), Err(Errno::NOTDIR));
        assert_eq!(bench.client.open_as(opcode::OPENDIR, node, 0), Err(Errno::NOTDIR));
        assert_eq!(bench.client.open(node, libc::O_RDWR), Err(Errno::PERM));
        assert_eq!(bench.set(node, 1, &[(68, 0o777)]), Err(Errno::OPNOTSUPP));
        assert_eq!(bench.set(node, 1 << 3, &[(16, 0)]), Err(Errno::PERM));
        assert_eq!(bench.client.create(ROOT, name, libc::O_RDWR | libc::O_TRUNC, 0o666).map(drop), Err(Errno::PERM));
    }
    // A hard link to a symbolic link is another such link.
    let node = bench.client.lookup(ROOT, "link").unwrap().node;
    bench.make(opcode::LINK, ROOT, &[node as u32, 0], &["hard"]).unwrap();
    assert!(fs::symlink_metadata(bench.path.join("hard")).unwrap().is_symlink());
    fs::remove_file(bench.path.join("hard")).unwrap();
    assert!(tree(&bench.outside) == before);
}

/// The device file of memory, the process's own memory, the settings of the kernel.
#[test]
fn sec59_of_file_systems_that_the_kernel_makes_up_nothing_is_seen() {
    let mut client = Client::new(Path::new("/"), Rights::Write, LIMITS).unwrap();
    client.initialize().unwrap();
    let mut bench = Bench { client, outside: "/none/such".into(), path: "/".into() };
    let proc = bench.client.lookup(ROOT, "proc").unwrap();
    assert_eq!(proc.mode & libc::S_IFMT, libc::S_IFDIR);
    assert_eq!(bench.client.lookup(proc.node, "self"), Err(Errno::NOENT));
    assert_eq!(bench.client.create(proc.node, "x", libc::O_RDWR, 0o600).map(drop), Err(Errno::PERM));
    assert_eq!(bench.set(proc.node, 1, &[(68, 0o777)]), Err(Errno::PERM));
    assert_eq!(bench.client.ask(opcode::SETXATTR, proc.node, &[0; 16], 0), Err(Errno::RANGE));
    for plus in [false, true] {
        let names: Vec<_> = bench.list(proc.node, plus, 4096).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, [".", ".."]);
    }
    assert!(Client::new(Path::new("/proc/self"), Rights::Write, LIMITS).is_err());
}

#[test]
fn sec60_what_is_only_to_be_read_is_not_written_whatever_is_asked() {
    let mut bench = Bench::with(true, LIMITS, |path| {
        fs::write(path.join("file"), "as it was").unwrap();
        fs::DirBuilder::new().mode(0o777).create(path.join("directory")).unwrap();
        fs::set_permissions(path.join("file"), fs::Permissions::from_mode(0o666)).unwrap();
    });
    let before = tree(&bench.path);
    let file = bench.client.lookup(ROOT, "file").unwrap().node;
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC, libc::O_ACCMODE] {
        assert_eq!(bench.client.open(file, flags), Err(Errno::ROFS));
    }
    let handle = bench.client.open(file, libc::O_RDONLY).unwrap();
    assert_eq!(bench.client.read(handle, 0, 100).unwrap(), b"as it was");
    // Whatever the arguments: also those that would be refused for themselves.
    for opcode in [3 + 1, 6, 8, 9, 10, 11, 12, 13, 16, 21, 24, 35, 43, 45, 47, 51] {
        for arguments in [vec![], vec![0; 8], text("file"), vec![0; 88], [vec![0; 16], text("new")].concat()] {
            assert_eq!(bench.client.ask(opcode, ROOT, &arguments, 200), Err(Errno::ROFS), "{opcode}");
            assert_eq!(bench.client.ask(opcode, file, &arguments, 200), Err(Errno::ROFS), "{opcode}");
        }
    }
    assert_eq!(bench.client.ask(opcode::SYNCFS, ROOT, &[0; 8], 0), Ok(vec![]));
    assert_eq!(bench.client.ask(52, ROOT, &[0; 88], 200), Err(Errno::NOSYS));
    assert!(tree(&bench.path) == before);
}

#[test]
fn sec61_nodes_and_handles_are_counted_and_bounded() {
    let mut bench = Bench::with(false, Limits { nodes: 50, handles: 20 }, |path| {
        (0..100).for_each(|number| fs::write(path.join(number.to_string()), "").unwrap());
    });
    let nodes: Vec<_> =
        (0..50).map(|number: u32| bench.client.lookup(ROOT, &number.to_string()).unwrap().node).collect();
    assert_eq!(bench.client.lookup(ROOT, "50"), Err(Errno::NFILE));
    assert_eq!(bench.client.create(ROOT, "new", libc::O_RDWR, 0o600).map(drop), Err(Errno::NFILE));
    assert!(!bench.path.join("new").exists(), "nothing is made that cannot be told of");
    assert_eq!(bench.client.lookup(ROOT, "7").map(|entry| entry.node), Ok(nodes[7]), "what is known is known");
    // Looked up twice: forgotten once, it stays; more often than that, it is gone once.
    bench.client.forget(nodes[7], 1);
    assert!(bench.client.attributes(nodes[7]).is_ok());
    bench.client.forget(nodes[7], u64::MAX);
    bench.client.forget(nodes[7], u64::MAX);
    assert_eq!(bench.client.attributes(nodes[7]), Err(Errno::STALE));
    bench.client.forget(ROOT, u64::MAX);
    bench.client.forget(u64::MAX, 1);
    bench.client.forget(0, 0);
    let again = bench.client.lookup(ROOT, "7").unwrap().node;
    assert!(!nodes.contains(&again), "no number is given twice");

    let mut handles = Vec::new();
    let refused = loop {
        match bench.client.open(again, libc::O_RDONLY) {
            Ok(handle) => handles.push(handle),
            Err(error) => break error,
        }
    };
    // The table of nodes is full too, which has no say where none is needed.
    assert_eq!((refused, handles.len()), (Errno::NFILE, 20));
    assert_eq!(bench.client.open_as(opcode::OPENDIR, ROOT, 0), Err(Errno::NFILE));
    // What is open outlives its node.
    bench.client.forget(again, 1);
    assert_eq!(bench.client.read(handles[0], 0, 1), Ok(vec![]));
    assert_eq!((bench.client.release(handles[0]), bench.client.release(handles[0])), (Ok(()), Err(Errno::BADF)));
    // All at once, more than there are, and a count that lies.
    let list =
        nodes.iter().fold(Fields::default().word(u32::MAX).word(0), |list, node| list.long(*node).long(u64::MAX));
    let batch = message(opcode::BATCH_FORGET, 0, (0, 0), &list.done());
    bench.client.send(&batch, 0);
    assert_eq!(bench.client.server.table.counts(), (0, 19));
    bench.client.initialize().unwrap();
    assert_eq!(bench.client.server.table.counts(), (0, 0), "another client begins anew");
}

#[test]
fn sec61_opening_and_looking_up_for_long_costs_no_descriptors() {
    let mut bench = Bench::with(false, LIMITS, |path| fs::write(path.join("file"), "").unwrap());
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    for _ in 0..5000 {
        let entry = bench.client.lookup(ROOT, "file").unwrap();
        let handle = bench.client.open(entry.node, libc::O_RDONLY).unwrap();
        bench.client.release(handle).unwrap();
    }
    assert_eq!(bench.client.server.table.counts(), (1, 0));
    // Other tests run beside this one.
    assert!(descriptors() < before + 3000);
}

#[test]
fn requests_that_are_none_are_answered_or_dropped() {
    let mut bench = Bench::with(false, LIMITS, |path| fs::write(path.join("file"), "").unwrap());
    let good = message(opcode::GETATTR, ROOT, (0, 0), &[0; 16]);
    for length in [0, 39, 41, 55, 57, u32::MAX] {
        let mut bad = good.clone();
        bad[..4].copy_from_slice(&length.to_le_bytes());
        let reply = bench.client.send(&bad, 200).unwrap();
        assert_eq!((reply.len(), reply[4..8].to_vec()), (16, (-libc::EINVAL).to_le_bytes().to_vec()), "{length}");
    }
    for size in [0, 1, 16, 39] {
        assert_eq!(bench.client.send(&good[..size], 200), None, "no header, no reply");
    }
    // Not even an error fits: nothing is done.
    let remove = message(opcode::UNLINK, ROOT, (0, 0), &text("file"));
    assert_eq!((bench.client.send(&remove, 15), bench.path.join("file").exists()), (None, true));
    // A lookup whose answer does not fit does not count.
    assert_eq!(bench.client.ask(opcode::LOOKUP, ROOT, &text("file"), 127), Err(Errno::INVAL));
    assert_eq!(bench.client.ask(opcode::GETATTR, ROOT, &[0; 16], 103), Err(Errno::PROTO), "no part of a reply");
    assert_eq!(bench.client.server.table.counts(), (0, 0));
    for opcode in (0..200).chain([4096, u32::MAX]).filter(|opcode| ![1, 26, 38].contains(opcode)) {
        for arguments in [&[][..], &[0; 7], &[0xff; 40], &[0; 200]] {
            let message = message(opcode, u64::MAX, (0, 0), arguments);
            let reply = bench.client.send(&message, 300);
            let silent = [2, 36, 42].contains(&opcode);
            assert_eq!(reply.is_none(), silent, "{opcode}");
            assert!(reply.is_none_or(|reply| reply.len() == 16 && reply[4..8] != [0; 4]), "{opcode} succeeds");
        }
    }
    for unknown in [0, 7, 19, 25, 31, 32, 33, 34, 37, 39, 40, 41, 48, 49, 52, 4096, u32::MAX] {
        assert_eq!(bench.client.ask(unknown, ROOT, &[0; 64], 128), Err(Errno::NOSYS), "{unknown}");
    }
    // More arguments than any request has.
    assert_eq!(bench.client.ask(opcode::LOOKUP, ROOT, &vec![b'n'; 1 << 20], 128), Err(Errno::TOOBIG));
    let (_, handle) = bench.client.create(ROOT, "written", libc::O_RDWR, 0o600).unwrap();
    let short = Fields::default().long(handle).long(0).word(100).zeroes_to(40).bytes(&[1; 99]).done();
    assert_eq!(bench.client.ask(opcode::WRITE, ROOT, &short, 8), Err(Errno::INVAL), "a byte less than it says");
    assert_eq!(bench.client.attributes(ROOT).map(|root| root.mode & libc::S_IFMT), Ok(libc::S_IFDIR));
}

#[test]
fn a_file_that_is_moved_out_stays_where_the_client_has_it_and_leads_nowhere() {
    let mut bench = Bench::with(false, LIMITS, |path| {
        fs::create_dir(path.join("directory")).unwrap();
        fs::write(path.join("directory/file"), "moved").unwrap();
    });
    let directory = bench.client.lookup(ROOT, "directory").unwrap().node;
    fs::rename(bench.path.join("directory"), bench.outside.join("elsewhere")).unwrap();
    assert_eq!(bench.client.lookup(directory, "file").map(|file| file.size), Ok(5));
    assert_eq!(bench.client.lookup(directory, ".."), Err(Errno::INVAL));
    let dots = bench.list(directory, true, 4096).into_iter().filter(|(name, ..)| name.starts_with('.'));
    assert!(dots.into_iter().all(|(_, _, node)| node == 0), "no node for what is above");
}
