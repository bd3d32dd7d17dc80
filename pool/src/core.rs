//! The pool as a whole: what all operations share.

use crate::error::{Error, Result};
use crate::format::superblock::{Superblock, VERSION};
use crate::format::{MAX_SIZE, MIN_SIZE, PAGE, SEGMENT, SEGMENT_PAGES, Seal};
use crate::map::Reader;
use crate::medium::{CreateOptions, Durability, Mapped, OpenOptions};
use crate::meta::{Meta, format_segment};
use crate::names::Names;
use crate::object::{Opened, ShareHook};
use crate::space::{Pages, Space};
use crate::ties::Ties;
use crate::{Backing, Medium};
use pmem::Pmem;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use twz_abi::ObjectId;

/// An open pool. Clones are the same pool; it closes when the last clone and the last [`crate::ObjectRef`] are gone.
#[derive(Debug)]
pub struct Pool<M = Mapped>(pub(crate) Arc<Core<M>>);

impl<M> Clone for Pool<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
pub(crate) struct Core<M> {
    pub(crate) pmem: M,
    pub(crate) seal: Seal,
    pub(crate) superblock: Mutex<Superblock>,
    pub(crate) granule: u64,
    pub(crate) state: Mutex<State>,
    pub(crate) hook: RwLock<Option<Arc<dyn ShareHook>>>,
    /// Random, and the number of nonces made of it.
    pub(crate) nonce_base: u128,
    pub(crate) nonces: AtomicU64,
}

/// The directory and the allocator: volatile, derived from the medium.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) space: Space,
    pub(crate) meta: Meta,
    /// ID -> place of the record.
    pub(crate) objects: HashMap<ObjectId, u64, BuildHasherDefault<IdHasher>>,
    /// IDs that are being created: taken, but not to be found yet.
    pub(crate) pending: HashSet<ObjectId>,
    /// Deleted objects that are still tied or in use.
    pub(crate) doomed: BTreeSet<ObjectId>,
    pub(crate) names: Names,
    pub(crate) ties: Ties,
    /// Place of the record -> the object in use and how many [`crate::ObjectRef`]s there are.
    pub(crate) opened: HashMap<u64, (Arc<Opened>, usize)>,
}

impl State {
    /// Takes pages for data, of which tables are left what they may need ([`Space::take`]).
    ///
    /// # Errors
    /// [`Error::Full`].
    pub(crate) fn take(&mut self, count: u64, near: Option<u64>) -> Result<Pages> {
        self.space.take(count, near, self.meta.loose_blocks())
    }
}

/// IDs are hashes already: fold, and scatter the bits that the table looks at.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(32) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// What is used of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in the pool.
    pub size: u64,
    /// Bytes in use, metadata included.
    pub used: u64,
    /// Bytes in metadata segments.
    pub metadata: u64,
    /// Objects, doomed ones included.
    pub objects: u64,
    /// Deleted objects that are kept while tied or in use.
    pub doomed: u64,
    /// Names.
    pub names: u64,
    /// Ties.
    pub ties: u64,
    /// Pages of metadata that hold records.
    pub record_pages: u64,
    /// Pages of metadata that hold map nodes.
    pub map_pages: u64,
}

impl Pool<Mapped> {
    /// Makes a pool of `size` bytes (rounded down to 2 MiB) at `path`, a new file or a DAX device, and opens it. A `size` of
    /// 0 means all of an existing device or file.
    ///
    /// # Errors
    /// [`Error::AlreadyAPool`] unless forced, [`Error::TooSmall`], [`Error::TooLarge`], [`Error::Locked`],
    /// [`Error::Alignment`], [`Error::Io`] (disk full among others).
    pub fn create(path: &Path, size: u64, options: &CreateOptions) -> Result<Self> {
        let (mapped, staged) = Mapped::create(path, size, options)?;
        let (size, granule) = (mapped.backing().size, mapped.backing().granule);
        let pool = Self::format(mapped, size, granule)?;
        staged.publish(path)?;
        Ok(pool)
    }

    /// Opens the pool at `path` for this process alone.
    ///
    /// # Errors
    /// [`Error::NotAPool`], [`Error::Version`], [`Error::Truncated`], [`Error::Damaged`], [`Error::Alignment`],
    /// [`Error::Locked`], [`Error::Io`].
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        let mapped = Mapped::open(path, options)?;
        let (align, pool) = (mapped.backing().granule, Self::load(mapped)?);
        if pool.granule() < align {
            return Err(Error::Alignment { align, granule: pool.granule() });
        }
        Ok(pool)
    }

    /// Opens the pool at `path` on a shadow of it, which loses at a power failure what was not flushed and fenced: for tests of whole systems.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_shadowed(path: &Path, plan: pmem::shadow::Plan) -> Result<Self> {
        let mapped = Mapped::open(path, &OpenOptions::default())?;
        let align = mapped.backing().granule;
        let pool = Self::load(mapped.shadowed(plan)?)?;
        if pool.granule() < align {
            return Err(Error::Alignment { align, granule: pool.granule() });
        }
        Ok(pool)
    }

    /// What the pool stands on, for mapping pieces of it elsewhere: an extent's `pool_offset` is an offset in its file.
    #[must_use]
    pub fn backing(&self) -> Backing<'_> {
        self.0.pmem.backing()
    }

    /// What a store to the pool's memory needs to be durable.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.0.pmem.durability()
    }

    /// The shadow that [`Self::open_shadowed`] put before the medium.
    #[must_use]
    pub fn shadow(&self) -> Option<&pmem::shadow::Shadow> {
        self.0.pmem.shadow()
    }

    /// Says whether the page at this offset in the pool can be read at all, where the operating system can tell.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub fn probe(&self, pool_offset: u64) -> Result<()> {
        self.0.pmem.probe(pool_offset)
    }

    /// Writes everything to the medium, guests' plain stores included; for a clean shutdown.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NotDurable`] when an earlier write failed.
    pub fn sync(&self) -> Result<()> {
        if self.0.pmem.is_device() {
            // Nobody else knows what a device's lines in the caches are: all that are in use.
            let (fill, _) = self.segments();
            for (segment, _) in (0..).zip(fill).filter(|(_, used)| *used > 0) {
                self.0.pmem.flush(segment * SEGMENT, SEGMENT);
            }
        }
        self.0.pmem.sync()
    }
}

impl<M: Medium> Pool<M> {
    /// Makes a pool of `size` bytes with this granule in `pmem`, whatever was there, and opens it.
    ///
    /// # Errors
    /// [`Error::TooSmall`], [`Error::TooLarge`], [`Error::Alignment`], [`Error::Io`].
    pub fn format(pmem: M, size: u64, granule: u64) -> Result<Self> {
        let size = size.min(pmem.len());
        let size = size - size % SEGMENT;
        if size < MIN_SIZE {
            return Err(Error::TooSmall { size, least: MIN_SIZE });
        }
        if size > MAX_SIZE {
            return Err(Error::TooLarge { size, most: MAX_SIZE });
        }
        if !granule.is_power_of_two() || !(PAGE..=SEGMENT).contains(&granule) {
            return Err(Error::Alignment { align: granule, granule: SEGMENT });
        }
        pmem.reserve(0, SEGMENT)?;
        let mut uuid = [0; 16];
        fill_random(&mut uuid)?;
        let created = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let superblock = Superblock {
            magic: crate::format::superblock::MAGIC,
            version: VERSION,
            granule_log2: granule.trailing_zeros(),
            uuid,
            size,
            sequence: 1,
            created: created.map_or(0, |time| time.as_secs()),
            check: 0,
        };
        // An older pool here must not be found with half of its metadata gone.
        for number in 0..2 {
            pmem.zero_nt(Superblock::offset(number), PAGE);
        }
        pmem.fence();
        format_segment(&pmem, superblock.seal(), 0);
        pmem.fence();
        superblock.store(&pmem, 1);
        superblock.store(&pmem, 0);
        Self::load(pmem)
    }

    /// The medium.
    #[must_use]
    pub fn medium(&self) -> &M {
        &self.0.pmem
    }

    /// Smallest piece of the pool that can be mapped, in bytes.
    #[must_use]
    pub fn granule(&self) -> u64 {
        self.0.granule
    }

    /// The pool's UUID.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.0.superblock().uuid
    }

    /// When the pool was made, in seconds since 1970.
    #[must_use]
    pub fn created(&self) -> u64 {
        self.0.superblock().created
    }

    /// What is used.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let state = self.0.state();
        let (record_pages, map_pages) = state.meta.usage();
        Usage {
            size: state.space.pages() * PAGE,
            used: state.space.used_pages() * PAGE,
            metadata: state.meta.segments().len() as u64 * SEGMENT,
            objects: state.objects.len() as u64,
            doomed: state.doomed.len() as u64,
            names: state.names.len(false),
            ties: state.ties.len(),
            record_pages,
            map_pages,
        }
    }

    /// Used pages of each 2 MiB segment (0 to 512), and which segments hold metadata; for a space map.
    #[must_use]
    pub fn segments(&self) -> (Vec<u16>, Vec<u64>) {
        let state = self.0.state();
        (state.space.fill().to_vec(), state.meta.segments().to_vec())
    }

    /// For tests: what is in use, by how many, as a text. A running pool without replaced pages and a fresh open of the
    /// same bytes agree on it, or something leaked.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let state = self.0.state();
        format!("{:x?} {:x?}", state.space.fingerprint(), state.meta.fingerprint())
    }

    /// Sets what is called before pages of an object in use are shared or replaced.
    pub fn set_share_hook(&self, hook: Option<Arc<dyn ShareHook>>) {
        *self.0.hook.write().unwrap_or_else(PoisonError::into_inner) = hook;
    }
}

impl<M> Core<M> {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn superblock(&self) -> MutexGuard<'_, Superblock> {
        self.superblock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn reader(&self) -> Reader<'_, M> {
        Reader { pmem: &self.pmem, seal: self.seal }
    }

    /// Pages in a granule.
    pub(crate) fn unit(&self) -> u64 {
        (self.granule / PAGE).min(SEGMENT_PAGES)
    }
}

/// Fills `bytes` from the kernel's random numbers.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    let failed = |error: rustix::io::Errno| Error::Io {
        action: "read random numbers from",
        path: "getrandom".into(),
        source: error.into(),
    };
    let count =
        rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty()).map_err(failed)?;
    if count == bytes.len() { Ok(()) } else { Err(failed(rustix::io::Errno::AGAIN)) }
}
