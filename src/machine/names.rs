//! Names for a guest's code: from the file that the user gives, else from the image itself, where it is an ELF file with a
//! symbol table.
//!
//! An image is searched for them only when a name is asked for: a run that goes well and is not traced needs none.

use super::build;
use crate::boot::error::BootError;
use crate::boot::image::Image;
use crate::config::RunConfig;
use crate::debug::symbols::Symbols;
use std::cell::LazyCell;

/// Symbols that are read when the first is asked for.
pub type Names = LazyCell<Symbols, Box<dyn FnOnce() -> Symbols>>;

/// The symbols of a run.
///
/// # Errors
/// The user's file has none, or cannot be read.
pub fn names(config: &RunConfig) -> Result<Names, BootError> {
    if let Some(path) = &config.boot.symbols {
        let symbols = Symbols::read(&Image::open(path)?)?;
        return Ok(LazyCell::new(Box::new(|| symbols)));
    }
    // An image without names is no error: most have none.
    let image = config.image.clone();
    let own = move || build::image(image.as_deref()).map(|image| Symbols::of_image(&image)).unwrap_or_default();
    Ok(LazyCell::new(Box::new(own)))
}
