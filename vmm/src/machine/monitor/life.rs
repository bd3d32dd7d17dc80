//! What all programs of one run of the machine are told alike.

use super::Monitor;
use pool::{Durability, Error as PoolError, Pool};
use std::sync::PoisonError;
use twz_abi::program::{BOOTS_RECORD, TRACED};
use twz_abi::syscall::create_flags;
use twz_abi::{ObjectId, Rights};

/// One run of the machine, as its programs know it.
#[derive(Clone, Copy, Debug)]
pub(in crate::machine) struct Life {
    /// [`twz_abi::program::ArgsHeader::durability`].
    pub durability: u64,
    /// [`twz_abi::program::ArgsHeader::boot`].
    pub boot: u64,
    /// What programs have in [`twz_abi::program::SHARED_SLOT`].
    pub shared: ObjectId,
}

impl Monitor {
    /// This run's; counts the boot the first time. `context` then creates the shared object, which all may read and write: a program that
    /// does so for no reason costs others time.
    ///
    /// # Errors
    /// The pool's.
    pub(in crate::machine) fn life(&self, context: ObjectId) -> Result<Life, PoolError> {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(life) = *life {
            return Ok(life);
        }
        let read_write = Rights::READ | Rights::WRITE;
        let shared = self.make(context, ObjectId::NULL, read_write, create_flags::VOLATILE, None)?;
        let begun = Life { durability: durability(&self.pool), boot: count_boot(&self.pool)?, shared };
        *life = Some(begun);
        Ok(begun)
    }
}

/// Counts one boot more; its number.
fn count_boot(pool: &Pool) -> Result<u64, PoolError> {
    let boot = pool.root_get(BOOTS_RECORD).unwrap_or(0).wrapping_add(1);
    pool.root_set(BOOTS_RECORD, boot)?;
    Ok(u64::try_from(boot & u128::from(u32::MAX)).unwrap_or(1).max(1))
}

fn durability(pool: &Pool) -> u64 {
    let traced = if pool.shadow().is_some() { TRACED } else { 0 };
    let level = match pool.durability() {
        Durability::Volatile => 0,
        Durability::Disk | Durability::Relaxed => 1,
        Durability::Dax => 2,
    };
    traced | level
}
