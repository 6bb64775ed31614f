//! The file servers of the sample kernel, in their three designs: right bytes for many clients at once, hostile requests, and the one
//! thing that the designs differ in, which is who is answered while the disk keeps somebody waiting. Clients come through passt; in the lab
//! an unmodified Linux is the client.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "../common/mod.rs"]
mod common;

#[allow(dead_code, reason = "its main is the example's")]
#[path = "../../examples/client.rs"]
mod client;
mod pure;

use client::{Connection, Place, fetch};
use common::hostel::{PROGRAM, finish};
use common::kvm;
use common::lab_image::find_program;
use common::linux_guest::initramfs;
use common::scratch::Scratch;
use common::session::Session;
use common::site::{archive, content};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Clients at once.
const CLIENTS: usize = 64;
/// Bytes of a file that the disk gives piece by piece, and of the pieces.
const SLOW_BYTES: usize = 96 << 10;
/// What it says of each read.
const DELAY: &str = "30ms";

/// A server that runs.
struct Server {
    session: Session,
    site: Site,
    _scratch: Scratch,
}

/// What it serves, and where.
struct Site {
    address: String,
    files: Vec<(String, Vec<u8>)>,
}

impl Server {
    /// Starts one of this design. `None`, and said so: this host cannot.
    fn start(design: &str) -> Option<Server> {
        if !kvm::available() {
            return None;
        }
        if std::env::var_os("HOSTEL_LAB_KERNEL").is_some() {
            kvm::skip("the lab is no network for passt; a Linux is the client there");
            return None;
        }
        if find_program("passt").is_none() {
            kvm::skip("passt is not installed");
            return None;
        }
        let page = (0..6).map(|part| format!("<img src=\"part{part}.png\">")).collect::<String>();
        let mut files = vec![("index.html".to_owned(), page.into_bytes()), ("slow".to_owned(), content(SLOW_BYTES, 9))];
        files.extend((0..6).map(|part| (format!("part{part}.png"), content(700 + part * 300, part))));
        let scratch = Scratch::new(&format!("servers-{}", design.replace(' ', "-")));
        let disk = scratch.file("disk.img", &archive(&files));
        // Nobody has it for the moment that passt needs to take it.
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--transport", "mmio", "--mem", "64M", "--timeout", "100s"]);
        command.args(["--net", &format!("user,forward={port}:80"), "--disk", &format!("{disk},ro,delay={DELAY}")]);
        command.args(["--", "server"]).args(design.split(' '));
        let mut session = Session::on_pipes(command);
        session.wait_for("server: address ");
        let site = Site { address: format!("127.0.0.1:{port}"), files };
        Some(Server { session, site, _scratch: scratch })
    }

    /// Ends it after so many requests.
    fn end(self, requests: usize) {
        let (status, seen) = self.session.end();
        assert!(status == 0 && seen.contains(&format!("server: {requests} requests\n")), "{status}: {seen}");
    }
}

impl Site {
    fn open(&self) -> Connection {
        Connection::open(&self.address).expect("the server takes connections")
    }

    /// Asks for a file by a connection of its own, and checks it.
    fn check(&self, connection: &mut Connection, file: usize) {
        let (name, expected) = &self.files[file];
        connection.ask(&format!("/{name}")).expect("the server reads");
        let answer = connection.answer(|_, _| {}).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(answer.status == 200 && answer.body == *expected, "{name}: {} and other bytes", answer.status);
    }

    /// What comes back for these bytes, to the end of the connection.
    fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("the server takes connections");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time");
        stream.write_all(request).expect("the server reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(request)));
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// How much of the slow file has come to the client that asked first when another one has the answer for a file that is kept.
    fn arrived_meanwhile(&self) -> usize {
        let (mut first, mut second) = (self.open(), self.open());
        self.check(&mut second, 0);
        first.ask("/slow").expect("the server reads");
        let arrived = AtomicUsize::new(0);
        thread::scope(|scope| {
            let slow = scope.spawn(|| first.answer(|bytes, _| arrived.store(bytes, Ordering::SeqCst)));
            while arrived.load(Ordering::SeqCst) == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            self.check(&mut second, 0);
            let meanwhile = arrived.load(Ordering::SeqCst);
            let answer = slow.join().expect("no panic").expect("the whole file");
            assert!(answer.status == 200 && answer.body == self.files[1].1);
            meanwhile
        })
    }

    /// Asks for what every design answers; how many requests that were.
    fn is_served(&self) -> usize {
        let place = Place { server: self.address.clone(), path: "/".into() };
        let fetched = fetch(&place, 6, |_, _, _| {}).expect("the page and its parts");
        let all: Vec<_> = fetched.answers.iter().map(|(_, answer)| &answer.body).collect();
        let expected: Vec<_> = [0].into_iter().chain(2..8).map(|file| &self.files[file].1).collect();
        assert!(fetched.answers.iter().all(|(_, answer)| answer.status == 200) && all == expected);

        // All connections are open before the first request is made.
        let mut connections: Vec<_> = (0..CLIENTS).map(|_| self.open()).collect();
        thread::scope(|scope| {
            for (number, connection) in connections.iter_mut().enumerate() {
                scope.spawn(move || self.check(connection, 2 + number % 6));
            }
        });
        drop(connections);

        for (request, code) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "400"),
            (b"\0\xff\r\n\r\n", "400"),
            (b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n", "413"),
            (&[b'a'; 2048], "431"),
            (b"GET /none HTTP/1.0\r\n\r\n", "404"),
            (b"GET /../../slow HTTP/1.0\r\n\r\n", "404"),
        ] {
            let answer = self.raw(request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{}: {answer}", String::from_utf8_lossy(request));
        }
        // Two requests at once, the second after an answer without a body.
        let both = self.raw(b"HEAD /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /part0.png HTTP/1.0\r\n\r\n");
        assert!(both.matches("HTTP/1.1 200 OK").count() == 2 && both.contains(&format!("Length: {SLOW_BYTES}\r\n")));
        self.check(&mut self.open(), 3);
        7 + CLIENTS + 6 + 2 + 1
    }
}

#[test]
fn one_thread_waits_and_so_does_everybody() {
    let Some(server) = Server::start("single") else { return };
    let meanwhile = server.site.arrived_meanwhile();
    assert!(meanwhile > SLOW_BYTES / 2, "the other client was answered after {meanwhile} bytes");
    let requests = server.site.is_served();
    server.end(3 + requests);
}

#[test]
fn workers_wait_each_for_itself() {
    let Some(server) = Server::start("workers 4") else { return };
    let meanwhile = server.site.arrived_meanwhile();
    assert!(meanwhile < SLOW_BYTES / 2, "the other client was answered after {meanwhile} bytes");
    let requests = server.site.is_served();
    server.end(3 + requests);
}

#[test]
fn a_machine_of_states_never_waits() {
    let Some(server) = Server::start("states") else { return };
    let meanwhile = server.site.arrived_meanwhile();
    assert!(meanwhile < SLOW_BYTES / 2, "the other client was answered after {meanwhile} bytes");
    let requests = server.site.is_served();
    server.end(3 + requests);
}

#[test]
fn a_server_in_the_background_serves_on_until_it_is_in_front_and_the_input_ends() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("servers-background");
    let ours = fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o700));
    ours.expect("the scratch directory is ours");
    let mut command = Command::new(PROGRAM);
    command.args(["run", "--transport", "mmio", "--mem", "64M", "--timeout", "100s", "--net", "switch:lan"]);
    let mut session = Session::on_pipes({
        command.env("XDG_RUNTIME_DIR", scratch.path());
        command
    });
    session.type_in("server single 10.0.0.1/24 &\n");
    session.wait_for("at port 80\n");
    // It would have seen the end of its input before it asked for a frame.
    session.type_in("ps\n");
    session.wait_for(" server\n");
    session.type_in("wait\n");
    let (status, seen) = session.end();
    assert!(status == 0 && seen.contains("server: 0 requests\n[1] ended, status 0\n"), "{status}: {seen}");
}

/// In the lab, on a KVM that has SVM: an unmodified Linux fetches from all three, on one switch and without passt.
#[test]
fn a_linux_fetches_from_each_design() {
    let Some(kernel) = kvm::lab_kernel() else { return };
    let scratch = Scratch::new("servers-linux");
    let ours = fs::create_dir(scratch.join("hostel"))
        .and_then(|()| fs::set_permissions(scratch.join("hostel"), fs::Permissions::from_mode(0o700)));
    ours.expect("the scratch directory takes one");
    let files = [("slow".to_owned(), content(SLOW_BYTES, 9)), ("small".to_owned(), content(2000, 1))];
    let disk = scratch.file("disk.img", &archive(&files));
    let machine = |image: &str, number: usize| {
        let mut command = Command::new(PROGRAM);
        command.args(["run", image, "--timeout", "200s", "--net", &format!("switch:lan,mac=02:00:00:00:00:0{number}")]);
        command.env("XDG_RUNTIME_DIR", scratch.path());
        command
    };
    let server = |number: usize, design: &str| {
        let mut command = machine("shell", number);
        command.args([
            "--transport",
            "mmio",
            "--mem",
            "64M",
            "--disk",
            &format!("{disk},ro,delay=1ms"),
            "--",
            "server",
        ]);
        let mut session = Session::on_pipes({
            command.args(design.split(' ')).arg(format!("10.0.0.{number}/24"));
            command
        });
        session.wait_for("at port 80");
        session
    };
    let servers = [server(1, "single"), server(2, "workers 4"), server(3, "states")];
    let fetch: String = (1..=3)
        .flat_map(|number| {
            ["slow", "small"].map(|name| format!("wget -q -O - http://10.0.0.{number}/{name} | sha256sum\n"))
        })
        .collect();
    let script = format!("ip link set eth0 up\nip addr add 10.0.0.9/24 dev eth0\n{fetch}");
    let mut linux = machine(&kernel, 9);
    linux.args(["--initrd", &scratch.file("initrd", &initramfs(&script)), "--cmdline=quiet"]);
    let linux = finish(linux, "");
    let sums: Vec<_> = linux.stdout.lines().filter_map(|line| line.trim().strip_suffix("  -")).collect();
    let sum = |content: &Vec<u8>| Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let expected: Vec<_> = (0..3).flat_map(|_| files.each_ref().map(|(_, content)| sum(content))).collect();
    assert_eq!(sums, expected, "{linux:?}");
    for session in servers {
        let (status, seen) = session.end();
        assert!(status == 0 && seen.contains("server: 2 requests\n"), "{status}: {seen}");
    }
}
