//! Spaces: first-stage tables of a (view, context) pair.
//!
//! ```text
//! Space.root (level 4) -> level 3, one entry a slot -> ObjectMap.directory (level 2) -> level 1
//!   `- belongs to the space; holds rights -´            `- belongs to (object, context); shared by its views -´
//! ```
//! A slot's level-3 entry is written when a thread first touches the slot: read the view entry, bind the object, install what
//! the monitor granted and the view asks for (late binding, paper §3.4). Pages below are backed one fault at a time by `twzvmm`.
//! A second tree of the same shape (`Space.slots`) finds the [`Mapping`] of a slot.
//!
//! The view itself is readable to the kernel through its own directory at [`VIEW_WINDOW`], so that reading an entry is a load.

use crate::arch::{cpu, usercopy};
use crate::kernel::Kernel;
use crate::mailbox::Mailbox;
use crate::memory::chains::chained;
use crate::memory::table::{Table, bits, index};
use twz_abi::fault::{FaultCause, FaultInfo};
use twz_abi::hypercall::Happening;
use twz_abi::object::{DATA_OFFSET, MAX_SIZE};
use twz_abi::view::{HEADER_OFFSET, SLOT_COUNT, SlotRange, ViewEntry, ViewHeader, entry_flags, entry_offset};
use twz_abi::{ErrorCode, ObjectId, Rights};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Where a space maps its view for the kernel: entry 384 of the top level, which no other mapping uses.
const VIEW_WINDOW: u64 = 0xffff_c000_0000_0000;
/// Entries of the top level that all spaces share: direct map, stacks, image.
const SHARED_ENTRIES: [u64; 3] = [256, 510, 511];
/// Lists in which spaces are found.
pub(crate) const SPACE_CHAINS: usize = 128;
/// How often a view entry is read again while a program is changing it.
const READ_ATTEMPTS: u32 = 8;
/// How often a read of the view is tried again after its page was backed.
const BACK_ATTEMPTS: u32 = 4;
/// Up to this many slots are looked up one by one; for more, the list of mappings is searched instead.
const FEW_SLOTS: u64 = 64;

/// First-stage tables of a view in a context.
pub(crate) struct Space {
    pub(crate) view: ObjectId,
    pub(crate) context: ObjectId,
    /// The context's record, of which the space is a use.
    pub(crate) record: u32,
    /// Never used again for another space.
    serial: u64,
    root: Table,
    /// Finds mappings by slot: words are index + 1.
    slots: Table,
    view_window: Table,
    /// The view's own map.
    view_map: u32,
    /// Threads in it.
    threads: u32,
    /// Tables below `root` and `slots`.
    tables: u32,
    /// All mappings, as a list.
    mappings: Option<u32>,
    next: Option<u32>,
}
chained!(Space);

/// A slot of a space that maps an object.
pub(crate) struct Mapping {
    slot: u64,
    map: u32,
    requested: Rights,
    rights: Rights,
    next: Option<u32>,
    previous: Option<u32>,
}

impl Space {
    /// One more thread in it.
    pub(crate) fn hold(&mut self) {
        self.threads += 1;
    }

    /// Guest-physical address of the top-level table, and the serial number.
    pub(crate) fn identity(&self) -> (u64, u64) {
        (self.root.address(), self.serial)
    }
}

impl Kernel {
    /// The space for a view in a context, made if there is none; counts one more thread in it.
    pub(crate) fn enter_space(
        &mut self,
        mailbox: Mailbox,
        view: ObjectId,
        context: u32,
    ) -> crate::Result<u32> {
        let is_it = |space: &Space| space.view == view && space.record == context;
        if let Some(space) = self.space_chains.find(&self.spaces, hash_of(view, context), is_it) {
            self.spaces[space].threads += 1;
            return Ok(space);
        }
        let view_map = self.use_object(mailbox, context, view)?;
        let made = self.new_space(view, context, view_map);
        made.ok_or_else(|| {
            self.release_object(mailbox, view_map);
            ErrorCode::NoMemory
        })
    }

    fn new_space(&mut self, view: ObjectId, record: u32, view_map: u32) -> Option<u32> {
        let tables = [
            Table::allocate(&mut self.frames),
            Table::allocate(&mut self.frames),
            Table::allocate(&mut self.frames),
        ];
        let [Some(root), Some(slots), Some(view_window)] = tables else {
            tables.into_iter().flatten().for_each(|table| table.free(&mut self.frames));
            return None;
        };
        for entry in SHARED_ENTRIES {
            root.set(entry, self.boot_table_entry(entry));
        }
        let flags = bits::PRESENT | bits::ACCESSED;
        root.set(index(VIEW_WINDOW, 4), view_window.address() | flags | bits::NO_EXECUTE);
        view_window.set(0, self.maps[view_map].directory.address() | flags);
        self.next_serial += 1;
        let serial = self.next_serial;
        let space = Space {
            view,
            context: self.contexts[record].id,
            record,
            serial,
            root,
            slots,
            view_window,
            view_map,
            threads: 1,
            tables: 0,
            mappings: None,
            next: None,
        };
        match self.spaces.insert(&mut self.frames, space) {
            Ok(index) => {
                self.hold_context(record);
                self.space_chains.link(&mut self.spaces, hash_of(view, record), index);
                Some(index)
            }
            Err(space) => {
                for table in [space.root, space.slots, space.view_window] {
                    table.free(&mut self.frames);
                }
                None
            }
        }
    }

    /// One thread fewer in `space`; the last one takes the space with it. No hart may have its tables loaded then.
    pub(crate) fn leave_space(&mut self, mailbox: Mailbox, space: u32) {
        let leaving = &mut self.spaces[space];
        leaving.threads -= 1;
        if leaving.threads > 0 {
            return;
        }
        let hash = hash_of(leaving.view, leaving.record);
        self.space_chains.unlink(&mut self.spaces, hash, space);
        let Some(space) = self.spaces.remove(&mut self.frames, space) else { return };
        // Every table below the two roots was made for a mapping; those of mappings that are gone already were kept for others.
        let mut tables = space.tables;
        let mut next = space.mappings;
        while let Some(mapping) = next.and_then(|mapping| self.mappings.remove(&mut self.frames, mapping)) {
            self.release_object(mailbox, mapping.map);
            self.free_lower(&space, index(mapping.slot * MAX_SIZE, 4), &mut tables);
            next = mapping.next;
        }
        for top in 0..256 {
            if tables == 0 {
                break;
            }
            self.free_lower(&space, top, &mut tables);
        }
        self.release_object(mailbox, space.view_map);
        for table in [space.root, space.slots, space.view_window] {
            table.free(&mut self.frames);
        }
        self.release_context(mailbox, space.record);
    }

    /// Frees the tables at `top` below both roots of a space that nobody uses; `left` counts those that are still there.
    fn free_lower(&mut self, space: &Space, top: u64, left: &mut u32) {
        for root in [space.root, space.slots] {
            if let Some(table) = Table::of_entry(root.get(top)) {
                table.free(&mut self.frames);
                root.set(top, 0);
                *left -= 1;
            }
        }
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
        self.load_space(mailbox.hart(), space).map_err(|error| fault(cause_of(error), ObjectId::NULL))?;
        let slot = address / MAX_SIZE;
        let mapped = self.mapped(space, slot);
        if offset < DATA_OFFSET {
            let object = mapped.map_or(ObjectId::NULL, |(map, _)| self.maps[map].object);
            return Err(fault(FaultCause::NullPage, object));
        }
        let (map, mut rights) = match mapped {
            Some(found) => found,
            None => self.map_slot(mailbox, space, slot).map_err(|(cause, object)| fault(cause, object))?,
        };
        let object = self.maps[map].object;
        if !rights.contains(access) && self.requests(space, slot).contains(access) {
            // The view asked for it, so the context had no right when it was bound; it may have been given one since.
            self.ask_again(mailbox, map).map_err(|error| fault(cause_of(error), object))?;
            rights = self.mapped(space, slot).map_or(Rights::empty(), |(_, rights)| rights);
        }
        if !rights.contains(access) {
            return Err(fault(FaultCause::Rights, object));
        }
        self.back(mailbox, map, offset, access).map_err(|error| fault(cause_of(error), object))?;
        self.page_changes += u64::from(access.contains(Rights::WRITE));
        cpu::invalidate_page(address);
        Ok(())
    }

    /// The object and offset at a virtual address that was resolved before.
    pub(crate) fn place_of(&self, space: u32, address: u64) -> Option<(ObjectId, u64)> {
        let (map, _) = self.mapped(space, address / MAX_SIZE)?;
        Some((self.maps[map].object, address % MAX_SIZE))
    }

    /// The mapping of a slot, if it was touched before.
    fn mapping(&self, space: u32, slot: u64) -> Option<u32> {
        let address = slot * MAX_SIZE;
        let lower = Table::of_entry(self.spaces[space].slots.get(index(address, 4)))?;
        u32::try_from(lower.get(index(address, 3))).ok()?.checked_sub(1)
    }

    fn mapped(&self, space: u32, slot: u64) -> Option<(u32, Rights)> {
        let mapping = &self.mappings[self.mapping(space, slot)?];
        Some((mapping.map, mapping.rights))
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
            let on_demand = entry.flags & entry_flags::ON_DEMAND != 0;
            return Err(none(if on_demand { FaultCause::OnDemand } else { FaultCause::Unmapped }));
        }
        let record = self.spaces[space].record;
        let map = self
            .use_object(mailbox, record, entry.target)
            .map_err(|error| (cause_of(error), entry.target))?;
        let requested = entry.requested() & Rights::ACCESS;
        let rights = requested & self.maps[map].granted;
        if !self.install(space, slot, map, requested) {
            self.release_object(mailbox, map);
            return Err((FaultCause::OutOfSpace, entry.target));
        }
        self.counters().slots_mapped += 1;
        mailbox.record(Happening::SlotMapped, rights.bits(), 0, [slot, 0]);
        Ok((map, rights))
    }

    /// Records a slot's mapping and writes its level-3 entry; `false` when there is no memory for it.
    fn install(&mut self, space: u32, slot: u64, map: u32, requested: Rights) -> bool {
        let rights = requested & self.maps[map].granted;
        let address = slot * MAX_SIZE;
        let (root, slots, next) =
            (self.spaces[space].root, self.spaces[space].slots, self.spaces[space].mappings);
        let flags = bits::PRESENT | bits::WRITE | bits::USER | bits::ACCESSED;
        let (Some(level3), Some(lower)) =
            (self.lower(space, root, address, flags), self.lower(space, slots, address, flags))
        else {
            return false;
        };
        let mapping = Mapping { slot, map, requested, rights, next, previous: None };
        let Ok(mapping) = self.mappings.insert(&mut self.frames, mapping) else { return false };
        if let Some(next) = next {
            self.mappings[next].previous = Some(mapping);
        }
        self.spaces[space].mappings = Some(mapping);
        lower.set(index(address, 3), u64::from(mapping) + 1);
        level3.set(index(address, 3), self.slot_entry(map, rights));
        true
    }

    /// The level-3 entry of a slot. With no right at all nothing is installed: every access comes to `resolve` and is refused there.
    fn slot_entry(&self, map: u32, rights: Rights) -> u64 {
        if rights.is_empty() {
            return 0;
        }
        let mut flags = bits::PRESENT | bits::USER | bits::ACCESSED;
        if rights.contains(Rights::WRITE) {
            flags |= bits::WRITE;
        }
        if !rights.contains(Rights::EXEC) {
            flags |= bits::NO_EXECUTE;
        }
        self.maps[map].directory.address() | flags
    }

    /// What the view asked for when a slot was mapped.
    fn requests(&self, space: u32, slot: u64) -> Rights {
        self.mapping(space, slot).map_or(Rights::empty(), |mapping| self.mappings[mapping].requested)
    }

    /// The monitor gives other rights to a bound object than before: brings every slot that maps it up to date. Complete on every hart when it
    /// returns.
    pub(crate) fn regrant(&mut self, mailbox: Mailbox, map: u32, granted: Rights) {
        if self.maps[map].granted == granted {
            return;
        }
        self.maps[map].granted = granted;
        let record = self.maps[map].record;
        for space in 0..self.spaces.index_end() {
            let Some(of_context) = self.spaces.get(space).filter(|space| space.record == record) else {
                continue;
            };
            let mut next = of_context.mappings;
            while let Some(index_of) = next {
                next = self.mappings[index_of].next;
                if self.mappings[index_of].map != map {
                    continue;
                }
                let rights = self.mappings[index_of].requested & granted;
                self.mappings[index_of].rights = rights;
                let address = self.mappings[index_of].slot * MAX_SIZE;
                if let Some(level3) = Table::of_entry(self.spaces[space].root.get(index(address, 4))) {
                    level3.set(index(address, 3), self.slot_entry(map, rights));
                }
            }
        }
        self.drop_everywhere(mailbox);
    }

    /// The table below `root` for `address`, made if it is missing.
    fn lower(&mut self, space: u32, root: Table, address: u64, flags: u64) -> Option<Table> {
        let at = index(address, 4);
        if let Some(table) = Table::of_entry(root.get(at)) {
            return Some(table);
        }
        let table = Table::allocate(&mut self.frames)?;
        root.set(at, table.address() | flags);
        self.spaces[space].tables += 1;
        Some(table)
    }

    /// Drops what changed or deleted entries of a view have mapped, in every context that uses the view. Complete on every hart when it
    /// returns.
    pub(crate) fn invalidate(&mut self, mailbox: Mailbox, view: ObjectId, ranges: &[SlotRange]) {
        let mut dropped = None;
        for range in ranges {
            mailbox.record(Happening::Invalidated, 0, 0, [range.first, range.count]);
            for space in 0..self.spaces.index_end() {
                if self.spaces.get(space).is_some_and(|space| space.view == view) {
                    self.take_out_range(space, range, &mut dropped);
                }
            }
        }
        if dropped.is_none() {
            return;
        }
        self.drop_everywhere(mailbox);
        // Only now may tables and bindings go.
        while let Some(mapping) = dropped.and_then(|mapping| self.mappings.remove(&mut self.frames, mapping))
        {
            self.release_object(mailbox, mapping.map);
            self.counters().invalidated_slots += 1;
            dropped = mapping.next;
        }
    }

    fn take_out_range(&mut self, space: u32, range: &SlotRange, dropped: &mut Option<u32>) {
        let slots = range.first..range.first.saturating_add(range.count).min(SLOT_COUNT);
        if range.count <= FEW_SLOTS {
            for slot in slots {
                if let Some(mapping) = self.mapping(space, slot) {
                    self.take_out(space, mapping, dropped);
                }
            }
        } else {
            let mut next = self.spaces[space].mappings;
            while let Some(mapping) = next {
                next = self.mappings[mapping].next;
                if slots.contains(&self.mappings[mapping].slot) {
                    self.take_out(space, mapping, dropped);
                }
            }
        }
    }

    /// Unlinks a mapping from its space and its tables, and puts it at the head of `list`.
    fn take_out(&mut self, space: u32, mapping: u32, list: &mut Option<u32>) {
        let (slot, next, previous) =
            (self.mappings[mapping].slot, self.mappings[mapping].next, self.mappings[mapping].previous);
        match previous {
            Some(previous) => self.mappings[previous].next = next,
            None => self.spaces[space].mappings = next,
        }
        if let Some(next) = next {
            self.mappings[next].previous = previous;
        }
        let address = slot * MAX_SIZE;
        for root in [self.spaces[space].root, self.spaces[space].slots] {
            if let Some(lower) = Table::of_entry(root.get(index(address, 4))) {
                lower.set(index(address, 3), 0);
            }
        }
        self.mappings[mapping].next = list.replace(mapping);
    }

    /// Reads a view entry as the program last completed it. The program may be writing it meanwhile: it is read until two reads agree,
    /// and one that does not settle counts as not there.
    pub(crate) fn view_entry(
        &mut self,
        mailbox: Mailbox,
        space: u32,
        slot: u64,
    ) -> Result<ViewEntry, FaultCause> {
        let Some(offset) = entry_offset(slot) else { return Err(FaultCause::KernelAddress) };
        let mut last: Option<ViewEntry> = None;
        for _ in 0..READ_ATTEMPTS {
            let mut entry = ViewEntry::new_zeroed();
            self.read_view(mailbox, space, offset, entry.as_mut_bytes())?;
            entry.user = 0; // the program's own, at any time
            if last == Some(entry) {
                return Ok(entry);
            }
            last = Some(entry);
        }
        Ok(ViewEntry::default())
    }

    /// Reads the view's header, which is a claim like everything in it.
    pub(crate) fn view_header(&mut self, mailbox: Mailbox, space: u32) -> Option<ViewHeader> {
        let mut bytes = [0; size_of::<ViewHeader>()];
        self.read_view(mailbox, space, HEADER_OFFSET, &mut bytes).ok()?;
        ViewHeader::read_from_bytes(&bytes).ok()
    }

    /// Copies from the view of the loaded space.
    fn read_view(
        &mut self,
        mailbox: Mailbox,
        space: u32,
        offset: u64,
        to: &mut [u8],
    ) -> Result<(), FaultCause> {
        for attempt in 0..BACK_ATTEMPTS {
            self.forget_refused(mailbox, space, attempt);
            self.load_space(mailbox.hart(), space).map_err(cause_of)?;
            if usercopy::read(VIEW_WINDOW + offset, to).is_ok() {
                return Ok(());
            }
            let view_map = self.spaces[space].view_map;
            self.back(mailbox, view_map, offset, Rights::READ).map_err(cause_of)?;
            cpu::invalidate_page(VIEW_WINDOW + offset);
        }
        Err(FaultCause::MachineCheck)
    }
}

fn hash_of(view: ObjectId, record: u32) -> u64 {
    view.lo.wrapping_add(u64::from(record))
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
