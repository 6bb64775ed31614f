//! Signals: what processes do about them, which are pending, and handlers that are run.

pub mod deliver;
pub mod extended;
pub mod frame;
pub mod handling;
pub mod info;
pub mod state;
pub mod terminal;
pub mod timers;
