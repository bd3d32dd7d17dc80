//! `--power-cut`: the machine runs on a shadow of its pool and loses, at a chosen moment, what was not durable (see [`pmem::shadow`]).
//!
//! For tests: `docs/testing.md` says how they use it. The pool itself holds, at any moment, what a power failure then would have left; so killing
//! such a machine is a power failure, too.

use pmem::shadow::{Plan, Shadow};
use std::fmt::Write;
use std::path::PathBuf;

/// Exit status of a machine whose power failed: as after SIGKILL, and as the testbed's.
const EXIT_POWER_CUT: i32 = 137;

/// Options for crash tests.
#[derive(Debug, clap::Args)]
pub struct PowerCut {
    /// Run on a shadow of the pool; with EVENTS, fail after so many flushes and fences.
    #[arg(long, value_name = "SEED[:EVENTS]", value_parser = parse, hide = true)]
    pub power_cut: Option<(u64, Option<u64>)>,
    /// Fail at the first flush or fence of a source line whose FILE:LINE contains this.
    #[arg(long, value_name = "SITE", requires = "power_cut", hide = true)]
    pub power_cut_at: Option<String>,
    /// Drop flushes and fences of source lines whose FILE:LINE contains this; may be repeated.
    #[arg(long, value_name = "SITE", requires = "power_cut", hide = true)]
    pub power_cut_deaf: Vec<String>,
    /// Write what flushed and fenced, and how often, to this file, if the power does not fail.
    #[arg(long, value_name = "FILE", requires = "power_cut", hide = true)]
    pub power_cut_sites: Option<PathBuf>,
}

fn parse(text: &str) -> Result<(u64, Option<u64>), String> {
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a number"));
    match text.split_once(':') {
        Some((seed, events)) => Ok((number(seed)?, Some(number(events)?))),
        None => Ok((number(text)?, None)),
    }
}

impl PowerCut {
    /// What is to happen; `None` without the option.
    #[must_use]
    pub fn plan(&self) -> Option<Plan> {
        let (seed, events) = self.power_cut?;
        let (at, deaf_to) = (self.power_cut_at.clone(), self.power_cut_deaf.clone());
        Some(Plan { seed, events, at, deaf_to, end: Box::new(end) })
    }

    /// Writes the sites, if asked for.
    ///
    /// # Errors
    /// The file's.
    pub fn write_sites(&self, shadow: &Shadow) -> std::io::Result<()> {
        let Some(path) = &self.power_cut_sites else { return Ok(()) };
        let mut text = String::new();
        for (site, events) in shadow.sites() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{events}\t{site}");
        }
        std::fs::write(path, text)
    }
}

/// The power fails: nothing of this process happens any more.
fn end() {
    // SAFETY: ends the process; no destructor or buffer of ours runs, which is the point.
    unsafe { libc::_exit(EXIT_POWER_CUT) }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_cut_is_a_seed_and_perhaps_a_moment() {
        assert_eq!(parse("7"), Ok((7, None)));
        assert_eq!(parse("7:100"), Ok((7, Some(100))));
        for bad in ["", "7:", ":7", "x", "7:8:9", "-1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
