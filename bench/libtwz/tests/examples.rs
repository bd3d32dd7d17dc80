//! The C programs whose lines are counted do what our examples do.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

const SAY: [(&str, &str); 3] = [
    ("list", "3\n2\n1\npopped Some(3)\n"),
    ("tree", "1 -> 1\n2 -> 4\n5 -> 25\n8 -> 64\n9 -> 81\n"),
    ("map", "corner shop: article 17 costs 275 cents\ncorner shop: article 18 costs 399 cents\n"),
];

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn peers_examples_say_the_same() {
    let directory = tempfile::tempdir().unwrap();
    for (name, expected) in SAY {
        let program = directory.path().join(name);
        let source = format!("{}/peers/examples/{name}.c", env!("CARGO_MANIFEST_DIR"));
        let built = Command::new("cc").arg("-o").arg(&program).arg(source).arg("-lpmemobj").output();
        if !built.is_ok_and(|output| output.status.success()) {
            println!("skipped: no C compiler, or no libpmemobj-dev");
            return;
        }
        let output = Command::new(&program).arg(directory.path().join("pool")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        std::fs::remove_file(directory.path().join("pool")).unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let (said, expected) = if name == "map" {
            (sorted(&said), sorted(expected))
        } else {
            (said.lines().collect(), expected.lines().collect())
        };
        assert_eq!(said, expected, "{name}");
    }
}
