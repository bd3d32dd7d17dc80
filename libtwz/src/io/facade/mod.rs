//! The facades of the crates `log` and `tracing` into a [`LogRing`]: [`Facade::install_log`] and [`Facade::install_tracing`], after or before
//! [`Facade::connect`]. What could not be written is counted: [`Facade::lost`].
//!
//! Both keep to the facade's levels: 0 nothing, 1 error, 2 warn, 3 info, 4 debug, 5 trace; one for all, `info` unless
//! [`Facade::with_level`] or [`Facade::set_level`] says another, or one per target: [`Facade::set_filter`].
//!
//! A record's text is `target: message`; of an event, spans and fields are added as `outer{a=1}:inner: target: message b=2`. [`LogRing::iter`]
//! reads them back, and follows them.

mod filter;
#[cfg(feature = "tracing")]
mod spans;

use self::filter::Filter;
use super::log::LogRing;
use crate::error::Error;
use crate::lock::Lock;
use crate::object::Object;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

pub use self::filter::BadFilter;

/// Bytes of the ring that the facade writes to.
pub const FACADE_RING: usize = 256 << 10;
/// Longest wait for others who use the log.
const PATIENCE: Duration = Duration::from_millis(200);

/// What libraries log goes into a persistent log object; put it into a static.
#[derive(Debug)]
pub struct Facade {
    object: Lock<Option<Object<LogRing<FACADE_RING>>>>,
    filter: Lock<Filter>,
    /// The largest level that any target has: what is above is not even looked up.
    level: AtomicU32,
    lost: AtomicU64,
    /// The lock could not be had the last time: nobody waits for it again before it is free.
    is_stuck: AtomicBool,
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

    /// A logger of levels up to `level`.
    #[must_use]
    pub const fn with_level(level: u32) -> Self {
        Self {
            object: Lock::new(None),
            filter: Lock::new(Filter::all(level)),
            level: AtomicU32::new(level),
            lost: AtomicU64::new(0),
            is_stuck: AtomicBool::new(false),
        }
    }

    /// Makes this the process's logger for the crate `log`, of levels up to `level`.
    ///
    /// # Errors
    /// There is a logger already.
    #[cfg(feature = "log")]
    pub fn install_log(
        &'static self,
        level: log::LevelFilter,
    ) -> core::result::Result<(), log::SetLoggerError> {
        log::set_logger(self)?;
        self.set_level(level as u32);
        Ok(())
    }

    /// Makes this the process's subscriber for the crate `tracing`, as `tracing::subscriber::set_global_default(&FACADE)` does.
    ///
    /// # Errors
    /// There is a subscriber already.
    #[cfg(feature = "tracing")]
    pub fn install_tracing(
        &'static self,
    ) -> core::result::Result<(), tracing_core::dispatcher::SetGlobalDefaultError> {
        tracing_core::dispatcher::set_global_default(tracing_core::Dispatch::new(self))
    }

    /// Writes levels up to `level` of all targets from now on.
    pub fn set_level(&self, level: u32) {
        self.set(Filter::all(level));
    }

    /// Writes from now on what `filter` says: a level, and targets with levels of their own, as in `"info,kv=debug,kv::net=off"`. A target's level is
    /// that of the longest name that it is, or that it stands below (`kv::disk` below `kv`); without a level of its own, a target has all.
    ///
    /// # Errors
    /// [`BadFilter`], and nothing is changed.
    pub fn set_filter(&self, filter: &str) -> core::result::Result<(), BadFilter> {
        self.set(filter.parse()?);
        Ok(())
    }

    fn set(&self, filter: Filter) {
        let level = filter.most();
        *self.filter.lock() = filter;
        self.level.store(level, Ordering::Relaxed);
        // Both crates keep what they were told. `log` has one level for all, which is its logger's.
        #[cfg(feature = "log")]
        if core::ptr::addr_eq(log::logger(), self) {
            log::set_max_level(
                log::LevelFilter::iter().nth(level as usize).unwrap_or(log::LevelFilter::Trace),
            );
        }
        #[cfg(feature = "tracing")]
        tracing_core::callsite::rebuild_interest_cache();
    }

    /// Records that could not be written, since the start: the log's object is damaged, or its lock cannot be had. Those from before it was
    /// connected do not count.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn is_enabled(&self, level: u32, target: &str) -> bool {
        level <= self.level.load(Ordering::Relaxed) && level <= self.filter.lock().level_of(target)
    }

    /// Sends records to `object` from now on.
    pub fn connect(&self, object: Object<LogRing<FACADE_RING>>) {
        *self.object.lock() = Some(object);
    }

    /// Writes a record; one that cannot be written is counted, since a logger has nobody to tell.
    fn append(&self, level: u32, text: &str) {
        let Some(object) = *self.object.lock() else { return };
        let patience = if self.is_stuck.load(Ordering::Relaxed) { Duration::ZERO } else { PATIENCE };
        let result = object.append_for(level, text, patience);
        self.is_stuck.store(result == Err(Error::TimedOut), Ordering::Relaxed);
        if result.is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(feature = "log")]
impl log::Log for Facade {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.is_enabled(metadata.level() as u32, metadata.target())
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.append(record.level() as u32, &alloc::format!("{}: {}", record.target(), record.args()));
        }
    }

    fn flush(&self) {}
}
