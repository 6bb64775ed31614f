//! A Unix socket with a name in the file system, for this user alone, which goes away with the machine.
//!
//! One that a machine left behind when it was killed is replaced; one at which somebody listens is not. Two machines that find
//! the same remains at the same instant both take the name, and the later one has it.
//! Source: unix(7).

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The name, until it is dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: what has taken the place of the socket since then is not removed.
    identity: (u64, u64),
}

/// A name that cannot be had.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum SocketError {
    #[error("listen at {}: another process does, such as a machine that runs; give this one another path", .0.display())]
    InUse(PathBuf),
    #[error("listen at {}: it exists and is no socket", .0.display())]
    NoSocket(PathBuf),
    #[error("listen at {}: {source}", path.display())]
    Host { path: PathBuf, source: io::Error },
}

impl SocketFile {
    /// Listens at `path`, without ever blocking.
    ///
    /// # Errors
    /// Somebody listens there, something else is there, or the host refuses.
    pub fn listen(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
        let failed = |source: io::Error| SocketError::Host { path: path.to_owned(), source };
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_remains(path)?;
                UnixListener::bind(path).map_err(failed)?
            }
            bound => bound.map_err(failed)?,
        };
        let prepare = || {
            let identity = identity(&fs::symlink_metadata(path)?);
            let file = SocketFile { path: path.to_owned(), identity };
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok(file)
        };
        let file = prepare().map_err(failed)?;
        Ok((listener, file))
    }

    /// The name.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity) {
            // Somebody else may remove it in this moment.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Connects to the socket at `path` without ever blocking, then or later.
///
/// # Errors
/// Nobody listens there, or takes no further connection now.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Removes a socket at which nobody listens any more.
fn remove_remains(path: &Path) -> Result<(), SocketError> {
    let failed = |source: io::Error| SocketError::Host { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NoSocket(path.to_owned())),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    match connect(path).map_err(|error| error.kind()) {
        Err(ErrorKind::ConnectionRefused) => fs::remove_file(path).map_err(failed),
        Err(ErrorKind::NotFound) => Ok(()),
        _ => Err(SocketError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remains_are_replaced_and_nothing_else_is() {
        let path = std::env::temp_dir().join(format!("hostel-socket-file-{}", std::process::id()));
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind, as by a machine that was killed");
        let (listener, file) = SocketFile::listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(SocketFile::listen(&path), Err(SocketError::InUse(_))));
        assert!(connect(&path).is_ok(), "the other's failure harms nobody");
        drop((listener, file));
        assert!(!path.exists());
        fs::write(&path, "a file").unwrap();
        assert!(matches!(SocketFile::listen(&path), Err(SocketError::NoSocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"a file");
        fs::remove_file(&path).unwrap();
        let (_listener, file) = SocketFile::listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "in its place").unwrap();
        drop(file);
        assert!(path.exists(), "it was not ours any more");
        fs::remove_file(&path).unwrap();
    }
}
