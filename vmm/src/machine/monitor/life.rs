//! What all programs of one run of the machine are told alike.

use super::{Monitor, code};
use pool::{Durability, Error as PoolError, Pool};
use std::sync::PoisonError;
use twz_abi::object::DATA_OFFSET;
use twz_abi::program::{BOOTS_RECORD, TRACED};
use twz_abi::{ErrorCode, ObjectId, Rights};

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
    /// This run's; counts the boot the first time and makes the shared object, which all may read and nobody may write.
    ///
    /// # Errors
    /// The pool's.
    pub(in crate::machine) fn life(&self) -> Result<Life, PoolError> {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(life) = *life {
            return Ok(life);
        }
        let nobody = ObjectId::NULL;
        let shared = self.make_volatile(nobody, Rights::READ)?;
        // Stored before anybody maps it, so that the page is the object's own when it is first shown.
        self.pool.open_object(shared)?.write(DATA_OFFSET, &1_u64.to_le_bytes())?;
        let begun = Life { durability: durability(&self.pool), boot: count_boot(&self.pool)?, shared };
        *life = Some(begun);
        Ok(begun)
    }

    /// Raises the shared word. A reader that sees half of it sees another value than before and after, and looks again.
    ///
    /// # Errors
    /// [`ErrorCode::NoObject`] when there is no run; [`ErrorCode::Medium`].
    pub(in crate::machine) fn translations_changed(&self) -> Result<(), ErrorCode> {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = life.as_ref().ok_or(ErrorCode::NoObject)?.shared;
        let object = self.pool.open_object(shared).map_err(|error| code(&error))?;
        let mut word = [0; 8];
        object.read(DATA_OFFSET, &mut word).map_err(|error| code(&error))?;
        let raised = u64::from_le_bytes(word).wrapping_add(1);
        object.write(DATA_OFFSET, &raised.to_le_bytes()).map_err(|error| code(&error))
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
