//! Computes for ever, without a single system call: only a signal to `twzvmm` ends it.
#![no_std]
#![no_main]

use twz_rt::{Args, println};

twz_rt::entry!(main);

fn main(_: Args) {
    println!("spin: ready");
    loop {
        core::hint::spin_loop();
    }
}
