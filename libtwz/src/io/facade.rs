//! The facades of the crates `log` and `tracing` into a [`LogRing`]: `FACADE.install_log(level)`,
//! `tracing::subscriber::set_global_default(&FACADE)`, after or before [`Facade::connect`]. Both keep to the facade's level, `info` unless
//! [`Facade::with_level`] says another. What could not be written is counted: [`Facade::lost`].
//!
//! A record's text is `target: message`; of an event, spans and fields are added as `outer{a=1}:inner: target: message b=2`. Its level is 1
//! (error) to 5 (trace).

use super::log::LogRing;
use crate::lock::Lock;
use crate::object::Object;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bytes of the ring that the facade writes to.
pub const FACADE_RING: usize = 256 << 10;

/// What libraries log goes into a persistent log object; put it into a static.
#[derive(Debug)]
pub struct Facade {
    object: Lock<Option<Object<LogRing<FACADE_RING>>>>,
    /// The largest number of a level that is written.
    level: AtomicU32,
    lost: AtomicU64,
}

impl Default for Facade {
    fn default() -> Self {
        Self::new()
    }
}

impl Facade {
    /// A logger of levels up to `info` that drops everything until it is connected.
    #[must_use]
    pub const fn new() -> Self {
        Self::with_level(3)
    }

    /// A logger of levels up to `level`: 0 nothing, 1 error, 2 warn, 3 info, 4 debug, 5 trace.
    #[must_use]
    pub const fn with_level(level: u32) -> Self {
        Self { object: Lock::new(None), level: AtomicU32::new(level), lost: AtomicU64::new(0) }
    }

    /// Makes this the process's logger for the crate `log`, of levels up to `level`: that crate logs nothing until it is told a level.
    ///
    /// # Errors
    /// There is a logger already.
    #[cfg(feature = "log")]
    pub fn install_log(
        &'static self,
        level: log::LevelFilter,
    ) -> core::result::Result<(), log::SetLoggerError> {
        log::set_logger(self)?;
        self.level.store(level as u32, Ordering::Relaxed);
        log::set_max_level(level);
        Ok(())
    }

    /// Records that could not be written, since the start: the log's object is damaged, or its lock cannot be had. Those from before it was
    /// connected do not count.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn is_enabled(&self, level: u32) -> bool {
        level <= self.level.load(Ordering::Relaxed)
    }

    /// Sends records to `object` from now on.
    pub fn connect(&self, object: Object<LogRing<FACADE_RING>>) {
        *self.object.lock() = Some(object);
    }

    /// Writes a record; one that cannot be written is counted, since a logger has nobody to tell.
    fn append(&self, level: u32, text: &str) {
        let object = *self.object.lock();
        if object.is_some_and(|object| object.append(level, text).is_err()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(feature = "log")]
impl log::Log for Facade {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.is_enabled(metadata.level() as u32)
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.is_enabled(record.level() as u32) {
            self.append(record.level() as u32, &alloc::format!("{}: {}", record.target(), record.args()));
        }
    }

    fn flush(&self) {}
}

#[cfg(feature = "tracing")]
mod events {
    use super::Facade;
    use crate::lock::Lock;
    use crate::thread::thread_local;
    use alloc::collections::BTreeMap;
    use alloc::string::String;
    use alloc::vec::Vec;
    use core::cell::RefCell;
    use core::fmt::{Debug, Write};
    use core::sync::atomic::{AtomicU64, Ordering};
    use tracing_core::field::{Field, Visit};
    use tracing_core::span::Current;
    use tracing_core::span::{Attributes, Id, Record};
    use tracing_core::{Event, Level, LevelFilter, Metadata, Subscriber};

    /// A span that is not closed.
    struct Span {
        text: String,
        /// The span that it is in, which it keeps open; 0: none.
        parent: u64,
        metadata: &'static Metadata<'static>,
        references: usize,
    }

    static SPANS: Lock<BTreeMap<u64, Span>> = Lock::new(BTreeMap::new());
    static LAST: AtomicU64 = AtomicU64::new(0);

    thread_local! {
        /// The spans that the thread is in, the innermost last.
        static INSIDE: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    }

    /// Collects fields as `name=value`, the message first.
    #[derive(Default)]
    struct Fields {
        message: String,
        others: String,
    }

    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            // Strings take all that is written.
            let _ = match field.name() {
                "message" => write!(self.message, "{value:?}"),
                name if self.others.is_empty() => write!(self.others, "{name}={value:?}"),
                name => write!(self.others, " {name}={value:?}"),
            };
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

    /// The innermost span that the thread is in; 0: none.
    fn innermost() -> u64 {
        INSIDE.with_borrow(|inside| inside.last().copied().unwrap_or(0))
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
        let Some(span) = spans.get_mut(&number) else { return false };
        span.references -= 1;
        if span.references > 0 {
            return false;
        }
        let parent = span.parent;
        spans.remove(&number);
        release(spans, parent);
        true
    }

    impl Subscriber for &'static Facade {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            self.is_enabled(number(*metadata.level()))
        }

        fn max_level_hint(&self) -> Option<LevelFilter> {
            FILTERS.get(self.level.load(Ordering::Relaxed) as usize).copied().or(Some(LevelFilter::TRACE))
        }

        fn new_span(&self, span: &Attributes<'_>) -> Id {
            let mut fields = Fields::default();
            span.record(&mut fields);
            let mut text = String::from(span.metadata().name());
            if !fields.others.is_empty() {
                let _ = write!(text, "{{{}}}", fields.others);
            }
            let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
            let parent = parent_of(span.parent(), span.is_root());
            let mut spans = SPANS.lock();
            if let Some(parent) = spans.get_mut(&parent) {
                parent.references += 1;
            }
            spans.insert(number, Span { text, parent, metadata: span.metadata(), references: 1 });
            Id::from_u64(number)
        }

        fn record(&self, span: &Id, values: &Record<'_>) {
            let mut fields = Fields::default();
            values.record(&mut fields);
            if let Some(span) = SPANS.lock().get_mut(&span.into_u64()) {
                let _ = write!(span.text, "{{{}}}", fields.others);
            }
        }

        fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut fields = Fields::default();
            event.record(&mut fields);
            let mut text = path_to(&SPANS.lock(), parent_of(event.parent(), event.is_root()));
            if !text.is_empty() {
                text.push(' ');
            }
            let _ = write!(text, "{}: {}", event.metadata().target(), fields.message);
            if !fields.others.is_empty() {
                let _ = write!(text, " {}", fields.others);
            }
            self.append(number(*event.metadata().level()), &text);
        }

        fn enter(&self, span: &Id) {
            INSIDE.with_borrow_mut(|inside| inside.push(span.into_u64()));
        }

        fn exit(&self, span: &Id) {
            INSIDE.with_borrow_mut(|inside| {
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
}
