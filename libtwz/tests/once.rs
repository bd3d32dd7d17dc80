//! A Once whose caller panics, and when it is durable: with a recorder, so not among the tests that run in the guest, too (sync.rs).

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::prelude::*;
use libtwz::simulate;
use libtwz::sync::Once;
use std::cell::Cell;
use std::time::Duration;

thread_local! {
    /// What this thread's flushes and fences look at, as another thread could at that moment; how often it was done by then.
    static WATCHED: Cell<Option<&'static Once>> = const { Cell::new(None) };
    static LOOKED: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
}

#[test]
fn once_is_done_when_that_is_durable() {
    assert!(simulate::record_with(|_, _| if let Some(once) = WATCHED.get() {
        let (looks, done) = LOOKED.get();
        LOOKED.set((looks + 1, done + u32::from(once.is_done())));
    }));
    let o: &'static Object<Once> = Box::leak(Box::new(ObjectBuilder::new().build(Once::new()).unwrap()));
    WATCHED.set(Some(&**o));
    o.call_once(|| Ok(())).unwrap();
    WATCHED.set(None);
    let (looks, done) = LOOKED.get();
    assert!(looks >= 4, "two stores, a flush and a fence at least: {looks}");
    // The last event is the store that tells the others.
    assert_eq!(done, 1, "told of before it is durable");
    assert!(o.is_done());
}

#[test]
fn once_is_free_again_after_a_panic() {
    let o = ObjectBuilder::new().build(Once::new()).unwrap();
    let panicked = std::panic::catch_unwind(|| o.call_once(|| panic!("on purpose")));
    assert!(panicked.is_err() && !o.is_done());
    // In another thread, which could wait for ever.
    let (told, tell) = std::sync::mpsc::channel();
    std::thread::spawn(move || told.send(o.call_once(|| Ok(()))).unwrap());
    assert_eq!(tell.recv_timeout(Duration::from_secs(60)), Ok(Ok(())));
    assert!(o.is_done());
}
