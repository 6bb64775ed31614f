//! Fetches a page and the parts that it names: one after the other, and then by several threads at once.
//!
//!     cargo run --example client -- [--threads NUMBER] http://HOST[:PORT]/PAGE
//!
//! Each line says when something of a part arrived. With several threads the parts arrive mixed, and the whole takes as long as the
//! slowest of them where the server answers them at the same time; `docs/servers.md` shows servers that do and one that does not.
//! A part is what `src="..."` or `href="..."` names on the same server. Left out: HTTPS, redirections, chunked answers.
//! Sources: RFC 9112 §3, §6.3 and §9.3; RFC 3986 §5.2 in part.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Threads, and connections, without `--threads`.
const THREADS: usize = 6;
/// Longest time without a byte of an answer.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Most bytes of an answer.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Whatever went wrong.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Where a page is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Host and port.
    pub server: String,
    /// Path, with the slash that it begins with.
    pub path: String,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its code.
    pub status: u16,
    /// Its content.
    pub body: Vec<u8>,
}

impl Place {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// It is none of HTTP.
    pub fn parse(url: &str) -> Result<Place> {
        let rest = url.strip_prefix("http://").ok_or("use a URL that begins with http://")?;
        let (server, path) = rest.split_once('/').unwrap_or((rest, ""));
        let port = if server.contains(':') { "" } else { ":80" };
        Ok(Place { server: format!("{server}{port}"), path: format!("/{path}") })
    }
}

/// A connection, for one request after the other.
pub struct Connection {
    stream: BufReader<TcpStream>,
    server: String,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn open(server: &str) -> Result<Connection> {
        let stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: BufReader::new(stream), server: server.into() })
    }

    /// Asks for what is at `path`; [`Connection::answer`] is to be called for it.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn ask(&mut self, path: &str) -> Result<()> {
        Ok(write!(self.stream.get_mut(), "GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.server)?)
    }

    /// The next answer. `arrived` is told of each piece: bytes so far, and in all.
    ///
    /// # Errors
    /// The connection is broken, or the answer is no HTTP.
    pub fn answer(&mut self, mut arrived: impl FnMut(usize, usize)) -> Result<Answer> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status =
            line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).ok_or("the answer is no HTTP")?.parse()?;
        let mut length = None;
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err("the answer ends in its head".into());
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse::<usize>()?);
            }
        }
        let length =
            length.filter(|length| *length <= BODY_BYTES_MAX).ok_or("an answer of unknown or absurd length")?;
        let mut body = vec![0; length];
        let mut at = 0;
        while at < length {
            match self.stream.read(&mut body[at..])? {
                0 => return Err(format!("the answer ends after {at} of {length} bytes").into()),
                bytes => at += bytes,
            }
            arrived(at, length);
        }
        Ok(Answer { status, body })
    }
}

/// The parts that a page names on its own server, each once, as paths.
pub fn parts(page: &str, path: &str) -> Vec<String> {
    let folder = &path[..=path.rfind('/').unwrap_or(0)];
    let mut found = Vec::new();
    for piece in page.split("src=\"").skip(1).chain(page.split("href=\"").skip(1)) {
        let name = piece.split('"').next().unwrap_or_default();
        if name.is_empty() || name.contains("//") || name.starts_with('#') {
            continue;
        }
        let part = if name.starts_with('/') { name.to_owned() } else { format!("{folder}{name}") };
        if !found.contains(&part) {
            found.push(part);
        }
    }
    found
}

/// What a run fetched, in the page's order, and how long it took.
#[derive(Debug)]
pub struct Fetched {
    /// The page first.
    pub answers: Vec<(String, Answer)>,
    /// From the first connection to the last byte.
    pub took: Duration,
}

/// Fetches the page at `place` and its parts by so many threads; with one it is all one connection. `tell` hears of each part that
/// begins, moves on by a quarter, or ends.
///
/// # Errors
/// One of them did not come.
pub fn fetch(place: &Place, threads: usize, tell: impl Fn(Duration, usize, &str) + Sync) -> Result<Fetched> {
    let begin = Instant::now();
    let get = |connection: &mut Connection, thread: usize, path: &str| {
        let mut quarters = 0;
        connection.ask(path)?;
        let answer = connection.answer(|bytes, all| {
            // The first piece and each quarter.
            let now = 1 + bytes * 4 / all.max(1);
            if now > quarters {
                tell(begin.elapsed(), thread, &format!("{path}: {bytes} of {all} bytes"));
            }
            quarters = now.max(quarters);
        })?;
        Ok::<_, Box<dyn Error + Send + Sync>>((path.to_owned(), answer))
    };
    let mut first = Connection::open(&place.server)?;
    let page = get(&mut first, 0, &place.path)?;
    let parts = parts(&String::from_utf8_lossy(&page.1.body), &place.path);
    let next = AtomicUsize::new(0);
    let work = |thread: usize, mut connection: Option<Connection>| -> Result<Vec<(usize, (String, Answer))>> {
        let mut mine = Vec::new();
        while let Some((at, part)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, parts.get(at)?)))
        {
            let connection = match &mut connection {
                Some(connection) => connection,
                none => none.insert(Connection::open(&place.server)?),
            };
            mine.push((at, get(connection, thread, part)?));
        }
        Ok(mine)
    };
    let mut numbered = thread::scope(|scope| {
        let (work, more) = (&work, threads.min(parts.len()));
        let others: Vec<_> = (1..more).map(|thread| scope.spawn(move || work(thread, None))).collect();
        let mut all = work(0, Some(first))?;
        for other in others {
            all.extend(other.join().map_err(|_| "a thread panicked")??);
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(all)
    })?;
    numbered.sort_by_key(|(at, _)| *at);
    let took = begin.elapsed();
    Ok(Fetched { answers: [page].into_iter().chain(numbered.into_iter().map(|(_, part)| part)).collect(), took })
}

/// The program.
pub fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let mut threads = THREADS;
    if let [option, number, ..] = &words[..]
        && option == "--threads"
        && let Some(number) = number.parse().ok().filter(|number| (1..=256).contains(number))
    {
        threads = number;
        words.drain(..2);
    }
    let [url] = &words[..] else {
        eprintln!("client: use client [--threads 1..256] http://HOST[:PORT]/PAGE");
        return ExitCode::from(2);
    };
    match run(url, threads) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(url: &str, threads: usize) -> Result<()> {
    let place = Place::parse(url)?;
    let tell = |at: Duration, thread: usize, what: &str| {
        println!("{:8.1} ms  thread {thread}  {what}", at.as_secs_f64() * 1e3);
    };
    println!("one by one");
    let alone = fetch(&place, 1, tell)?;
    println!("by {threads} threads");
    let together = fetch(&place, threads, tell)?;
    if alone.answers != together.answers {
        return Err("the two runs have fetched different things".into());
    }
    let missing: Vec<_> = alone.answers.iter().filter(|(_, answer)| answer.status != 200).collect();
    for (path, answer) in &missing {
        println!("{path}: status {}", answer.status);
    }
    let bytes: usize = alone.answers.iter().map(|(_, answer)| answer.body.len()).sum();
    println!("{} files, {bytes} bytes", alone.answers.len());
    println!("one by one      {:8.1} ms", alone.took.as_secs_f64() * 1e3);
    println!("by {threads:3} threads  {:8.1} ms", together.took.as_secs_f64() * 1e3);
    Ok(())
}
