//! Output that nobody waits for: what its reader cannot take at once is kept here until a thread of its own has written it.
//!
//! # Contract
//! - A piece for a file, or for a pipe that has room, is written before [`Outlet::put`] returns: it is out even if the process is killed next.
//! - [`Outlet::put`] never waits for the reader. What does not fit is refused as a whole; when there is room again after a refusal, the callback
//!   given to [`Outlet::run`] is called.
//! - Bytes come out in the order in which they went in. A closed output takes everything and keeps nothing: that is the reader's wish, not an
//!   error of the program's.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that are written at a time.
const PIECE: usize = 16 * 1024;
/// What a pipe takes as a whole and at once if it is ready to be written to (pipe(7)).
const PIPE_ROOM: usize = 4096;
/// How long a writer waits where the output is set not to wait.
const RETRY: Duration = Duration::from_millis(1);

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    /// Something did not fit.
    has_refused: bool,
    /// The reader is gone.
    is_closed: bool,
    /// A piece is being written.
    is_writing: bool,
    /// Nothing more will come.
    is_finished: bool,
}

/// A descriptor with a bounded buffer before it.
pub(super) struct Outlet {
    /// Never closed: it is the process's.
    file: ManuallyDrop<File>,
    /// A file or a pipe.
    is_plain: bool,
    limit: usize,
    state: Mutex<State>,
    /// Rung when there is something to write, or everything was written.
    changed: Condvar,
}

impl Outlet {
    /// Before `descriptor`, which stays open as long as the process; keeps at most `limit` bytes.
    pub(super) fn new(descriptor: RawFd, limit: usize) -> Self {
        // SAFETY: the descriptor is open as long as the process, and `ManuallyDrop` keeps this value from closing it.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) });
        let kind = file.metadata().map(|known| known.file_type());
        let is_plain = kind.is_ok_and(|kind| kind.is_file() || kind.is_fifo());
        Self { file, is_plain, limit, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes bytes to be written; `false` if there is no room for them now.
    pub(super) fn put(&self, bytes: &[u8]) -> bool {
        let mut state = self.lock();
        if state.is_closed {
            return true;
        }
        let is_first = state.bytes.is_empty() && !state.is_writing;
        // In the lock, so that nothing comes in between; it does not wait.
        let written =
            if is_first && self.takes_now(bytes.len()) { (&*self.file).write(bytes) } else { Ok(0) };
        // An error comes again in `run`, which knows what to do.
        let rest = bytes.get(written.unwrap_or(0)..).unwrap_or_default();
        if state.bytes.len() + rest.len() > self.limit {
            state.has_refused = true;
            return false;
        }
        state.bytes.extend(rest);
        self.changed.notify_all();
        true
    }

    /// Whether so many bytes can be written without waiting for a reader.
    fn takes_now(&self, count: usize) -> bool {
        let mut ready = libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one descriptor, open, and no waiting.
        self.is_plain && count <= PIPE_ROOM && unsafe { libc::poll(&raw mut ready, 1, 0) } == 1
    }

    /// Writes what is put, in a thread of its own, until [`Outlet::finish`]. Calls `has_room` when there is room after a refusal.
    pub(super) fn run(&self, has_room: impl Fn()) {
        loop {
            let mut state = self.lock();
            while state.bytes.is_empty() {
                if state.is_finished {
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let piece: Vec<u8> = state.bytes.iter().take(PIECE).copied().collect();
            state.is_writing = true;
            drop(state);
            let (written, is_closed) = match (&*self.file).write(&piece) {
                Ok(count) => (count, count == 0),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => (0, false),
                    io::ErrorKind::WouldBlock => {
                        std::thread::sleep(RETRY);
                        (0, false)
                    }
                    _ => {
                        tracing::debug!(%error, "an output is gone");
                        (0, true)
                    }
                },
            };
            let mut state = self.lock();
            state.is_writing = false;
            state.bytes.drain(..written);
            if is_closed {
                state.bytes.clear();
                state.is_closed = true;
            }
            let tell = state.has_refused && (is_closed || state.bytes.len() <= self.limit / 2);
            state.has_refused &= !tell;
            drop(state);
            self.changed.notify_all();
            if tell {
                has_room();
            }
        }
    }

    /// Nothing more will be put. Waits until everything was written, or `give_up` says so, asked now and then. Returns the bytes that were left.
    pub(super) fn finish(&self, give_up: impl Fn(Duration) -> bool) -> usize {
        let began = Instant::now();
        let mut state = self.lock();
        state.is_finished = true;
        self.changed.notify_all();
        while !state.bytes.is_empty() || state.is_writing {
            if give_up(began.elapsed()) {
                break;
            }
            let wait = self.changed.wait_timeout(state, Duration::from_millis(20));
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_reader_that_waits_gets_everything_and_delays_nobody() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let outlet = Outlet::new(writer.as_raw_fd(), 4096);
        let told = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| outlet.run(|| told.store(told.load(Ordering::SeqCst) + 1, Ordering::SeqCst)));
            let mut put = Vec::new();
            // Until the socket and the buffer are full: nobody reads.
            let until = Instant::now() + Duration::from_secs(20);
            let mut refused_since = None;
            loop {
                let piece = [u8::try_from(put.len() / 1000 % 251).unwrap(); 1000];
                if outlet.put(&piece) {
                    put.extend(piece);
                    refused_since = None;
                } else if refused_since.get_or_insert_with(Instant::now).elapsed()
                    > Duration::from_millis(200)
                {
                    break;
                }
                assert!(Instant::now() < until, "it is never full");
            }
            let told_before = told.load(Ordering::SeqCst);
            let mut got = vec![0; put.len()];
            reader.read_exact(&mut got).unwrap();
            assert!(got == put, "what came out differs");
            while told.load(Ordering::SeqCst) == told_before {
                assert!(Instant::now() < until, "nobody was told that there is room");
                std::thread::yield_now();
            }
            assert!(outlet.put(b"end"));
            assert_eq!(outlet.finish(|_| false), 0);
        });
        drop(writer);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"end");
    }

    #[test]
    fn a_pipe_with_room_has_it_at_once() {
        let (mut reader, writer) = io::pipe().unwrap();
        let outlet = Outlet::new(writer.as_raw_fd(), 10);
        // No thread runs: it is written here, however little is kept.
        assert!(outlet.put(&[7; 3000]));
        let mut got = [0; 3000];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(got, [7; 3000]);
    }

    #[test]
    fn a_closed_output_takes_everything() {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let outlet = Outlet::new(writer.as_raw_fd(), 10);
        assert!(!outlet.put(&[0; 11]));
        assert!(outlet.put(&[0; 10]));
        std::thread::scope(|scope| {
            scope.spawn(|| outlet.run(|| ()));
            assert_eq!(outlet.finish(|_| false), 0);
        });
        assert!(outlet.put(&[0; 11]));
    }

    #[test]
    fn patience_has_an_end() {
        let (_reader, writer) = UnixStream::pair().unwrap();
        let outlet = Outlet::new(writer.as_raw_fd(), 10);
        assert!(outlet.put(&[0; 7]));
        // Nobody writes: as if the reader never read.
        assert_eq!(outlet.finish(|waited| waited > Duration::from_millis(30)), 7);
    }
}
