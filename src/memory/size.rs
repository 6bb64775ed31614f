//! Sizes of memory as users write them. Pure.

/// Reads a size with suffix K, M, G or T (`KiB` and `KB` mean the same); a bare number is MiB. Bytes.
///
/// # Errors
/// It is no size; the text says why.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: u64 = number.parse().map_err(|_| "not a number with a unit, such as 512M or 5G".to_string())?;
    let shift = match unit.to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
        "K" => 10,
        "" | "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("unknown unit {unit:?}: use K, M, G or T")),
    };
    number.checked_mul(1 << shift).ok_or_else(|| "more than any machine can address".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_units_and_refuse_the_absurd() {
        for (text, bytes) in [("512", 512 << 20), ("0", 0), ("5G", 5 << 30), ("1024KiB", 1 << 20), ("2tb", 2 << 40)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "0x10", "-1", "5X", "1.5G", "99999999T", "18446744073709551615", "18446744073709551616"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
