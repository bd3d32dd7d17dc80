//! Damaged superblocks, block tables, records and maps: see the harness.
#![no_main]

#[path = "../../tests/damage/harness.rs"]
mod harness;

use harness::Specimen;
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

static SPECIMEN: OnceLock<Specimen> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| SPECIMEN.get_or_init(Specimen::new).try_damage(bytes));
