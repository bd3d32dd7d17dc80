//! The shortest program that remembers something: how often it was started.
#![no_std]
#![no_main]
use libtwz::prelude::*;

#[libtwz::main]
fn main() -> Result<()> {
    let starts = Object::<PCell<u64>>::named("hello", || PCell::new(0))?;
    starts.tx(|tx| tx.set(&starts, starts.get() + 1))?;
    println!("hello, world: start {} of this pool", starts.get());
    Ok(())
}
