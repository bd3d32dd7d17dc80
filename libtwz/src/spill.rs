//! A list whose first few elements need no heap, in one piece.
//!
//! - **P1** the first `used` places of `few` hold elements; with a heap (`many` has a capacity) all elements are there instead.

use alloc::vec::Vec;
use core::fmt;
use core::mem::MaybeUninit;

/// Elements in order: in place while there are at most `N`, on the heap once there were more. An empty one costs nothing to make:
/// each transaction has several.
pub(crate) struct Spill<T, const N: usize> {
    few: [MaybeUninit<T>; N],
    used: usize,
    many: Vec<T>,
}

impl<T: Copy + fmt::Debug, const N: usize> fmt::Debug for Spill<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

impl<T: Copy, const N: usize> Spill<T, N> {
    /// An empty list.
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self { few: [const { MaybeUninit::uninit() }; N], used: 0, many: Vec::new() }
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, element: T) {
        match self.few.get_mut(self.used) {
            Some(place) => {
                place.write(element);
                self.used += 1;
            }
            None => self.push_many(element),
        }
    }

    /// Appends several elements.
    #[inline(always)]
    pub(crate) fn extend<const M: usize>(&mut self, elements: [T; M]) {
        match self.few.get_mut(self.used..self.used + M) {
            Some(places) => {
                for (place, element) in places.iter_mut().zip(elements) {
                    place.write(element);
                }
                self.used += M;
            }
            None => self.extend_many(&elements),
        }
    }

    /// Appends `count` elements, of which `element` gives the i-th.
    #[inline(always)]
    pub(crate) fn extend_with(&mut self, count: usize, element: impl Fn(usize) -> T) {
        match self.few.get_mut(self.used..self.used + count) {
            Some(places) => {
                for (i, place) in places.iter_mut().enumerate() {
                    place.write(element(i));
                }
                self.used += count;
            }
            None => {
                if self.many.capacity() == 0 {
                    self.spill(N * 16);
                }
                self.many.extend((0..count).map(element));
            }
        }
    }

    #[inline]
    fn push_many(&mut self, element: T) {
        self.extend_many(&[element]);
    }

    #[inline]
    fn extend_many(&mut self, elements: &[T]) {
        if self.many.capacity() == 0 {
            self.spill(N * 16);
        }
        self.many.extend_from_slice(elements);
    }

    #[cold]
    fn spill(&mut self, capacity: usize) {
        let mut many = Vec::with_capacity(capacity.max(self.used + N).max(1));
        many.extend_from_slice(self.in_place());
        self.many = many;
        self.used = N; // full, so that the next push comes here
    }

    /// Makes room for `len` elements in all.
    #[inline]
    pub(crate) fn reserve(&mut self, len: usize) {
        if len > N && self.many.capacity() == 0 {
            self.spill(len);
        }
    }

    #[inline]
    fn in_place(&self) -> &[T] {
        // SAFETY: P1: these are written, and MaybeUninit<T> is laid out as T.
        unsafe { core::slice::from_raw_parts(self.few.as_ptr().cast(), self.used) }
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[T] {
        if self.many.capacity() == 0 { self.in_place() } else { &self.many }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        if self.many.capacity() == 0 { self.used } else { self.many.len() }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        if self.many.capacity() == 0 {
            self.used = self.used.min(len);
        } else {
            self.many.truncate(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Spill;

    #[test]
    fn keeps_its_elements_across_the_border() {
        let mut list = Spill::<u64, 4>::new();
        for i in 0..9 {
            assert_eq!(list.len(), usize::try_from(i).unwrap());
            list.push(i);
        }
        assert_eq!(list.as_slice(), (0..9).collect::<Vec<_>>());
        for len in [7, 5, 4, 2, 0] {
            list.truncate(len);
            assert_eq!(list.as_slice(), (0..9).take(len).collect::<Vec<_>>());
        }
        list.push(5);
        assert_eq!(list.as_slice(), [5]);
    }

    #[test]
    fn several_at_once_cross_it_too() {
        let mut list = Spill::<u64, 4>::new();
        list.push(0);
        list.extend([1, 2]);
        list.extend([3, 4, 5]);
        list.extend_with(0, |_| unreachable!());
        list.extend([6]);
        assert_eq!(list.as_slice(), (0..7).collect::<Vec<_>>());
        for before in 0..6 {
            let mut list = Spill::<u64, 4>::new();
            list.extend_with(before, |i| i as u64);
            list.extend_with(3, |i| (before + i) as u64);
            assert_eq!(list.as_slice(), (0..before as u64 + 3).collect::<Vec<_>>());
        }
        let mut reserved = Spill::<u64, 4>::new();
        reserved.push(1);
        reserved.reserve(9);
        reserved.extend([2, 3]);
        assert_eq!(reserved.as_slice(), [1, 2, 3]);
    }
}
