//! Running a vCPU: the loop from exit to reply, the thread around it, and the traits by which others take part.
#![forbid(unsafe_code)]

pub mod cpu;
pub mod handler;
pub mod run_loop;
pub mod scripted;
pub mod thread;
