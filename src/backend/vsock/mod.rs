//! The host's side of a socket device: Unix sockets of the host that are sockets of the guest. `packet.rs` is what goes between
//! both, `connection.rs` one connection, `exchange.rs` all of them.

pub mod connection;
pub mod exchange;
pub mod packet;
