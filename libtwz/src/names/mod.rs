//! Names.
use crate::error::{Error, Result};
use crate::window::Window;
use twz_abi::ObjectId;

/// Resolves a named FOT entry of `holder`.
pub(crate) fn resolve_entry(_holder: Window, _target: ObjectId) -> Result<ObjectId> {
    Err(Error::NoSuchName)
}
