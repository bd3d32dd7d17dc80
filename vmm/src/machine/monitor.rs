//! The reference monitor: it alone touches pool metadata, decides rights, and maps objects into contexts.
//!
//! # Contract
//! - The guest names contexts and objects by ID and bindings by number; all of them are claims. A binding is found again only in the
//!   table of the context that made it.
//! - Rights are [`Authority`]'s to say. **R1**: whoever uses a decision holds the authority's lock from the decision to the end of what it
//!   allows, so that a revocation, which takes that lock, finds everything that was allowed before it.
//! - **I1 leased**: a binding holds an [`ObjectRef`] as long as any alias shows its pages, so the pool cannot reuse them.
//!
//! Lock order: authority, `changes`, an object of the pool, contexts. The pool calls back ([`ShareHook`]) with an object locked and the hook
//! locks the contexts; so nothing here calls the pool while it holds them.

mod contents;
mod contexts;
mod entry;
mod facts;
mod first_boot;
mod life;
mod objects;
mod resume;
mod revocation;
#[cfg(test)]
mod test_world;

use super::hart::Timer;
use super::roots::{RootCell, RootMaker};
use crate::resume::ResumeList;
use contexts::Contexts;
use ept_contexts::{CHUNK_SIZE, Narrowing, ShowError, Touched};
use facts::PoolObjects;
use pool::{Access, Error as PoolError, ObjectRef, Pool, ShareHook};
use sec::{Authority, AuthorityError, Decision};
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use twz_abi::object::{DATA_OFFSET, MAX_SIZE};
use twz_abi::{ErrorCode, ObjectId, PAGE_SIZE, Rights};

pub(super) use contexts::{Limits, PlaceError};
pub(super) use first_boot::init_context;
pub(super) use life::Life;
pub(super) use resume::begin_session;
pub(super) use revocation::HostRevocation;

/// Growth that a touch beside pages that are there suggests to the pool, in bytes; the pool rounds it to its own policy.
const GROWTH_HINT: u64 = 16 * PAGE_SIZE;
/// Likewise of a touch far from all pages: most objects are small.
const FIRST_HINT: u64 = 4 * PAGE_SIZE;
/// Decisions that are remembered.
const DECISIONS_MAX: usize = 1 << 16;

/// A context that a kernel may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entered {
    /// Its number.
    pub number: u32,
    /// Its root's.
    pub root: u64,
    /// [`context_flags`](twz_abi::sec::context_flags).
    pub flags: u32,
}

/// The monitor of a machine.
pub(super) struct Monitor {
    pool: Arc<Pool>,
    session: ObjectId,
    authority: Mutex<Authority>,
    contexts: Arc<Mutex<Contexts>>,
    /// Held while an extent is looked up and shown, and while pages are replaced by a copy or a trim: see `contents`.
    changes: Mutex<()>,
    /// Raised when something was taken away, and what is called then.
    revision: AtomicU64,
    on_revision: Box<dyn Fn(u64) + Send + Sync>,
    /// When the next decision in use ends, in nanoseconds since 1970, and the timer for that moment.
    expiry: AtomicU64,
    expiry_timer: Timer,
    /// The threads that begin again at the next start. Taken after the authority, if both are.
    resume: Mutex<ResumeList>,
    /// Those that this start has not begun yet.
    resume_order: Mutex<VecDeque<u64>>,
    /// Views of threads of an earlier life that have not begun in this one. What stands in their memory is that life's.
    dormant: Mutex<HashSet<ObjectId>>,
    /// What this run's programs are told, once there was one.
    life: Mutex<Option<Life>>,
}

/// What a monitor is made of.
pub(super) struct Parts {
    /// The pool.
    pub pool: Arc<Pool>,
    /// Volatile objects are tied to it.
    pub session: ObjectId,
    /// Makes roots.
    pub maker: RootMaker,
    /// The root in which all harts begin; the first context entered gets it.
    pub first_root: Arc<RootCell>,
    /// How much object space there is.
    pub limits: Limits,
    /// Number of harts.
    pub harts: usize,
    /// Tells every hart's kernel the new revision.
    pub on_revision: Box<dyn Fn(u64) + Send + Sync>,
    /// Not set.
    pub expiry_timer: Timer,
    /// The threads to be resumed.
    pub resume: ResumeList,
}

/// Write-protects or hides pages before the pool changes what they mean.
#[derive(Debug)]
struct Hook(Arc<Mutex<Contexts>>);

impl ShareHook for Hook {
    fn before_share(&self, id: ObjectId, offset: u64, len: u64) -> Result<(), Box<str>> {
        lock(&self.0).narrow(id, offset, len, Narrowing::ReadOnly).map_err(|error| error.to_string().into())
    }

    fn before_replace(&self, id: ObjectId, offset: u64, len: u64) -> Result<(), Box<str>> {
        lock(&self.0).narrow(id, offset, len, Narrowing::Hidden).map_err(|error| error.to_string().into())
    }
}

fn lock(contexts: &Mutex<Contexts>) -> MutexGuard<'_, Contexts> {
    contexts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Monitor {
    /// A monitor of these parts.
    ///
    /// # Errors
    /// The pool's, when the revocations stored in it cannot be read.
    pub(super) fn new(parts: Parts) -> Result<Self, PoolError> {
        let Parts { pool, session, maker, first_root, limits, harts, on_revision, expiry_timer, resume } =
            parts;
        let (resume_order, dormant) =
            resume.in_order().into_iter().map(|(number, record)| (number, record.view)).unzip();
        let revocations = revocation::load(&pool)?;
        let contexts = Arc::new(Mutex::new(Contexts::new(maker, first_root, limits, harts)));
        pool.set_share_hook(Some(Arc::new(Hook(Arc::clone(&contexts)))));
        Ok(Self {
            authority: Mutex::new(Authority::new(revocations, DECISIONS_MAX, Rights::all())),
            pool,
            session,
            contexts,
            changes: Mutex::new(()),
            revision: AtomicU64::new(0),
            on_revision,
            expiry: AtomicU64::new(u64::MAX),
            expiry_timer,
            resume: Mutex::new(resume),
            resume_order: Mutex::new(resume_order),
            dormant: Mutex::new(dormant),
            life: Mutex::new(None),
        })
    }

    /// Rings when [`Monitor::expire`] is to be called.
    pub(super) fn expiry_timer(&self) -> &Timer {
        &self.expiry_timer
    }

    /// Makes `object` reachable in `context`. An object that is bound already gets the rights that it has now.
    pub(super) fn bind(&self, context: ObjectId, object: ObjectId) -> Result<(u64, Rights), ErrorCode> {
        let mut authority = self.authority();
        let decision = self.decision(&mut authority, context, object)?;
        let opened = self.pool.open_object(object).map_err(|error| code(&error))?;
        let rights = decision.rights;
        self.watch_clock(&decision);
        let grant = Arc::new(decision);
        let mut contexts = lock(&self.contexts); // R1: still under the authority's lock
        let (number, live) = contexts.find(context).ok_or(ErrorCode::NotPermitted)?;
        let binding = match live.table.find(object) {
            Some(binding) => {
                live.table.set_rights(binding, rights, grant).map_err(|error| {
                    tracing::error!(%error, "rights cannot be narrowed");
                    ErrorCode::NoMemory
                })?;
                binding
            }
            None => live.table.bind(opened, rights, grant),
        };
        Ok((join(number, binding), rights))
    }

    /// Backs the page at `offset` of a bound object for `access`, and shows what lies around it. Returns the binding's rights as well.
    pub(super) fn touch(
        &self,
        root: u64,
        binding: u64,
        offset: u64,
        access: Rights,
    ) -> Result<(Touched, Rights), ErrorCode> {
        let (touched, _, rights) = self.back(root, binding, offset, access)?;
        Ok((touched, rights))
    }

    /// The same for a page that may be one that cannot be read: tries that, and shows it alone. Who is shown such a page is refused again and again.
    pub(super) fn touch_suspect(
        &self,
        root: u64,
        binding: u64,
        offset: u64,
        access: Rights,
    ) -> Result<(Touched, Rights), ErrorCode> {
        let (touched, pool_offset, rights) = self.back(root, binding, offset, access)?;
        self.pool.probe(pool_offset).map_err(|error| code(&error))?;
        Ok((only(touched, offset), rights))
    }

    /// What was touched, the page's place in the pool, and the binding's rights.
    fn back(
        &self,
        root: u64,
        binding: u64,
        offset: u64,
        access: Rights,
    ) -> Result<(Touched, u64, Rights), ErrorCode> {
        let (number, binding) = split(binding)?;
        let permitted = |contexts: &mut Contexts| -> Result<(ObjectRef, Rights), ErrorCode> {
            let live = contexts.get(number).filter(|live| live.root_number() == root);
            let (object, rights) =
                live.and_then(|live| live.table.get(binding)).ok_or(ErrorCode::BadArgument)?;
            // No hardware withholds reading from what can be written or executed: without the right to read there is nothing to show.
            let allowed = !access.is_empty() && rights.contains(access | Rights::READ);
            if allowed { Ok((object.clone(), rights)) } else { Err(ErrorCode::NotPermitted) }
        };
        if !(DATA_OFFSET..MAX_SIZE).contains(&offset) {
            return Err(ErrorCode::BadOffset);
        }
        let (object, _) = permitted(&mut lock(&self.contexts))?;
        let _no_change = self.hold_touches();
        let wanted = if access.contains(Rights::WRITE) { Access::Write } else { Access::Read };
        // The pool may call the hook in here, which locks the contexts.
        let extent = grow(&object, offset, wanted).map_err(|error| code(&error))?;
        if wanted == Access::Write {
            // The hook has hidden the shared page that was replaced, and nobody can have shown it since: we hold the touches.
            object.release_replaced();
        }
        let mut contexts = lock(&self.contexts);
        // A revocation may have come in between.
        let (_, rights) = permitted(&mut contexts)?;
        contexts.make_room(number)?;
        let live = contexts.get(number).ok_or(ErrorCode::BadArgument)?;
        let shown = live.table.show(binding, &extent, self.pool.backing().fd);
        let touched = shown.map_err(|error| match error {
            ShowError::Full => ErrorCode::WindowFull,
            ShowError::NotBound | ShowError::NoWindow => ErrorCode::BadArgument,
            ShowError::Alias(error) => {
                tracing::error!(%error, "cannot show an extent");
                ErrorCode::NoMemory
            }
        })?;
        Ok((touched, extent.pool_offset + (offset - extent.object_offset), rights))
    }

    /// Drops a binding and everything that it showed.
    pub(super) fn unbind(&self, root: u64, binding: u64) -> Result<(), ErrorCode> {
        let (number, binding) = split(binding)?;
        let dropped = {
            let mut contexts = lock(&self.contexts);
            let live = contexts.get(number).filter(|live| live.root_number() == root);
            live.and_then(|live| live.table.unbind(binding)).ok_or(ErrorCode::BadArgument)?
        };
        // The last reference may free the object's pages, which no alias shows any more.
        drop(dropped);
        Ok(())
    }

    /// Keeps extents from being shown, or replaced, as long as the guard lives.
    fn hold_touches(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the alias of a context shows the page at `offset` of an object.
    #[cfg(test)]
    fn shows(&self, context: ObjectId, object: ObjectId, offset: u64) -> bool {
        lock(&self.contexts).find(context).is_some_and(|(_, live)| live.table.shows(object, offset))
    }

    fn authority(&self) -> MutexGuard<'_, Authority> {
        self.authority.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `context` has these rights to these objects, and at least one to each. While the guard lives nothing is revoked (R1).
    ///
    /// # Errors
    /// [`ErrorCode::NoObject`], [`ErrorCode::NotPermitted`].
    fn permit(
        &self,
        context: ObjectId,
        needed: &[(ObjectId, Rights)],
    ) -> Result<MutexGuard<'_, Authority>, ErrorCode> {
        let mut authority = self.authority();
        for &(object, rights) in needed {
            if !self.rights(&mut authority, context, object)?.contains(rights) {
                return Err(ErrorCode::NotPermitted);
            }
        }
        Ok(authority)
    }

    /// What threads in `context` may do with `object`; an error if nothing.
    fn rights(
        &self,
        authority: &mut Authority,
        context: ObjectId,
        object: ObjectId,
    ) -> Result<Rights, ErrorCode> {
        self.decision(authority, context, object).map(|decision| decision.rights)
    }

    fn decision(
        &self,
        authority: &mut Authority,
        context: ObjectId,
        object: ObjectId,
    ) -> Result<Decision, ErrorCode> {
        let decided = authority.decide(&PoolObjects(&self.pool), context, object, now());
        let decision = decided.map_err(|error| match error {
            // Whoever asks is no context.
            AuthorityError::NoObject { id } if id == context => ErrorCode::NotPermitted,
            other => refusal(other),
        })?;
        if decision.rights.is_empty() { Err(ErrorCode::NotPermitted) } else { Ok(decision) }
    }
}

/// Nanoseconds since 1970; a host clock before that reads as 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Fills `bytes` with random ones.
fn random(bytes: &mut [u8]) -> Result<(), PoolError> {
    getrandom::fill(bytes).map_err(|error| PoolError::Io {
        action: "get random numbers from",
        path: "/dev/urandom".into(),
        source: std::io::Error::other(error.to_string()),
    })
}

/// A binding's number for the guest: the context's above, the binding's own below.
const fn join(context: u32, binding: u32) -> u64 {
    (context as u64) << 32 | binding as u64
}

fn split(binding: u64) -> Result<(u32, u32), ErrorCode> {
    Ok((small(binding >> 32)?, small(binding & u64::from(u32::MAX))?))
}

fn small(number: u64) -> Result<u32, ErrorCode> {
    u32::try_from(number).map_err(|_| ErrorCode::BadArgument)
}

/// What an authority's refusal means for the guest.
fn refusal(error: AuthorityError) -> ErrorCode {
    match error {
        AuthorityError::NoObject { .. } => ErrorCode::NoObject,
        AuthorityError::NotAContext { .. } => ErrorCode::BadContext,
        AuthorityError::MayNotEnter { .. } | AuthorityError::Revocation(_) => ErrorCode::NotPermitted,
    }
}

/// Touches the page at `offset`. A hole just below what is there is a stack or an FOT growing down: its growth goes below, too.
fn grow(object: &ObjectRef, offset: u64, access: Access) -> Result<pool::Extent, PoolError> {
    if object.lookup(offset)?.is_some() {
        return object.touch(offset, PAGE_SIZE, access);
    }
    let page = offset - offset % PAGE_SIZE;
    let chunk = offset - offset % CHUNK_SIZE;
    let above = page + PAGE_SIZE;
    if above < chunk + CHUNK_SIZE && object.lookup(above)?.is_some() {
        let below = above.saturating_sub(GROWTH_HINT).max(chunk).max(DATA_OFFSET);
        object.touch(below, above - below, access)?;
    }
    let goes_on = object.lookup(page.saturating_sub(PAGE_SIZE))?.is_some();
    object.touch(offset, if goes_on { GROWTH_HINT } else { FIRST_HINT }, access)
}

/// The one page at `offset` of what was touched.
fn only(touched: Touched, offset: u64) -> Touched {
    let page = offset / PAGE_SIZE % (CHUNK_SIZE / PAGE_SIZE);
    let ahead = page - touched.first_page;
    Touched {
        large: None,
        address: touched.address + ahead * PAGE_SIZE,
        first_page: page,
        pages: 1,
        ..touched
    }
}

/// What a pool error means for the guest.
pub(super) fn code(error: &PoolError) -> ErrorCode {
    match error {
        PoolError::NoSuchObject(_) => ErrorCode::NoObject,
        PoolError::Full { .. } | PoolError::DiskFull { .. } => ErrorCode::PoolFull,
        PoolError::Exists(_) | PoolError::NameTaken(_) => ErrorCode::Exists,
        PoolError::BadRange { .. } => ErrorCode::BadOffset,
        PoolError::NoSuchName(_) => ErrorCode::NoName,
        PoolError::BadName(_) => ErrorCode::BadArgument,
        other => {
            tracing::error!(error = %other, "the pool failed");
            ErrorCode::Medium
        }
    }
}
