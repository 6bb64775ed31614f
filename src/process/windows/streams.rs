//! The C runtime's streams: buffers over files, and the translation of line ends.
//!
//! A text stream writes `\r\n` for `\n`, reads `\n` for `\r\n` and ends at Ctrl-Z. Output is held back up to a block, but on terminals,
//! on standard error and on streams set so, where each call writes. At the program's end, a bad one too, what was held back is written.
//! Leaves out wide streams and text files in Unicode.
//! Source: Microsoft "Text and binary mode file I/O", "setvbuf".

use crate::process::host_files::{FileKind, Files};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::io::SeekFrom;

/// Most streams that are open at a time; msvcrt has room for as many without a call of `_setmaxstdio`, and more.
pub const STREAMS_MAX: usize = 64;
/// Bytes that are read or held back at a time.
const BLOCK: usize = 4096;
/// The end of a text (Ctrl-Z).
const END_OF_TEXT: u8 = 0x1a;

/// One stream.
#[derive(Debug)]
pub struct Stream {
    /// The file behind it.
    pub file: u32,
    /// Whether line ends are translated.
    pub text: bool,
    /// Whether each call writes.
    pub unbuffered: bool,
    /// Whether a read found the end.
    pub ended: bool,
    /// Whether the file failed.
    pub failed: bool,
    input: Vec<u8>,
    position: usize,
    output: Vec<u8>,
}

/// All streams, by their index in the program's array of `FILE`.
#[derive(Debug)]
pub struct Streams(Vec<Option<Stream>>);

/// What `fopen`'s mode says: flags of open(2), and whether line ends are translated. `None`: it is no mode.
pub fn mode(mode: &[u8]) -> Option<(OFlags, bool)> {
    let (first, more) = mode.split_first()?;
    let update = more.contains(&b'+');
    let flags = match first {
        b'r' => OFlags::empty(),
        b'w' => OFlags::CREATE | OFlags::TRUNC,
        b'a' => OFlags::CREATE | OFlags::APPEND,
        _ => return None,
    };
    let access = match first {
        _ if update => OFlags::RDWR,
        b'r' => OFlags::RDONLY,
        _ => OFlags::WRONLY,
    };
    Some((flags | access, !more.contains(&b'b')))
}

impl Stream {
    /// A stream over an open file.
    pub fn new(file: u32, text: bool, unbuffered: bool) -> Stream {
        let (input, output) = (Vec::new(), Vec::new());
        Stream { file, text, unbuffered, ended: false, failed: false, input, position: 0, output }
    }

    fn note(&mut self, error: Errno) -> Errno {
        self.failed = true;
        error
    }

    /// Writes `bytes`.
    ///
    /// # Errors
    /// The file cannot take them; how many it took is not told.
    pub fn write(&mut self, bytes: &[u8], files: &mut dyn Files) -> Result<(), Errno> {
        for byte in bytes {
            if self.text && *byte == b'\n' {
                self.output.push(b'\r');
            }
            self.output.push(*byte);
            if self.output.len() >= BLOCK {
                self.flush(files)?;
            }
        }
        if self.unbuffered { self.flush(files) } else { Ok(()) }
    }

    /// Writes what was held back.
    ///
    /// # Errors
    /// The file cannot take it; it is dropped then.
    pub fn flush(&mut self, files: &mut dyn Files) -> Result<(), Errno> {
        let bytes = std::mem::take(&mut self.output);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match files.write(self.file, rest) {
                Ok(0) => return Err(self.note(Errno::IO)),
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) => return Err(self.note(error)),
            }
        }
        Ok(())
    }

    /// The next byte of the file, not taken.
    fn peek(&mut self, files: &mut dyn Files) -> Result<Option<u8>, Errno> {
        if self.position == self.input.len() {
            self.input.resize(BLOCK, 0);
            let count = files.read(self.file, &mut self.input);
            self.position = 0;
            self.input.truncate(*count.as_ref().unwrap_or(&0));
            count.map_err(|error| self.note(error))?;
        }
        Ok(self.input.get(self.position).copied())
    }

    /// The next byte, line ends translated; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next(&mut self, files: &mut dyn Files) -> Result<Option<u8>, Errno> {
        let byte = self.peek(files)?;
        match byte {
            Some(b'\r') if self.text => {
                self.position += 1;
                if self.peek(files)? != Some(b'\n') {
                    return Ok(byte);
                }
                self.position += 1;
                return Ok(Some(b'\n'));
            }
            Some(END_OF_TEXT) if self.text => self.ended = true,
            None => self.ended = true,
            Some(_) => {
                self.position += 1;
                return Ok(byte);
            }
        }
        Ok(None)
    }

    /// Puts a byte back, to be read next.
    ///
    /// # Errors
    /// A block of them was put back already.
    pub fn put_back(&mut self, byte: u8) -> Result<(), Errno> {
        match self.position.checked_sub(1) {
            Some(before) => {
                self.position = before;
                self.input[before] = byte;
            }
            None if self.input.len() < 2 * BLOCK => self.input.insert(0, byte),
            None => return Err(Errno::NOSPC),
        }
        self.ended = false;
        Ok(())
    }

    /// Moves to a position in the file, and tells it.
    ///
    /// # Errors
    /// The file has none, or not that one.
    pub fn seek(&mut self, to: SeekFrom, files: &mut dyn Files) -> Result<u64, Errno> {
        self.flush(files)?;
        let unread = (self.input.len() - self.position) as i64;
        let to = match to {
            SeekFrom::Current(offset) => SeekFrom::Current(offset.checked_sub(unread).ok_or(Errno::INVAL)?),
            to => to,
        };
        let position = files.seek(self.file, to)?;
        (self.position, self.ended) = (0, false);
        self.input.clear();
        Ok(position)
    }

    /// The position in the file of what is read or written next.
    ///
    /// # Errors
    /// The file has none.
    pub fn tell(&mut self, files: &mut dyn Files) -> Result<u64, Errno> {
        self.flush(files)?;
        let position = files.seek(self.file, SeekFrom::Current(0))?;
        Ok(position.saturating_sub((self.input.len() - self.position) as u64))
    }
}

impl Streams {
    /// Standard input, output and error.
    pub fn new(files: &dyn Files) -> Streams {
        let terminal = |file| files.kind(file) == FileKind::Character;
        let stream = |file: u32| Some(Stream::new(file, true, file == 2 || terminal(file)));
        Streams((0..3).map(stream).chain((3..STREAMS_MAX).map(|_| None)).collect())
    }

    /// The stream of this index.
    pub fn find(&mut self, index: usize) -> Option<&mut Stream> {
        self.0.get_mut(index)?.as_mut()
    }

    /// The stream over this file.
    pub fn over(&mut self, file: u32) -> Option<&mut Stream> {
        self.0.iter_mut().flatten().find(|stream| stream.file == file)
    }

    /// Adds a stream; `None`: there are as many as can be.
    pub fn add(&mut self, stream: Stream) -> Option<usize> {
        let index = self.0.iter().position(Option::is_none)?;
        self.0[index] = Some(stream);
        Some(index)
    }

    /// Takes a stream away.
    pub fn remove(&mut self, index: usize) -> Option<Stream> {
        self.0.get_mut(index)?.take()
    }

    /// Writes what all streams hold back; false: not all of it could be.
    pub fn flush(&mut self, files: &mut dyn Files) -> bool {
        let all = self.0.iter_mut().flatten();
        // All of them, whatever becomes of one.
        all.map(|stream| stream.flush(files)).filter(Result::is_err).count() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fake_files::FakeFiles;

    fn read_all(stream: &mut Stream, files: &mut FakeFiles) -> Vec<u8> {
        std::iter::from_fn(|| stream.next(files).unwrap()).collect()
    }

    #[test]
    fn text_has_other_line_ends_in_files() {
        let mut files = FakeFiles { input: b"a\r\nb\rc\n\x1ad".to_vec(), ..FakeFiles::default() };
        let mut streams = Streams::new(&files);
        assert_eq!(read_all(streams.find(0).unwrap(), &mut files), b"a\nb\rc\n");
        assert!(streams.find(0).unwrap().ended);
        let out = streams.find(1).unwrap();
        out.write(b"a\nb", &mut files).unwrap();
        assert!(files.output[0].is_empty(), "held back");
        assert!(streams.flush(&mut files));
        assert_eq!(files.output[0], b"a\r\nb");
        streams.find(2).unwrap().write(b"!", &mut files).unwrap();
        assert_eq!(files.output[1], b"!");
    }

    #[test]
    fn a_position_counts_what_was_read_ahead() {
        let mut files = FakeFiles::default();
        files.files.insert(b"/file".to_vec(), b"0123456789".to_vec());
        let file = files.open(b"/file", OFlags::RDONLY).unwrap();
        let mut stream = Stream::new(file, false, false);
        assert_eq!((stream.next(&mut files), stream.next(&mut files)), (Ok(Some(b'0')), Ok(Some(b'1'))));
        assert_eq!(stream.tell(&mut files), Ok(2));
        stream.put_back(b'x').unwrap();
        assert_eq!((stream.tell(&mut files), stream.next(&mut files)), (Ok(1), Ok(Some(b'x'))));
        assert_eq!(stream.seek(SeekFrom::Current(3), &mut files), Ok(5));
        assert_eq!(read_all(&mut stream, &mut files), b"56789");
        assert_eq!(stream.seek(SeekFrom::Current(i64::MIN), &mut files), Err(Errno::INVAL));
    }

    #[test]
    fn what_is_put_back_has_a_bound() {
        let mut files = FakeFiles::default();
        let mut stream = Stream::new(0, false, false);
        let taken = (0..).take_while(|_| stream.put_back(b'x').is_ok()).count();
        assert_eq!((taken, read_all(&mut stream, &mut files).len()), (2 * BLOCK, 2 * BLOCK));
    }

    #[test]
    fn modes_are_those_of_fopen() {
        assert_eq!(mode(b"r"), Some((OFlags::RDONLY, true)));
        assert_eq!(mode(b"wb"), Some((OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY, false)));
        assert_eq!(mode(b"a+"), Some((OFlags::CREATE | OFlags::APPEND | OFlags::RDWR, true)));
        assert_eq!((mode(b""), mode(b"x")), (None, None));
    }
}
