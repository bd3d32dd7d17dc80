//! Prints what is typed, as it comes, until the input ends.
#![no_std]
#![no_main]

use twz_rt::abi::ErrorCode;
use twz_rt::{Args, println, syscall};

twz_rt::entry!(main);

fn main(_: Args) -> Result<(), ErrorCode> {
    println!("echo: ready");
    let mut buffer = [0; 4096];
    loop {
        let count = syscall::console_read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            rest = &rest[syscall::console_write(rest)?..];
        }
    }
}
