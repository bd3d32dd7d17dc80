//! What the programs that measure a part have in common on their command lines, and what they do with the rows.

use crate::pace::Summary;
use crate::row::{self, REPEATS, Row};
use crate::steady::Steady;
use anyhow::Result;
use std::path::PathBuf;
use std::time::Duration;

/// How much is measured, where, and where the rows go.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Interleaved rounds of each row.
    #[arg(long, default_value_t = REPEATS)]
    pub rounds: usize,
    /// Divides the number of keys, objects and operations, for a quick look.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub divide: u64,
    /// Seconds that rounds may cost more in a full run, at most, to be measured while nothing else uses the core.
    #[arg(long, default_value_t = 90.0)]
    pub patience: f64,
    /// Where pools and files go, the peers' as well; a tmpfs stands in for persistent memory.
    #[arg(long, default_value = "/dev/shm")]
    pub data: PathBuf,
    /// Also write the rows here, as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

impl Arguments {
    /// What is measured of `count` in a full run, but at least so many.
    #[must_use]
    pub fn scaled(&self, count: u64, least: u64) -> u64 {
        (count / self.divide.max(1)).max(least)
    }

    /// What keeps so many rows' rounds steady.
    #[must_use]
    pub fn steady(&self, rows: usize) -> Steady {
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        let seconds = self.patience / self.divide.max(1) as f64;
        Steady::new(Duration::try_from_secs_f64(seconds).unwrap_or_default(), rows)
    }

    /// Prints the rows and the pace, and writes both where the rows are to go.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn report(&self, rows: &[Row], pace: &Summary) -> Result<()> {
        rows.iter().for_each(|row| println!("{row}"));
        println!("{pace}");
        self.json.iter().try_for_each(|path| {
            row::write(path, rows)?;
            pace.write(path)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Where;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn counts_are_divided_and_rows_are_written() {
        let parse = |words: &[&str]| {
            Program::try_parse_from([&["bench"], words].concat()).map(|program| program.arguments)
        };
        let folder = tempfile::tempdir().unwrap();
        let json = folder.path().join("rows.json");
        let arguments = parse(&["--divide", "10", "--json", json.to_str().unwrap()]).unwrap();
        assert_eq!((arguments.rounds, arguments.scaled(500, 10), arguments.scaled(50, 10)), (7, 50, 10));
        let pace = Summary { rounds: 7, ..Summary::default() };
        arguments.report(&[Row::new("g", "n", Where::Hosted, "ns", &[1.0])], &pace).unwrap();
        assert_eq!(
            (row::read(&json).unwrap().len(), Summary::beside(&json).unwrap()),
            (1, Some(pace.clone()))
        );
        assert_eq!(Summary::beside(&folder.path().join("other.json")).unwrap(), None);
        assert!(parse(&["--divide", "0"]).is_err());
        parse(&[]).unwrap().report(&[], &pace).unwrap();
    }
}
