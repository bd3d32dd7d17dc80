//! `unixrbt`: nodes in files that are mapped somewhere; pointers are a file's number and an offset.

use crate::count::Conversion;
use crate::tree::{Error, Link, Node, Pointers};
use core::sync::atomic::Ordering;
use std::path::Path;
use unixkv::Mapping;

/// Bytes before the first node: the root link of file 0, and how many bytes of the file are used.
const HEADER: usize = 64;
const USED: usize = 8;

/// Nodes in files, used in turn.
#[derive(Debug)]
pub struct Unix {
    files: Vec<Mapping>,
    /// Where each file is mapped here, and its size: what a UNIX program keeps to turn pointers into addresses.
    bases: Vec<(usize, usize)>,
}

impl Unix {
    /// A tree in `count` files of `bytes` in `folder`; goes on with what they hold.
    ///
    /// # Errors
    /// [`unixkv::Error::File`].
    pub fn open(folder: &Path, count: usize, bytes: usize) -> Result<Self, unixkv::Error> {
        let open = |number| Mapping::open(&folder.join(format!("tree.{number}")), bytes, false);
        let files = (0..count.max(1)).map(open).collect::<Result<Vec<_>, _>>()?;
        let bases = files.iter().map(|file| (file.base().expose_provenance(), file.len())).collect();
        Ok(Self { files, bases })
    }

    #[inline]
    fn node(&self, file: usize, offset: usize) -> Option<&Node> {
        let &(base, bytes) = self.bases.get(file)?;
        let inside = offset >= HEADER && offset <= bytes - size_of::<Node>() && offset.is_multiple_of(8);
        // SAFETY: inside the mapping, which lives as long as `self`, aligned; any bits are a node, which changes by atomics only.
        inside.then(|| unsafe { &*core::ptr::with_exposed_provenance(base + offset) })
    }
}

impl Pointers for Unix {
    fn root(&self) -> &Link {
        self.files[0].word(0)
    }

    fn make(&self) -> Result<&Node, Error> {
        // The file with the fewest nodes: they are filled evenly.
        let used = |file: &Mapping| file.load(USED).max(HEADER as u64);
        let (number, file) =
            self.files.iter().enumerate().min_by_key(|(_, file)| used(file)).ok_or(Error::Full)?;
        let offset = usize::try_from(used(file)).map_err(|_| Error::Damaged)?;
        if offset > file.len() - size_of::<Node>() {
            return Err(Error::Full);
        }
        file.store(USED, (offset + size_of::<Node>()) as u64);
        self.node(number, offset).ok_or(Error::Damaged)
    }

    #[inline]
    fn follow(&self, link: &Link) -> Result<Option<&Node>, Error> {
        let pointer = link.load(Ordering::Relaxed);
        if pointer == 0 {
            return Ok(None);
        }
        #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits wide here")]
        let node = self.node((pointer >> 32) as usize, (pointer & 0xffff_ffff) as usize);
        node.map(Some).ok_or(Error::Damaged)
    }

    #[inline]
    fn lead(&self, link: &Link, to: Option<&Node>) -> Result<(), Error> {
        let mut pointer = 0;
        if let Some(node) = to {
            let address = core::ptr::from_ref(node).addr();
            let inside = |&(base, bytes): &(usize, usize)| address.wrapping_sub(base) < bytes;
            let number = self.bases.iter().position(inside).ok_or(Error::Damaged)?;
            pointer = (number as u64) << 32 | (address - self.bases[number].0) as u64;
        }
        link.store(pointer, Ordering::Relaxed);
        Ok(())
    }

    fn conversion(pointer: u64) -> Conversion {
        if pointer == 0 { Conversion::None } else { Conversion::Table }
    }
}
