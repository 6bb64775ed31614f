//! What the servers of the sample kernel know of HTTP and of archives, tried on the host.

#[path = "../../guest/process/server/archive.rs"]
mod archive;
#[allow(dead_code, reason = "the guest uses all of it")]
#[path = "../../guest/process/server/http.rs"]
mod http;

use crate::common::site;
use archive::Header;
use http::{Input, Name, REQUEST_BYTES_MAX, Request, Status, parse};

fn request(text: &str) -> Result<Request, Status> {
    match parse(text.as_bytes()) {
        Input::Request(request, bytes) if bytes == text.len() => Ok(request),
        Input::Refused(status) => Err(status),
        other => panic!("{text:?}: {other:?}"),
    }
}

fn wanted(name: &str, head_only: bool, keep: bool) -> Request {
    Request { name: Name::new(name.as_bytes()), head_only, keep }
}

#[test]
fn requests_are_read_as_rfc_9112_has_them() {
    for (text, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", wanted("index.html", false, true)),
        ("GET /a.css HTTP/1.1\nhOST:a\n\n", wanted("a.css", false, true)),
        ("HEAD /a.css HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", wanted("a.css", true, false)),
        ("GET /a.css HTTP/1.0\r\n\r\n", wanted("a.css", false, false)),
        ("GET /a.css HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", wanted("a.css", false, true)),
        ("\r\n\r\nGET /d/ HTTP/1.9\r\nHost:\r\nContent-Length: 0\r\n\r\n", wanted("d/index.html", false, true)),
        ("GET http://b:80/a%20b?q=/../ HTTP/1.1\r\nHost: a\r\n\r\n", wanted("a b", false, true)),
        ("GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", wanted("index.html", false, true)),
        ("GET /../%2e%2e/etc HTTP/1.1\r\nHost: a\r\n\r\n", wanted("../../etc", false, true)),
        ("GET //disk HTTP/1.1\r\nHost: a\r\n\r\n", wanted("/disk", false, true)),
    ] {
        assert_eq!(request(text), Ok(expected), "{text:?}");
        // However it is cut, it is a part before it is whole.
        for end in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..end]), Input::Part, "{:?}", &text[..end]);
        }
        let two = format!("{text}GET /second HTTP/1.1\r\n");
        assert_eq!(parse(two.as_bytes()), Input::Request(expected, text.len()));
    }
    let long = format!("GET /{} HTTP/1.0\r\n\r\n", "n".repeat(65));
    assert_eq!(request(&long), Ok(Request { name: None, head_only: false, keep: false }));
}

#[test]
fn hostile_requests_are_refused() {
    for (text, status) in [
        ("GET\r\n\r\n", Status::BadRequest),
        ("GET /\r\n\r\n", Status::BadRequest),
        ("GET  / HTTP/1.0\r\n\r\n", Status::BadRequest),
        ("GET / HTTP/1.0 \r\n\r\n", Status::BadRequest),
        (" GET / HTTP/1.0\r\n\r\n", Status::BadRequest),
        ("G\u{1}T / HTTP/1.0\r\n\r\n", Status::BadRequest),
        ("GET a HTTP/1.0\r\n\r\n", Status::BadRequest),
        ("GET /%2 HTTP/1.0\r\n\r\n", Status::BadRequest),
        ("GET /%zz HTTP/1.0\r\n\r\n", Status::BadRequest),
        ("GET /%00 HTTP/1.0\r\n\r\n", Status::BadRequest),
        ("GET /a#b HTTP/1.0\r\n\r\n", Status::BadRequest),
        ("GET / http/1.1\r\n\r\n", Status::BadRequest),
        ("GET / HTTP/1.1\r\n\r\n", Status::BadRequest),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Status::BadRequest),
        ("GET / HTTP/1.0\r\nno colon\r\n\r\n", Status::BadRequest),
        ("GET / HTTP/1.0\r\nA : b\r\n\r\n", Status::BadRequest),
        ("GET / HTTP/1.0\r\nA: b\r\n folded\r\n\r\n", Status::BadRequest),
        ("GET / HTTP/1.0\r\nA: b\rc\r\n\r\n", Status::BadRequest),
        ("GET / HTTP/1.0\r\nContent-Length: -1\r\n\r\n", Status::BadRequest),
        ("GET / HTTP/1.0\r\nContent-Length:\r\n\r\n", Status::BadRequest),
        ("GET / HTTP/1.0\r\nContent-Length: 99999999999999999999999\r\n\r\n", Status::ContentTooLarge),
        ("POST / HTTP/1.0\r\nContent-Length: 0\r\nContent-Length: 7\r\n\r\n", Status::ContentTooLarge),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Status::ContentTooLarge),
        ("POST / HTTP/1.0\r\n\r\n", Status::NotImplemented),
        ("GET / HTTP/2.0\r\n\r\n", Status::VersionNotSupported),
    ] {
        assert_eq!(request(text), Err(status), "{text:?}");
    }
    assert_eq!(parse(&[b'a'; REQUEST_BYTES_MAX]), Input::Refused(Status::HeadTooLarge));
    assert_eq!(parse(&[b'\n'; REQUEST_BYTES_MAX]), Input::Refused(Status::HeadTooLarge));
    assert_eq!(parse(&[b'a'; REQUEST_BYTES_MAX - 1]), Input::Part);
}

#[test]
fn no_bytes_make_the_parsers_panic() {
    let pieces: [&[u8]; 12] = [
        b"GET ",
        b"/",
        b"%4",
        b" HTTP/1.1",
        b"\r\n",
        b"\n",
        b"Host:",
        b"\0",
        b"\xff",
        b"GET / HTTP/1.0\r\n",
        b"Content-Length: 1",
        b"ustar",
    ];
    let mut random = 1u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let mut requests = 0;
    for _ in 0..20_000 {
        let text: Vec<u8> = (0..next(12)).flat_map(|_| pieces[next(pieces.len())]).copied().collect();
        requests += usize::from(matches!(parse(&text), Input::Request(_, bytes) if bytes <= text.len()));
        let mut block = [0; 512];
        text.iter().enumerate().for_each(|(at, byte)| block[(at * 37) % 512] = *byte);
        assert!(matches!(archive::header(&block), Header::End));
    }
    assert!(requests > 0);
}

#[test]
fn heads_of_answers_tell_length_kind_and_what_follows() {
    let mut head = [0; http::HEAD_BYTES_MAX];
    let used = http::write_head(&mut head, Status::Ok, 1234, b"d/a.html", true);
    let expected =
        "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nContent-Type: text/html\r\nConnection: keep-alive\r\n\r\n";
    assert_eq!(std::str::from_utf8(&head[..used]), Ok(expected));
    let used = http::write_head(&mut head, Status::HeadTooLarge, u64::MAX, b"a.html", false);
    assert!(head[..used].starts_with(b"HTTP/1.1 431 Request Header Fields Too Large\r\n"));
    assert!(head[..used].ends_with(b"Content-Type: text/plain\r\nConnection: close\r\n\r\n"));
}

#[test]
fn an_archive_names_its_files() {
    let files = [("./a.html".to_owned(), vec![1; 513]), ("d/b".to_owned(), Vec::new()), ("n".repeat(65), vec![2; 3])];
    let disk = site::archive(&files);
    let header = |at: usize| archive::header(disk[at..at + 512].try_into().unwrap());
    assert_eq!(header(0), Header::File(Name::new(b"a.html").unwrap(), 513));
    let second = archive::step(513) as usize;
    assert_eq!(header(second), Header::File(Name::new(b"d/b").unwrap(), 0));
    let third = second + archive::step(0) as usize;
    assert_eq!(header(third), Header::Other(3), "its name is too long");
    assert_eq!(header(third + archive::step(3) as usize), Header::End);
    let mut changed: [u8; 512] = disk[..512].try_into().unwrap();
    changed[0] ^= 1;
    assert_eq!(archive::header(&changed), Header::End, "the sum tells that it changed");
    assert_eq!(archive::step(u64::MAX), u64::MAX.saturating_add(archive::BLOCK));
}
