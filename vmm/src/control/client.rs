//! The asking side.

use super::{Request, Stats, Trace};
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the machine may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A machine did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no machine answers at {}: {reason}; was it started with --control?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        reason: io::Error,
    },
    /// The connection broke.
    #[error("the machine at {} broke the connection: {reason}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// The machine said no.
    #[error("the machine at {} refused: {reason}", path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Something else answered.
    #[error("{} answered what is no answer: {reason}", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        reason: serde_json::Error,
    },
}

/// Asks the machine at `path` for its counters.
///
/// # Errors
/// [`ClientError`].
pub fn ask_stats(path: &Path) -> Result<Stats, ClientError> {
    ask(path, &Request::Stats)
}

/// Asks the machine at `path` for the events after the given numbers.
///
/// # Errors
/// [`ClientError`].
pub fn ask_trace(path: &Path, after: &[u64]) -> Result<Trace, ClientError> {
    ask(path, &Request::Trace { after: after.to_vec() })
}

pub(super) fn ask<T: DeserializeOwned>(path: &Path, request: &Request) -> Result<T, ClientError> {
    let stream =
        UnixStream::connect(path).map_err(|reason| ClientError::Connect { path: path.to_owned(), reason })?;
    let line =
        exchange(stream, request).map_err(|reason| ClientError::Broken { path: path.to_owned(), reason })?;
    if let Ok(Refusal { error }) = serde_json::from_str(&line) {
        return Err(ClientError::Refused { path: path.to_owned(), reason: error });
    }
    serde_json::from_str(&line).map_err(|reason| ClientError::Answer { path: path.to_owned(), reason })
}

/// What a machine answers when it does not do what was asked.
#[derive(serde::Deserialize)]
struct Refusal {
    error: String,
}

fn exchange(mut stream: UnixStream, request: &Request) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut text = serde_json::to_string(request)?;
    text.push('\n');
    stream.write_all(text.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}
