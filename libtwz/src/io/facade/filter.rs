//! Which levels of which targets are written.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

/// The largest level.
const TRACE: u32 = 5;
const NAMES: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A piece of a filter that says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFilter {
    piece: String,
}

impl fmt::Display for BadFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"{}\" is no level (off, error, warn, info, debug, trace, or 0 to 5) and no target=level",
            self.piece
        )
    }
}

impl core::error::Error for BadFilter {}

/// A level for all, and others for some.
#[derive(Debug)]
pub(super) struct Filter {
    all: u32,
    /// The longest names first.
    targets: Vec<(String, u32)>,
}

impl Filter {
    pub(super) const fn all(level: u32) -> Self {
        Self { all: level, targets: Vec::new() }
    }

    /// The largest level that a target can have.
    pub(super) fn most(&self) -> u32 {
        self.targets.iter().map(|(_, level)| *level).fold(self.all, u32::max)
    }

    pub(super) fn level_of(&self, target: &str) -> u32 {
        let is_below = |name: &str| {
            target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        self.targets.iter().find(|(name, _)| is_below(name)).map_or(self.all, |(_, level)| *level)
    }
}

impl FromStr for Filter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        let mut filter = Self::all(0);
        for piece in text.split(',').map(str::trim).filter(|piece| !piece.is_empty()) {
            let (name, level) = match piece.split_once('=') {
                Some((name, level)) => (name.trim(), level_named(level)),
                None => match level_named(piece) {
                    Some(level) => ("", Some(level)),
                    None => (piece, Some(TRACE)),
                },
            };
            match level {
                Some(level) if name.is_empty() => filter.all = level,
                Some(level) => filter.targets.push((name.into(), level)),
                None => return Err(BadFilter { piece: piece.into() }),
            }
        }
        filter.targets.sort_by_key(|(name, _)| core::cmp::Reverse(name.len()));
        Ok(filter)
    }
}

/// The level of a name or a digit.
fn level_named(name: &str) -> Option<u32> {
    let name = name.trim();
    let named = NAMES.iter().position(|known| known.eq_ignore_ascii_case(name));
    let level = named.or_else(|| name.parse().ok().filter(|level| *level < NAMES.len()))?;
    u32::try_from(level).ok()
}

#[cfg(test)]
mod tests {
    use super::Filter;

    #[test]
    fn the_longest_name_counts() {
        let filter: Filter =
            " Info, kv=debug,kv::net=off ,noise=0,all,kv::net::tcp=2".parse().expect("a filter");
        let level = |target| filter.level_of(target);
        assert_eq!(
            [level(""), level("other"), level("kvs"), level("kv"), level("kv::disk")],
            [3, 3, 3, 4, 4]
        );
        assert_eq!([level("kv::net"), level("kv::net::udp"), level("kv::net::tcp")], [0, 0, 2]);
        assert_eq!([level("noise"), level("all::of::it"), filter.most()], [0, 5, 5]);
        let nothing: Filter = "".parse().expect("a filter");
        assert_eq!((nothing.level_of("kv"), nothing.most()), (0, 0));
        for bad in ["kv=loud", "info,kv=6", "kv="] {
            let said = bad.parse::<Filter>().expect_err("no filter").to_string();
            assert!(said.contains(bad.rsplit(',').next().expect("a piece")), "{said}");
        }
    }
}
