//! Objects in the memory of this process: nothing outlives it. For unit tests and programs without a pool.

use super::{CreateSpec, Durability, Piece, Stat, Store, last_error};
use crate::error::{Error, Result};
use std::collections::HashMap;
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

#[derive(Clone, Debug, Default)]
struct Objects {
    places: HashMap<ObjectId, (u64, CreateSpec)>,
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
        self.objects().places.get(&id).copied().ok_or(Error::NoSuchObject(id))
    }

    /// The same objects one boot later: what was locked is found by the new generation.
    #[must_use]
    pub fn rebooted(self) -> Self {
        Self { generation: self.generation + 1, ..self }
    }

    fn add(&self, spec: &CreateSpec) -> Result<(ObjectId, u64)> {
        let mut bytes = [0; 16];
        random(&mut bytes);
        let id = ObjectId::from_u128(u128::from_le_bytes(bytes));
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
        objects.places.insert(id, (place, *spec));
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
        let (place, _) = self.place(id)?;
        let mut objects = self.objects();
        objects.places.remove(&id);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (at, bytes) = ((place * MAX_SIZE).cast_signed(), MAX_SIZE.cast_signed());
        // SAFETY: our descriptor.
        if unsafe { libc::fallocate(self.file.as_raw_fd(), mode, at, bytes) } == 0 {
            objects.free.push(place); // only a place that is zeroes again may be used again
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
        self.objects().root = Some(id);
        Ok(())
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn boot_generation(&self) -> u32 {
        self.generation
    }
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
