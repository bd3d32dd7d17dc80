//! Beginning again after a power failure.
//!
//! ```ignore
//! #[libtwz::main]
//! fn main() -> Result<()> {
//!     let state = make_state()?;                 // a persistent object, whole
//!     libtwz::resume::set(state.id(), 0)?;       // from here on the work is done, whatever happens
//!     work(&state)
//! }
//!
//! #[libtwz::resume]
//! fn go_on(resumed: libtwz::resume::Resumed) -> Result<()> {
//!     let state = Object::<State>::open(resumed.state)?;
//!     libtwz::resume::confirm()?;                // this try has succeeded
//!     work(&state)
//! }
//! ```
//!
//! # Contract
//! - A thread that called [`set`] is started again by every start of the machine, in the function that `#[libtwz::resume]` marks, until it ends by
//!   itself or calls [`clear`]. `docs/resume.md` says what it finds and what happens if it fails.
//! - It begins with fresh data, heap and stack. Persistent objects are as after any power failure: [`Object::open`](crate::Object::open) rolls
//!   back what did not commit, and locks in them that threads of the former life held are free (their generation is past).
//! - A Linux process is not started again by anybody: there the calls do nothing, and [`set`] says so.

use crate::error::Result;
use twz_abi::ObjectId;

/// What a thread that begins again is told.
#[derive(Clone, Copy, Debug)]
pub struct Resumed {
    /// The object that was given to [`set`].
    pub state: ObjectId,
    /// The number that was given to [`set`].
    pub argument: u64,
    /// How many times it was resumed before.
    pub times: u64,
}

/// Makes this thread resumable; says whether the machine does that. The program must have a function with `#[libtwz::resume]`.
///
/// # Errors
/// [`Error::Platform`](crate::Error::Platform): no right to `state`, the thread is inside of a gate, the pool is full.
pub fn set(state: ObjectId, argument: u64) -> Result<bool> {
    imp::set(state, argument)
}

/// Says that this thread, which was resumed, has recovered: the try has succeeded. After three that did not, it is set aside.
///
/// # Errors
/// [`Error::Platform`](crate::Error::Platform): this thread is not resumable.
pub fn confirm() -> Result<()> {
    imp::confirm()
}

/// Makes this thread not resumable any more.
///
/// # Errors
/// [`Error::Platform`](crate::Error::Platform): it was not.
pub fn clear() -> Result<()> {
    imp::clear()
}

#[cfg(feature = "guest")]
mod imp {
    use crate::error::{Error, Result};
    use twz_abi::{ErrorCode, ObjectId};

    unsafe extern "C" {
        /// What `#[libtwz::resume]` makes.
        fn _resume() -> !;
    }

    fn failed(operation: &'static str) -> impl Fn(ErrorCode) -> Error {
        move |error| Error::Platform { operation, code: (error as u32).cast_signed() }
    }

    pub(super) fn set(state: ObjectId, argument: u64) -> Result<bool> {
        twz_rt::resume::set(_resume, state, argument).map_err(failed("making a thread resumable"))?;
        Ok(true)
    }

    pub(super) fn confirm() -> Result<()> {
        twz_rt::resume::confirm().map_err(failed("confirming that a thread goes on"))
    }

    pub(super) fn clear() -> Result<()> {
        twz_rt::resume::clear().map_err(failed("making a thread not resumable"))
    }
}

#[cfg(not(feature = "guest"))]
mod imp {
    use crate::error::Result;
    use twz_abi::ObjectId;

    pub(super) fn set(_state: ObjectId, _argument: u64) -> Result<bool> {
        Ok(false)
    }

    pub(super) fn confirm() -> Result<()> {
        Ok(())
    }

    pub(super) fn clear() -> Result<()> {
        Ok(())
    }
}

/// The object in the slot of the state object.
#[cfg(feature = "guest")]
#[doc(hidden)]
#[must_use]
pub fn state() -> ObjectId {
    let entry = twz_rt::view::View::current().get(twz_abi::program::STATE_SLOT);
    entry.map_or(ObjectId::NULL, |(object, _)| object)
}

/// What `#[libtwz::resume]` expands to besides the function.
#[cfg(feature = "guest")]
#[doc(hidden)]
#[macro_export]
macro_rules! start_again {
    ($resume:path) => {
        const _: () = {
            /// The kernel has set RSP up, and put argument, address of the state object and number of earlier times into RDI, RSI and RDX.
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            unsafe extern "C" fn _resume() -> ! {
        ::core::arch::naked_asm!("xor ebp, ebp", "and rsp, -16", "call {}", "ud2", sym run)
            }

            extern "C" fn run(argument: u64, _state: *mut u8, times: u64) -> ! {
                // SAFETY: this is the first thread of the program's new life, and its view has the arguments object where the loader put it.
                let _ = unsafe { $crate::rt::begin_again() };
                let resumed = $crate::resume::Resumed { state: $crate::resume::state(), argument, times };
                $crate::rt::finish($crate::rt::Termination::status($resume(resumed)))
            }
        };
    };
}

/// Nobody starts a Linux process again; the function is there for those who call it.
#[cfg(not(feature = "guest"))]
#[doc(hidden)]
#[macro_export]
macro_rules! start_again {
    ($resume:path) => {
        const _: fn() = || {
            let _ = $resume;
        };
    };
}
