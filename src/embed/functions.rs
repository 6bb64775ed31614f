//! Functions of the host that a guest can call: closures of Rust with up to six parameters, whose types are those of the guest.
//!
//! A closure whose first parameter is `&mut Guest` can call the guest back. One that gives a `Result` can fail, which ends the call of
//! the guest in whose course it was called.

use super::error::{CallError, LoadError};
use super::guest::Guest;
use super::memory::Memory;
use super::signature::{PARAMETER_SLOTS, Signature, Type};
use super::values::{FromGuest, Slots, ToGuest};

/// How a function of the host is called: with the registers that the guest had, for those that it gets.
type Body = Box<dyn Fn(&mut Guest, [u64; PARAMETER_SLOTS]) -> Result<[u64; 2], CallError> + Send>;

/// A function of the host.
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its types.
    pub signature: Signature,
    /// What it does.
    pub body: Body,
}

/// A closure that can be a function of the host; `Types` are its own, by which the compiler finds the right form.
pub trait HostFunction<Types>: Send + Sized + 'static {
    /// The function, under this name.
    ///
    /// # Errors
    /// It takes more than six registers.
    fn named(self, name: &str) -> Result<Function, LoadError>;
}

/// What a function of the host gives: a value, or a `Result` of one.
pub trait HostResult {
    /// Its type in the guest.
    const TYPE: Type;

    /// Its registers.
    ///
    /// # Errors
    /// The function failed, or the buffer has no room.
    fn pass(self, memory: &mut Memory) -> Result<[u64; 2], CallError>;
}

macro_rules! results {
    ($($kind:ty)*) => {$(
        impl HostResult for $kind {
            const TYPE: Type = <$kind as ToGuest>::TYPE;

            fn pass(self, memory: &mut Memory) -> Result<[u64; 2], CallError> {
                ToGuest::pass(&self, memory)
            }
        }
    )*};
}

results!(() bool i32 u32 i64 u64 Vec<u8> String &'static [u8] &'static str);

impl<T: ToGuest> HostResult for Result<T, CallError> {
    const TYPE: Type = T::TYPE;

    fn pass(self, memory: &mut Memory) -> Result<[u64; 2], CallError> {
        ToGuest::pass(&self?, memory)
    }
}

/// Marks closures that take the guest first.
pub struct WithGuest<Types>(Types);

fn function(name: &str, result: Type, parameters: &[Type], body: Body) -> Result<Function, LoadError> {
    let signature = Signature::new(result, parameters).ok_or_else(|| LoadError::TooManyParameters(name.into()))?;
    Ok(Function { name: name.into(), signature, body })
}

macro_rules! host_functions {
    ($($name:ident)*) => {
        impl<Closure, Given, $($name),*> HostFunction<fn($($name),*) -> Given> for Closure
        where
            Closure: Fn($($name),*) -> Given + Send + 'static,
            Given: HostResult,
            $($name: FromGuest,)*
        {
            #[allow(non_snake_case, unused_mut, unused_variables, reason = "a name is a type's and its value's, and there may be none")]
            fn named(self, name: &str) -> Result<Function, LoadError> {
                function(name, Given::TYPE, &[$($name::TYPE),*], Box::new(move |guest, slots| {
                    let mut slots = Slots::of(slots);
                    $(let $name = slots.take(guest.memory())?;)*
                    self($($name),*).pass(guest.memory())
                }))
            }
        }

        impl<Closure, Given, $($name),*> HostFunction<WithGuest<fn($($name),*) -> Given>> for Closure
        where
            Closure: Fn(&mut Guest, $($name),*) -> Given + Send + 'static,
            Given: HostResult,
            $($name: FromGuest,)*
        {
            #[allow(non_snake_case, unused_mut, unused_variables, reason = "a name is a type's and its value's, and there may be none")]
            fn named(self, name: &str) -> Result<Function, LoadError> {
                function(name, Given::TYPE, &[$($name::TYPE),*], Box::new(move |guest, slots| {
                    let mut slots = Slots::of(slots);
                    $(let $name = slots.take(guest.memory())?;)*
                    self(guest, $($name),*).pass(guest.memory())
                }))
            }
        }
    };
}

host_functions!();
host_functions!(A);
host_functions!(A B);
host_functions!(A B C);
host_functions!(A B C D);
host_functions!(A B C D E);
host_functions!(A B C D E F);
