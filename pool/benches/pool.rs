//! Speeds of the pool beside what people use today. Prints one JSON row a line; `cargo bench -p pool`.
//!
//! Peers: files on tmpfs (create + close, unlink) and libpmemobj (Debian: `libpmemobj-dev`), measured in the same run on the
//! same `/dev/shm`. Each figure is the best of several rounds: the machine may be busy, the work is the same.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails may say so any way it likes")]
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "small numbers")]

use pool::{Access, CreateOptions, ObjectSpec, OpenOptions, Pool};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use twz_abi::ObjectId;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// One figure.
struct Row {
    name: &'static str,
    unit: &'static str,
    ours: f64,
    peer: Option<(&'static str, f64)>,
    /// The most that `ours` may be.
    aim: Option<f64>,
}

impl Row {
    fn print(&self) {
        let holds = self.aim.map(|aim| self.ours <= aim);
        let row = serde_json::json!({
            "group": "pool", "name": self.name, "where": "hosted", "unit": self.unit, "ours": round(self.ours),
            "peer": self.peer.map(|(_, peer)| round(peer)), "peer_name": self.peer.map(|(name, _)| name),
            "ratio": self.peer.map(|(_, peer)| round(self.ours / peer)),
            "aim": self.aim.map(|aim| format!("≤ {aim} {}", self.unit)), "holds": holds,
        });
        println!("{row}");
    }
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The least of `rounds` measurements, in nanoseconds for each of `count` steps.
fn best(rounds: usize, count: u64, mut round: impl FnMut()) -> f64 {
    let times = (0..rounds).map(|_| {
        let start = Instant::now();
        round();
        start.elapsed().as_nanos() as f64 / count as f64
    });
    times.fold(f64::INFINITY, f64::min)
}

fn main() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let pmemobj = pmemobj(folder.path());
    let files = files(folder.path());
    objects(folder.path(), files, pmemobj);
    copies(folder.path());
    pools(folder.path(), pmemobj);
    many(folder.path());
}

/// (create + close, unlink) of an empty file, ns.
fn files(folder: &Path) -> (f64, f64) {
    const COUNT: u64 = 20_000;
    let paths: Vec<PathBuf> = (0..COUNT).map(|number| folder.join(format!("file-{number:032x}"))).collect();
    let (mut create, mut unlink) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..5 {
        create = create
            .min(best(1, COUNT, || paths.iter().for_each(|path| drop(std::fs::File::create(path).unwrap()))));
        unlink =
            unlink.min(best(1, COUNT, || paths.iter().for_each(|path| std::fs::remove_file(path).unwrap())));
    }
    (create, unlink)
}

/// What `pmemobj.c` measures: pool create and open, object allocation and free, ns.
fn pmemobj(folder: &Path) -> Option<[f64; 4]> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/pmemobj.c");
    let program = folder.join("pmemobj");
    let compiled =
        Command::new("cc").arg("-O2").arg("-o").arg(&program).arg(&source).arg("-lpmemobj").status();
    if !compiled.is_ok_and(|status| status.success()) {
        eprintln!("no libpmemobj here (apt-get install libpmemobj-dev): its figures are left out");
        return None;
    }
    let output = Command::new(&program)
        .arg(folder.join("peer.obj"))
        .args([(64 * MIB).to_string(), "20".to_owned()])
        .env("PMEM_IS_PMEM_FORCE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let figures: Vec<f64> = text.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
    figures.try_into().ok()
}

fn objects(folder: &Path, files: (f64, f64), pmemobj: Option<[f64; 4]>) {
    const COUNT: u64 = 20_000;
    let path = folder.join("objects.pool");
    let pool = Pool::create(&path, GIB, &CreateOptions::default()).unwrap();
    let (mut create, mut delete, mut touch) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
    for round in 0..7 {
        let mut ids = Vec::with_capacity(COUNT as usize);
        let time = best(1, COUNT, || {
            ids.extend((0..COUNT).map(|_| pool.create_object(&ObjectSpec::default()).unwrap()));
        });
        if round % 2 == 1 {
            // Some rounds with a page each, so that the other side of deleting is seen too.
            touch = touch.min(best(1, COUNT, || {
                for &id in &ids {
                    black_box(pool.open_object(id).unwrap().touch(0x1000, 0, Access::Write).unwrap());
                }
            }));
        } else {
            create = create.min(time);
        }
        let time = best(1, COUNT, || ids.iter().for_each(|&id| pool.delete_object(id).unwrap()));
        if round % 2 == 0 {
            delete = delete.min(time);
        }
    }
    Row {
        name: "object create",
        unit: "ns",
        ours: create,
        peer: Some(("file create on tmpfs", files.0)),
        aim: Some(2000.0),
    }
    .print();
    Row {
        name: "object delete",
        unit: "ns",
        ours: delete,
        peer: Some(("file unlink on tmpfs", files.1)),
        aim: Some(2000.0),
    }
    .print();
    if let Some([_, _, alloc, free]) = pmemobj {
        Row {
            name: "object create, beside an allocation",
            unit: "ns",
            ours: create,
            peer: Some(("pmemobj_zalloc, 256 bytes", alloc)),
            aim: None,
        }
        .print();
        Row {
            name: "object delete, beside a free",
            unit: "ns",
            ours: delete,
            peer: Some(("pmemobj_free", free)),
            aim: None,
        }
        .print();
    }
    Row {
        name: "first touch of an object (open, 1 zeroed page, close)",
        unit: "ns",
        ours: touch,
        peer: None,
        aim: None,
    }
    .print();
}

fn copies(folder: &Path) {
    let pool = Pool::create(&folder.join("copies.pool"), 3 * GIB, &CreateOptions::default()).unwrap();
    let source = pool.create_object(&ObjectSpec { size: GIB, ..ObjectSpec::default() }).unwrap();
    let copy = |pool: &Pool| {
        let mut made = Vec::new();
        let time = best(200, 1, || made.push(pool.copy_object(source).unwrap()));
        made.into_iter().for_each(|id| pool.delete_object(id).unwrap());
        time / 1000.0
    };
    let name = "copy of a 1 GiB object, one extent";
    Row { name, unit: "us", ours: copy(&pool), peer: None, aim: Some(20.0) }.print();
    // Scattered writes to source and copy, until the map is a tree with many leaves.
    let scattered = pool.copy_object(source).unwrap();
    let object = pool.open_object(source).unwrap();
    for page in (0..GIB / 4096).step_by(511) {
        object.write(page * 4096, &[1]).unwrap();
    }
    let name = "copy of a 1 GiB object, tree of 513 nodes";
    Row { name, unit: "us", ours: copy(&pool), peer: None, aim: Some(20.0) }.print();
    pool.delete_object(scattered).unwrap();
}

fn pools(folder: &Path, pmemobj: Option<[f64; 4]>) {
    let path = folder.join("small.pool");
    let (mut create, mut open) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..20 {
        let _ = std::fs::remove_file(&path);
        create = create
            .min(best(1, 1, || drop(Pool::create(&path, 64 * MIB, &CreateOptions::default()).unwrap())));
        open = open.min(best(1, 1, || drop(Pool::open(&path, &OpenOptions::default()).unwrap())));
    }
    let peer = |number: usize, name| pmemobj.map(|figures| (name, figures[number] / 1000.0));
    let ours = create / 1000.0;
    Row { name: "pool create, 64 MiB", unit: "us", ours, peer: peer(0, "pmemobj_create"), aim: None }.print();
    let ours = open / 1000.0;
    Row { name: "pool open, 64 MiB, empty", unit: "us", ours, peer: peer(1, "pmemobj_open"), aim: None }
        .print();
}

/// A 1 TiB (sparse) pool with a million objects.
fn many(folder: &Path) {
    const COUNT: u64 = 1_000_000;
    let path = folder.join("many.pool");
    let pool = Pool::create(&path, 1024 * GIB, &CreateOptions::default()).unwrap();
    let start = Instant::now();
    let ids: Vec<ObjectId> =
        (0..COUNT).map(|_| pool.create_object(&ObjectSpec::default()).unwrap()).collect();
    let ours = start.elapsed().as_nanos() as f64 / COUNT as f64;
    Row { name: "object create, a million in a 1 TiB pool", unit: "ns", ours, peer: None, aim: Some(2000.0) }
        .print();
    // In an order that caches cannot guess: a large odd step visits each ID once.
    let order = |number: u64| ids[(number.wrapping_mul(0x9e37_79b1) % COUNT) as usize];
    let lookup =
        best(5, COUNT, || (0..COUNT).for_each(|number| assert!(black_box(pool.contains(order(number))))));
    let name = "lookup by ID among a million";
    Row { name, unit: "ns", ours: lookup, peer: None, aim: Some(200.0) }.print();
    let open = best(3, COUNT, || {
        (0..COUNT).for_each(|number| drop(black_box(pool.open_object(order(number)).unwrap())))
    });
    let name = "open and close by ID among a million (record read, ID verified)";
    Row { name, unit: "ns", ours: open, peer: None, aim: None }.print();
    drop(pool);
    let open = best(5, 1, || drop(black_box(Pool::open(&path, &OpenOptions::default()).unwrap())));
    let name = "open of a 1 TiB pool with a million objects";
    Row { name, unit: "ms", ours: open / 1e6, peer: None, aim: Some(1000.0) }.print();
}
