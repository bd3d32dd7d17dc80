//! Laying new runs over old ones.

use super::{CHUNK_PAGES, Chunk, NOWHERE, Run};
use crate::format::{SEGMENT_PAGES, index};
use crate::space::Pages;

/// Writes the part of `run` that lies in `chunk` into its pages.
pub(super) fn draw(pages: &mut Chunk, chunk: u64, run: &Run) {
    let first = chunk * SEGMENT_PAGES;
    let (start, end) = (run.object_page.max(first), run.end().min(first + SEGMENT_PAGES));
    for page in start..end {
        let pool_page = run.pool_page.map_or(NOWHERE, |pool_page| pool_page + (page - run.object_page));
        pages[index(page - first)] = pool_page;
    }
}

/// Pages of a chunk that are in one piece in the pool.
pub(super) struct Stretch {
    pub(super) from: u64,
    pub(super) count: u64,
    pub(super) covered: bool,
}

/// The present pages of `old` in runs, each wholly covered or wholly kept.
pub(super) fn stretches(old: &Chunk, covered: &[bool; CHUNK_PAGES]) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    for (&from, &covered) in old.iter().zip(covered).filter(|(from, _)| **from != NOWHERE) {
        match found.last_mut() {
            Some(last) if last.from + last.count == from && last.covered == covered => last.count += 1,
            _ => found.push(Stretch { from, count: 1, covered }),
        }
    }
    found
}

/// `runs` laid over `old`: the merged extents, and the pages of `old` that are covered.
pub(super) fn overlay(old: &[Run], runs: &[Run]) -> (Vec<Run>, Vec<Pages>) {
    let mut kept: Vec<Run> = Vec::new();
    let mut replaced = Vec::new();
    for run in old {
        let mut from = run.object_page;
        for over in runs.iter().filter(|over| over.object_page < run.end() && over.end() > run.object_page) {
            let (start, end) = (over.object_page.max(from), over.end().min(run.end()));
            if start > from {
                kept.push(run.part(from, start));
            }
            let covered = run.part(start, end);
            replaced.push(Pages::new(covered.pool_page.unwrap_or_default(), covered.pages));
            from = end;
        }
        if from < run.end() {
            kept.push(run.part(from, run.end()));
        }
    }
    kept.extend(runs.iter().filter(|run| run.pool_page.is_some()));
    kept.sort_unstable_by_key(|run| run.object_page);
    let mut merged: Vec<Run> = Vec::new();
    for run in kept {
        match merged.last_mut() {
            Some(last) if last.end() == run.object_page && next_page(last) == run.pool_page => {
                last.pages += run.pages;
            }
            _ => merged.push(run),
        }
    }
    (merged, replaced)
}

fn next_page(run: &Run) -> Option<u64> {
    run.pool_page.map(|page| page + run.pages)
}
