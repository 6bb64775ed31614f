//! Unpacking as a whole: an archive or the layers of an image, into a private directory below which the tree is.
//!
//! Of layers, a member `.wh.NAME` hides NAME of the layers below, and `.wh..wh..opq` hides all that they have in its directory.
//! Source: OCI Image Specification "Image Layer Filesystem Changeset".

use super::archive::{self, Member};
use super::blobs::{Blobs, open_file};
use super::budget::{Budget, PIECE};
use super::compression::decoded;
use super::directory::PrivateDirectory;
use super::error::{Problem, UnpackError};
use super::layout::{self, ImageCommand};
use super::tree::Tree;
use crate::backend::share::guise::Guise;
use std::fs::DirBuilder;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a member begins with that hides another one.
const WHITEOUT: &[u8] = b".wh.";
/// A member that hides all of lower layers in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other members of this beginning are notes of a file system that no longer is.
const RESERVED: &[u8] = b".wh..wh.";

/// What is unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A tar archive, packed or not.
    Archive,
    /// An OCI layout.
    Layout,
}

/// A tree that is there until this is dropped.
pub struct Unpacked {
    directory: PrivateDirectory,
    /// What its files are to be shown as.
    pub guise: Arc<Guise>,
    /// What an image says of the command to run; nothing of an archive.
    pub command: ImageCommand,
}

impl Unpacked {
    /// Where the tree is.
    pub fn path(&self) -> PathBuf {
        tree(self.directory.path())
    }
}

fn tree(directory: &Path) -> PathBuf {
    directory.join("root")
}

/// Unpacks what is at `path` into a new directory in `parent`. `stop` is asked often whether to give up.
///
/// # Errors
/// It cannot be unpacked; nothing of it is left then.
pub fn unpack(
    path: &Path,
    source: Source,
    parent: &Path,
    budget: &Budget,
    stop: &dyn Fn() -> bool,
) -> Result<Unpacked, UnpackError> {
    let directory = PrivateDirectory::new(parent).and_then(|directory| {
        DirBuilder::new().mode(0o755).create(tree(directory.path()))?;
        // Whatever this process takes away from what it makes.
        std::fs::set_permissions(tree(directory.path()), std::fs::Permissions::from_mode(0o755))?;
        Ok(directory)
    });
    let unpacked =
        directory.map_err(|source| Problem::Directory { path: parent.into(), source }).and_then(|directory| {
            let mut tree = Tree::new(&tree(directory.path()), stop)?;
            let command = match source {
                Source::Archive => {
                    let mut file = BufReader::with_capacity(PIECE, open_file(path)?);
                    apply(&mut tree, &mut file, budget, false)?;
                    ImageCommand::default()
                }
                Source::Layout => apply_layers(&mut tree, path, budget)?,
            };
            Ok(Unpacked { directory, guise: Arc::new(tree.into_guise()), command })
        });
    unpacked.map_err(|problem| problem.of(path))
}

fn apply_layers(tree: &mut Tree, path: &Path, budget: &Budget) -> Result<ImageCommand, Problem> {
    let blobs = Blobs::of(path);
    let image = layout::image(path, &blobs)?;
    for layer in &image.layers {
        tree.begin_layer();
        blobs.with(layer, &mut |stream| apply(tree, stream, budget, true))?;
    }
    Ok(image.command)
}

/// Puts the members of an archive into the tree.
fn apply(tree: &mut Tree, stream: &mut dyn BufRead, budget: &Budget, is_layer: bool) -> Result<(), Problem> {
    let mut stream = decoded(stream).map_err(Problem::of_stream)?;
    let count = archive::for_each(&mut *stream, budget, &mut |member, content| match is_layer {
        true => put_of_layer(tree, member, content),
        false => tree.put(member, content),
    })?;
    // A layer may change nothing.
    if count == 0 && !is_layer { Err(Problem::Empty) } else { Ok(()) }
}

fn put_of_layer(tree: &mut Tree, member: &Member, content: &mut dyn Read) -> Result<(), Problem> {
    match member.path.split_last() {
        Some((name, parent)) if name == OPAQUE => tree.hide_all(parent),
        Some((name, _)) if name.starts_with(RESERVED) => Ok(()),
        Some((name, parent)) if name.starts_with(WHITEOUT) => {
            let hidden = match &name[WHITEOUT.len()..] {
                b"" | b"." | b".." => return Err(super::error::Fault::NoName.of(&member.path.join(&b'/'))),
                hidden => hidden.to_vec(),
            };
            tree.hide(&[parent, &[hidden]].concat())
        }
        _ => tree.put(member, content),
    }
}
