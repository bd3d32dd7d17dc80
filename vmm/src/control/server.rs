//! The listening side: one thread, one connection at a time, each with a time limit.

use super::{Request, Source};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Longest request, in bytes.
const REQUEST_MAX: u64 = 4096;
/// How long a client may take to ask, and to read.
const PATIENCE: Duration = Duration::from_secs(2);

/// The control socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another machine listens there.
    #[error("control socket {}: another machine listens there; give it another path", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket is there.
    #[error("control socket {}: a file of another kind is there; give it another path", .0.display())]
    NotASocket(PathBuf),
    /// The host refused.
    #[error("control socket {}: {reason}", path.display())]
    Host {
        /// The path.
        path: PathBuf,
        /// Why not.
        reason: io::Error,
    },
}

/// A listening control socket; closed and removed when dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `path` and answers from `source`. A socket that a dead machine left there is replaced.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn start(path: &Path, source: Arc<dyn Source>) -> Result<Self, ControlError> {
        let failed = |reason| ControlError::Host { path: path.to_owned(), reason };
        remove_stale(path)?;
        let listener = bind_private(path).map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("control".into())
            .spawn(move || serve(&listener, &stopped, source.as_ref()))
            .map_err(failed)?;
        Ok(Self { path: path.to_owned(), stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes `accept`. If it fails nobody can connect, and the thread is left to the end of the process.
        let woken = UnixStream::connect(&self.path).is_ok();
        if let (true, Some(thread)) = (woken, self.thread.take())
            && thread.join().is_err()
        {
            tracing::error!("the control socket's thread panicked");
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket was gone already");
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), ControlError> {
    let failed = |reason| ControlError::Host { path: path.to_owned(), reason };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => Err(ControlError::NotASocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => Err(ControlError::InUse(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        },
    }
}

/// Binds a socket that only this user can connect to, from its first moment on.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    // The mask is the process's: of two that bind at a time, one would put the other's back too early.
    static MASK: Mutex<()> = Mutex::new(());
    let _held = MASK.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: changes the process's file mode mask, which no memory depends on; put back below. No other thread makes files meanwhile:
    // the machine's threads have not started.
    let before = unsafe { libc::umask(0o177) };
    let bound = UnixListener::bind(path);
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    bound
}

fn serve(listener: &UnixListener, stop: &AtomicBool, source: &dyn Source) {
    for connection in listener.incoming() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        match connection {
            // A client that misbehaves harms itself only.
            Ok(stream) => {
                if let Err(error) = answer(&stream, source) {
                    tracing::debug!(%error, "a control connection broke");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept");
                thread::sleep(PATIENCE);
            }
        }
    }
}

fn answer(stream: &UnixStream, source: &dyn Source) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    BufReader::new(stream.take(REQUEST_MAX)).read_until(b'\n', &mut line)?;
    let mut reply = match serde_json::from_slice(&line) {
        Ok(Request::Stats) => serde_json::to_string(&source.stats())?,
        Ok(Request::Trace { after }) => serde_json::to_string(&source.trace(&after))?,
        Ok(Request::Contexts) => serde_json::to_string(&source.contexts())?,
        Ok(Request::Revoke { what }) => match source.revoke(&what) {
            Ok(done) => serde_json::to_string(&done)?,
            Err(error) => serde_json::json!({ "error": error }).to_string(),
        },
        Err(error) => serde_json::json!({ "error": format!("not a request: {error}") }).to_string(),
    };
    reply.push('\n');
    let mut stream = stream;
    stream.write_all(reply.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::{
        ClientError, ContextList, HartCounters, Revoke, Revoked, Stats, Trace, TraceEvent, TraceWhat,
        ask_contexts, ask_revoke, ask_stats, ask_trace,
    };
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Fixed;

    impl Source for Fixed {
        fn stats(&self) -> Stats {
            let mut vmm = HartCounters::default();
            vmm.exits.insert("halt".into(), 3);
            Stats { uptime_ns: 7, harts: vec![vmm.clone()], vmm, ..Stats::default() }
        }

        fn trace(&self, after: &[u64]) -> Trace {
            let number = after.first().copied().unwrap_or(0) + 1;
            let what = TraceWhat::Inject { vector: 0x20 };
            Trace { harts: vec![vec![TraceEvent { number, time_ns: 5, what }]] }
        }

        fn contexts(&self) -> ContextList {
            ContextList { tables: 5, ..ContextList::default() }
        }

        fn revoke(&self, what: &Revoke) -> Result<Revoked, String> {
            match what {
                Revoke::Object { .. } => Ok(Revoked { took_ns: 9 }),
                other => Err(format!("not {other:?}")),
            }
        }
    }

    fn start() -> (tempfile::TempDir, PathBuf, Server) {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("control");
        let server = Server::start(&path, Arc::new(Fixed)).expect("server");
        (place, path, server)
    }

    fn raw(path: &Path, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).expect("connect");
        stream.write_all(request).expect("write");
        stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        text
    }

    #[test]
    fn answers_what_the_source_says() {
        let (_place, path, server) = start();
        assert_eq!(ask_stats(&path).expect("stats"), Fixed.stats());
        assert_eq!(ask_contexts(&path).expect("contexts").tables, 5);
        let id = "1:2".to_owned();
        assert_eq!(ask_revoke(&path, &Revoke::Object { id: id.clone() }).expect("revoked").took_ns, 9);
        let refused = ask_revoke(&path, &Revoke::Context { id });
        assert!(matches!(refused, Err(ClientError::Refused { .. })), "{refused:?}");
        assert_eq!(ask_trace(&path, &[41]).expect("trace").harts[0][0].number, 42);
        let mode = std::fs::metadata(&path).expect("socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(server);
        assert!(!path.exists());
        assert!(ask_stats(&path).is_err());
    }

    #[test]
    fn nonsense_gets_an_error_and_the_next_client_an_answer() {
        let (_place, path, _server) = start();
        for request in [&b""[..], b"\n", b"{}", b"\xff\xfe\n", b"{\"get\":\"all\"}\n", &[b'['; 100_000]] {
            let mut stream = UnixStream::connect(&path).expect("connect");
            // A server that has read enough closes, which may break the rest of a long request.
            let _ = stream.write_all(request).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
            let mut text = String::new();
            if stream.read_to_string(&mut text).is_ok() {
                assert!(text.starts_with("{\"error\":\"not a request"), "{text}");
            }
        }
        assert!(raw(&path, b"{\"get\":\"trace\"}\n").contains("\"number\":1"));
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
        let (place, path, _server) = start();
        assert!(matches!(Server::start(&path, Arc::new(Fixed)), Err(ControlError::InUse(_))));
        let dead = place.path().join("dead");
        drop(UnixListener::bind(&dead).expect("bind"));
        Server::start(&dead, Arc::new(Fixed)).expect("replaces a dead socket");
        let file = place.path().join("file");
        std::fs::write(&file, "dear").expect("write");
        assert!(matches!(Server::start(&file, Arc::new(Fixed)), Err(ControlError::NotASocket(_))));
        assert_eq!(std::fs::read(&file).expect("read"), b"dear");
    }
}
