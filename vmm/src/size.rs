//! Sizes on the command line: `64M`, `1GiB`, plain bytes.

/// Parses a number of bytes with an optional binary unit.
///
/// # Errors
/// What is expected, in words.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size: a number with K, M, G or T expected, for instance 256M");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = text[digits..].to_ascii_uppercase();
    let shift = match unit.strip_suffix("IB").or_else(|| unit.strip_suffix('B')).unwrap_or(&unit) {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn understands_units() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            ("64K", 65536),
            ("16m", 16 << 20),
            ("1GiB", 1 << 30),
            ("2TB", 2 << 40),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "M", "-1", "1.5G", "1X", "99999999999999999999", "18446744073709551615K"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
