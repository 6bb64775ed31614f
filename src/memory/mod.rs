//! Memory: where RAM lies in the guest-physical address space, the RAM itself, sizes as users write them, and the process's own heap.

pub mod dirty;
pub mod heap;
pub mod map;
pub mod ram;
pub mod size;
pub mod window;
