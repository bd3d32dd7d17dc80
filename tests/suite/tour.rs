//! The tour: every step shows what it says, and the second one finds what the first one left, whether its machine lost power (and with it what was not
//! durable), as in `make run`, or was switched off.

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
    let cut = |seed| {
        let words = ["twzvmm", "--pmem", &pool, "--create", "256M", "--power-cut", seed];
        Job::new(&[&words[..], &["--power-cut-at", "tour/power.rs", "--", "tour"]].concat())
    };
    let outputs = machine.run_all(&[
        cut("1"),
        cut("2"),
        Job::new(&["twzvmm", "--pmem", &pool, "--", "tour"]),
        Job::new(&["twzvmm", "--pmem", &pool, "--", "tour", "--stay"]),
        Job::new(&["twzvmm", "--pmem", &pool, "--", "tour", "--leave"]),
    ]);
    for (output, status) in outputs.iter().zip([137, 137, 0, 0]) {
        let mut rest = output.expect_status(status).stdout.as_str();
        for text in SHOWN {
            let at = rest.find(text).unwrap_or_else(|| panic!("no {text:?} in order in\n{}", output.stdout));
            rest = &rest[at + text.len()..];
        }
        let lines = output.stdout.lines().count();
        assert!((40..=70).contains(&lines), "{lines} lines");
    }
    let says = |tour: usize, text: &str| outputs[tour].stdout.contains(text);
    let put_back = "the log put left back";
    let diary = |tour: usize| outputs[tour].stdout.lines().find(|line| line.contains("The diary is object"));
    for tour in 0..4 {
        assert!(says(tour, &format!("{tour} tours before this one")));
        let accounts = format!("left {}, right {}; together", 1000 - tour * 10, tour * 10);
        assert!(says(tour, &accounts), "what was committed stays: no {accounts:?} in tour {tour}");
        assert_eq!(says(tour, put_back), tour > 0, "what was cut is gone");
        assert!(diary(tour).is_some() && diary(tour) == diary(0));
    }
    outputs[4].expect_status(1);
}
