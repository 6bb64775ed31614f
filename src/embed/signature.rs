//! The types of functions between a sandbox and its host, and how a guest's file writes them down: `u64(i32, bytes)`.
//!
//! Values go by the System V calling convention: each type takes one integer register, text and bytes two, address and length; a
//! function has six for its parameters and two for its result. Leaves out floating point and structures.
//! Source: x86-64 psABI §3.2.3 (parameter passing).

use std::fmt;

/// Registers for parameters: RDI, RSI, RDX, RCX, R8, R9.
pub const PARAMETER_SLOTS: usize = 6;
/// Longest signature that is read from a file, in bytes.
const TEXT_MAX: usize = 256;

/// A type of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// No value: only as a result.
    Void,
    /// True or false.
    Bool,
    /// 32 bits with a sign.
    I32,
    /// 32 bits.
    U32,
    /// 64 bits with a sign.
    I64,
    /// 64 bits.
    U64,
    /// Bytes: address and length.
    Bytes,
    /// UTF-8: address and length.
    Text,
}

/// All types and their names.
const NAMES: [(Type, &str); 8] = [
    (Type::Void, "void"),
    (Type::Bool, "bool"),
    (Type::I32, "i32"),
    (Type::U32, "u32"),
    (Type::I64, "i64"),
    (Type::U64, "u64"),
    (Type::Bytes, "bytes"),
    (Type::Text, "text"),
];

impl Type {
    /// Integer registers that a value takes.
    pub const fn slots(self) -> usize {
        match self {
            Type::Void => 0,
            Type::Bytes | Type::Text => 2,
            _ => 1,
        }
    }

    fn name(self) -> &'static str {
        NAMES.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    fn parse(name: &str) -> Option<Type> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }
}

/// What a function takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Its result.
    pub result: Type,
    /// Its parameters; they fit into [`PARAMETER_SLOTS`].
    pub parameters: Vec<Type>,
}

impl Signature {
    /// A signature; `None` where its parameters need more registers than there are.
    pub fn new(result: Type, parameters: &[Type]) -> Option<Signature> {
        let fits = parameters.iter().map(|parameter| parameter.slots()).sum::<usize>() <= PARAMETER_SLOTS;
        fits.then(|| Signature { result, parameters: parameters.to_vec() })
    }

    /// Reads one as a guest's file has it; `None` where it is none, or takes more registers than there are.
    pub fn parse(text: &str) -> Option<Signature> {
        if text.len() > TEXT_MAX {
            return None;
        }
        let (result, parameters) = text.trim().strip_suffix(')')?.split_once('(')?;
        let result = Type::parse(result.trim())?;
        if ["", "void"].contains(&parameters.trim()) {
            return Signature::new(result, &[]);
        }
        let parameter = |name: &str| Type::parse(name.trim()).filter(|kind| *kind != Type::Void);
        Signature::new(result, &parameters.split(',').map(parameter).collect::<Option<Vec<_>>>()?)
    }

    /// Whether it is the same as one that is not kept.
    pub fn is(&self, result: Type, parameters: &[Type]) -> bool {
        self.result == result && self.parameters == parameters
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&describe(self.result, &self.parameters))
    }
}

/// A signature as a guest's file writes it.
pub fn describe(result: Type, parameters: &[Type]) -> String {
    let parameters: Vec<_> = parameters.iter().map(|parameter| parameter.name()).collect();
    format!("{}({})", result.name(), parameters.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read_as_they_are_written() {
        for text in ["u64(u64, u64)", "void()", "text(bytes, i32, bool, u32)", "bytes(text, text, text)", "i64(i64)"] {
            assert_eq!(Signature::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Signature::parse(" u64 (void) ").unwrap().to_string(), "u64()");
        assert_eq!(Signature::parse("u64(u64,i32)").unwrap().parameters, [Type::U64, Type::I32]);
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        let long = format!("u64({}u64)", " ".repeat(TEXT_MAX));
        for text in ["", "u64", "u64(", ")(", "f64()", "u64(void, u64)", "u64(u64,)", "u64()()", "U64()", &long] {
            assert_eq!(Signature::parse(text), None, "{text}");
        }
    }

    #[test]
    fn parameters_have_six_registers() {
        assert!(Signature::parse("void(u64, u64, u64, u64, u64, u64)").is_some());
        assert!(Signature::parse("void(bytes, text, u64, u64, u64)").is_none());
        assert!(Signature::new(Type::Void, &[Type::Bytes; 4]).is_none());
    }
}
