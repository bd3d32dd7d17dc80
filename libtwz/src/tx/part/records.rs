//! Records of what stood in an object before a transaction changes it.

use super::{FIRST, Fresh, Part};
use crate::error::Result;
use crate::tx::entry;
use crate::window::Stretch;
use twz_abi::ObjectId;

/// An entry of whole words that may grow. None does past a multiple of [`entry::ENTRY_MAX`], so that none is longer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extendable {
    /// Where its range ends.
    end: usize,
    /// Where it stands.
    entry: usize,
}

impl Extendable {
    /// Of no entry: no range ends at 0.
    pub(super) const NONE: Self = Self { end: 0, entry: 0 };
}

impl Part {
    /// Notes what a range holds.
    #[inline]
    pub(in crate::tx) fn record(&mut self, address: usize, bytes: usize) -> Result<()> {
        let offset = self.place(address, bytes)?;
        let is_fresh = |block: &Fresh| {
            let start = block.offset as usize;
            offset >= start && offset + bytes <= start + block.bytes as usize
        };
        if self.fresh.is_empty() || !self.fresh.as_slice().iter().skip(self.outer_fresh).any(is_fresh) {
            self.record_old(offset, bytes);
        }
        if self.fresh.is_empty() {
            self.plain = self.window().stretch(FIRST, self.mark);
        }
        Ok(())
    }

    /// Records a value if that is a word that needs nothing else.
    #[inline(always)]
    pub(in crate::tx) fn record_plain<T>(&mut self, value: &T) -> bool {
        let Some((ahead, word)) = self.plain.word(value) else { return false };
        let offset = FIRST + ahead;
        if self.extendable.end == offset {
            return self.extend_record(word);
        }
        let extendable = Extendable { end: offset + 8, entry: self.undo.len() };
        let is_room = self.undo.try_extend([entry::entry_head(offset, 8), word]);
        if is_room {
            self.extendable = extendable;
        }
        is_room
    }

    #[inline(always)]
    fn record_old(&mut self, offset: usize, bytes: usize) {
        if bytes == 8 && offset.is_multiple_of(8) {
            self.record_word(offset); // by far the most common
        } else {
            self.extendable = Extendable::NONE;
            entry::entries_of(self.log.window, offset, bytes, &mut self.undo);
        }
    }

    #[inline(always)]
    fn record_word(&mut self, offset: usize) {
        let word = self.log.window.load(offset);
        self.undo.make_room(2); // so that an entry grows if it may
        if self.extendable.end == offset && self.extend_record(word) {
            return;
        }
        self.extendable = Extendable { end: offset + 8, entry: self.undo.len() };
        self.undo.extend([entry::entry_head(offset, 8), word]);
    }

    /// Lets an entry have one more word, if there is room for it.
    #[inline(always)]
    fn extend_record(&mut self, word: u64) -> bool {
        let Extendable { end, entry } = self.extendable;
        let may_grow = !end.is_multiple_of(entry::ENTRY_MAX);
        let has_grown = may_grow && self.undo.try_push_and_change(word, entry, entry::grow);
        if has_grown {
            self.extendable.end = end + 8;
        }
        has_grown
    }

    pub(in crate::tx) fn record_participant(&mut self, id: ObjectId) {
        self.extendable = Extendable::NONE;
        self.undo.extend(entry::participant_entry(id));
    }

    /// Notes a block that was taken: what is in it needs no record.
    #[inline]
    pub(super) fn push_fresh(&mut self, block: Fresh) {
        self.forget_plain();
        self.fresh.push(block);
    }

    /// From here on each record is looked at.
    #[inline]
    pub(in crate::tx) fn forget_plain(&mut self) {
        self.plain = Stretch::NONE;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use crate::error::Error;
    use crate::window::Stretch;
    use crate::{Object, ObjectBuilder, PCell, Result, Tx};

    type Cells = [PCell<u64>; 512];

    fn cells() -> Object<Cells> {
        ObjectBuilder::new().build([const { PCell::new(7) }; 512]).unwrap()
    }

    /// How many words the records of the home object take, and whether each word is looked at.
    fn words(tx: &Tx) -> (usize, bool) {
        let home = &tx.inner.borrow().home;
        (home.undo.len(), home.plain == Stretch::NONE)
    }

    #[test]
    fn words_of_blocks_that_were_taken_are_looked_at() {
        let o = cells();
        o.tx(|tx| {
            tx.record(&o[0])?;
            tx.record(&o[9])?;
            assert_eq!(words(tx), (4, false));
            let block = tx.alloc([const { PCell::new(0_u64) }; 4])?;
            assert_eq!(words(tx), (4, true));
            block.iter().try_for_each(|cell| tx.record(cell))?;
            assert_eq!(words(tx), (4, true), "they need no record");
            tx.record(&o[20])?;
            assert_eq!(words(tx), (6, true), "and the next may be of the block again");
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn words_of_other_objects_and_of_none_are_looked_at() {
        let (o, other, local) = (cells(), cells(), PCell::new(1_u64));
        o.tx(|tx| {
            tx.record(&o[0])?;
            tx.record(&other[1])?;
            assert_eq!(tx.inner.borrow().others[0].undo.len(), 2);
            other[1].set_without_log(8);
            Ok(())
        })
        .unwrap();
        let result = o.tx(|tx| {
            tx.record(&o[0])?;
            assert!(matches!(tx.record(&local), Err(Error::NotInObject { .. })));
            assert_eq!(words(tx), (2, true));
            assert_eq!(tx.record(&o[1]), Err(Error::TransactionFailed), "after it failed");
            Ok(())
        });
        assert_eq!(result, Err(Error::TransactionFailed));
    }

    /// An entry ends where a KiB of the object does; the next word has one of its own, which grows in turn.
    #[test]
    fn entries_grow_to_a_kib() {
        let o = cells();
        o.tx(|tx| -> Result<()> {
            o.iter().try_for_each(|cell| tx.record(cell))?;
            let home = &tx.inner.borrow().home;
            let ranges: Vec<_> =
                crate::tx::entry::ranges(home.undo.as_slice()).map(|(at, bytes, _)| (at, bytes)).collect();
            let (first, last) = (ranges[0].0, ranges[ranges.len() - 1]);
            assert_eq!(last.0 + last.1, first + 512 * 8);
            assert!(ranges.windows(2).all(|two| two[0].0 + two[0].1 == two[1].0), "{ranges:?}");
            assert!(ranges[1..].iter().all(|(at, _)| at.is_multiple_of(1024)), "{ranges:?}");
            assert_eq!(home.undo.len(), 512 + ranges.len());
            Ok(())
        })
        .unwrap();
    }
}
