//! Damaged and hostile pools: an error or a repair, never a panic, a hang or another object's data.
//!
//! The fuzz targets in `pool/fuzz` use the same harness (`cargo fuzz run -s none damage`, `objects`, in `pool/`); what they find is
//! kept in `corpus.txt` and tried here each time, with a fixed stream of random damages.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod harness;
mod metadata;

use harness::Specimen;
use metadata::Nonsense;

/// Random damages, the same in each run.
const ROUNDS: u64 = 4000;

fn random_bytes(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[5]
    };
    let len = 4 + usize::from(draw()) / 4;
    (0..len).map(|_| draw()).collect()
}

#[test]
fn random_damage_is_survived() {
    let specimen = Specimen::new();
    (1..=ROUNDS).for_each(|seed| specimen.try_damage(&random_bytes(seed)));
}

#[test]
fn any_object_metadata_and_export_file_is_survived() {
    let nonsense = Nonsense::new();
    (1..=ROUNDS / 10).for_each(|seed| nonsense.try_bytes(&random_bytes(seed)));
    nonsense.try_bytes(&[]);
}

/// The corpus: a line of hexadecimal for each input that reached something new, from both fuzz targets.
#[test]
fn the_corpus_is_survived() {
    let (specimen, nonsense) = (Specimen::new(), Nonsense::new());
    let mut tried = 0;
    for line in include_str!("corpus.txt").lines() {
        let digits: Vec<u8> =
            line.bytes().map(|digit| char::from(digit).to_digit(16).unwrap() as u8).collect();
        let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        specimen.try_damage(&bytes);
        nonsense.try_bytes(&bytes);
        tried += 1;
    }
    assert!(tried > 100, "no corpus");
}
