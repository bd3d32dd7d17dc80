//! Step 4, contexts: a thread enters another security context through a gate, and has other rights there (paper §3.4).

use crate::{Said, step, text};
use apps::compartment::World;
use core::sync::atomic::{AtomicU64, Ordering};
use twz_rt::abi::ErrorCode;
use twz_rt::context::{gate_call, gate_return};
use twz_rt::{println, syscall};

/// Ours alone, in memory that the callee has no right to.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// Gate 0: says who called, as the kernel told it.
extern "C" fn who(_: u64, _: u64, _: u64, low: u64, high: u64, _: u64) -> ! {
    gate_return(low, high)
}

/// Gate 1: reads a word wherever the caller says, with the callee's own rights.
extern "C" fn peek(address: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> ! {
    // SAFETY: whether this may be read is the question; a fault ends the call.
    gate_return(unsafe { (address as *const u64).read_volatile() }, 0)
}

/// Calls compartments of both placements.
pub(crate) fn show() -> Said<()> {
    step(4, "Contexts: parts of one program, kept apart by hardware");
    let world = match World::new() {
        Ok(world) => world,
        Err(ErrorCode::NotPermitted) => {
            println!(
                "   Left out: this context may not use the owner's key. In the shell: run tour, without --own."
            );
            return Ok(());
        }
        Err(error) => return Err(text(error)),
    };
    println!("   This thread runs in context {}.", world.me);
    let secret = AtomicU64::new(0x5ec2e7);
    for (shared, placement) in
        [(false, "a root (second-stage table) of its own"), (true, "the shared root, its window only")]
    {
        let callee = world.compartment(shared, &[who, peek]).map_err(text)?;
        let before = syscall::counters().map_err(text)?;
        let (lo, hi) = gate_call(callee.id, 0, [1, 2, 3]).map_err(text)?;
        let after = syscall::counters().map_err(text)?;
        CALLS.fetch_add(1, Ordering::Relaxed);
        println!("   A context with {placement}: {}", callee.id);
        println!("     called through a gate, it was told by the kernel that {hi:016x}:{lo:016x} calls;");
        println!(
            "     there and back from this one's root took {} switches of the root.",
            after.root_switches - before.root_switches
        );
        println!(
            "     Now it tries to read this program's stack; the kernel reports the fault of whoever may not:"
        );
        let stolen = gate_call(callee.id, 1, [(&raw const secret) as u64, 0, 0]);
        match stolen {
            Err(ErrorCode::CalleeFailed) => {
                println!("     a fault ended its call, not us.")
            }
            Err(error) => return Err(text(error)),
            Ok((value, _)) if value == secret.load(Ordering::Relaxed) => {
                return Err("it read our stack".into());
            }
            Ok(_) => println!("     it found its own there."),
        }
        if (lo, hi) != (world.me.lo, world.me.hi) {
            return Err("the callee was told another caller".into());
        }
    }
    println!(
        "   {} calls; switching from context to context is all that a gate is.",
        CALLS.load(Ordering::Relaxed)
    );
    Ok(())
}
