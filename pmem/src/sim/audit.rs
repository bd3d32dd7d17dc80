//! Counts flushes and fences that did nothing.

use super::{Event, LINE};
use std::collections::HashMap;

/// What a piece of a trace did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// The mark that the piece starts with; 0 before the first.
    pub mark: u64,
    /// Words stored.
    pub stores: u64,
    /// Lines flushed.
    pub flushes: u64,
    /// Fences.
    pub fences: u64,
    /// Flushes of lines without an unflushed store.
    pub redundant_flushes: u64,
    /// Fences with nothing to wait for.
    pub redundant_fences: u64,
}

/// Audits a trace, one piece for each mark.
#[must_use]
pub fn audit(trace: &[Event]) -> Vec<Audit> {
    let mut pieces = vec![Audit::default()];
    // Line -> has a store that no flush has covered.
    let mut dirty: HashMap<u64, bool> = HashMap::new();
    let mut waiting = false;
    for event in trace {
        let last = pieces.len() - 1;
        let piece = &mut pieces[last];
        match *event {
            Event::Store { at, around, .. } => {
                piece.stores += 1;
                if around {
                    waiting = true;
                } else {
                    dirty.insert(at - at % LINE, true);
                }
            }
            Event::Flush(line) => {
                piece.flushes += 1;
                if dirty.insert(line, false) == Some(true) {
                    waiting = true;
                } else {
                    piece.redundant_flushes += 1;
                }
            }
            Event::Fence => {
                piece.fences += 1;
                piece.redundant_fences += u64::from(!waiting);
                waiting = false;
            }
            Event::Mark(mark) => pieces.push(Audit { mark, ..Audit::default() }),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Pmem, sim::Sim};

    #[test]
    fn counts_what_did_nothing() {
        let sim = Sim::new(4096);
        sim.start_recording();
        sim.store(0, 1);
        sim.flush(0, 8);
        sim.flush(0, 8);
        sim.fence();
        sim.fence();
        sim.mark(3);
        sim.zero_nt(64, 8);
        sim.fence();
        let pieces = audit(&sim.take_trace());
        let first =
            Audit { mark: 0, stores: 1, flushes: 2, fences: 2, redundant_flushes: 1, redundant_fences: 1 };
        assert_eq!(pieces, [first, Audit { mark: 3, stores: 1, fences: 1, ..Audit::default() }]);
    }
}
