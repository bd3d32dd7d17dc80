//! The same work in a Linux process and in a program on Twizzler (`libbench`), in turns, by the same clock.
//!
//! # Contract
//! - The two do a piece each in turns, so that what else happens on the machine happens to both. Time is the wall's on both sides: a program
//!   inside knows no other.
//! - Where there is no machine, the rows are there without figures, with the reason.

use crate::peer::Peer;
use crate::row::{Row, Where};
use std::path::{Path, PathBuf};

/// The group of these rows.
pub const GROUP: &str = "inside the machine";
/// What is promised of work whose pages are present: the same within ten percent.
const AIM: f64 = 1.1;

/// Options of the programs that measure inside as well.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The twzvmm that runs the same inside.
    #[arg(long)]
    twzvmm: Option<PathBuf>,
    /// Why there is none, for the rows.
    #[arg(long, default_value = "no twzvmm was given")]
    no_guest: String,
}

impl Options {
    /// Starts `libbench` with a pool in `data`.
    #[must_use]
    pub fn start(&self, data: &Path) -> Peer {
        Peer::on_twizzler(self.twzvmm.as_deref().ok_or(&self.no_guest), &["libbench"], data)
    }
}

/// What was measured of one thing on both sides.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// In a Linux process, on the wall.
    pub hosted: Vec<f64>,
    /// On Twizzler.
    pub guest: Vec<f64>,
}

impl Samples {
    /// The rows: what it takes inside, and that beside the Linux process. `mapped`: the pages were present on both sides, so that the aim holds
    /// for it.
    #[must_use]
    pub fn rows(&self, guest: &Peer, group: &str, name: &str, mapped: bool) -> Vec<Row> {
        let both = format!("{group}: {name}");
        let row = Row::new(GROUP, &both, Where::Guest, "ns", &self.guest);
        let row = row.beside("in a Linux process", &self.hosted);
        let row = if mapped { row.ratio_at_most(AIM) } else { row };
        match guest.missing() {
            Some(reason) => vec![row.skip(reason)],
            None => vec![Row::new(group, name, Where::Guest, "ns", &self.guest), row],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_compared_or_the_reason_is_there() {
        let samples = Samples { hosted: vec![10.0; 7], guest: vec![12.0; 7] };
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("twzvmm");
        std::os::unix::fs::symlink("/bin/true", &program).unwrap();
        let there = Peer::on_twizzler(Ok(&program), &["libbench"], folder.path());
        let rows = samples.rows(&there, "g", "n", true);
        assert_eq!((rows[0].group.as_str(), rows[0].place, rows[0].ours), ("g", Where::Guest, 12.0));
        assert_eq!((rows[1].name.as_str(), rows[1].ratio, rows[1].holds), ("g: n", Some(1.2), Some(false)));
        assert_eq!(samples.rows(&there, "g", "n", false)[1].aim, None);
        let none = Peer::on_twizzler(Err("no KVM"), &["libbench"], folder.path());
        let rows = Samples::default().rows(&none, "g", "n", true);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].aim.as_deref(), rows[0].holds), (Some("≤ 1.1×"), None));
        assert_eq!(rows[0].skipped.as_deref(), Some("no KVM"));
    }
}
