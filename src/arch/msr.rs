//! msr
