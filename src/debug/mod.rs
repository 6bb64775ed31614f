//! Telling what a guest does and where it stands: symbols, decoded instructions, registers, diagnoses.
#![forbid(unsafe_code)]

pub mod budget;
pub mod cause;
pub mod code_cache;
pub mod columns;
pub mod counters;
pub mod crash;
pub mod decode;
pub mod delivery;
pub mod difference;
pub mod event;
pub mod explain;
pub mod filter;
#[cfg(test)]
mod fixture;
pub mod fold;
pub mod gdb;
pub mod golden;
pub mod golden_file;
pub mod histogram;
pub mod json_lines;
pub mod kvm_calls;
pub mod lines;
pub mod listing;
pub mod locate;
pub mod mapping;
pub mod milestones;
pub mod normal_form;
pub mod occasion;
pub mod packed;
pub mod page;
pub mod recorder;
pub mod recording;
pub mod registers;
pub mod sink;
pub mod standstill;
pub mod step;
pub mod summary;
pub mod symbols;
pub mod timeline;
pub mod trace_thread;
pub mod tracer;
