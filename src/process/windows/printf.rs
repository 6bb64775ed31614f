//! `printf`: a template and arguments become text, as msvcrt formats them.
//!
//! Exponents have three digits, `l` is 32 bits, `I64` 64. Leaves out `%n`, `%a` and the rounding of infinities; a conversion that
//! is none is printed as it stands.
//! Source: Microsoft "Format specification syntax: printf and wprintf functions".

/// Longest text that is made: a width is the program's to choose.
pub const FORMATTED_MAX: usize = 1 << 20;

/// Where arguments come from.
pub trait Arguments {
    /// Why one could not be had.
    type Error;

    /// The next argument, in eight bytes.
    ///
    /// # Errors
    /// It cannot be read.
    fn next(&mut self) -> Result<u64, Self::Error>;

    /// The text at `address`, at most `max` bytes of it; `wide`: of 16-bit units.
    ///
    /// # Errors
    /// It cannot be read.
    fn text(&mut self, address: u64, max: usize, wide: bool) -> Result<Vec<u8>, Self::Error>;
}

/// What stands between `%` and the letter.
#[derive(Clone, Copy, Debug, Default)]
struct Conversion {
    left: bool,
    sign: Option<char>,
    alternate: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
    /// Bytes of an integer.
    size: u32,
    wide: bool,
}

/// Formats `template`.
///
/// # Errors
/// An argument cannot be read.
pub fn format<A: Arguments>(template: &[u8], arguments: &mut A) -> Result<Vec<u8>, A::Error> {
    let mut out = Vec::new();
    let mut rest = template;
    while let Some((&byte, tail)) = rest.split_first()
        && out.len() < FORMATTED_MAX
    {
        rest = tail;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let whole = tail;
        let conversion = read(&mut rest, arguments)?;
        let Some((&letter, tail)) = rest.split_first() else { break };
        rest = tail;
        match convert(letter, &conversion, arguments)? {
            Some(text) => out.extend(text),
            None => {
                out.push(b'%');
                rest = whole;
            }
        }
    }
    out.truncate(FORMATTED_MAX);
    Ok(out)
}

/// A number in the template, or the next argument where `*` stands.
fn number<A: Arguments>(rest: &mut &[u8], arguments: &mut A) -> Result<Option<i64>, A::Error> {
    if let Some(tail) = rest.strip_prefix(b"*") {
        *rest = tail;
        return Ok(Some((arguments.next()? as i32).into()));
    }
    let mut value = None;
    while let Some((digit @ b'0'..=b'9', tail)) = rest.split_first() {
        value = Some((value.unwrap_or(0) * 10 + i64::from(digit - b'0')).min(FORMATTED_MAX as i64));
        *rest = tail;
    }
    Ok(value)
}

fn read<A: Arguments>(rest: &mut &[u8], arguments: &mut A) -> Result<Conversion, A::Error> {
    let mut conversion = Conversion { size: 4, ..Conversion::default() };
    while let Some((flag, tail)) = rest.split_first() {
        match flag {
            b'-' => conversion.left = true,
            b'+' => conversion.sign = Some('+'),
            b' ' => conversion.sign = conversion.sign.or(Some(' ')),
            b'#' => conversion.alternate = true,
            b'0' => conversion.zeros = true,
            _ => break,
        }
        *rest = tail;
    }
    let width = number(rest, arguments)?.unwrap_or(0);
    conversion.left |= width < 0;
    conversion.width = (width.unsigned_abs() as usize).min(FORMATTED_MAX);
    if let Some(tail) = rest.strip_prefix(b".") {
        *rest = tail;
        let precision = number(rest, arguments)?.unwrap_or(0);
        conversion.precision = usize::try_from(precision).ok().map(|digits| digits.min(FORMATTED_MAX));
    }
    for (prefix, size) in [
        (&b"I64"[..], 8),
        (b"I32", 4),
        (b"I", 8),
        (b"ll", 8),
        (b"l", 4),
        (b"hh", 1),
        (b"h", 2),
        (b"z", 8),
        (b"j", 8),
        (b"t", 8),
        (b"L", 4),
        (b"w", 4),
    ] {
        if let Some(tail) = rest.strip_prefix(prefix) {
            (*rest, conversion.size, conversion.wide) = (tail, size, prefix == b"l" || prefix == b"w");
            break;
        }
    }
    Ok(conversion)
}

/// The text of one conversion; `None`: there is none of that letter.
fn convert<A: Arguments>(letter: u8, how: &Conversion, arguments: &mut A) -> Result<Option<Vec<u8>>, A::Error> {
    let text = match letter {
        b'%' => return Ok(Some(b"%".to_vec())),
        b'd' | b'i' | b'u' | b'o' | b'x' | b'X' => integer(letter, how, arguments.next()?),
        b'p' => pad(how, "", format!("{:016X}", arguments.next()?).into_bytes(), false),
        b'c' | b'C' => pad(how, "", vec![arguments.next()? as u8], false),
        b's' | b'S' => {
            let (address, max) = (arguments.next()?, how.precision.unwrap_or(FORMATTED_MAX));
            let wide = how.wide || letter == b'S';
            let text = if address == 0 { b"(null)".to_vec() } else { arguments.text(address, max, wide)? };
            pad(how, "", text.into_iter().take(max).collect(), false)
        }
        b'e' | b'E' | b'f' | b'F' | b'g' | b'G' => float(letter, how, f64::from_bits(arguments.next()?)),
        _ => return Ok(None),
    };
    Ok(Some(text))
}

/// A sign or mark, and digits or text, in the width.
fn pad(how: &Conversion, mark: &str, body: Vec<u8>, zeros: bool) -> Vec<u8> {
    let fill = how.width.saturating_sub(mark.len() + body.len());
    let spaces = |on: bool| std::iter::repeat_n(b' ', if on { fill } else { 0 });
    let zeros = zeros && !how.left;
    spaces(!how.left && !zeros)
        .chain(mark.bytes())
        .chain(std::iter::repeat_n(b'0', if zeros { fill } else { 0 }))
        .chain(body)
        .chain(spaces(how.left))
        .collect()
}

fn integer(letter: u8, how: &Conversion, value: u64) -> Vec<u8> {
    let unused = 64 - how.size * 8;
    let unsigned = value << unused >> unused;
    let signed = (value << unused) as i64 >> unused;
    let (sign, mut digits) = match letter {
        b'd' | b'i' if signed < 0 => ("-", signed.unsigned_abs().to_string()),
        b'd' | b'i' => (how.sign.map_or("", |sign| if sign == '+' { "+" } else { " " }), signed.to_string()),
        b'o' => ("", format!("{unsigned:o}")),
        b'x' => (if how.alternate && unsigned != 0 { "0x" } else { "" }, format!("{unsigned:x}")),
        b'X' => (if how.alternate && unsigned != 0 { "0X" } else { "" }, format!("{unsigned:X}")),
        _ => ("", unsigned.to_string()),
    };
    if how.precision == Some(0) && unsigned == 0 {
        digits.clear();
    }
    if letter == b'o' && how.alternate && !digits.starts_with('0') {
        digits.insert(0, '0');
    }
    let missing = how.precision.unwrap_or(0).saturating_sub(digits.len());
    let body = std::iter::repeat_n(b'0', missing).chain(digits.into_bytes()).collect();
    pad(how, sign, body, how.zeros && how.precision.is_none())
}

fn float(letter: u8, how: &Conversion, value: f64) -> Vec<u8> {
    let sign = match how.sign {
        _ if value.is_sign_negative() => "-",
        Some('+') => "+",
        Some(_) => " ",
        None => "",
    };
    let value = value.abs();
    // Digits beyond those that any double has are zeros, but cost time.
    let precision = how.precision.unwrap_or(6).min(1100);
    let mut body = match letter.to_ascii_lowercase() {
        _ if value.is_infinite() => format!("1.#INF{}", "0".repeat(precision.saturating_sub(4).min(2))),
        _ if value.is_nan() => format!("1.#QNAN{}", "0".repeat(precision.saturating_sub(5).min(1))),
        b'f' => format!("{value:.precision$}"),
        b'e' => scientific(value, precision),
        _ => shortest(value, precision.max(1), how.alternate),
    };
    if how.alternate && !body.contains('.') {
        body.push('.');
    }
    if letter.is_ascii_uppercase() {
        body = body.to_uppercase();
    }
    pad(how, sign, body.into_bytes(), how.zeros && value.is_finite())
}

/// `%e`: at least three digits of exponent.
fn scientific(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (digits, exponent) = text.split_once('e').expect("Rust writes an exponent");
    let exponent: i32 = exponent.parse().expect("Rust writes a number");
    format!("{digits}e{}{:03}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// `%g`: so many significant digits, in the shorter of both forms.
fn shortest(value: f64, digits: usize, alternate: bool) -> String {
    let text = scientific(value, digits - 1);
    let (mantissa, exponent) = text.split_once('e').expect("an exponent was written");
    let exponent_value: i32 = exponent.parse().expect("it is a number");
    let trim = |text: &str| match text.contains('.') && !alternate {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text.to_string(),
    };
    if exponent_value < -4 || exponent_value >= digits as i32 {
        return format!("{}e{exponent}", trim(mantissa));
    }
    let places = (digits as i32 - 1 - exponent_value) as usize;
    trim(&format!("{value:.places$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arguments from a list; a text's address is its index in a second one.
    struct List(Vec<u64>, Vec<&'static str>);

    impl Arguments for List {
        type Error = ();

        fn next(&mut self) -> Result<u64, ()> {
            if self.0.is_empty() { Err(()) } else { Ok(self.0.remove(0)) }
        }

        fn text(&mut self, address: u64, max: usize, _wide: bool) -> Result<Vec<u8>, ()> {
            Ok(self.1[address as usize - 1].bytes().take(max).collect())
        }
    }

    fn formatted(template: &str, arguments: &[u64]) -> String {
        let mut list = List(arguments.to_vec(), vec!["text"]);
        String::from_utf8(format(template.as_bytes(), &mut list).unwrap()).unwrap()
    }

    #[test]
    fn integers_are_formatted_as_msvcrt_does() {
        let minus = -7i64 as u64;
        for (template, argument, want) in [
            ("%d|", minus, "-7|"),
            ("%5d|%%", 42, "   42|%"),
            ("%-5d|", 42, "42   |"),
            ("%05d|", minus, "-0007|"),
            ("%+d", 3, "+3"),
            ("% d", 3, " 3"),
            ("%.3d", 3, "003"),
            ("%u", minus, "4294967289"),
            ("%llu", minus, "18446744073709551609"),
            ("%I64d", minus, "-7"),
            ("%ld", 1 << 32, "0"),
            ("%hhx", 0x1ff, "ff"),
            ("%#x", 0xbeef, "0xbeef"),
            ("%#o", 8, "010"),
            ("%.0d", 0, ""),
            ("%p", 0x1234, "0000000000001234"),
            ("%c", 0x41, "A"),
            ("%s|", 1, "text|"),
            ("%6.2s|", 1, "    te|"),
            ("%s", 0, "(null)"),
            ("%k%", 0, "%k"),
        ] {
            assert_eq!(formatted(template, &[argument]), want, "{template}");
        }
        assert_eq!(formatted("%*d|%-*d|", &[4, 1, 3, 2]), "   1|2  |");
    }

    #[test]
    fn floats_are_formatted_as_msvcrt_does() {
        for (template, value, want) in [
            ("%f", 3.5, "3.500000"),
            ("%.2f", -0.125, "-0.12"),
            ("%8.3f|", 3.25159, "   3.252|"),
            ("%e", 12345.678, "1.234568e+004"),
            ("%.0e", 0.0, "0e+000"),
            ("%g", 100_000.0, "100000"),
            ("%g", 1_000_000.0, "1e+006"),
            ("%g", 0.0001, "0.0001"),
            ("%.3G", 0.000_012_34, "1.23E-005"),
            ("%#.3g", 1.0, "1.00"),
            ("%08.2f", -1.5, "-0001.50"),
            ("%f", f64::INFINITY, "1.#INF00"),
        ] {
            assert_eq!(formatted(template, &[value.to_bits()]), want, "{template}");
        }
    }

    #[test]
    fn a_width_of_the_programs_is_bounded() {
        let wide = formatted("%999999999d%999999999d", &[1, 2]);
        assert_eq!(wide.len(), FORMATTED_MAX);
        assert_eq!(formatted("%.*f", &[i32::MAX as u64, 1.5f64.to_bits()]).len(), 2 + 1100);
    }
}
