//! As what files of a share are shown, where the host's own attributes are not meant: those that an ordinary user unpacked belong to
//! that user, and devices among them are empty files.
//!
//! All are shown as root's with the host's permissions, but for those that are noted otherwise, by their numbers. So it is good for one
//! file system that nobody else changes. Source: inode(7).

use rustix::fs::{FileType, Statx};
use std::collections::HashMap;

/// What a file is shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its type and permissions.
    pub mode: u16,
    /// Which device it is: major and minor number.
    pub device: (u32, u32),
}

/// What all files of a share are shown as.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Guise(HashMap<u64, Shown>);

impl Guise {
    /// Notes what the file of this number is, whose type and permissions on the host are `mode`.
    pub fn note(&mut self, number: u64, mode: u16, shown: Shown) {
        let plain = Shown { uid: 0, gid: 0, mode, device: (0, 0) };
        match shown == plain {
            true => self.0.remove(&number),
            false => self.0.insert(number, shown),
        };
    }

    /// The attributes that are shown of a file with these.
    pub fn of(&self, stat: &Statx) -> Statx {
        let mut shown_as = *stat;
        (shown_as.stx_uid, shown_as.stx_gid) = (0, 0);
        if let Some(shown) = self.0.get(&stat.stx_ino) {
            (shown_as.stx_uid, shown_as.stx_gid, shown_as.stx_mode) = (shown.uid, shown.gid, shown.mode);
            (shown_as.stx_rdev_major, shown_as.stx_rdev_minor) = shown.device;
        }
        shown_as
    }

    /// The type of the file of this number, where it is not the host's.
    pub fn kind(&self, number: u64) -> Option<FileType> {
        self.0.get(&number).map(|shown| FileType::from_raw_mode(shown.mode.into()))
    }
}
