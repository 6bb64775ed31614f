//! System calls: a table of numbers, names, arguments and answers, and the answers by subject.

pub mod alarm;
pub mod attributes;
pub mod call;
pub mod descriptors;
pub mod directory;
pub mod futex;
pub mod identity;
pub mod kill;
pub mod memory;
pub mod names;
pub mod open;
pub mod process;
pub mod ready;
pub mod signals;
pub mod spawn;
pub mod system;
pub mod table;
pub mod terminal;
pub mod time;
pub mod timers;
pub mod transfer;
pub mod wait;
