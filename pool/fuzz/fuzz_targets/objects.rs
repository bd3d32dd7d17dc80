//! Object metadata, foreign object tables and export files: see the harness.
#![no_main]

#[path = "../../tests/damage/metadata.rs"]
mod metadata;

use libfuzzer_sys::fuzz_target;
use metadata::Nonsense;
use std::sync::OnceLock;

static NONSENSE: OnceLock<Nonsense> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| NONSENSE.get_or_init(Nonsense::new).try_bytes(bytes));
