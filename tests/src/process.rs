//! Processes with a time limit.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

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
    streams: Option<[JoinHandle<Vec<u8>>; 2]>,
}

/// Starts a command in a process group of its own, its input empty unless the caller set one.
///
/// # Panics
/// If it cannot be started.
pub fn start(mut command: Command) -> Running {
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    Running { child, streams: Some([collect(stdout), collect(stderr)]) }
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
        kill_process(self.pid(), signal).expect("the process is there");
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
        let [stdout, stderr] = self
            .streams
            .take()
            .expect("wait consumes the process")
            .map(|thread| String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned());
        Output { status, stdout, stderr }
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

fn exit_number(status: ExitStatus) -> i32 {
    status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(-1)
}

fn collect(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A broken stream still counts with what it gave.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}
