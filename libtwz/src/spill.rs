//! A list whose first few elements need no heap, in one piece.
//!
//! - **P1** the elements are the first `len` places of `many` if that has any places, else of `few`.
//! - **P2** `capacity` is the number of these places, and `len` is at most that.

use alloc::boxed::Box;
use core::fmt;
use core::mem::MaybeUninit;

/// Elements in order: in place while there are at most `N`, on the heap when there were more. An empty one costs nothing to make:
/// each transaction has several.
pub(crate) struct Spill<T, const N: usize> {
    few: [MaybeUninit<T>; N],
    len: usize,
    capacity: usize,
    many: Box<[MaybeUninit<T>]>,
}

impl<T: Copy + fmt::Debug, const N: usize> fmt::Debug for Spill<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

impl<T: Copy, const N: usize> Spill<T, N> {
    /// An empty list.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { few: [const { MaybeUninit::uninit() }; N], len: 0, capacity: N, many: Box::default() }
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, element: T) {
        self.extend([element]);
    }

    /// Makes room for a few more elements, which is hardly ever needed.
    #[inline(always)]
    pub(crate) fn make_room(&mut self, more: usize) {
        if self.len + more > self.capacity {
            self.grow(more);
        }
    }

    /// Appends several elements.
    #[inline(always)]
    pub(crate) fn extend<const M: usize>(&mut self, elements: [T; M]) {
        self.make_room(M);
        self.try_extend(elements);
    }

    /// [`Spill::extend`] where there is room; false where not.
    #[inline(always)]
    pub(crate) fn try_extend<const M: usize>(&mut self, elements: [T; M]) -> bool {
        let len = self.len;
        let is_room = len + M <= self.capacity;
        if is_room {
            // Which of the two is known when it is needed, and not foretold: so there is no branch for it.
            let (few, many) = (self.few.as_mut_ptr(), self.many.as_mut_ptr());
            let places = core::hint::select_unpredictable(self.many.is_empty(), few, many).wrapping_add(len);
            // SAFETY: P1 and P2: there is room for M elements behind the first `len`. An array is laid out as its elements.
            unsafe { places.cast::<[T; M]>().write(elements) };
            self.len = len + M;
        }
        is_room
    }

    /// [`Spill::try_extend`] that also changes an element, the `index`-th; false where there is none.
    #[inline(always)]
    pub(crate) fn try_push_and_change(
        &mut self,
        element: T,
        index: usize,
        change: impl FnOnce(&mut T),
    ) -> bool {
        let len = self.len;
        if len >= self.capacity || index >= len {
            return false;
        }
        let (few, many) = (self.few.as_mut_ptr(), self.many.as_mut_ptr());
        let places = core::hint::select_unpredictable(self.many.is_empty(), few, many).cast::<T>();
        // SAFETY: P2: there is room for an element behind the first `len`.
        unsafe { places.wrapping_add(len).write(element) };
        // SAFETY: P1: one of these, which nobody else refers to.
        change(unsafe { &mut *places.wrapping_add(index) });
        self.len = len + 1;
        true
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, more: usize) {
        self.reserve(more);
    }

    /// Appends the elements of another list.
    pub(crate) fn extend_from(&mut self, elements: &[T]) {
        self.reserve(elements.len());
        let len = self.len;
        for (place, element) in self.places()[len..].iter_mut().zip(elements) {
            place.write(*element);
        }
        self.len += elements.len();
    }

    /// Appends `count` elements, of which `element` gives the i-th.
    #[inline(always)]
    pub(crate) fn extend_with(&mut self, count: usize, element: impl Fn(usize) -> T) {
        self.make_room(count);
        let len = self.len;
        for (i, place) in self.places().iter_mut().skip(len).take(count).enumerate() {
            place.write(element(i));
        }
        self.len += count;
    }

    /// Appends what `element` makes of others, up to the first of which it makes nothing; returns of how many it did.
    #[inline(always)]
    pub(crate) fn extend_while<U>(
        &mut self,
        others: &[U],
        mut element: impl FnMut(&U) -> Option<T>,
    ) -> usize {
        self.make_room(others.len());
        let len = self.len;
        let mut count = 0;
        for (place, other) in self.places().iter_mut().skip(len).zip(others) {
            let Some(element) = element(other) else { break };
            place.write(element);
            count += 1;
        }
        self.len += count;
        count
    }

    /// Makes room for `more` elements.
    pub(crate) fn reserve(&mut self, more: usize) {
        let least = self.len + more;
        if least <= self.capacity {
            return;
        }
        let mut many = Box::new_uninit_slice(least.next_power_of_two().max(N * 16));
        for (place, element) in many.iter_mut().zip(self.as_slice()) {
            place.write(*element);
        }
        self.capacity = many.len();
        self.many = many;
    }

    #[inline(always)]
    fn places(&mut self) -> &mut [MaybeUninit<T>] {
        if self.many.is_empty() { &mut self.few } else { &mut self.many }
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[T] {
        let places: &[MaybeUninit<T>] = if self.many.is_empty() { &self.few } else { &self.many };
        // SAFETY: P1: these are written, and MaybeUninit<T> is laid out as T.
        unsafe { core::slice::from_raw_parts(places.as_ptr().cast(), self.len) }
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
        self.len = self.len.min(len);
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
        list.extend_from(&[1; 100]);
        assert_eq!(list.as_slice()[108..], [1, 1]);
    }

    #[test]
    fn nothing_is_appended_where_there_is_no_room() {
        let mut list = Spill::<u64, 4>::new();
        assert!(list.try_extend([1, 2, 3]) && !list.try_extend([4, 5]));
        assert!(!list.try_push_and_change(4, 3, |_| unreachable!()));
        assert!(list.try_push_and_change(4, 1, |second| *second = 9));
        assert!(!list.try_push_and_change(5, 1, |_| unreachable!()));
        assert_eq!(list.as_slice(), [1, 9, 3, 4]);
        list.make_room(1);
        assert!(list.try_push_and_change(5, 4 - 1, |fourth| *fourth = 8) && list.try_extend([6]));
        assert_eq!(list.as_slice(), [1, 9, 3, 8, 5, 6]);
    }

    #[test]
    fn elements_are_made_of_others_up_to_the_first_that_gives_none() {
        for (before, most) in [(0, 9), (3, 9), (3, 2), (2, 0)] {
            let mut list = Spill::<u64, 4>::new();
            list.extend_with(before, |i| i as u64);
            let count =
                list.extend_while(&[1, 2, 3, 4, 5, 6, 7, 8, 9][..most], |i| (*i < 7).then_some(i * 2));
            assert_eq!(count, most.min(6));
            assert_eq!(list.len(), before + count);
            assert!(list.as_slice()[before..].iter().copied().eq((1..).take(count).map(|i| i * 2)));
        }
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
