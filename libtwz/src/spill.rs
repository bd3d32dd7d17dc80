//! A list whose first few elements need no heap, in one piece.
//!
//! - **P1** while `len` is at most `N`, the elements are the first `len` places of `few`; else they are in `many`.

use alloc::vec::Vec;
use core::fmt;
use core::mem::MaybeUninit;

/// Elements in order: in place while there are at most `N`, on the heap while there are more. An empty one costs nothing to make:
/// each transaction has several.
pub(crate) struct Spill<T, const N: usize> {
    few: [MaybeUninit<T>; N],
    len: usize,
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
        Self { few: [const { MaybeUninit::uninit() }; N], len: 0, many: Vec::new() }
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, element: T) {
        match self.few.get_mut(self.len) {
            Some(place) => {
                place.write(element);
                self.len += 1;
            }
            None => self.extend_many(1, |_| element),
        }
    }

    /// Appends several elements.
    #[inline(always)]
    pub(crate) fn extend<const M: usize>(&mut self, elements: [T; M]) {
        self.extend_with(M, |i| elements[i]);
    }

    /// Appends `count` elements, of which `element` gives the i-th.
    #[inline(always)]
    pub(crate) fn extend_with(&mut self, count: usize, element: impl Fn(usize) -> T) {
        match self.few.get_mut(self.len..self.len + count) {
            Some(places) => {
                for (i, place) in places.iter_mut().enumerate() {
                    place.write(element(i));
                }
                self.len += count;
            }
            None => self.extend_many(count, element),
        }
    }

    #[inline(never)]
    fn extend_many(&mut self, count: usize, element: impl Fn(usize) -> T) {
        if self.len <= N {
            let mut many = core::mem::take(&mut self.many);
            many.clear();
            many.reserve((N * 16).max(self.len + count));
            many.extend_from_slice(self.as_slice());
            self.many = many;
        }
        self.many.extend((0..count).map(element));
        self.len += count;
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[T] {
        if self.len > N {
            return &self.many;
        }
        // SAFETY: P1: these are written, and MaybeUninit<T> is laid out as T.
        unsafe { core::slice::from_raw_parts(self.few.as_ptr().cast(), self.len) }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        if self.len > N {
            self.many.truncate(len);
            for (place, element) in self.few.iter_mut().zip(&self.many) {
                place.write(*element);
            }
        }
        self.len = len;
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
        list.extend_with(9, |i| i as u64);
        assert_eq!((list.len(), list.as_slice()[4], list.as_slice()[9]), (10, 3, 8));
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
    }
}
