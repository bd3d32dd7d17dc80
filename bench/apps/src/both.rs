//! Inserts and look-ups of one kind, here and inside the machine.

use crate::ours::Pair;
use bench::inside::Samples;
use bench::peer::Peer;
use bench::row::Row;
use bench::steady::Outcome;

/// The group of Figure 6.
pub(crate) const FIGURE_6: &str = "figure 6";
/// The group of §5.4.
pub(crate) const TREES: &str = "rbt (§5.4)";
/// Data objects of Figure 6, and how the rows say it.
pub(crate) const OBJECTS: [(u64, &str); 2] = [(1, "1 data object"), (8, "8 data objects")];
/// Objects of the trees, likewise.
pub(crate) const TREE_OBJECTS: [(usize, &str); 2] = [(1, "1 object"), (4, "4 objects")];
/// What an insert is called whose pages are present: what the CPU alone takes is timed, which is the same inside a machine and in a process.
pub(crate) const PRESENT: &str = "insert in present pages";

/// Samples of inserts and of look-ups.
#[derive(Default)]
pub(crate) struct Both {
    /// Here, on the CPU.
    pub(crate) cpu: [Vec<f64>; 2],
    /// By the clock that both sides have.
    wall: [Samples; 2],
    /// What became of the rounds.
    pub(crate) outcome: Outcome,
}

/// What a round measured here, and inside.
pub(crate) type Side = (Pair, [Option<f64>; 2]);

impl Both {
    /// What sides took that were measured in the same rounds.
    pub(crate) fn of<const N: usize>((rounds, outcome): (Vec<[Side; N]>, Outcome)) -> [Self; N] {
        std::array::from_fn(|side| {
            let mut both = Self { outcome, ..Self::default() };
            rounds.iter().for_each(|round| both.put(round[side]));
            both
        })
    }

    fn put(&mut self, (pair, inside): Side) {
        for ((here, inside), number) in [pair.0, pair.1].into_iter().zip(inside).zip(0..) {
            self.cpu[number].push(here.cpu);
            self.wall[number].hosted.push(here.wall);
            self.wall[number].guest.extend(inside);
        }
    }

    /// Rows of the inside. What is inserted in new pages takes their first touches, and that is what it tells beside inserts in present ones,
    /// which the aim is for.
    pub(crate) fn inside(&self, guest: &Peer, present: &Self, group: &str, what: &str) -> Vec<Row> {
        let mut rows = present.rows(0, guest, group, &format!("{PRESENT}, {what}"), true);
        rows.extend(self.rows(0, guest, group, &format!("insert, {what}"), false));
        rows.extend(self.lookups_inside(guest, group, what));
        rows
    }

    /// Of the look-ups alone.
    pub(crate) fn lookups_inside(&self, guest: &Peer, group: &str, what: &str) -> Vec<Row> {
        self.rows(1, guest, group, &format!("lookup, {what}"), true)
    }

    fn rows(&self, number: usize, guest: &Peer, group: &str, name: &str, mapped: bool) -> Vec<Row> {
        let rows = self.wall[number].rows(guest, group, name, mapped);
        rows.into_iter().map(|row| row.steadied(self.outcome)).collect()
    }
}
