//! What `churn` must have, after so many operations.

use super::plan::{ACCOUNTS, BALANCE, Operation, THINGS, operation};
use std::collections::BTreeMap;

/// Accounts and things after some operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Model {
    seed: u64,
    pub(super) done: u64,
    accounts: BTreeMap<u64, u64>,
    /// Thing -> version.
    things: BTreeMap<u64, u64>,
}

/// What `churn` says it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) done: u64,
    accounts: BTreeMap<u64, u64>,
    things: BTreeMap<u64, u64>,
}

impl Model {
    /// Before the first operation.
    pub(super) fn new(seed: u64) -> Self {
        let accounts = (0..ACCOUNTS).map(|account| (account, BALANCE)).collect();
        Self { seed, done: 0, accounts, things: BTreeMap::new() }
    }

    fn step(&mut self) {
        match operation(self.seed, self.done) {
            Operation::Transfer { from, to, amount } => {
                *self.accounts.entry(from).or_default() -= amount;
                *self.accounts.entry(to).or_default() += amount;
            }
            Operation::Make { thing } => drop(self.things.insert(thing, self.done)),
            Operation::Copy { thing, source } => match self.things.get(&source).copied() {
                Some(version) => drop(self.things.insert(thing, version)),
                None => drop(self.things.remove(&thing)),
            },
            Operation::Remove { thing } => drop(self.things.remove(&thing)),
        }
        self.done += 1;
    }

    /// Goes on to what was found, if that is possible after `announced` operations were announced and at most `unheard` more were done.
    ///
    /// # Errors
    /// What is lost or torn.
    pub(super) fn follow(&mut self, announced: u64, unheard: u64, found: &Found) -> Result<(), String> {
        if found.done < announced || found.done > announced + unheard {
            return Err(format!("{announced} operations were announced, {} are done", found.done));
        }
        while self.done < found.done {
            self.step();
        }
        if found.accounts != self.accounts {
            return Err(format!(
                "after {} operations: accounts {:?}, not {:?}",
                self.done, found.accounts, self.accounts
            ));
        }
        // What an operation does to a thing is there or not before it is counted.
        let mut next = self.clone();
        next.step();
        if found.things != self.things && found.things != next.things {
            return Err(format!(
                "after {} operations: things {:?}, not {:?} or {:?}",
                self.done, found.things, self.things, next.things
            ));
        }
        Ok(())
    }
}

/// What one life of `churn` printed.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    /// What it found, if it came so far.
    pub(super) found: Option<Found>,
    /// The last operation that it announced.
    pub(super) announced: Option<u64>,
    /// What it complained about.
    pub(super) complaint: Option<String>,
}

/// Reads its output; a last line without an end does not count.
pub(super) fn read(program: &str, output: &str) -> Said {
    let mut said = Said::default();
    let mut found = Found::default();
    for line in output.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let rest = line.strip_prefix(program).and_then(|rest| rest.strip_prefix(": "));
        let Some(rest) = rest else { continue };
        let words: Vec<&str> = rest.split(' ').collect();
        let number =
            |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok()).unwrap_or(u64::MAX);
        match words[0] {
            "found" => found = Found { done: number(1), ..Found::default() },
            "account" => drop(found.accounts.insert(number(1), number(2))),
            "thing" if number(1) < THINGS => drop(found.things.insert(number(1), number(2))),
            "that" => said.found = Some(std::mem::take(&mut found)),
            "done" => said.announced = Some(number(1)),
            _ => said.complaint = Some(rest.to_owned()),
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(model: &Model) -> Found {
        Found { done: model.done, accounts: model.accounts.clone(), things: model.things.clone() }
    }

    #[test]
    fn only_what_may_be_is_accepted() {
        let mut ahead = Model::new(5);
        for announced in 0..200 {
            let state = found(&ahead);
            assert_eq!(Model::new(5).follow(announced, 1, &state), Ok(()));
            if announced > 0 {
                assert_eq!(Model::new(5).follow(announced - 1, 1, &state), Ok(()), "done but not announced");
            }
            if announced > 1 {
                assert!(Model::new(5).follow(announced - 2, 1, &state).is_err(), "two more than announced");
                assert_eq!(Model::new(5).follow(announced - 2, 2, &state), Ok(()), "but not heard");
            }
            assert!(Model::new(5).follow(announced + 1, 1, &state).is_err(), "lost");
            let mut torn = state.clone();
            *torn.accounts.get_mut(&3).expect("an account") += 1;
            assert!(Model::new(5).follow(announced, 1, &torn).is_err(), "torn");
            let mut torn = state.clone();
            torn.things.insert(2, 12345);
            assert!(Model::new(5).follow(announced, 1, &torn).is_err(), "torn");
            ahead.step();
        }
    }

    #[test]
    fn output_is_read_as_far_as_it_goes() {
        let said = read(
            "churn",
            "churn: found 7\nchurn: account 1 5\nchurn: thing 2 9\nchurn: that is all\nchurn: done 8\nchurn: done 9",
        );
        let found = said.found.expect("all");
        assert_eq!((found.done, found.accounts[&1], found.things[&2]), (7, 5, 9));
        assert_eq!(said.announced, Some(8));
        assert!(read("churn", "churn: found 7\nchurn: acc").found.is_none());
        assert_eq!(read("churn", "churn: TORN thing 3\n").complaint.as_deref(), Some("TORN thing 3"));
    }
}
