//! Processes with little memory: a control group of the kernel's, whose processes it kills when they need more than they may.
//!
//! # Contract
//! - Version 2 of control groups, or the memory controller of version 1 (cgroups(7)); says that it is skipped where neither can be written.
//! - The group is empty and gone when a [`MemoryGroup`] is dropped, if its processes have ended.

use crate::mounted::skipped;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A group below the one that this process is in.
#[derive(Debug)]
pub(crate) struct MemoryGroup {
    folder: PathBuf,
    files: &'static Files,
}

/// What the files are called.
#[derive(Debug)]
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// Has a line `oom_kill N`.
    kills: &'static str,
    no_limit: &'static str,
}

const VERSION_1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    kills: "memory.oom_control",
    no_limit: "-1",
};
const VERSION_2: Files =
    Files { limit: "memory.max", usage: "memory.current", kills: "memory.events", no_limit: "max" };

impl MemoryGroup {
    /// Without a limit; `None`, with the reason on standard error, if this host does not let us.
    pub(crate) fn new() -> Option<Self> {
        match Self::make() {
            Ok(group) => Some(group),
            Err(reason) => {
                skipped(&format!("no control group for memory: {reason}"));
                None
            }
        }
    }

    fn make() -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let (mounts, groups) = (read("/proc/self/mounts")?, read("/proc/self/cgroup")?);
        let mut reasons = Vec::new();
        for (mount, is_version_2) in memory_mounts(&mounts) {
            let files = if is_version_2 { &VERSION_2 } else { &VERSION_1 };
            let Some(own) = own_group(&groups, is_version_2) else { continue };
            // Never outside of it: what limits us goes on doing so. In a container the kernel's name for it may not be what is mounted.
            let inside = mount.join(own.trim_start_matches('/'));
            let parent = if inside.is_dir() { inside } else { mount };
            match Self::below(&parent, files) {
                Ok(group) => return Ok(group),
                Err(error) => reasons.push(format!("{}: {error}", parent.display())),
            }
        }
        if reasons.is_empty() {
            reasons.push("the memory controller is not mounted".to_owned());
        }
        Err(reasons.join("; "))
    }

    fn below(parent: &Path, files: &'static Files) -> io::Result<Self> {
        let number = std::process::id();
        let name = std::thread::current()
            .name()
            .unwrap_or_default()
            .replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        let folder = parent.join(format!("twz-{number}-{name}"));
        fs::create_dir(&folder)?;
        let group = Self { folder, files };
        if !group.folder.join(files.limit).exists() {
            // Version 2: the parent decides whether its children have the controller, which it may only without processes of its own.
            fs::write(parent.join("cgroup.subtree_control"), "+memory")?;
        }
        group.set_limit(None)?;
        group.usage()?;
        Ok(group)
    }

    /// A process that writes its number there belongs to the group.
    pub(crate) fn members(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// Its processes may have so many bytes together; `None`: any number.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn set_limit(&self, bytes: Option<u64>) -> io::Result<()> {
        let text = bytes.map_or_else(|| self.files.no_limit.to_owned(), |bytes| bytes.to_string());
        fs::write(self.folder.join(self.files.limit), text)
    }

    /// What its processes have, in bytes, with what ended ones left in files in memory.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn usage(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.folder.join(self.files.usage))?;
        text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// How many of its processes the kernel has killed.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn kills(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.folder.join(self.files.kills))?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        count.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Its members were killed and waited for; if not, it stays, and harms nobody.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Where groups that may have the memory controller are mounted, by /proc/self/mounts, and whether they are of version 2.
fn memory_mounts(mounts: &str) -> Vec<(PathBuf, bool)> {
    let lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = lines.filter_map(|words| match words[..] {
        [_, folder, "cgroup2", ..] => Some((PathBuf::from(folder), true)),
        [_, folder, "cgroup", options, ..] if options.split(',').any(|option| option == "memory") => {
            Some((PathBuf::from(folder), false))
        }
        _ => None,
    });
    found.collect()
}

/// The group that this process is in, by /proc/self/cgroup.
fn own_group(groups: &str, is_version_2: bool) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut words = line.splitn(3, ':').skip(1);
        let (controllers, path) = (words.next()?, words.next()?);
        let is_it = if is_version_2 {
            controllers.is_empty()
        } else {
            controllers.split(',').any(|name| name == "memory")
        };
        is_it.then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_controller_is_found_in_both_versions() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found = memory_mounts(mounts);
        assert_eq!(found, [("/sys/fs/cgroup/memory".into(), false), ("/sys/fs/cgroup/unified".into(), true)]);
        let groups = "3:cpu,memory:/a/b\n2:memory2:/x\n0::/user.slice/c:d\n";
        assert_eq!(own_group(groups, false), Some("/a/b"));
        assert_eq!(own_group(groups, true), Some("/user.slice/c:d"));
        assert_eq!(own_group("", true), None);
    }
}
