//! A file that cannot be read everywhere: a FUSE filesystem with one file, behind which is another.
//!
//! # Contract
//! - Writes go to the file behind. Reads come from there, page by page as they are needed, except of [`BadReads::page`], which are answered with EIO: a
//!   program that maps the file gets SIGBUS there, as from a disk's bad sector.
//! - Which page goes bad is counted in reads, not in time: the one that is read when so many pages were read since the file was opened.
//! - Needs `/dev/fuse` and the right to mount; says that it is skipped where these are missing.

use crate::mounted::{detach, skipped};
use fuser::{
    BackgroundSession, FileAttr, FileType, Filesystem, KernelConfig, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

/// Bytes in a page.
const PAGE: u64 = 4096;
/// The one file's name.
const NAME: &str = "pool.img";
/// Number of the folder, and of the file in it.
const FOLDER: u64 = 1;
const FILE: u64 = 2;
/// How long the kernel may believe what it was told.
const VALID: Duration = Duration::from_secs(1);

/// What goes wrong, and what was seen.
#[derive(Debug, Default)]
struct Health {
    /// Reads of pages since the file was last opened.
    reads: AtomicU64,
    /// After so many of them one goes bad.
    fails_after: Mutex<Option<u64>>,
    /// The page that did.
    bad: Mutex<Option<u64>>,
}

fn locked<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The filesystem, mounted as long as this lives.
#[derive(Debug)]
pub(crate) struct BadReads {
    health: Arc<Health>,
    _session: BackgroundSession,
    folder: tempfile::TempDir,
}

impl BadReads {
    /// In front of this file; `None`, with the reason on standard error, if this host does not let us.
    ///
    /// # Panics
    /// If there is no such file, or no temporary folder.
    #[must_use]
    pub(crate) fn in_front_of(file: &Path) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let health = Arc::<Health>::default();
        let file = File::options().read(true).write(true).open(file).expect("a file to stand before");
        let filesystem = OneFile { file, health: Arc::clone(&health) };
        match fuser::spawn_mount2(filesystem, folder.path(), &[]) {
            Ok(session) => Some(Self { health, _session: session, folder }),
            Err(error) => {
                skipped(&format!("no FUSE filesystem: {error}"));
                None
            }
        }
    }

    /// The file in it.
    #[must_use]
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join(NAME)
    }

    /// From its next opening on, the page that is read after so many others goes bad, and stays so.
    pub(crate) fn fail_after(&self, reads: u64) {
        *locked(&self.health.fails_after) = Some(reads);
    }

    /// All pages can be read again.
    pub(crate) fn heal(&self) {
        *locked(&self.health.fails_after) = None;
        *locked(&self.health.bad) = None;
    }

    /// The page that went bad, from the file's start.
    #[must_use]
    pub(crate) fn page(&self) -> Option<u64> {
        *locked(&self.health.bad)
    }

    /// How many pages were read since the file was last opened.
    #[must_use]
    pub(crate) fn reads(&self) -> u64 {
        self.health.reads.load(Ordering::SeqCst)
    }
}

impl Drop for BadReads {
    fn drop(&mut self) {
        // Lazily, should somebody still look into it; the session ends with that.
        detach(self.folder.path());
    }
}

struct OneFile {
    file: File,
    health: Arc<Health>,
}

impl OneFile {
    fn attributes(&self, inode: u64) -> Result<FileAttr, i32> {
        let (kind, perm, size) = match inode {
            FOLDER => (FileType::Directory, 0o755, 0),
            FILE => {
                (FileType::RegularFile, 0o600, self.file.metadata().map_err(|error| number(&error))?.len())
            }
            _ => return Err(Errno::NOENT.raw_os_error()),
        };
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let at = UNIX_EPOCH;
        Ok(FileAttr {
            ino: inode,
            size,
            blocks: size.div_ceil(512),
            atime: at,
            mtime: at,
            ctime: at,
            crtime: at,
            kind,
            perm,
            nlink: 1,
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    /// Whether this page cannot be read (any more).
    fn is_bad(&self, page: u64) -> bool {
        let reads = self.health.reads.fetch_add(1, Ordering::SeqCst);
        let mut bad = locked(&self.health.bad);
        if bad.is_none() && locked(&self.health.fails_after).is_some_and(|after| reads >= after) {
            *bad = Some(page);
        }
        *bad == Some(page)
    }

    fn bytes(&self, offset: i64, size: u32) -> io::Result<Vec<u8>> {
        let offset = u64::try_from(offset).map_err(|_| Errno::INVAL)?;
        let end = (offset + u64::from(size)).min(self.file.metadata()?.len());
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(offset)).map_err(|_| Errno::INVAL)?];
        if (offset / PAGE..end.div_ceil(PAGE)).any(|page| self.is_bad(page)) {
            return Err(Errno::IO.into());
        }
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(Errno::IO.raw_os_error())
}

impl Filesystem for OneFile {
    fn init(&mut self, _request: &Request<'_>, config: &mut KernelConfig) -> Result<(), i32> {
        // Less than a page: none is read ahead. The error would be the next value that can be had.
        let _ = config.set_max_readahead(1);
        Ok(())
    }

    fn lookup(&mut self, _request: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEntry) {
        let inode = if parent == FOLDER && name == NAME { FILE } else { 0 };
        match self.attributes(inode) {
            Ok(attributes) => reply.entry(&VALID, &attributes, 0),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&mut self, _request: &Request<'_>, inode: u64, _handle: Option<u64>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Ok(attributes) => reply.attr(&VALID, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn open(&mut self, _request: &Request<'_>, _inode: u64, _flags: i32, reply: ReplyOpen) {
        // The kernel forgets all pages that it had.
        self.health.reads.store(0, Ordering::SeqCst);
        reply.opened(0, 0);
    }

    fn read(
        &mut self,
        _request: &Request<'_>,
        _inode: u64,
        _handle: u64,
        offset: i64,
        size: u32,
        _flags: i32,
        _lock_owner: Option<u64>,
        reply: ReplyData,
    ) {
        match self.bytes(offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(number(&error)),
        }
    }

    fn write(
        &mut self,
        _request: &Request<'_>,
        _inode: u64,
        _handle: u64,
        offset: i64,
        data: &[u8],
        _write_flags: u32,
        _flags: i32,
        _lock_owner: Option<u64>,
        reply: ReplyWrite,
    ) {
        let at = u64::try_from(offset).unwrap_or(u64::MAX);
        match self.file.write_all_at(data, at) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(number(&error)),
        }
    }

    fn flush(&mut self, _request: &Request<'_>, _inode: u64, _handle: u64, _owner: u64, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&mut self, _request: &Request<'_>, _inode: u64, _handle: u64, _data: bool, reply: ReplyEmpty) {
        reply.ok();
    }
}
