//! Security contexts: a program inside tries to get what nobody granted, with callees of both placements.

use std::time::Duration;
use tests::{Job, Machine, Output, Place};

tests_on!(
    local,
    super::Place::Local,
    nothing_is_got_that_nobody_granted,
    a_switch_takes_one_exit_to_another_root_and_none_within
);
tests_on!(
    testbed,
    super::NPT,
    nothing_is_got_that_nobody_granted,
    a_switch_takes_one_exit_to_another_root_and_none_within
);
tests_on!(intel, super::Place::TestbedIntel, nothing_is_got_that_nobody_granted);

const NPT: Place = Place::Testbed { align: "4K" };
/// Some ten times what it takes on an idle host.
const LIMIT: Duration = Duration::from_secs(60);
/// Attempts of the program; a change of it changes this, so that none is lost unnoticed.
const ATTEMPTS: usize = 101;

fn nothing_is_got_that_nobody_granted(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let harts = if matches!(place, Place::TestbedIntel) { "1" } else { "2" };
    let words = ["twzvmm", "--pmem", &pool, "--create", "64M", "--harts", harts, "--", "adversary", "12"];
    let job = Job { limit: LIMIT, ..Job::new(&words) };
    check(&machine.run_all(&[job])[0]);
}

/// Counted by the kernel: changes of roots, each of which is one exit, in five rounds.
fn a_switch_takes_one_exit_to_another_root_and_none_within(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let output = machine.run(&["twzvmm", "--pmem", &pool, "--create", "64M", "--", "switches", "20"]);
    output.expect_status(0);
    let counted = |name: &str| {
        let line = output.stdout.lines().find(|line| line.contains(&format!("\"{name}\"")))?;
        line.split("\"root_switches\": ").nth(1)?.trim_end_matches('}').parse::<u32>().ok()
    };
    assert_eq!(counted("gate_call_shared"), Some(0), "{output:?}");
    assert_eq!(counted("switch_shared"), Some(0));
    assert_eq!(counted("gate_call_own"), Some(5 * 20 * 2), "there and back");
    assert_eq!(counted("switch_own"), Some(5 * 20));
}

fn check(output: &Output) {
    output.expect_status(0);
    let held = output.stdout.lines().filter(|line| line.starts_with("held: ")).count();
    let broken: Vec<&str> = output.stdout.lines().filter(|line| line.starts_with("BROKEN: ")).collect();
    assert_eq!(broken, [""; 0]);
    assert_eq!(held, ATTEMPTS);
    let last = output.stdout.trim_end().lines().last();
    assert_eq!(last, Some(format!("adversary: {ATTEMPTS} attempts, {ATTEMPTS} held, 0 broken").as_str()));
}
