//! The host's side of devices: the console's output and input, the terminal, who watches what the guest prints, disks, networks,
//! sockets and shared directories.

pub mod balloon;
pub mod block;
pub mod console_input;
pub mod console_link;
pub mod console_output;
pub mod console_peer;
pub mod console_port;
pub mod console_ring;
pub mod console_sink;
pub mod expect;
pub mod kernel_cache;
pub mod keys;
pub mod last_lines;
pub mod local_socket;
pub mod monitor;
pub mod net_addresses;
pub mod net_offload;
pub mod net_passt;
pub mod net_pcap;
pub mod net_port;
pub mod net_stream;
pub mod net_switch;
pub mod net_switch_ports;
pub mod net_tap;
pub mod plain_text;
pub mod rate;
pub mod send_text;
pub mod share;
pub mod signals;
pub mod socket_file;
pub mod socket_options;
pub mod stream_pattern;
pub mod terminal;
pub mod timer;
pub mod vsock;
