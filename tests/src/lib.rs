//! What the whole-system tests stand on: machines to run commands on, and honest skipping.
//!
//! # Contract
//! - A test runs the release binaries that were built before it (`make test` does; or `cargo build --release`). They are
//!   found in `TWZ_BIN_DIR`, or beside the test's own cargo profile.
//! - Every command has a time limit, and is dead when it passes.
//! - What a host cannot do is skipped, never passed silently: [`available`] prints the reason past the test harness's
//!   capture, and fails instead when `TWZ_REQUIRE` names the facility.

#![forbid(unsafe_code)]

mod bad_reads;
pub mod blocks;
mod machine;
mod memory_group;
mod mounted;
pub mod power;
mod process;
mod terminal;

use bad_reads::BadReads;
pub use machine::{Job, Machine, Place};
pub use mounted::Mounted;
pub use process::{Output, PATIENCE, Running, start, start_typing};
pub use terminal::{AtTerminal, KeyModes, start_at_terminal};

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// Something that a host has or has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facility {
    /// A local `/dev/kvm` that `twzvmm doctor` finds usable.
    Kvm,
    /// The testbed's AMD machine.
    Testbed,
    /// The testbed's Intel machine.
    TestbedIntel,
}

impl Facility {
    /// Its word in `TWZ_REQUIRE`.
    fn word(self) -> &'static str {
        match self {
            Facility::Kvm => "kvm",
            Facility::Testbed => "testbed",
            Facility::TestbedIntel => "testbed-intel",
        }
    }

    /// Tries it once for all tests; the reason if it cannot be used.
    fn try_it(self) -> &'static Result<(), String> {
        static KVM: OnceLock<Result<(), String>> = OnceLock::new();
        static TESTBED: OnceLock<Result<(), String>> = OnceLock::new();
        static TESTBED_INTEL: OnceLock<Result<(), String>> = OnceLock::new();
        match self {
            Facility::Kvm => KVM.get_or_init(|| probe(&binary("twzvmm"), &["doctor"], 60)),
            Facility::Testbed => TESTBED.get_or_init(|| probe(&binary("testbed"), &["--prepare"], 600)),
            Facility::TestbedIntel => {
                TESTBED_INTEL.get_or_init(|| probe(&binary("testbed"), &["--prepare", "--cpu", "intel"], 600))
            }
        }
    }
}

/// True if the host has it. If not, says why, once for each call; the test then returns.
///
/// # Panics
/// If it is missing though `TWZ_REQUIRE` names it.
#[must_use]
pub fn available(facility: Facility) -> bool {
    let word = facility.word();
    let required = std::env::var("TWZ_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|name| name.trim() == word);
    let reason = match facility {
        Facility::TestbedIntel if !required => "it takes minutes, run `make test-intel` for it",
        _ => match facility.try_it() {
            Ok(()) => return true,
            Err(reason) => reason,
        },
    };
    assert!(!required, "TWZ_REQUIRE has {word}, but: {reason}");
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not by eprintln!, which the test harness captures. If stderr is closed nobody wants to know.
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: no {word}: {reason}");
    false
}

/// The path of one of the project's programs.
///
/// # Panics
/// If it is not built.
pub fn binary(name: &str) -> PathBuf {
    let path = binary_directory().join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --release --workspace` first", path.display());
    path
}

/// Where cargo's release build puts the project's programs.
pub fn binary_directory() -> PathBuf {
    if let Some(directory) = std::env::var_os("TWZ_BIN_DIR") {
        return directory.into();
    }
    let test = std::env::current_exe().expect("this program has a path");
    // target/TRIPLE/PROFILE/deps/system-HASH
    test.ancestors().nth(3).expect("cargo runs tests in its target directory").join("release")
}

fn probe(program: &std::path::Path, arguments: &[&str], seconds: u64) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = start(command).wait(Duration::from_secs(seconds));
    if output.status == 0 {
        return Ok(());
    }
    // `doctor` ends with its verdict, `testbed` with an error.
    let said = output.stderr.lines().chain(output.stdout.lines()).last().unwrap_or("it said nothing");
    let words: Vec<&str> = said.split_whitespace().collect();
    Err(words.join(" "))
}
