//! Binding: which objects a security context can reach, and how.
//!
//! # Contract
//! - A context reaches an object only through its window's alias, and there only what [`Context::show`] put (paper §3.4).
//! - A page is shown writable only if the binding has [`Rights::WRITE`] and no other object shares the page.
//! - What takes something away ([`Context::set_rights`], [`Context::narrow`], [`Context::unbind`], [`Context::hide`]) is complete on every
//!   hart when it returns.
//! - **I1 leased**: a binding holds an [`ObjectRef`] as long as the alias shows its pages, so the pool cannot reuse them.
//!
//! ```text
//! Absent --bind--> Bound --show--> Bound, shown --set_rights/narrow/hide--> Bound --unbind--> Absent
//! ```
//! The table exists without a window: one is made at the first `show` by whoever knows the context's root, and can be taken away again
//! (eviction) without ending the bindings.

use crate::alias::{AliasError, Protection};
use crate::window::{CHUNK_SIZE, Chunk, Window};
use pool::{Extent, ObjectRef};
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use twz_abi::object::DATA_OFFSET;
use twz_abi::{ObjectId, PAGE_SIZE, Rights};

/// Part of an object that is now reachable.
#[derive(Clone, Copy, Debug)]
pub struct Touched {
    /// Guest-physical address of the whole chunk, when it can be one large page.
    pub large: Option<u64>,
    /// Guest-physical address of the first page.
    pub address: u64,
    /// Number of that page in its chunk.
    pub first_page: u64,
    /// Pages.
    pub pages: u64,
    /// Whether stores are possible.
    pub writable: bool,
}

/// How much of the access to a range is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Narrowing {
    /// Stores.
    ReadOnly,
    /// Everything.
    Hidden,
}

/// Part of an object cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// No such binding.
    #[error("no such binding")]
    NotBound,
    /// The context has no window.
    #[error("the context has no table")]
    NoWindow,
    /// Every chunk of the window is in use.
    #[error("the window is full")]
    Full,
    /// The host refused.
    #[error(transparent)]
    Alias(#[from] AliasError),
}

/// What is bound, for listings.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a, G> {
    /// Its number.
    pub number: u32,
    /// The object.
    pub object: ObjectId,
    /// What the context may do with it.
    pub rights: Rights,
    /// Why.
    pub grant: &'a G,
    /// Chunks of the window that it takes.
    pub chunks: usize,
}

/// A stretch of a chunk that the alias shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    start: u64,
    bytes: u64,
    pool_offset: u64,
    writable: bool,
}

impl Shown {
    fn end(&self) -> u64 {
        self.start + self.bytes
    }

    /// What is left of `self` outside of `other`: a piece before, a piece behind.
    fn without(&self, other: &Self) -> impl Iterator<Item = Self> + use<> {
        let piece = |start: u64, end: u64| {
            let pool_offset = self.pool_offset + start.saturating_sub(self.start);
            (start < end).then(|| Self { start, bytes: end - start, pool_offset, writable: self.writable })
        };
        let before = piece(self.start, self.end().min(other.start));
        let behind = piece(self.start.max(other.end()), self.end());
        before.into_iter().chain(behind)
    }

    /// One stretch for `self` and `other`, if the host maps the two as one.
    fn joined(&self, other: &Self) -> Option<Self> {
        let same = self.writable == other.writable
            && self.pool_offset.wrapping_sub(self.start) == other.pool_offset.wrapping_sub(other.start);
        let (first, second) = if self.start < other.start { (self, other) } else { (other, self) };
        (same && first.end() == second.start).then(|| Self { bytes: first.bytes + second.bytes, ..*first })
    }

    /// The stretches of `self` (start, bytes) that `shown` does not show in just this way.
    fn missing_in(&self, shown: &[Self]) -> Vec<(u64, u64)> {
        let mut missing = vec![*self];
        for old in shown {
            // In the same way: the same bytes of the pool at the same place, with the same access.
            let same = old.writable == self.writable
                && old.pool_offset.wrapping_sub(old.start) == self.pool_offset.wrapping_sub(self.start);
            if same {
                missing = missing.iter().flat_map(|part| part.without(old)).collect();
            }
        }
        missing.iter().map(|part| (part.start, part.bytes)).collect()
    }
}

/// An object in a context.
#[derive(Debug)]
struct Binding<G> {
    object: ObjectRef,
    rights: Rights,
    grant: G,
    /// The window's chunk for each chunk of the object that was touched, and what it shows.
    chunks: HashMap<u64, (Chunk, Vec<Shown>)>,
}

/// The bindings of one security context and, while it is in use, its window. `G` says why a right was given.
#[derive(Debug)]
pub struct Context<G> {
    window: Option<Window>,
    bindings: Vec<Option<Binding<G>>>,
    free: Vec<u32>,
    by_object: HashMap<ObjectId, u32>,
    /// Stretches that are shown, of all bindings.
    stretches: usize,
    /// Leases of objects that the host would not let us hide (I1); their chunks are not used again.
    stuck: Vec<ObjectRef>,
}

impl<G> Default for Context<G> {
    fn default() -> Self {
        Self {
            window: None,
            bindings: Vec::new(),
            free: Vec::new(),
            by_object: HashMap::new(),
            stretches: 0,
            stuck: Vec::new(),
        }
    }
}

impl<G> Context<G> {
    /// Its window, if it has one.
    #[must_use]
    pub fn window(&self) -> Option<&Window> {
        self.window.as_ref()
    }

    /// Gives it a window; what an earlier one showed is not in it.
    pub fn set_window(&mut self, window: Window) {
        self.forget_shown();
        self.window = Some(window);
    }

    /// Takes the window away: the bindings stay, with nothing shown. The root must have lost it as well before its chunks mean anything
    /// else.
    pub fn take_window(&mut self) -> Option<Window> {
        self.forget_shown();
        self.window.take()
    }

    fn forget_shown(&mut self) {
        self.bindings.iter_mut().flatten().for_each(|binding| binding.chunks.clear());
        self.stretches = 0;
    }

    /// Stretches of host memory that it shows. The host takes two mappings for each at most: its own, and that of the gap behind it.
    #[must_use]
    pub const fn stretches(&self) -> usize {
        self.stretches
    }

    /// Number of objects bound.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_object.len()
    }

    /// Whether nothing is bound.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_object.is_empty()
    }

    /// The binding of an object.
    #[must_use]
    pub fn find(&self, object: ObjectId) -> Option<u32> {
        self.by_object.get(&object).copied()
    }

    /// A binding's object and rights.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<(&ObjectRef, Rights)> {
        self.binding(number).map(|binding| (&binding.object, binding.rights))
    }

    /// Everything that is bound.
    pub fn bound(&self) -> impl Iterator<Item = Bound<'_, G>> {
        (0..).zip(&self.bindings).filter_map(|(number, binding)| {
            let binding = binding.as_ref()?;
            let (object, chunks) = (binding.object.id(), binding.chunks.len());
            Some(Bound { number, object, rights: binding.rights, grant: &binding.grant, chunks })
        })
    }

    fn binding(&self, number: u32) -> Option<&Binding<G>> {
        self.bindings.get(number as usize)?.as_ref()
    }

    /// Binds an object, which must not be bound yet; nothing of it is shown.
    pub fn bind(&mut self, object: ObjectRef, rights: Rights, grant: G) -> u32 {
        let id = object.id();
        let binding = Some(Binding { object, rights, grant, chunks: HashMap::new() });
        let number = match self.free.pop() {
            Some(number) => {
                self.bindings[number as usize] = binding;
                number
            }
            None => {
                self.bindings.push(binding);
                u32::try_from(self.bindings.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.by_object.insert(id, number);
        number
    }

    /// Ends a binding and hides everything that it showed; `None` if there is none. The lease that is returned may be the last.
    pub fn unbind(&mut self, number: u32) -> Option<ObjectRef> {
        let removed = self.bindings.get_mut(number as usize)?.take()?;
        self.by_object.remove(&removed.object.id());
        self.free.push(number);
        self.stretches -= removed.stretches();
        let chunks = removed.chunks.values().map(|(chunk, _)| *chunk);
        if !give_back(self.window.as_mut(), chunks) {
            self.stuck.push(removed.object.clone());
        }
        Some(removed.object)
    }

    /// Shows `extent` of the pool `file` in the binding's chunk.
    ///
    /// # Errors
    /// [`ShowError`].
    pub fn show(&mut self, number: u32, extent: &Extent, file: BorrowedFd<'_>) -> Result<Touched, ShowError> {
        let Self { window, bindings, stretches, .. } = self;
        let binding =
            bindings.get_mut(number as usize).and_then(Option::as_mut).ok_or(ShowError::NotBound)?;
        let window = window.as_mut().ok_or(ShowError::NoWindow)?;
        let in_object = extent.object_offset / CHUNK_SIZE;
        let (chunk, shown) = match binding.chunks.entry(in_object) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert((window.take().ok_or(ShowError::Full)?, Vec::new()))
            }
        };
        let writable = binding.rights.contains(Rights::WRITE) && !extent.shared;
        let start = extent.object_offset % CHUNK_SIZE;
        let now = Shown { start, bytes: extent.len, pool_offset: extent.pool_offset, writable };
        let address = window.guest_address(*chunk) + start;
        let protection = if writable { Protection::ReadWrite } else { Protection::Read };
        for (part_start, part_bytes) in now.missing_in(shown) {
            let at = Window::start(*chunk) + part_start;
            let from = extent.pool_offset + (part_start - start);
            window.alias().map(at, file, from, part_bytes, protection)?;
        }
        // What `now` covers is no longer shown the old way; stretches outside of it stay as they are.
        *stretches -= shown.len();
        *shown = with_another(shown, now);
        *stretches += shown.len();
        // Page 0 of an object is never mapped, whatever the pool has there; so the first chunk is no large page either.
        let hidden = DATA_OFFSET.saturating_sub(extent.object_offset).min(extent.len);
        let is_large = extent.is_huge() && writable && hidden == 0;
        Ok(Touched {
            large: is_large.then_some(address),
            address: address + hidden,
            first_page: (start + hidden) / PAGE_SIZE,
            pages: (extent.len - hidden) / PAGE_SIZE,
            writable,
        })
    }

    /// Changes a binding's rights. What is no longer allowed ends at once; what is newly allowed appears by the next `show`.
    ///
    /// # Errors
    /// As [`crate::Alias::map`]; the new rights count all the same.
    pub fn set_rights(&mut self, number: u32, rights: Rights, grant: G) -> Result<(), AliasError> {
        let Self { window, bindings, stretches, .. } = self;
        let Some(binding) = bindings.get_mut(number as usize).and_then(Option::as_mut) else { return Ok(()) };
        let lost = binding.rights - rights;
        (binding.rights, binding.grant) = (rights, grant);
        let Some(window) = window.as_mut() else { return Ok(()) };
        // Without stores only, reading goes on undisturbed. Execution cannot be taken away here: the kernel looks again when the
        // page is gone.
        let how = match lost & Rights::ACCESS {
            Rights::WRITE => Narrowing::ReadOnly,
            lost if lost.is_empty() => return Ok(()),
            _ => Narrowing::Hidden,
        };
        *stretches -= binding.stretches();
        let narrowed = binding.narrow(window, 0, u64::MAX, how);
        *stretches += binding.stretches();
        narrowed
    }

    /// Takes write access, or all access, away from a range of an object if it is bound.
    ///
    /// # Errors
    /// As [`crate::Alias::map`].
    pub fn narrow(
        &mut self,
        object: ObjectId,
        offset: u64,
        bytes: u64,
        how: Narrowing,
    ) -> Result<(), AliasError> {
        let Self { window, bindings, by_object, stretches, .. } = self;
        let found = by_object.get(&object).and_then(|&number| bindings[number as usize].as_mut());
        let (Some(binding), Some(window)) = (found, window) else { return Ok(()) };
        *stretches -= binding.stretches();
        let narrowed = binding.narrow(window, offset, bytes, how);
        *stretches += binding.stretches();
        narrowed
    }

    /// Hides everything, and keeps the chunks where they are: the guest finds out by the next access to each, which is refused until it is
    /// shown again.
    ///
    /// # Errors
    /// As [`crate::Alias::map`], from the first stretch that failed; the others are hidden all the same.
    pub fn hide_in_place(&mut self) -> Result<(), AliasError> {
        let Self { window, bindings, stretches, .. } = self;
        let Some(window) = window.as_mut() else { return Ok(()) };
        let all = bindings.iter_mut().flatten();
        let hidden = all.map(|binding| binding.narrow(window, 0, u64::MAX, Narrowing::Hidden));
        let result = hidden.fold(Ok(()), Result::and);
        *stretches = bindings.iter().flatten().map(Binding::stretches).sum();
        result
    }

    /// Hides everything and takes all chunks back, so that others can be shown. The guest must have forgotten the addresses.
    pub fn hide(&mut self) {
        self.stretches = 0;
        for binding in self.bindings.iter_mut().flatten() {
            if !give_back(self.window.as_mut(), binding.chunks.drain().map(|(_, (chunk, _))| chunk)) {
                self.stuck.push(binding.object.clone());
            }
        }
    }

    /// Whether the alias shows the page at `offset` of an object.
    #[must_use]
    pub fn shows(&self, object: ObjectId, offset: u64) -> bool {
        let chunk = self
            .find(object)
            .and_then(|number| self.binding(number))
            .and_then(|binding| binding.chunks.get(&(offset / CHUNK_SIZE)));
        chunk.is_some_and(|(_, shown)| {
            shown.iter().any(|part| (part.start..part.end()).contains(&(offset % CHUNK_SIZE)))
        })
    }
}

/// Gives chunks back; `false` if the host refused one, which then still shows what it showed.
fn give_back(window: Option<&mut Window>, chunks: impl Iterator<Item = Chunk>) -> bool {
    let Some(window) = window else { return true };
    // All of them, also after a failure.
    chunks.filter(|chunk| window.give_back(*chunk).is_err()).count() == 0
}

/// What a chunk shows when `now` is shown over it: stretches that follow each other in the pool as well are one, as they are for the host.
fn with_another(shown: &[Shown], now: Shown) -> Vec<Shown> {
    let mut kept: Vec<Shown> = shown.iter().flat_map(|old| old.without(&now)).collect();
    let mut now = now;
    while let Some((at, joined)) =
        kept.iter().enumerate().find_map(|(at, old)| now.joined(old).map(|joined| (at, joined)))
    {
        kept.swap_remove(at);
        now = joined;
    }
    kept.push(now);
    kept
}

impl<G> Binding<G> {
    fn stretches(&self) -> usize {
        self.chunks.values().map(|(_, shown)| shown.len()).sum()
    }

    fn narrow(
        &mut self,
        window: &mut Window,
        offset: u64,
        bytes: u64,
        how: Narrowing,
    ) -> Result<(), AliasError> {
        let end = offset.saturating_add(bytes);
        let mut result = Ok(());
        for (number, (chunk, shown)) in &mut self.chunks {
            let base = number * CHUNK_SIZE;
            shown.retain_mut(|part| {
                let touches = base + part.start < end && offset < base + part.end();
                if !touches || (how == Narrowing::ReadOnly && !part.writable) {
                    return true;
                }
                // The whole stretch: what was not meant is shown again by its next touch.
                let at = Window::start(*chunk) + part.start;
                let done = match how {
                    Narrowing::ReadOnly => window.alias().protect(at, part.bytes, Protection::Read),
                    Narrowing::Hidden => window.alias().clear(at, part.bytes),
                };
                if let Err(error) = done {
                    result = Err(error);
                    return true;
                }
                part.writable = false;
                how == Narrowing::ReadOnly
            });
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::{Shown, with_another};

    fn shown(start: u64, bytes: u64, pool_offset: u64, writable: bool) -> Shown {
        Shown { start, bytes, pool_offset, writable }
    }

    #[test]
    fn only_what_is_new_is_mapped() {
        let now = shown(0, 10, 100, true);
        assert_eq!(now.missing_in(&[]), [(0, 10)]);
        assert_eq!(now.missing_in(&[shown(2, 3, 102, true)]), [(0, 2), (5, 5)]);
        assert_eq!(now.missing_in(&[shown(0, 20, 100, true)]), []);
        // Other pages of the pool, or other access: everything anew.
        assert_eq!(now.missing_in(&[shown(2, 3, 103, true)]), [(0, 10)]);
        assert_eq!(now.missing_in(&[shown(2, 3, 102, false)]), [(0, 10)]);
    }

    #[test]
    fn neighbours_are_one_stretch() {
        let old = [shown(0, 10, 100, true), shown(20, 10, 120, true), shown(40, 5, 0, true)];
        assert_eq!(with_another(&old, shown(10, 10, 110, true)), [old[2], shown(0, 30, 100, true)]);
        // Another place in the pool, or other access: two mappings.
        assert_eq!(with_another(&old[..1], shown(10, 10, 111, true)).len(), 2);
        assert_eq!(with_another(&old[..1], shown(10, 10, 110, false)).len(), 2);
        // The old way of what is shown anew is gone.
        assert_eq!(with_another(&old[..1], shown(0, 10, 100, false)), [shown(0, 10, 100, false)]);
    }

    #[test]
    fn a_new_stretch_cuts_the_old_one() {
        let old = shown(0, 10, 100, false);
        let left: Vec<_> =
            old.without(&shown(3, 4, 0, true)).map(|s| (s.start, s.bytes, s.pool_offset)).collect();
        assert_eq!(left, [(0, 3, 100), (7, 3, 107)]);
    }
}
