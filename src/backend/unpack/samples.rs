//! Archives, good and bad, and layouts of images, for the tests.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use tar::{Builder, EntryType, Header};

/// What a member is.
#[derive(Clone, Copy)]
pub enum Is<'a> {
    File(&'a [u8]),
    Directory,
    Link(&'a str),
    HardLink(&'a str),
    Character(u32, u32),
    Fifo,
}

/// A directory of a test's own, gone at the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("hostel-archives-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// The header of a member, its name as it is, whatever that may be.
pub fn header(name: &str, is: Is<'_>, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(0);
    let mut link = |kind, target: &str| {
        header.set_entry_type(kind);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    };
    match is {
        Is::Link(target) => link(EntryType::Symlink, target),
        Is::HardLink(target) => link(EntryType::Link, target),
        Is::File(content) => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(content.len() as u64);
        }
        Is::Directory => header.set_entry_type(EntryType::Directory),
        Is::Fifo => header.set_entry_type(EntryType::Fifo),
        Is::Character(major, minor) => {
            header.set_entry_type(EntryType::Char);
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        }
    }
    header.set_cksum();
    header
}

/// An archive of these members.
pub fn archive(members: &[(&str, Is<'_>)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, is) in members {
        let mode = if matches!(is, Is::Directory) { 0o755 } else { 0o644 };
        append(&mut builder, &header(name, *is, mode), *is);
    }
    builder.into_inner().unwrap()
}

pub fn append(builder: &mut Builder<Vec<u8>>, header: &Header, is: Is<'_>) {
    let content = if let Is::File(content) = is { content } else { &[] };
    builder.append(header, content).unwrap();
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Two frames, and one between them that holds nothing.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    let frame = |bytes| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
    let (front, rest) = bytes.split_at(bytes.len() / 2);
    [&frame(front)[..], b"\x50\x2a\x4d\x18\x03\0\0\0abc", &frame(rest)].concat()
}

/// Chunks that are not packed, without a check (The .xz File Format §2 to §4).
pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let with_sum = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        [bytes, &crc.sum().to_le_bytes()].concat()
    };
    let padded = |mut bytes: Vec<u8>| {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let number = |mut value: usize| {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    };
    let block_header = with_sum(&[2, 0, 0x21, 1, 16, 0, 0, 0]);
    let mut data = Vec::new();
    for (index, chunk) in bytes.chunks(0x8000).enumerate() {
        data.push(if index == 0 { 1 } else { 2 });
        data.extend((chunk.len() as u16 - 1).to_be_bytes());
        data.extend(chunk);
    }
    data.push(0);
    let record = [number(block_header.len() + data.len()), number(bytes.len())].concat();
    let index = with_sum(&padded([&[0, 1][..], &record].concat()));
    let size = (index.len() as u32 / 4 - 1).to_le_bytes();
    let footer = with_sum(&[&size[..], &[0, 0]].concat());
    let stream_header = [b"\xfd7zXZ\0", &with_sum(&[0, 0])[..]].concat();
    [stream_header, block_header, padded(data), index, footer[6..].to_vec(), footer[..6].to_vec(), b"YZ".to_vec()]
        .concat()
}

/// A layout that is being made.
pub struct Layout {
    pub path: PathBuf,
}

impl Layout {
    pub fn new(path: &Path) -> Layout {
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Layout { path: path.into() }
    }

    /// Adds a blob; returns its descriptor.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(self.path.join("blobs/sha256").join(&hash), bytes).unwrap();
        json!({"mediaType": media_type, "digest": format!("sha256:{hash}"), "size": bytes.len()})
    }

    /// Adds an image for this processor; returns its manifest's descriptor.
    pub fn image(&self, architecture: &str, config: Value, layers: &[Vec<u8>]) -> Value {
        let layer = |bytes: &Vec<u8>| self.blob("application/vnd.oci.image.layer.v1.tar+gzip", bytes);
        let layers: Vec<_> = layers.iter().map(layer).collect();
        let config = json!({"architecture": architecture, "os": "linux", "config": config});
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        let mut manifest = self.blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
        manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
        manifest
    }

    /// Adds an index; returns its descriptor.
    pub fn nested(&self, manifests: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        self.blob("application/vnd.oci.image.index.v1+json", index.to_string().as_bytes())
    }

    /// Writes the layout's index.
    pub fn index(&self, manifests: &[Value]) {
        fs::write(self.path.join("index.json"), json!({"schemaVersion": 2, "manifests": manifests}).to_string())
            .unwrap();
    }

    /// Where a blob is.
    pub fn place(&self, descriptor: &Value) -> PathBuf {
        self.path.join("blobs/sha256").join(&descriptor["digest"].as_str().unwrap()["sha256:".len()..])
    }
}
