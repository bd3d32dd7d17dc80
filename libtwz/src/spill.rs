//! A list whose first few elements need no heap, in one piece.

use alloc::vec::Vec;

/// Elements in order: in place while there are at most `N`, on the heap once there were more.
#[derive(Clone, Debug)]
pub(crate) struct Spill<T, const N: usize> {
    few: [T; N],
    used: usize,
    many: Vec<T>,
}

impl<T: Copy, const N: usize> Spill<T, N> {
    /// An empty list; `blank` fills the places in it.
    #[inline]
    pub(crate) const fn new(blank: T) -> Self {
        Self { few: [blank; N], used: 0, many: Vec::new() }
    }

    #[inline]
    pub(crate) fn push(&mut self, element: T) {
        if self.many.capacity() == 0 {
            if let Some(place) = self.few.get_mut(self.used) {
                *place = element;
                self.used += 1;
                return;
            }
            self.spill();
        }
        self.many.push(element);
    }

    #[cold]
    fn spill(&mut self) {
        self.many.reserve(N * 64);
        self.many.extend_from_slice(&self.few[..self.used]);
    }

    /// Makes room for `len` elements in all.
    #[inline]
    pub(crate) fn reserve(&mut self, len: usize) {
        if len > N && self.is_empty() {
            self.many.reserve(len);
        }
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[T] {
        if self.many.capacity() == 0 { &self.few[..self.used] } else { &self.many }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
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
        let mut list = Spill::<u64, 4>::new(0);
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
}
