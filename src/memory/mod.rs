//! Memory: where RAM lies in the guest-physical address space, the RAM itself, and the process's own heap.

pub mod heap;
pub mod map;
pub mod ram;
