//! Sets of gate numbers: an arithmetic progression, small enough to stand in a capability.

use twz_abi::sec::RawGateSet;

/// The gates `first`, `first + stride`, … below `first + length`.
///
/// Holding one proves that it is empty with all fields zero, or has at least one member and does not wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GateSet {
    first: u32,
    length: u32,
    stride: u32,
}

impl GateSet {
    /// No gates.
    pub const NONE: Self = Self { first: 0, length: 0, stride: 0 };

    /// The one gate `number`; `None` for the number that no range can end after.
    #[must_use]
    pub fn one(number: u32) -> Option<Self> {
        Self::range(number, 1, 1)
    }

    /// Every `stride`-th gate of `length` from `first`; `None` if that is empty or wraps.
    #[must_use]
    pub fn range(first: u32, length: u32, stride: u32) -> Option<Self> {
        let sensible = length > 0 && stride > 0 && first.checked_add(length).is_some();
        sensible.then_some(Self { first, length, stride })
    }

    /// Reads the stored form; `None` if it breaks a rule of it.
    #[must_use]
    pub fn from_raw(raw: &RawGateSet) -> Option<Self> {
        match *raw {
            RawGateSet { first: 0, length: 0, stride: 0, reserved: 0 } => Some(Self::NONE),
            RawGateSet { first, length, stride, reserved: 0 } => Self::range(first, length, stride),
            _ => None,
        }
    }

    /// The stored form.
    #[must_use]
    pub fn to_raw(self) -> RawGateSet {
        RawGateSet { first: self.first, length: self.length, stride: self.stride, reserved: 0 }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.length == 0
    }

    /// Whether gate `number` is one of them.
    #[must_use]
    pub fn contains(self, number: u32) -> bool {
        let Some(distance) = number.checked_sub(self.first) else { return false };
        distance < self.length && distance.is_multiple_of(self.stride)
    }

    /// Whether every member of `self` is one of `other`.
    #[must_use]
    pub fn is_subset_of(self, other: Self) -> bool {
        if self.is_empty() {
            return true;
        }
        // First and last member in `other`, and each step a multiple of the other's.
        let steps = (self.length - 1) / self.stride;
        let last = self.first + steps * self.stride;
        let on_grid = steps == 0 || self.stride.is_multiple_of(other.stride.max(1));
        other.contains(self.first) && other.contains(last) && on_grid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn members(set: GateSet) -> Vec<u32> {
        (0..64).filter(|number| set.contains(*number)).collect()
    }

    #[test]
    fn members_are_those_of_the_progression() {
        assert_eq!(members(GateSet::NONE), []);
        assert_eq!(members(GateSet::one(5).unwrap()), [5]);
        assert_eq!(members(GateSet::range(2, 7, 3).unwrap()), [2, 5, 8]);
    }

    #[test]
    fn nonsense_is_no_set() {
        assert_eq!(GateSet::range(1, 0, 1), None);
        assert_eq!(GateSet::range(1, 1, 0), None);
        assert_eq!(GateSet::range(u32::MAX, 1, 1), None);
        let raw = |first, length, stride, reserved| RawGateSet { first, length, stride, reserved };
        assert_eq!(GateSet::from_raw(&raw(0, 0, 0, 0)), Some(GateSet::NONE));
        for bad in [raw(1, 0, 0, 0), raw(0, 0, 1, 0), raw(0, 0, 0, 1), raw(0, 1, 1, 1), raw(0, 1, 0, 0)] {
            assert_eq!(GateSet::from_raw(&bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn subset_means_subset(
            a in (0u32..24, 1u32..24, 1u32..8), b in (0u32..24, 1u32..24, 1u32..8),
        ) {
            let set = |(first, length, stride)| GateSet::range(first, length, stride).unwrap();
            let (a, b) = (set(a), set(b));
            let expected = members(a).iter().all(|number| members(b).contains(number));
            prop_assert_eq!(a.is_subset_of(b), expected);
            prop_assert!(GateSet::NONE.is_subset_of(b) && !a.is_subset_of(GateSet::NONE));
        }

        #[test]
        fn no_raw_set_panics(first: u32, length: u32, stride: u32, number: u32) {
            let raw = RawGateSet { first, length, stride, reserved: 0 };
            if let Some(set) = GateSet::from_raw(&raw) {
                let _ = set.contains(number);
                prop_assert!(set.is_subset_of(set));
                prop_assert_eq!(set.to_raw(), raw);
            }
        }
    }
}
