//! `bench-pool`: the pool beside what people use today, files on a tmpfs and libpmemobj, in interleaved rounds.
//!
//! A round does everything once: ours, files, libpmemobj, ours again …; a first one warms up and does not count. Times are of the CPU on
//! all sides, which on a tmpfs is all that there is to wait for.

mod files;
mod ours;

use anyhow::Result;
use bench::arguments::Arguments;
use bench::peer::Peer;
use bench::row::{Row, Where};
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

/// A row for each of these.
#[derive(Default)]
struct Samples {
    /// Objects: create, delete, first touch.
    objects: [Vec<f64>; 3],
    /// Files: create and close, unlink.
    files: [Vec<f64>; 2],
    /// libpmemobj: allocate, free.
    allocations: [Vec<f64>; 2],
    /// Small pools: create, open; libpmemobj's: the same.
    pools: [Vec<f64>; 2],
    peers_pools: [Vec<f64>; 2],
    /// Copies of an object of one extent, and of one with a tree.
    copies: [Vec<f64>; 2],
    /// In the large pool: create an object, look one up, open and close one; open the pool.
    many: [Vec<f64>; 4],
}

fn main() -> Result<()> {
    let Program { arguments } = Program::parse();
    arguments.report(&run(&arguments)?)
}

fn run(arguments: &Arguments) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir_in(&arguments.data)?;
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/pmemobj.c");
    let mut pmemobj = Peer::pmemobj(source, folder.path(), folder.path());
    let (count, many) = (arguments.scaled(OBJECTS, 100), arguments.scaled(MANY, 100));
    let ours = Ours::new(folder.path())?;
    let mut samples = Samples::default();
    for round in 0..=arguments.rounds {
        if round == 1 {
            samples = Samples::default(); // the first round warmed all sides
        }
        put(&mut samples.objects, ours.objects(count)?);
        put(&mut samples.files, files::create_and_unlink(folder.path(), count)?);
        for (what, samples) in ["alloc", "free"].into_iter().zip(&mut samples.allocations) {
            pmemobj.measure(what, count, samples)?;
        }
        put(&mut samples.pools, ours::pools(folder.path(), POOLS)?);
        for (what, samples) in ["create", "open"].into_iter().zip(&mut samples.peers_pools) {
            pmemobj.measure(what, POOLS, samples)?;
        }
        put(&mut samples.copies, ours.copies(COPIES)?);
        put(&mut samples.many, ours::many(folder.path(), many)?);
    }
    Ok(rows(&samples, &pmemobj, count, many))
}

/// Nanoseconds on the CPU of each of `count` operations.
fn timed<E>(count: u64, work: impl FnOnce() -> std::result::Result<(), E>) -> std::result::Result<f64, E> {
    bench::clock::timed(count, work).map(|each| each.cpu)
}

fn put<const N: usize>(samples: &mut [Vec<f64>; N], figures: [f64; N]) {
    samples.iter_mut().zip(figures).for_each(|(samples, figure)| samples.push(figure));
}

fn rows(samples: &Samples, pmemobj: &Peer, count: u64, many: u64) -> Vec<Row> {
    let row = |name: &str, unit, samples: &[f64]| Row::new("pool", name, Where::Hosted, unit, samples);
    let ns = |name, samples| row(name, "ns", samples).sized(count, OBJECTS, "objects");
    let among = |name, unit, samples: &[f64]| row(name, unit, samples).sized(many, MANY, "objects");
    // Samples are in nanoseconds.
    let per = |samples: &[f64], unit: f64| samples.iter().map(|sample| sample / unit).collect::<Vec<_>>();
    let us = |samples: &[f64]| per(samples, 1e3);
    let [create, delete, touch] = &samples.objects;
    let [small_create, small_open] = &samples.pools;
    vec![
        ns("object create", create).beside("file create on tmpfs", &samples.files[0]).at_most(2000.0),
        ns("object delete", delete).beside("file unlink on tmpfs", &samples.files[1]).at_most(2000.0),
        pmemobj.put_beside(
            ns("object create, beside an allocation", create),
            "pmemobj_zalloc, 256 bytes",
            &samples.allocations[0],
        ),
        pmemobj.put_beside(
            ns("object delete, beside a free", delete),
            "pmemobj_free",
            &samples.allocations[1],
        ),
        ns("first touch of an object (open, 1 zeroed page, close)", touch),
        row("copy of a 1 GiB object, one extent", "us", &us(&samples.copies[0])).at_most(20.0),
        row("copy of a 1 GiB object, tree of 513 nodes", "us", &us(&samples.copies[1])).at_most(20.0),
        pmemobj.put_beside(
            row("pool create, 64 MiB", "us", &us(small_create)),
            "pmemobj_create",
            &us(&samples.peers_pools[0]),
        ),
        pmemobj.put_beside(
            row("pool open, 64 MiB, empty", "us", &us(small_open)),
            "pmemobj_open",
            &us(&samples.peers_pools[1]),
        ),
        among("object create, many in a 1 TiB pool", "ns", &samples.many[0]).at_most(2000.0),
        among("lookup by ID among many", "ns", &samples.many[1]).at_most(200.0),
        among("open and close by ID among many (record read, ID verified)", "ns", &samples.many[2]),
        among("open of a 1 TiB pool with many objects", "ms", &per(&samples.many[3], 1e6)).at_most(1000.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_measured_in_every_round() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap(); // as the default: on a disk, syncs take their time
        let arguments = Arguments { rounds: 3, divide: 10_000, data: folder.path().into(), json: None };
        let rows = run(&arguments).unwrap();
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
