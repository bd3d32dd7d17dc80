//! `kv` inside: from the host's shell, over boots, and after `twzvmm` was killed.

use std::time::Duration;
use tests::{Job, Machine, Output, Place};

tests_on!(
    local,
    super::Place::Local,
    pairs_stay_over_boots,
    bulk_loads_show_how_far_they_are,
    a_killed_store_recovers
);
tests_on!(testbed, super::NPT, pairs_stay_over_boots);

const NPT: Place = Place::Testbed { align: "4K" };
/// Some ten times what it takes on an idle host.
const LIMIT: Duration = Duration::from_secs(90);

fn kv(pool: &str, line: &str) -> Job {
    let mut words = vec!["twzvmm", "--pmem", pool, "--create", "256M", "--harts", "2", "--", "kv"];
    words.extend(line.split(' '));
    Job { limit: LIMIT, ..Job::new(&words) }
}

fn said(output: &Output) -> &str {
    output.expect_status(0);
    output.stdout.trim_end()
}

fn pairs_stay_over_boots(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let outputs = machine.run_all(&[
        kv(&pool, "put colour blue"),
        kv(&pool, "get colour"),
        kv(&pool, "put colour red"),
        kv(&pool, "--store other put colour green"),
        kv(&pool, "get colour"),
        kv(&pool, "scan"),
        kv(&pool, "delete colour"),
        kv(&pool, "get colour"),
        kv(&pool, "--store other get colour"),
        kv(&pool, "nonsense"),
    ]);
    assert_eq!(said(&outputs[1]), "blue");
    assert_eq!(said(&outputs[4]), "red");
    assert_eq!(said(&outputs[5]), "colour red");
    assert_eq!(said(&outputs[6]), "");
    assert_eq!(outputs[7].status, 1, "{:?}", outputs[7]);
    assert!(outputs[7].stderr.contains("has no value"), "{:?}", outputs[7]);
    assert_eq!(said(&outputs[8]), "green");
    assert_eq!(outputs[9].status, 2);
}

fn bulk_loads_show_how_far_they_are(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let outputs = machine.run_all(&[
        kv(&pool, "load 5000"),
        kv(&pool, "stats"),
        kv(&pool, "get key-4999"),
        kv(&pool, "scan 3"),
    ]);
    said(&outputs[0]);
    assert!(outputs[0].stderr.contains("100%") && outputs[0].stderr.contains("###"), "{:?}", outputs[0]);
    assert!(said(&outputs[1]).starts_with("keys: 5000\n"), "{:?}", outputs[1]);
    assert!(said(&outputs[1]).ends_with("recoveries: 0"), "{:?}", outputs[1]);
    assert_eq!(said(&outputs[2]), "value-4999");
    assert_eq!(said(&outputs[3]).lines().count(), 3);
}

/// Killed while it loads: what was there before is there, and the store goes on.
fn a_killed_store_recovers(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let options = "--pmem pool.img --create 256M --harts 2 -- kv";
    let script = format!(
        "twzvmm {options} put colour blue || exit 9
         twzvmm {options} load 100000000 2> bar & victim=$!
         for try in $(seq 600); do grep -q % bar && break; sleep 0.1; done
         sleep 1; kill -KILL $victim; wait $victim
         twzvmm {options} get colour && twzvmm {options} get key-1000 &&
         twzvmm {options} put colour red && twzvmm {options} get colour && twzvmm {options} stats"
    );
    let output = &machine.run_all(&[Job { limit: LIMIT * 2, ..Job::new(&["sh", "-c", &script]) }])[0];
    let lines: Vec<&str> = said(output).lines().collect();
    assert_eq!(lines[..3], ["blue", "value-1000", "red"], "{output:?}");
    assert_eq!(lines.last(), Some(&"recoveries: 1"), "{output:?}");
}
