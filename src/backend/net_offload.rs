//! What a frame leaves to be done by whoever passes it on: the checksum of its payload, and its cutting into segments.
//!
//! A guest says so in the header before each frame. Header and frame are the guest's, so nothing of them is believed: where they
//! do not fit together the frame is lost, and what goes on is a header made here. For a port whose machine does not do the work
//! itself it is done here, in software. Leaves out UDP fragmentation and segmentation, ECN and tunnels, none of which is offered.
//! Sources: virtio 1.2 §5.1.6.2 (the header); RFC 9293 §3.1 (TCP); RFC 791 §3.1 (IPv4); RFC 8200 §3 (IPv6); RFC 1071 (checksums);
//! ip-sysctl.rst (the least segment).

use super::net_port::{FRAME_MAX, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HEADER_BYTES};

/// Flag: from `csum_start` on a sum is to be formed and put `csum_offset` behind it.
const NEEDS_CSUM: u8 = 1;
/// Kinds of segments: none, TCP over IPv4, TCP over IPv6.
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// Least payload of a segment: what Linux sends at least ("tcp_min_snd_mss"). It bounds the segments of a frame.
const SEGMENT_MIN: usize = 48;

/// Ethernet types, and how many VLAN tags are looked behind.
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const VLAN: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
const TAGS_MAX: usize = 2;
/// TCP's number, and where in its header checksum and flags are.
const TCP: u8 = 6;
const TCP_CHECKSUM: usize = 16;
const TCP_FLAGS: usize = 13;
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// A header that does not fit its frame, or asks for what was not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What is left to be done for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Where the sum begins, and where in the frame it goes.
    checksum: Option<(usize, usize)>,
    segments: Option<Segments>,
}

/// How a frame is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segments {
    /// Offsets of the IP header, of the TCP header and of the payload.
    network: usize,
    transport: usize,
    payload: usize,
    is_v6: bool,
    /// Bytes of payload in each.
    size: usize,
}

impl Work {
    /// What `header` asks for of `frame`.
    ///
    /// # Errors
    /// They do not fit together.
    pub fn of(header: &[u8; HEADER_BYTES], frame: &[u8]) -> Result<Work, Malformed> {
        let word = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let (flags, kind, size, start, offset) = (header[0], header[1], word(4), word(6), word(8));
        let checksum = match flags & NEEDS_CSUM {
            0 => None,
            _ if start + offset + 2 > frame.len() => return Err(Malformed),
            _ => Some((start, start + offset)),
        };
        let segments = match (kind, checksum) {
            (GSO_NONE, _) => None,
            (GSO_TCPV4 | GSO_TCPV6, Some(_)) if offset == TCP_CHECKSUM && size >= SEGMENT_MIN => {
                Some(Segments::of(frame, start, size, kind == GSO_TCPV6).ok_or(Malformed)?)
            }
            _ => return Err(Malformed),
        };
        Ok(Work { checksum, segments })
    }

    /// Whether a machine that has accepted these features of its device does all of it itself.
    pub fn is_done_by(&self, features: u64) -> bool {
        let needed = match (self.checksum, self.segments) {
            (None, _) => 0,
            (Some(_), None) => GUEST_CSUM,
            (Some(_), Some(segments)) => GUEST_CSUM | if segments.is_v6 { GUEST_TSO6 } else { GUEST_TSO4 },
        };
        features & needed == needed
    }

    /// The header that asks for it.
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let mut set = |at: usize, value: usize| header[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
        if let Some((start, sum)) = self.checksum {
            set(6, start);
            set(8, sum - start);
        }
        if let Some(segments) = self.segments {
            set(2, segments.payload);
            set(4, segments.size);
        }
        header[0] = if self.checksum.is_some() { NEEDS_CSUM } else { 0 };
        header[1] = self.segments.map_or(GSO_NONE, |segments| if segments.is_v6 { GSO_TCPV6 } else { GSO_TCPV4 });
        header
    }

    /// Does it: `emit` gets each frame that comes of `frame`, made in `scratch`. `frame` is the one that this was asked of.
    pub fn run(&self, frame: &[u8], scratch: &mut Scratch, mut emit: impl FnMut(&[u8])) {
        match (self.checksum, self.segments) {
            (None, _) => emit(frame),
            (Some((start, at)), None) => {
                let whole = &mut scratch.0[..frame.len()];
                whole.copy_from_slice(frame);
                // What stands there already, the sum of the addresses, is part of it (§5.1.6.2).
                let sum = fold(sum(&whole[start..]));
                // UDP says "no sum" by 0 (RFC 768); the other protocols have both forms for the same.
                let value = if sum == 0xffff { 0xffff } else { !sum };
                whole[at..at + 2].copy_from_slice(&value.to_be_bytes());
                emit(whole);
            }
            (Some(_), Some(segments)) => segments.cut(frame, scratch, emit),
        }
    }
}

/// Room to make frames in.
pub struct Scratch(Box<[u8]>);

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch(vec![0; FRAME_MAX].into_boxed_slice())
    }
}

impl Segments {
    /// How `frame`, whose TCP header is at `transport`, is cut; `None` if it is no such frame.
    fn of(frame: &[u8], transport: usize, size: usize, is_v6: bool) -> Option<Segments> {
        let mut kind = 12;
        while VLAN.iter().any(|tag| frame.get(kind..kind + 2) == Some(tag)) && kind < 12 + 4 * TAGS_MAX {
            kind += 4;
        }
        let network = kind + 2;
        let ip = frame.get(network..transport)?;
        let is_ip = match is_v6 {
            false => {
                frame[kind..network] == IPV4
                    && ip.len() >= 20
                    && (ip[0] >> 4, usize::from(ip[0] & 0xf) * 4, ip[9]) == (4, ip.len(), TCP)
            }
            // Behind the fixed header there may be others, up to where the guest says that TCP begins.
            true => frame[kind..network] == IPV6 && ip.len() >= 40 && ip[0] >> 4 == 6,
        };
        let payload = transport + usize::from(frame.get(transport + 12)? >> 4) * 4;
        let fits = is_ip && payload >= transport + 20 && payload < frame.len();
        fits.then_some(Segments { network, transport, payload, is_v6, size })
    }

    fn cut(&self, frame: &[u8], scratch: &mut Scratch, mut emit: impl FnMut(&[u8])) {
        let Segments { network, transport, payload, .. } = *self;
        let last = (frame.len() - payload - 1) / self.size;
        for (index, chunk) in frame[payload..].chunks(self.size).enumerate() {
            let segment = &mut scratch.0[..payload + chunk.len()];
            segment[..payload].copy_from_slice(&frame[..payload]);
            segment[payload..].copy_from_slice(chunk);
            let bytes = segment.len() - network;
            if self.is_v6 {
                segment[network + 4..][..2].copy_from_slice(&((bytes - 40) as u16).to_be_bytes());
            } else {
                let id = u16::from_be_bytes([segment[network + 4], segment[network + 5]]).wrapping_add(index as u16);
                segment[network + 2..][..2].copy_from_slice(&(bytes as u16).to_be_bytes());
                segment[network + 4..][..2].copy_from_slice(&id.to_be_bytes());
                segment[network + 10..][..2].fill(0);
                let sum = !fold(sum(&segment[network..transport]));
                segment[network + 10..][..2].copy_from_slice(&sum.to_be_bytes());
            }
            let sequence: [u8; 4] = segment[transport + 4..][..4].try_into().expect("four bytes");
            let sequence = u32::from_be_bytes(sequence).wrapping_add((index * self.size) as u32);
            segment[transport + 4..][..4].copy_from_slice(&sequence.to_be_bytes());
            let first_only = if index > 0 { CWR } else { 0 };
            let last_only = if index < last { FIN_PSH } else { 0 };
            segment[transport + TCP_FLAGS] &= !(first_only | last_only);
            segment[transport + TCP_CHECKSUM..][..2].fill(0);
            let sum = !fold(self.pseudo_header(segment) + sum(&segment[transport..]));
            segment[transport + TCP_CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
            emit(segment);
        }
    }

    /// The sum of addresses, protocol and length, which TCP's checksum covers too (RFC 9293 §3.1; RFC 8200 §8.1).
    fn pseudo_header(&self, segment: &[u8]) -> u64 {
        let addresses = if self.is_v6 { 8..40 } else { 12..20 };
        sum(&segment[self.network..][addresses]) + u64::from(TCP) + (segment.len() - self.transport) as u64
    }
}

/// Sum of the 16-bit words of `bytes`, big-endian, not folded yet.
fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(4);
    let sum: u64 = words.by_ref().map(|word| u64::from(u32::from_be_bytes(word.try_into().expect("four bytes")))).sum();
    let mut rest = [0; 4];
    rest[..words.remainder().len()].copy_from_slice(words.remainder());
    sum + u64::from(u32::from_be_bytes(rest))
}

/// A sum as 16 bits: what is carried out at the top comes in at the bottom.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TCP frame with this much payload, behind so many VLAN tags, and the header of one that is to be cut at `size`.
    fn tcp(is_v6: bool, tags: usize, payload: usize, size: u16) -> ([u8; HEADER_BYTES], Vec<u8>) {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        (0..tags).for_each(|tag| frame.extend([0x81, 0, 0, tag as u8]));
        frame.extend(if is_v6 { IPV6 } else { IPV4 });
        let network = frame.len();
        let bytes = ((if is_v6 { 20 } else { 40 }) + payload) as u16;
        let [high, low] = bytes.to_be_bytes();
        if is_v6 {
            frame.extend([0x60, 0, 0, 0, high, low, TCP, 64]);
            frame.extend([[0xfd; 16], [0xfc; 16]].concat());
        } else {
            frame.extend([0x45, 0, high, low, 0xff, 0xff, 0x40, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        let transport = frame.len();
        frame.extend([0, 80, 1, 0, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0x50, 0x99, 1, 0, 0, 0, 0, 0]);
        frame.extend((0..payload).map(|at| at as u8));
        // As a guest leaves it: the sum of the addresses, the protocol and the length.
        let segments = Segments { network, transport, payload: transport + 20, is_v6, size: size.into() };
        let pseudo = fold(segments.pseudo_header(&frame));
        frame[transport + TCP_CHECKSUM..][..2].copy_from_slice(&pseudo.to_be_bytes());
        let work =
            Work { checksum: Some((transport, transport + TCP_CHECKSUM)), segments: (size > 0).then_some(segments) };
        (work.header(), frame)
    }

    /// What comes of a frame.
    fn done(header: &[u8; HEADER_BYTES], frame: &[u8]) -> Vec<Vec<u8>> {
        let (mut frames, mut scratch) = (Vec::new(), Scratch::default());
        Work::of(header, frame).unwrap().run(frame, &mut scratch, |frame| frames.push(frame.to_vec()));
        frames
    }

    /// Whether all sums of a TCP frame are right, its lengths too; its sequence number and its payload.
    fn checked(is_v6: bool, frame: &[u8], network: usize) -> (u32, Vec<u8>) {
        let transport = network + if is_v6 { 40 } else { 20 };
        let length = usize::from(u16::from_be_bytes([frame[network + 2], frame[network + 3]]));
        let length_v6 = usize::from(u16::from_be_bytes([frame[network + 4], frame[network + 5]])) + 40;
        assert_eq!(if is_v6 { length_v6 } else { length }, frame.len() - network);
        assert!(is_v6 || fold(sum(&frame[network..transport])) == 0xffff, "the IPv4 header's sum");
        let segments = Segments { network, transport, payload: transport + 20, is_v6, size: 1 };
        assert_eq!(fold(segments.pseudo_header(frame) + sum(&frame[transport..])), 0xffff, "TCP's sum");
        let sequence = u32::from_be_bytes(frame[transport + 4..][..4].try_into().unwrap());
        (sequence, frame[transport + 20..].to_vec())
    }

    #[test]
    fn a_long_frame_is_cut_into_segments_with_right_sums_and_numbers() {
        for (is_v6, tags) in [(false, 0), (false, 1), (true, 0), (true, 2)] {
            let (header, frame) = tcp(is_v6, tags, 4001, 1000);
            let segments = done(&header, &frame);
            let network = 14 + 4 * tags;
            let checked: Vec<_> = segments.iter().map(|segment| checked(is_v6, segment, network)).collect();
            assert_eq!(
                checked.iter().map(|(_, payload)| payload.len()).collect::<Vec<_>>(),
                [1000, 1000, 1000, 1000, 1]
            );
            assert_eq!(
                checked.iter().flat_map(|(_, payload)| payload.clone()).collect::<Vec<_>>(),
                frame[frame.len() - 4001..]
            );
            let numbers: Vec<_> = checked.iter().map(|(number, _)| number.wrapping_sub(0xffff_ff00)).collect();
            assert_eq!(numbers, [0, 1000, 2000, 3000, 4000]);
            let flags = |frame: &Vec<u8>| frame[network + if is_v6 { 40 } else { 20 } + TCP_FLAGS];
            assert_eq!(
                segments.iter().map(flags).collect::<Vec<_>>(),
                [0x90, 0x10, 0x10, 0x10, 0x19],
                "CWR first, FIN and PSH last"
            );
            if !is_v6 {
                let ids: Vec<_> =
                    segments.iter().map(|frame| u16::from_be_bytes([frame[network + 4], frame[network + 5]])).collect();
                assert_eq!(ids, [0xffff, 0, 1, 2, 3]);
            }
        }
    }

    #[test]
    fn a_sum_is_formed_where_the_header_says() {
        let (header, frame) = tcp(false, 0, 99, 0);
        let mut frame = frame;
        let sum = !fold(sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(checked(false, &done(&header, &frame)[0], 14).1.len(), 99);
        // Nothing to do: as it came.
        assert_eq!(done(&[0; HEADER_BYTES], &frame), [frame]);
    }

    #[test]
    fn work_that_the_other_machine_does_goes_on_with_a_header_made_here() {
        let all = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6;
        for is_v6 in [false, true] {
            let (mut header, frame) = tcp(is_v6, 0, 4001, 1000);
            let clean = header;
            // A guest's own idea of its headers' length, and bytes that mean nothing there.
            header[2..4].fill(0xff);
            header[10..].fill(0xee);
            header[0] |= 0x80;
            let work = Work::of(&header, &frame).unwrap();
            assert_eq!(work.header(), clean);
            let own = if is_v6 { GUEST_TSO6 } else { GUEST_TSO4 };
            assert!(work.is_done_by(all) && work.is_done_by(GUEST_CSUM | own));
            assert!(![0, GUEST_CSUM, own, all & !own].iter().any(|&features| work.is_done_by(features)));
        }
        let (header, frame) = tcp(false, 0, 10, 0);
        let work = Work::of(&header, &frame).unwrap();
        assert!(work.is_done_by(GUEST_CSUM) && !work.is_done_by(GUEST_TSO4));
        assert!(Work::of(&[0; HEADER_BYTES], &[]).unwrap().is_done_by(0));
    }

    #[test]
    fn headers_that_do_not_fit_their_frames_are_refused() {
        let refused = |change: &dyn Fn(&mut [u8; HEADER_BYTES], &mut Vec<u8>)| {
            let (mut header, mut frame) = tcp(false, 0, 500, 100);
            change(&mut header, &mut frame);
            Work::of(&header, &frame).is_err()
        };
        assert!(!refused(&|_, _| {}));
        for gso_size in [0, 1, 47] {
            assert!(refused(&|header, _| header[4..6].copy_from_slice(&u16::to_le_bytes(gso_size))), "size {gso_size}");
        }
        for csum_start in [0, 14, 33, 35, 540, 0xffff] {
            assert!(
                refused(&|header, _| header[6..8].copy_from_slice(&u16::to_le_bytes(csum_start))),
                "start {csum_start}"
            );
        }
        assert!(refused(&|header, _| header[8] = 6), "TCP's sum is not there");
        assert!(refused(&|header, _| header[0] = 0), "segments need a sum");
        for kind in [2, 3, 4, 5, 0x81, 0xff] {
            assert!(refused(&|header, _| header[1] = kind), "kind {kind}");
        }
        for length in 0..=54 {
            assert!(refused(&|_, frame| frame.truncate(length)), "length {length}");
        }
        for (at, value) in [(12, 0x86), (14, 0x44), (14, 0x46), (14, 0x65), (23, 17), (46, 0x40), (46, 0xf0 + 1)] {
            let long = at == 46 && value > 0xf0;
            assert_eq!(refused(&|_, frame| frame[at] = value), !long, "byte {at} is {value:#x}");
        }
        // A sum alone, beyond the end.
        let mut header = [0; HEADER_BYTES];
        header[0] = NEEDS_CSUM;
        for (start, offset, fits) in
            [(0u16, 58u16, true), (0, 59, false), (58, 0, true), (59, 0, false), (0xffff, 0xffff, false)]
        {
            header[6..8].copy_from_slice(&start.to_le_bytes());
            header[8..10].copy_from_slice(&offset.to_le_bytes());
            assert_eq!(Work::of(&header, &[1; 60]).is_ok(), fits, "{start} {offset}");
        }
    }
}
