//! What a pool stands on: a DAX device, a file on a DAX filesystem, or an ordinary file.
//!
//! # Contract
//! - **D1**: the medium is mapped whole, shared, readable and writable, from the opening to the drop of [`Mapped`], and its
//!   file or device stays locked (`flock`) for as long: no second process, nor a second open here.
//! - Stores reach a page of a file only after [`Medium::reserve`] covered it, so a full disk is an error, not a signal.
//! - A file that another program truncates while the pool is open ends this program (SIGBUS); nothing on the disk is harmed.

mod device;
mod shadowed;

use crate::error::{Error, Result};
use crate::format::{PAGE, SEGMENT, index};
use pmem::shadow::Shadow;
use pmem::{Msynced, Native, Pmem};
use rustix::fs::{CWD, FallocateFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::cell::Cell;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Persistent memory that a pool can stand on.
pub trait Medium: Pmem {
    /// Makes sure that `len` bytes at `at` have a place on the medium before they are stored to.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Io`].
    fn reserve(&self, at: u64, len: u64) -> Result<()> {
        let _ = (at, len);
        Ok(())
    }

    /// Says that `len` bytes at `at` are about to be read through: makes that fast, or does nothing.
    fn expect_reads(&self, at: u64, len: u64) {
        let _ = (at, len);
    }

    /// Says whether the page at `at` can be read at all, without a signal if it cannot. Where the operating system does not tell, it can.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    fn probe(&self, at: u64) -> Result<()> {
        let _ = at;
        Ok(())
    }

    /// Says whether all that was fenced is really durable.
    ///
    /// # Errors
    /// [`Error::NotDurable`] once the medium refused a write.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

impl Medium for Native {}

impl<M: Medium + ?Sized> Medium for &M {
    fn reserve(&self, at: u64, len: u64) -> Result<()> {
        (**self).reserve(at, len)
    }
    fn expect_reads(&self, at: u64, len: u64) {
        (**self).expect_reads(at, len);
    }
    fn probe(&self, at: u64) -> Result<()> {
        (**self).probe(at)
    }
    fn check(&self) -> Result<()> {
        (**self).check()
    }
}

#[cfg(any(test, feature = "sim"))]
impl Medium for pmem::sim::Sim {}

/// What a store to a pool's memory needs to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Flush and fence by the processor: survives power failures.
    Dax,
    /// The pool's own metadata is written to the disk by each operation; programs' stores only by [`crate::Pool::sync`].
    Disk,
    /// As `Disk`, but metadata too waits for `sync`. Before that, a crash of the machine can damage the pool; the
    /// death of a process cannot.
    Relaxed,
    /// Memory: nothing survives a reboot.
    Volatile,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dax => "persistent memory: flushed stores survive a power failure",
            Self::Disk => {
                "file without DAX: the pool's metadata survives a power failure, programs' stores survive the end of \
                 this process, and a power failure only after a clean shutdown"
            }
            Self::Relaxed => {
                "file without DAX, relaxed: all survives the end of this process, but a power failure before a clean \
                 shutdown can damage the pool"
            }
            Self::Volatile => "file in memory (tmpfs): survives the end of this process, not a reboot",
        })
    }
}

/// How to make a pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct CreateOptions {
    /// Destroy a pool that is there.
    pub force: bool,
    /// Granule in bytes, at least what the medium needs; default: just that.
    pub granule: Option<u64>,
    /// See [`OpenOptions::relaxed`].
    pub relaxed: bool,
}

/// How to open a pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// On a file without DAX, do not write metadata to the disk at each operation; see [`Durability::Relaxed`].
    pub relaxed: bool,
}

/// A pool's file or device, for mapping pieces of it.
#[derive(Clone, Copy, Debug)]
pub struct Backing<'a> {
    /// The file; offsets in it are pool offsets.
    pub fd: BorrowedFd<'a>,
    /// Bytes mapped.
    pub size: u64,
    /// What offsets and lengths of mappings must be aligned to, in bytes.
    pub granule: u64,
    /// `MAP_SYNC` works on it.
    pub map_sync: bool,
}

/// The name that a new file has until it is a pool, so that a process that is killed meanwhile leaves nothing under the pool's own name.
/// Dropped before [`Staged::publish`], it removes the file.
#[derive(Debug)]
pub(crate) struct Staged {
    /// `None` for what exists already, and once published.
    path: Option<PathBuf>,
    keep: Cell<bool>,
}

impl Staged {
    /// `.NAME.new` beside `path`, if there is nothing at `path`. One that a killed process left is used again.
    fn of(path: &Path) -> Self {
        let name = path.file_name().filter(|_| !path.exists());
        let path = name.map(|name| {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(".new");
            path.with_file_name(hidden)
        });
        Self { path, keep: Cell::new(false) }
    }

    fn leave(&self) {
        self.keep.set(true);
    }

    /// Whether this name, if there is one, is still that of the file: whoever had the file locked may have given it its own.
    fn is_name_of(&self, fd: &OwnedFd) -> bool {
        let Some(path) = &self.path else { return true };
        let identity = |stat: Stat| (stat.st_dev, stat.st_ino);
        let named = rustix::fs::stat(path).map(identity);
        named.is_ok() && named == rustix::fs::fstat(fd).map(identity)
    }

    /// Gives the finished pool its own name, durably.
    ///
    /// # Errors
    /// [`Error::AlreadyAPool`] if somebody else has made one meanwhile, which stays; [`Error::Io`].
    pub(crate) fn publish(mut self, path: &Path) -> Result<()> {
        let Some(staged) = &self.path else { return Ok(()) };
        let failed = |source| Error::Io { action: "name", path: path.to_owned(), source };
        match rustix::fs::renameat_with(CWD, staged, CWD, path, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => return Err(Error::AlreadyAPool { path: path.to_owned() }),
            // Not every filesystem can tell.
            Err(Errno::INVAL | Errno::NOSYS) => std::fs::rename(staged, path).map_err(failed)?,
            renamed => renamed.map_err(|error| failed(error.into()))?,
        }
        self.path = None;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(path) = self.path.as_deref().filter(|_| !self.keep.get()) {
            // Ours, made a moment ago; nothing to do if that fails too.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What makes stores durable.
#[derive(Debug)]
enum Storing {
    /// The processor.
    Caches,
    /// Fences go to the disk.
    Disk(Msynced),
    /// Fences go to another memory.
    Shadow(Box<Shadow>),
}

/// A mapped file or device.
#[derive(Debug)]
pub struct Mapped {
    region: Native,
    storing: Storing,
    fd: OwnedFd,
    /// What a shadow stands before: the medium's mapping, and its file, which is the one that is locked.
    below: Option<(Native, OwnedFd)>,
    path: PathBuf,
    align: u64,
    durability: Durability,
    is_device: bool,
    /// Segments that `reserve` has covered, one bit each; `None` where there is nothing to reserve.
    reserved: Option<Mutex<Vec<u64>>>,
}

/// How long an opening waits for the process that has the pool: a killed one gives it up when its memory is torn down, which takes its time
/// on a busy host.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// statfs type of tmpfs (`TMPFS_MAGIC` in linux/magic.h).
const TMPFS: u64 = 0x0102_1994;
/// The same for hugetlbfs.
const HUGETLBFS: u64 = 0x9584_58f6;

impl Mapped {
    fn io<'a>(path: &'a Path, action: &'static str) -> impl Fn(Errno) -> Error + 'a {
        move |error| Error::Io { action, path: path.to_owned(), source: error.into() }
    }

    /// Locks the medium. Who has it may have been killed, and be on the way out: it is waited for, a little.
    fn lock(fd: &OwnedFd, path: &Path) -> Result<()> {
        let begun = Instant::now();
        loop {
            match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(()),
                Err(Errno::WOULDBLOCK) if begun.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                Err(Errno::WOULDBLOCK) => return Err(Error::Locked { path: path.to_owned() }),
                Err(error) => return Err(Self::io(path, "lock")(error)),
            }
        }
    }

    /// Opens, locks and sizes the medium of a new pool, and maps it.
    ///
    /// A new file has another name until it is a pool: the caller gives it its own with [`Staged::publish`].
    pub(crate) fn create(path: &Path, size: u64, options: &CreateOptions) -> Result<(Self, Staged)> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE;
        loop {
            let staged = Staged::of(path);
            let at = staged.path.as_deref().unwrap_or(path);
            let fd =
                rustix::fs::open(at, flags, Mode::from_raw_mode(0o600)).map_err(Self::io(path, "create"))?;
            // Not ours to remove if somebody else is making a pool there.
            Self::lock(&fd, path).inspect_err(|_| staged.leave())?;
            if staged.is_name_of(&fd) {
                return Ok((Self::create_in(fd, path, size, options, staged.path.is_some())?, staged));
            }
            staged.leave();
        }
    }

    /// `is_staged`: what is in the file is what a killed process left, whatever it looks like.
    fn create_in(
        fd: OwnedFd,
        path: &Path,
        size: u64,
        options: &CreateOptions,
        is_staged: bool,
    ) -> Result<Self> {
        let stat = rustix::fs::fstat(&fd).map_err(Self::io(path, "examine"))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            let had = u64::try_from(stat.st_size).unwrap_or(0);
            let size = if size == 0 { had } else { size };
            let size = size - size % SEGMENT;
            if size < crate::format::MIN_SIZE {
                return Err(Error::TooSmall { size, least: crate::format::MIN_SIZE });
            }
            if size > crate::format::MAX_SIZE {
                return Err(Error::TooLarge { size, most: crate::format::MAX_SIZE });
            }
            let mut magic = [0; 8];
            let read = rustix::io::pread(&fd, &mut magic, 0).map_err(Self::io(path, "read"))?;
            if read == 8 && magic == *b"TWZPOOL1" && !options.force && !is_staged {
                return Err(Error::AlreadyAPool { path: path.to_owned() });
            }
            // Emptied first: an older pool's metadata must not show through.
            rustix::fs::ftruncate(&fd, 0).map_err(Self::io(path, "empty"))?;
            rustix::fs::ftruncate(&fd, size).map_err(Self::io(path, "size"))?;
        }
        let mut mapped = Self::map(fd, path, options.relaxed)?;
        if mapped.is_device {
            let superblock = crate::format::superblock::Superblock::load(&mapped, 0);
            if superblock.magic == crate::format::superblock::MAGIC && !options.force {
                return Err(Error::AlreadyAPool { path: path.to_owned() });
            }
            if size > mapped.region.len() {
                return Err(Error::TooLarge { size, most: mapped.region.len() });
            }
        }
        if let Some(granule) = options.granule {
            let usable = granule.is_power_of_two() && (mapped.align..=SEGMENT).contains(&granule);
            if !usable {
                return Err(Error::Alignment { align: mapped.align, granule });
            }
            mapped.align = granule;
        }
        Ok(mapped)
    }

    /// Opens, locks and maps the medium of a pool.
    pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(Self::io(path, "open"))?;
        Self::lock(&fd, path)?;
        Self::map(fd, path, options.relaxed)
    }

    fn map(fd: OwnedFd, path: &Path, relaxed: bool) -> Result<Self> {
        let stat = rustix::fs::fstat(&fd).map_err(Self::io(path, "examine"))?;
        let (size, align, is_device) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => (u64::try_from(stat.st_size).unwrap_or(0), PAGE, false),
            FileType::CharacterDevice => {
                let (size, align) = device::geometry(path, stat.st_rdev)?;
                (size, align, true)
            }
            _ => return Err(Error::NotAPool),
        };
        if align > SEGMENT {
            return Err(Error::Alignment { align, granule: SEGMENT });
        }
        // Whole segments only; a file shorter than the pool in it still shows its superblock.
        let size = size - size % if size < SEGMENT { PAGE } else { SEGMENT };
        if size < crate::format::MIN_SIZE {
            return Err(Self::too_short(&fd, size));
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let map = |flags| {
            // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
            unsafe { rustix::mm::mmap(core::ptr::null_mut(), index(size), protection, flags, &fd, 0) }
        };
        // MAP_SYNC is only heeded with SHARED_VALIDATE (mmap(2)); it is refused where there is no DAX.
        let synchronous = map(MapFlags::SHARED_VALIDATE | MapFlags::SYNC);
        let dax = synchronous.is_ok() || is_device;
        let base = synchronous.or_else(|_| map(MapFlags::SHARED)).map_err(Self::io(path, "map"))?;
        // SAFETY: D1, the mapping lives until `drop`; page-aligned; never used as a reference.
        let region = unsafe { Native::new(base.cast(), size) };
        let filesystem = rustix::fs::fstatfs(&fd).map_or(0, |stat| stat.f_type.cast_unsigned());
        let durability = match filesystem {
            _ if dax => Durability::Dax,
            TMPFS | HUGETLBFS => Durability::Volatile,
            _ if relaxed => Durability::Relaxed,
            _ => Durability::Disk,
        };
        let storing = if durability == Durability::Disk {
            // SAFETY: as for `region`; a shared mapping of a file.
            Storing::Disk(unsafe { Msynced::new(base.cast(), size) })
        } else {
            Storing::Caches
        };
        let segments = index(size / SEGMENT);
        let reserved = (!is_device).then(|| Mutex::new(vec![0; segments.div_ceil(64)]));
        let (path, below) = (path.to_owned(), None);
        Ok(Self { region, storing, fd, below, path, align, durability, is_device, reserved })
    }

    /// Why a file that is too short to be mapped is no pool.
    fn too_short(fd: &OwnedFd, size: u64) -> Error {
        let mut bytes = [0; 64];
        let read = rustix::io::pread(fd, &mut bytes, 0).unwrap_or(0);
        let superblock: crate::format::superblock::Superblock = zerocopy::transmute!(bytes);
        if read == bytes.len() && superblock.magic == crate::format::superblock::MAGIC {
            return Error::Truncated { expected: superblock.size, found: size };
        }
        Error::NotAPool
    }

    /// See [`crate::Pool::backing`].
    #[must_use]
    pub fn backing(&self) -> Backing<'_> {
        let map_sync = self.durability == Durability::Dax && !self.is_device;
        Backing { fd: self.fd.as_fd(), size: self.region.len(), granule: self.align, map_sync }
    }

    /// See [`crate::Pool::durability`].
    #[must_use]
    pub const fn durability(&self) -> Durability {
        self.durability
    }

    /// The address of the pool's first byte. Its pages may change under the reader at any time.
    #[must_use]
    pub const fn base(&self) -> *mut u8 {
        self.region.base()
    }

    /// See [`crate::Pool::sync`].
    pub(crate) fn sync(&self) -> Result<()> {
        self.region.fence();
        if let Storing::Shadow(shadow) = &self.storing {
            shadow.settle();
        }
        if !self.is_device {
            let file = self.below.as_ref().map_or(&self.fd, |(_, file)| file);
            rustix::fs::fsync(file).map_err(Self::io(&self.path, "sync"))?;
        }
        self.check()
    }

    pub(crate) const fn is_device(&self) -> bool {
        self.is_device
    }

    /// Makes a file `size` bytes long; the mapping stays as it is.
    pub(crate) fn extend(&self, size: u64) -> Result<()> {
        if self.is_device {
            return Ok(());
        }
        rustix::fs::ftruncate(&self.fd, size).map_err(Self::io(&self.path, "lengthen"))
    }

    fn allocate(&self, at: u64, len: u64) -> Result<()> {
        match rustix::fs::fallocate(&self.fd, FallocateFlags::empty(), at, len) {
            // Filesystems that cannot promise blocks leave the risk of a full disk to the store.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(Errno::NOSPC | Errno::DQUOT) => Err(Error::DiskFull { path: self.path.clone(), bytes: len }),
            Err(error) => Err(Self::io(&self.path, "reserve disk space in")(error)),
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        for region in
            [Some(self.region), self.below.as_ref().map(|(region, _)| *region)].into_iter().flatten()
        {
            let (base, len) = (region.base(), index(region.len()));
            // SAFETY: the mapping was made by `map` or `shadowed` with this size, and D1 ends here: all who know it go with us.
            // Unmapping cannot fail for a mapping that exists.
            let _ = unsafe { rustix::mm::munmap(base.cast(), len) };
        }
    }
}

impl Medium for Mapped {
    fn reserve(&self, at: u64, len: u64) -> Result<()> {
        let Some(reserved) = &self.reserved else { return Ok(()) };
        let mut reserved = reserved.lock().unwrap_or_else(PoisonError::into_inner);
        for segment in at / SEGMENT..(at + len).div_ceil(SEGMENT) {
            let (word, mask) = (index(segment / 64), 1 << (segment % 64));
            if reserved[word] & mask == 0 {
                self.allocate(segment * SEGMENT, SEGMENT)?;
                reserved[word] |= mask;
            }
        }
        Ok(())
    }

    fn expect_reads(&self, at: u64, len: u64) {
        let inside = len <= self.region.len() && at <= self.region.len() - len;
        if inside && at.is_multiple_of(PAGE) {
            let address = self.region.base().wrapping_add(index(at));
            // SAFETY: a piece of our mapping (D1); populating changes no memory. Old kernels refuse: no harm.
            let _ = unsafe { rustix::mm::madvise(address.cast(), index(len), Advice::LinuxPopulateRead) };
        }
    }

    fn probe(&self, at: u64) -> Result<()> {
        let at = at - at % PAGE;
        if at >= self.region.len() {
            return Ok(());
        }
        let address = self.region.base().wrapping_add(index(at));
        // SAFETY: a page of our mapping (D1); populating changes no memory.
        match unsafe { rustix::mm::madvise(address.cast(), index(PAGE), Advice::LinuxPopulateRead) } {
            // What madvise(2) says of a page at which a read would end in SIGBUS.
            Err(error @ (Errno::FAULT | Errno::HWPOISON)) => {
                Err(Error::Unreadable { path: self.path.clone(), at, source: error.into() })
            }
            _ => Ok(()),
        }
    }

    fn check(&self) -> Result<()> {
        match &self.storing {
            Storing::Disk(synced) if synced.failed() => Err(Error::NotDurable),
            _ => Ok(()),
        }
    }
}

/// Calls the method of what makes stores durable.
macro_rules! by_storing {
    ($self:ident, $method:ident($($argument:ident),*)) => {
        match &$self.storing {
            Storing::Caches => $self.region.$method($($argument),*),
            Storing::Disk(synced) => synced.$method($($argument),*),
            Storing::Shadow(shadow) => shadow.$method($($argument),*),
        }
    };
}

impl Pmem for Mapped {
    pmem::loads_and_stores_of!(region);

    #[inline]
    fn write_nt(&self, at: u64, from: &[u8]) {
        by_storing!(self, write_nt(at, from));
    }
    #[inline]
    fn zero_nt(&self, at: u64, len: u64) {
        by_storing!(self, zero_nt(at, len));
    }
    #[inline]
    fn copy_nt(&self, from: u64, to: u64, len: u64) {
        by_storing!(self, copy_nt(from, to, len));
    }
    #[inline]
    fn flush(&self, at: u64, len: u64) {
        by_storing!(self, flush(at, len));
    }
    #[inline]
    fn fence(&self) {
        by_storing!(self, fence());
    }
}
