//! What a campaign does at this moment, for somebody who waits for it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A place where campaigns note what they do. Copies are the same place.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<Option<(String, Instant)>>>);

impl Progress {
    pub(super) fn note(&self, what: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((what, Instant::now()));
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((what, since)) => write!(f, "{what}, since {:.1} s", since.elapsed().as_secs_f64()),
            None => f.write_str("nothing has begun"),
        }
    }
}
