//! Arguments and environment; see [`crate::env`].

use alloc::string::String;
use core::fmt;

/// The arguments, the program's name first.
pub fn args() -> Args {
    Args { all: super::args(), next: 0 }
}

/// What [`args`] returns.
#[derive(Clone, Debug)]
pub struct Args {
    all: twz_rt::Args,
    next: usize,
}

impl Iterator for Args {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let text = self.all.get(self.next)?;
        self.next += 1;
        Some(text.into())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.all.count_all().saturating_sub(self.next);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Args {}

/// The variables of the environment, as name and value.
pub fn vars() -> Vars {
    Vars { all: super::args(), next: 0 }
}

/// What [`vars`] returns.
#[derive(Clone, Debug)]
pub struct Vars {
    all: twz_rt::Args,
    next: usize,
}

impl Iterator for Vars {
    type Item = (String, String);

    fn next(&mut self) -> Option<(String, String)> {
        let (name, value) = self.all.variable(self.next)?;
        self.next += 1;
        Some((name.into(), value.into()))
    }
}

/// Why [`var`] has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VarError {
    /// There is no such variable.
    NotPresent,
}

impl fmt::Display for VarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("environment variable not found")
    }
}

impl core::error::Error for VarError {}

/// The value of a variable; of the last, if there are several of that name.
///
/// # Errors
/// [`VarError::NotPresent`].
pub fn var(name: impl AsRef<str>) -> Result<String, VarError> {
    let name = name.as_ref();
    vars().filter(|(known, _)| known == name).last().map(|(_, value)| value).ok_or(VarError::NotPresent)
}
