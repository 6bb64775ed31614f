//! Writing a report file: whole or not at all.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A report that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("write the report {}: {source}", path.display())]
pub struct ReportError {
    path: PathBuf,
    source: io::Error,
}

/// Where descriptors of this process have names (proc_pid_fd(5)). A file behind one is not to be replaced, and where it was
/// removed meanwhile, the rename would hit the name itself, for everybody.
const DESCRIPTORS: [&str; 4] = ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc"];

/// Replaces the file at `path` by one with this content, so that a reader finds the old one or all of the new one. What is
/// no regular file (a pipe), or is a descriptor of ours by another name (`/dev/stdout`), is written to at its end.
///
/// # Errors
/// The directory or the medium does not take it; the old file stands then.
pub fn write(path: &Path, content: &str) -> Result<(), ReportError> {
    let is_file = fs::metadata(path).map_or(true, |metadata| metadata.is_file());
    let is_descriptor = DESCRIPTORS.iter().any(|name| path.starts_with(name));
    let written = if is_file && !is_descriptor {
        replace(path, content)
    } else {
        OpenOptions::new().append(true).open(path).and_then(|mut file| file.write_all(content.as_bytes()))
    };
    written.map_err(|source| ReportError { path: path.to_owned(), source })
}

fn replace(path: &Path, content: &str) -> io::Result<()> {
    // A link stays a link: what it leads to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary_name = OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary_name);
    let written = fs::write(&temporary, content).and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        // The first error is the one that tells; what it left behind goes.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let directory = std::env::temp_dir().join(format!("hostel-report-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let path = directory.join("result.json");
        write(&path, "old, and longer").unwrap();
        write(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        let link = directory.join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write(&link, "by link").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "by link");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn devices_are_written_to_and_errors_name_the_file() {
        write(Path::new("/dev/null"), "x").unwrap();
        for path in ["/dev/full", "/nowhere/at/all", "/"] {
            assert!(write(Path::new(path), "x").unwrap_err().to_string().contains(path));
        }
    }
}
