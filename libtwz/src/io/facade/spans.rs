//! The facade of the crate `tracing`.

use super::Facade;
use crate::lock::Lock;
use crate::thread::thread_local;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt::Debug;
use core::sync::atomic::{AtomicU64, Ordering};
use tracing_core::field::{Field, Visit};
use tracing_core::span::Current;
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::{Event, Level, LevelFilter, Metadata, Subscriber};

/// A span that is not closed.
struct Span {
    name: &'static str,
    fields: Fields,
    /// Name and fields.
    text: String,
    /// The span that it is in, which it keeps open; 0: none.
    parent: u64,
    metadata: &'static Metadata<'static>,
    references: usize,
}

static SPANS: Lock<BTreeMap<u64, Span>> = Lock::new(BTreeMap::new());
static LAST: AtomicU64 = AtomicU64::new(0);

/// The name of the field that an event's message is.
const MESSAGE: &str = "message";

thread_local! {
    /// The spans that the thread is in, the innermost last.
    static INSIDE: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Fields and their values, of which the last one said counts.
#[derive(Default)]
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    /// `a=1 b=2`, without the message.
    fn others(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.0.iter().filter(|(name, _)| *name != MESSAGE) {
            text.extend([if text.is_empty() { "" } else { " " }, name, "=", value]);
        }
        text
    }

    fn message(&self) -> Option<&str> {
        self.0.iter().find(|(name, _)| *name == MESSAGE).map(|(_, value)| value.as_str())
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = alloc::format!("{value:?}");
        match self.0.iter_mut().find(|(name, _)| *name == field.name()) {
            Some((_, before)) => *before = value,
            None => self.0.push((field.name(), value)),
        }
    }
}

impl Span {
    fn tell(&mut self) {
        let fields = self.fields.others();
        self.text =
            if fields.is_empty() { self.name.into() } else { alloc::format!("{}{{{fields}}}", self.name) };
    }
}

const fn number(level: Level) -> u32 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

const FILTERS: [LevelFilter; 6] = [
    LevelFilter::OFF,
    LevelFilter::ERROR,
    LevelFilter::WARN,
    LevelFilter::INFO,
    LevelFilter::DEBUG,
    LevelFilter::TRACE,
];

/// The innermost span that the thread is in; 0: none, also while the thread ends.
fn innermost() -> u64 {
    INSIDE.try_with(|inside| inside.borrow().last().copied()).ok().flatten().unwrap_or(0)
}

/// The span that something new is in: the one that it names, none, or the one that the thread is in.
fn parent_of(named: Option<&Id>, is_root: bool) -> u64 {
    match named {
        Some(id) => id.into_u64(),
        None if is_root => 0,
        None => innermost(),
    }
}

/// The texts of a span and those that it is in, the outermost first.
fn path_to(spans: &BTreeMap<u64, Span>, innermost: u64) -> String {
    let mut texts = Vec::new();
    let mut at = innermost;
    while let Some(span) = spans.get(&at) {
        texts.push(span.text.as_str());
        at = span.parent; // always of a span made before, thus smaller
    }
    texts.iter().rev().fold(String::new(), |path, text| path + text + ":")
}

/// Takes one reference from a span; the last one takes one from the span that it is in. Whether it is closed now.
fn release(spans: &mut BTreeMap<u64, Span>, number: u64) -> bool {
    let (mut at, mut closed) = (number, false);
    while let Some(span) = spans.get_mut(&at) {
        span.references -= 1;
        if span.references > 0 {
            break;
        }
        let parent = span.parent;
        spans.remove(&at);
        (at, closed) = (parent, true);
    }
    closed
}

impl Subscriber for &'static Facade {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.is_enabled(number(*metadata.level()), metadata.target())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        FILTERS.get(self.level.load(Ordering::Relaxed) as usize).copied().or(Some(LevelFilter::TRACE))
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        let mut new = Span {
            name: span.metadata().name(),
            fields,
            text: String::new(),
            parent: parent_of(span.parent(), span.is_root()),
            metadata: span.metadata(),
            references: 1,
        };
        new.tell();
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        if new.parent >= number {
            new.parent = 0; // no span that was made before
        }
        let mut spans = SPANS.lock();
        if let Some(parent) = spans.get_mut(&new.parent) {
            parent.references += 1;
        }
        spans.insert(number, new);
        Id::from_u64(number)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        // Values say themselves what they are, and may log while they do: not under the lock.
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(span) = SPANS.lock().get_mut(&span.into_u64()) {
            for (name, value) in fields.0 {
                match span.fields.0.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, before)) => *before = value,
                    None => span.fields.0.push((name, value)),
                }
            }
            span.tell();
        }
    }

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut text = path_to(&SPANS.lock(), parent_of(event.parent(), event.is_root()));
        text.extend([if text.is_empty() { "" } else { " " }, event.metadata().target(), ":"]);
        for said in [fields.message().unwrap_or_default(), &fields.others()] {
            text.extend([if said.is_empty() { "" } else { " " }, said]);
        }
        self.append(number(*event.metadata().level()), &text);
    }

    fn enter(&self, span: &Id) {
        let _ = INSIDE.try_with(|inside| inside.borrow_mut().push(span.into_u64()));
    }

    fn exit(&self, span: &Id) {
        let _ = INSIDE.try_with(|inside| {
            let mut inside = inside.borrow_mut();
            if let Some(at) = inside.iter().rposition(|&number| number == span.into_u64()) {
                inside.remove(at);
            }
        });
    }

    fn clone_span(&self, span: &Id) -> Id {
        if let Some(span) = SPANS.lock().get_mut(&span.into_u64()) {
            span.references += 1;
        }
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        release(&mut SPANS.lock(), span.into_u64())
    }

    fn current_span(&self) -> Current {
        let number = innermost();
        match SPANS.lock().get(&number) {
            Some(span) => Current::new(Id::from_u64(number), span.metadata),
            None => Current::none(),
        }
    }
}
