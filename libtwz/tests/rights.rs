//! Binding before the first access: an error where an access would be a fault.

#![allow(clippy::unwrap_used, reason = "tests")]

mod delegate;

use delegate::delegated;
use libtwz::prelude::*;
use libtwz::sys::hosted::{MemoryStore, Store, use_store};
use libtwz::sys::{Durability, Stat};
use libtwz::view;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// A store that grants what the test says, and counts how often it is asked.
struct Granting {
    memory: MemoryStore,
    granted: Mutex<Rights>,
    asked: AtomicU32,
}

impl Store for Granting {
    delegated!(memory: create, delete, copy, tie, keep, trim, piece, root);
    fn stat(&self, id: ObjectId) -> Result<Stat> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let granted = *self.granted.lock().unwrap();
        Ok(Stat { granted, ..self.memory.stat(id)? })
    }
    fn durability(&self) -> Durability {
        Durability::Program
    }
    fn boot_generation(&self) -> u32 {
        1
    }
}

#[test]
fn what_is_not_granted_is_an_error_when_it_is_bound() {
    let both = Rights::READ | Rights::WRITE;
    let store = Arc::new(Granting {
        memory: MemoryStore::new().unwrap(),
        granted: Mutex::new(both),
        asked: AtomicU32::new(0),
    });
    use_store(store.clone()).unwrap();
    let id = ObjectBuilder::new().build(PCell::new(7_u64)).unwrap().id();
    // SAFETY: the test has no reference into it.
    unsafe { view::unmap(id) };
    *store.granted.lock().unwrap() = Rights::READ;
    let (window, read_only) = (view::map(id, both).unwrap(), view::map(id, Rights::READ).unwrap());
    assert_eq!(view::bind(window, Rights::READ), Ok(()));
    assert_eq!(view::bind(window, both), Err(Error::NotPermitted(id)));
    *store.granted.lock().unwrap() = both;
    assert_eq!(view::bind(window, both), Ok(()), "a refusal is not remembered");
    assert_eq!(view::bind(read_only, Rights::WRITE), Err(Error::NotPermitted(id)), "mapped for reading");
    let asked = store.asked.load(Ordering::Relaxed);
    assert_eq!(view::bind(window, both), Ok(()));
    assert_eq!(store.asked.load(Ordering::Relaxed), asked, "what was granted is");
    // SAFETY: as above.
    unsafe { view::unmap(id) };
    assert!(
        matches!(view::bind(window, Rights::READ), Err(Error::NotInObject { .. })),
        "nor beyond the mapping"
    );
}
