//! What a command has to say, as text and as JSON; and progress bars.

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// The outcome of a command.
#[derive(Debug)]
pub struct Output {
    /// For people; bytes, since objects hold any.
    pub text: Vec<u8>,
    /// For programs.
    pub json: Value,
    /// Whether the exit status is 0.
    pub success: bool,
}

impl Output {
    pub(crate) fn new(text: impl Into<Vec<u8>>, json: Value) -> Self {
        Self { text: text.into(), json, success: true }
    }

    pub(crate) fn print(self, json: bool) -> Result<ExitCode> {
        let bytes = if json { format!("{}\n", self.json).into_bytes() } else { self.text };
        match std::io::stdout().lock().write_all(&bytes) {
            // Whoever reads has enough: `twzvmm pool cat ... | head`.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            other => other.context("cannot write to standard output")?,
        }
        Ok(if self.success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// A progress bar for bytes; draws nothing when standard error is no terminal.
pub(crate) fn byte_bar(what: &'static str, total: u64) -> ProgressBar {
    bar(what, total, "{msg} {bar:40} {bytes}/{total_bytes} {eta}")
}

/// A progress bar for steps.
pub(crate) fn step_bar(what: &'static str) -> ProgressBar {
    bar(what, 0, "{msg} {bar:40} {pos}/{len} {eta}")
}

fn bar(what: &'static str, total: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_message(what)
}

/// Bytes with a binary unit, for people.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        if bytes >> shift > 0 {
            let tenths = (u128::from(bytes) * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn bytes_read_well() {
        let texts = [0, 1023, 1024, 1536, 16 << 20, (5 << 40) + (1 << 39)].map(human);
        assert_eq!(texts, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "16.0 MiB", "5.5 TiB"]);
    }
}
