//! Power failures: every memory that one can leave, by the pool's simulator, is recovered and checked.
//!
//! Each scenario runs operations with a mark after each; the model after k operations is known. A memory left after mark k must
//! recover to the model after k operations, or k + 1 if the failure was inside the next one. Recovery is cut off, too (depth 2). Mutants –
//! the same run with one flush, fence or group of stores missing or misplaced – show that the check would notice.

#![allow(clippy::unwrap_used, reason = "tests")]

mod collections;
#[path = "../delegate/mod.rs"]
mod delegate;
mod moves;
mod objects;
mod overflow;
mod owned;
mod scenario;
mod transactions;
mod world;

use scenario::{How, Places};

/// Batches of up to so many bytes go through the cache: it is the processor that says which way is cheaper.
const BY_CACHE: [usize; 2] = [256, 0];

macro_rules! scenarios {
    ($($file:ident: $($name:ident),*;)*) => {
        $($(
            #[test]
            fn $name() {
                for bytes in BY_CACHE {
                    libtwz::simulate::set_by_cache(bytes);
                    $file::$name(&mut How::Explore);
                }
            }
        )*)*

        fn mutate_all(places: &mut Places) {
            $($(if is_wanted(stringify!($name)) {
                for bytes in BY_CACHE {
                    libtwz::simulate::set_by_cache(bytes);
                    $file::$name(&mut How::Mutate(places));
                }
            })*)*
        }
    };
}

scenarios! {
    transactions: transactions_are_whole_or_not_at_all, the_log_crosses_its_chunks, several_objects_change_together, recovery_survives, the_log_grows_and_starts_anew,
        lines_take_each_others_place, many_lines_lose_their_places, a_transaction_takes_many_of_its_own_places, a_block_comes_where_a_failed_one_was, what_a_thread_left_is_put_in_order,
        the_log_goes_on_in_other_objects;
    collections: nothing_leaks_and_lists_stay_whole, maps_survive, nodes_are_used_again, blocks_are_used_again, a_map_gets_the_blocks_of_another, strings_and_rings_stay_whole;
    owned: owned_maps_survive;
    moves: sequences_move_at_once, maps_move_at_once, entries_change_at_once, leaves_go_and_come;
    overflow: a_vector_outgrows_its_object, a_text_outgrows_its_object, a_ring_outgrows_its_object, a_list_outgrows_its_object,
        a_hash_map_outgrows_its_object, an_ordered_map_outgrows_its_object, a_tree_outgrows_its_object, names_outgrow_their_object;
    objects: fot_entries_are_whole, entries_of_names_are_whole, names_are_whole, what_is_named_is_there, what_was_found_stays, what_is_removed_is_gone, the_root_is_there, what_was_sent_is_received, what_was_done_once_stays_done,
        what_is_not_opened_is_recovered;
}

/// Mutants that are the same program, by place (file and a piece of the line) and sort, and why.
const EQUIVALENT: &[(&str, &str, &str, &str)] = &[
    (
        "tx/recover.rs",
        "log.void()",
        "flush behind fence",
        "the next fence covers the epoch, before a batch of it counts",
    ),
    (
        "tx/recover.rs",
        "log.void(); // X2",
        "drop",
        "a change of the coordinator has a fence of its own, and so has a batch that counts",
    ),
    (
        "tx/recover.rs",
        "other.void();",
        "",
        "whoever opens that one asks this one, which has ended: for when this one is deleted (tests/recovery.rs)",
    ),
    (
        "tx/recover.rs",
        "log.void(); // behind a torn batch",
        "",
        "the next fence covers the epoch, before a batch of it counts; nothing was stored here that must be durable first",
    ),
    (
        "tx/recover.rs",
        ".rev().for_each(|entry| log.restore(entry))",
        "store before fence",
        "the record was durable before the change that this takes back",
    ),
    (
        "log/mod.rs",
        "self.change_coordinator(id)",
        "",
        "one thread: two logs that wait for each other find that out",
    ),
    (
        "tx/recover.rs",
        "log.void(); // X2",
        "store before fence",
        "the log of one that took part holds records only: nothing was stored here that must be durable first",
    ),
    (
        "sync/word.rs",
        "",
        "",
        "lock words: a boot's number tells which hold, so what they hold after a failure does not matter",
    ),
    (
        "src/fot.rs",
        "holder.store_release(at + GENERATION, entry.generation.wrapping_add(1)); // F3",
        "drop stores",
        "for readers of this boot; what survives is what the commit's batch stores",
    ),
    (
        "src/fot.rs",
        "holder.store(at + LO, target.lo)",
        "store before fence",
        "nobody looks where a claimed entry leads",
    ),
    (
        "src/fot.rs",
        "holder.store_release(at + GENERATION, generation)",
        "",
        "a claimed entry's, and for readers of this boot",
    ),
    (
        "src/fot.rs",
        "holder.replace(at + FLAGS, now, claimed_now)",
        "store before fence",
        "a claim counts in this boot only",
    ),
    (
        "rb_tree/mod.rs",
        ".set_without_log(",
        "store before fence",
        "of a free block only the first word counts: it is stored before these, unless it is null as it is to be",
    ),
    (
        "names/resolver.rs",
        "window.write(offset as usize + 8, name.as_bytes())",
        "store before fence",
        "only the first word of a free block matters, and these are behind it",
    ),
    (
        "log/mod.rs",
        "self.window.store(at, id.lo)",
        "store before fence",
        "the epoch, which it must follow, stands in the same line",
    ),
    (
        "log/mod.rs",
        "self.window.flush(at, 16)",
        "flush behind fence",
        "it counts from the commit on, and a fence comes before that, too",
    ),
    (
        "log/dirty.rs",
        "self.set.put_off(self.marker, before)",
        "flush behind fence",
        "one thread: the transaction that marks the line fences once more before a checkpoint can begin, which has fences of its own",
    ),
    (
        "log/dirty.rs",
        "self.window.flush_line(line * LINE);",
        "flush behind fence",
        "one thread: a checkpoint has fences of its own",
    ),
    (
        "part/puts.rs",
        "persist::fence(); // the next checkpoint may be another thread's",
        "drop",
        "one thread: a checkpoint has fences of its own",
    ),
    (
        "tx/inner.rs",
        "persist::fence(); // X1: before another thread appends",
        "drop",
        "one thread: its next fence covers the batch",
    ),
    (
        "tx/part.rs",
        "log.append(at, Kind::Abort",
        "flush behind fence",
        "one thread: its next fence covers the batch",
    ),
    (
        "tx/part.rs",
        "log.append(",
        "store before fence",
        "a batch counts as a whole: its first word alone is nothing",
    ),
];

/// Why a sort of mutant at a place is no other program, if it is none.
fn known_equivalent(site: &str, kind: &str) -> Option<&'static str> {
    let mut parts = site.rsplitn(3, ':');
    let (_, line, file) = (parts.next()?, parts.next()?.parse::<usize>().ok()?, parts.next()?);
    let source = std::fs::read_to_string(format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"))).ok()?;
    let text = source.lines().nth(line - 1)?;
    let found = EQUIVALENT.iter().find(|(name, piece, sort, _)| {
        file.ends_with(name) && text.contains(piece) && (sort.is_empty() || *sort == kind)
    });
    found.map(|(.., why)| *why)
}

/// `TWZ_CRASH_MUTATE` names the scenarios that are mutated, by a piece of their names. If it is not set: all but those that make objects, or move many
/// elements, whose mutants take too long.
fn is_wanted(name: &str) -> bool {
    match std::env::var("TWZ_CRASH_MUTATE") {
        Ok(piece) => name.contains(&piece),
        Err(_) => !["outgrow", "other_objects", "at_once", "is_there", "is_gone", "was_found"]
            .iter()
            .any(|long| name.contains(long)),
    }
}

/// Every flush, fence and group of stores of the scenarios is dropped or misplaced in turn. A wrong program does so each time it comes to
/// that place of the crate, so a sort of mutant at a place counts as killed when one of its runs is.
#[test]
fn mutants_are_killed() {
    let mut places = Places::new();
    mutate_all(&mut places);
    let killed = places.values().filter(|verdict| verdict.killed > 0).count();
    let equivalent = places.values().filter(|verdict| verdict.killed + verdict.survived == 0).count();
    let mut same = 0;
    let survivors: Vec<String> = places
        .iter()
        .filter(|(_, verdict)| verdict.killed == 0 && verdict.survived > 0)
        .filter(|((site, kind), _)| {
            let why = known_equivalent(site, kind);
            why.iter().for_each(|why| println!("equivalent: {kind} at {site}: {why}"));
            same += usize::from(why.is_some());
            why.is_none()
        })
        .map(|((site, kind), verdict)| format!("{kind} at {site}: {}", verdict.example))
        .collect();
    println!(
        "libtwz mutants: {} places and sorts, {killed} killed, {} equivalent, {} survive; {} single mutants made, {} of them equivalent",
        places.len(),
        equivalent + same,
        survivors.len(),
        places.values().map(|verdict| verdict.killed + verdict.survived + verdict.equivalent).sum::<u64>(),
        places.values().map(|verdict| verdict.equivalent).sum::<u64>(),
    );
    assert!(survivors.is_empty(), "{} mutants survived:\n{}", survivors.len(), survivors.join("\n"));
    assert!(
        killed > 30 || std::env::var("TWZ_CRASH_MUTATE").is_ok(),
        "too few places of the crate were mutated"
    );
}
