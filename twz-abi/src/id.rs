//! Object IDs: 128 bits, the name of an object on every machine (paper §3.1).

use core::fmt;
use core::str::FromStr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The 128-bit ID of an object; all zero is [`ObjectId::NULL`] and names nothing.
///
/// An ID is the hash of (nonce, key object, default rights) folded to 128 bits, so holding one proves that
/// these three have not changed since creation. It proves nothing about rights to the object.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ObjectId {
    /// Bits 0–63.
    pub lo: u64,
    /// Bits 64–127.
    pub hi: u64,
}
crate::assert_layout!(ObjectId, size = 16, lo = 0, hi = 8);

impl ObjectId {
    /// The ID that names no object.
    pub const NULL: Self = Self { lo: 0, hi: 0 };

    /// Makes an ID of a 128-bit number.
    #[must_use]
    pub const fn from_u128(value: u128) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
        Self { lo: value as u64, hi: (value >> 64) as u64 }
    }

    /// The ID as a 128-bit number.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        (self.hi as u128) << 64 | self.lo as u128
    }

    /// Whether this is [`ObjectId::NULL`].
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.lo == 0 && self.hi == 0
    }
}

impl fmt::Display for ObjectId {
    /// 32 hexadecimal digits with a colon in the middle, as every tool prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}:{:016x}", self.hi, self.lo)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not an object ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseIdError;

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not an object ID: 32 hexadecimal digits expected, with an optional ':' after the first 16",
        )
    }
}

impl core::error::Error for ParseIdError {}

impl FromStr for ObjectId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let half = |digits: &str| {
            let all_hex = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if all_hex {
                u64::from_str_radix(digits, 16).map_err(|_| ParseIdError)
            } else {
                Err(ParseIdError)
            }
        };
        let (high, low) = match text.len() {
            33 => text.split_once(':').ok_or(ParseIdError)?,
            32 => text.split_at_checked(16).ok_or(ParseIdError)?,
            _ => return Err(ParseIdError),
        };
        Ok(Self { hi: half(high)?, lo: half(low)? })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn text_round_trips() {
        let id = ObjectId::from_u128(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210);
        assert_eq!(id.to_string(), "0123456789abcdef:fedcba9876543210");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("0123456789abcdeffedcba9876543210".parse(), Ok(id));
    }

    #[test]
    fn rejects_what_is_not_an_id() {
        for text in ["", "12", "0123456789abcdef:fedcba987654321", "+123456789abcdef:fedcba9876543210", "é"]
        {
            assert_eq!(text.parse::<ObjectId>(), Err(ParseIdError), "{text}");
        }
    }
}
