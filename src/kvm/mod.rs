//! The only room that names `kvm-ioctls`: a machine, its vCPUs, their exits and interrupts, as plain values.

pub mod exit;
