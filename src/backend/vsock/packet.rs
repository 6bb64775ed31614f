//! The header before each packet between a guest's sockets and the host's.
//!
//! Source: virtio 1.2 §5.10.6 (`virtio_vsock_hdr`).

/// Bytes of a header.
pub const HEADER_BYTES: usize = 44;
/// Most bytes of a packet behind its header, in both directions: what Linux puts into one.
pub const PAYLOAD_MAX: usize = 64 << 10;
/// The host's context identifier (virtio 1.2 §5.10.4).
pub const HOST_CID: u64 = 2;
/// The guest's: the first that is not reserved. Nobody but the guest itself meets it.
pub const GUEST_CID: u64 = 3;
/// Type of a connection: a stream of bytes.
pub const STREAM: u16 = 1;

/// Flags of a SHUTDOWN: who sends it receives no more, sends no more.
pub const RECEIVE: u32 = 1;
/// See [`RECEIVE`].
pub const SEND: u32 = 2;
/// See [`RECEIVE`].
pub const BOTH: u32 = RECEIVE | SEND;

/// What a packet does (virtio 1.2 §5.10.6, `VIRTIO_VSOCK_OP_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specification's own names")]
pub enum Op {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    Data = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Op {
    /// All of them, in the order of their numbers.
    pub const ALL: [Op; 7] =
        [Op::Request, Op::Response, Op::Reset, Op::Shutdown, Op::Data, Op::CreditUpdate, Op::CreditRequest];

    /// The operation of this number.
    pub fn of(number: u16) -> Option<Op> {
        Op::ALL.into_iter().find(|op| *op as u16 == number)
    }
}

/// A packet's header: numbers as the other side gave them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specification's own names")]
pub struct Header {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    /// Bytes behind the header.
    pub len: u32,
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    /// Bytes that the sender of this header can hold of this connection.
    pub buf_alloc: u32,
    /// Bytes of it that have left its buffer since the beginning, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    /// The header in these bytes.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Header {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Header {
            src_cid: u64_at(0),
            dst_cid: u64_at(8),
            src_port: u32_at(16),
            dst_port: u32_at(20),
            len: u32_at(24),
            kind: u32_at(28) as u16,
            op: (u32_at(28) >> 16) as u16,
            flags: u32_at(32),
            buf_alloc: u32_at(36),
            fwd_cnt: u32_at(40),
        }
    }

    /// The header as bytes.
    pub fn bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        let kind_and_op = u32::from(self.kind) | u32::from(self.op) << 16;
        let rest = [self.src_port, self.dst_port, self.len, kind_and_op, self.flags, self.buf_alloc, self.fwd_cnt];
        for (place, value) in bytes[16..].chunks_exact_mut(4).zip(rest) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_44_bytes_little_endian() {
        let header = Header {
            src_cid: 0x0807_0605_0403_0201,
            dst_cid: 0x100f_0e0d_0c0b_0a09,
            src_port: 0x1413_1211,
            dst_port: 0x1817_1615,
            len: 0x1c1b_1a19,
            kind: 0x1e1d,
            op: 0x201f,
            flags: 0x2423_2221,
            buf_alloc: 0x2827_2625,
            fwd_cnt: 0x2c2b_2a29,
        };
        let bytes: [u8; HEADER_BYTES] = std::array::from_fn(|at| at as u8 + 1);
        assert_eq!((header.bytes(), Header::parse(&bytes)), (bytes, header));
        assert_eq!([0, 1, 7, 8, u16::MAX].map(Op::of), [None, Some(Op::Request), Some(Op::CreditRequest), None, None]);
    }
}
