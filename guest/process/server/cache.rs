//! Small files that were read once: they are answered without the disk. Files do not change, so nothing is ever thrown out; what
//! finds no room stays on the disk.

use crate::guarded::Guarded;
use crate::http::Name;
use crate::memory;

/// Most files, and most bytes of one.
const FILES_MAX: usize = 64;
const FILE_BYTES_MAX: usize = 4 << 10;

/// The files.
pub struct Cache(Guarded<[Entry; FILES_MAX]>);

/// A place for one.
enum Entry {
    Free,
    /// Somebody reads it.
    Loading,
    /// The reader was given up; the room is kept.
    Room(&'static mut [u8]),
    Loaded(Name, &'static [u8]),
}

/// A file that is being read into its place. It must be given back.
pub struct Loading {
    at: usize,
    room: &'static mut [u8],
    bytes: usize,
}

impl Loading {
    /// Where its bytes from `offset` on belong.
    pub fn rest(&mut self, offset: usize) -> &mut [u8] {
        self.room.get_mut(offset..self.bytes).unwrap_or_default()
    }

    /// What is there from `offset` on, so many bytes.
    pub fn loaded(&self, offset: usize, bytes: usize) -> &[u8] {
        self.room.get(offset..offset + bytes).unwrap_or_default()
    }
}

impl Cache {
    /// An empty one.
    pub const fn new() -> Cache {
        Cache(Guarded::new([const { Entry::Free }; FILES_MAX]))
    }

    /// The file, if it is here.
    pub fn look(&self, name: &Name) -> Option<&'static [u8]> {
        self.0.with(|entries| {
            entries.iter().find_map(|entry| match entry {
                Entry::Loaded(other, content) if other == name => Some(*content),
                _ => None,
            })
        })
    }

    /// A place for a file of so many bytes, if it is small and there is one.
    pub fn begin(&self, bytes: u64) -> Option<Loading> {
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= FILE_BYTES_MAX)?;
        self.0.with(|entries| {
            let at = entries.iter().position(|entry| matches!(entry, Entry::Free | Entry::Room(_)))?;
            let entry = entries.get_mut(at)?;
            let room = match core::mem::replace(entry, Entry::Loading) {
                Entry::Room(room) => Some(room),
                _ => memory::bytes(FILE_BYTES_MAX),
            };
            if room.is_none() {
                *entry = Entry::Free;
            }
            Some(Loading { at, room: room?, bytes })
        })
    }

    /// Keeps a file that was read to its end, unless it is here already; or gives its place back.
    pub fn end(&self, loading: Loading, name: &Name, is_whole: bool) {
        let Loading { at, room, bytes } = loading;
        let is_new = is_whole && self.look(name).is_none();
        self.0.with(|entries| {
            let Some(entry) = entries.get_mut(at) else { return };
            *entry = if is_new {
                let room: &'static [u8] = room;
                Entry::Loaded(*name, room.get(..bytes).unwrap_or_default())
            } else {
                Entry::Room(room)
            };
        });
    }
}
