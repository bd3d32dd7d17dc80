//! The tour: every step shows what it says, and the second one finds what the first one left.

use tests::{Job, Machine, Place};

const SMALL: Place = Place::Testbed { align: "4K" };
const LARGE: Place = Place::Testbed { align: "2M" };

tests_on!(local, super::Place::Local, the_second_tour_finds_what_the_first_one_left);
tests_on!(testbed, super::SMALL, the_second_tour_finds_what_the_first_one_left);
tests_on!(testbed_2m, super::LARGE, the_second_tour_finds_what_the_first_one_left);

/// What each tour shows, in order.
const SHOWN: [&str; 13] = [
    "1. Objects",
    "2. Pointers",
    "Its 64 bits: 0x00000001",
    "Mapped a second time",
    "3. Late binding",
    "gives \"TWZPKEY1\"",
    "A store there: fault Rights, write to object",
    "4. Contexts",
    "there and back from this one's root took 2 switches of the root",
    "a fault ended its call, not us",
    "a fault ended its call, not us",
    "5. Power failure",
    "as if it had never been",
];

fn the_second_tour_finds_what_the_first_one_left(place: Place) {
    let Some(machine) = Machine::new(place) else { return };
    let pool = machine.pool();
    let outputs = machine.run_all(&[
        Job::new(&["twzvmm", "--pmem", &pool, "--create", "256M", "--", "tour"]),
        Job::new(&["twzvmm", "--pmem", &pool, "--", "tour"]),
        Job::new(&["twzvmm", "--pmem", &pool, "--", "tour", "--stay"]),
        Job::new(&["twzvmm", "--pmem", &pool, "--", "tour", "--leave"]),
    ]);
    for output in &outputs[..3] {
        let mut rest = output.expect_status(0).stdout.as_str();
        for text in SHOWN {
            let at = rest.find(text).unwrap_or_else(|| panic!("no {text:?} in order in\n{}", output.stdout));
            rest = &rest[at + text.len()..];
        }
        let lines = output.stdout.lines().count();
        assert!((40..=70).contains(&lines), "{lines} lines");
    }
    let says = |tour: usize, text: &str| outputs[tour].stdout.contains(text);
    let put_back = "the log put left back";
    assert!(
        says(0, "0 tours before this one") && says(1, "1 tours before this one") && says(2, "2 tours before")
    );
    assert!(says(0, "left 1000, right 0; together") && says(1, "left 990, right 10; together"));
    assert!(says(2, "left 980, right 20; together"), "what was committed stays");
    assert!(!says(0, put_back) && says(1, put_back) && says(2, put_back), "what was cut is gone");
    let diary = |tour: usize| outputs[tour].stdout.lines().find(|line| line.contains("The diary is object"));
    assert!(diary(0).is_some() && diary(0) == diary(1) && diary(0) == diary(2));
    outputs[3].expect_status(1);
}
