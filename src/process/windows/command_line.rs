//! A program's command line, arguments and environment in its memory.
//!
//! A program for Windows gets one text and takes it apart itself; arguments are quoted so that it finds them again.
//! Source: Microsoft "Parsing C++ command-line arguments".

use super::kernel_process::own_path;
use super::layout;
use super::pe::PAGE;
use super::process::{Process, Texts};
use super::start::{Invocation, StartError, make, put};
use super::user::Memory;

/// Most bytes of arguments and environment.
pub(super) const TEXTS_MAX: usize = 4 << 20;

/// One argument as it stands in a command line: quoted where it must be, backslashes before a quote doubled.
fn quoted(argument: &[u8]) -> Vec<u8> {
    if !argument.is_empty() && !argument.iter().any(|byte| matches!(byte, b' ' | b'\t' | b'"')) {
        return argument.to_vec();
    }
    let (mut out, mut backslashes) = (vec![b'"'], 0);
    for byte in argument {
        match byte {
            b'\\' => backslashes += 1,
            b'"' => {
                out.extend(std::iter::repeat_n(b'\\', backslashes + 1));
                backslashes = 0;
            }
            _ => backslashes = 0,
        }
        out.push(*byte);
    }
    out.extend(std::iter::repeat_n(b'\\', backslashes));
    out.push(b'"');
    out
}

/// Puts command line, arguments and environment into memory.
pub(super) fn put_texts(how: Invocation, memory: &mut dyn Memory, process: &mut Process) -> Result<Texts, StartError> {
    let path = own_path(&how.path);
    let arguments: Vec<&[u8]> =
        std::iter::once(path.as_slice()).chain(how.arguments.iter().map(Vec::as_slice)).collect();
    let command_line = arguments.iter().map(|argument| quoted(argument)).collect::<Vec<_>>().join(&b' ');
    let variables: Vec<Vec<u8>> =
        how.environment.iter().map(|(name, value)| [name.as_slice(), b"=", value].concat()).collect();

    let mut bytes = Vec::new();
    let mut add = |text: &[u8]| {
        let at = layout::TEXTS + bytes.len() as u64;
        bytes.extend_from_slice(text);
        bytes.push(0);
        at
    };
    let mut texts = Texts { count: arguments.len() as u32, ..Texts::default() };
    texts.command_line = add(&command_line);
    texts.path = add(&path);
    let arguments: Vec<u64> = arguments.into_iter().map(&mut add).collect();
    let variables: Vec<u64> = variables.iter().map(|variable| add(variable)).collect();
    texts.variables = variables.first().copied().unwrap_or(0);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    for (list, place) in [(arguments, &mut texts.arguments), (variables, &mut texts.environment)] {
        *place = layout::TEXTS + bytes.len() as u64;
        bytes.extend(list.iter().chain(&[0]).flat_map(|address| address.to_le_bytes()));
    }
    if bytes.len() > TEXTS_MAX {
        return Err(StartError::Texts);
    }
    make(layout::TEXTS, (bytes.len() as u64).next_multiple_of(PAGE), memory)?;
    put(layout::TEXTS, &bytes, memory)?;
    process.environment = how.environment;
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn arguments_are_quoted_as_programs_read_them() {
        for (argument, want) in [
            ("plain", "plain"),
            ("", r#""""#),
            ("a b", r#""a b""#),
            (r#"a"b"#, r#""a\"b""#),
            (r#"a\"b"#, r#""a\\\"b""#),
            (r"a b\", r#""a b\\""#),
            (r"a\b", r"a\b"),
        ] {
            assert_eq!(quoted(argument.as_bytes()), want.as_bytes(), "{argument}");
        }
    }
}
