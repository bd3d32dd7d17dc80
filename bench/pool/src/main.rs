//! `bench-pool`: the pool beside what people use today, files on a tmpfs and libpmemobj, in interleaved rounds.
//!
//! A round does all sides of something once: ours, files, libpmemobj, ours again …; a first one warms up and does not count. Times are of the CPU
//! on all sides, which on a tmpfs is all that there is to wait for.

mod files;
mod ours;

use anyhow::Result;
use bench::arguments::Arguments;
use bench::pace::{Pinned, Summary};
use bench::peer::Peer;
use bench::row::{Row, Where};
use bench::steady::Outcome;
use clap::Parser;
use ours::Ours;

/// Objects (and files) of a round, in a full run: what `peers/pmemobj.c` has room for.
const OBJECTS: u64 = 20_000;
/// Objects in the large pool, in a full run.
const MANY: u64 = 1_000_000;
/// Pools made and opened in a round, and copies.
const POOLS: u64 = 10;
const COPIES: u64 = 100;

/// Measure the pool beside files and libpmemobj.
#[derive(Parser)]
struct Program {
    #[command(flatten)]
    arguments: Arguments,
}

/// Samples of what is measured in the same rounds, `N` figures each, and what became of the rounds.
struct Samples<const N: usize> {
    figures: [Vec<f64>; N],
    outcome: Outcome,
}

impl<const N: usize> Samples<N> {
    fn of((rounds, outcome): (Vec<[Option<f64>; N]>, Outcome)) -> Self {
        let figures = std::array::from_fn(|at| rounds.iter().filter_map(|round| round[at]).collect());
        Self { figures, outcome }
    }
}

/// All of them.
struct Measured {
    /// Objects: create, delete, first touch. Files: create and close, unlink. libpmemobj: allocate, free.
    objects: Samples<7>,
    /// Small pools: create, open; libpmemobj's: the same.
    pools: Samples<4>,
    /// Copies of an object of one extent, and of one with a tree.
    copies: Samples<2>,
    /// In the large pool: create an object, look one up, open and close one; open the pool.
    many: Samples<4>,
}

fn main() -> Result<()> {
    let Program { arguments } = Program::parse();
    let (rows, pace) = run(&arguments)?;
    arguments.report(&rows, &pace)
}

fn run(arguments: &Arguments) -> Result<(Vec<Row>, Summary)> {
    Pinned::here()?;
    let folder = tempfile::tempdir_in(&arguments.data)?;
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/pmemobj.c");
    let mut pmemobj = Peer::pmemobj(source, folder.path(), folder.path());
    let (count, many_objects) = (arguments.scaled(OBJECTS, 100), arguments.scaled(MANY, 100));
    let ours = Ours::new(folder.path())?;
    let (mut steady, rounds) = (arguments.steady(4), arguments.rounds);
    let objects = steady.rounds(rounds, |round| {
        let [create, delete, touch] = ours.objects(count)?;
        round.between();
        let [file, unlink] = files::create_and_unlink(folder.path(), count)?;
        round.between();
        let ([alloc], [free]) = (pmemobj.measure_all("alloc", count)?, pmemobj.measure_all("free", count)?);
        anyhow::Ok([Some(create), Some(delete), Some(touch), Some(file), Some(unlink), alloc, free])
    })?;
    let pools = steady.rounds(rounds, |round| {
        let [create, open] = ours::pools(folder.path(), POOLS)?;
        round.between();
        let ([made], [opened]) = (pmemobj.measure_all("create", POOLS)?, pmemobj.measure_all("open", POOLS)?);
        anyhow::Ok([Some(create), Some(open), made, opened])
    })?;
    let copies = steady.rounds(rounds, |_| anyhow::Ok(ours.copies(COPIES)?.map(Some)))?;
    let many = steady.rounds(rounds, |_| anyhow::Ok(ours::many(folder.path(), many_objects)?.map(Some)))?;
    let measured = Measured {
        objects: Samples::of(objects),
        pools: Samples::of(pools),
        copies: Samples::of(copies),
        many: Samples::of(many),
    };
    Ok((rows(&measured, &pmemobj, count, many_objects), steady.summary()))
}

/// Nanoseconds on the CPU of each of `count` operations.
fn timed<E>(count: u64, work: impl FnOnce() -> std::result::Result<(), E>) -> std::result::Result<f64, E> {
    bench::clock::timed(count, work).map(|each| each.cpu)
}

fn rows(measured: &Measured, pmemobj: &Peer, count: u64, many: u64) -> Vec<Row> {
    let row = |name: &str, unit, samples: &[f64]| Row::new("pool", name, Where::Hosted, unit, samples);
    let ns = |name, samples| row(name, "ns", samples).sized(count, OBJECTS, "objects");
    let among = |name, unit, samples: &[f64]| row(name, unit, samples).sized(many, MANY, "objects");
    // Samples are in nanoseconds.
    let per = |samples: &[f64], unit: f64| samples.iter().map(|sample| sample / unit).collect::<Vec<_>>();
    let us = |samples: &[f64]| per(samples, 1e3);
    let Measured { objects, pools, copies, many } = measured;
    let [create, delete, touch, file, unlink, alloc, free] = &objects.figures;
    let of_objects = [
        ns("object create", create).beside("file create on tmpfs", file).at_most(2000.0),
        ns("object delete", delete).beside("file unlink on tmpfs", unlink).at_most(2000.0),
        pmemobj.put_beside(
            ns("object create, beside an allocation", create),
            "pmemobj_zalloc, 256 bytes",
            alloc,
        ),
        pmemobj.put_beside(ns("object delete, beside a free", delete), "pmemobj_free", free),
        ns("first touch of an object (open, 1 zeroed page, close)", touch),
    ];
    let [one, tree] = &copies.figures;
    let of_copies = [
        row("copy of a 1 GiB object, one extent", "us", &us(one)).at_most(20.0),
        row("copy of a 1 GiB object, tree of 513 nodes", "us", &us(tree)).at_most(20.0),
    ];
    let [create, open, made, opened] = &pools.figures;
    let of_pools = [
        pmemobj.put_beside(row("pool create, 64 MiB", "us", &us(create)), "pmemobj_create", &us(made)),
        pmemobj.put_beside(row("pool open, 64 MiB, empty", "us", &us(open)), "pmemobj_open", &us(opened)),
    ];
    let [create, lookup, open, open_pool] = &many.figures;
    let of_many = [
        among("object create, many in a 1 TiB pool", "ns", create).at_most(2000.0),
        among("lookup by ID among many", "ns", lookup).at_most(200.0),
        among("open and close by ID among many (record read, ID verified)", "ns", open),
        among("open of a 1 TiB pool with many objects", "ms", &per(open_pool, 1e6)).at_most(1000.0),
    ];
    let steadied = |outcome: Outcome| move |row: Row| row.steadied(outcome);
    let rows = of_objects.into_iter().map(steadied(objects.outcome));
    let rows = rows.chain(of_copies.into_iter().map(steadied(copies.outcome)));
    let rows = rows.chain(of_pools.into_iter().map(steadied(pools.outcome)));
    rows.chain(of_many.into_iter().map(steadied(many.outcome))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_measured_in_every_round() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap(); // as the default: on a disk, syncs take their time
        let arguments =
            Arguments { rounds: 3, divide: 10_000, patience: 0.0, data: folder.path().into(), json: None };
        let (rows, pace) = run(&arguments).unwrap();
        assert_eq!((pace.rounds, pace.again), (4 * 3, 0));
        assert_eq!(rows.len(), 13);
        for row in &rows {
            assert!(row.ours > 0.0, "{row}");
            assert!(row.ours_spread.is_some(), "{row}: a median of three or more has quartiles");
            let alone = row.peer_name.is_none() || row.skipped.is_some();
            assert!(alone || row.peer_spread.is_some() && row.ratio.is_some(), "{row}");
        }
        assert!(rows.iter().filter(|row| row.is_reduced()).count() >= 9, "sizes are told");
    }
}
