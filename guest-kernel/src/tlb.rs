//! Making other harts drop translations, and address-space identifiers (PCID) where the CPU has them.
//!
//! A *generation* counts rounds of dropping. A hart remembers the generation up to which its translations are good, and whether it is in
//! ring 3. Whoever took a mapping away raises the generation and waits until each hart is out of ring 3 or has caught up; a hart that is
//! in ring 0 can use program addresses only after it has got the kernel's lock, where it catches up first ([`Kernel::catch_up`]).
//! So when [`Kernel::drop_everywhere`] returns, no hart uses what was taken away, and none can.

use crate::arch::cpu;
use crate::kernel::Kernel;
use crate::mailbox::Mailbox;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use twz_abi::boot::MAX_HARTS;

/// PCIDs that each hart uses, from 1 on; more spaces share them and are told apart by their serial number.
const PCID_COUNT: usize = 64;
/// Spins between two looks of the host at who else wants to run.
const SPINS_BEFORE_RELAX: u32 = 64;

/// What other harts read of a hart. A cache line of its own.
#[repr(align(64))]
struct Presence {
    in_ring3: AtomicBool,
    caught_up: AtomicU64,
}

static PRESENCE: [Presence; MAX_HARTS as usize] =
    [const { Presence { in_ring3: AtomicBool::new(false), caught_up: AtomicU64::new(0) } };
        MAX_HARTS as usize];
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Which spaces a hart's PCIDs stand for: (the space's serial number, generation up to which its translations are good).
pub(crate) struct PcidCache([(u64, u64); PCID_COUNT]);

impl PcidCache {
    /// No space cached.
    pub(crate) const EMPTY: Self = Self([(0, 0); PCID_COUNT]);

    /// The value of CR3 for a space: keeps its translations if this hart still has good ones.
    fn select(&mut self, root: u64, serial: u64) -> u64 {
        if !cpu::has_pcid() {
            return root;
        }
        let generation = GENERATION.load(Ordering::SeqCst);
        #[allow(clippy::cast_possible_truncation, reason = "reduced to a small index")]
        let index = (serial % PCID_COUNT as u64) as usize;
        let pcid = index as u64 + 1;
        let keeps = self.0[index] == (serial, generation);
        self.0[index] = (serial, generation);
        root | pcid | if keeps { cpu::CR3_KEEP } else { 0 }
    }
}

/// This hart has left ring 3. First thing after an entry: nobody waits for a hart that only waits for the lock.
pub(crate) fn left_ring3(hart: u32) {
    PRESENCE[hart as usize].in_ring3.store(false, Ordering::SeqCst);
}

impl Kernel {
    /// Drops this hart's translations if others have asked for it since; called with the lock just taken.
    pub(crate) fn catch_up(&mut self, hart: u32) {
        let generation = GENERATION.load(Ordering::SeqCst);
        if PRESENCE[hart as usize].caught_up.swap(generation, Ordering::SeqCst) != generation {
            self.reload_space(hart);
        }
    }

    /// This hart goes to ring 3 when it has released the lock.
    pub(crate) fn enters_ring3(&mut self, hart: u32) {
        PRESENCE[hart as usize].in_ring3.store(true, Ordering::SeqCst);
    }

    /// Makes every hart forget translations of what was just removed from tables; complete when it returns.
    pub(crate) fn drop_everywhere(&mut self, mailbox: Mailbox) {
        self.counters().shootdowns += 1;
        let generation = GENERATION.fetch_add(1, Ordering::SeqCst) + 1;
        self.catch_up(mailbox.hart());
        let is_behind = |hart: &u32| {
            let presence = &PRESENCE[*hart as usize];
            presence.in_ring3.load(Ordering::SeqCst) && presence.caught_up.load(Ordering::SeqCst) < generation
        };
        let others = || (0..self.hart_count()).filter(|&hart| hart != mailbox.hart()).filter(is_behind);
        let mask = others().fold(0, |mask, hart| mask | 1 << hart);
        if mask == 0 {
            return;
        }
        mailbox.kick(mask);
        let mut spins = 0;
        while others().next().is_some() {
            spin_loop();
            spins += 1;
            if spins == SPINS_BEFORE_RELAX {
                mailbox.relax();
                spins = 0;
            }
        }
    }

    /// Loads a space's tables on this hart, in the root of its context, if they are not there already.
    pub(crate) fn load_space(&mut self, hart: u32, space: u32) -> crate::Result {
        if self.hart(hart).space == Some(space) {
            return Ok(());
        }
        self.visit(Mailbox::of(hart), self.spaces[space].record)?;
        self.hart(hart).space = Some(space);
        self.counters().space_switches += 1;
        self.reload_space(hart);
        Ok(())
    }

    /// Loads the tables that this hart has in use once more, dropping translations that may be stale.
    fn reload_space(&mut self, hart: u32) {
        let (root, serial) = match self.hart(hart).space {
            Some(space) => self.spaces[space].identity(),
            None => (self.boot_root(), 0),
        };
        let value = self.hart(hart).pcids.select(root, serial);
        // SAFETY: every space's root and the boot table have the kernel's entries.
        unsafe { cpu::load_page_table(value) };
    }

    /// Goes back to the boot table, so that a space may vanish.
    pub(crate) fn load_boot_table(&mut self, hart: u32) {
        if self.hart(hart).space.take().is_some() {
            self.reload_space(hart);
        }
    }
}
