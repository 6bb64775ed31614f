//! An answer from its head to its last byte, by a thread that may wait: for the disk, and for the client to take what was sent.
//!
//! Both designs that wait share it. What the waiting costs is the difference between them: the only thread, or one of many.

use process::abi::{Error, FILE_READ_MAX};

use crate::cache::Cache;
use crate::files::{File, Files};
use crate::http::{HEAD_BYTES_MAX, Name, Request, Status, write_head};

/// Where an answer goes.
pub trait Client {
    /// Sends all of `bytes`, and waits as long as there is no room for them; with `more` they may wait for what follows at once, and
    /// travel with it (send(2), MSG_MORE). `None`: the client is gone.
    fn send(&mut self, bytes: &[u8], more: bool) -> Option<()>;
}

/// Answers; whether the connection stays. `None`: it is broken.
pub fn answer(
    wanted: &Result<Request, Status>,
    files: &Files,
    cache: &Cache,
    client: &mut impl Client,
) -> Option<bool> {
    match wanted {
        Ok(request) => answer_request(request, files, cache, client),
        Err(status) => refuse(*status, false, false, client).map(|()| false),
    }
}

fn answer_request(request: &Request, files: &Files, cache: &Cache, client: &mut impl Client) -> Option<bool> {
    let (keep, head_only) = (request.keep, request.head_only);
    let Some(name) = &request.name else {
        return refuse(Status::NotFound, keep, head_only, client).map(|()| keep);
    };
    if let Some(content) = cache.look(name) {
        send_head(Status::Ok, content.len() as u64, name.bytes(), keep, true, client)?;
        client.send(if head_only { b"" } else { content }, false)?;
        return Some(keep);
    }
    let file = match files.open(name) {
        Ok(file) => file,
        Err(error) => {
            let status = if error == Error::NoEntry { Status::NotFound } else { Status::Failed };
            return refuse(status, keep, head_only, client).map(|()| keep);
        }
    };
    let sent = send_file(&file, name, request, cache, client);
    file.close();
    sent.map(|()| keep)
}

fn send_file(file: &File, name: &Name, request: &Request, cache: &Cache, client: &mut impl Client) -> Option<()> {
    send_head(Status::Ok, file.bytes(), name.bytes(), request.keep, false, client)?;
    if request.head_only {
        return Some(());
    }
    let Some(mut loading) = cache.begin(file.bytes()) else {
        return send_pieces(file, client);
    };
    let mut at = 0;
    while (at as u64) < file.bytes() {
        // Here the thread sleeps until the disk has answered.
        match file.read(loading.rest(at), at as u64) {
            Ok(read @ 1..) if client.send(loading.loaded(at, read), false).is_some() => at += read,
            _ => break,
        }
    }
    let is_whole = at as u64 == file.bytes();
    cache.end(loading, name, is_whole);
    is_whole.then_some(())
}

/// Sends a file that is too large to be kept. One that cannot be read to its end breaks the connection: its length was promised.
fn send_pieces(file: &File, client: &mut impl Client) -> Option<()> {
    let mut piece = [0; FILE_READ_MAX as usize];
    let mut at = 0;
    while at < file.bytes() {
        // Here the thread sleeps until the disk has answered.
        let read = file.read(&mut piece, at).ok().filter(|read| *read > 0)?;
        client.send(piece.get(..read)?, false)?;
        at += read as u64;
    }
    Some(())
}

fn refuse(status: Status, keep: bool, head_only: bool, client: &mut impl Client) -> Option<()> {
    let text = status.line().as_bytes();
    send_head(status, text.len() as u64, b"", keep, true, client)?;
    client.send(if head_only { b"" } else { text }, false)
}

fn send_head(status: Status, bytes: u64, name: &[u8], keep: bool, more: bool, client: &mut impl Client) -> Option<()> {
    let mut head = [0; HEAD_BYTES_MAX];
    let used = write_head(&mut head, status, bytes, name, keep);
    client.send(head.get(..used)?, more)
}
