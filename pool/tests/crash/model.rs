//! What a pool holds, as far as its users can see.

use pmem::sim::Sim;
use pool::{ObjectRef, Pool, Result};
use twz_abi::ObjectId;

/// How closely objects are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looks {
    /// The words at the probes: fast.
    Probes,
    /// Every byte that has a page, by hash.
    Everything,
}

/// Where objects are looked at.
#[derive(Clone, Debug)]
pub(crate) struct Probes {
    /// Offsets of words.
    pub(crate) offsets: Vec<u64>,
    pub(crate) looks: Looks,
}

/// Everything observable, in canonical order.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// ID, whether deleted, and the words at the probes.
    objects: Vec<(ObjectId, bool, Vec<u64>)>,
    /// The pages of the probes that are present, and whether shared.
    present: Vec<(ObjectId, u64, bool)>,
    names: Vec<(String, ObjectId)>,
    roots: Vec<(String, u128)>,
    ties: Vec<(ObjectId, ObjectId)>,
    /// A deleted object is in use. A crash ends it, and with it the sharing of its pages.
    in_use: bool,
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        let pages = |of: &Self| -> Vec<(ObjectId, u64, bool)> {
            let exact = !self.in_use && !other.in_use;
            of.present.iter().map(|&(id, offset, shared)| (id, offset, shared && exact)).collect()
        };
        self.same_but_pages(other) && pages(self) == pages(other)
    }
}

/// Hash of all bytes that are not zero, wherever they have pages.
fn hash_of(object: &ObjectRef<&Sim>) -> Result<u64> {
    let mut hash = 0u64;
    let mut page = [0; 4096];
    for extent in object.extents()? {
        for offset in (extent.object_offset..extent.object_offset + extent.len).step_by(4096) {
            object.read(offset, &mut page)?;
            for (number, word) in page.chunks_exact(8).enumerate() {
                let word = u64::from_le_bytes(word.try_into().unwrap());
                hash ^= (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word >> 29)
                    .wrapping_mul(offset + 2 * number as u64 + 1);
            }
        }
    }
    Ok(hash)
}

impl Snapshot {
    pub(crate) fn take(pool: &Pool<&Sim>, probes: &Probes) -> Result<Self> {
        let mut ids = pool.object_ids();
        // Deleted ones in use are gone after a crash.
        let all = ids.len();
        ids.retain(|id| pool.contains(*id));
        let in_use = ids.len() < all;
        ids.sort_unstable();
        let mut objects = Vec::with_capacity(ids.len());
        let mut ties = Vec::new();
        let mut present = Vec::new();
        for id in ids {
            let doomed = pool.stat_object(id)?.doomed;
            let object = pool.open_object(id)?;
            let words = probes.offsets.iter().map(|&offset| {
                let mut word = [0; 8];
                object.read(offset, &mut word).map(|()| u64::from_le_bytes(word))
            });
            let mut words: Vec<u64> = words.collect::<Result<_>>()?;
            if probes.looks == Looks::Everything {
                words.push(hash_of(&object)?);
            }
            objects.push((id, doomed, words));
            for &offset in &probes.offsets {
                if let Some(extent) = object.lookup(offset)? {
                    present.push((id, offset, extent.shared));
                }
            }
            ties.extend(pool.ties(id).0.into_iter().map(|holder| (id, holder)));
        }
        Ok(Self { objects, present, names: pool.names(), roots: pool.roots(), ties, in_use })
    }

    /// Whether this is wholly one or the other, except that each page of zeros may have come or not: nobody can tell
    /// a page of zeros from none.
    pub(crate) fn is_either(&self, before: &Self, after: &Self) -> bool {
        let page_is = |page: &(ObjectId, u64, bool), of: &Self| {
            of.present.iter().any(|&(id, offset, _)| (id, offset) == (page.0, page.1))
        };
        let gained = self.present.iter().all(|page| page_is(page, before) || page_is(page, after));
        let kept = before.present.iter().all(|page| page_is(page, self) || !page_is(page, after));
        (self.same_but_pages(before) || self.same_but_pages(after)) && gained && kept
    }

    fn same_but_pages(&self, other: &Self) -> bool {
        self.objects == other.objects
            && self.names == other.names
            && self.roots == other.roots
            && self.ties == other.ties
    }

    /// For the reader of a failure: which parts are neither as before nor as after.
    pub(crate) fn difference(&self, before: &Self, after: &Self) -> String {
        let mut text = String::new();
        for (id, doomed, words) in &self.objects {
            let known = |other: &Self| {
                other.objects.iter().any(|(of, was, had)| (of, was, had) == (id, doomed, words))
            };
            if !known(before) && !known(after) {
                text += &format!("object {id} doomed {doomed} words {words:x?}; ");
            }
        }
        if self.objects.len() != before.objects.len() && self.objects.len() != after.objects.len() {
            text += &format!("{} objects; ", self.objects.len());
        }
        if self.names != before.names && self.names != after.names {
            text += &format!("names {:?}; ", self.names);
        }
        if self.roots != before.roots && self.roots != after.roots {
            text += &format!("roots {:?}; ", self.roots);
        }
        if self.ties != before.ties && self.ties != after.ties {
            text += &format!("ties {:?}; ", self.ties);
        }
        if text.is_empty() {
            text = "a mixture of before and after, or before although the operation had returned".to_owned();
        }
        text
    }
}
