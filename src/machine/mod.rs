//! The system VM: what it is made of, how its exits are answered, how it lives and ends.
#![forbid(unsafe_code)]

pub mod junit;
pub mod outcome;
pub mod report;
pub mod report_file;
