//! A directory, an archive or an image as the root of an unmodified distribution kernel, in the lab: a command runs there with an ordinary
//! user's rights, ends with its status, and leaves the directory as it was, or writes into it where it may. What is unpacked is gone
//! at the end, however that comes.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{Finished, PROGRAM, finish, hostel};
use common::kvm::{lab_kernel, skip};
use common::lab_image::find_program;
use common::linux_guest::{LEAVES_INITRAMFS, way_out};
use common::scratch::Scratch;
use common::session::Session;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tar::{Builder, EntryType, Header};

/// An ordinary user, who has no name here.
const USER: u32 = 1000;

/// Runs a command with `root` as its root, as the ordinary user.
fn run(kernel: &str, root: &str, options: &[&str], words: &[&str], input: &str) -> Finished {
    for (path, mode) in [("/dev/kvm", 0o666), ("/tmp", 0o1777)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("the lab is ours");
    }
    let mut command = Command::new(PROGRAM);
    command.uid(USER).gid(USER).current_dir("/lib/modules").env("HOME", "/nonexistent");
    command.args(["run", kernel, "--root", root]).args(options).arg("--").args(words);
    let run = finish(command, input);
    println!("{root} {words:?}: status {} after {:?}\n{}\n{}", run.status, run.elapsed, run.stdout, run.stderr);
    run
}

/// All that a guest's root may not do to the files of its host, and what it finds there.
const LOOKS: &str = "
id -u; pwd
touch /x && ls /x
stat -c %u /secret-of-root /bin/busybox
cat /secret-of-root || echo refused
(echo changed >/bin/sh.copy) && cat /bin/sh.copy
mkdir /lib/new && mv /lib/new /lib/newer && ls -d /lib/newer
mount | grep -c -E '^(overlay on / |proc on /proc |sysfs on /sys |devtmpfs on /dev |devpts|tmpfs on /run )'
ls -l /dev/fd/0 >/dev/null && echo fd
ifconfig lo | grep -c 127.0.0.1
wc -c
exit 7
";

#[test]
fn a_command_of_an_ordinary_user_leaves_no_trace_and_its_status() {
    let Some(kernel) = lab_kernel() else { return };
    fs::write("/secret-of-root", "secret").expect("the lab's root takes files");
    fs::set_permissions("/secret-of-root", Permissions::from_mode(0o600)).expect("it is ours");
    fs::write("/bin/sh.copy", "as it was\n").expect("the lab's root takes files");
    let scratch = Scratch::new("root");
    let result = scratch.join("result.json");
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o777)).expect("it is ours");
    let run = run(&kernel, "/", &["--result", &result], &["sh", "-c", LOOKS], "no end of line");
    assert_eq!(run.status, 7);
    // Byte for byte: standard output is no terminal, so none is behind it, and the kernel's messages are elsewhere. What the user may
    // not read is refused on the host, whoever the guest's root is.
    let want = "0\n/lib/modules\n/x\n0\n0\ncat: can't open '/secret-of-root': Permission denied\nrefused\nchanged\n\
        /lib/newer\n6\nfd\n1\n14\n";
    assert_eq!(run.stdout, want);
    for path in ["/x", "/lib/new", "/lib/newer"] {
        assert!(!fs::exists(path).expect("it can be looked for"), "the host has {path}");
    }
    assert_eq!(fs::read_to_string("/bin/sh.copy").expect("it is there"), "as it was\n");
    let result = fs::read_to_string(result).expect("it was written");
    assert!(result.contains("\"kind\": \"command-exit\"") && result.contains("\"value\": 7"), "{result}");
}

/// A root of its own: a shell, and the directories that it is asked for are not there yet.
fn small_root(name: &str) -> Scratch {
    let root = Scratch::new(name);
    fs::create_dir(root.join("bin")).expect("it can be made");
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("the lab has busybox");
    for name in ["sh", "touch", "id"] {
        symlink("busybox", root.join(&format!("bin/{name}"))).expect("it can be made");
    }
    for path in [root.path().to_owned(), root.join("bin").into()] {
        std::os::unix::fs::chown(path, Some(USER), Some(USER)).expect("the lab is ours");
    }
    root
}

#[test]
fn a_root_that_may_be_written_is_and_a_signal_is_a_status() {
    let Some(kernel) = lab_kernel() else { return };
    let root = small_root("rw");
    let rw = format!("{},rw", root.join(""));
    let run = run(&kernel, &rw, &[], &["sh", "-c", "touch /made; echo to stdout; kill -9 $$"], "");
    assert_eq!((run.status, run.stdout.as_str()), (137, "to stdout\n"));
    assert!(run.stderr.contains("the command was ended by signal 9"), "{}", run.stderr);
    assert_eq!(fs::metadata(root.join("made")).expect("the guest made it").uid(), USER);
}

#[test]
fn what_cannot_run_is_told_apart() {
    let Some(kernel) = lab_kernel() else { return };
    let root = small_root("failures");
    let path = root.join("");
    let missing = run(&kernel, &path, &[], &["no-such-command"], "");
    assert_eq!((missing.status, missing.stdout.as_str()), (127, ""));
    assert!(missing.stderr.contains("could not be started: No such file"), "{}", missing.stderr);
    let result = root.join("bin/result");
    let words = ["sh", "-c", "echo c >/proc/sysrq-trigger; while :; do :; done"];
    let panic = run(&kernel, &path, &["--result", &result], &words, "");
    assert_eq!(panic.status, 125);
    assert!(panic.stderr.contains("the guest's kernel panicked: "), "{}", panic.stderr);
    let result = fs::read_to_string(result).expect("it was written");
    assert!(result.contains("\"kind\": \"panic\"") && result.contains("\"status\": 125"), "{result}");
    let late = run(&kernel, &path, &["--timeout", "1s"], &["sh"], "");
    assert_eq!(late.status, 124);
    let nowhere = hostel(&["run", &kernel, "--root", "/none/such"], "");
    assert_eq!((nowhere.status, nowhere.stderr.contains("No such file")), (2, true), "{}", nowhere.stderr);
    let empty = hostel(&["run", &kernel, "--root", &path, "--modules", &path, "--timeout", "60s"], "");
    assert_eq!(empty.status, 125, "{}", empty.stderr);
    assert!(empty.stderr.contains("only if they are built in"), "{}", empty.stderr);
}

/// A member of an archive, whoever it belongs to.
fn member(archive: &mut Builder<Vec<u8>>, name: &str, kind: EntryType, mode: u32, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(8);
    header.set_gid(12);
    header.set_mtime(0);
    header.set_device_major(1).expect("the format has it");
    header.set_device_minor(3).expect("the format has it");
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, name, content).expect("it is in memory");
}

/// An archive of a shell, and of what an ordinary user can neither own nor make.
fn small_archive() -> Vec<u8> {
    let root = small_root("archived");
    let mut archive = Builder::new(Vec::new());
    archive.follow_symlinks(false);
    archive.append_dir_all("bin", root.join("bin")).expect("it is there");
    member(&mut archive, "letters", EntryType::Regular, 0o4640, b"for user 8\n");
    member(&mut archive, "null", EntryType::Char, 0o666, b"");
    archive.into_inner().expect("it is in memory")
}

/// What of the archive is there, and that all of it can be written to.
const FINDS: &str = "
id -u; pwd; stat -c '%u %g %a' /letters; cat /letters
stat -c '%F' /null
echo more >>/letters && cat /letters && touch /bin/new && echo /bin/*
exit 6
";

#[test]
fn an_archive_is_a_root_and_leaves_nothing() {
    let Some(kernel) = lab_kernel() else { return };
    let scratch = Scratch::new("archive");
    let path = scratch.file("root.tar", &small_archive());
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).expect("it is ours");
    let run = run(&kernel, &path, &[], &["sh", "-c", FINDS], "");
    let want = "0\n/\n8 12 4640\nfor user 8\ncharacter special file\nfor user 8\nmore\n\
        /bin/busybox /bin/id /bin/new /bin/sh /bin/touch\n";
    assert_eq!((run.status, run.stdout.as_str()), (6, want));
    assert_eq!(remains(&std::env::temp_dir()), 0);
}

/// A layout with one image for this processor of these layers and this configuration (OCI Image Specification "Image Layout").
fn make_layout(path: &str, layers: &[Vec<u8>], config: &Value) {
    fs::create_dir_all(format!("{path}/blobs/sha256")).expect("it can be made");
    fs::write(format!("{path}/oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).expect("it can be made");
    let blob = |kind: &str, bytes: &[u8]| {
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(format!("{path}/blobs/sha256/{hex}"), bytes).expect("it can be made");
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{hex}"), "size": bytes.len()})
    };
    let layers: Vec<_> = layers.iter().map(|layer| blob("layer.v1.tar", layer)).collect();
    let config = json!({"architecture": "amd64", "os": "linux", "config": config}).to_string();
    let manifest = json!({"config": blob("config.v1+json", config.as_bytes()), "layers": layers}).to_string();
    let index = json!({"manifests": [blob("manifest.v1+json", manifest.as_bytes())]}).to_string();
    fs::write(format!("{path}/index.json"), index).expect("it can be made");
}

#[test]
fn an_image_brings_its_command() {
    let Some(kernel) = lab_kernel() else { return };
    let scratch = Scratch::new("image");
    let mut upper = Builder::new(Vec::new());
    member(&mut upper, ".wh.letters", EntryType::Regular, 0o644, b"");
    member(&mut upper, "srv/page", EntryType::Regular, 0o644, b"a page\n");
    let upper = upper.into_inner().expect("it is in memory");
    let config = json!({
        "Entrypoint": ["sh", "-c"],
        "Cmd": ["echo $GREETING $HOME $TERM; cat page; cat /letters || exit 9"],
        "Env": ["PATH=/bin", "GREETING=hello there", "HOME=/srv"],
        "WorkingDir": "/srv",
        "User": "web",
    });
    let layout = scratch.join("layout");
    make_layout(&layout, &[small_archive(), upper], &config);
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).expect("it is ours");
    let default = run(&kernel, &layout, &[], &[], "");
    let want = "hello there /srv dumb\na page\ncat: can't open '/letters': No such file or directory\n";
    assert_eq!((default.status, default.stdout.as_str()), (9, want));
    assert!(default.stderr.contains("for user web: it runs as user 0"), "{}", default.stderr);
    // Words of the user's take the place of all of them, and find the rest.
    let given = run(&kernel, &layout, &[], &["sh", "-c", "pwd; echo $GREETING; exit 4"], "");
    assert_eq!((given.status, given.stdout.as_str()), (4, "/srv\nhello there\n"));
    assert_eq!(remains(&std::env::temp_dir()), 0);
}

/// Directories that were unpacked into, and are still there.
fn remains(directory: &Path) -> usize {
    let names = fs::read_dir(directory).expect("it is there").map(|entry| entry.expect("it is there").file_name());
    names.filter(|name| name.to_string_lossy().starts_with("hostel-root-")).count()
}

/// An archive that takes long enough to unpack: a hole of 8 GiB on the host, and no less when it is written.
fn endless_archive(path: &str) {
    let mut header = Header::new_gnu();
    header.set_path("zeroes").expect("it is a name");
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(8 << 30);
    header.set_cksum();
    let mut file = File::create(path).expect("the scratch directory takes a file");
    file.write_all(header.as_bytes()).expect("it takes bytes");
    file.set_len(9 << 30).expect("it takes a hole");
}

/// Needs neither a kernel nor KVM: what cannot be unpacked ends before.
#[test]
fn what_is_unpacked_goes_when_it_fails_is_interrupted_or_was_killed() {
    let scratch = Scratch::new("unpacking");
    let temporary = scratch.join("tmp");
    fs::create_dir(&temporary).expect("the scratch directory takes one more");
    let start = |root: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(["run", "hello", "--root", root]).env("TMPDIR", &temporary);
        command
    };
    let endless = scratch.join("endless.tar");
    endless_archive(&endless);
    for (signal, left) in [(Signal::INT, 0), (Signal::KILL, 1)] {
        let mut child = start(&endless).stderr(Stdio::piped()).spawn().expect("the program can be started");
        let deadline = Instant::now() + Duration::from_secs(20);
        while zeroes(&temporary).unwrap_or(0) == 0 {
            assert!(Instant::now() < deadline, "nothing is unpacked");
            thread::sleep(Duration::from_millis(1));
        }
        kill_process(Pid::from_child(&child), signal).expect("it runs");
        let status = child.wait().expect("it can be waited for");
        assert_eq!(status.signal(), Some(signal.as_raw()));
        assert_eq!(remains(Path::new(&temporary)), left, "{signal:?}");
    }
    let bad = scratch.file("bad.tar", &[b'x'; 4096]);
    let run = finish(start(&bad), "");
    assert_eq!(run.status, 125, "{run:?}");
    assert!(run.stderr.contains("bad.tar: it is no tar archive, plain or packed"), "{run:?}");
    assert_eq!(remains(Path::new(&temporary)), 0, "the next one cleans up");
    let writes = finish(start(&format!("{bad},rw")), "");
    assert!(writes.status == 2 && writes.stderr.contains("an archive is not written to"), "{writes:?}");
}

/// Bytes of what has been unpacked of the endless archive.
fn zeroes(temporary: &str) -> Option<u64> {
    let entry = fs::read_dir(temporary).ok()?.next()?.ok()?;
    Some(fs::metadata(entry.path().join("root/zeroes")).ok()?.len())
}

const TALKS: &str = "
trap 'echo caught; exit 3' INT
stty size
while [ \"$(stty size)\" = '24 80' ]; do sleep 0.1; done
stty size
read line && echo got $line
while :; do sleep 1; done
";

#[test]
fn a_command_has_the_users_terminal() {
    let Some(kernel) = lab_kernel() else { return };
    let words = ["run", &kernel, "--root", "/", "--timeout", "240s", "--", "sh", "-c", TALKS];
    let mut session = Session::on_terminal(&words);
    session.wait_for("24 80");
    session.resize(111, 33);
    session.wait_for("33 111");
    session.type_in("a line\r");
    session.wait_for("got a line");
    session.type_in("\x03");
    session.wait_for("caught");
    assert_eq!(session.end_on_terminal(), (3, true));
}

/// The name server of a host that has one for itself: every name is that of 10.0.2.2 (RFC 1035 §4.1: a response with one answer, whose
/// name is the question's).
fn answer_names(socket: &UdpSocket) {
    let mut query = [0; 512];
    while let Ok((bytes, from)) = socket.recv_from(&mut query) {
        let name = query[12..bytes].iter().position(|&byte| byte == 0).expect("a name ends");
        let asked = &query[12..12 + name + 5];
        // Of addresses, only the older kind is known.
        let answers = u8::from(asked[name + 2] == 1);
        let mut response = [&query[..2], &[0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0], asked].concat();
        if answers == 1 {
            response.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 2, 2]);
        }
        socket.send_to(&response, from).expect("the lab has a loopback interface");
    }
}

const FETCHES: &str = "
hostname
cat /etc/resolv.conf
ip -4 -o addr show dev eth0 | grep -o 'inet [0-9./]*'
ip route | grep -o 'default via [0-9.]*'
cat /sys/class/net/eth0/mtu
wget -q -O - http://host.example:8080/
";

/// passt wants a way out of the host, and a root that it can leave.
#[test]
fn a_command_has_the_users_network() {
    let Some(kernel) = lab_kernel() else { return };
    if find_program("passt").is_none() {
        return skip("passt is not installed");
    }
    way_out();
    fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\n").expect("the lab is ours");
    let names = UdpSocket::bind("127.0.0.1:53").expect("nobody else is there");
    let pages = TcpListener::bind("127.0.0.1:8080").expect("nobody else is there");
    thread::spawn(move || answer_names(&names));
    thread::spawn(move || {
        for mut client in pages.incoming().flatten() {
            let request = BufReader::new(client.try_clone().expect("there are descriptors")).lines();
            request.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            client.write_all(b"HTTP/1.0 200 OK\r\n\r\nfrom the host\n").expect("the guest reads");
        }
    });
    let mut command = Command::new("unshare");
    command.args([
        "-m",
        "sh",
        "-c",
        LEAVES_INITRAMFS,
        PROGRAM,
        "run",
        &kernel,
        "--root",
        "/",
        "--net",
        "user",
        "--name",
        "fetches",
    ]);
    command.args(["--timeout", "240s", "--", "sh", "-c", FETCHES]);
    let run = finish(command, "");
    println!("{run:?}");
    let want = "fetches\nnameserver 10.0.2.3\ninet 10.0.2.15/24\ndefault via 10.0.2.2\n65520\nfrom the host\n";
    assert_eq!((run.status, run.stdout.as_str()), (0, want));
    assert_eq!(fs::read_to_string("/etc/resolv.conf").expect("it is there"), "nameserver 127.0.0.1\n");
}
