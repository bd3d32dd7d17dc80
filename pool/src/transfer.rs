//! Export and import: objects in one portable file, and back into any pool.
//!
//! # Contract
//! - A file holds objects with what their IDs are hashes of, so an import is checked against its IDs; references between objects
//!   are by ID and mean the same in the new pool.
//! - A file is checked whole (BLAKE3 at its end) before anything of it becomes visible; an import that fails leaves nothing.
//! - Pages of zeros are left out. Names and ties stay behind: they are the old pool's.
//!
//! The format is in `docs/formats/pool.md`.

use crate::Medium;
use crate::core::Pool;
use crate::error::{Error, Result};
use crate::format::records::Birth;
use crate::format::{OBJECT_PAGES, PAGE, index};
use crate::references::Target;
use object_id::object_id;
use std::collections::{BTreeSet, HashSet};
use std::io::{Read, Seek, SeekFrom, Write};
use twz_abi::{ObjectId, Rights};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// "TWZEXP01" in memory order.
const MAGIC: u64 = u64::from_le_bytes(*b"TWZEXP01");
const VERSION: u32 = 1;
/// Bytes of the hash at the end.
const HASH: u64 = 32;

/// Start of the file.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FileHeader {
    magic: u64,
    version: u32,
    /// Objects in the file.
    count: u32,
}
twz_abi::assert_layout!(FileHeader, size = 16, magic = 0, version = 8, count = 12);

/// Start of an object in the file; then, for each piece, a [`Piece`] and its pages; then a piece of no pages.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ObjectHeader {
    nonce: [u8; 16],
    key: ObjectId,
    rights: u32,
    kind: u32,
}
twz_abi::assert_layout!(ObjectHeader, size = 40, nonce = 0, key = 16, rights = 32, kind = 36);

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Piece {
    /// First page in the object.
    object_page: u32,
    /// Pages that follow; 0 ends the object.
    pages: u32,
}
twz_abi::assert_layout!(Piece, size = 8, object_page = 0, pages = 4);

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The pool's side.
    #[error(transparent)]
    Pool(#[from] Error),
    /// The file's side.
    #[error("cannot {action} the export file")]
    File {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// Not such a file, or damaged.
    #[error("not a good export file: {0}")]
    Format(&'static str),
}

fn file(action: &'static str) -> impl Fn(std::io::Error) -> TransferError {
    move |source| TransferError::File { action, source }
}

impl<M: Medium> Pool<M> {
    /// `roots` and every object of this pool that can be reached from them by references, roots first. References to objects that
    /// are not here are left out.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`] (a root), [`Error::Damaged`].
    pub fn closure(&self, roots: &[ObjectId]) -> Result<Vec<ObjectId>> {
        let mut seen: HashSet<ObjectId> = HashSet::new();
        let mut found = Vec::new();
        let mut waiting: Vec<ObjectId> = roots.iter().rev().copied().collect();
        while let Some(id) = waiting.pop() {
            if !seen.insert(id) {
                continue;
            }
            let object = match self.open_object(id) {
                Err(Error::NoSuchObject(_)) if !roots.contains(&id) => continue,
                other => other?,
            };
            found.push(id);
            for reference in object.references()? {
                waiting.extend(match reference.target {
                    Target::Id(id) => Some(id),
                    Target::Name(name) => name.and_then(|name| self.name_get(&name)),
                });
            }
        }
        Ok(found)
    }

    /// Writes objects to a file; `progress` gets the bytes done.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn export(
        &self,
        ids: &[ObjectId],
        to: &mut dyn Write,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), TransferError> {
        let mut hasher = blake3::Hasher::new();
        let mut put = |bytes: &[u8]| {
            hasher.update(bytes);
            to.write_all(bytes).map_err(file("write"))
        };
        let count =
            u32::try_from(ids.len()).map_err(|_| TransferError::Format("too many objects for one file"))?;
        put(FileHeader { magic: MAGIC, version: VERSION, count }.as_bytes())?;
        let mut done = 0;
        for &id in ids {
            let stat = self.stat_object(id)?;
            let object = self.open_object(id)?;
            let header = ObjectHeader {
                nonce: stat.nonce,
                key: stat.key,
                rights: stat.rights.bits(),
                kind: stat.kind,
            };
            put(header.as_bytes())?;
            let mut page = vec![0; index(PAGE)];
            for extent in object.extents()? {
                for offset in (extent.object_offset..extent.object_offset + extent.len).step_by(index(PAGE)) {
                    object.read(offset, &mut page)?;
                    done += PAGE;
                    if page.iter().any(|&byte| byte != 0) {
                        #[allow(clippy::cast_possible_truncation, reason = "an object has 2^18 pages")]
                        let object_page = (offset / PAGE) as u32;
                        put(Piece { object_page, pages: 1 }.as_bytes())?;
                        put(&page)?;
                    }
                }
                progress(done);
            }
            put(Piece { object_page: 0, pages: 0 }.as_bytes())?;
        }
        to.write_all(hasher.finalize().as_bytes()).map_err(file("write"))?;
        to.flush().map_err(file("write"))
    }

    /// Creates the objects of a file, all or none, and returns their IDs in its order. With `skip_existing`, objects that are here
    /// already stay as they are; else they are an error.
    ///
    /// # Errors
    /// [`TransferError`]; [`Error::Exists`] among others.
    pub fn import<F: Read + Seek>(
        &self,
        from: &mut F,
        skip_existing: bool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Vec<ObjectId>, TransferError> {
        let len = check_file(from)?;
        let mut from = from.take(len - HASH);
        let header: FileHeader = get(&mut from)?;
        let mut ids = Vec::new();
        let mut made = Vec::new();
        let result = (0..header.count).try_for_each(|_| {
            let (id, new) = self.import_object(&mut from, skip_existing, progress)?;
            ids.push(id);
            made.extend(new.then_some(id));
            Ok(())
        });
        if let Err(error) = result {
            for id in made {
                self.delete_object(id)?;
            }
            return Err(error);
        }
        Ok(ids)
    }

    /// Creates the next object of a file; says whether it is new.
    fn import_object(
        &self,
        from: &mut impl Read,
        skip_existing: bool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(ObjectId, bool), TransferError> {
        let header: ObjectHeader = get(from)?;
        let ObjectHeader { nonce, key, rights, kind } = header;
        let Some(default_rights) = Rights::from_bits(rights) else {
            return Err(TransferError::Format("unknown default rights"));
        };
        let id = object_id(&nonce, key, default_rights);
        let birth = Birth { id, nonce, key, rights, kind };
        let wanted = !self.contains(id);
        if !wanted && !skip_existing {
            return Err(Error::Exists(id).into());
        }
        // Made under a name of its own, so that a crash leaves no half of it: the record comes last.
        let mut pages: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut writer = wanted.then(|| self.begin_object(birth)).transpose()?;
        loop {
            let piece: Piece = get(from)?;
            if piece.pages == 0 {
                break;
            }
            for page in u64::from(piece.object_page)..u64::from(piece.object_page) + u64::from(piece.pages) {
                if page >= OBJECT_PAGES || !seen.insert(page) {
                    return Err(TransferError::Format("a page twice, or out of its object"));
                }
                let mut bytes = vec![0; index(PAGE)];
                from.read_exact(&mut bytes).map_err(file("read"))?;
                pages.push((page, bytes));
                progress(PAGE);
            }
            if let Some(writer) = &mut writer {
                for (page, bytes) in pages.drain(..) {
                    writer.put(page, &bytes)?;
                }
            }
            pages.clear();
        }
        if let Some(writer) = writer {
            writer.finish()?;
        }
        Ok((id, wanted))
    }
}

/// Reads a structure.
fn get<T: FromBytes + IntoBytes>(from: &mut impl Read) -> Result<T, TransferError> {
    let mut value = T::new_zeroed();
    from.read_exact(value.as_mut_bytes()).map_err(file("read"))?;
    Ok(value)
}

/// Checks header and hash of a file, and leaves it at its start. Returns its length.
fn check_file(from: &mut (impl Read + Seek)) -> Result<u64, TransferError> {
    let len = from.seek(SeekFrom::End(0)).map_err(file("read"))?;
    if len < 16 + HASH {
        return Err(TransferError::Format("too short"));
    }
    from.rewind().map_err(file("read"))?;
    let header: FileHeader = get(from)?;
    if header.magic != MAGIC {
        return Err(TransferError::Format("no export file at all"));
    }
    if header.version != VERSION {
        return Err(TransferError::Format("of another version"));
    }
    from.rewind().map_err(file("read"))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut left = len - HASH;
    while left > 0 {
        let count = buffer.len().min(index(left));
        from.read_exact(&mut buffer[..count]).map_err(file("read"))?;
        hasher.update(&buffer[..count]);
        left -= count as u64;
    }
    let mut hash = [0; 32];
    from.read_exact(&mut hash).map_err(file("read"))?;
    if hasher.finalize() != hash {
        return Err(TransferError::Format("its hash is wrong: it was damaged or cut"));
    }
    from.rewind().map_err(file("read"))?;
    Ok(len)
}
