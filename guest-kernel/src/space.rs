//! Spaces: first-stage tables of a (view, context) pair, and the objects that they map.
//!
//! ```text
//! Space.root (level 4) -> level 3, one entry a slot -> ObjectMap.directory (level 2) -> level 1
//!   `- belongs to the space; holds rights -´            `- belongs to (object, context); shared by its views -´
//! ```
//! A slot's level-3 entry is written when a thread first touches the slot: read the view entry, bind the object, install what
//! the monitor granted and the view asks for. Pages below are backed one fault at a time by `twzvmm`, which fills in the level-1 table.
//!
//! The view itself is readable to the kernel through its own directory at [`VIEW_WINDOW`], so that reading an entry is a load.

use crate::arch::{cpu, usercopy};
use crate::kernel::Kernel;
use crate::mailbox::Mailbox;
use crate::memory::table::{Table, bits, index};
use twz_abi::fault::{FaultCause, FaultInfo};
use twz_abi::object::{DATA_OFFSET, MAX_SIZE};
use twz_abi::view::{SLOT_COUNT, ViewEntry, entry_flags, entry_offset};
use twz_abi::{ErrorCode, ObjectId, Rights};
use zerocopy::FromBytes;

/// Where a space maps its view for the kernel: entry 384 of the top level, which no other mapping uses.
const VIEW_WINDOW: u64 = 0xffff_c000_0000_0000;
/// Entries of the top level that all spaces share: direct map, stacks, image.
const SHARED_ENTRIES: [u64; 3] = [256, 510, 511];
/// How often a view entry is read again while a program is changing it.
const READ_ATTEMPTS: u32 = 8;
/// Bytes that one level-1 table covers.
const CHUNK_SIZE: u64 = 2 << 20;

/// First-stage tables of a view in a context.
pub(crate) struct Space {
    pub(crate) view: ObjectId,
    pub(crate) context: ObjectId,
    root: Table,
    view_window: Table,
    /// The view's own map.
    view_map: u32,
    /// Threads in it.
    threads: u32,
    /// Slots that hold an object map, as a list.
    mappings: Option<u32>,
}

/// An object as a context sees it.
pub(crate) struct ObjectMap {
    context: ObjectId,
    object: ObjectId,
    binding: u64,
    granted: Rights,
    directory: Table,
    /// Slots and views that use it.
    uses: u32,
    next_in_bucket: Option<u32>,
}

/// A slot of a space that maps an object.
pub(crate) struct Mapping {
    slot: u64,
    map: u32,
    rights: Rights,
    next: Option<u32>,
}

impl Space {
    /// Guest-physical address of the top-level table.
    pub(crate) fn root_address(&self) -> u64 {
        self.root.address()
    }
}

impl Kernel {
    /// The space for a view in a context, made if there is none; counts one more thread in it.
    pub(crate) fn enter_space(
        &mut self,
        mailbox: Mailbox,
        view: ObjectId,
        context: ObjectId,
    ) -> Result<u32, ErrorCode> {
        for space in 0..self.spaces.index_end() {
            if let Some(known) = self.spaces.get_mut(space)
                && known.view == view
                && known.context == context
            {
                known.threads += 1;
                return Ok(space);
            }
        }
        let view_map = self.use_object(mailbox, context, view)?;
        let tables = self.new_space_tables(self.maps[view_map].directory);
        let Some((root, view_window)) = tables else {
            self.release_object(mailbox, view_map);
            return Err(ErrorCode::NoMemory);
        };
        let space = Space { view, context, root, view_window, view_map, threads: 1, mappings: None };
        self.spaces.insert(&mut self.frames, space).map_err(|space| {
            space.root.free(&mut self.frames);
            space.view_window.free(&mut self.frames);
            self.release_object(mailbox, view_map);
            ErrorCode::NoMemory
        })
    }

    fn new_space_tables(&mut self, view_directory: Table) -> Option<(Table, Table)> {
        let root = Table::allocate(&mut self.frames)?;
        let Some(view_window) = Table::allocate(&mut self.frames) else {
            root.free(&mut self.frames);
            return None;
        };
        for entry in SHARED_ENTRIES {
            root.set(entry, self.boot_table_entry(entry));
        }
        root.set(
            index(VIEW_WINDOW, 4),
            view_window.address() | bits::PRESENT | bits::ACCESSED | bits::NO_EXECUTE,
        );
        view_window.set(0, view_directory.address() | bits::PRESENT | bits::ACCESSED);
        Some((root, view_window))
    }

    /// One thread fewer in `space`; the last one takes the space with it. No hart may have its tables loaded then.
    pub(crate) fn leave_space(&mut self, mailbox: Mailbox, space: u32) {
        let leaving = &mut self.spaces[space];
        leaving.threads -= 1;
        if leaving.threads > 0 {
            return;
        }
        let Some(space) = self.spaces.remove(space) else { return };
        let mut next = space.mappings;
        while let Some(mapping) = next.and_then(|mapping| self.mappings.remove(mapping)) {
            self.release_object(mailbox, mapping.map);
            next = mapping.next;
        }
        for top in 0..256 {
            if let Some(table) = Table::of_entry(space.root.get(top)) {
                table.free(&mut self.frames);
            }
        }
        self.release_object(mailbox, space.view_map);
        space.view_window.free(&mut self.frames);
        space.root.free(&mut self.frames);
    }

    /// Settles an access of `space` to `address`: installs what is missing, or says what the thread did wrong.
    pub(crate) fn resolve(
        &mut self,
        mailbox: Mailbox,
        space: u32,
        address: u64,
        access: Rights,
    ) -> Result<(), FaultInfo> {
        let offset = address % MAX_SIZE;
        let fault = |cause: FaultCause, object: ObjectId| FaultInfo {
            cause: cause as u32,
            access: access.bits(),
            address,
            instruction: 0,
            object,
            offset,
        };
        if !cpu::is_user_address(address) {
            return Err(fault(FaultCause::KernelAddress, ObjectId::NULL));
        }
        let slot = address / MAX_SIZE;
        let mapped = self.mapped(space, slot);
        if offset < DATA_OFFSET {
            let object = mapped.map_or(ObjectId::NULL, |(map, _)| self.maps[map].object);
            return Err(fault(FaultCause::NullPage, object));
        }
        let (map, rights) = match mapped {
            Some(found) => found,
            None => self.map_slot(mailbox, space, slot).map_err(|(cause, object)| fault(cause, object))?,
        };
        let object = self.maps[map].object;
        if !rights.contains(access) {
            return Err(fault(FaultCause::Rights, object));
        }
        self.back(mailbox, map, offset, access).map_err(|error| fault(cause_of(error), object))?;
        cpu::invalidate_page(address);
        Ok(())
    }

    /// The monitor has refused an access that the tables of `context` allowed: something was taken away since they were filled in. Empties
    /// them all, so that the next access of each page asks again and is answered exactly. The tables stay linked, because other
    /// harts may be walking them.
    pub(crate) fn forget_pages(&mut self, context: ObjectId) {
        for index in 0..self.maps.index_end() {
            let Some(map) = self.maps.get(index).filter(|map| map.context == context) else { continue };
            let directory = map.directory;
            for chunk in 0..512 {
                let entry = directory.get(chunk);
                if let Some(table) = Table::of_entry(entry) {
                    (0..512).for_each(|page| table.set(page, 0));
                } else if entry & bits::LARGE != 0 {
                    directory.set(chunk, 0);
                }
            }
        }
    }

    /// What `slot` maps, if it was touched before.
    fn mapped(&self, space: u32, slot: u64) -> Option<(u32, Rights)> {
        let mut next = self.spaces[space].mappings;
        while let Some(index) = next {
            let mapping = &self.mappings[index];
            if mapping.slot == slot {
                return Some((mapping.map, mapping.rights));
            }
            next = mapping.next;
        }
        None
    }

    /// First touch of a slot: late binding.
    fn map_slot(
        &mut self,
        mailbox: Mailbox,
        space: u32,
        slot: u64,
    ) -> Result<(u32, Rights), (FaultCause, ObjectId)> {
        let none = |cause| (cause, ObjectId::NULL);
        let entry = self.view_entry(mailbox, space, slot).map_err(none)?;
        if entry.flags & entry_flags::VALID == 0 || entry.target.is_null() {
            return Err(none(FaultCause::Unmapped));
        }
        let (context, root) = (self.spaces[space].context, self.spaces[space].root);
        let map = self
            .use_object(mailbox, context, entry.target)
            .map_err(|error| (cause_of(error), entry.target))?;
        let rights = entry.requested() & self.maps[map].granted & Rights::ACCESS;
        if !self.install(root, slot, map, rights) {
            self.release_object(mailbox, map);
            return Err((FaultCause::OutOfSpace, entry.target));
        }
        let mapping = Mapping { slot, map, rights, next: self.spaces[space].mappings };
        match self.mappings.insert(&mut self.frames, mapping) {
            Ok(mapping) => self.spaces[space].mappings = Some(mapping),
            Err(_) => {
                self.clear_slot(root, slot);
                self.release_object(mailbox, map);
                return Err((FaultCause::OutOfSpace, entry.target));
            }
        }
        Ok((map, rights))
    }

    /// Writes the level-3 entry of a slot; `false` when there is no memory for the table.
    fn install(&mut self, root: Table, slot: u64, map: u32, rights: Rights) -> bool {
        if rights.is_empty() {
            // Nothing may be done with it, so nothing is mapped; every access comes back to `resolve` and is refused there.
            return true;
        }
        let address = slot * MAX_SIZE;
        let level3 = match Table::of_entry(root.get(index(address, 4))) {
            Some(table) => table,
            None => {
                let Some(table) = Table::allocate(&mut self.frames) else { return false };
                let flags = bits::PRESENT | bits::WRITE | bits::USER | bits::ACCESSED;
                root.set(index(address, 4), table.address() | flags);
                table
            }
        };
        let mut flags = bits::PRESENT | bits::USER | bits::ACCESSED;
        if rights.contains(Rights::WRITE) {
            flags |= bits::WRITE;
        }
        if !rights.contains(Rights::EXEC) {
            flags |= bits::NO_EXECUTE;
        }
        level3.set(index(address, 3), self.maps[map].directory.address() | flags);
        true
    }

    fn clear_slot(&mut self, root: Table, slot: u64) {
        let address = slot * MAX_SIZE;
        if let Some(level3) = Table::of_entry(root.get(index(address, 4))) {
            level3.set(index(address, 3), 0);
        }
    }

    /// Reads a view entry as the program last completed it. The program may be writing it meanwhile: `flags` is read before and
    /// after the rest, and an entry that does not settle counts as not there.
    fn view_entry(&mut self, mailbox: Mailbox, space: u32, slot: u64) -> Result<ViewEntry, FaultCause> {
        if slot >= SLOT_COUNT {
            return Err(FaultCause::KernelAddress);
        }
        let Some(offset) = entry_offset(slot) else { return Err(FaultCause::KernelAddress) };
        for _ in 0..READ_ATTEMPTS {
            let first = self.read_view(mailbox, space, offset)?;
            let second = self.read_view(mailbox, space, offset)?;
            if first == second {
                return Ok(first);
            }
        }
        Ok(ViewEntry::default())
    }

    fn read_view(&mut self, mailbox: Mailbox, space: u32, offset: u64) -> Result<ViewEntry, FaultCause> {
        let mut bytes = [0; size_of::<ViewEntry>()];
        for _ in 0..2 {
            if usercopy::read(VIEW_WINDOW + offset, &mut bytes).is_ok() {
                return ViewEntry::read_from_bytes(&bytes).map_err(|_| FaultCause::Unmapped);
            }
            let view_map = self.spaces[space].view_map;
            self.back(mailbox, view_map, offset, Rights::READ).map_err(cause_of)?;
            cpu::invalidate_page(VIEW_WINDOW + offset);
        }
        Err(FaultCause::MachineCheck)
    }

    /// Has `twzvmm` back the page at `offset` of a bound object, and links the table that it filled in.
    fn back(&mut self, mailbox: Mailbox, map: u32, offset: u64, access: Rights) -> Result<(), ErrorCode> {
        let (binding, directory) = (self.maps[map].binding, self.maps[map].directory);
        let chunk = offset / CHUNK_SIZE;
        let entry = directory.get(chunk);
        if entry & bits::LARGE != 0 && (entry & bits::WRITE != 0 || !access.contains(Rights::WRITE)) {
            return Ok(()); // another hart was first
        }
        let (table, is_new) = match Table::of_entry(entry) {
            Some(table) => (table, false),
            None => (Table::allocate(&mut self.frames).ok_or(ErrorCode::NoMemory)?, true),
        };
        let flags = bits::PRESENT | bits::WRITE | bits::USER | bits::ACCESSED;
        match mailbox.touch(binding, offset, access, table.address()) {
            Ok(None) => {
                if is_new {
                    directory.set(chunk, table.address() | flags);
                }
                Ok(())
            }
            Ok(Some(large)) => {
                directory.set(chunk, large | flags | bits::DIRTY | bits::LARGE);
                table.free(&mut self.frames);
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

    /// The map of an object in a context, bound if it was not; counts one more use.
    fn use_object(
        &mut self,
        mailbox: Mailbox,
        context: ObjectId,
        object: ObjectId,
    ) -> Result<u32, ErrorCode> {
        let bucket = Self::bucket(context, object);
        let mut next = self.map_buckets[bucket];
        while let Some(index) = next {
            let map = &mut self.maps[index];
            if map.object == object && map.context == context {
                map.uses += 1;
                return Ok(index);
            }
            next = map.next_in_bucket;
        }
        let bound = mailbox.bind(context, object)?;
        let Some(directory) = Table::allocate(&mut self.frames) else {
            mailbox.unbind(bound.binding);
            return Err(ErrorCode::NoMemory);
        };
        let map = ObjectMap {
            context,
            object,
            binding: bound.binding,
            granted: bound.granted,
            directory,
            uses: 1,
            next_in_bucket: self.map_buckets[bucket],
        };
        match self.maps.insert(&mut self.frames, map) {
            Ok(index) => {
                self.map_buckets[bucket] = Some(index);
                Ok(index)
            }
            Err(map) => {
                map.directory.free(&mut self.frames);
                mailbox.unbind(map.binding);
                Err(ErrorCode::NoMemory)
            }
        }
    }

    /// One use fewer; the last one unbinds the object and frees its tables.
    fn release_object(&mut self, mailbox: Mailbox, index: u32) {
        let map = &mut self.maps[index];
        map.uses -= 1;
        if map.uses > 0 {
            return;
        }
        let bucket = Self::bucket(map.context, map.object);
        let after = map.next_in_bucket;
        if self.map_buckets[bucket] == Some(index) {
            self.map_buckets[bucket] = after;
        } else {
            let mut next = self.map_buckets[bucket];
            while let Some(before) = next {
                next = self.maps[before].next_in_bucket;
                if next == Some(index) {
                    self.maps[before].next_in_bucket = after;
                    break;
                }
            }
        }
        let Some(map) = self.maps.remove(index) else { return };
        for chunk in 0..512 {
            if let Some(table) = Table::of_entry(map.directory.get(chunk)) {
                table.free(&mut self.frames);
            }
        }
        map.directory.free(&mut self.frames);
        mailbox.unbind(map.binding);
    }

    #[allow(clippy::cast_possible_truncation, reason = "only the low bits select a bucket")]
    fn bucket(context: ObjectId, object: ObjectId) -> usize {
        (object.lo ^ object.hi.rotate_left(17) ^ context.lo.rotate_left(31)) as usize
            % crate::kernel::MAP_BUCKETS
    }
}

/// What a failed bind or touch means for the thread that caused it.
fn cause_of(error: ErrorCode) -> FaultCause {
    match error {
        ErrorCode::NoObject => FaultCause::NoObject,
        ErrorCode::NotPermitted => FaultCause::Rights,
        ErrorCode::Medium => FaultCause::MachineCheck,
        ErrorCode::BadOffset => FaultCause::Unmapped,
        _ => FaultCause::OutOfSpace,
    }
}
