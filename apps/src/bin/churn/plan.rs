//! What `churn` does: operation after operation, by a seed. The test's model of it reads this same file.

/// Things that are made, copied and removed.
pub(crate) const THINGS: u64 = 12;
/// Accounts between which amounts are moved.
pub(crate) const ACCOUNTS: u64 = 16;
/// What stands in each account at first.
pub(crate) const BALANCE: u64 = 1_000_000;

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Move an amount from one account to another, both or none.
    Transfer {
        /// Taken from here.
        from: u64,
        /// Added here.
        to: u64,
        /// So much.
        amount: u64,
    },
    /// Put a new object in the place of a thing; its version is the operation's number.
    Make {
        /// Which thing.
        thing: u64,
    },
    /// Put a copy of another thing in the place of a thing, or nothing if there is no such other.
    Copy {
        /// Which thing.
        thing: u64,
        /// Whose copy it becomes.
        source: u64,
    },
    /// See to it that there is no such thing.
    Remove {
        /// Which thing.
        thing: u64,
    },
}

/// Operation `number`, from 0.
#[must_use]
pub(crate) const fn operation(seed: u64, number: u64) -> Operation {
    let lot = scatter(seed ^ scatter(number));
    let (thing, other, amount) = (lot >> 8 & 0xff, lot >> 16 & 0xff, lot >> 24 & 0xff);
    match lot & 7 {
        0..=2 => Operation::Transfer { from: thing % ACCOUNTS, to: other % ACCOUNTS, amount },
        3 | 4 => Operation::Make { thing: thing % THINGS },
        5 | 6 => Operation::Copy { thing: thing % THINGS, source: other % THINGS },
        _ => Operation::Remove { thing: thing % THINGS },
    }
}

/// The finalizer of splitmix64.
pub(crate) const fn scatter(value: u64) -> u64 {
    let mut x = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}
