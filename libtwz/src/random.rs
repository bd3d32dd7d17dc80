//! Random numbers from the host's own source.

use crate::sys::{Platform, Seam};

/// Fills `bytes` with unpredictable ones.
pub fn fill(bytes: &mut [u8]) {
    Platform::random(bytes);
}

/// An unpredictable number.
#[must_use]
pub fn number() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
