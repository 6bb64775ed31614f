//! HTTP as far as a server of files needs it: takes requests apart and writes the heads of responses.
//!
//! Pure: bytes in, bytes out, nothing of kernel or network, so the tests of the host hold it to its rules. GET and HEAD by HTTP/1.0
//! and 1.1, connections that stay, requests sent ahead of their answers. Left out: ranges, conditions, compression, uploads, and more
//! than one host at an address: a `Host` is demanded and not looked at. What is refused ends the connection, so that the rest of a
//! request that was not understood is never taken for another one.
//! Sources: RFC 9112 §2, §3, §5, §6, §9 and §11; RFC 9110 §8.6, §9 and §15; RFC 3986 §2.1; RFC 6585 §5.

use core::fmt::Write;

/// Most bytes of a request's head; one that is longer is refused.
pub const REQUEST_BYTES_MAX: usize = 2048;
/// Most bytes of a file's name.
pub const NAME_BYTES_MAX: usize = 64;
/// Room for the head of any response.
pub const HEAD_BYTES_MAX: usize = 256;
/// What stands for a name that ends with a slash.
const INDEX: &[u8] = b"index.html";

/// How a request ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Here is the file.
    Ok = 200,
    /// It breaks a rule of RFC 9112.
    BadRequest = 400,
    /// There is no such file.
    NotFound = 404,
    /// It has a body, which nothing here reads.
    ContentTooLarge = 413,
    /// Its head does not fit.
    HeadTooLarge = 431,
    /// The disk failed.
    Failed = 500,
    /// It is neither GET nor HEAD.
    NotImplemented = 501,
    /// It is of another HTTP.
    VersionNotSupported = 505,
}

impl Status {
    /// The code and its phrase: the body of a response that has no file, too.
    pub fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK\n",
            Status::BadRequest => "400 Bad Request\n",
            Status::NotFound => "404 Not Found\n",
            Status::ContentTooLarge => "413 Content Too Large\n",
            Status::HeadTooLarge => "431 Request Header Fields Too Large\n",
            Status::Failed => "500 Internal Server Error\n",
            Status::NotImplemented => "501 Not Implemented\n",
            Status::VersionNotSupported => "505 HTTP Version Not Supported\n",
        }
    }
}

/// The name of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name {
    bytes: [u8; NAME_BYTES_MAX],
    used: usize,
}

impl Name {
    /// No name.
    pub const EMPTY: Name = Name { bytes: [0; NAME_BYTES_MAX], used: 0 };

    /// The name of these bytes. `None`: there are too many.
    pub fn new(text: &[u8]) -> Option<Name> {
        let mut name = Name::EMPTY;
        text.iter().all(|byte| name.push(*byte)).then_some(name)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or_default()
    }

    /// Whether there was room.
    fn push(&mut self, byte: u8) -> bool {
        let Some(slot) = self.bytes.get_mut(self.used) else { return false };
        *slot = byte;
        self.used += 1;
        true
    }
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// The file; `None`: a name that no file here can have.
    pub name: Option<Name>,
    /// Whether only the head of the response is wanted.
    pub head_only: bool,
    /// Whether the connection stays for another request.
    pub keep: bool,
}

/// What the bytes that have come begin with.
#[derive(PartialEq, Eq, Debug)]
pub enum Input {
    /// Less than a request.
    Part,
    /// A request, which ends after so many bytes.
    Request(Request, usize),
    /// Something that is answered by this and the end of the connection.
    Refused(Status),
}

/// Looks for a request at the beginning of `bytes`, all that has come and is not answered, of which there is room for
/// [`REQUEST_BYTES_MAX`].
pub fn parse(bytes: &[u8]) -> Input {
    // RFC 9112 §2.2: empty lines before a request are passed over.
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    let text = bytes.get(start..).unwrap_or_default();
    let Some(end) = end_of_head(text) else {
        let is_full = bytes.len() >= REQUEST_BYTES_MAX;
        return if is_full { Input::Refused(Status::HeadTooLarge) } else { Input::Part };
    };
    match head_of(text.get(..end).unwrap_or_default()) {
        Ok(request) => Input::Request(request, start + end),
        Err(status) => Input::Refused(status),
    }
}

/// How many bytes the head has, its empty line included.
fn end_of_head(text: &[u8]) -> Option<usize> {
    let mut line = 0;
    for (at, _) in text.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        if matches!(text.get(line..at), Some(b"" | b"\r")) {
            return Some(at + 1);
        }
        line = at + 1;
    }
    None
}

/// Takes a whole head apart.
fn head_of(text: &[u8]) -> Result<Request, Status> {
    let mut lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut words = lines.next().unwrap_or_default().split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Status::BadRequest);
    };
    if !is_token(method) {
        return Err(Status::BadRequest);
    }
    let is_later = match version {
        b"HTTP/1.0" => false,
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor] if minor.is_ascii_digit() => true,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            return Err(Status::VersionNotSupported);
        }
        _ => return Err(Status::BadRequest),
    };
    let fields = fields_of(lines)?;
    // RFC 9112 §3.2: one that names no host, or several, is refused.
    if fields.hosts > 1 || (is_later && fields.hosts == 0) {
        return Err(Status::BadRequest);
    }
    if fields.has_body {
        return Err(Status::ContentTooLarge);
    }
    if !matches!(method, b"GET" | b"HEAD") {
        return Err(Status::NotImplemented);
    }
    // RFC 9112 §9.3.
    let keep = !fields.close && (is_later || fields.keep);
    Ok(Request { name: name_of(target)?, head_only: method == b"HEAD", keep })
}

/// What the fields of a head say, as far as it matters.
#[derive(Default)]
struct Fields {
    hosts: usize,
    has_body: bool,
    close: bool,
    keep: bool,
}

fn fields_of<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<Fields, Status> {
    let mut fields = Fields::default();
    for line in lines.filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Status::BadRequest)?;
        let (name, value) = line.split_at_checked(colon).ok_or(Status::BadRequest)?;
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        // RFC 9112 §5.1, §5.2: no space before the colon, no line that goes on with the one before. RFC 9110 §5.5.
        if !is_token(name) || value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(Status::BadRequest);
        }
        if name.eq_ignore_ascii_case(b"host") {
            fields.hosts += 1;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Err(Status::BadRequest);
            }
            fields.has_body |= value.iter().any(|digit| *digit != b'0');
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            fields.has_body = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            for word in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                fields.close |= word.eq_ignore_ascii_case(b"close");
                fields.keep |= word.eq_ignore_ascii_case(b"keep-alive");
            }
        }
    }
    Ok(fields)
}

/// Whether this is a token of RFC 9110 §5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// The file that a target means. `None`: no file can be called so. Names are looked up as a whole, so `..` leads nowhere.
fn name_of(target: &[u8]) -> Result<Option<Name>, Status> {
    let path = match target.strip_prefix(b"http://") {
        // RFC 9112 §3.2.2: the absolute form, whose host is passed over.
        Some(rest) => rest.iter().position(|byte| *byte == b'/').and_then(|at| rest.get(at..)).unwrap_or(b"/"),
        None => target,
    };
    let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
    let mut rest = path.strip_prefix(b"/").ok_or(Status::BadRequest)?;
    let (mut name, mut fits) = (Name::EMPTY, true);
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = match (first, after) {
            (b'%', [high, low, after @ ..]) => (hexadecimal(*high)? << 4 | hexadecimal(*low)?, after),
            (b'%' | b'#', _) => return Err(Status::BadRequest),
            _ => (first, after),
        };
        if byte.is_ascii_control() {
            return Err(Status::BadRequest);
        }
        fits &= name.push(byte);
        rest = after;
    }
    if name.bytes().last().is_none_or(|last| *last == b'/') {
        INDEX.iter().for_each(|byte| fits &= name.push(*byte));
    }
    Ok(fits.then_some(name))
}

fn hexadecimal(digit: u8) -> Result<u8, Status> {
    (digit as char).to_digit(16).map(|value| value as u8).ok_or(Status::BadRequest)
}

/// Writes the head of a response with `bytes` of content, whose kind the file's name tells; how long it is.
pub fn write_head(head: &mut [u8; HEAD_BYTES_MAX], status: Status, bytes: u64, name: &[u8], keep: bool) -> usize {
    let mut text = Text { bytes: head, used: 0 };
    let kind = if status == Status::Ok { kind_of(name) } else { "text/plain" };
    let stays = if keep { "keep-alive" } else { "close" };
    // It always fits: the longest of each part together has fewer bytes.
    let _ = write!(
        text,
        "HTTP/1.1 {}\r\nContent-Length: {bytes}\r\nContent-Type: {kind}\r\nConnection: {stays}\r\n\r\n",
        status.line().trim_end(),
    );
    text.used
}

/// The media type that the end of a name stands for.
fn kind_of(name: &[u8]) -> &'static str {
    match name.rsplit(|byte| *byte == b'.').next() {
        Some(b"html") => "text/html",
        Some(b"css") => "text/css",
        Some(b"txt") => "text/plain",
        Some(b"svg") => "image/svg+xml",
        Some(b"png") => "image/png",
        _ => "application/octet-stream",
    }
}

/// Text that is written into an array.
struct Text<'a> {
    bytes: &'a mut [u8; HEAD_BYTES_MAX],
    used: usize,
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = self.bytes.get_mut(self.used..self.used + text.len()).ok_or(core::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.used += text.len();
        Ok(())
    }
}
