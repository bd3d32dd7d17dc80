//! Objects that are written before they exist, page by page.

use crate::Medium;
use crate::core::Pool;
use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::records::Birth;
use crate::map::Run;
use crate::objects::ObjectSpec;
use crate::space::Pages;
use std::collections::BTreeMap;

/// An object to be. Until [`Self::finish`] nobody sees it, and dropping it gives its pages back.
pub(crate) struct ObjectWriter<'a, M: Medium> {
    pool: &'a Pool<M>,
    birth: Birth,
    /// First object page of a granule -> its pages in the pool.
    granules: BTreeMap<u64, Pages>,
    near: Option<u64>,
}

impl<M: Medium> Pool<M> {
    /// Begins an object that does not exist.
    pub(crate) fn begin_object(&self, birth: Birth) -> Result<ObjectWriter<'_, M>> {
        if self.contains(birth.id) {
            return Err(Error::Exists(birth.id));
        }
        Ok(ObjectWriter { pool: self, birth, granules: BTreeMap::new(), near: None })
    }
}

impl<M: Medium> ObjectWriter<'_, M> {
    /// Writes the object's page `page`.
    pub(crate) fn put(&mut self, page: u64, bytes: &[u8]) -> Result<()> {
        let core = &self.pool.0;
        let unit = core.unit();
        let first = page - page % unit;
        let taken = match self.granules.get(&first) {
            Some(&taken) => taken,
            None => {
                let taken = core.state().take(unit, self.near)?;
                self.granules.insert(first, taken);
                self.near = Some(taken.end());
                core.pmem.reserve(taken.start * PAGE, unit * PAGE)?;
                if unit > 1 {
                    core.pmem.zero_nt(taken.start * PAGE, unit * PAGE);
                }
                taken
            }
        };
        core.pmem.write_nt((taken.start + page - first) * PAGE, bytes);
        Ok(())
    }

    /// Makes the object exist, whole.
    pub(crate) fn finish(mut self) -> Result<()> {
        let core = &self.pool.0;
        let runs: Vec<Run> = self
            .granules
            .iter()
            .map(|(&object_page, taken)| Run {
                object_page,
                pages: taken.count,
                pool_page: Some(taken.start),
            })
            .collect();
        let mut state = core.state();
        if state.objects.contains_key(&self.birth.id) {
            return Err(Error::Exists(self.birth.id));
        }
        core.fill_record(&mut state, self.birth, &runs, &ObjectSpec::default())?;
        self.granules.clear();
        drop(state);
        core.pmem.check()
    }
}

impl<M: Medium> Drop for ObjectWriter<'_, M> {
    fn drop(&mut self) {
        let mut state = self.pool.0.state();
        for &taken in self.granules.values() {
            state.space.release(taken);
        }
    }
}
