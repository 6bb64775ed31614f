//! Platform chips: pure state machines behind [`crate::bus::device::BusDevice`].
