//! The facades of the crates `log` and `tracing` into a [`LogRing`]: `log::set_logger(&FACADE)`,
//! `tracing::subscriber::set_global_default(&FACADE)`, after or before [`Facade::connect`].
//!
//! A record's text is `target: message`; of an event, spans and fields are added as `outer{a=1}:inner: target: message b=2`. Its level is 1
//! (error) to 5 (trace).

use super::log::LogRing;
use crate::error::Result;
use crate::lock::Lock;
use crate::object::Object;

/// Bytes of the ring that the facade writes to.
pub const FACADE_RING: usize = 256 << 10;

/// What libraries log goes into a persistent log object; put it into a static.
#[derive(Debug)]
pub struct Facade {
    object: Lock<Option<Object<LogRing<FACADE_RING>>>>,
}

impl Default for Facade {
    fn default() -> Self {
        Self::new()
    }
}

impl Facade {
    /// A logger that drops everything until it is connected.
    #[must_use]
    pub const fn new() -> Self {
        Self { object: Lock::new(None) }
    }

    /// Sends records to `object` from now on.
    pub fn connect(&self, object: Object<LogRing<FACADE_RING>>) {
        *self.object.lock() = Some(object);
    }

    fn append(&self, level: u32, text: &str) -> Result<()> {
        let object = *self.object.lock();
        object.map_or(Ok(()), |object| object.append(level, text))
    }
}

#[cfg(feature = "log")]
impl log::Log for Facade {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = alloc::format!("{}: {}", record.target(), record.args());
        // A logger has nobody to tell that it could not.
        let _ = self.append(record.level() as u32, &text);
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
    use tracing_core::span::{Attributes, Id, Record};
    use tracing_core::{Event, Level, Metadata, Subscriber};

    /// A span that is not closed.
    struct Span {
        text: String,
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

    impl Subscriber for &'static Facade {
        fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, span: &Attributes<'_>) -> Id {
            let mut fields = Fields::default();
            span.record(&mut fields);
            let mut text = String::from(span.metadata().name());
            if !fields.others.is_empty() {
                let _ = write!(text, "{{{}}}", fields.others);
            }
            let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
            SPANS.lock().insert(number, Span { text, references: 1 });
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
            let mut text = String::new();
            INSIDE.with_borrow(|inside| {
                let spans = SPANS.lock();
                for span in inside.iter().filter_map(|number| spans.get(number)) {
                    let _ = write!(text, "{}:", span.text);
                }
            });
            if !text.is_empty() {
                text.push(' ');
            }
            let _ = write!(text, "{}: {}", event.metadata().target(), fields.message);
            if !fields.others.is_empty() {
                let _ = write!(text, " {}", fields.others);
            }
            // A logger has nobody to tell that it could not.
            let _ = self.append(number(*event.metadata().level()), &text);
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
            let mut spans = SPANS.lock();
            let number = span.into_u64();
            let Some(known) = spans.get_mut(&number) else { return false };
            known.references -= 1;
            let closed = known.references == 0;
            if closed {
                spans.remove(&number);
            }
            closed
        }
    }
}
