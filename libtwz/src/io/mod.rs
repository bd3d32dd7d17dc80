//! Streams, queues, events and logs in objects.

pub mod event;
#[cfg(any(feature = "log", feature = "tracing"))]
mod facade;
pub mod log;
pub mod queue;
pub mod stream;

pub use event::{Bell, EventSet};
pub use log::LogRing;
pub use queue::{Duplex, Queue};
pub use stream::Stream;
