//! The main job: programs run on persistent memory, and what they stored is there when the machine is on again.

use std::collections::BTreeMap;
use tests::{Job, Machine, Output, Place};

const SMALL: Place = Place::Testbed { align: "4K" };
const LARGE: Place = Place::Testbed { align: "2M" };

tests_on!(
    local,
    super::Place::Local,
    counter_goes_on_where_it_was,
    every_fault_ends_in_its_own_status,
    harts_come_up,
    options_come_from_files,
    the_kernel_says_more_when_asked,
    counting_goes_on_after_kill_9,
);
tests_on!(
    testbed,
    super::SMALL,
    counter_goes_on_where_it_was,
    every_fault_ends_in_its_own_status,
    harts_come_up,
    counting_goes_on_after_a_power_cut,
);
tests_on!(testbed_2m, super::LARGE, counter_goes_on_where_it_was, counting_goes_on_after_a_power_cut);
tests_on!(
    intel,
    super::Place::TestbedIntel,
    counter_counts_within_one_boot,
    known_faults_end_in_their_status,
);

/// What the counter says on standard output.
fn counted(output: &Output) -> &str {
    output.expect_status(0);
    output.stdout.trim_end()
}

fn counter_goes_on_where_it_was(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    // Each of these is a power-on of its own in the testbed.
    let first = machine.run(&["twzvmm", "--pmem", &pool, "--create", "64M", "--", "counter"]);
    assert_eq!(counted(&first), "counter: 0");
    let second = machine.run_all(&[
        Job::new(&["twzvmm", "--pmem", &pool, "--", "counter"]),
        Job::new(&["twzvmm", "--pmem", &pool, "--", "counter", "another"]),
        Job::new(&["twzvmm", "--pmem", &pool]),
    ]);
    let said: Vec<&str> = second.iter().map(counted).collect();
    assert_eq!(said, ["counter: 1", "another: 0", "counter: 2"], "the third runs the image's init");
    let third = machine.run(&["twzvmm", "--pmem", &pool, "--", "counter", "another"]);
    assert_eq!(counted(&third), "another: 1");
}

fn counter_counts_within_one_boot(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let outputs = machine.run_all(&[
        Job::new(&["twzvmm", "--pmem", &pool, "--create", "64M", "--", "counter"]),
        Job::new(&["twzvmm", "--pmem", &pool, "--", "counter"]),
    ]);
    let said: Vec<&str> = outputs.iter().map(counted).collect();
    assert_eq!(said, ["counter: 0", "counter: 1"]);
}

/// Statuses that must not change, from `twz_abi::fault::FaultCause`; `fault --list` names more.
const KNOWN_FAULTS: [(&str, i32); 10] = [
    ("null-read", 130),
    ("unmapped-write", 129),
    ("no-object", 132),
    ("write-text", 131),
    ("execute-data", 131),
    ("kernel-read", 134),
    ("undefined", 135),
    ("hlt", 136),
    ("divide", 137),
    ("linux-call", 143),
];

/// The short list, in one boot: for the machine that takes long to boot.
fn known_faults_end_in_their_status(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let mut jobs = vec![Job::new(&["twzvmm", "doctor"])];
    jobs.extend(
        KNOWN_FAULTS
            .map(|(name, _)| Job::new(&["twzvmm", "--pmem", &pool, "--create", "64M", "--", "fault", name])),
    );
    let outputs = machine.run_all(&jobs);
    assert!(outputs[0].expect_status(0).stdout.contains("EPT"), "{}", outputs[0].stdout);
    let ended: Vec<(&str, i32)> =
        KNOWN_FAULTS.iter().zip(&outputs[1..]).map(|((name, _), output)| (*name, output.status)).collect();
    assert_eq!(ended, KNOWN_FAULTS);
}

fn every_fault_ends_in_its_own_status(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let list = machine.run(&["twzvmm", "--pmem", &pool, "--create", "64M", "--", "fault", "--list"]);
    list.expect_status(0);
    let documented: BTreeMap<&str, i32> = list.stdout.lines().map(name_and_status).collect();
    for (name, status) in KNOWN_FAULTS {
        assert_eq!(documented.get(name), Some(&status), "{name} in {documented:?}");
    }

    let mut jobs: Vec<Job> =
        documented.keys().map(|name| Job::new(&["twzvmm", "--pmem", &pool, "--", "fault", name])).collect();
    jobs.push(Job::new(&["twzvmm", "--pmem", &pool, "--", "counter"]));
    let mut outputs = machine.run_all(&jobs);
    let after = outputs.pop().expect("as many outputs as jobs");
    let wrong: Vec<String> = documented
        .iter()
        .zip(&outputs)
        .filter(|((_, status), output)| output.status != **status)
        .map(|((name, status), output)| {
            format!("{name}: {} instead of {status}; {}", output.status, output.stderr.trim())
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for ((name, status), output) in documented.iter().zip(&outputs) {
        if *status > 128 {
            // One line, which says what happened where.
            assert_eq!(output.stderr.lines().count(), 1, "{name}: {}", output.stderr);
            assert!(output.stderr.contains("instruction 0x"), "{name}: {}", output.stderr);
        }
    }
    let at = documented.keys().position(|name| *name == "write-text").expect("write-text is listed");
    for part in ["write", "object", "offset 0x"] {
        assert!(outputs[at].stderr.contains(part), "no {part} in: {}", outputs[at].stderr);
    }
    assert_eq!(counted(&after), "counter: 0", "the pool lives on");
}

fn name_and_status(line: &str) -> (&str, i32) {
    let (name, status) = line.split_once(' ').unwrap_or_else(|| panic!("no status: {line}"));
    (name, status.parse().unwrap_or_else(|error| panic!("{line}: {error}")))
}

fn harts_come_up(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let outputs = machine.run_all(&[
        Job::new(&["twzvmm", "--pmem", &pool, "--create", "64M", "--harts", "2", "--", "counter"]),
        Job::new(&["twzvmm", "--pmem", &pool, "--harts", "4", "--mem", "64M", "--", "counter"]),
    ]);
    let said: Vec<&str> = outputs.iter().map(counted).collect();
    assert_eq!(said, ["counter: 0", "counter: 1"]);
}

fn the_kernel_says_more_when_asked(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let options = ["twzvmm", "--pmem", "pool.img", "--create", "16M", "--harts", "2"];
    let outputs = machine.run_all(&[
        Job::new(&[&options[..], &["--", "counter"]].concat()),
        Job::new(&[&options[..], &["-v", "--", "counter"]].concat()),
    ]);
    let lines = |output: &Output| {
        output.expect_status(0).stderr.lines().filter(|line| line.starts_with("kernel: hart ")).count()
    };
    // The second hart may come up when the program has ended.
    assert!(lines(&outputs[0]) == 0 && lines(&outputs[1]) >= 1, "{outputs:?}");
}

fn options_come_from_files(place: Place) {
    let Some(mut machine) = Machine::new(place) else { return };
    let files = tempfile::tempdir().unwrap();
    let (image, config) = (files.path().join("image"), files.path().join("c.toml"));
    std::fs::write(&image, images::DEFAULT).unwrap();
    let text = "pmem = \"pool.img\"\ncreate = \"16M\"\nharts = 2\nmem = \"32M\"\nimage = \"image\"\nprogram = [\"echo\"]\n";
    std::fs::write(&config, text).unwrap();
    machine.add_file(&image, "image");
    machine.add_file(&config, "c.toml");
    let outputs = machine.run_all(&[
        Job::new(&["twzvmm", "--config", "c.toml"]),
        Job::new(&["twzvmm", "--config", "c.toml", "--", "counter"]),
        Job::new(&["twzvmm", "--config", "c.toml", "--pmem", "other.img", "--", "counter"]),
        Job::new(&["twzvmm", "--pmem", "pool.img", "--", "counter"]),
    ]);
    let said: Vec<&str> = outputs.iter().map(counted).collect();
    assert_eq!(
        said,
        ["echo: ready", "counter: 0", "counter: 0", "counter: 1"],
        "the command line wins over the file"
    );
}

/// How often the counter is started before something ends it.
const COUNTING: &str = "while twzvmm --pmem $POOL --create 16M -- counter; do :; done";

/// `counter: N` was printed before N + 1 was stored: the next number is never less. It may be more than one more: what the emulated machine's output
/// port held when its power was cut was counted, and not heard of.
fn check_next(printed: &str, next: &Output) {
    let number = |line: &str| line.strip_prefix("counter: ").and_then(|number| number.parse::<u64>().ok());
    let last =
        printed.lines().rev().find_map(number).unwrap_or_else(|| panic!("nothing was counted: {printed}"));
    let next = number(counted(next)).unwrap_or_else(|| panic!("not a count: {next:?}"));
    assert!(next >= last, "{next} after {last}");
}

fn counting_goes_on_after_a_power_cut(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    for marker in ["counter: 2", "counter: 5"] {
        let printed = machine.run_until_power_cut(&COUNTING.replace("$POOL", &pool), marker);
        check_next(&printed, &machine.run(&["twzvmm", "--pmem", &pool, "--", "counter"]));
    }
}

/// Kills `twzvmm` at moments spread over its life; the pool opens each time, with nothing lost that was printed.
fn counting_goes_on_after_kill_9(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let script = "for delay in 0.05 0.1 0.15 0.2 0.25 0.3 0.4; do \
                    twzvmm --pmem pool.img --create 16M -- counter & \
                    sleep $delay; kill -KILL $!; wait $!; \
                    twzvmm --pmem pool.img --create 16M -- counter; \
                  done";
    let output = machine.run(&["sh", "-c", script]);
    let numbers: Vec<u64> =
        output.stdout.lines().map(|line| line["counter: ".len()..].parse().unwrap()).collect();
    assert!(numbers.len() >= 7, "{output:?}");
    // One that was killed has printed its number, but perhaps not raised it.
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0] + 1), "{numbers:?}");
    assert!(numbers.last() >= Some(&6), "{numbers:?}");
}
