//! Loads the kernel modules that Hostel found for the machine's devices (`src/boot/modules.rs`), in the order of their list.
//!
//! Source: finit_module(2).

use crate::print;
use crate::syscalls::{self, Access, Errno};

/// The list: a path on each line.
const LIST: &str = "/modules/order";
/// The longest list: `MODULES_MAX` names.
const LIST_BYTES: usize = 8192;

/// Loads all of them, if there are any; what fails is said, and the rest is loaded.
pub fn load() {
    let mut buffer = [0; LIST_BYTES];
    let Ok(list) = syscalls::open(LIST, Access::Read) else { return };
    let bytes = syscalls::read(list, &mut buffer).unwrap_or(0);
    syscalls::close(list);
    for path in str::from_utf8(&buffer[..bytes]).unwrap_or_default().lines() {
        if let Err(error) = load_one(path) {
            print!("cannot load {path}: {error}\n");
        }
    }
}

fn load_one(path: &str) -> Result<(), Errno> {
    /// It is loaded, or built in.
    const EXISTS: Errno = Errno(17);
    let file = syscalls::open(path, Access::Read)?;
    let result = syscalls::load_module(file);
    syscalls::close(file);
    if result == Err(EXISTS) { Ok(()) } else { result }
}
