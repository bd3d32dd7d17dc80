//! Streams, queues, events and logs, between threads of this process.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::io::{Bell, Duplex, EventSet, LogRing, Queue, Stream};
use libtwz::prelude::*;
use libtwz::sys::{Platform, Seam};
use libtwz::thread;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

#[derive(Invariant)]
#[repr(C)]
struct Shared {
    events: EventSet,
    reserved: PCell<u64>,
    bells: [Bell; 2],
    stream: Stream<64>,
    queue: Queue<u64, 16>,
    duplex: Duplex<u64, [u64; 2], 8>,
    log: LogRing<256>,
}

fn shared() -> Object<Shared> {
    let shared = Shared {
        events: EventSet::new(),
        reserved: PCell::new(0),
        bells: [const { Bell::new() }; 2],
        stream: Stream::new(),
        queue: Queue::new(0),
        duplex: Duplex::new(0, [0; 2]),
        log: LogRing::new(),
    };
    ObjectBuilder::new().build(shared).unwrap()
}

#[test]
fn bytes_come_out_as_they_went_in() {
    let o = shared();
    let text: Vec<u8> = (0..1000_u32).flat_map(u32::to_le_bytes).collect();
    let sent = text.clone();
    let writer = thread::spawn(move || {
        sent.chunks(97).for_each(|piece| o.stream.write_all(piece).unwrap());
        o.stream.close().unwrap();
    });
    let (mut received, mut piece) = (Vec::new(), [0; 41]);
    loop {
        let count = o.stream.read(&mut piece).unwrap();
        if count == 0 {
            break;
        }
        received.extend_from_slice(&piece[..count]);
    }
    writer.join().unwrap();
    assert_eq!(received, text);
    assert_eq!(o.stream.write(b"x"), Err(Error::Closed));
}

#[test]
fn each_entry_is_taken_once_and_in_turn() {
    let o = shared();
    let submitters: Vec<_> = (0..3_u64)
        .map(|s| {
            thread::spawn(move || {
                for i in 0..300 {
                    while o.queue.submit(s * 10_000 + i).is_err() {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let taken: Vec<u64> = (0..900).map(|_| o.queue.take().unwrap()).collect();
    for s in 0..3 {
        assert!(taken.iter().copied().filter(|t| t / 10_000 == s).eq(s * 10_000..s * 10_000 + 300));
    }
    submitters.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(o.queue.try_take(), Err(Error::WouldBlock));
    (0..16).for_each(|i| o.queue.submit(i).unwrap());
    assert_eq!(o.queue.submit(16), Err(Error::WouldBlock), "full");
}

#[test]
fn a_server_answers() {
    let o = shared();
    let server = thread::spawn(move || {
        for _ in 0..100 {
            let question = o.duplex.submissions.take().unwrap();
            o.duplex.completions.submit([question, question * 2]).unwrap();
        }
    });
    for i in 0..100 {
        o.duplex.submissions.submit(i).unwrap();
        assert_eq!(o.duplex.completions.take().unwrap(), [i, i * 2]);
    }
    server.join().unwrap();
}

#[test]
fn one_wait_for_many_sources() {
    let o = shared();
    o.tx(|tx| {
        o.bells[0].connect(tx, &o.events, 0)?;
        o.bells[1].connect(tx, &o.events, 5)?;
        tx.point(o.stream.bell(), Some(&o.bells[0]))?;
        tx.point(o.queue.bell(), Some(&o.bells[1]))
    })
    .unwrap();
    assert_eq!(o.events.wait(!0, Some(Duration::from_millis(5))), Err(Error::TimedOut));
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(10));
        o.queue.submit(1).unwrap();
    });
    assert_eq!(o.events.wait(!0, None), Ok(1 << 5));
    other.join().unwrap();
    o.stream.write_all(b"a").unwrap();
    o.queue.submit(2).unwrap();
    assert_eq!(o.events.wait(1, None), Ok(1), "only what was wanted");
    assert_eq!(o.events.take(!0), 1 << 5);
    assert_eq!(o.events.take(!0), 0);
}

/// A limit that no clock reaches is none, and no panic; one that ends says so, whoever waits.
#[test]
fn limits_end_or_never_do() {
    let o = shared();
    let (forever, short) = (Duration::MAX, Duration::from_millis(2));
    let mut bytes = [0; 4];
    assert_eq!(o.stream.try_read(&mut bytes), Err(Error::WouldBlock));
    assert_eq!(o.stream.read_for(&mut bytes, short), Err(Error::TimedOut));
    assert_eq!(o.stream.write_for(&[7; 100], forever), Ok(64));
    assert_eq!(o.stream.try_write(b"x"), Err(Error::WouldBlock));
    assert_eq!(o.stream.write_for(b"x", short), Err(Error::TimedOut));
    assert_eq!(o.stream.try_write(b""), Ok(0));
    assert_eq!(o.stream.try_read(&mut bytes), Ok(4));
    assert_eq!(o.stream.read_for(&mut bytes, forever), Ok(4));
    assert_eq!(o.stream.try_write(b"12345"), Ok(5));
    o.queue.submit(1).unwrap();
    assert_eq!(o.queue.take_for(forever), Ok(1));
    assert_eq!(o.queue.take_for(short), Err(Error::TimedOut));
    o.events.signal(3);
    assert_eq!(o.events.wait(!0, Some(forever)), Ok(1 << 3));
    let held = libtwz::sync::RawMutex::new();
    held.lock_for(forever).unwrap();
    let waits = thread::spawn(move || {
        thread::sleep(short);
        o.stream.write(b"more").unwrap();
        o.stream.close().unwrap();
    });
    let mut all = 0;
    while let Ok(count @ 1..) = o.stream.read_for(&mut bytes, forever) {
        all += count;
    }
    waits.join().unwrap();
    assert_eq!(all, 64 - 8 + 5 + 4);
    assert_eq!(o.stream.try_read(&mut bytes), Ok(0), "closed and empty");
}

#[test]
fn the_newest_records_stay() {
    let o = shared();
    for i in 0..40 {
        o.log.append(3, &format!("record {i} grüßt")).unwrap();
    }
    let records = o.log.records().unwrap();
    assert!(records.len() > 3);
    for (record, i) in records.iter().rev().zip((0..40).rev()) {
        assert_eq!((record.level, record.text.as_str()), (3, format!("record {i} grüßt").as_str()));
    }
    o.log.append(1, &"ü".repeat(500)).unwrap();
    let last = o.log.records().unwrap().pop().unwrap();
    assert!(last.text.chars().all(|c| c == 'ü') && last.text.len() > 100);
}

#[test]
fn a_log_is_followed() {
    let o = shared();
    o.tx(|tx| {
        o.bells[0].connect(tx, &o.events, 2)?;
        tx.point(o.log.bell(), Some(&o.bells[0]))
    })
    .unwrap();
    let mut records = o.log.iter();
    assert_eq!(records.next(), None);
    for i in 0..100 {
        o.log.append(3, &format!("record {i}")).unwrap();
        assert_eq!(o.events.take(!0), 1 << 2);
        if i % 3 == 0 {
            assert_eq!(records.next().unwrap().unwrap().text, format!("record {i}"));
            assert_eq!(records.next(), None);
        } else {
            records = o.log.iter();
            assert_eq!(records.by_ref().last().unwrap().unwrap().text, format!("record {i}"));
        }
    }
    // Overwritten before its turn: the oldest that is there is next.
    let before = o.log.iter();
    for i in 100..140 {
        o.log.append(3, &format!("record {i}")).unwrap();
    }
    let texts: Vec<String> = before.map(|record| record.unwrap().text).collect();
    assert!(texts.len() > 3 && texts.len() < 40);
    assert_eq!(texts.last().unwrap(), "record 139");
    assert_eq!(texts, o.log.records().unwrap().into_iter().map(|r| r.text).collect::<Vec<_>>());
    o.log.clear().unwrap();
    assert_eq!(records.next(), None);
    o.log.append(1, "anew").unwrap();
    assert_eq!(records.next().unwrap().unwrap().text, "anew");
}

/// One record that is not UTF-8 hides none of the others; one of no possible length those behind it.
#[test]
fn what_can_be_read_of_a_damaged_log_is() {
    for (damage, at, left) in [(0xff, 16 + 32, 2), (u32::MAX.into(), 32, 0)] {
        let o = ObjectBuilder::new().build(LogRing::<1024>::new()).unwrap();
        for text in ["0123456789ab", "ba9876543210", "2", "3"] {
            o.append(3, text).unwrap(); // 16 + 12 bytes, padded to 32
        }
        let bytes = (core::ptr::from_ref(o.base()).addr() & 0x3fff_ffff) + size_of::<LogRing<1024>>() - 1024;
        o.window().store(bytes + at, damage);
        let mut records = o.iter();
        assert_eq!(records.next().unwrap().unwrap().text, "0123456789ab");
        assert!(matches!(records.next(), Some(Err(Error::Damaged { .. }))));
        let rest: Vec<String> = records.map(|record| record.unwrap().text).collect();
        assert_eq!(rest, ["2", "3"][..left]);
    }
}

/// The oldest record is not UTF-8, or its length leads past the end: the log goes on all the same.
#[test]
fn a_damaged_oldest_record_does_not_stop_a_log() {
    for damage in [u64::from_le_bytes(*b"\xff\xfe\xfd\xfc\xff\xff\xff\xff"), 0] {
        let o = ObjectBuilder::new().build(LogRing::<1024>::new()).unwrap();
        o.append(3, "the oldest record").unwrap();
        let bytes = (core::ptr::from_ref(o.base()).addr() & 0x3fff_ffff) + size_of::<LogRing<1024>>() - 1024;
        // The text, or the length before it.
        let (at, word) = if damage == 0 { (bytes, u64::MAX) } else { (bytes + 16, damage) };
        o.window().store(at, word);
        assert!(matches!(o.records(), Err(Error::Damaged { .. })));
        for i in 0..100 {
            o.append(3, &format!("record {i}")).unwrap();
        }
        let records = o.records().unwrap();
        assert_eq!(records.last().unwrap().text, "record 99");
        assert!(records.len() > 10);
    }
}

#[cfg(feature = "log")]
#[test]
fn the_facade_writes_to_the_object() {
    use libtwz::io::log::Facade;
    static FACADE: Facade = Facade::new();
    FACADE.install_log(log::LevelFilter::Info).unwrap();
    let object = ObjectBuilder::new().build(LogRing::new()).unwrap();
    log::info!("before it is connected");
    FACADE.connect(object);
    log::warn!(target: "test", "number {}", 7);
    log::debug!("below the level");
    let records = object.records().unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].level, records[0].text.as_str()), (2, "test: number 7"));
    assert_eq!(FACADE.lost(), 0);
    // Its ends say more than there is: nothing can be written until it is cleared.
    let ends = core::ptr::from_ref(object.base()).addr() & 0x3fff_ffff;
    let before = object.window().load(ends + 16);
    assert!(before > 0, "where the log ends");
    object.window().store(ends + 16, u64::MAX);
    log::error!("into a damaged log");
    assert_eq!(FACADE.lost(), 1);
    object.clear().unwrap();
    log::error!(target: "test", "once more");
    assert_eq!(FACADE.lost(), 1);
    let records = object.records().unwrap();
    assert_eq!((records.len(), records[0].text.as_str()), (1, "test: once more"));
    // Targets have levels of their own.
    object.clear().unwrap();
    FACADE.set_filter("warn,mine=debug,mine::noise=off").unwrap();
    assert!(
        log::max_level() == log::LevelFilter::Debug && log::log_enabled!(target: "mine", log::Level::Debug)
    );
    for target in ["test", "mine", "mine::disk", "mine::noise"] {
        log::warn!(target: target, "a");
        log::debug!(target: target, "b");
    }
    // Who is not the logger does not change what comes to it.
    static OTHER: Facade = Facade::new();
    OTHER.set_level(1);
    assert_eq!(log::max_level(), log::LevelFilter::Debug);
    assert!(OTHER.install_log(log::LevelFilter::Trace).is_err());
    assert!(FACADE.set_filter("mine=loud").unwrap_err().to_string().contains("mine=loud"));
    FACADE.set_level(1);
    log::warn!(target: "mine", "below the level");
    let texts: Vec<String> = object.iter().map(|record| record.unwrap().text).collect();
    assert_eq!(texts, ["test: a", "mine: a", "mine: b", "mine::disk: a", "mine::disk: b"]);
    // While a thread has the lock that does not go on, nobody waits for it for ever.
    let lock = ends & !7;
    assert_eq!(object.window().load(lock) & 0x3fff_ffff, 0, "the lock, which is free");
    let free = object.window().load(lock);
    static HOLDER: AtomicU32 = AtomicU32::new(0);
    static IS_OVER: AtomicBool = AtomicBool::new(false);
    let holder = std::thread::spawn(|| {
        HOLDER.store(Platform::thread_id(), Ordering::SeqCst);
        while !IS_OVER.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(50)); // and leaves the processor to those who are measured
        }
    });
    while HOLDER.load(Ordering::SeqCst) == 0 {
        Platform::yield_now();
    }
    object.window().store(lock, free | u64::from(HOLDER.load(Ordering::SeqCst)));
    let start = std::time::Instant::now();
    for _ in 0..50 {
        log::error!("nobody hears");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "only the first one waits");
    assert_eq!(FACADE.lost(), 51);
    object.window().store(lock, free);
    log::error!(target: "test", "free again");
    assert_eq!(
        (FACADE.lost(), object.iter().last().unwrap().unwrap().text.as_str()),
        (51, "test: free again")
    );
    IS_OVER.store(true, Ordering::SeqCst);
    holder.join().unwrap();
    // One that has ended is not waited for.
    object.window().store(lock, free | 0x3fff_fffe);
    log::error!(target: "test", "taken over");
    assert_eq!(
        (FACADE.lost(), object.iter().last().unwrap().unwrap().text.as_str()),
        (51, "test: taken over")
    );
}

#[cfg(feature = "tracing")]
#[test]
fn events_and_their_spans_go_to_the_object() {
    use libtwz::io::log::Facade;
    static FACADE: Facade = Facade::with_level(4);
    FACADE.install_tracing().unwrap();
    let object = ObjectBuilder::new().build(LogRing::new()).unwrap();
    FACADE.connect(object);
    tracing::info!(target: "test", number = 7, "outside");
    let outer = tracing::info_span!("outer", a = 0, later = tracing::field::Empty);
    for a in 0..3 {
        outer.record("a", a); // a field has one value
    }
    outer.record("a", 1);
    outer.in_scope(|| tracing::debug_span!("inner").in_scope(|| tracing::warn!(target: "test", "inside")));
    // An event may name the span that it is in, or none; a span lives as long as those in it.
    let inner = outer.in_scope(|| {
        tracing::warn!(target: "test", parent: None, "in none");
        tracing::debug_span!("late")
    });
    tracing::warn!(target: "test", parent: &outer, "named");
    drop(outer);
    tracing::warn!(target: "test", parent: &inner, "later");
    assert!(tracing::Span::current().is_none());
    inner.in_scope(|| assert_eq!(tracing::Span::current().id(), inner.id()));
    drop(inner);
    tracing::trace!("above the level");
    assert!(!tracing::enabled!(tracing::Level::TRACE) && tracing::enabled!(tracing::Level::DEBUG));
    tracing::error!(target: "test", what = "end");
    // What was looked up once is looked up again when the levels change.
    let say = || tracing::debug!(target: "test", "changing");
    say();
    FACADE.set_level(3);
    say();
    FACADE.set_filter("error,test=trace").unwrap();
    say();
    FACADE.set_level(0);
    say();
    FACADE.set_level(5);
    // Very many spans in each other end one after the other; one that says it is its own parent is in none.
    let mut deep = tracing::Span::none();
    for _ in 0..20_000 {
        deep = tracing::trace_span!(parent: &deep, "deep");
    }
    let next = deep.id().unwrap().into_u64() + 1;
    drop(deep);
    let own = tracing::info_span!(parent: tracing::Id::from_u64(next), "own");
    assert_eq!(own.id().unwrap().into_u64(), next);
    tracing::info!(target: "test", parent: &own, "by itself");
    let said: Vec<(u32, String)> = object.records().unwrap().into_iter().map(|r| (r.level, r.text)).collect();
    let expected = [
        (3, "test: outside number=7"),
        (2, "outer{a=1}:inner: test: inside"),
        (2, "test: in none"),
        (2, "outer{a=1}: test: named"),
        (2, "outer{a=1}:late: test: later"),
        (1, "test: what=\"end\""),
        (4, "test: changing"),
        (4, "test: changing"),
        (3, "own: test: by itself"),
    ];
    assert_eq!(said, expected.map(|(level, text)| (level, text.to_owned())));
}
