//! Calls that change what stands in an object, or how long it lives: copy, resize, tie.
//!
//! # Contract
//! - Rights are checked before anything changes; a failed call changed nothing.
//! - When a copy or a trim returns, no alias shows the pages that were replaced: the pool's hook has hidden them, and
//!   **I2 no touch between**: a touch holds the same lock from the lookup of an extent to its showing, so it cannot show one that was
//!   replaced in between. Therefore the pages can go back to the pool at once.

use super::{Monitor, code};
use twz_abi::object::MAX_SIZE;
use twz_abi::syscall::{CopySpec, Resize};
use twz_abi::{ErrorCode, ObjectId, PAGE_SIZE, Rights};

impl Monitor {
    /// Makes a range of an object a copy-on-write copy of a range of another. Needs READ to the source and WRITE to the target.
    ///
    /// # Errors
    /// [`ErrorCode::NoObject`], [`ErrorCode::NotPermitted`], [`ErrorCode::BadOffset`] for ranges that are not whole granules, lie outside of an
    /// object or overlap, [`ErrorCode::PoolFull`].
    pub(in crate::machine) fn copy(&self, context: ObjectId, spec: &CopySpec) -> Result<(), ErrorCode> {
        let _held = self.permit(context, &[(spec.source, Rights::READ), (spec.target, Rights::WRITE)])?;
        self.copy_range(spec)
    }

    /// Gives the pages of a range back to the pool, so that it reads as zeros, or has pages for all of it. Needs WRITE.
    ///
    /// # Errors
    /// As [`Monitor::copy`].
    pub(in crate::machine) fn resize(
        &self,
        context: ObjectId,
        object: ObjectId,
        first: u64,
        bytes: u64,
        resize: Resize,
    ) -> Result<(), ErrorCode> {
        let _held = self.permit(context, &[(object, Rights::WRITE)])?;
        if resize == Resize::Reserve {
            let object = self.pool.open_object(object).map_err(|error| code(&error))?;
            return self.pool.reserve_range(&object, first, bytes).map_err(|error| code(&error));
        }
        // A copy of nothing: the session object is empty, and nobody has a right to it.
        self.copy_range(&CopySpec {
            source: self.session,
            target: object,
            source_offset: first,
            target_offset: first,
            bytes,
        })
    }

    fn copy_range(&self, spec: &CopySpec) -> Result<(), ErrorCode> {
        let source = self.pool.open_object(spec.source).map_err(|error| code(&error))?;
        let target = self.pool.open_object(spec.target).map_err(|error| code(&error))?;
        let _no_touch = self.hold_touches();
        self.pool
            .copy_range(&source, spec.source_offset, &target, spec.target_offset, spec.bytes)
            .map_err(|error| code(&error))?;
        target.release_replaced(); // I2
        Ok(())
    }

    /// Makes `object` live at least as long as `keeper`. Needs any right to the former and WRITE to the latter. Tied to itself, a volatile
    /// object stays; that needs any right.
    ///
    /// # Errors
    /// [`ErrorCode::NoObject`], [`ErrorCode::NotPermitted`], [`ErrorCode::PoolFull`].
    pub(in crate::machine) fn tie(
        &self,
        context: ObjectId,
        object: ObjectId,
        keeper: ObjectId,
    ) -> Result<(), ErrorCode> {
        if object == keeper {
            let _held = self.permit(context, &[(object, Rights::empty())])?;
            return self.keep(object);
        }
        let _held = self.permit(context, &[(object, Rights::empty()), (keeper, Rights::WRITE)])?;
        self.pool.tie(object, keeper).map_err(|error| code(&error))
    }
}

impl Monitor {
    /// Lets `effect` happen wholly before a power failure that is being tested, or not at all.
    pub(in crate::machine) fn while_alive<T>(&self, effect: impl FnOnce() -> T) -> T {
        let _alive = self.pool.shadow().map(|shadow| shadow.alive());
        effect()
    }

    /// A program flushed `bytes` at `offset` of an object, or with 0 bytes fenced, at `site` in its source.
    ///
    /// # Errors
    /// [`ErrorCode::NoSuchCall`] on a machine whose pool has no shadow; else as [`Monitor::copy`].
    pub(in crate::machine) fn pmem_trace(
        &self,
        context: ObjectId,
        object: ObjectId,
        (offset, bytes): (u64, u64),
        thread: u64,
        site: &str,
    ) -> Result<(), ErrorCode> {
        let Some(shadow) = self.pool.shadow() else { return Err(ErrorCode::NoSuchCall) };
        if bytes == 0 {
            shadow.fenced(thread, site);
            return Ok(());
        }
        let _held = self.permit(context, &[(object, Rights::empty())])?;
        let opened = self.pool.open_object(object).map_err(|error| code(&error))?;
        let end = offset.checked_add(bytes).filter(|&end| end <= MAX_SIZE).ok_or(ErrorCode::BadOffset)?;
        let mut at = offset;
        while at < end {
            let Some(extent) = opened.lookup(at).map_err(|error| code(&error))? else {
                // Never stored to.
                at = (at + 1).next_multiple_of(PAGE_SIZE);
                continue;
            };
            let length = (extent.object_offset + extent.len).min(end) - at;
            shadow.flushed(thread, extent.pool_offset + (at - extent.object_offset), length, site);
            at += length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::monitor::test_world::{BOTH, world};
    use twz_abi::object::DATA_OFFSET;
    use twz_abi::syscall::{CopyRange, CreateSpec, create_flags};

    fn spec(source: ObjectId, target: ObjectId) -> CopySpec {
        CopySpec { source, target, source_offset: DATA_OFFSET, target_offset: 0x5000, bytes: 4096 }
    }

    #[test]
    fn a_copy_needs_read_and_write_and_changes_only_its_range() {
        let Some(world) = world() else { return };
        let (source, target) = (world.object(Rights::READ, 7), world.object(Rights::WRITE, 9));
        let closed = world.object(Rights::DELETE, 1);
        let monitor = &world.monitor;
        for (from, to, error) in [
            (target, target, ErrorCode::NotPermitted),
            (closed, target, ErrorCode::NotPermitted),
            (source, source, ErrorCode::NotPermitted),
            (ObjectId { lo: 9, hi: 9 }, target, ErrorCode::NoObject),
            (source, ObjectId { lo: 9, hi: 9 }, ErrorCode::NoObject),
        ] {
            assert_eq!(monitor.copy(world.context, &spec(from, to)), Err(error), "{from} {to}");
        }
        assert_eq!(monitor.copy(ObjectId::NULL, &spec(source, target)), Err(ErrorCode::NotPermitted));
        assert_eq!(world.bytes(target, 0x5000), [0; 4]);
        monitor.copy(world.context, &spec(source, target)).expect("copy");
        assert_eq!(world.bytes(target, 0x5000), [7; 4]);
        assert_eq!(world.bytes(target, DATA_OFFSET), [9; 4]);
        assert_eq!(world.bytes(target, 0x6000), [0; 4]);
    }

    #[test]
    fn bad_ranges_are_refused() {
        let Some(world) = world() else { return };
        let (source, target) = (world.object(BOTH, 7), world.object(BOTH, 9));
        let good = spec(source, target);
        for bad in [
            CopySpec { source_offset: 0x1001, ..good },
            CopySpec { target_offset: 0x5008, ..good },
            CopySpec { bytes: 100, ..good },
            CopySpec { bytes: !0xfff, ..good },
            CopySpec { target_offset: 1 << 30, ..good },
            CopySpec { source_offset: u64::MAX - 0xfff, ..good },
            CopySpec { target: source, target_offset: 0x1000, ..good },
        ] {
            assert_eq!(world.monitor.copy(world.context, &bad), Err(ErrorCode::BadOffset), "{bad:?}");
        }
        for (first, bytes) in [(1, 4096), (0x1000, 1), (1 << 30, 4096), (u64::MAX - 0xfff, 4096)] {
            let trimmed = world.monitor.resize(world.context, target, first, bytes, Resize::Trim);
            assert_eq!(trimmed, Err(ErrorCode::BadOffset), "{first:#x} {bytes}");
        }
        assert_eq!(world.bytes(target, DATA_OFFSET), [9; 4]);
    }

    #[test]
    fn a_copy_hides_what_was_shown() {
        let Some(world) = world() else { return };
        let (source, target) = (world.object(BOTH, 7), world.object(BOTH, 9));
        let (binding, _) = world.monitor.bind(world.context, target).expect("bind");
        let before = world.monitor.touch(world.root, binding, DATA_OFFSET, Rights::WRITE).expect("touch").0;
        assert!(before.writable);
        let over = CopySpec { target_offset: DATA_OFFSET, ..spec(source, target) };
        world.monitor.copy(world.context, &over).expect("copy");
        let shown = world.monitor.shows(world.context, target, DATA_OFFSET);
        assert!(!shown, "the replaced page is still in the alias");
        let after = world.monitor.touch(world.root, binding, DATA_OFFSET, Rights::READ).expect("touch").0;
        assert!(!after.writable, "a shared page was shown writable");
    }

    #[test]
    fn trimming_gives_pages_back_and_leaves_nothing_behind() {
        let Some(world) = world() else { return };
        let target = world.object(BOTH, 9);
        let objects = world.pool.object_ids().len();
        let before = world.monitor.stat(world.context, target).expect("stat").allocated_bytes;
        assert_eq!(
            world.monitor.resize(world.context, world.object(Rights::READ, 1), 0x1000, 4096, Resize::Trim),
            Err(ErrorCode::NotPermitted)
        );
        world.monitor.resize(world.context, target, DATA_OFFSET, 4096, Resize::Trim).expect("trim");
        assert_eq!(world.bytes(target, DATA_OFFSET), [0; 4]);
        assert_eq!(world.bytes(target, DATA_OFFSET + 4096), [9; 4]);
        assert_eq!(world.monitor.stat(world.context, target).expect("stat").allocated_bytes, before - 4096);
        assert_eq!(world.pool.object_ids().len(), objects + 1, "only the read-only one is new");
    }

    #[test]
    fn an_object_begins_with_all_of_its_ranges_or_is_not_made() {
        let Some(world) = world() else { return };
        let (source, closed) = (world.object(Rights::READ, 7), world.object(Rights::WRITE, 9));
        let range = |source, target_offset| CopyRange {
            source,
            source_offset: DATA_OFFSET,
            target_offset,
            bytes: 4096,
        };
        let spec = CreateSpec { default_rights: BOTH.bits(), bytes: 0x1_0000, ..CreateSpec::default() };
        let objects = world.pool.object_ids().len();
        let used = world.pool.usage().used;
        for (spec, ranges, error) in [
            (spec, vec![range(source, 0x5000), range(closed, 0x6000)], ErrorCode::NotPermitted),
            (spec, vec![range(source, 0x5000), range(ObjectId { lo: 3, hi: 3 }, 0)], ErrorCode::NoObject),
            (spec, vec![range(source, 0x5000), range(source, 0x5000)], ErrorCode::BadOffset),
            (CreateSpec { source, ..spec }, vec![range(source, 0x5000)], ErrorCode::BadArgument),
            (CreateSpec { bytes: MAX_SIZE + 1, ..spec }, vec![], ErrorCode::BadArgument),
            (CreateSpec { bytes: MAX_SIZE, ..spec }, vec![range(source, 0x5000)], ErrorCode::PoolFull),
        ] {
            assert_eq!(world.monitor.create(world.context, &spec, &ranges), Err(error), "{ranges:?}");
        }
        assert_eq!((world.pool.object_ids().len(), world.pool.usage().used), (objects, used));
        let ranges = [range(source, 0x5000), range(source, 0x20_0000)];
        let made = world.monitor.create(world.context, &spec, &ranges).expect("create");
        assert_eq!((world.bytes(made, 0x5000), world.bytes(made, 0x20_0000)), ([7; 4], [7; 4]));
        assert_eq!(world.bytes(made, 0x6000), [0; 4]);
        let allocated = world.monitor.stat(world.context, made).expect("stat").allocated_bytes;
        assert_eq!(allocated, 0x1_0000 + 0x1000, "16 pages of its size, one of them copied, and one behind");
        // The source is write-protected wherever it is shown, as for any copy.
        world.pool.open_object(made).expect("open").write(0x5000, &[1; 4]).expect("write");
        assert_eq!(world.bytes(source, DATA_OFFSET), [7; 4]);
    }

    #[test]
    fn reserved_pages_are_there() {
        let Some(world) = world() else { return };
        let (target, read_only) = (world.object(BOTH, 9), world.object(Rights::READ, 1));
        let monitor = &world.monitor;
        let reserve =
            |object, first, bytes| monitor.resize(world.context, object, first, bytes, Resize::Reserve);
        let allocated = |object| monitor.stat(world.context, object).expect("stat").allocated_bytes;
        let before = allocated(target);
        assert_eq!(reserve(read_only, 0x10_0000, 4096), Err(ErrorCode::NotPermitted));
        assert_eq!(reserve(target, 0x10_0001, 4096), Err(ErrorCode::BadOffset));
        assert_eq!(reserve(target, 0, MAX_SIZE), Err(ErrorCode::PoolFull));
        assert_eq!(allocated(target), before);
        reserve(target, 0x10_0000, 0x8000).expect("reserve");
        assert_eq!(allocated(target), before + 0x8000);
        assert_eq!(world.bytes(target, DATA_OFFSET), [9; 4]);
    }

    #[test]
    fn pages_that_writing_replaced_are_free_while_the_copy_is_in_use() {
        const PAGES: u64 = 64;
        let Some(world) = world() else { return };
        let source = world.object(BOTH | Rights::DELETE, 7);
        let filled = vec![7; usize::try_from(PAGES * 4096).unwrap()];
        world.pool.open_object(source).expect("open").write(DATA_OFFSET, &filled).expect("write");
        let spec = CreateSpec { source, default_rights: BOTH.bits(), ..CreateSpec::default() };
        let copy = world.monitor.create(world.context, &spec, &[]).expect("create a copy");
        let (binding, _) = world.monitor.bind(world.context, copy).expect("bind");
        for page in 0..PAGES {
            let offset = DATA_OFFSET + page * 4096;
            world.monitor.touch(world.root, binding, offset, Rights::WRITE).expect("touch");
        }
        let before = world.pool.usage().used;
        world.monitor.delete(world.context, source).expect("delete the source");
        let freed = before - world.pool.usage().used;
        assert!(freed >= PAGES * 4096, "only {freed} bytes came back: the copy still holds what it replaced");
    }

    #[test]
    fn a_tied_object_outlives_its_deletion_until_its_keeper_goes() {
        let Some(world) = world() else { return };
        let monitor = &world.monitor;
        let all = BOTH | Rights::DELETE;
        let (object, keeper) = (world.object(all, 1), world.object(all, 2));
        let read_only = world.object(Rights::READ, 3);
        assert_eq!(monitor.tie(world.context, object, read_only), Err(ErrorCode::NotPermitted));
        monitor.tie(world.context, object, object).expect("it stays anyway");
        assert_eq!(monitor.tie(world.context, ObjectId { lo: 3, hi: 3 }, keeper), Err(ErrorCode::NoObject));
        monitor.tie(world.context, object, keeper).expect("tie");
        monitor.delete(world.context, object).expect("delete");
        assert!(world.pool.contains(object));
        assert_eq!(
            monitor.tie(world.context, object, object),
            Err(ErrorCode::NoObject),
            "not volatile: deleted"
        );
        monitor.delete(world.context, keeper).expect("delete the keeper");
        assert!(!world.pool.contains(object));
    }

    #[test]
    fn a_volatile_object_stays_when_it_is_tied_to_itself_or_named() {
        let Some(world) = world() else { return };
        let monitor = &world.monitor;
        let make = || monitor.make_volatile(world.context, BOTH | Rights::DELETE).expect("make");
        let [kept, named, other] = [make(), make(), make()];
        let flags = |id| monitor.stat(world.context, id).expect("stat").flags;
        assert!([kept, named, other].into_iter().all(|id| flags(id) == create_flags::VOLATILE));
        monitor.tie(world.context, kept, kept).expect("keep");
        monitor.name_set(world.context, named, "one").expect("name");
        assert_eq!(monitor.name_set(world.context, other, "one"), Err(ErrorCode::Exists));
        assert_eq!(monitor.name_get("one"), Ok(named));
        assert_eq!([kept, named, other].map(flags), [0, 0, create_flags::VOLATILE]);
        // What stays is named as all others are, and deleted.
        monitor.name_set(world.context, kept, "one").expect("name");
        assert_eq!(monitor.name_get("one"), Ok(kept));
        monitor.delete(world.context, kept).expect("delete");
        assert_eq!(monitor.name_get("one"), Err(ErrorCode::NoName));
        // The session ends.
        world.pool.delete_object(monitor.session).expect("end");
        assert!(world.pool.contains(named) && !world.pool.contains(other) && !world.pool.contains(kept));
    }
}
