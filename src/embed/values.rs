//! Values of Rust between a guest and its host: which types they have there, and how they go into registers and memory.
//!
//! Source: x86-64 psABI §3.2.3 (parameter passing).

use super::error::CallError;
use super::memory::Memory;
use super::signature::{PARAMETER_SLOTS, Type};

/// A value that the host passes: an argument of a call, or a host function's result.
pub trait ToGuest {
    /// Its type in the guest.
    const TYPE: Type;

    /// Its registers; what does not fit there is put into the buffer.
    ///
    /// # Errors
    /// The buffer has no room for it.
    fn pass(&self, memory: &mut Memory) -> Result<[u64; 2], CallError>;
}

/// A value that the guest passes: a result, or an argument of a host function. It is the host's own.
pub trait FromGuest: Sized {
    /// Its type in the guest.
    const TYPE: Type;

    /// The value behind these registers.
    ///
    /// # Errors
    /// It is not in the guest's memory, or is not what it should be.
    fn take(slots: [u64; 2], memory: &Memory) -> Result<Self, CallError>;
}

/// Numbers: in the guest a register has them extended to 64 bits; of what comes from there, only the type's own bits count.
macro_rules! numbers {
    ($($kind:ident, $wide:ident, $name:ident;)*) => {$(
        impl ToGuest for $kind {
            const TYPE: Type = Type::$name;

            fn pass(&self, _memory: &mut Memory) -> Result<[u64; 2], CallError> {
                Ok([*self as $wide as u64, 0])
            }
        }

        impl FromGuest for $kind {
            const TYPE: Type = Type::$name;

            fn take(slots: [u64; 2], _memory: &Memory) -> Result<$kind, CallError> {
                Ok(slots[0] as $kind)
            }
        }
    )*};
}

numbers! {
    i32, i64, I32;
    u32, u64, U32;
    i64, i64, I64;
    u64, u64, U64;
}

impl ToGuest for bool {
    const TYPE: Type = Type::Bool;

    fn pass(&self, _memory: &mut Memory) -> Result<[u64; 2], CallError> {
        Ok([(*self).into(), 0])
    }
}

impl FromGuest for bool {
    const TYPE: Type = Type::Bool;

    fn take(slots: [u64; 2], _memory: &Memory) -> Result<bool, CallError> {
        // Only the lowest byte counts, and a program that is no good compiler's may have anything in it.
        Ok(slots[0] as u8 != 0)
    }
}

impl ToGuest for () {
    const TYPE: Type = Type::Void;

    fn pass(&self, _memory: &mut Memory) -> Result<[u64; 2], CallError> {
        Ok([0; 2])
    }
}

impl FromGuest for () {
    const TYPE: Type = Type::Void;

    fn take(_slots: [u64; 2], _memory: &Memory) -> Result<(), CallError> {
        Ok(())
    }
}

macro_rules! passed_bytes {
    ($($kind:ty, $name:ident;)*) => {$(
        impl ToGuest for $kind {
            const TYPE: Type = Type::$name;

            fn pass(&self, memory: &mut Memory) -> Result<[u64; 2], CallError> {
                memory.pass(self.as_ref())
            }
        }
    )*};
}

passed_bytes! {
    &[u8], Bytes;
    Vec<u8>, Bytes;
    &str, Text;
    String, Text;
}

impl FromGuest for Vec<u8> {
    const TYPE: Type = Type::Bytes;

    fn take(slots: [u64; 2], memory: &Memory) -> Result<Vec<u8>, CallError> {
        memory.take(slots[0], slots[1])
    }
}

impl FromGuest for String {
    const TYPE: Type = Type::Text;

    fn take(slots: [u64; 2], memory: &Memory) -> Result<String, CallError> {
        String::from_utf8(memory.take(slots[0], slots[1])?).map_err(|_| CallError::Text)
    }
}

/// The arguments of a call: a tuple of up to six values.
pub trait Arguments {
    /// Their types.
    const TYPES: &'static [Type];

    /// Their registers, which are enough: the guest's function has the same types.
    ///
    /// # Errors
    /// The buffer has no room for them.
    fn pass(&self, memory: &mut Memory) -> Result<[u64; PARAMETER_SLOTS], CallError>;
}

/// The registers of a call's parameters, one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slots {
    slots: [u64; PARAMETER_SLOTS],
    next: usize,
}

impl Slots {
    /// What a function was called with.
    pub fn of(slots: [u64; PARAMETER_SLOTS]) -> Slots {
        Slots { slots, next: 0 }
    }

    /// The next parameter.
    ///
    /// # Errors
    /// As [`FromGuest::take`].
    pub fn take<T: FromGuest>(&mut self, memory: &Memory) -> Result<T, CallError> {
        let slot = |index: usize| self.slots.get(index).copied().unwrap_or(0);
        let value = [slot(self.next), slot(self.next + 1)];
        self.next += T::TYPE.slots();
        T::take(value, memory)
    }

    fn put(&mut self, kind: Type, value: [u64; 2]) {
        for word in &value[..kind.slots()] {
            if let Some(slot) = self.slots.get_mut(self.next) {
                *slot = *word;
            }
            self.next += 1;
        }
    }
}

macro_rules! arguments {
    ($($name:ident)*) => {
        impl<$($name: ToGuest),*> Arguments for ($($name,)*) {
            const TYPES: &'static [Type] = &[$($name::TYPE),*];

            #[allow(non_snake_case, unused_variables, reason = "a name is a type's and its value's, and there may be none")]
            fn pass(&self, memory: &mut Memory) -> Result<[u64; PARAMETER_SLOTS], CallError> {
                let ($($name,)*) = self;
                #[allow(unused_mut, reason = "there may be no arguments")]
                let mut slots = Slots::default();
                $(slots.put($name::TYPE, $name.pass(memory)?);)*
                Ok(slots.slots)
            }
        }
    };
}

arguments!();
arguments!(A);
arguments!(A B);
arguments!(A B C);
arguments!(A B C D);
arguments!(A B C D E);
arguments!(A B C D E F);
