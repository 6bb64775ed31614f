//! server DESIGN [WORKERS] [ADDRESS/BITS]: serves the files of the disk by HTTP at port 80, in one of three designs: `single`,
//! `workers` (8 of them unless a number says otherwise) and `states`. Without an address it asks for one by DHCP. It ends with the
//! console's input.
//!
//! The three share everything but their waiting: `single.rs`, `workers.rs` and `states.rs` are the designs, the other files what
//! they stand on. `docs/servers.md` compares and measures them.

#![no_std]
#![no_main]

mod answer;
mod archive;
mod cache;
mod files;
mod guarded;
mod http;
mod inbox;
mod memory;
mod network;
mod single;
mod states;
mod wait;
mod workers;

use core::str::FromStr;

use crates::smoltcp::wire::Ipv4Cidr;
use files::Files;
use network::Network;
use process::{print, words::Words};

process::program!(main);

/// Where it listens.
const PORT: u16 = 80;
/// Workers without a number.
const WORKERS: u64 = 8;

fn main(arguments: &[u8]) -> u64 {
    let mut words = Words::of(arguments);
    let design = words.next().and_then(|word| str::from_utf8(word).ok()).unwrap_or_default();
    let (mut workers, mut address) = (WORKERS, None);
    for word in words {
        let text = str::from_utf8(word).unwrap_or_default();
        if let Ok(number) = u64::from_str(text) {
            workers = number;
        } else if let Ok(cidr) = Ipv4Cidr::from_str(text) {
            address = Some(cidr);
        } else {
            print!("server: {text} is neither a number nor an address like 10.0.0.1/24\n");
            return 2;
        }
    }
    if !matches!(design, "single" | "workers" | "states") {
        print!("server: use server single, server workers [NUMBER] or server states\n");
        return 2;
    }
    let Some(files) = Files::read() else {
        print!("server: there is not enough memory\n");
        return 1;
    };
    let Some(network) = Network::start(address, PORT) else {
        print!("server: there is no network card, or no memory\n");
        return 1;
    };
    print!("server: {design} at port {PORT}\n");
    let answered = match design {
        "single" => single::serve(network, files),
        "workers" => workers::serve(network, files, workers),
        _ => states::serve(network, files),
    };
    match answered {
        Some(answered) => {
            print!("server: {answered} requests\n");
            0
        }
        None => {
            print!("server: there is not enough memory\n");
            1
        }
    }
}
