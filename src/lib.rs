//! Hostel: a hosted virtual machine monitor for Linux KVM on x86-64.
