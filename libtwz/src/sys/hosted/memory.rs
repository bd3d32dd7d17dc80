//! Objects in the memory of this process: nothing outlives it. For unit tests and programs without a pool.

use super::{CreateSpec, Durability, Piece, Stat, Store, last_error};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use twz_abi::object::{DATA_OFFSET, MAX_SIZE};
use twz_abi::{ObjectId, PAGE_SIZE, Rights};

/// A store in one sparse memory file: object i at i GiB.
#[derive(Debug)]
pub struct MemoryStore {
    file: OwnedFd,
    objects: Mutex<Objects>,
    generation: u32,
    durability: Durability,
}

#[derive(Clone, Debug)]
struct Made {
    place: u64,
    spec: CreateSpec,
    /// Not deleted; of a volatile one: and of this boot.
    wanted: bool,
    /// Objects that it lives at least as long as.
    keepers: Vec<ObjectId>,
}

#[derive(Clone, Debug, Default)]
struct Objects {
    made: HashMap<ObjectId, Made>,
    next: u64,
    free: Vec<u64>,
    root: Option<ObjectId>,
}

impl MemoryStore {
    /// An empty store; flushed lines are said to be durable only if `TWZ_PMEM_FORCE` is set to 1, as PMDK's
    /// `PMEM_IS_PMEM_FORCE` does, so that costs can be compared.
    ///
    /// # Errors
    /// [`Error::Platform`].
    pub fn new() -> Result<Self> {
        Self::with_durability(super::forced_durability())
    }

    /// An empty store that says so about itself.
    ///
    /// # Errors
    /// [`Error::Platform`].
    pub fn with_durability(durability: Durability) -> Result<Self> {
        // SAFETY: a constant, NUL-terminated name.
        let file = unsafe { libc::memfd_create(c"twz-objects".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(last_error("make a memory file"));
        }
        // SAFETY: a descriptor that was just made and belongs to nobody else.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        Ok(Self { file, objects: Mutex::default(), generation: 1, durability })
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, id: ObjectId) -> Result<(u64, CreateSpec)> {
        self.objects().made.get(&id).map(|made| (made.place, made.spec)).ok_or(Error::NoSuchObject(id))
    }

    /// The same objects one boot later: what was locked is found by the new generation, and what was volatile is gone.
    #[must_use]
    pub fn rebooted(self) -> Self {
        let mut objects = self.objects();
        objects.made.values_mut().filter(|made| made.spec.volatile).for_each(|made| made.wanted = false);
        self.sweep(&mut objects);
        drop(objects);
        Self { generation: self.generation + 1, ..self }
    }

    /// Removes what nobody wants, and no object keeps that is there itself.
    fn sweep(&self, objects: &mut Objects) {
        loop {
            let is_kept =
                |made: &Made| made.wanted || made.keepers.iter().any(|id| objects.made.contains_key(id));
            let Some(id) = objects.made.iter().find(|(_, made)| !is_kept(made)).map(|(id, _)| *id) else {
                return;
            };
            let Some(gone) = objects.made.remove(&id) else { return };
            if self.punch(gone.place * MAX_SIZE..(gone.place + 1) * MAX_SIZE) {
                objects.free.push(gone.place); // only a place that is zeroes again may be used again
            }
        }
    }

    /// Makes a range of the file a hole.
    fn punch(&self, range: Range<u64>) -> bool {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (at, bytes) = (range.start.cast_signed(), (range.end - range.start).cast_signed());
        // SAFETY: our descriptor.
        unsafe { libc::fallocate(self.file.as_raw_fd(), mode, at, bytes) == 0 }
    }

    fn add(&self, spec: &CreateSpec) -> Result<(ObjectId, u64)> {
        let id = new_id();
        let mut objects = self.objects();
        let place = match objects.free.pop() {
            Some(place) => place,
            None => {
                objects.next += 1;
                objects.next - 1
            }
        };
        let end = (objects.next * MAX_SIZE).cast_signed();
        // SAFETY: our descriptor.
        if unsafe { libc::ftruncate(self.file.as_raw_fd(), end) } != 0 {
            return Err(last_error("grow the memory file"));
        }
        objects.made.insert(id, Made { place, spec: *spec, wanted: true, keepers: Vec::new() });
        Ok((id, place))
    }

    /// Calls `with` for each piece of `place` that holds data, as (offset in the object, bytes).
    fn for_data(&self, place: u64, mut with: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let start = (place * MAX_SIZE).cast_signed();
        let end = start + MAX_SIZE.cast_signed();
        let mut at = start;
        while at < end {
            // SAFETY: our descriptor.
            let data = unsafe { libc::lseek(self.file.as_raw_fd(), at, libc::SEEK_DATA) };
            if data < 0 || data >= end {
                break;
            }
            // SAFETY: our descriptor.
            let hole = unsafe { libc::lseek(self.file.as_raw_fd(), data, libc::SEEK_HOLE) };
            let hole = if hole < 0 { end } else { hole.min(end) };
            with((data - start).cast_unsigned(), (hole - data).cast_unsigned())?;
            at = hole;
        }
        Ok(())
    }
}

impl Store for MemoryStore {
    fn create(&self, spec: &CreateSpec) -> Result<ObjectId> {
        Ok(self.add(spec)?.0)
    }

    fn delete(&self, id: ObjectId) -> Result<()> {
        let mut objects = self.objects();
        objects.made.get_mut(&id).ok_or(Error::NoSuchObject(id))?.wanted = false;
        self.sweep(&mut objects);
        Ok(())
    }

    fn tie(&self, object: ObjectId, keeper: ObjectId) -> Result<()> {
        let mut objects = self.objects();
        if !objects.made.contains_key(&keeper) {
            return Err(Error::NoSuchObject(keeper));
        }
        let made = objects.made.get_mut(&object).ok_or(Error::NoSuchObject(object))?;
        if !made.keepers.contains(&keeper) && object != keeper {
            made.keepers.push(keeper);
        }
        Ok(())
    }

    fn keep(&self, id: ObjectId) -> Result<()> {
        keep(&mut self.objects(), id)
    }

    fn trim(&self, id: ObjectId, range: Range<u64>) -> Result<()> {
        let (place, _) = self.place(id)?;
        let is_whole = [range.start, range.end].iter().all(|at| at.is_multiple_of(PAGE_SIZE));
        if is_whole && range.start < range.end && range.end <= MAX_SIZE {
            let at = place * MAX_SIZE;
            let _ = self.punch(at + range.start..at + range.end); // what cannot be given back stays
        }
        Ok(())
    }

    fn copy(&self, source: ObjectId, spec: &CreateSpec) -> Result<ObjectId> {
        let (from, _) = self.place(source)?;
        let (id, to) = self.add(spec)?;
        let mut buffer = vec![0_u8; 1 << 20];
        self.for_data(from, |offset, bytes| {
            let mut done = 0;
            while done < bytes {
                let count = buffer.len().min(usize::try_from(bytes - done).unwrap_or(usize::MAX));
                let (read_at, write_at) = (from * MAX_SIZE + offset + done, to * MAX_SIZE + offset + done);
                read_all(&self.file, &mut buffer[..count], read_at)?;
                write_all(&self.file, &buffer[..count], write_at)?;
                done += count as u64;
            }
            Ok(())
        })?;
        Ok(id)
    }

    fn stat(&self, id: ObjectId) -> Result<Stat> {
        let (place, CreateSpec { default_rights, key, .. }) = self.place(id)?;
        let mut allocated = 0;
        self.for_data(place, |_, bytes| {
            allocated += bytes;
            Ok(())
        })?;
        Ok(Stat { allocated, default_rights, key, granted: Rights::all() })
    }

    fn piece(&self, id: ObjectId, _offset: u64) -> Result<Piece> {
        let (place, _) = self.place(id)?;
        Ok(Piece {
            object_offset: DATA_OFFSET,
            file_offset: place * MAX_SIZE + PAGE_SIZE,
            bytes: MAX_SIZE - DATA_OFFSET,
            file: self.file.as_raw_fd(),
        })
    }

    fn root(&self) -> Option<ObjectId> {
        self.objects().root
    }

    fn set_root(&self, id: ObjectId) -> Result<()> {
        let mut objects = self.objects();
        if objects.root.is_some_and(|root| objects.made.contains_key(&root)) {
            return Err(Error::NameExists);
        }
        keep(&mut objects, id)?;
        objects.root = Some(id);
        Ok(())
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn boot_generation(&self) -> u32 {
        self.generation
    }
}

fn keep(objects: &mut Objects, id: ObjectId) -> Result<()> {
    let made = objects.made.get_mut(&id).ok_or(Error::NoSuchObject(id))?;
    (made.spec.volatile, made.wanted) = (false, true);
    Ok(())
}

fn read_all(file: &OwnedFd, into: &mut [u8], at: u64) -> Result<()> {
    // SAFETY: the buffer is ours for its length.
    let got =
        unsafe { libc::pread(file.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), at.cast_signed()) };
    if got.cast_unsigned() == into.len() { Ok(()) } else { Err(last_error("read the memory file")) }
}

fn write_all(file: &OwnedFd, from: &[u8], at: u64) -> Result<()> {
    // SAFETY: the buffer is ours for its length.
    let put = unsafe { libc::pwrite(file.as_raw_fd(), from.as_ptr().cast(), from.len(), at.cast_signed()) };
    if put.cast_unsigned() == from.len() { Ok(()) } else { Err(last_error("write the memory file")) }
}

fn new_id() -> ObjectId {
    #[cfg(feature = "crash-sim")]
    if let Some(id) = crate::simulate::repeated_id() {
        return id;
    }
    let mut bytes = [0; 16];
    random(&mut bytes);
    ObjectId::from_u128(u128::from_le_bytes(bytes))
}

/// Fills `bytes` from the kernel's generator.
pub(super) fn random(bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: the buffer is ours for its length.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        filled += usize::try_from(got).unwrap_or(0); // interrupted: again
    }
}
