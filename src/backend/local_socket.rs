//! Where a tool on this host connects to us: a TCP port of the loopback interface, or a UNIX socket.
//!
//! Other hosts are kept out by refusing every other address, other users by the rights of a UNIX socket; a loopback port is open
//! to every user of this host. Sources: tcp(7), unix(7).

use std::fmt;
use std::fs::{File, Permissions, set_permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

/// A local address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalAddress {
    /// A port of the loopback interface; 0: one that is free.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

impl LocalAddress {
    /// Reads `:PORT`, `HOST:PORT` or `unix:PATH`.
    ///
    /// # Errors
    /// It is none of these, or other hosts could reach it; the text says which.
    pub fn parse(text: &str) -> Result<LocalAddress, String> {
        const FORMS: &str = "use :PORT, 127.0.0.1:PORT or unix:PATH";
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(FORMS.into()) } else { Ok(LocalAddress::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(FORMS)?;
        let port: u16 = port.parse().map_err(|_| FORMS)?;
        let ip = match host.trim_matches(['[', ']']) {
            "" | "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.parse().map_err(|_| FORMS)?,
        };
        if !ip.is_loopback() {
            return Err(format!(
                "{ip} is reached by other hosts, and who connects rules the guest: use 127.0.0.1 or unix:PATH"
            ));
        }
        Ok(LocalAddress::Tcp(SocketAddr::new(ip, port)))
    }
}

/// As gdb takes it.
impl fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalAddress::Tcp(address) => address.fmt(f),
            LocalAddress::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Waits for connections. The file of a UNIX socket goes away with it.
#[derive(Debug)]
pub struct LocalListener {
    socket: Socket,
    address: LocalAddress,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl LocalListener {
    /// Listens at `address`. A socket file must not be there yet, even if nobody listens at it any more.
    ///
    /// # Errors
    /// The host refuses.
    pub fn bind(address: &LocalAddress) -> io::Result<LocalListener> {
        let (socket, address) = match address {
            LocalAddress::Tcp(wanted) => {
                let listener = TcpListener::bind(wanted)?;
                let address = LocalAddress::Tcp(listener.local_addr()?);
                (Socket::Tcp(listener), address)
            }
            LocalAddress::Unix(path) => {
                let listener = UnixListener::bind(path)?;
                set_permissions(path, Permissions::from_mode(0o600))?;
                (Socket::Unix(listener), address.clone())
            }
        };
        Ok(LocalListener { socket, address })
    }

    /// Where it listens: the port is never 0.
    pub fn address(&self) -> &LocalAddress {
        &self.address
    }

    /// Takes the connection that waits, or waits for one. Reading and writing the file is receiving and sending.
    ///
    /// # Errors
    /// The host refuses.
    pub fn accept(&self) -> io::Result<File> {
        let stream: OwnedFd = match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                // Small packets go back and forth: none may wait for the next.
                stream.set_nodelay(true)?;
                TcpStream::into(stream)
            }
            Socket::Unix(listener) => UnixStream::into(listener.accept()?.0),
        };
        Ok(File::from(stream))
    }
}

impl AsFd for LocalListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        if let LocalAddress::Unix(path) = &self.address {
            // Who removed it before has done it for us.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn only_this_host_is_listened_to() {
        let tcp = |text: &str| LocalAddress::Tcp(text.parse().unwrap());
        assert_eq!(LocalAddress::parse(":1234"), Ok(tcp("127.0.0.1:1234")));
        assert_eq!(LocalAddress::parse("localhost:1"), Ok(tcp("127.0.0.1:1")));
        assert_eq!(LocalAddress::parse("[::1]:1"), Ok(tcp("[::1]:1")));
        assert_eq!(LocalAddress::parse("unix:/tmp/x"), Ok(LocalAddress::Unix("/tmp/x".into())));
        for bad in ["", ":", "1234", ":99999", "host:1", "unix:", "tcp::1234"] {
            assert!(LocalAddress::parse(bad).unwrap_err().contains("unix:PATH"), "{bad}");
        }
        for open in ["0.0.0.0:1234", "[::]:1234", "192.168.0.1:1234"] {
            assert!(LocalAddress::parse(open).unwrap_err().contains("other hosts"), "{open}");
        }
    }

    #[test]
    fn a_socket_file_is_private_and_removed() {
        let path = std::env::temp_dir().join(format!("hostel-local-socket-{}", std::process::id()));
        let address = LocalAddress::Unix(path.clone());
        let listener = LocalListener::bind(&address).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(LocalListener::bind(&address).is_err(), "somebody listens there");
        UnixStream::connect(&path).unwrap().write_all(b"x").unwrap();
        let mut received = String::new();
        listener.accept().unwrap().read_to_string(&mut received).unwrap();
        assert_eq!(received, "x");
        drop(listener);
        assert!(!path.exists());
    }
}
