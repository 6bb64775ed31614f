//! Guest memory: where RAM lies in the guest-physical address space, and the RAM itself.

pub mod map;
pub mod ram;
