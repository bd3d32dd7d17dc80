//! The guard that `hostile` starts beside itself: `guard LOW HIGH`, in a context of its own. LOW and HIGH are the ID of its board.
//!
//! It makes an object that its own context alone may reach, and guards it until the board says that it is to end; what it finds is on the
//! board all the time. Exit status 1 if a word of its object was changed.
#![no_std]
#![no_main]

use apps::guard::{Guard, board};
use apps::mapped::{Mapped, volatile_object};
use twz_rt::abi::{ErrorCode, ObjectId};
use twz_rt::{Args, println};

twz_rt::entry!(main);

fn main(args: Args) -> Result<u8, ErrorCode> {
    let mut halves = args.skip(1).map_while(|word| word.parse::<u64>().ok());
    let (Some(lo), Some(hi)) = (halves.next(), halves.next()) else {
        println!("guard LOW HIGH: started by `hostile`");
        return Ok(2);
    };
    let told = Mapped::of(ObjectId { lo, hi })?;
    // Without a key nobody can grant it to anybody else.
    let object = volatile_object(ObjectId::NULL)?;
    let mut guard = Guard::new(Mapped::of(object)?);
    told.set_word(board::OBJECT, object.lo);
    told.set_word(board::OBJECT + 8, object.hi);
    loop {
        let watch = guard.look();
        told.set_word(board::CHANGED, watch.changed_words);
        told.set_word(board::GAP, watch.longest_gap);
        told.set_word(board::CHECKS, watch.checks);
        told.set_word(board::READY, 1);
        if told.word(board::STOP) == 1 {
            return Ok(u8::from(watch.changed_words > 0));
        }
    }
}
