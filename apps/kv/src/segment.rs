//! A segment: a part of the index's table with a lock of its own, and the buckets in it (`index` says what for).

use crate::layout::{SLOTS, Slot, Tags};
use libtwz::prelude::*;
use libtwz::sync::RawMutex;

/// Buckets of a segment.
const BUCKETS: usize = 256;
/// Buckets that take each other's guests: a power of two.
const GROUP: usize = 4;
/// Where the buckets begin in a segment.
pub(crate) const BUCKETS_AT: usize = core::mem::offset_of!(Segment, buckets);
/// Slots of a segment.
pub(crate) const SEGMENT_SLOTS: usize = BUCKETS * SLOTS;
/// Bytes of a segment.
pub(crate) const SEGMENT: usize = size_of::<Segment>();

/// A part of the table with a lock of its own.
#[derive(Debug, Invariant)]
#[repr(C, align(64))]
pub(crate) struct Segment {
    /// This line is never flushed.
    pub(crate) lock: RawMutex,
    /// Nonzero if a slot changed since the last flush.
    pub(crate) dirty: PCell<u64>,
    reserved: [u64; 6],
    /// How many low bits of the hash all keys here have in common.
    pub(crate) depth: PCell<u64>,
    reserved2: [u64; 7],
    pub(crate) buckets: [Bucket; BUCKETS],
}

/// Tags, then slots.
pub(crate) type Bucket = [PCell<u64>; 1 + SLOTS];

impl Segment {
    /// Changes a word of a bucket under the lock.
    #[inline]
    pub(crate) fn change(&self, place: &PCell<u64>, to: u64) {
        place.set_without_log(to);
        if self.dirty.get() == 0 {
            self.dirty.set_without_log(1);
        }
    }

    /// Puts a slot for a key that is not there into its bucket or one beside it; false when all are full.
    #[inline]
    pub(crate) fn add(&self, hash: u64, new: Slot) -> bool {
        let home = home_of(hash);
        for number in buckets_of(hash) {
            let bucket = &self.buckets[number];
            let tags = Tags(bucket[0].get());
            let Some(place) = tags.free_place() else { continue };
            let is_guest = number != home;
            if is_guest {
                let tags = &self.buckets[home][0];
                self.change(tags, Tags(tags.get()).with_sent_guests(true).0);
            }
            self.change(&bucket[place], new.of_guest(is_guest).0);
            self.change(&bucket[0], tags.with(place, hash).0);
            return true;
        }
        false
    }

    /// Says anew which buckets have guests in those beside them, after some left; as far as slots tell whose guests they are.
    pub(crate) fn forget_guests(&self) {
        for group in self.buckets.as_chunks::<GROUP>().0 {
            let hosts =
                group.each_ref().map(|bucket| bucket[1..].iter().any(|slot| Slot(slot.get()).is_guest()));
            for (number, bucket) in group.iter().enumerate() {
                let sent = (0..GROUP).any(|other| other != number && hosts[other]);
                let tags = Tags(bucket[0].get());
                if tags.sent_guests() && !sent {
                    self.change(&bucket[0], tags.with_sent_guests(false).0);
                }
            }
        }
    }
}

/// The bucket that a key goes to first.
#[inline]
pub(crate) const fn home_of(hash: u64) -> usize {
    (hash >> 56) as usize
}

/// A bucket and those beside it.
#[inline]
pub(crate) fn buckets_of(hash: u64) -> [usize; GROUP] {
    core::array::from_fn(|beside| home_of(hash) ^ beside)
}

const _: () = assert!(SEGMENT == 128 + BUCKETS * 64 && BUCKETS == 1 << 8 && BUCKETS.is_multiple_of(GROUP));
