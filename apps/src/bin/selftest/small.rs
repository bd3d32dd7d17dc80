//! Thousands of threads: stacks of two pages, side by side in one object, so that each costs no object of its own.

use crate::{Mapped, failed};
use alloc::string::String;
use core::sync::atomic::{AtomicU32, Ordering};
use twz_rt::abi::thread::{ThreadPhase, ThreadSpec, ThreadState};
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::{sync, syscall};

/// Bytes of a stack with its state on top.
const STACK_BYTES: u64 = 0x2000;
const FIRST: u64 = 0x10_0000;

/// A crowd of threads that run the same function.
pub(crate) struct Crowd {
    stacks: Mapped,
    count: u64,
}

impl Crowd {
    /// Starts `count` threads at `entry`, each with its index as argument; says how many were started before the first failure.
    pub(crate) fn start(count: u64, entry: extern "C" fn(u64) -> !) -> Result<Self, String> {
        let mut crowd = Self { stacks: Mapped::new()?, count: 0 };
        while crowd.count < count {
            let state = crowd.state_address(crowd.count);
            let spec = ThreadSpec {
                entry: entry as *const () as u64,
                // As after a call: the entry is an ordinary function.
                stack: state - 8,
                argument: crowd.count,
                state,
                priority: 16,
                ..ThreadSpec::default()
            };
            // SAFETY: stack and state are the new thread's alone.
            if let Err(error) = unsafe { syscall::thread_spawn(&spec) } {
                let reached = crowd.count;
                crowd.wait()?;
                return Err(alloc::format!("only {reached} threads: {error}"));
            }
            crowd.count += 1;
        }
        Ok(crowd)
    }

    fn state_address(&self, index: u64) -> u64 {
        self.stacks.slot * SLOT_SIZE + FIRST + (index + 1) * STACK_BYTES - size_of::<ThreadState>() as u64
    }

    /// Waits for all; returns the sum of their exit statuses.
    pub(crate) fn wait(&self) -> Result<u64, String> {
        let mut sum = 0;
        for index in 0..self.count {
            let address = self.state_address(index);
            // SAFETY: the state stands in the stack object, which is mapped; the kernel writes it, hence atomics.
            let phase = unsafe { &*(address as *const AtomicU32) };
            loop {
                let seen = phase.load(Ordering::Acquire);
                if seen >= ThreadPhase::Exited as u32 {
                    break;
                }
                sync::wait(phase, seen, 60_000_000_000).map_err(failed("waiting for a thread"))?;
            }
            // SAFETY: as above, and the kernel writes no more.
            let state = unsafe { (address as *const ThreadState).read_volatile() };
            if state.phase != ThreadPhase::Exited as u32 {
                return Err(alloc::format!("thread {index} ended by fault {}", state.fault.cause));
            }
            sum += u64::from(state.status);
        }
        Ok(sum)
    }
}
