//! Threads begin again after a failure, and the machine ends in good order when asked to.

use rustix::process::Signal;
use std::time::{Duration, Instant};
use tests::{Job, Machine, Output, PATIENCE, Place, start};

const SMALL: Place = Place::Testbed { align: "4K" };

tests_on!(
    local,
    super::Place::Local,
    a_computation_goes_on_where_it_was,
    memory_and_registers_can_be_kept,
    former_memory_is_beside_the_fresh,
    what_keeps_failing_is_set_aside,
    threads_begin_in_their_order,
    what_was_mapped_is_mapped_again,
    what_has_ended_is_not_resumed,
    a_program_runs_beside_what_is_resumed,
    signals_end_it_within_a_second_and_keep_the_list,
);
tests_on!(testbed, super::SMALL, a_computation_goes_on_after_a_power_cut);

/// Runs until standard output has `marker`, then kills.
fn killed_at(machine: &Machine, words: &[&str], marker: &str) -> String {
    let running = start(machine.local_command(words).expect("a local machine"));
    running.wait_for(marker);
    running.signal(Signal::KILL);
    running.wait(Duration::from_secs(20)).stdout
}

const CREATE: [&str; 6] = ["twzvmm", "--pmem", "pool.img", "--create", "64M", "--"];
const ALONE: [&str; 3] = ["twzvmm", "--pmem", "pool.img"];

fn alone(machine: &Machine) -> Output {
    machine.run(&ALONE)
}

fn with<'a>(words: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [words, more].concat()
}

/// The number behind `prefix`.
fn number(line: &str, prefix: &str) -> Option<u64> {
    line.strip_prefix(prefix)?.split(' ').next()?.parse().ok()
}

/// The last row that was announced; what the first line says is to be done next comes after what was.
fn last_row(said: &str) -> Option<u64> {
    let announced = said.lines().rev().find_map(|line| number(line, "mandel: row "));
    announced.or_else(|| Some(number(said.lines().next()?, "mandel: goes on at row ")? - 1))
}

/// Holds what the next life says it goes on with against the last row that was announced. At most `unheard` rows more may have been
/// done: one between being done and being announced; all that the emulated machine's output port held when its power was cut.
fn check_rows(before: &str, after: &str, unheard: u64) {
    let next = after.lines().next().and_then(|line| number(line, "mandel: goes on at row "));
    let (Some(announced), Some(next)) = (last_row(before), next) else {
        panic!("no row was announced in {before:?}, or none is gone on with in {after:?}");
    };
    let done = next - 1;
    assert!((announced..=announced + unheard).contains(&done), "row {next} after {announced} was announced");
}

fn a_computation_goes_on_where_it_was(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    // Rows in the middle take 15 ms each: however late the signals come, seconds of work are left.
    let picture = ["mandel", "200", "300", "60000"];
    let whole = machine.run(&with(&CREATE, &picture));
    let checksum = whole.expect_status(0).stdout.rsplit(' ').next().expect("a checksum").to_owned();
    let mut before = killed_at(&machine, &with(&CREATE, &picture), "row 7\n");
    for _ in 0..3 {
        let some_more = last_row(&before).expect("a row was announced") + 13;
        let after = killed_at(&machine, &ALONE, &format!("row {some_more}\n"));
        check_rows(&before, &after, 1);
        before = after;
    }
    let last = alone(&machine);
    check_rows(&before, &last.expect_status(0).stdout, 1);
    assert!(last.stdout.ends_with(&format!("after 4 failures, checksum {checksum}")), "{}", last.stdout);
    let none = alone(&machine);
    assert!(none.stderr.contains("no thread is to be resumed"), "{none:?}");
    let pool = machine.run(&["twzvmm", "pool", "fsck", "pool.img"]);
    assert!(pool.expect_status(0).stdout.contains("clean"), "{pool:?}");
}

fn a_computation_goes_on_after_a_power_cut(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    // Some seconds' work: on a busy host the power fails that much after the row was announced.
    const ROWS: u64 = 150;
    let rows = ROWS.to_string();
    let first = format!("twzvmm --pmem {pool} --create 64M -- mandel 40 {rows} 1500");
    let before = machine.run_until_power_cut(&first, "row 3");
    let outputs = machine.run_all(&[
        Job::new(&["twzvmm", "--pmem", &pool]),
        Job::new(&["twzvmm", "--pmem", &pool, "--", "mandel", "40", &rows, "1500"]),
        Job::new(&["twzvmm", "pool", "fsck", &pool]),
    ]);
    check_rows(&before, &outputs[0].expect_status(0).stdout, ROWS);
    let checksum = |output: &Output| output.expect_status(0).stdout.rsplit(' ').next().map(str::to_owned);
    assert_eq!(checksum(&outputs[0]), checksum(&outputs[1]));
    outputs[2].expect_status(0);
}

fn memory_and_registers_can_be_kept(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    killed_at(&machine, &with(&CREATE, &["resumes", "keep"]), "ready\n");
    for life in [1, 2] {
        let said = killed_at(&machine, &ALONE, "ready\n");
        assert_eq!(said, format!("life {} heap {} stack 11\nready\n", 40 + life, 7 + life));
    }
    assert_eq!(alone(&machine).expect_status(3).stdout, "life 43 heap 10 stack 11\n");
}

fn former_memory_is_beside_the_fresh(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    killed_at(&machine, &with(&CREATE, &["resumes", "former"]), "ready\n");
    let said = alone(&machine);
    assert_eq!(said.expect_status(0).stdout, "data 40 before 41 heap in true before 12345678\n");
}

fn what_keeps_failing_is_set_aside(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    for (word, status) in [("fault", 135), ("silent", 137)] {
        killed_at(&machine, &with(&CREATE, &["resumes", word]), "ready\n");
        for life in 1..=3 {
            let line = format!("life {life}\n");
            if word == "fault" {
                let output = alone(&machine);
                assert_eq!(output.expect_status(status).stdout, line);
                assert_eq!(output.stderr.contains("resumes (main) was set aside"), life == 3, "{output:?}");
            } else {
                assert_eq!(killed_at(&machine, &ALONE, &line), line);
            }
        }
        // Not a fourth time, by nobody.
        let fourth = machine.run(&with(&ALONE, &["--", "counter", word]));
        assert_eq!(fourth.expect_status(0).stdout, format!("{word}: 0\n"));
        assert_eq!(fourth.stderr.contains("was set aside"), word == "silent", "{fourth:?}");
        let list = machine.run(&["twzvmm", "resume", "ls", "--pmem", "pool.img"]);
        assert!(list.stdout.contains("resumes (main)        set aside      3        3"), "{list:?}");
        machine.run(&["twzvmm", "resume", "retry", "--pmem", "pool.img", "1"]).expect_status(0);
        let said = killed_at(&machine, &with(&ALONE, &["--harts", "1"]), "life 4\n");
        assert_eq!(said, "life 4\n", "another chance");
        machine.run(&["twzvmm", "resume", "clear", "--pmem", "pool.img", "1"]).expect_status(0);
        let list = machine.run(&["twzvmm", "resume", "ls", "--pmem", "pool.img", "--json"]);
        assert_eq!(list.expect_status(0).stdout, "[]\n");
        machine.run(&["twzvmm", "resume", "clear", "--pmem", "pool.img", "1"]).expect_status(2);
    }
}

fn threads_begin_in_their_order(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    killed_at(&machine, &with(&CREATE, &["resumes", "order", "5"]), "ready\n");
    let said = alone(&machine);
    assert_eq!(in_order(&said.expect_status(0).stdout), ["0", "1", "2", "3", "4"]);
}

fn what_was_mapped_is_mapped_again(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    // More than a context's window has room for where KVM shadows page tables, and the pool has room only because small objects are small.
    killed_at(&machine, &with(&CREATE, &["resumes", "mapped", "2500"]), "ready\n");
    for _ in 0..2 {
        // It looks at a word of each.
        let said = killed_at(&machine, &ALONE, "ready\n");
        assert!(said.contains("touched "), "{said}");
    }
}

/// The threads that said so, in the order in which they were made: time slices may end before a thread has printed.
fn in_order(said: &str) -> Vec<&str> {
    let mut lines: Vec<(&str, &str)> = said
        .lines()
        .filter_map(|line| line.strip_prefix("thread ")?.split_once(" started "))
        .map(|(number, serial)| (serial, number))
        .collect();
    lines.sort_unstable();
    lines.into_iter().map(|(_, number)| number).collect()
}

fn what_has_ended_is_not_resumed(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    machine.run(&with(&CREATE, &["resumes", "exit"])).expect_status(0);
    let next = alone(&machine);
    assert!(next.stderr.contains("no thread is to be resumed: starting"), "{next:?}");
    assert_eq!(next.stdout, "counter: 0\n");
}

fn a_program_runs_beside_what_is_resumed(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    killed_at(&machine, &with(&CREATE, &["resumes", "order", "2"]), "ready\n");
    let said = machine.run(&with(&ALONE, &["--", "counter"]));
    assert!(said.expect_status(0).stdout.contains("counter: 0\n"), "{said:?}");
    // The machine ends with its first program. A thread that has not left the list by then is resumed again, also if it had said its number.
    let mut threads = in_order(&said.stdout);
    let rest = alone(&machine);
    threads.extend(in_order(&rest.stdout));
    threads.sort_unstable();
    threads.dedup();
    assert_eq!(threads, ["0", "1"]);
    assert!(alone(&machine).stderr.contains("no thread is to be resumed"), "both have left the list");
}

fn signals_end_it_within_a_second_and_keep_the_list(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let mut words = with(&CREATE, &["mandel", "2000", "2000", "60000"]);
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        // A busy host may take more than a second for anything, but not every time.
        let mut took = Duration::MAX;
        for _ in 0..10 {
            let running = start(machine.local_command(&words).expect("a local machine"));
            running.wait_for("mandel: ");
            let began = Instant::now();
            running.signal(signal);
            running.wait(PATIENCE).expect_status(status);
            took = took.min(began.elapsed());
            let list = machine.run(&["twzvmm", "resume", "ls", "--pmem", "pool.img"]);
            assert!(list.stdout.contains("mandel (main)"), "{list:?}");
            // From the second time on it is resumed.
            words = ALONE.to_vec();
            if took < Duration::from_secs(1) {
                break;
            }
        }
        assert!(took < Duration::from_secs(1), "never ended sooner than after {took:?}");
    }
}
