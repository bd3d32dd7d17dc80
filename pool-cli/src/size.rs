//! Sizes on the command line: `4096`, `0x1000`, `64M`, `1GiB`.

/// Parses a number of bytes: decimal with an optional binary unit (K, M, G or T), or hexadecimal after `0x`.
///
/// # Errors
/// What is expected, in words.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size: a number of bytes expected, such as 4096, 0x1000 or 64M");
    let upper = text.to_ascii_uppercase();
    if let Some(digits) = upper.strip_prefix("0X") {
        return u64::from_str_radix(digits, 16).map_err(|_| wrong());
    }
    let end = upper.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(upper.len());
    let number: u64 = upper[..end].parse().map_err(|_| wrong())?;
    let unit = &upper[end..];
    let shift = match unit.strip_suffix("IB").or_else(|| unit.strip_suffix('B')).unwrap_or(unit) {
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
    use super::parse_size;

    #[test]
    fn understands_units() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            ("0x1000", 4096),
            ("64K", 65536),
            ("16m", 16 << 20),
            ("2kb", 2048),
            ("1GiB", 1 << 30),
            ("2TB", 2 << 40),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "M", "-1", "1.5G", "1X", "0xg", "99999999999999999999", "18446744073709551615K"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
