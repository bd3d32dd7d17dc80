//! Command lines of programs: words, `--flags` and `--options VALUE`.

use alloc::vec::Vec;
use twz_rt::Args;

/// The words of a command line that nobody has taken yet.
#[derive(Clone, Debug)]
pub struct Options(Vec<&'static str>);

impl Options {
    /// All arguments behind the program's name.
    #[must_use]
    pub fn new(args: Args) -> Self {
        Self(args.skip(1).collect())
    }

    /// Takes `--name`; whether it was there.
    pub fn flag(&mut self, name: &str) -> bool {
        let found = self.0.iter().position(|word| *word == name);
        found.map(|at| self.0.remove(at)).is_some()
    }

    /// Takes `--name VALUE`.
    ///
    /// # Errors
    /// The name, if the value is missing.
    pub fn value<'a>(&mut self, name: &'a str) -> Result<Option<&'static str>, &'a str> {
        let Some(at) = self.0.iter().position(|word| *word == name) else { return Ok(None) };
        if at + 1 >= self.0.len() {
            return Err(name);
        }
        self.0.remove(at);
        Ok(Some(self.0.remove(at)))
    }

    /// Takes the next word that is no option.
    pub fn word(&mut self) -> Option<&'static str> {
        let at = self.0.iter().position(|word| !word.starts_with("--"))?;
        Some(self.0.remove(at))
    }

    /// What nobody took.
    #[must_use]
    pub fn rest(&self) -> Option<&'static str> {
        self.0.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_flags_and_values_are_taken_in_any_order() {
        let mut options = Options(["grant", "--key", "owner", "a", "--shared", "b", "--links"].into());
        assert_eq!(options.word(), Some("grant"));
        assert_eq!(options.value("--key"), Ok(Some("owner")));
        assert_eq!(options.value("--gates"), Ok(None));
        assert_eq!(options.value("--links"), Err("--links"));
        assert!(options.flag("--shared") && !options.flag("--shared"));
        assert_eq!((options.word(), options.word()), (Some("a"), Some("b")));
        assert_eq!(options.rest(), Some("--links"));
    }
}
