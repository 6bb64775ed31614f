//! The two ends of a serial line: what a serial device needs of the host, and what the host may do to the device.
//!
//! Neither end ever blocks. A side that has no room says so, and is told when there is room again.

/// The host's end of a serial line, as the device sees it. Called on the vCPU's thread, with the device locked.
pub trait SerialOutput: Send {
    /// Sends one byte. False: there is no room, the byte is lost and counted.
    fn put(&mut self, byte: u8) -> bool;

    /// Whether a byte put now is taken. While it is not, the transmitter shows itself busy, so that the guest waits as for
    /// a slow line; [`SerialInput::output_has_room`] tells the end of that.
    fn has_room(&self) -> bool;

    /// The receiver took less than it was offered, and has room now.
    fn input_has_room(&mut self);
}

/// A serial device, as the host's end of the line sees it. Called on the control thread.
pub trait SerialInput {
    /// Receives bytes and returns how many fitted, from the front. If that is not all of them,
    /// [`SerialOutput::input_has_room`] follows once the guest has made room.
    fn receive(&mut self, bytes: &[u8]) -> usize;

    /// Receives a break condition: the line held low for longer than a character (PC16550D §8.6.3).
    fn receive_break(&mut self);

    /// The line takes bytes again after [`SerialOutput::has_room`] was false.
    fn output_has_room(&mut self);
}
