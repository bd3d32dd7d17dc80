//! `libbench`, the half of the benchmarks that runs inside: it knows every operation that `bench-libtwz` and `bench-apps` ask it for, answers each
//! with as many numbers as they expect, and says so when it cannot. Not how large the numbers are: that is what `make bench` is for.

use tests::{Job, Machine, Output, Place};

#[path = "../../bench/libtwz/src/plans.rs"]
#[allow(dead_code, reason = "names, peers and aims are the benchmark's affair")]
mod plans;

tests_on!(
    local,
    super::Place::Local,
    every_operation_is_answered,
    kv_and_trees_are_answered,
    what_is_not_known_is_said
);
tests_on!(testbed, super::NPT, kv_and_trees_are_answered);

const NPT: Place = Place::Testbed { align: "4K" };
/// A nanosecond figure above this is none: no operation here takes ten seconds, anywhere.
const TEN_SECONDS: f64 = 1e10;

/// Asks these questions, one a line, and returns the answers.
fn ask(place: Place, questions: &[String]) -> Option<Vec<String>> {
    let machine = Machine::new(place)?;
    let pool = machine.pool();
    let script = format!("printf '%s\\n' \"$@\" | twzvmm --pmem {pool} --create 450M -- libbench");
    let words = ["sh", "-c", &script, "sh"].into_iter().chain(questions.iter().map(String::as_str));
    let outputs: Vec<Output> = machine.run_all(&[Job::new(&words.collect::<Vec<_>>())]);
    Some(outputs[0].expect_status(0).stdout.lines().map(str::to_owned).collect())
}

/// The numbers of an answer, which must be times.
fn times(question: &str, answer: &str) -> Vec<f64> {
    let numbers: Vec<f64> = answer
        .split(' ')
        .map(|word| word.parse().unwrap_or_else(|_| panic!("{question:?} was answered {answer:?}")))
        .collect();
    assert!(numbers.iter().all(|ns| *ns > 0.0 && *ns < TEN_SECONDS), "{question:?} was answered {answer:?}");
    numbers
}

/// One answer to each question, each of `numbers` times.
fn check(place: Place, questions: &[String], numbers: usize) {
    let Some(answers) = ask(place, questions) else { return };
    assert_eq!(answers.len(), questions.len(), "{answers:?}");
    for (question, answer) in questions.iter().zip(&answers) {
        assert_eq!(times(question, answer).len(), numbers, "{question:?} was answered {answer:?}");
    }
}

fn every_operation_is_answered(place: Place) {
    let mut operations: Vec<_> = plans::PLANS.iter().map(|plan| plan.ours).collect();
    operations.sort_unstable();
    operations.dedup();
    assert!(operations.len() > 15, "{operations:?}");
    let ask_for = |(what, parameter)| format!("libtwz {what} {parameter} 64");
    check(place, &operations.into_iter().map(ask_for).collect::<Vec<_>>(), 1);
}

fn kv_and_trees_are_answered(place: Place) {
    let of = |(kind, objects)| ["new", "present"].map(|pages| format!("{kind} {objects} {pages} 500"));
    let kinds = [("kv", 1), ("kv", 8), ("twzrbt", 1), ("twzrbt", 4), ("ramrbt", 1)];
    // An insert and a look-up of each; twice, so that what a round leaves behind does not disturb the next one.
    check(place, &kinds.iter().chain(&kinds).flat_map(|kind| of(*kind)).collect::<Vec<_>>(), 2);
}

fn what_is_not_known_is_said(place: Place) {
    let wrong = [
        "libtwz nonsense 0 1",
        "kv 1 old 10",
        "kv one new 10",
        "linked_list 1 new 10",
        "kv 1 new",
        "",
        "libtwz tx_put 99999999999 1",
    ];
    let questions: Vec<String> =
        wrong.iter().flat_map(|wrong| [(*wrong).to_owned(), "ramrbt 1 new 10".to_owned()]).collect();
    let Some(answers) = ask(place, &questions) else { return };
    assert_eq!(answers.len(), questions.len(), "{answers:?}");
    for (pair, question) in answers.chunks(2).zip(wrong) {
        assert!(pair[0].starts_with("failed: "), "{question:?} was answered {:?}", pair[0]);
        assert_eq!(times("what comes after it", &pair[1]).len(), 2, "{question:?}");
    }
}
