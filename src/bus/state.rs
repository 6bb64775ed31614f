//! Taking a saved state apart, byte by byte and never past its end. A saved state is untrusted: it may come from a file.

use super::device::{DeviceState, StateError};

/// Reads the fields of a [`DeviceState`] in the order in which the device saved them. Numbers are little-endian.
#[derive(Debug)]
pub struct StateReader<'a> {
    kind: &'static str,
    rest: &'a [u8],
}

impl<'a> StateReader<'a> {
    /// Opens a state that must be of `kind`.
    ///
    /// # Errors
    /// [`StateError::Kind`].
    pub fn open(state: &'a DeviceState, kind: &'static str) -> Result<StateReader<'a>, StateError> {
        if state.kind == kind {
            Ok(StateReader { kind, rest: &state.bytes })
        } else {
            Err(StateError::Kind { wanted: kind, found: state.kind })
        }
    }

    /// The error for a value that makes no sense.
    pub fn refuse(&self, what: &'static str) -> StateError {
        StateError::Value { kind: self.kind, what }
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// The state is shorter. So for all other fields.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.refuse("the state is too short"))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// See [`StateReader::array`].
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], StateError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.refuse("the state is too short"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next byte.
    ///
    /// # Errors
    /// See [`StateReader::array`].
    pub fn u8(&mut self) -> Result<u8, StateError> {
        self.array().map(u8::from_le_bytes)
    }

    /// The next 16-bit number.
    ///
    /// # Errors
    /// See [`StateReader::array`].
    pub fn u16(&mut self) -> Result<u16, StateError> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next 32-bit number.
    ///
    /// # Errors
    /// See [`StateReader::array`].
    pub fn u32(&mut self) -> Result<u32, StateError> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next 64-bit number.
    ///
    /// # Errors
    /// See [`StateReader::array`].
    pub fn u64(&mut self) -> Result<u64, StateError> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next byte as a flag: 0 or 1.
    ///
    /// # Errors
    /// See [`StateReader::array`]; or another value.
    pub fn flag(&mut self) -> Result<bool, StateError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.refuse("a flag is neither 0 nor 1")),
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Bytes are left over.
    pub fn end(self) -> Result<(), StateError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.refuse("the state is too long")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_out_in_order_and_never_past_the_end() {
        let state = DeviceState { kind: "a/1", bytes: vec![1, 2, 3, 7, 8] };
        assert_eq!(StateReader::open(&state, "b/1").unwrap_err(), StateError::Kind { wanted: "b/1", found: "a/1" });
        let mut reader = StateReader::open(&state, "a/1").unwrap();
        assert_eq!((reader.flag(), reader.u16()), (Ok(true), Ok(0x0302)));
        assert_eq!(reader.u32(), Err(StateError::Value { kind: "a/1", what: "the state is too short" }));
        assert_eq!(reader.flag(), Err(StateError::Value { kind: "a/1", what: "a flag is neither 0 nor 1" }));
        assert_eq!(reader.end(), Err(StateError::Value { kind: "a/1", what: "the state is too long" }));
    }
}
