//! The logging service: what is logged stays, who said it is known, and nobody else gets at it.

use rustix::process::Signal;
use std::time::Duration;
use tests::{Job, Machine, Output, Place, start_typing};

const SMALL: Place = Place::Testbed { align: "4K" };

tests_on!(
    local,
    super::Place::Local,
    messages_of_both_kinds_stay_in_order,
    nobody_reads_alters_or_forges,
    what_was_acknowledged_survives_kill_9,
    the_service_goes_on_after_a_failure,
    calls_in_the_shared_root_switch_no_root,
);
tests_on!(testbed, super::SMALL, messages_of_both_kinds_stay_in_order, nobody_reads_alters_or_forges);

/// Attempts of `logboi --attack`; a change of it changes this, so that none is lost unnoticed.
const ATTEMPTS: usize = 20;

fn script(machine: &Machine, lines: &[&str]) -> Output {
    let text = lines.join("\n");
    let command = format!("echo '{text}' | twzvmm --pmem {} --create 256M --harts 2 -- twsh", machine.pool());
    run(machine, &["sh", "-c", &command])
}

/// With more time than other commands get: each message is a call into another context, and there are hundreds.
fn run(machine: &Machine, words: &[&str]) -> Output {
    let job = Job { limit: Duration::from_secs(120), ..Job::new(words) };
    machine.run_all(&[job]).remove(0)
}

/// Sender and text of each record that `log` printed.
fn records(output: &Output) -> Vec<(String, String)> {
    let record = |line: &str| {
        let (head, text) = line.split_once(": ")?;
        let mut words = head.split(' ');
        let (time, level, sender) = (words.next()?, words.next()?, words.next()?);
        time.split_once('.')?.0.parse::<u64>().ok()?;
        level.parse::<u32>().ok()?;
        Some((sender.to_owned(), text.to_owned()))
    };
    output.stdout.lines().filter_map(record).collect()
}

fn own(text: &str) -> (String, String) {
    ("context/init".to_owned(), text.to_owned())
}

fn messages_of_both_kinds_stay_in_order(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let first = script(&machine, &["log one", "log --async two", "log three   words", "log"]);
    let expected = [own("one"), own("two"), own("three words")];
    assert_eq!(records(first.expect_status(0)), expected, "{first:?}");
    let second = script(&machine, &["log", "log --shared four", "log"]);
    let printed = records(second.expect_status(0));
    assert_eq!(printed[..3], expected, "after a restart");
    assert_eq!(printed[3..], [&expected[..], &[own("four")]].concat(), "with the other placement");
}

fn nobody_reads_alters_or_forges(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    // Once with the service in a root of its own, once in the shared one.
    for option in ["", "--shared "] {
        end_service(&machine);
        let start = format!("log {option}before");
        let output = script(&machine, &[&start, "run --own logboi --attack", "log after", "log"]);
        let broken: Vec<&str> = output.stdout.lines().filter(|line| line.starts_with("BROKEN")).collect();
        assert_eq!(broken, [""; 0], "{output:?}");
        assert_eq!(
            output.stdout.lines().filter(|line| line.starts_with("held: ")).count(),
            ATTEMPTS,
            "{output:?}"
        );
        assert_eq!(output.expect_status(0).stdout.matches("0 broken").count(), 1);
        let printed = records(&output);
        let since =
            printed.iter().rposition(|record| *record == own("before")).expect("what was logged before");
        let (attacker, others): (Vec<_>, Vec<_>) =
            printed[since..].iter().partition(|(sender, _)| sender == "context/run/logboi");
        assert_eq!(others, [&own("before"), &own("after")], "nothing in another name");
        let said: Vec<&str> = attacker.iter().map(|(_, text)| text.as_str()).collect();
        let expected =
            ["from an attacker, in its own name", "by stream, in its own name", "", "still here", "and here"];
        assert_eq!(said, expected);
    }
    // Not even the first context, whose key made all others, reads the log's object.
    let output = script(&machine, &["stat log/logboi"]);
    assert!(output.stdout.contains("does not permit"), "{output:?}");
}

/// `stat` says that there is no such name, and thereby that the record before it is durable.
fn what_was_acknowledged_survives_kill_9(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let mut logged = 0;
    for last in [1, 4, 8] {
        let words = ["twzvmm", "--pmem", "pool.img", "--create", "256M", "--harts", "2", "--", "twsh"];
        let mut running = start_typing(machine.local_command(&words).expect("a local machine"));
        for number in 1..=40 {
            running.type_in(&format!("log line {number}\nstat done-{number}\n"));
        }
        running.wait_for(&format!("done-{last}:"));
        running.signal(Signal::KILL);
        let acknowledged = running.wait(Duration::from_secs(20)).stdout.matches("stat: done-").count();
        assert!(acknowledged >= last);
        let output = script(&machine, &["log"]);
        let printed = records(output.expect_status(0));
        let new = printed.len() - logged;
        assert!(
            (acknowledged..=acknowledged + 1).contains(&new),
            "{new} records, {acknowledged} acknowledged"
        );
        let expected: Vec<(String, String)> =
            (1..=new).map(|number| own(&format!("line {number}"))).collect();
        assert_eq!(printed[logged..], expected);
        logged = printed.len();
    }
}

/// Killed, and cut off with its unflushed lines lost: the service is there again, with the log, and without having been started.
fn the_service_goes_on_after_a_failure(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let mut lines = Vec::new();
    for (life, options) in
        [&["--power-cut", "1"][..], &[], &["--power-cut", "2"], &[]].into_iter().enumerate()
    {
        let words = ["twzvmm", "--pmem", "pool.img", "--create", "64M", "--harts", "2"];
        let words = [&words[..], options, &["--", "twsh"]].concat();
        let mut running = start_typing(machine.local_command(&words).expect("a local machine"));
        running.type_in(&format!("log life {life}\nstat done-{life}\n"));
        running.wait_for(&format!("done-{life}:"));
        running.signal(Signal::KILL);
        running.wait(Duration::from_secs(20)).expect_status(137);
        lines.push(own(&format!("life {life}")));
        let list = machine.run(&["twzvmm", "resume", "ls", "--pmem", "pool.img"]);
        let line = list.expect_status(0).stdout.lines().nth(1).expect("a line").to_owned();
        let numbers: Vec<&str> = line.split_whitespace().skip(3).take(3).collect();
        // The shell's call needs no thread of the service, which may not have confirmed its beginning yet: then that counts as a try.
        assert!(
            matches!(numbers[..], ["resumable", "0" | "1", times] if times == life.to_string()),
            "{line}"
        );
    }
    // A program that ends at once does not count as three failed tries of the service.
    for _ in 0..4 {
        machine.run(&["twzvmm", "--pmem", "pool.img", "--", "hello"]).expect_status(0);
    }
    let output = script(&machine, &["log"]);
    assert_eq!(records(output.expect_status(0)), lines);
    assert!(!output.stderr.contains("set aside"), "{output:?}");
}

/// Takes the service off the resume list: the next machine starts it anew.
fn end_service(machine: &Machine) {
    let pool = machine.pool();
    let command = format!("twzvmm resume clear --all --pmem {pool} || ! twzvmm pool info {pool}");
    run(machine, &["sh", "-c", &command]).expect_status(0);
}

fn calls_in_the_shared_root_switch_no_root(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let bench = |options: &[&str]| {
        let words =
            ["twzvmm", "--pmem", &pool, "--create", "256M", "--harts", "2", "--", "logboi", "--bench", "5"];
        let output = run(&machine, &[&words[..], options].concat());
        let text = output.expect_status(0).stdout.clone();
        let line = text.lines().find(|line| line.contains("\"log_sync\"")).expect("a row").to_owned();
        let number = |name: &str| -> u64 {
            let rest = &line[line.find(&format!("\"{name}\":")).expect("a column") + name.len() + 3..];
            rest.split([',', '}']).next().and_then(|digits| digits.parse().ok()).expect("a number")
        };
        (number("gate_calls_per_1000"), number("root_switches_per_1000"))
    };
    let (calls, switches) = bench(&[]);
    assert!((1000..1100).contains(&calls) && switches >= 2000, "own: {calls} calls, {switches} switches");
    end_service(&machine);
    let (calls, switches) = bench(&["--shared"]);
    assert!((1000..1100).contains(&calls) && switches < 1000, "shared: {calls} calls, {switches} switches");
}
