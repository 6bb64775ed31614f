//! `--root` of an archive or an image: it is unpacked before the machine is built, and what is run is a root of a directory, which
//! the guest only reads.
//!
//! A signal that comes meanwhile ends it; what was unpacked is gone then, as it is at the end of the run.

use super::console::say;
use super::root;
use crate::backend::share::server::Rights;
use crate::backend::signals::Signals;
use crate::backend::unpack::budget::Budget;
use crate::backend::unpack::error::{Problem, UnpackError};
use crate::backend::unpack::layout::ImageCommand;
use crate::backend::unpack::root::{Unpacked, unpack as unpack_archive};
use crate::config::{ROOT_TAG, RunConfig};
use crate::event_loop::Waker;
use std::io;

/// Bytes that the guest's init takes at most of a path (PATH_MAX in `limits.h`, less the end).
const PATH_MAX: usize = 4095;
/// Variables that an image may have, and their bytes: less than the init takes, which gets some more.
const VARIABLES_MAX: usize = 256;
const ENVIRONMENT_MAX: usize = 32 << 10;

/// A root that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The archive.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// What an image says of its command.
    #[error("the image's command: {0}")]
    Command(String),
    /// Signals cannot be caught.
    #[error("catch signals: {0}")]
    Signals(io::Error),
    /// One came.
    #[error("ended by signal {0}")]
    Signal(i32),
}

/// A run whose root was unpacked; the tree is there until this is dropped.
pub struct UnpackedRoot {
    /// The run, with the tree as the shared directory.
    pub config: RunConfig,
    _tree: Unpacked,
}

/// Unpacks what `config` has as its root, if that is an archive.
///
/// # Errors
/// It cannot be unpacked or run, or a signal came.
pub fn unpack(config: &RunConfig) -> Result<Option<UnpackedRoot>, RootError> {
    let Some((choice, source)) = config.root.as_ref().and_then(|root| Some((root, root.packed?))) else {
        return Ok(None);
    };
    let signals = Waker::new().and_then(Signals::catch).map_err(RootError::Signals)?;
    let stop = || signals.came().is_some();
    let tree = unpack_archive(&choice.path, source, &std::env::temp_dir(), &Budget::new(), &stop);
    let tree = tree.map_err(|error| match (signals.came(), error) {
        (Some(signal), UnpackError { problem: Problem::Interrupted, .. }) => RootError::Signal(signal),
        (_, error) => error.into(),
    })?;
    let mut config = config.clone();
    let command = &tree.command;
    root::check_command(&command.words).map_err(RootError::Command)?;
    check(command).map_err(RootError::Command)?;
    if !matches!(command.user.as_str(), "" | "0" | "root" | "0:0" | "root:root") {
        say(&format!("the image's command is for user {}: it runs as user 0", command.user.escape_debug()));
    }
    for share in config.devices.share.iter_mut().filter(|share| share.tag.as_deref() == Some(ROOT_TAG)) {
        (share.path, share.rights) = (tree.path(), Rights::ReadAs(tree.guise.clone()));
    }
    if let Some(root) = &mut config.root {
        root.command = command.clone();
    }
    Ok(Some(UnpackedRoot { config, _tree: tree }))
}

/// Whether the init can take where a command begins and what its environment is.
fn check(command: &ImageCommand) -> Result<(), String> {
    let ImageCommand { words, environment, directory, .. } = command;
    let bytes: usize = environment.iter().map(|variable| variable.len() + 1).sum();
    if environment.len() > VARIABLES_MAX || bytes > ENVIRONMENT_MAX {
        return Err(format!(
            "its environment has {} variables of {bytes} bytes: {VARIABLES_MAX} of {ENVIRONMENT_MAX} fit",
            environment.len()
        ));
    }
    // Of several the init has the last.
    let path = environment.iter().rfind(|variable| variable.starts_with("PATH="));
    match words.first().into_iter().chain(path).chain([directory]).find(|path| path.len() >= PATH_MAX) {
        Some(path) => Err(format!("a path of {} bytes: {PATH_MAX} fit", path.len())),
        None => Ok(()),
    }
}
