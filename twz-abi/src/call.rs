//! What system calls are made of: each kind of argument and of result, as a program gives or gets it, as it stands in registers, and as
//! the kernel takes or gives it.
//!
//! [`crate::syscall`] declares each call once, by these kinds; the program's encoders and the kernel's decoder follow from that.
//!
//! # Contract
//! - An argument takes the next [`Argument::WORDS`] registers behind those before it, so a declaration is a register layout.
//! - Pointers become addresses here and nothing else: the kernel copies through an address as it must through one of a hostile program.
//! - A [`Call`] borrows what its pointers lead to for as long as it can be made.

use crate::error::ErrorCode;
use crate::id::ObjectId;
use crate::rights::Rights;
use crate::syscall::{ConsoleMode, Resize, Syscall, TracedKind};
use crate::thread::ThreadProperty;
use core::marker::PhantomData;

/// Words of arguments in a call, one a register: RDI, RSI, RDX, R10, R8, R9.
pub const ARGUMENT_WORDS: usize = 6;

/// The argument words of one call, filled or read from the first on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Words {
    words: [u64; ARGUMENT_WORDS],
    next: usize,
}

impl Words {
    /// What stood in the registers.
    #[inline]
    #[must_use]
    pub const fn of(words: [u64; ARGUMENT_WORDS]) -> Self {
        Self { words, next: 0 }
    }

    /// What is to stand in the registers.
    #[inline]
    #[must_use]
    pub const fn all(&self) -> [u64; ARGUMENT_WORDS] {
        self.words
    }

    // Positions are constants of the declaration, which `syscall` asserts to fit, and fold once these are inlined.
    #[inline(always)]
    fn put(&mut self, word: u64) {
        self.words[self.next] = word;
        self.next += 1;
    }

    #[inline(always)]
    fn take(&mut self) -> u64 {
        let word = self.words[self.next];
        self.next += 1;
        word
    }
}

/// A kind of argument. The type itself is what the kernel finds.
pub trait Argument: Sized {
    /// Words that it takes.
    const WORDS: usize;
    /// What a program gives.
    type Given<'a>;

    /// Encodes it.
    fn put(given: Self::Given<'_>, words: &mut Words);

    /// Decodes it.
    ///
    /// # Errors
    /// [`ErrorCode::BadArgument`] for a number that means nothing.
    fn take(words: &mut Words) -> Result<Self, ErrorCode>;
}

/// A kind of result.
pub trait Returned: Sized {
    /// Words that it takes, 0 to 2.
    const WORDS: usize;

    /// As the kernel returns it: v0 and v1.
    fn into_words(self) -> (u64, u64);

    /// As the program finds it.
    fn from_words(words: (u64, u64)) -> Self;
}

/// A call that is ready to be made, and what it returns.
#[derive(Clone, Copy, Debug)]
#[must_use = "a call does nothing until it is made"]
pub struct Call<'a, R> {
    number: Syscall,
    words: Words,
    borrows: PhantomData<&'a mut ()>,
    returns: PhantomData<R>,
}

impl<R: Returned> Call<'_, R> {
    #[inline]
    pub(crate) const fn new(number: Syscall, words: Words) -> Self {
        Self { number, words, borrows: PhantomData, returns: PhantomData }
    }

    /// Which call it is.
    #[inline]
    #[must_use]
    pub const fn number(&self) -> Syscall {
        self.number
    }

    /// What goes into the registers of the arguments.
    #[inline]
    #[must_use]
    pub const fn words(&self) -> [u64; ARGUMENT_WORDS] {
        self.words.all()
    }

    /// What the registers of the results mean.
    #[inline]
    #[must_use]
    pub fn returned(&self, words: (u64, u64)) -> R {
        R::from_words(words)
    }
}

/// Declares a kind of argument that is one word.
macro_rules! word {
    ($type:ty, $given:ident => $word:expr, $found:ident => $value:expr) => {
        impl Argument for $type {
            const WORDS: usize = 1;
            type Given<'a> = Self;

            #[inline(always)]
            fn put($given: Self, words: &mut Words) {
                words.put($word);
            }

            #[inline(always)]
            fn take(words: &mut Words) -> Result<Self, ErrorCode> {
                let $found = words.take();
                $value
            }
        }
    };
}

word!(u64, given => given, word => Ok(word));
// An exit status: higher bits are ignored.
word!(u8, given => u64::from(given), word => Ok(word.to_le_bytes()[0]));
word!(ConsoleMode, given => given as u64, word => Self::try_from(word).map_err(|_| ErrorCode::BadArgument));
word!(ThreadProperty, given => given as u64, word => Self::try_from(word).map_err(|_| ErrorCode::BadArgument));
word!(Resize, given => given as u64, word => Self::try_from(word).map_err(|_| ErrorCode::BadArgument));
word!(TracedKind, given => given as u64, word => Self::try_from(word).map_err(|_| ErrorCode::BadArgument));

impl Argument for ObjectId {
    const WORDS: usize = 2;
    type Given<'a> = Self;

    #[inline(always)]
    fn put(given: Self, words: &mut Words) {
        words.put(given.lo);
        words.put(given.hi);
    }

    #[inline(always)]
    fn take(words: &mut Words) -> Result<Self, ErrorCode> {
        Ok(Self { lo: words.take(), hi: words.take() })
    }
}

/// Declares a kind of argument that is the address of something.
macro_rules! pointer {
    ($(#[$doc:meta])* $name:ident, $given:ty, $from:path) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<T> {
            /// Virtual address, in the caller's view.
            pub address: u64,
            of: PhantomData<T>,
        }

        impl<T: 'static> Argument for $name<T> {
            const WORDS: usize = 1;
            type Given<'a> = $given;

            #[inline(always)]
            fn put(given: Self::Given<'_>, words: &mut Words) {
                words.put($from(given) as u64);
            }

            #[inline(always)]
            fn take(words: &mut Words) -> Result<Self, ErrorCode> {
                Ok(Self { address: words.take(), of: PhantomData })
            }
        }
    };
}

pointer! {
    /// A structure that the call reads.
    In, &'a T, core::ptr::from_ref
}
pointer! {
    /// A structure that the call fills in.
    Out, &'a mut T, core::ptr::from_mut
}

impl<T: 'static> Argument for Option<In<T>> {
    const WORDS: usize = 1;
    type Given<'a> = Option<&'a T>;

    #[inline(always)]
    fn put(given: Option<&T>, words: &mut Words) {
        words.put(given.map_or(0, |given| core::ptr::from_ref(given) as u64));
    }

    #[inline(always)]
    fn take(words: &mut Words) -> Result<Self, ErrorCode> {
        In::take(words).map(|found| (found.address != 0).then_some(found))
    }
}

/// Declares a kind of argument that is an address and how many there are.
macro_rules! run {
    ($(#[$doc:meta])* $name:ident, $given:ty, $pointer:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<T> {
            /// Virtual address of the first, in the caller's view.
            pub address: u64,
            /// How many there are.
            pub count: u64,
            of: PhantomData<T>,
        }

        impl<T: 'static> Argument for $name<T> {
            const WORDS: usize = 2;
            type Given<'a> = $given;

            #[inline(always)]
            fn put(given: Self::Given<'_>, words: &mut Words) {
                words.put(given.$pointer() as u64);
                words.put(given.len() as u64);
            }

            #[inline(always)]
            fn take(words: &mut Words) -> Result<Self, ErrorCode> {
                Ok(Self { address: words.take(), count: words.take(), of: PhantomData })
            }
        }

        impl<T> $name<T> {
            /// How many there are, if that is in `range`.
            ///
            /// # Errors
            /// [`ErrorCode::BadArgument`] if not.
            #[inline]
            pub fn count_in(&self, range: core::ops::RangeInclusive<usize>) -> Result<usize, ErrorCode> {
                let count = usize::try_from(self.count).ok().filter(|count| range.contains(count));
                count.ok_or(ErrorCode::BadArgument)
            }

            /// How many there are, but at most `limit`.
            #[inline]
            #[must_use]
            pub fn count_up_to(&self, limit: usize) -> usize {
                usize::try_from(self.count).unwrap_or(usize::MAX).min(limit)
            }
        }
    };
}

run! {
    /// Structures in a row that the call reads.
    InSlice, &'a [T], as_ptr
}
run! {
    /// Room in a row that the call writes to.
    OutSlice, &'a mut [T], as_mut_ptr
}

/// Declares a kind of result.
macro_rules! returned {
    ($type:ty, $words:literal, $value:pat => $into:expr, $found:pat => $from:expr) => {
        impl Returned for $type {
            const WORDS: usize = $words;

            #[inline(always)]
            fn into_words(self) -> (u64, u64) {
                let $value = self;
                $into
            }

            #[inline(always)]
            fn from_words($found: (u64, u64)) -> Self {
                $from
            }
        }
    };
}

returned!((), 0, () => (0, 0), _ => ());
returned!(u64, 1, value => (value, 0), (value, _) => value);
returned!((u64, u64), 2, values => values, values => values);
returned!(ObjectId, 2, id => (id.lo, id.hi), (lo, hi) => Self { lo, hi });
returned!(Rights, 1, rights => (u64::from(rights.bits()), 0), (bits, _) => {
    // Bits without a meaning are none of ours.
    Self::from_bits_truncate(u32::try_from(bits).unwrap_or(0))
});

/// What the table says of an argument; see [`Syscall::arguments`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgumentInfo {
    /// Its name.
    pub name: &'static str,
    /// Its kind, as declared.
    pub kind: &'static str,
    /// Words that it takes.
    pub words: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syscall::{Request, calls};
    use crate::view::SlotRange;

    /// What the kernel decodes of an encoded call.
    fn decoded<R: Returned>(call: &Call<'_, R>) -> Result<Request, ErrorCode> {
        Request::decode(call.number() as u64, call.words())
    }

    #[test]
    fn arguments_take_the_registers_in_order() {
        let (object, keeper) = (ObjectId { lo: 1, hi: 2 }, ObjectId { lo: 3, hi: 4 });
        let tie = calls::object_tie(object, keeper);
        assert_eq!((tie.number(), tie.words()), (Syscall::ObjectTie, [1, 2, 3, 4, 0, 0]));
        let Ok(Request::ObjectTie { object: found, keeper: kept }) = decoded(&tie) else { panic!() };
        assert_eq!((found, kept), (object, keeper));
        let called = calls::gate_call(object, 7, 8, 9, 10);
        assert_eq!(called.words(), [1, 2, 7, 8, 9, 10]);
    }

    #[test]
    fn pointers_are_addresses_with_counts() {
        let ranges = [SlotRange { first: 1, count: 1 }; 3];
        let call = calls::view_invalidate(&ranges);
        assert_eq!(call.words()[..2], [ranges.as_ptr() as u64, 3]);
        let Ok(Request::ViewInvalidate { ranges: found }) = decoded(&call) else { panic!() };
        assert_eq!((found.address, found.count), (ranges.as_ptr() as u64, 3));
        assert_eq!(found.count_in(1..=3), Ok(3));
        assert_eq!(found.count_in(1..=2), Err(ErrorCode::BadArgument));
        assert_eq!(found.count_up_to(2), 2);
        let huge = InSlice::<u8> { address: 0, count: u64::MAX, of: PhantomData };
        assert_eq!(huge.count_in(0..=64), Err(ErrorCode::BadArgument));
        assert_eq!(huge.count_up_to(64), 64);
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused() {
        let decode = |number: Syscall, words| Request::decode(number as u64, words).map(drop);
        assert_eq!(decode(Syscall::ConsoleMode, [9, 0, 0, 0, 0, 0]), Err(ErrorCode::BadArgument));
        assert_eq!(decode(Syscall::ThreadSet, [0, 9, 0, 0, 0, 0]), Err(ErrorCode::BadArgument));
        assert_eq!(decode(Syscall::PmemTrace, [2, 0, 0, 0, 0, 0]), Err(ErrorCode::BadArgument));
        assert_eq!(Request::decode(0x1fff, [0; 6]).map(drop), Err(ErrorCode::NoSuchCall));
        assert_eq!(Request::decode(0, [0; 6]).map(drop), Err(ErrorCode::NoSuchCall));
        // Of a status only 8 bits count.
        let exit = Request::decode(Syscall::ThreadExit as u64, [0x1ff, 0, 0, 0, 0, 0]);
        assert!(matches!(exit, Ok(Request::ThreadExit { status: 0xff })));
        // A null pointer is none where one may be left out.
        let revoke = Request::decode(Syscall::Revoke as u64, [16, 0, 0, 0, 0, 0]);
        assert!(matches!(revoke, Ok(Request::Revoke { capability: None, .. })));
    }

    #[test]
    fn results_come_back_as_they_went() {
        assert_eq!(u64::from_words(5_u64.into_words()), 5);
        assert_eq!(<(u64, u64)>::from_words((5, 6).into_words()), (5, 6));
        let id = ObjectId { lo: 5, hi: 6 };
        assert_eq!(ObjectId::from_words(id.into_words()), id);
        assert_eq!(Rights::from_words(Rights::READ.into_words()), Rights::READ);
        assert_eq!(Rights::from_words((u64::MAX, 0)), Rights::empty());
    }
}
