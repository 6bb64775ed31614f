//! The blobs of an OCI layout: files named by what they hold, which is compared with what was said of them.
//!
//! Source: OCI Image Specification "Image Layout", "Content Descriptors".

use super::budget::PIECE;
use super::error::{Problem, shown};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Most bytes of a document.
const DOCUMENT_MAX: u64 = 4 << 20;
/// The annotation that names an image in a layout's index.
const REFERENCE: &str = "org.opencontainers.image.ref.name";

/// What is said of a blob.
#[derive(Clone, Debug)]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// What it is called by.
    pub digest: String,
    /// Its bytes.
    pub size: u64,
    /// For whom it is, where that is said: system and processor, as Go has their names.
    pub platform: Option<(String, String)>,
    /// What a user calls it, where it has such a name.
    pub reference: Option<String>,
}

impl Descriptor {
    /// The descriptor that a document has at some place.
    ///
    /// # Errors
    /// There is none.
    pub fn of(value: &Value) -> Result<Descriptor, Problem> {
        let (Some(digest), Some(size)) = (value["digest"].as_str(), value["size"].as_u64()) else {
            return Err(Problem::Layout("a descriptor without digest or size".into()));
        };
        let platform = Some(&value["platform"]).filter(|platform| platform.is_object());
        Ok(Descriptor {
            media_type: text(&value["mediaType"]),
            digest: digest.into(),
            size,
            platform: platform.map(|platform| (text(&platform["os"]), text(&platform["architecture"]))),
            reference: value["annotations"][REFERENCE].as_str().map(Into::into),
        })
    }

    /// The descriptors of a list.
    ///
    /// # Errors
    /// It is none, or has something else in it.
    pub fn list(value: &Value) -> Result<Vec<Descriptor>, Problem> {
        let list = value.as_array().ok_or_else(|| Problem::Layout("a list of descriptors is missing".into()))?;
        list.iter().map(Descriptor::of).collect()
    }
}

/// A text, empty where there is none.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().into()
}

/// The blobs of a layout.
pub struct Blobs {
    directory: PathBuf,
}

impl Blobs {
    /// Those of the layout in this directory.
    pub fn of(layout: &Path) -> Blobs {
        Blobs { directory: layout.join("blobs/sha256") }
    }

    /// Reads a document.
    ///
    /// # Errors
    /// It is not there, not what its descriptor says, or no such document.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Value, Problem> {
        if descriptor.size > DOCUMENT_MAX {
            let digest = shown(&descriptor.digest);
            return Err(Problem::Layout(format!("{digest}: a document of {} bytes", descriptor.size)));
        }
        let mut text = Vec::new();
        self.with(descriptor, &mut |blob| {
            blob.read_to_end(&mut text).map_err(Problem::of_stream)?;
            Ok(())
        })?;
        parse(&descriptor.digest, &text)
    }

    /// Shows a blob to `read`, and holds it against its descriptor, all of it: a wrong one counts more than what `read` made of it.
    ///
    /// # Errors
    /// It is not there or not what its descriptor says; or what `read` says.
    pub fn with(
        &self,
        descriptor: &Descriptor,
        read: &mut dyn FnMut(&mut dyn BufRead) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let Descriptor { digest, size, .. } = descriptor;
        let hex = digest.strip_prefix("sha256:").filter(|hex| {
            hex.len() == 2 * Sha256::output_size() && hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
        });
        let hex = hex.ok_or_else(|| Problem::Layout(format!("\"{}\" is no digest by SHA-256", shown(digest))))?;
        let failed = |source| Problem::Blob { digest: digest.clone(), source };
        let file = open_file(&self.directory.join(hex)).map_err(failed)?;
        let found = file.metadata().map_err(failed)?.len();
        if found != *size {
            return Err(Problem::WrongSize { digest: digest.clone(), said: *size, found });
        }
        // No more than was said, should the file grow.
        let mut stream = BufReader::with_capacity(PIECE, Hashed { stream: file, hash: Sha256::new(), left: found });
        let result = read(&mut stream);
        io::copy(&mut stream, &mut io::sink()).map_err(failed)?;
        let hash: String = stream.into_inner().hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if hash == hex { result } else { Err(Problem::WrongDigest { digest: digest.clone() }) }
    }
}

/// Reads a document that is no blob.
///
/// # Errors
/// It is not there, too long, or no such document.
pub fn document(path: &Path) -> Result<Value, Problem> {
    let name = path.display().to_string();
    let mut text = Vec::new();
    let read = open_file(path).and_then(|file| file.take(DOCUMENT_MAX).read_to_end(&mut text));
    read.map_err(|error| Problem::Layout(format!("{name}: {error}")))?;
    parse(&name, &text)
}

fn parse(name: &str, text: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(text).map_err(|error| Problem::Layout(format!("{name}: {error}")))
}

/// Opens a regular file: a pipe would wait for its other end.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(ErrorKind::InvalidInput, "it is no file")),
    }
}

/// A stream that is hashed as it is read, up to a number of bytes.
struct Hashed {
    stream: File,
    hash: Sha256,
    left: u64,
}

impl Read for Hashed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let count = self.stream.read(&mut bytes[..most])?;
        self.hash.update(&bytes[..count]);
        self.left -= count as u64;
        Ok(count)
    }
}
