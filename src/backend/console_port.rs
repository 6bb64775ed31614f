//! The host's side of a port of a virtio console: takes what the guest writes there and has what it reads, without waiting.

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TerminalSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// A port. Whoever is behind it wakes the device's waker when there is something new: input, room, another size.
pub trait ConsolePort: Send {
    /// The name by which the guest finds it; `None` for a console, which it finds as a terminal.
    fn name(&self) -> Option<&'static str>;

    /// Bytes that it takes now. After 0, the waker tells of room.
    fn room(&mut self) -> usize;

    /// Takes what the guest wrote: no more than there is room for.
    fn write(&mut self, bytes: &[u8]);

    /// Whether bytes wait for the guest.
    fn has_input(&mut self) -> bool;

    /// Puts the next bytes for the guest into `bytes` and returns how many.
    fn read(&mut self, bytes: &mut [u8]) -> usize;

    /// The size of the terminal behind it, where there is one.
    fn size(&self) -> Option<TerminalSize> {
        None
    }
}
