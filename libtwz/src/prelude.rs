//! What most programs want: `use libtwz::prelude::*;`.

pub use crate::{
    Error, GlobalPtr, InvPtr, Invariant, Object, ObjectBuilder, ObjectId, PCell, Result, Rights, Tx, TxObject,
};
