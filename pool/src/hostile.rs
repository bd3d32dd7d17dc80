//! For tests: damages a pool the way a fuzzer says, with and without right checks.
//!
//! Random bytes hardly ever pass a 24- or 32-bit check, so they only ever reach the checks. These damages can also be sealed: the
//! word or record says nonsense, but with the right check, as no accident but only a bug or an attacker would write it.

use crate::format::records::{ObjectRecord, RawExtent, RawMap};
use crate::format::superblock::Superblock;
use crate::format::{Kind, PAGE, Seal};
use pmem::Pmem;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Changes made.
    pub changes: u32,
    /// Some had the right check: contents need not be those of before.
    pub sealed: bool,
}

/// Bytes of the fuzzer, zero when used up.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(&first, rest)| (first, rest));
        self.0 = rest;
        first
    }
    fn number(&mut self, bytes: u32) -> u64 {
        (0..bytes).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }
    /// Mostly small, sometimes anything.
    fn any(&mut self) -> u64 {
        match self.byte() % 4 {
            0 => self.number(1),
            1 => self.number(2),
            2 => self.number(3),
            _ => self.number(8),
        }
    }
}

/// A page where metadata is likely: superblocks, block table, the first blocks.
fn page(input: &mut Input<'_>) -> u64 {
    match input.byte() % 16 {
        0 => 0,
        1 => 256,
        2 => 1,
        other => u64::from(other) - 1,
    }
}

/// Changes the pool in `pmem` as `bytes` say.
pub fn damage(pmem: &impl Pmem, bytes: &[u8]) -> Damage {
    let mut done = Damage::default();
    let mut input = Input(bytes);
    let superblock = Superblock::load(pmem, 0);
    let seal = superblock.seal();
    while !input.0.is_empty() && done.changes < 64 {
        done.changes += 1;
        match input.byte() % 6 {
            0 | 1 => {
                let at = page(&mut input) * PAGE + input.number(2) % 512 * 8;
                let flip = 1 << (input.byte() % 64);
                pmem.store(at, pmem.load(at) ^ flip);
            }
            2 => {
                let at = page(&mut input) * PAGE + input.number(2) % 512 * 8;
                pmem.store(at, input.any());
            }
            3 => {
                done.sealed = true;
                let at = page(&mut input) * PAGE + input.number(2) % 512 * 8;
                pmem.store(at, sealed_word(seal, at, &mut input));
            }
            4 => {
                done.sealed = true;
                let at = page(&mut input) * PAGE + input.number(1) % 16 * 256;
                let mut record = ObjectRecord {
                    state: input.byte().into(),
                    birth: ObjectRecord::birth_at(pmem, at),
                    map: map(&mut input),
                };
                if input.byte() % 4 == 0 {
                    record.birth.nonce[0] ^= input.byte();
                }
                record.create(pmem, seal, at);
            }
            _ => {
                done.sealed = true;
                let mut changed = superblock;
                match input.byte() % 4 {
                    0 => changed.size = input.any() << 21,
                    1 => changed.granule_log2 = input.byte().into(),
                    2 => changed.version = input.byte().into(),
                    _ => changed.sequence = input.any(),
                }
                changed.store(pmem, usize::from(input.byte() % 2));
            }
        }
    }
    done
}

fn sealed_word(seal: Seal, at: u64, input: &mut Input<'_>) -> u64 {
    const KINDS: [Kind; 12] = [
        Kind::Absent,
        Kind::Page,
        Kind::Run,
        Kind::Leaf,
        Kind::Loose,
        Kind::Objects,
        Kind::Names,
        Kind::Ties,
        Kind::End,
        Kind::Next,
        Kind::Identity,
        Kind::Reserved,
    ];
    let kind = KINDS[usize::from(input.byte()) % KINDS.len()];
    seal.word(at, kind, input.any() % (1 << 36))
}

fn map(input: &mut Input<'_>) -> RawMap {
    let mut map = RawMap::default();
    if input.byte() < 128 {
        map.root = input.any();
        return map;
    }
    map.count = u32::from(input.byte() % 7);
    for extent in &mut map.extents {
        #[allow(clippy::cast_possible_truncation, reason = "nonsense is what is wanted")]
        let (object_page, pages) = (input.any() as u32, input.any() as u32);
        *extent = RawExtent { object_page, pages, pool_page: input.any() };
    }
    map
}
