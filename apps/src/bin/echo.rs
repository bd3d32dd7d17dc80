//! Prints what is typed, as it comes, until the input ends. With `--flood` it prints without end instead, while another of its threads makes
//! system calls.
#![no_std]
#![no_main]

extern crate alloc;

use twz_rt::abi::ErrorCode;
use twz_rt::{Args, println, syscall, thread};

twz_rt::entry!(main);

fn main(mut args: Args) -> Result<(), ErrorCode> {
    println!("echo: ready");
    if args.nth(1) == Some("--flood") {
        return flood();
    }
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

fn flood() -> Result<(), ErrorCode> {
    thread::spawn(|| {
        loop {
            syscall::thread_yield();
        }
    })?;
    loop {
        syscall::console_write(&[b'.'; 3000])?;
    }
}
