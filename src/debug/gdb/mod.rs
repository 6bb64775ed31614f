//! The gdb stub of `hostel run --gdb ADDRESS`: acts on vCPUs and RAM, and knows no machine.

pub mod breakpoints;
pub mod control;
pub mod gate;
pub mod hardware;
pub mod memory;
pub mod monitor;
pub mod probe;
pub mod registers;
pub mod stub;
pub mod target;
