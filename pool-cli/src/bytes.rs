//! Bytes of objects.

use crate::{Output, find, parse_size};
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
