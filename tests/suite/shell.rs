//! The shell: scripts from standard input, and a person's keys at a terminal.

use rustix::process::Signal;
use std::time::Duration;
use tests::{AtTerminal, KeyModes, Machine, Output, Place, start_at_terminal, start_typing};

const SMALL: Place = Place::Testbed { align: "4K" };

tests_on!(
    local,
    super::Place::Local,
    scripts_run_and_end_in_the_first_failure,
    a_program_is_confined_to_its_context,
    a_program_takes_the_input_that_follows,
    keys_edit_and_history_outlives_the_machine,
    names_are_completed,
    the_terminal_is_restored_however_it_ends,
    ctrl_c_drops_a_line_and_ends_a_program,
);
tests_on!(testbed, super::SMALL, scripts_run_and_end_in_the_first_failure);

/// A line behind which the shell has read everything.
const MARK: &str = "twsh> ";

fn script(machine: &Machine, lines: &[&str]) -> Output {
    let text = lines.join("\n") + "\n";
    let command = format!(
        "printf '%s' '{}' | twzvmm --pmem {} --create 256M -- twsh",
        text.replace('\'', r"'\''"),
        machine.pool()
    );
    machine.run(&["sh", "-c", &command])
}

fn scripts_run_and_end_in_the_first_failure(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let output = script(
        &machine,
        &[
            "run counter # twice",
            "run counter",
            "run fault null-read",
            "stat nothing",
            "name copy counter",
            "stat copy",
            "fot copy",
            "name -d copy",
            "name copy",
            "run nothing",
            "nonsense",
            "'open",
            "run hello",
            "ls /",
            "name /again /hello",
            "stat /again",
            "top 1",
            "help run",
            "ls coun",
        ],
    );
    output.expect_status(130);
    let expected = [
        "counter: 0",
        "counter: 1",
        "fault: null-read, expecting status 130",
        "run: fault was ended by a fault: NullPage at 0x40000000",
        "stat: nothing: no such name",
        "id          ",
        "rights      rw--d for everybody, rwxud here",
        "copy: raw bytes, no FOT",
        "name: copy: no such name",
        "run: no program nothing",
        "nonsense: no command nonsense",
        "twsh: a quote does not end",
        "hello, world: start 1 of this pool",
        "  hello\n",
        "rights      ",
        "1. after ",
        "syscalls ",
        "usage: run [--own] PROGRAM",
        "  counter\n",
    ];
    let mut rest = output.stdout.as_str();
    for text in expected {
        let at = rest.find(text).unwrap_or_else(|| panic!("no {text:?} in order in\n{}", output.stdout));
        rest = &rest[at + text.len()..];
    }
    assert!(!output.stdout.contains(MARK), "no prompt for a script");
    assert_eq!(
        script(&machine, &["run counter", "exit 7", "run counter"]).expect_status(7).stdout,
        "counter: 2\n"
    );
    assert_eq!(script(&machine, &["run fault null-read", "exit"]).status, 130, "exit keeps the status");
}

/// What a program in its own context makes is its own; what is the shell's it cannot have.
fn a_program_is_confined_to_its_context(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let output =
        script(&machine, &["run --own ctx show", "run --own ctx make stolen", "run ctx show", "ctx ls"]);
    let ids: Vec<&str> = output.stdout.lines().filter(|line| line.contains("context/")).collect();
    assert!(
        output.stdout.contains("the secret of key owner: the security context does not permit it"),
        "{output:?}"
    );
    assert!(ids.iter().any(|line| line.contains("context/run/ctx")), "{output:?}");
    assert!(!output.stdout.contains("context/stolen"), "{output:?}");
    let again = script(&machine, &["run --own ctx show", "ctx ls"]);
    let of = |output: &Output| {
        let line = output.stdout.lines().find(|line| line.contains("context/run/ctx"));
        line.and_then(|line| line.split(' ').next()).map(str::to_owned)
    };
    assert_eq!(of(&output), of(&again), "the same context in the next machine");
}

fn a_program_takes_the_input_that_follows(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let output = script(&machine, &["run echo", "help", "me"]);
    assert_eq!(output.expect_status(0).stdout, "echo: ready\nhelp\nme\n");
    let command = machine.local_command(&["twzvmm", "--pmem", "pool.img", "--", "twsh"]);
    let mut running = start_typing(command.expect("a local machine"));
    running.type_in("run counter\n");
    running.wait_for("counter: 0\n");
    running.type_in("run counter");
    running.end_input();
    let output = running.wait(Duration::from_secs(20));
    assert_eq!(output.expect_status(0).stdout, "counter: 0\ncounter: 1\n", "the last line needs no end");
}

fn at_terminal(machine: &Machine) -> AtTerminal {
    let words = ["twzvmm", "--pmem", "pool.img", "--create", "256M", "--", "twsh"];
    start_at_terminal(&machine.local_command(&words).expect("a local machine"), 60)
}

fn keys_edit_and_history_outlives_the_machine(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let mut shell = at_terminal(&machine);
    let mut seen = shell.wait_for(0, MARK);
    assert_eq!(shell.modes(), KeyModes { lines: false, echo: false, signals: false });
    for (keys, shown) in [
        ("run countr\x1b[De\r", "counter: 0\r\n"),
        ("\x1b[A\r", "counter: 1\r\n"),
        ("x\x15\x10\x01\x04\x04\x04\x04\x0b\x19\x01run \x05\r", "counter: 2\r\n"),
        ("rum\x08n counterr\x02\x1b[3~ more words\x17\x17second\r", "second: 0\r\n"),
        ("\x1b[Hrun counter\x05 \x19\x17third\x1b[1~\x06\x1b[4~\r", "third: 0\r\n"),
    ] {
        shell.keys(keys);
        seen = shell.wait_for(seen, shown);
        seen = shell.wait_for(seen, MARK);
    }
    shell.keys("\x04");
    assert_eq!(shell.wait(Duration::from_secs(20)), 0);
    assert_eq!(shell.modes(), KeyModes::USUAL);

    let mut shell = at_terminal(&machine);
    let seen = shell.wait_for(0, MARK);
    shell.keys("\x1b[A\x1b[A\x1b[A\x1b[A\x1b[B\x1b[A\r");
    let seen = shell.wait_for(seen, "counter: 3\r\n");
    shell.wait_for(seen, MARK);
    shell.keys("exit 3\r");
    assert_eq!(shell.wait(Duration::from_secs(20)), 3);
}

fn names_are_completed(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let mut shell = at_terminal(&machine);
    let seen = shell.wait_for(0, MARK);
    shell.keys("ru\tcount\t\r");
    let seen = shell.wait_for(seen, "run counter ");
    let seen = shell.wait_for(seen, "counter: 0\r\n");
    let seen = shell.wait_for(seen, MARK);
    shell.keys("stat key/o\t\t");
    let seen = shell.wait_for(seen, "key/owner  key/owner.secret  \r\n");
    shell.keys("\r");
    let seen = shell.wait_for(seen, "rights      r---- for everybody");
    shell.wait_for(seen, MARK);
}

fn the_terminal_is_restored_however_it_ends(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    for (signal, status) in [
        (Signal::TERM, 143),
        (Signal::INT, 130),
        (Signal::HUP, 129),
        (Signal::QUIT, 131),
        (Signal::ABORT, 134),
    ] {
        let mut shell = at_terminal(&machine);
        shell.wait_for(0, MARK);
        assert!(!shell.modes().lines);
        shell.signal(signal);
        assert_eq!(shell.wait(Duration::from_secs(20)), status);
        assert_eq!(shell.modes(), KeyModes::USUAL, "after {signal:?}");
    }
    let mut shell = at_terminal(&machine);
    shell.wait_for(0, MARK);
    shell.keys("abc\x1dx");
    assert_eq!(shell.wait(Duration::from_secs(20)), 130, "Ctrl-] x leaves");
    assert_eq!(shell.modes(), KeyModes::USUAL);
}

fn ctrl_c_drops_a_line_and_ends_a_program(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let mut shell = at_terminal(&machine);
    let seen = shell.wait_for(0, MARK);
    shell.keys("exit 9\x03");
    let seen = shell.wait_for(seen, "^C");
    shell.keys("run spin\r");
    shell.wait_for(seen, "spin: ready");
    assert_eq!(shell.modes(), KeyModes::USUAL, "a program finds the terminal as it was");
    shell.keys("\x03");
    assert_eq!(shell.wait(Duration::from_secs(20)), 130);
    assert_eq!(shell.modes(), KeyModes::USUAL);
}
