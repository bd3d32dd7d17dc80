//! `twzrbt`: nodes in objects; pointers are persistent pointers, within an object and across objects alike (paper §3.3).

use crate::count::Conversion;
use crate::tree::{Error, Link, Node, Pointers};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use libtwz::prelude::{Invariant, Object, ObjectBuilder, ObjectId, PCell};
use libtwz::{PersistentPtr, Window, at, translate};

/// The root of each object: the first one's holds the tree.
#[derive(Debug, Invariant)]
#[repr(C)]
struct Root {
    tree: Link,
    /// Where nodes are: first offset, next free one, end.
    first: PCell<u64>,
    next: PCell<u64>,
    end: PCell<u64>,
}

/// Nodes in objects, used in turn.
#[derive(Debug)]
pub struct Twz {
    objects: Vec<Object<Root>>,
}

impl Twz {
    /// A tree in `count` new objects with room for `nodes` nodes each.
    ///
    /// # Errors
    /// What making objects says.
    pub fn create(count: usize, nodes: usize) -> libtwz::Result<Self> {
        let make = |_| -> libtwz::Result<Object<Root>> {
            let zero = PCell::new(0);
            let root = Root { tree: Link::new(0), first: PCell::new(0), next: PCell::new(0), end: zero };
            let object = ObjectBuilder::new().build(root)?;
            let bytes = nodes.saturating_mul(size_of::<Node>());
            object.tx(|tx| {
                let heap = tx.alloc_sparse(object.window(), bytes, 64)? - object.window().base();
                tx.put(&object.first, heap as u64)?;
                tx.put(&object.next, heap as u64)?;
                tx.put(&object.end, (heap + bytes) as u64)
            })?;
            libtwz::tx::checkpoint(object.window())?;
            Ok(object)
        };
        Ok(Self { objects: (0..count.max(1)).map(make).collect::<libtwz::Result<_>>()? })
    }

    /// The tree in these objects, the first one first. They are needed for inserting; looking up finds them by itself.
    ///
    /// # Errors
    /// What opening objects says; [`libtwz::Error::NoSuchObject`] when none is given.
    pub fn open(ids: &[ObjectId]) -> libtwz::Result<Self> {
        if ids.is_empty() {
            return Err(libtwz::Error::NoSuchObject(ObjectId::NULL));
        }
        Ok(Self { objects: ids.iter().map(|id| Object::open(*id)).collect::<libtwz::Result<_>>()? })
    }

    /// Makes all pages of the nodes present, so that inserting waits for none.
    pub fn populate(&self) {
        for object in &self.objects {
            let [first, end] =
                [&object.first, &object.end].map(|at| usize::try_from(at.get()).unwrap_or(usize::MAX));
            object.window().populate(first..end);
        }
    }

    /// The objects.
    #[must_use]
    pub fn ids(&self) -> Vec<ObjectId> {
        self.objects.iter().map(Object::id).collect()
    }
}

impl Pointers for Twz {
    fn root(&self) -> &Link {
        &self.objects[0].base().tree
    }

    fn make(&self) -> Result<&Node, Error> {
        let used = |object: &&Object<Root>| object.next.get().wrapping_sub(object.first.get());
        let object = self.objects.iter().min_by_key(used).ok_or(Error::Full)?;
        let next = object.next.get();
        if next.saturating_add(size_of::<Node>() as u64) > object.end.get() {
            return Err(Error::Full);
        }
        object.next.set_without_log(next + size_of::<Node>() as u64);
        let pointer = PersistentPtr::new(0, u32::try_from(next).map_err(|_| Error::Damaged)?);
        at(object.window(), pointer).map_err(|_| Error::Damaged)
    }

    #[inline(always)]
    fn follow(&self, link: &Link) -> Result<Option<&Node>, Error> {
        let holder = Window::around(core::ptr::from_ref(link).addr()).map_err(|_| Error::Damaged)?;
        libtwz::follow(holder, link).map_err(|_| Error::Damaged)
    }

    #[inline]
    fn lead(&self, link: &Link, to: Option<&Node>) -> Result<(), Error> {
        let mut pointer = PersistentPtr::NULL;
        if let Some(node) = to {
            let holder = Window::around(core::ptr::from_ref(link).addr()).map_err(|_| Error::Damaged)?;
            pointer =
                translate::persistent(holder, core::ptr::from_ref(node).addr()).map_err(|_| Error::Full)?;
        }
        link.store(pointer.0, Ordering::Relaxed);
        Ok(())
    }

    fn conversion(pointer: u64) -> Conversion {
        match (pointer, PersistentPtr(pointer).index()) {
            (0, _) => Conversion::None,
            (_, 0) => Conversion::Within,
            _ => Conversion::Across,
        }
    }
}
