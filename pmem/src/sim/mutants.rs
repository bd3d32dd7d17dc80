//! Wrong programs made of a right one, to show that a crash test notices.
//!
//! A mutant is the same run with one flush, fence or group of stores missing, or two events in the wrong order. Flushes and
//! fences do not change what a program computes, so the mutated trace is exactly what the mutated program would do. Missing
//! stores are those of one line up to the next flush or fence: what a forgotten log record or commit would be.

use super::{Event, LINE};

/// A mutated trace.
#[derive(Clone, Debug)]
pub struct Mutant {
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
    Mutant { what, event: number, trace: mutated, equivalent }
}

/// Whether a flush finds no unflushed store of its line, or finds its line flushed again before the next fence; or whether a
/// fence finds nothing to wait for.
fn is_idle(trace: &[Event], number: usize) -> bool {
    let before = &trace[..number];
    match trace[number] {
        Event::Flush(line) => {
            let stored = |event: &Event| matches!(*event, Event::Store { at, .. } if at - at % LINE == line);
            let last_store = before.iter().rposition(stored);
            let last_flush = before.iter().rposition(|event| *event == Event::Flush(line));
            let after = trace[number + 1..]
                .iter()
                .take_while(|event| !matches!(event, Event::Fence | Event::Mark(_)));
            last_store.is_none()
                || last_flush > last_store
                || after.clone().any(|event| *event == Event::Flush(line))
        }
        Event::Fence => {
            let since = before.iter().rev().take_while(|event| **event != Event::Fence);
            let waits = |event: &Event| matches!(event, Event::Flush(_) | Event::Store { around: true, .. });
            !since.clone().any(waits)
        }
        _ => false,
    }
}

/// The flush moved behind the fence that should complete it.
fn flush_after_fence(trace: &[Event], number: usize) -> Option<Mutant> {
    let fence = number + 1 + trace[number + 1..].iter().position(|event| *event == Event::Fence)?;
    let mut mutated = trace.to_vec();
    mutated[number..=fence].rotate_left(1);
    let what = format!("move {:x?} behind its fence", trace[number]);
    Some(Mutant { what, event: number, trace: mutated, equivalent: is_idle(trace, number) })
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
    relink(&mut mutated);
    Some(Mutant {
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
    let equivalent = matches!(trace[number], Event::Store { old, new, .. } if old == new);
    Some(Mutant {
        what: format!("move the store at {at:#x} before its fence"),
        event: number,
        trace: mutated,
        equivalent,
    })
}

/// Makes each store's value before agree with the stores that are left.
fn relink(trace: &mut [Event]) {
    let mut current = std::collections::HashMap::new();
    for event in trace {
        if let Event::Store { at, old, new, .. } = event
            && let Some(value) = current.insert(*at, *new)
        {
            *old = value;
        }
    }
}
