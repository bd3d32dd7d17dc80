//! What a program's panic does: one line, then the thread ends with status 101, as in an ordinary Rust program.

use core::panic::PanicInfo;

/// Exit status of a panicked thread.
const PANIC_STATUS: u8 = 101;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    crate::println!("{info}");
    crate::syscall::thread_exit(PANIC_STATUS)
}
