//! A directory of a test's own.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A directory that is empty at first and gone at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A directory; `name` tells it from those of other tests of this process.
    pub fn new(name: &str) -> Scratch {
        let directory = std::env::temp_dir().join(format!("hostel-{name}-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("the directory for temporary files takes one more");
        Scratch(directory)
    }

    /// A directory in which the switches of one test are, and nobody else's (`XDG_RUNTIME_DIR`).
    pub fn runtime(name: &str) -> Scratch {
        let scratch = Scratch::new(name);
        let ours = DirBuilder::new().mode(0o700).create(scratch.join("hostel"));
        ours.expect("the scratch directory takes one");
        scratch
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where a file of this name is, or would be.
    pub fn join(&self, name: &str) -> String {
        self.0.join(name).into_os_string().into_string().expect("the path is text")
    }

    /// Writes a file; returns where it is.
    pub fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.join(name);
        std::fs::write(&path, content).expect("the directory takes a file");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory that stays is no failure of what was tested.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
