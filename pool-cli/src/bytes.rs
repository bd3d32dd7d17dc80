//! Bytes of objects, and numbers on the command line.

use crate::{Output, find};
use anyhow::{Result, bail};
use clap::Args;
use pool::Pool;
use serde_json::json;
use std::fmt::Write;
use twz_abi::object::{DATA_END, DATA_OFFSET, MAX_SIZE};

/// A part of an object.
#[derive(Args, Debug)]
pub struct Range {
    /// First byte; the default is where data starts.
    #[arg(long, value_parser = parse_size, default_value = "4096")]
    offset: u64,
    /// Bytes; the default is all data up to the last page that is there.
    #[arg(long, value_parser = parse_size)]
    length: Option<u64>,
}

/// Parses a number of bytes: decimal or 0x…, with K, M, G or T.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a number of bytes, such as 4096, 0x1000 or 64M");
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

/// Reads the range: (first byte, bytes).
fn read(pool: &Pool, object: &str, range: &Range) -> Result<(u64, Vec<u8>)> {
    let object = pool.open_object(find(pool, object)?)?;
    let len = match range.length {
        Some(len) => len,
        None => {
            let data = object.extents()?.into_iter().filter(|extent| extent.object_offset < DATA_END);
            let end = data.map(|extent| (extent.object_offset + extent.len).min(DATA_END)).max();
            end.unwrap_or(DATA_OFFSET).saturating_sub(range.offset)
        }
    };
    if range.offset > MAX_SIZE || len > MAX_SIZE - range.offset {
        bail!("{len} bytes at {:#x} are not inside an object: it ends at {MAX_SIZE:#x}", range.offset);
    }
    let mut bytes = vec![0; usize::try_from(len)?];
    object.read(range.offset, &mut bytes)?;
    Ok((range.offset, bytes))
}

pub(crate) fn cat(pool: &Pool, object: &str, range: &Range) -> Result<Output> {
    let (offset, bytes) = read(pool, object, range)?;
    let json = json!({ "offset": offset, "length": bytes.len(), "hex": hex(&bytes) });
    Ok(Output::new(bytes, json))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn hexdump(pool: &Pool, object: &str, range: &Range) -> Result<Output> {
    let (offset, bytes) = read(pool, object, range)?;
    let mut text = String::new();
    let mut skipping = false;
    let lines: Vec<&[u8]> = bytes.chunks(16).collect();
    for (number, line) in lines.iter().enumerate() {
        // Equal lines are shown once, with a star for the rest, as everywhere.
        let repeats = number > 0 && number + 1 < lines.len() && lines[number - 1] == *line;
        if repeats {
            if !skipping {
                text.push_str("*\n");
            }
            skipping = true;
            continue;
        }
        skipping = false;
        let mut cells = String::new();
        for (place, byte) in line.iter().enumerate() {
            let _ = write!(cells, "{}{byte:02x} ", if place == 8 { " " } else { "" });
        }
        let printable = |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' };
        let letters: String = line.iter().map(printable).collect();
        let _ = writeln!(text, "{:08x}  {cells:<49} |{letters}|", offset + 16 * number as u64);
    }
    let _ = writeln!(text, "{:08x}", offset + bytes.len() as u64);
    Ok(Output::new(text, json!({ "offset": offset, "length": bytes.len(), "hex": hex(&bytes) })))
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes() {
        let sizes = ["4096", "0x1000", "64M", "1GiB", "2kb"].map(parse_size);
        assert_eq!(sizes, [Ok(4096), Ok(4096), Ok(64 << 20), Ok(1 << 30), Ok(2048)]);
        for text in ["", "M", "12Q", "0xg", "99999999999T", "-1"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
