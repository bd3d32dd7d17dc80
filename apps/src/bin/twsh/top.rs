//! `top`: what the kernel does, a line a counter that moves.

use core::sync::atomic::AtomicU32;
use twz_rt::abi::ErrorCode;
use twz_rt::abi::counters::Counters;
use twz_rt::{println, sync, syscall};
use zerocopy::IntoBytes;

const SECOND: u64 = 1_000_000_000;

/// Prints, `rounds` times, what happened in a second.
pub(crate) fn top(rounds: u32) -> Result<(), ErrorCode> {
    for round in 0..rounds {
        let (began, before) = (syscall::clock()?.0, syscall::counters()?);
        sleep();
        let (ended, after) = (syscall::clock()?.0, syscall::counters()?);
        let milliseconds = ((ended - began) / 1_000_000).max(1);
        println!(
            "{}. after {}.{:03} s: {} threads, kernel memory {} KiB used, {} KiB free",
            round + 1,
            ended / SECOND,
            ended % SECOND / 1_000_000,
            after.threads_started - after.threads_ended,
            after.frames_used * 4,
            after.frames_free * 4
        );
        println!("   {:<20} {:>12} {:>14}", "counter", "a second", "in all");
        for (name, before, after) in moved(&before, &after) {
            println!("   {name:<20} {:>12} {after:>14}", (after - before) * 1000 / milliseconds);
        }
    }
    Ok(())
}

/// The counters that only grow and have grown: (name, before, after).
fn moved<'a>(
    before: &'a Counters,
    after: &'a Counters,
) -> impl Iterator<Item = (&'static str, u64, u64)> + 'a {
    let words = |counters: &'a Counters| {
        counters.as_bytes().as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word))
    };
    let names = Counters::NAMES.iter().copied();
    let all = names.zip(words(before)).zip(words(after)).map(|((name, before), after)| (name, before, after));
    all.filter(|(name, before, after)| after > before && !name.starts_with("frames_"))
}

fn sleep() {
    let never = AtomicU32::new(0);
    // Its end is that the time is up.
    let _ = sync::wait(&never, 0, SECOND);
}
