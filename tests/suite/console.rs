//! What is typed reaches the program, and signals end the machine in good order, whatever it is doing.

use rustix::process::Signal;
use std::time::Duration;
use tests::{Job, Machine, Place, start_typing};

const SMALL: Place = Place::Testbed { align: "4K" };

tests_on!(
    local,
    super::Place::Local,
    all_that_is_typed_comes_out,
    what_is_typed_comes_out_at_once,
    signals_end_what_sleeps_and_what_computes,
    a_reader_that_does_not_read_keeps_nothing_alive,
    a_reader_that_does_not_read_stops_only_who_writes,
    a_slow_reader_gets_everything,
);
tests_on!(testbed, super::SMALL, all_that_is_typed_comes_out, signals_are_statuses);

/// More than any buffer on the way, from a pipe and from a file.
fn all_that_is_typed_comes_out(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let outputs = machine.run_all(&[
        Job::new(&["sh", "-c", "seq 1 60000 >in; { echo echo: ready; cat in; } | md5sum"]),
        Job::new(&["sh", "-c", &format!("cat in | twzvmm --pmem {pool} --create 16M -- echo | md5sum")]),
        Job::new(&["sh", "-c", &format!("twzvmm --pmem {pool} -- echo <in | md5sum")]),
        Job::new(&["twzvmm", "--pmem", &pool, "--", "echo"]),
    ]);
    let expected = outputs[0].expect_status(0).stdout.clone();
    assert_eq!([&outputs[1].stdout, &outputs[2].stdout], [&expected; 2]);
    assert_eq!(outputs[3].expect_status(0).stdout, "echo: ready\n", "an input that has ended");
}

fn what_is_typed_comes_out_at_once(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let command = machine.local_command(&["twzvmm", "--pmem", "pool.img", "--create", "16M", "--", "echo"]);
    let mut running = start_typing(command.expect("a local machine"));
    running.wait_for("echo: ready\n");
    for line in ["one\n", "two\n"] {
        running.type_in(line);
        running.wait_for(line);
    }
    running.end_input();
    assert_eq!(running.wait(Duration::from_secs(20)).expect_status(0).stdout, "echo: ready\none\ntwo\n");
}

fn signals_end_what_sleeps_and_what_computes(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    // The first start of a pool says whose it is; these are about the others.
    machine.run(&["twzvmm", "--pmem", "pool.img", "--create", "16M", "--", "counter"]);
    for (program, ready) in [("echo", "echo: ready\n"), ("spin", "spin: ready\n")] {
        for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
            let words = ["twzvmm", "--pmem", "pool.img", "--harts", "2", "--", program];
            let running = start_typing(machine.local_command(&words).expect("a local machine"));
            running.wait_for(ready);
            running.signal(signal);
            let output = running.wait(Duration::from_secs(10));
            output.expect_status(status);
            assert_eq!(output.stderr, "", "{program}");
        }
    }
    let after = machine.run(&["twzvmm", "--pmem", "pool.img", "--", "counter"]);
    assert_eq!(after.expect_status(0).stdout, "counter: 1\n", "the pool lives on");
}

/// The program waits for room in a pipe that nobody empties; a signal ends the machine all the same.
fn a_reader_that_does_not_read_keeps_nothing_alive(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let script = "mkfifo out; sleep 30 <out & reader=$!; exec 3>out; \
        seq 1 200000 | twzvmm --pmem pool.img --create 16M --harts 2 -- echo >&3 & machine=$!; \
        sleep 3; kill -TERM $machine; began=$(date +%s); wait $machine; echo $?; \
        took=$(($(date +%s) - began)); [ $took -le 8 ] && echo in time || echo after $took s; kill $reader";
    let output = machine.run(&["sh", "-c", script]);
    assert_eq!(output.stdout, "143\nin time\n");
}

/// A thread prints into a full pipe; another, on the same hart and on another one, goes on making calls.
fn a_reader_that_does_not_read_stops_only_who_writes(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    for harts in ["1", "2"] {
        let script = format!(
            "rm -f out control; mkfifo out; sleep 30 <out & reader=$!; exec 3>out; \
             twzvmm --pmem pool.img --create 16M --harts {harts} --control control -- echo --flood >&3 & machine=$!; \
             sleep 3; \
             for turn in 1 2; do \
               twzvmm stats --control control --json | tr ',' '\\n' | grep -E '\"(syscalls|thread_switches)\"' | tr -dc '0-9 \\n'; \
               sleep 1; \
             done; kill $machine; wait $machine; kill $reader"
        );
        let output = machine.run(&["sh", "-c", &script]);
        let counts: Vec<u64> = output.stdout.lines().filter_map(|line| line.trim().parse().ok()).collect();
        let [before, _, after, _] = counts[..] else { panic!("{harts} harts: {output:?}") };
        assert!(after > before + 20, "{harts} harts: {before} calls, a second later {after}");
    }
}

/// The program is long gone when its output is read.
fn a_slow_reader_gets_everything(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let script = "seq 1 20000 >in; { echo echo: ready; cat in; } | md5sum; \
        twzvmm --pmem pool.img --create 16M -- echo <in | { sleep 4; md5sum; }";
    let output = machine.run(&["sh", "-c", script]);
    let sums: Vec<&str> = output.expect_status(0).stdout.lines().collect();
    assert!(sums.len() == 2 && sums[0] == sums[1], "{sums:?}");
}

/// The same from a shell, for machines that are not this host.
fn signals_are_statuses(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let script = format!(
        "for signal in INT TERM; do \
           twzvmm --pmem {pool} --create 16M -- spin >out & \
           tries=300; until grep -q ready out || [ $tries = 0 ]; do tries=$((tries - 1)); sleep 0.1; done; \
           kill -$signal $!; wait $!; echo $?; \
         done; twzvmm --pmem {pool} -- counter"
    );
    let output = machine.run(&["sh", "-c", &script]);
    // A shell without job control starts background commands with SIGINT ignored; twzvmm takes it all the same.
    assert_eq!(output.expect_status(0).stdout, "130\n143\ncounter: 0\n");
}
