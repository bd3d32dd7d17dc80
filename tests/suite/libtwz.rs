//! Programs on `libtwz`: the same tests inside the machine as in a Linux process, data and locks over restarts and power cuts, a program of
//! one's own from the template.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tests::{Job, Machine, Output, Place};

const SMALL: Place = Place::Testbed { align: "4K" };
const LARGE: Place = Place::Testbed { align: "2M" };

tests_on!(
    local,
    super::Place::Local,
    hello_counts_its_starts,
    all_tests_pass_on_two_harts,
    threads_meet_on_one_and_on_four_harts,
    no_program_sees_a_stale_translation,
    a_missing_right_is_an_error,
    a_full_pool_is_an_error_in_transactions,
    data_survives_restarts,
    locks_and_transactions_end_with_a_kill,
    arguments_and_environment_arrive,
    errors_end_with_a_line_and_a_status,
);
tests_on!(
    testbed,
    super::SMALL,
    hello_counts_its_starts,
    the_quick_tests_pass,
    no_program_sees_a_stale_translation,
    a_missing_right_is_an_error,
    a_full_pool_is_an_error_in_transactions,
    data_survives_restarts,
    locks_and_transactions_end_with_the_power,
);
tests_on!(testbed_2m, super::LARGE, hello_counts_its_starts, locks_and_transactions_end_with_the_power);

/// Tests in which threads meet, by parts of their names.
const THREADS: [&str; 7] =
    ["runtime::", "sync::", "io::", "racing", "no_thread", "threads_take_turns", "while_writers"];
/// What takes longest: left out where everything takes ten times longer.
const LONG: [&str; 9] = [
    "damage_is_an_error",
    "maps_",
    "ordered_inserts",
    "sequences_agree",
    "a_vector_outgrows",
    "many_names",
    "while_writers",
    "garbage_in_the_metadata",
    "readers_of_a_version",
];

/// A job that takes longer than others.
fn slow(job: Job, seconds: u64) -> Job {
    Job { limit: Duration::from_secs(seconds), ..job }
}

fn hello_counts_its_starts(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let outputs = machine.run_all(&[
        Job::new(&["twzvmm", "--pmem", &pool, "--create", "64M", "--", "hello"]),
        Job::new(&["twzvmm", "--pmem", &pool, "--", "hello"]),
    ]);
    let said: Vec<&str> = outputs.iter().map(|output| output.expect_status(0).stdout.as_str()).collect();
    assert_eq!(said, ["hello, world: start 1 of this pool\n", "hello, world: start 2 of this pool\n"]);
}

/// The names in what `libtest` printed.
fn passed(output: &Output) -> Vec<&str> {
    output.expect_status(0);
    output
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.split_once(" ... ok"))
        .map(|(name, _)| name)
        .collect()
}

fn listed(machine: &Machine, pool: &str) -> Vec<String> {
    let list = machine.run(&["twzvmm", "--pmem", pool, "--create", "400M", "--", "libtest", "--list"]);
    list.expect_status(0).stdout.lines().map(str::to_owned).collect()
}

fn all_tests_pass_on_two_harts(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let names = listed(&machine, &pool);
    assert!(names.len() > 40, "{names:?}");
    let job = Job::new(&["twzvmm", "--pmem", &pool, "--harts", "2", "--", "libtest"]);
    let outputs = machine.run_all(&[slow(job, 900)]);
    assert_eq!(passed(&outputs[0]), names);
}

fn threads_meet_on_one_and_on_four_harts(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let names = listed(&machine, &pool);
    let names: Vec<&String> =
        names.iter().filter(|name| THREADS.iter().any(|part| name.contains(part))).collect();
    for harts in ["1", "4"] {
        let mut words = vec!["twzvmm", "--pmem", &pool, "--harts", harts, "--", "libtest"];
        words.extend(THREADS);
        let outputs = machine.run_all(&[slow(Job::new(&words), 400)]);
        assert_eq!(passed(&outputs[0]), names, "{harts} harts");
    }
}

/// On real second-stage tables, and on flushed DAX.
fn the_quick_tests_pass(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let names = listed(&machine, &pool);
    let names: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| !LONG.iter().any(|part| name.contains(part)))
        .collect();
    assert!(names.len() > 30, "{names:?}");
    let mut words = vec!["twzvmm", "--pmem", &pool, "--harts", "2", "--", "libtest"];
    words.extend(&names);
    let outputs = machine.run_all(&[slow(Job::new(&words), 60)]);
    assert_eq!(passed(&outputs[0]), names);
}

/// A second program, in a view of its own, follows pointers whose FOT entry and name the first one changes.
fn no_program_sees_a_stale_translation(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let outputs = machine.run_all(&["1", "2"].map(|harts| {
        Job::new(&[
            "twzvmm", "--pmem", &pool, "--create", "128M", "--harts", harts, "--", "libtest", "others",
        ])
    }));
    for output in &outputs {
        let said = &output.expect_status(0).stdout;
        assert_eq!(said, "libtest: 40 changes seen by another program\n");
    }
}

/// A program in a context of its own on objects that it may not read, or not write.
fn a_missing_right_is_an_error(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let job = Job::new(&["twzvmm", "--pmem", &machine.pool(), "--create", "128M", "--", "libtest", "rights"]);
    let output = &machine.run_all(&[job])[0];
    assert_eq!(output.expect_status(0).stdout, "libtest: rights that a program has not are errors\n");
}

/// Stores to pages that cannot be had would end the program.
fn a_full_pool_is_an_error_in_transactions(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let outputs = machine.run_all(&[
        slow(Job::new(&["twzvmm", "--pmem", &pool, "--create", "64M", "--", "libtest", "full", "8"]), 300),
        Job::new(&["twzvmm", "pool", "fsck", &pool]),
    ]);
    let said = &outputs[0].expect_status(0).stdout;
    let refused = said.strip_prefix("libtest: a full pool refused ").and_then(|rest| rest.split_once(' '));
    let refused: u32 = refused.and_then(|(number, _)| number.parse().ok()).unwrap_or(0);
    assert!(refused >= 8 * 12, "{said}");
    assert!(outputs[1].expect_status(0).stdout.contains("clean"), "{:?}", outputs[1]);
}

fn data_survives_restarts(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let round = |number: &str| {
        slow(
            Job::new(&["twzvmm", "--pmem", &pool, "--create", "64M", "--", "libtest", "restart", number]),
            60,
        )
    };
    let outputs = machine.run_all(&[round("0"), round("1"), round("2"), round("1")]);
    for (number, output) in outputs[..3].iter().enumerate() {
        assert_eq!(output.expect_status(0).stdout, format!("libtest: round {number} done\n"));
    }
    // The check can fail: a round that was there already is told.
    assert!(outputs[3].expect_status(101).stdout.contains("rounds that were finished"), "{:?}", outputs[3]);
}

fn locks_and_transactions_end_with_a_kill(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    for number in 0..3 {
        let round = number.to_string();
        let words =
            ["twzvmm", "--pmem", "pool.img", "--create", "64M", "--", "libtest", "restart", &round, "hold"];
        let running = tests::start(machine.local_command(&words).expect("a local machine"));
        running.wait_for(&format!("libtest: round {number} done\n"));
        running.signal(rustix::process::Signal::KILL);
        assert_eq!(running.wait(Duration::from_secs(20)).status, 137);
    }
    machine.run(&["twzvmm", "--pmem", "pool.img", "--", "libtest", "restart", "3"]).expect_status(0);
}

fn locks_and_transactions_end_with_the_power(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    for number in 0..2 {
        let script = format!("twzvmm --pmem {pool} --create 128M -- libtest restart {number} hold");
        machine.run_until_power_cut(&script, &format!("libtest: round {number} done"));
    }
    machine.run(&["twzvmm", "--pmem", &pool, "--", "libtest", "restart", "2"]).expect_status(0);
}

fn arguments_and_environment_arrive(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let words = [
        "--env",
        "NAME=a value",
        "--env",
        "EQUAL=x=y",
        "--env",
        "EMPTY=",
        "--",
        "libtest",
        "env",
        "ü",
        "",
        "two words",
    ];
    let output = machine.run(&[&["twzvmm", "--pmem", &pool, "--create", "64M"][..], &words].concat());
    let said = "[\"ü\", \"\", \"two words\"]\nNAME: a value\nEQUAL: x=y\nEMPTY: \n";
    assert_eq!(output.expect_status(0).stdout, said);
}

fn errors_end_with_a_line_and_a_status(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let outputs = machine.run_all(&[
        Job::new(&["twzvmm", "--pmem", &pool, "--create", "64M", "--program", "nothing", "--", "nothing"]),
        Job::new(&["sh", "-c", "echo no program >text; twzvmm --pmem pool.img --program text"]),
        Job::new(&["twzvmm", "--pmem", &pool, "--env", "=x", "--", "hello"]),
    ]);
    for (output, reason) in outputs.iter().zip(["nothing", "not an ELF file", "NAME=VALUE"]) {
        assert!(output.expect_status(2).stderr.contains(reason), "{output:?}");
    }
}

/// What the documentation tells a newcomer to do, with the compiler's work kept between runs.
mod own_program {
    use super::*;

    fn repository() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
    }

    fn sh(script: &str, folder: &Path) -> Output {
        let mut command = Command::new("sh");
        command.args(["-ec", script]).current_dir(folder);
        let target = repository().join("target/own-program");
        command.env("CARGO_TARGET_DIR", target).env("REPOSITORY", repository());
        tests::start(command).wait(Duration::from_secs(600))
    }

    fn built(script: &str, folder: &Path) -> PathBuf {
        sh(script, folder).expect_status(0);
        repository().join("target/own-program/release/notes")
    }

    mod local {
        use super::*;

        #[test]
        fn a_program_of_ones_own_runs_hosted_and_in_the_machine() {
            let Some(machine) = Machine::new(Place::Local) else { return };
            let folder = tempfile::tempdir().unwrap();
            sh("$REPOSITORY/scripts/new-program notes", folder.path()).expect_status(0);
            let crate_folder = folder.path().join("notes");
            let build = "cargo build --quiet --offline --release --no-default-features --features guest";
            let program = built(build, &crate_folder).display().to_string();
            for (words, said) in
                [(&["first"][..], "first\n"), (&["second", "third"], "third\nsecond\nfirst\n")]
            {
                let mut line = vec![
                    "twzvmm",
                    "--pmem",
                    "pool.img",
                    "--create",
                    "64M",
                    "--program",
                    &program,
                    "--",
                    "notes",
                ];
                line.extend(words);
                assert_eq!(machine.run(&line).expect_status(0).stdout, said);
            }
            // Without a name, one's own program is what runs.
            let alone = machine.run(&["twzvmm", "--pmem", "pool.img", "--program", &program]);
            assert_eq!(alone.expect_status(0).stdout, "third\nsecond\nfirst\n");

            let hosted = built("cargo build --quiet --offline --release", &crate_folder);
            for said in ["a\n", "a\na\n"] {
                let script = format!("TWZ_POOL=hosted.img {} a", hosted.display());
                assert_eq!(sh(&script, &crate_folder).expect_status(0).stdout, said);
            }
        }
    }
}
