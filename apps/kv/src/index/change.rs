//! Which record is a key's: putting, replacing, taking out.

use super::Index;
use crate::error::Result;
use crate::layout::{Slot, Tags};
use crate::segment::Segment;

/// What became of a record that was to be found from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// Its key had none.
    New,
    /// It takes the place of another.
    Replaced,
    /// Its key has a newer one already.
    Late,
}

impl Index {
    /// Has a record made and makes it the one of its key, under the lock: what is done here overlaps with the fence that `record` ended with,
    /// since little after it waits for memory. Where another thread has the lock, the record is made first: that overlaps with the wait.
    /// `None` if `record` had no room. `is_plain`: `ready` has nothing to do for a new key.
    ///
    /// # Errors
    /// As [`Index::publish`], and what `record` says.
    #[inline]
    pub(crate) fn put(
        &self,
        hash: u64,
        key: &[u8],
        record: impl Fn() -> Result<Option<(Slot, u64)>>,
        is_plain: impl Fn() -> bool,
        ready: impl Fn(Option<Slot>, Slot, u64) -> Result<()>,
        retire: impl Fn(Slot) -> Result<()>,
    ) -> Result<Option<Published>> {
        let mut made = None;
        let tried = self.try_locked(hash, |segment| {
            made = record()?;
            match made {
                Some((new, _)) if is_plain() && segment.lacks(hash) && segment.add(hash, new) => {
                    Ok(Some(Published::New))
                }
                Some(made) => self.put_over(segment, hash, key, made, &ready, &retire),
                None => Ok(None),
            }
        })?;
        match (tried, made) {
            (Some(Some(published)), _) => Ok(Some(published)),
            (Some(None), None) => Ok(None), // no room
            (_, made) => self.put_again(hash, key, made, record, ready, retire),
        }
    }

    /// [`Index::put`] of a record that is made, where a key like it may have one, or the segment is full.
    #[inline(never)]
    fn put_over(
        &self,
        segment: &'static Segment,
        hash: u64,
        key: &[u8],
        (new, sequence): (Slot, u64),
        ready: &impl Fn(Option<Slot>, Slot, u64) -> Result<()>,
        retire: &impl Fn(Slot) -> Result<()>,
    ) -> Result<Option<Published>> {
        let ready = |before| ready(before, new, sequence);
        self.publish_in(segment, hash, key, new, sequence, &ready, retire).inspect_err(|_| {
            // The error is what the caller hears of. Were this one to fail too, the record would be found after a power failure.
            let _ = retire(new);
        })
    }

    /// [`Index::put`] where another thread had the lock, or the segment was split.
    #[cold]
    #[inline(never)]
    fn put_again(
        &self,
        hash: u64,
        key: &[u8],
        made: Option<(Slot, u64)>,
        record: impl Fn() -> Result<Option<(Slot, u64)>>,
        ready: impl Fn(Option<Slot>, Slot, u64) -> Result<()>,
        retire: impl Fn(Slot) -> Result<()>,
    ) -> Result<Option<Published>> {
        let Some(made) = made.map_or_else(record, |made| Ok(Some(made)))? else { return Ok(None) };
        loop {
            let done =
                self.locked(hash, |segment| self.put_over(segment, hash, key, made, &ready, &retire))?;
            if done.is_some() {
                return Ok(done);
            }
        }
    }

    /// Makes a durable record the one of its key, unless that has a newer one. `ready` runs before anything is changed, told which record will
    /// lose, if any. `retire` runs for the record that lost, under the lock: were a delete to come between, a power failure could bring that
    /// record back.
    ///
    /// # Errors
    /// [`Error::Full`], what `ready` and `retire` say: the key has the record that it had.
    pub(crate) fn publish(
        &self,
        hash: u64,
        key: &[u8],
        new: Slot,
        sequence: u64,
        ready: impl Fn(Option<Slot>) -> Result<()>,
        retire: impl Fn(Slot) -> Result<()>,
    ) -> Result<Published> {
        loop {
            let done = self.locked(hash, |segment| {
                self.publish_in(segment, hash, key, new, sequence, &ready, &retire)
            })?;
            if let Some(done) = done {
                return Ok(done);
            }
        }
    }

    /// [`Index::publish`] in the segment for the key, which is locked; `None` if that was full, and is split now.
    #[allow(clippy::too_many_arguments, reason = "those of `publish`, and where")]
    fn publish_in(
        &self,
        segment: &'static Segment,
        hash: u64,
        key: &[u8],
        new: Slot,
        sequence: u64,
        ready: &impl Fn(Option<Slot>) -> Result<()>,
        retire: &impl Fn(Slot) -> Result<()>,
    ) -> Result<Option<Published>> {
        if !segment.lacks(hash)
            && let Some((bucket, place, old)) = self.place_of(segment, hash, key)?
        {
            if old.sequence() > sequence {
                retire(new)?;
                return Ok(Some(Published::Late));
            }
            let before = Slot(bucket[place].get());
            ready(Some(before))?;
            segment.change(&bucket[place], new.in_bucket(before.beside()).0);
            self.left(hash);
            if let Err(error) = retire(before) {
                segment.change(&bucket[place], before.0);
                self.left(hash);
                return Err(error);
            }
            return Ok(Some(Published::Replaced));
        }
        ready(None)?;
        if segment.add(hash, new) {
            return Ok(Some(Published::New));
        }
        self.split(segment, hash)?;
        Ok(None)
    }

    /// Takes a key out and runs `retire` for its record, under the lock; returns whether it was there. `ready` runs before anything is changed.
    ///
    /// # Errors
    /// What `ready` and `retire` say: the key has the record that it had.
    pub(crate) fn remove(
        &self,
        hash: u64,
        key: &[u8],
        ready: impl FnOnce(Slot) -> Result<()>,
        retire: impl FnOnce(Slot) -> Result<()>,
    ) -> Result<bool> {
        self.locked(hash, |segment| {
            let Some((bucket, place, _)) = self.place_of(segment, hash, key)? else { return Ok(false) };
            let slot = Slot(bucket[place].get());
            ready(slot)?;
            let tags = bucket[0].get();
            segment.change(&bucket[place], Slot::EMPTY.0);
            segment.change(&bucket[0], Tags(tags).without(place).0);
            self.left(hash);
            if let Err(error) = retire(slot) {
                segment.change(&bucket[place], slot.0);
                segment.change(&bucket[0], tags);
                return Err(error);
            }
            Ok(true)
        })
    }
}
