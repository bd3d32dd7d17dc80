//! Processes with a time limit.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a process may take to say what a test waits for: what takes a second may take a hundred on a busy host.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// How a command ended and what it wrote.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit status; 128 + number if a signal ended it; -1 if it was killed because its time was up.
    pub status: i32,
    /// Standard output; bytes that are not UTF-8 replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

impl Output {
    /// Checks the exit status.
    ///
    /// # Panics
    /// If it is another, with all that the command wrote.
    #[track_caller]
    pub fn expect_status(&self, status: i32) -> &Output {
        assert_eq!(
            self.status, status,
            "exit status\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout, self.stderr
        );
        self
    }
}

/// A process that was started; killed with its group when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    stdout: Collected,
    stderr: Collected,
}

/// A stream that a thread reads to its end.
#[derive(Debug)]
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

/// Starts a command with empty input, in a process group of its own.
///
/// # Panics
/// If it cannot be started.
pub fn start(mut command: Command) -> Running {
    command.stdin(Stdio::null());
    start_with(command)
}

/// Starts a command whose input is [`Running::type_in`], in a process group of its own.
///
/// # Panics
/// If it cannot be started.
pub fn start_typing(mut command: Command) -> Running {
    command.stdin(Stdio::piped());
    start_with(command)
}

fn start_with(mut command: Command) -> Running {
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let input = child.stdin.take();
    let stdout = collect(child.stdout.take().expect("stdout is piped"));
    let stderr = collect(child.stderr.take().expect("stderr is piped"));
    Running { child, input, stdout, stderr }
}

impl Running {
    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process alone, as `kill` does.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, signal: Signal) {
        // Not reaped before `wait`, so its number stays its own; a signal to one that has ended does nothing.
        kill_process(self.pid(), signal).expect("the process is there");
    }

    /// Types this into the input of a process of [`start_typing`].
    ///
    /// # Panics
    /// If the process no longer reads.
    pub fn type_in(&mut self, text: &str) {
        let input = self.input.as_mut().expect("started by start_typing, input not ended");
        input.write_all(text.as_bytes()).expect("the process reads its input");
    }

    /// Ends the input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// Standard output so far.
    #[must_use]
    pub fn said(&self) -> String {
        self.stdout.text()
    }

    /// Waits until standard output contains `text`.
    ///
    /// # Panics
    /// If it does not within [`PATIENCE`], or ends before.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        if !self.wait_until(text, PATIENCE) {
            let (out, err) = (self.stdout.text(), self.stderr.text());
            let what = if self.stdout.reader.is_finished() { "before its end" } else { "in time" };
            panic!("no {text:?} {what} ({PATIENCE:?})\n--- stdout\n{out}\n--- stderr\n{err}");
        }
    }

    /// Waits until standard output contains `text`; false if it does not in time.
    #[must_use]
    pub fn wait_until(&self, text: &str, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while !self.stdout.text().contains(text) {
            if Instant::now() > until || self.stdout.reader.is_finished() {
                return self.stdout.text().contains(text);
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Waits until it has ended, or closed its output; false if it does not in time.
    #[must_use]
    pub fn ends_within(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while !self.stdout.reader.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(2));
        }
        self.stdout.reader.is_finished()
    }

    /// Waits for the end and for all output, at most so long; then kills.
    pub fn wait(mut self, limit: Duration) -> Output {
        let until = Instant::now() + limit;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break exit_number(status),
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                _ => break -1,
            }
        };
        // Whoever of the group is left would keep the streams open.
        self.kill();
        for stream in [&self.stdout, &self.stderr] {
            while !stream.reader.is_finished() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Output { status, stdout: self.stdout.text(), stderr: self.stderr.text() }
    }

    fn pid(&self) -> Pid {
        let id = i32::try_from(self.child.id()).expect("process numbers are positive");
        Pid::from_raw(id).expect("process numbers are positive")
    }

    fn kill(&mut self) {
        // Fails only if the whole group has ended.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn exit_number(status: ExitStatus) -> i32 {
    status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(-1)
}

fn collect(mut stream: impl Read + Send + 'static) -> Collected {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let target = bytes.clone();
    let reader = thread::spawn(move || {
        let mut buffer = [0; 4096];
        // A broken stream still counts with what it gave.
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            target.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
        }
    });
    Collected { bytes, reader }
}

impl Collected {
    /// What has come so far.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}
