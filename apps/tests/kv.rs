//! `kv` as a Linux program, on a pool file: what it does with its input.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn kv(pool: &Path, words: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv"));
    command.args(words).env("TWZ_POOL", pool);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("kv starts");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("kv reads its input");
    child.wait_with_output().expect("kv ends")
}

#[test]
fn lines_are_put_in_batches_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let pool = folder.path().join("pool.img");
    let mut lines: String = (0..2500).map(|number| format!("key-{number} value {number}\n")).collect();
    lines += "alone";
    let output = kv(&pool, &["read"], &lines);
    let [said, shown] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{shown}");
    assert_eq!(said, "2501 pairs\n");
    // One piece for 1024 lines: each pair on its own would be shown, or nothing.
    let pieces: Vec<&str> = shown.trim().split('\r').filter(|piece| !piece.is_empty()).collect();
    assert_eq!(pieces, ["1024 pairs so far", "2048 pairs so far", "2501 pairs so far"]);
    for (key, value) in [("key-0", "value 0\n"), ("key-2499", "value 2499\n"), ("alone", "\n")] {
        let output = kv(&pool, &["get", key], "");
        assert_eq!(String::from_utf8_lossy(&output.stdout), value, "{output:?}");
    }
    let stats = kv(&pool, &["stats"], "");
    assert!(stats.stdout.starts_with(b"keys: 2501\n"), "{stats:?}");
}
