//! Objects as a context sees them: bound by the monitor, with one set of lower tables that all views in the context share.

use crate::kernel::Kernel;
use crate::mailbox::Mailbox;
use crate::memory::chains::chained;
use crate::memory::chunks::ChunkSet;
use crate::memory::table::{Table, bits};
use twz_abi::{ErrorCode, ObjectId, Rights};

/// Lists in which object maps are found.
pub(crate) const MAP_CHAINS: usize = 4096;
/// Bytes that one level-1 table covers.
const CHUNK_SIZE: u64 = 2 << 20;

/// An object in a context.
pub(crate) struct ObjectMap {
    pub(crate) context: ObjectId,
    /// The context's record.
    pub(crate) record: u32,
    pub(crate) object: ObjectId,
    binding: u64,
    pub(crate) granted: Rights,
    pub(crate) directory: Table,
    /// The entries of `directory` that are in use.
    chunks: ChunkSet,
    /// Slots and views that use it.
    uses: u32,
    next: Option<u32>,
}
chained!(ObjectMap);

impl Kernel {
    /// The map of an object in a context, bound if it was not; counts one more use.
    pub(crate) fn use_object(
        &mut self,
        mailbox: Mailbox,
        record: u32,
        object: ObjectId,
    ) -> crate::Result<u32> {
        let context = self.contexts[record].id;
        let hash = hash_of(context, object);
        let is_it = |map: &ObjectMap| map.object == object && map.context == context;
        if let Some(index) = self.map_chains.find(&self.maps, hash, is_it) {
            self.maps[index].uses += 1;
            return Ok(index);
        }
        self.visit(mailbox, record)?;
        let bound = mailbox.bind(context, object)?;
        self.counters().binds += 1;
        let Some(directory) = Table::allocate(&mut self.frames) else {
            mailbox.unbind(bound.binding);
            return Err(ErrorCode::NoMemory);
        };
        let map = ObjectMap {
            context,
            record,
            object,
            binding: bound.binding,
            granted: bound.granted,
            directory,
            chunks: ChunkSet::EMPTY,
            uses: 1,
            next: None,
        };
        match self.maps.insert(&mut self.frames, map) {
            Ok(index) => {
                self.map_chains.link(&mut self.maps, hash, index);
                Ok(index)
            }
            Err(map) => {
                map.directory.free(&mut self.frames);
                mailbox.unbind(map.binding);
                Err(ErrorCode::NoMemory)
            }
        }
    }

    /// One use fewer; the last one unbinds the object and frees its tables. No hart may have translations through them any more.
    pub(crate) fn release_object(&mut self, mailbox: Mailbox, index: u32) {
        let map = &mut self.maps[index];
        map.uses -= 1;
        if map.uses > 0 {
            return;
        }
        let hash = hash_of(map.context, map.object);
        self.map_chains.unlink(&mut self.maps, hash, index);
        let Some(map) = self.maps.remove(&mut self.frames, index) else { return };
        for chunk in map.chunks {
            if let Some(table) = Table::of_entry(map.directory.get(chunk)) {
                table.free(&mut self.frames);
            }
        }
        map.directory.free(&mut self.frames);
        // From elsewhere the monitor would refuse. If the root cannot be reached, nothing is shown in it either.
        if self.visit(mailbox, map.record).is_ok() {
            mailbox.unbind(map.binding);
        }
        self.counters().unbinds += 1;
    }

    /// Makes the page at `offset` of a bound object usable for `access`: `twzvmm` backs it and fills in the table, which is then linked.
    pub(crate) fn back(&mut self, mailbox: Mailbox, map: u32, offset: u64, access: Rights) -> crate::Result {
        match self.back_if_room(mailbox, map, offset, access) {
            Err(ErrorCode::WindowFull) => {
                self.empty_window(mailbox, self.maps[map].record)?;
                self.back_if_room(mailbox, map, offset, access)
            }
            answer => answer,
        }
    }

    /// [`Kernel::back`] in a window with room for another chunk, or for none; tables that were linked before may be gone after that.
    fn back_if_room(&mut self, mailbox: Mailbox, map: u32, offset: u64, access: Rights) -> crate::Result {
        let directory = self.maps[map].directory;
        let chunk = offset / CHUNK_SIZE;
        let entry = directory.get(chunk);
        let needed = bits::PRESENT | if access.contains(Rights::WRITE) { bits::WRITE } else { 0 };
        let (table, is_new) = match Table::of_entry(entry) {
            // Another hart was first, or this one has an old translation.
            Some(table) if table.get(offset / twz_abi::PAGE_SIZE % 512) & needed == needed => return Ok(()),
            None if entry & bits::LARGE != 0 && entry & needed == needed => return Ok(()),
            Some(table) => (table, false),
            None => (Table::allocate(&mut self.frames).ok_or(ErrorCode::NoMemory)?, true),
        };
        self.counters().touches += 1;
        let flags = bits::PRESENT | bits::WRITE | bits::USER | bits::ACCESSED;
        let mut answer = self.touch(mailbox, map, offset, access, table);
        if matches!(answer, Err(ErrorCode::NotPermitted)) {
            // Revoked since it was bound, which leaves the binding as it is; the context may have been given the right again since.
            answer =
                self.ask_again(mailbox, map).and_then(|()| self.touch(mailbox, map, offset, access, table));
        }
        if let Ok((_, rights)) = answer {
            self.regrant(mailbox, map, rights);
        }
        self.counters().large_pages += u64::from(matches!(answer, Ok((Some(_), _))));
        match answer.map(|(large, _)| large) {
            Ok(None) => {
                if is_new {
                    directory.set(chunk, table.address() | flags);
                    self.maps[map].chunks.add(chunk);
                }
                Ok(())
            }
            Ok(Some(large)) if is_new => {
                directory.set(chunk, large | flags | bits::DIRTY | bits::LARGE);
                self.maps[map].chunks.add(chunk);
                table.free(&mut self.frames);
                Ok(())
            }
            Ok(Some(large)) => {
                // The table may be in use by other harts' walkers: keep it, and point all of it at the large page's parts.
                (0..512).for_each(|page| {
                    table.set(page, (large + page * twz_abi::PAGE_SIZE) | flags | bits::DIRTY)
                });
                Ok(())
            }
            Err(error) => {
                if is_new {
                    table.free(&mut self.frames);
                }
                Err(error)
            }
        }
    }

    /// Asks the monitor for a page of a bound object.
    fn touch(
        &mut self,
        mailbox: Mailbox,
        map: u32,
        offset: u64,
        access: Rights,
        table: Table,
    ) -> crate::Result<(Option<u64>, Rights)> {
        let (record, binding) = (self.maps[map].record, self.maps[map].binding);
        self.visit(mailbox, record)?;
        mailbox.touch(binding, offset, access, table.address())
    }

    /// The rights that the monitor gives to a bound object now.
    pub(crate) fn ask_again(&mut self, mailbox: Mailbox, map: u32) -> crate::Result {
        let (record, context, object) =
            (self.maps[map].record, self.maps[map].context, self.maps[map].object);
        self.visit(mailbox, record)?;
        let granted = mailbox.bind(context, object).map_or(Rights::empty(), |bound| bound.granted);
        self.regrant(mailbox, map, granted);
        Ok(())
    }

    /// Before the kernel's `attempt` at memory of a space: what is refused when its pages are settled is refused by the second stage.
    pub(crate) fn forget_refused(&mut self, mailbox: Mailbox, space: u32, attempt: u32) {
        if attempt % 3 == 2 {
            self.forget_pages(mailbox, self.spaces[space].context);
        }
    }

    /// The monitor has refused an access that the tables of `context` allowed: something was taken away since they were filled in.
    /// Unlinks them all, so that the next access of each page asks again and is answered exactly. Takes time by the chunks that are in use,
    /// not by the size of the objects.
    pub(crate) fn forget_pages(&mut self, mailbox: Mailbox, context: ObjectId) {
        let mut unlinked = None;
        for index in 0..self.maps.index_end() {
            let Some(map) = self.maps.get_mut(index).filter(|map| map.context == context) else { continue };
            for chunk in &mut map.chunks {
                let table = Table::of_entry(map.directory.get(chunk));
                map.directory.set(chunk, 0);
                if let Some(table) = table {
                    table.chain(unlinked);
                    unlinked = Some(table);
                }
            }
        }
        self.drop_everywhere(mailbox);
        // Only now can no hart be walking them.
        while let Some(table) = unlinked {
            unlinked = table.chained();
            table.free(&mut self.frames);
        }
    }
}

const fn hash_of(context: ObjectId, object: ObjectId) -> u64 {
    object.lo ^ object.hi.rotate_left(17) ^ context.lo.rotate_left(31)
}
