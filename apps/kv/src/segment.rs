//! A segment: a part of the index's table with a lock of its own, and the buckets in it (`index` says what for). `unixkv` has the same.

use crate::layout::{SLOTS, Slot, Tags};
use libtwz::prelude::*;
use libtwz::sync::RawMutex;

/// Buckets of a segment.
const BUCKETS: usize = 256;
/// Buckets that take each other's guests: a power of two.
const GROUP: usize = 4;
/// Where the buckets begin in a segment.
pub const BUCKETS_AT: usize = core::mem::offset_of!(Segment, buckets);
/// Slots of a segment.
pub const SEGMENT_SLOTS: usize = BUCKETS * SLOTS;
/// Bytes of a segment.
pub const SEGMENT: usize = size_of::<Segment>();

/// A part of the table with a lock of its own.
#[derive(Debug, Invariant)]
#[repr(C, align(64))]
pub struct Segment {
    /// This line is never flushed.
    pub lock: RawMutex,
    /// Nonzero if a slot changed since the last flush.
    pub dirty: PCell<u64>,
    reserved: [u64; 6],
    /// How many low bits of the hash all keys here have in common.
    pub depth: PCell<u64>,
    reserved2: [u64; 7],
    /// Each for the keys whose hash has its number in the top byte.
    pub buckets: [Bucket; BUCKETS],
}

/// Tags, then slots.
pub type Bucket = [PCell<u64>; 1 + SLOTS];

impl Segment {
    /// Changes a word of a bucket under the lock.
    #[inline]
    pub fn change(&self, place: &PCell<u64>, to: u64) {
        place.set_without_log(to);
        if self.dirty.get() == 0 {
            self.dirty.set_without_log(1);
        }
    }

    /// Whether it is certain, without following any slot, that a key is not there.
    #[inline]
    pub fn lacks(&self, hash: u64) -> bool {
        let tags = Tags(self.buckets[home_of(hash)][0].get());
        tags.with_fingerprint(hash).next().is_none() && !tags.sent_guests()
    }

    /// Puts a slot for a key that is not there into its bucket or one beside it; false when all are full.
    #[inline]
    pub fn add(&self, hash: u64, new: Slot) -> bool {
        let home = home_of(hash);
        for number in buckets_of(hash) {
            let bucket = &self.buckets[number];
            let tags = Tags(bucket[0].get());
            let Some(place) = tags.free_place() else { continue };
            if number != home {
                let tags = &self.buckets[home][0];
                self.change(tags, Tags(tags.get()).with_sent_guests(true).0);
            }
            self.change(&bucket[place], new.in_bucket(number ^ home).0);
            self.change(&bucket[0], tags.with(place, hash).0);
            return true;
        }
        false
    }

    /// Fills a new segment, which nobody sees yet, with the slots of the keys that have bit `depth` of the hash.
    pub fn copy_half(&self, new: &Self, depth: u64) {
        new.dirty.set_without_log(1);
        for (from, to) in self.buckets.iter().zip(&new.buckets) {
            let mut tags = Tags(from[0].get());
            for (place, (from, to)) in (1..).zip(from[1..].iter().zip(&to[1..])) {
                let slot = Slot(from.get());
                if slot.is_of_half(depth) {
                    to.set_without_log(slot.0);
                } else {
                    to.set_without_log(Slot::EMPTY.0);
                    tags = tags.without(place);
                }
            }
            to[0].set_without_log(tags.0);
        }
        new.bring_guests_home(|_| {});
    }

    /// Empties the slots that [`Segment::copy_half`] copied, when nobody comes here for them any more; `moved` is for guests that come home now.
    pub fn clear_half(&self, depth: u64, moved: impl Fn(u64)) {
        for bucket in &self.buckets {
            let mut tags = Tags(bucket[0].get());
            for (place, cell) in (1..).zip(&bucket[1..]) {
                if Slot(cell.get()).is_of_half(depth) {
                    self.change(cell, Slot::EMPTY.0);
                    tags = tags.without(place);
                }
            }
            self.change(&bucket[0], tags.0);
        }
        self.bring_guests_home(moved);
    }

    /// After slots left: moves guests to their own buckets where there is room now, and says anew which buckets have guests elsewhere.
    /// `moved` gets the tag of each, while it stands in both.
    pub fn bring_guests_home(&self, moved: impl Fn(u64)) {
        for group in self.buckets.as_chunks::<GROUP>().0 {
            let mut away = [false; GROUP];
            for (number, bucket) in group.iter().enumerate() {
                for (place, cell) in (1..).zip(&bucket[1..]) {
                    let slot = Slot(cell.get());
                    let home = number ^ slot.beside();
                    if home == number {
                        continue;
                    }
                    let tags = Tags(group[home][0].get());
                    let Some(free) = tags.free_place() else {
                        away[home] = true;
                        continue;
                    };
                    self.change(&group[home][free], slot.in_bucket(0).0);
                    self.change(&group[home][0], tags.with_tag_of(free, Tags(bucket[0].get()), place).0);
                    moved(slot.tag());
                    self.change(cell, Slot::EMPTY.0);
                    self.change(&bucket[0], Tags(bucket[0].get()).without(place).0);
                }
            }
            for (bucket, away) in group.iter().zip(away) {
                let tags = Tags(bucket[0].get());
                if tags.sent_guests() != away {
                    self.change(&bucket[0], tags.with_sent_guests(away).0);
                }
            }
        }
    }
}

/// The bucket that a key goes to first.
#[inline]
pub const fn home_of(hash: u64) -> usize {
    (hash >> 56) as usize
}

/// A bucket and those beside it.
#[inline]
pub fn buckets_of(hash: u64) -> [usize; GROUP] {
    core::array::from_fn(|beside| home_of(hash) ^ beside)
}

const _: () = assert!(SEGMENT == 128 + BUCKETS * 64 && BUCKETS == 1 << 8 && BUCKETS.is_multiple_of(GROUP));
