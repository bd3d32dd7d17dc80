//! What a commit stored in place is stored again by the next boot: whatever it was, and however the log says it.
//!
//! The commit batch begins with what the ranges of the last records hold afterwards, without saying where, if it comes right behind them.
//! As in `recovery.rs` the next boot is `simulate::reboot`.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::prelude::*;
use libtwz::simulate;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The boot is one of all tests here.
fn begin() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Values of all sorts that the log has an own form for.
#[derive(Invariant)]
#[repr(C)]
struct Sorts {
    words: [PCell<u64>; 40],
    halves: [PCell<u32>; 40],
    bytes: [PCell<u8>; 40],
    odd: [PCell<[u8; 13]>; 8],
    long: PCell<[u64; 300]>,
}

fn sorts() -> Object<Sorts> {
    let sorts = Sorts {
        words: [const { PCell::new(0) }; 40],
        halves: [const { PCell::new(0) }; 40],
        bytes: [const { PCell::new(0) }; 40],
        odd: [const { PCell::new([0; 13]) }; 8],
        long: PCell::new([0; 300]),
    };
    ObjectBuilder::new().build(sorts).unwrap()
}

/// What they hold.
type Contents = (Vec<u64>, Vec<u32>, Vec<u8>, Vec<[u8; 13]>, [u64; 300]);

impl Sorts {
    /// Records one of each, in an order that mixes them.
    fn record(&self, tx: &Tx, i: usize) -> Result<()> {
        tx.record(&self.words[i])?;
        tx.record(&self.bytes[i])?;
        tx.record(&self.odd[i % 8])?;
        tx.record(&self.halves[i])?;
        tx.record(&self.words[i + 1])?;
        if i == 3 { tx.record(&self.long) } else { Ok(()) }
    }

    fn set(&self, i: usize, value: u8) {
        let word = u64::from(value);
        self.words[i].set_without_log(word << 40 | 1);
        self.words[i + 1].set_without_log(word << 50 | 2);
        self.bytes[i].set_without_log(value);
        self.odd[i % 8].set_without_log([value; 13]);
        self.halves[i].set_without_log(u32::from(value) << 20 | 3);
        if i == 3 {
            self.long.set_without_log(std::array::from_fn(|i| word << 32 | i as u64));
        }
    }

    /// All that there is.
    fn contents(&self) -> Contents {
        (
            self.words.iter().map(PCell::get).collect(),
            self.halves.iter().map(PCell::get).collect(),
            self.bytes.iter().map(PCell::get).collect(),
            self.odd.iter().map(PCell::get).collect(),
            self.long.get(),
        )
    }
}

/// Has all of it stored over, as if nothing had come to memory in place, and then by the next boot again.
fn is_stored_again(o: &Object<Sorts>) {
    let before = o.contents();
    (0..39).for_each(|i| o.set(i, 0xff));
    simulate::reboot();
    let again = Object::<Sorts>::open(o.id()).unwrap();
    // Of the others the log knows nothing.
    let mut words = before.0.iter().zip(&again.words).filter(|(word, _)| **word != 0);
    assert!(words.all(|(word, cell)| cell.get() == *word));
    assert!((0..8).all(|i| again.halves[i].get() == before.1[i]));
    assert!((0..8).all(|i| again.bytes[i].get() == before.2[i]));
    assert!((0..8).all(|i| again.odd[i].get() == before.3[i]));
    assert!(again.long.get() == before.4);
}

#[test]
fn values_of_all_sorts() {
    let _one = begin();
    // All recorded at once; in two goes, of which only the last is right before the commit; and besides puts.
    for settled_after in [None, Some(2), Some(7)] {
        for puts in [0, 1, 12] {
            let o = sorts();
            o.tx(|tx| {
                for i in 0..8 {
                    o.record(tx, i)?;
                    if settled_after == Some(i) {
                        tx.settle()?;
                    }
                }
                tx.settle()?;
                (0..8).for_each(|i| o.set(i, 7));
                (10..10 + puts).try_for_each(|i| tx.put(&o.words[i], 5))
            })
            .unwrap();
            is_stored_again(&o);
        }
    }
}

#[test]
fn with_others_that_take_part() {
    let _one = begin();
    let (o, other) = (sorts(), sorts());
    o.tx(|tx| {
        for i in 0..8 {
            o.record(tx, i)?;
            if i % 3 == 0 {
                tx.record(&other.words[i])?; // the first time its name stands between the records
            }
        }
        tx.settle()?;
        (0..8).for_each(|i| o.set(i, 9));
        other.words[0].set_without_log(4);
        Ok(())
    })
    .unwrap();
    is_stored_again(&o);
    assert_eq!(other.words[0].get(), 4);
}

/// Where a batch is no longer than an entry: what does not fit one begins with no contents of records.
#[test]
fn in_batches_that_are_short() {
    let _one = begin();
    for puts in [0, 20, 40, 200] {
        let cells = [const { PCell::new(0_u64) }; 800];
        let o = ObjectBuilder::new().log_bytes(32 << 10).log_most(1).build(cells).unwrap();
        let (mine, others) = (|| o.iter().step_by(2).take(60), || o.iter().skip(200).step_by(2).take(puts));
        o.tx(|tx| {
            mine().try_for_each(|cell| tx.record(cell))?;
            tx.settle()?;
            mine().zip(1..).for_each(|(cell, value)| cell.set_without_log(value));
            others().zip(1..).try_for_each(|(cell, value)| tx.put(cell, value))
        })
        .unwrap();
        o.iter().for_each(|cell| cell.set_without_log(77));
        simulate::reboot();
        Object::<[PCell<u64>; 800]>::open(o.id()).unwrap();
        assert!(mine().map(PCell::get).eq(1..=60), "{puts} puts");
        assert!(others().map(PCell::get).eq((1..).take(puts)), "{puts} puts");
    }
}

/// Until there is no room for the two batches in one chunk of the log, again and again; and transactions that are undone in between.
#[test]
fn wherever_the_chunks_of_the_log_end() {
    let _one = begin();
    let o = ObjectBuilder::new().log_bytes(64 * 20).build([const { PCell::new(0_u64) }; 3000]).unwrap();
    for round in 1..300_u64 {
        let count = usize::try_from(round * 7 % 40).unwrap() + if round % 50 == 0 { 2500 } else { 0 };
        let mine = || o.iter().step_by(1 + usize::from(count < 100)).take(count);
        let result = o.tx(|tx| {
            mine().try_for_each(|cell| tx.record(cell))?;
            tx.settle()?;
            mine().for_each(|cell| cell.set_without_log(round));
            if round % 5 == 0 { Err(Error::Aborted) } else { Ok(()) }
        });
        assert_eq!(result.is_err(), round % 5 == 0);
        if round % 5 != 0 && round % 3 == 0 {
            mine().for_each(|cell| cell.set_without_log(0));
            simulate::reboot();
            let again = Object::<[PCell<u64>; 3000]>::open(o.id()).unwrap();
            assert_eq!(again.id(), o.id());
            assert!(mine().all(|cell| cell.get() == round), "{count} words");
        }
    }
}
