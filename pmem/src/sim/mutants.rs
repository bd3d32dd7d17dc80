//! Wrong programs made of a right one, to show that a crash test notices.
//!
//! A mutant is the same run with one flush, fence or group of stores missing, or two events in the wrong order. Flushes and
//! fences do not change what a program computes, so the mutated trace is exactly what the mutated program would do. Missing
//! stores are those of one line up to the next flush or fence: what a forgotten log record or commit would be.

use super::{Event, LINE};
use std::collections::HashMap;

/// A mutated trace.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// Which sort of wrong program this is: the same for all its mutants.
    pub kind: &'static str,
    /// What was done to it.
    pub what: String,
    /// The event that it was done to.
    pub event: usize,
    /// The result.
    pub trace: Vec<Event>,
    /// For certain the same program: what was dropped or moved had no effect on durability or contents.
    pub equivalent: bool,
}

/// Makes every mutant of `trace` whose event `wanted` agrees to.
#[must_use]
pub fn mutants(trace: &[Event], mut wanted: impl FnMut(usize) -> bool) -> Vec<Mutant> {
    let mut made = Vec::new();
    for number in 0..trace.len() {
        if !wanted(number) {
            continue;
        }
        match trace[number] {
            Event::Flush(line) => {
                made.push(without(trace, number, format!("drop the flush of line {line:#x}")));
                made.extend(flush_after_fence(trace, number));
            }
            Event::Fence => made.push(without(trace, number, "drop the fence".to_owned())),
            Event::Store { at, .. } => {
                made.extend(without_stores(trace, number, at));
                made.extend(store_before_fence(trace, number, at));
            }
            Event::Mark(_) => {}
        }
    }
    made
}

fn without(trace: &[Event], number: usize, what: String) -> Mutant {
    let mut mutated = trace.to_vec();
    mutated.remove(number);
    let equivalent = is_idle(trace, number);
    Mutant { kind: "drop", what, event: number, trace: mutated, equivalent }
}

/// Whether a flush or fence has no effect on what is durable:
/// a flush that finds no unflushed store of its line, or none that changed anything, or whose line is flushed again before
/// the next fence; a fence after which nothing more is durable than before.
fn is_idle(trace: &[Event], number: usize) -> bool {
    match trace[number] {
        Event::Flush(line) => {
            let mut after = trace[number + 1..]
                .iter()
                .take_while(|event| !matches!(event, Event::Fence | Event::Mark(_)));
            !has_work(trace, number, line) || after.any(|event| *event == Event::Flush(line))
        }
        Event::Fence => {
            let start =
                trace[..number].iter().rposition(|event| *event == Event::Fence).map_or(0, |fence| fence + 1);
            (start..number).all(|earlier| match trace[earlier] {
                Event::Flush(line) => !has_work(trace, earlier, line),
                Event::Store { old, new, around, .. } => !around || old == new,
                _ => true,
            })
        }
        _ => false,
    }
}

/// Whether the flush of `line` at `number` covers a store that changed something and that no flush before covered.
fn has_work(trace: &[Event], number: usize, line: u64) -> bool {
    let before = trace[..number].iter().rev().take_while(|event| **event != Event::Flush(line));
    before.into_iter().any(|event| match *event {
        Event::Store { at, old, new, around } => at - at % LINE == line && old != new && !around,
        _ => false,
    })
}

/// The flush moved behind the fence that should complete it.
fn flush_after_fence(trace: &[Event], number: usize) -> Option<Mutant> {
    let fence = number + 1 + trace[number + 1..].iter().position(|event| *event == Event::Fence)?;
    let mut mutated = trace.to_vec();
    mutated[number..=fence].rotate_left(1);
    let what = format!("move {:x?} behind its fence", trace[number]);
    let equivalent = is_idle(trace, number);
    Some(Mutant { kind: "flush behind fence", what, event: number, trace: mutated, equivalent })
}

/// The group of stores to one line that starts at `number` dropped.
fn without_stores(trace: &[Event], number: usize, at: u64) -> Option<Mutant> {
    let line = at - at % LINE;
    let in_group = |event: &Event| matches!(*event, Event::Store { at, .. } if at - at % LINE == line);
    if number > 0 && in_group(&trace[number - 1]) {
        return None;
    }
    let count = trace[number..].iter().take_while(|event| in_group(event)).count();
    let mut mutated = trace.to_vec();
    let dropped: Vec<Event> = mutated.drain(number..number + count).collect();
    let equivalent = dropped.iter().all(|event| matches!(event, Event::Store { old, new, .. } if old == new));
    relink(&mut mutated, trace);
    Some(Mutant {
        kind: "drop stores",
        what: format!("drop {count} stores to line {line:#x}"),
        event: number,
        trace: mutated,
        equivalent,
    })
}

/// A store moved before the fence (and the flushes) that should precede it: a commit before its contents.
fn store_before_fence(trace: &[Event], number: usize, at: u64) -> Option<Mutant> {
    if number == 0 || trace[number - 1] != Event::Fence {
        return None;
    }
    let start =
        trace[..number].iter().rposition(|event| !matches!(event, Event::Fence | Event::Flush(_)))? + 1;
    let mut mutated = trace.to_vec();
    mutated[start..=number].rotate_right(1);
    relink(&mut mutated, trace);
    let equivalent = matches!(trace[number], Event::Store { old, new, .. } if old == new);
    Some(Mutant {
        kind: "store before fence",
        what: format!("move the store at {at:#x} before its fence"),
        event: number,
        trace: mutated,
        equivalent,
    })
}

/// Makes each store's value before agree with the stores that are left of `original`.
fn relink(trace: &mut [Event], original: &[Event]) {
    let mut current = HashMap::new();
    for event in original {
        if let Event::Store { at, old, .. } = *event {
            current.entry(at).or_insert(old);
        }
    }
    for event in trace {
        if let Event::Store { at, old, new, .. } = event {
            *old = current.insert(*at, *new).unwrap_or(*old);
        }
    }
}
