//! A terminal for an emulator that draws on one, and files that are read while it writes them.

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How often a file is looked at for more.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A new terminal that nobody watches.
pub(crate) struct Terminal {
    our_end: OwnedFd,
    their_end: File,
    gone: Arc<AtomicBool>,
}

impl Terminal {
    pub(crate) fn new() -> io::Result<Terminal> {
        let our_end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&our_end)?;
        unlockpt(&our_end)?;
        let name = ptsname(&our_end, Vec::new())?;
        let name = name.to_str().map_err(io::Error::other)?;
        let their_end = OpenOptions::new().read(true).write(true).open(name)?;
        Ok(Terminal { our_end, their_end, gone: Arc::new(AtomicBool::new(false)) })
    }

    /// Starts a command on it. What it draws is read and dropped, so that it never waits for us.
    pub(crate) fn spawn(self, mut command: Command) -> io::Result<Child> {
        command.stdin(self.their_end.try_clone()?).stdout(self.their_end.try_clone()?).stderr(self.their_end);
        let child = command.spawn()?;
        drop(command); // it holds their end open
        let (mut ours, gone) = (File::from(self.our_end), self.gone);
        thread::spawn(move || {
            let mut drawn = [0; 4096];
            // The read fails when the last process that has the other end is gone.
            while ours.read(&mut drawn).is_ok_and(|length| length > 0) {}
            gone.store(true, Ordering::Release);
        });
        Ok(child)
    }

    /// Reads a file that the command writes, to its end when the command is gone.
    pub(crate) fn follow(&self, path: &Path) -> io::Result<Follow> {
        File::create(path)?; // the command may open it later than we
        Ok(Follow { file: File::open(path)?, writer_gone: self.gone.clone() })
    }
}

/// A file that another process writes.
pub(crate) struct Follow {
    file: File,
    writer_gone: Arc<AtomicBool>,
}

impl Read for Follow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // First, so that what was written before is seen by the read after.
            let last = self.writer_gone.load(Ordering::Acquire);
            let length = self.file.read(buffer)?;
            if length > 0 || last {
                return Ok(length);
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_followed_file_ends_with_its_writer() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("out");
        let terminal = Terminal::new().unwrap();
        let mut follow = terminal.follow(&path).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "test -t 1 && for i in 1 2 3; do echo $i >>out; sleep 0.05; done"]);
        command.current_dir(place.path());
        let mut child = terminal.spawn(command).unwrap();
        let mut text = String::new();
        follow.read_to_string(&mut text).unwrap();
        assert_eq!(text, "1\n2\n3\n");
        assert!(child.wait().unwrap().success());
    }
}
