//! What `#[derive(Invariant)]` and the compiler say of types that must not be stored: once, at the field, and what to do instead.
//!
//! Each case is a program of a crate in the target folder; `cargo check` must refuse it as its case says. The cases that
//! compile are among them, so that a crate that cannot be built at all is noticed.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// Name; the items, the first of which stands on line 4 behind `#[derive(Invariant)]` and `#[repr(C)]`; where the error is (line and
/// column); what is said.
type Case = (&'static str, &'static str, &'static str, &'static [&'static str]);

const NUMBERS: &str = "for `usize` and `isize` store u64 and i64, for `bool` a u8, for `char` a u32";
const POINTERS: &str = "store an InvPtr<T> or a GlobalPtr<T>";
const COLLECTIONS: &str = "for std's `String`, `Vec`, maps and sets store those of libtwz::collections";
const STRUCTS: &str =
    "for tuples, `Option` and types of your own store a struct with #[derive(Invariant)] and #[repr(C)]";

const REFUSED: &[Case] = &[
    ("flag", "struct S { good: u64, flag: bool }", "4:29", &["`bool` must not be stored", NUMBERS]),
    ("count", "struct S { count: usize }", "4:19", &["`usize` must not be stored", NUMBERS]),
    (
        "letters",
        "struct S { letters: [char; 4] }",
        "4:21",
        &["`char` must not be stored", "required for `[char; 4]`"],
    ),
    (
        "cell",
        "struct S { flag: PCell<bool> }",
        "4:18",
        &["`bool` must not be stored", "required for `libtwz::PCell<bool>`"],
    ),
    ("reference", "struct S { n: &'static u64 }", "4:15", &["`&'static u64` must not be stored", POINTERS]),
    ("raw", "struct S { n: *const u64 }", "4:15", &["`*const u64` must not be stored", POINTERS]),
    ("boxed", "struct S { n: Box<u64> }", "4:15", &["must not be stored", POINTERS]),
    ("function", "struct S { f: fn(u64) -> u64 }", "4:15", &["`fn(u64) -> u64` must not be stored"]),
    (
        "leads",
        "struct S { n: InvPtr<Box<u64>> }",
        "4:15",
        &["must not be stored", "required for `libtwz::InvPtr<std::boxed::Box<u64>>`"],
    ),
    ("text", "struct S { text: String }", "4:18", &["`std::string::String` must not be stored", COLLECTIONS]),
    ("vector", "struct S { n: Vec<u64> }", "4:15", &["`std::vec::Vec<u64>` must not be stored", COLLECTIONS]),
    ("pair", "struct S(u64, (u32, u32));", "4:15", &["`(u32, u32)` must not be stored", STRUCTS]),
    ("option", "struct S { n: Option<u64> }", "4:15", &["`Option<u64>` must not be stored", STRUCTS]),
    ("own", "struct S { o: Own }\nstruct Own { n: u64 }", "4:15", &["`Own` must not be stored", STRUCTS]),
    (
        "elements",
        "struct S { n: libtwz::collections::Vec<String> }",
        "4:15",
        &["must not be stored", COLLECTIONS],
    ),
    (
        "gap",
        "struct S { a: u8, b: u64, c: u64 }",
        "4:19",
        &["`S` has padding before `b`", "put larger fields first"],
    ),
    (
        "tail",
        "struct S { a: u64, b: u32 }",
        "4:8",
        &["`S` has padding after its last field", "`reserved: [u8; 4]`"],
    ),
    ("unnamed", "struct S(u8, u32);", "4:14", &["`S` has padding before `1`"]),
    ("choice", "enum E { A, B }", "4:6", &["only structs can be Invariant", "store a number"]),
    ("either", "union U { a: u64, b: u64 }", "4:7", &["only structs can be Invariant"]),
    (
        "lifetime",
        "struct S<'a> { n: core::marker::PhantomData<&'a u64> }",
        "4:10",
        &["no lifetimes", "store an InvPtr"],
    ),
    ("unaligned", "#[repr(packed)]\nstruct S { a: u8, b: u64 }", "4:8", &["unaligned fields"]),
];

/// What one would expect to be stored.
const ACCEPTED: &str = "struct S<T, const N: usize> {
    next: InvPtr<S<T, N>>,
    far: GlobalPtr<[u64; 2]>,
    values: [PCell<T>; N],
    unit: Unit,
    of: core::marker::PhantomData<fn(&'static str) -> bool>,
    wide: Wide,
}
#[derive(Invariant)]
#[repr(C)]
struct Unit;
#[derive(Clone, Copy, Invariant)]
#[repr(transparent)]
struct Wide(f64);
const _: u64 = libtwz::invariant::fingerprint::<S<Wide, 3>>();";

fn write_crate(at: &Path) {
    let libtwz = env!("CARGO_MANIFEST_DIR");
    std::fs::create_dir_all(at.join("src/bin")).unwrap();
    let manifest = format!(
        "[package]\nname = \"refused\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\nlibtwz = {{ path = \"{libtwz}\" }}\n\n[workspace]\n"
    );
    std::fs::write(at.join("Cargo.toml"), manifest).unwrap();
    std::fs::copy(Path::new(libtwz).join("../Cargo.lock"), at.join("Cargo.lock")).unwrap();
    for (name, items) in REFUSED.iter().map(|case| (case.0, case.1)).chain([("accepted", ACCEPTED)]) {
        let head = "#![forbid(unsafe_code)] #![allow(dead_code, unused_imports)] use libtwz::prelude::*;";
        let source = format!("{head}\n#[derive(Invariant)]\n#[repr(C)]\n{items}\nfn main() {{}}\n");
        std::fs::write(at.join(format!("src/bin/{name}.rs")), source).unwrap();
    }
}

/// The compiler's errors of all cases, as one would see them. As JSON, since several compilers write to the terminal by turns: a note that
/// belongs to one case's error can stand behind another's. Each once: an incremental compilation says an error as often as its queries meet it,
/// and cargo shows it once.
fn errors(stdout: &[u8]) -> BTreeSet<String> {
    let lines = serde_json::Deserializer::from_slice(stdout).into_iter::<serde_json::Value>();
    let messages = lines.map(|line| line.unwrap()["message"].clone());
    messages
        .filter(|message| message["level"] == "error")
        .map(|message| message["rendered"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn what_must_not_be_stored_is_refused_where_it_stands_and_why() {
    let at = Path::new(env!("CARGO_TARGET_TMPDIR")).join("refused");
    let _ = std::fs::remove_dir_all(at.join("src"));
    write_crate(&at);
    let output = Command::new(env!("CARGO"))
        .args([
            "check",
            "--offline",
            "--bins",
            "--keep-going",
            "--message-format=json",
            "--target-dir",
            "target",
        ])
        // As users build, whatever the tests are built with.
        .env("CARGO_INCREMENTAL", "1")
        .current_dir(&at)
        .output()
        .unwrap();
    let errors = errors(&output.stdout);
    let mut wrong = String::new();
    for (name, items, place, texts) in REFUSED {
        let file = format!("--> src/bin/{name}.rs:");
        let mine: Vec<&String> = errors.iter().filter(|error| error.contains(&file)).collect();
        let first = mine.first().map_or("nothing", |error| error);
        if mine.len() != 1 {
            writeln!(wrong, "{name}: {} messages of {items}:\n{first}", mine.len()).unwrap();
        }
        let place = format!("{file}{place}\n");
        for text in texts.iter().chain([&place.as_str()]).filter(|text| !first.contains(**text)) {
            writeln!(wrong, "{name}: \"{}\" is not said, but\n{first}", text.trim()).unwrap();
        }
    }
    let failed = String::from_utf8_lossy(&output.stderr);
    if failed.contains("(bin \"accepted\")") || !failed.contains("(bin \"unnamed\")") {
        writeln!(wrong, "not accepted, or not even tried:\n{failed}").unwrap();
    }
    assert!(!output.status.success() && wrong.is_empty(), "{wrong}");
}
