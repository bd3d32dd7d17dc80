//! Security contexts as the kernel sees them: which are in use, in which root each is, and how a hart goes there.
//!
//! # Contract
//! - Every thread and every space counts as a use of its context; the last use tells the monitor that nobody is left.
//! - What is asked of the monitor about a context is asked from its root ([`Kernel::visit`]): the monitor refuses anything else.
//! - **C1** A hart changes roots with the boot table loaded and no thread's vector state in its registers, since both belong to the vCPU that it
//!   leaves: a vCPU that waits holds nothing that can be freed.
//!
//! The number of a root is only compared. The monitor may move a context to another root while no hart is in it; the number then stays a
//! name that no other root has.

use crate::arch::entry;
use crate::kernel::Kernel;
use crate::mailbox::{Entered, Mailbox};
use crate::memory::chains::chained;
use twz_abi::hypercall::Happening;
use twz_abi::sec::context_flags;
use twz_abi::{ErrorCode, ObjectId};

/// Lists in which contexts are found.
pub(crate) const CONTEXT_CHAINS: usize = 128;
/// Contexts that a thread may hold at a time.
pub(crate) const ATTACHED_MAX: usize = 8;

/// A context in use.
pub(crate) struct Context {
    pub(crate) id: ObjectId,
    /// The monitor's number for it.
    number: u64,
    root: u64,
    flags: u64,
    uses: u32,
    next: Option<u32>,
}
chained!(Context);

/// A context that a thread holds: by whose right, and when the monitor was last asked about it.
#[derive(Clone, Copy)]
struct Holding {
    context: u32,
    asking: ObjectId,
    revision: u64,
    /// The space that the thread had when it last ran in it, kept so that coming back is one load; the thread counts as one in it.
    space: Option<u32>,
}

/// The contexts that a thread holds.
#[derive(Clone, Copy)]
pub(crate) struct Attached([Option<Holding>; ATTACHED_MAX]);

impl Attached {
    /// Just this one, in which the thread begins: it is never asked about again.
    pub(crate) const fn one(context: u32, id: ObjectId) -> Self {
        let mut all = [None; ATTACHED_MAX];
        all[0] = Some(Holding { context, asking: id, revision: 0, space: None });
        Self(all)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + use<> {
        self.0.into_iter().flatten().map(|holding| holding.context)
    }

    fn find(&mut self, context: u32) -> Option<&mut Holding> {
        self.0.iter_mut().flatten().find(|holding| holding.context == context)
    }

    fn add(&mut self, holding: Holding) -> bool {
        let place = self.0.iter_mut().find(|place| place.is_none());
        place.map(|place| *place = Some(holding)).is_some()
    }

    fn remove(&mut self, context: u32) -> Option<Holding> {
        let held = |place: &&mut Option<Holding>| place.is_some_and(|holding| holding.context == context);
        self.0.iter_mut().find(held).and_then(Option::take)
    }
}

impl Kernel {
    /// The context in use with this ID.
    pub(crate) fn find_context(&self, id: ObjectId) -> Option<u32> {
        self.context_chains.find(&self.contexts, id.lo, |context| context.id == id)
    }

    /// Makes a context usable for threads in the context `asking`, if the monitor lets them; counts one use.
    pub(crate) fn use_context(
        &mut self,
        mailbox: Mailbox,
        asking: ObjectId,
        id: ObjectId,
    ) -> crate::Result<u32> {
        let mut entered = mailbox.enter(asking, id);
        if matches!(entered, Err(ErrorCode::WindowFull)) {
            self.forget_idle_gates(mailbox, asking)?;
            entered = mailbox.enter(asking, id);
        }
        let entered = entered?;
        self.note_context(mailbox, id, entered)
    }

    /// Counts one use of a context that the monitor has entered.
    pub(crate) fn note_context(
        &mut self,
        mailbox: Mailbox,
        id: ObjectId,
        entered: Entered,
    ) -> crate::Result<u32> {
        if let Some(index) = self.find_context(id) {
            self.contexts[index].uses += 1;
            return Ok(index);
        }
        let Entered { number, root, flags } = entered;
        let context = Context { id, number, root, flags, uses: 1, next: None };
        match self.contexts.insert(&mut self.frames, context) {
            Ok(index) => {
                self.context_chains.link(&mut self.contexts, id.lo, index);
                Ok(index)
            }
            Err(_) => {
                mailbox.leave(number);
                Err(ErrorCode::NoMemory)
            }
        }
    }

    /// One more use of a context that is in use.
    pub(crate) fn hold_context(&mut self, index: u32) {
        self.contexts[index].uses += 1;
    }

    /// One use fewer; the last one gives the context back to the monitor.
    pub(crate) fn release_context(&mut self, mailbox: Mailbox, index: u32) {
        let context = &mut self.contexts[index];
        context.uses -= 1;
        if context.uses > 0 {
            return;
        }
        let hash = context.id.lo;
        self.context_chains.unlink(&mut self.contexts, hash, index);
        if let Some(context) = self.contexts.remove(&mut self.frames, index) {
            mailbox.leave(context.number);
        }
    }

    /// Brings this hart into the root of a context. Program memory cannot be used before a space is loaded again.
    pub(crate) fn visit(&mut self, mailbox: Mailbox, context: u32) -> crate::Result {
        let hart = mailbox.hart();
        let (number, root) = (self.contexts[context].number, self.contexts[context].root);
        if self.hart(hart).root == root {
            return Ok(());
        }
        // C1
        self.release_cpu_state(mailbox);
        self.load_boot_table(hart);
        mailbox.switch(number)?;
        self.hart(hart).root = root;
        self.counters().root_switches += 1;
        Ok(())
    }

    /// The window of a context is full: forgets what is in it and empties it.
    pub(crate) fn empty_window(&mut self, mailbox: Mailbox, context: u32) -> crate::Result {
        let (id, number) = (self.contexts[context].id, self.contexts[context].number);
        self.forget_pages(mailbox, id);
        mailbox.hide(number)
    }

    /// `ContextAttach`: lets `thread` hold a context. v0: its flags.
    pub(crate) fn attach(&mut self, mailbox: Mailbox, thread: u32, id: ObjectId) -> crate::Result<u64> {
        // Inside of a gate the right would be the callee's, and what it gives the caller's.
        if self.threads[thread].calls.is_some() {
            return Err(ErrorCode::NotPermitted);
        }
        if let Some(held) = self.held(thread, id) {
            return Ok(self.contexts[held].flags);
        }
        let revision = mailbox.revision();
        let asking = self.spaces[self.threads[thread].space].context;
        let context = self.use_context(mailbox, asking, id)?;
        if !self.threads[thread].attached.add(Holding { context, asking, revision, space: None }) {
            self.release_context(mailbox, context);
            return Err(ErrorCode::Busy);
        }
        Ok(self.contexts[context].flags)
    }

    /// `ContextDetach`: the opposite. The active context stays, and so does one that is undetachable.
    pub(crate) fn detach(&mut self, mailbox: Mailbox, thread: u32, id: ObjectId) -> crate::Result {
        let context = self.held(thread, id).ok_or(ErrorCode::BadContext)?;
        let is_active = self.spaces[self.threads[thread].space].record == context;
        if is_active || self.threads[thread].calls.is_some() {
            return Err(ErrorCode::Busy);
        }
        if self.contexts[context].flags & u64::from(context_flags::UNDETACHABLE) != 0 {
            return Err(ErrorCode::NotPermitted);
        }
        if let Some(holding) = self.threads[thread].attached.remove(context) {
            self.release_holding(mailbox, holding);
        }
        Ok(())
    }

    /// `ContextActivate`: `thread` goes on, at the same address of the same view, in a context that it holds.
    pub(crate) fn activate(&mut self, mailbox: Mailbox, thread: u32, id: ObjectId) -> crate::Result {
        // Inside of a gate the thread runs for its caller: it goes back by returning, nowhere else.
        if self.threads[thread].calls.is_some() {
            return Err(ErrorCode::NotPermitted);
        }
        let context = self.held(thread, id).ok_or(ErrorCode::NotPermitted)?;
        let old = self.threads[thread].space;
        if self.spaces[old].record == context {
            return Ok(());
        }
        self.still_holds(mailbox, thread, context)?;
        let view = self.spaces[old].view;
        let kept = self.threads[thread].attached.find(context).and_then(|holding| holding.space.take());
        let space = match kept {
            Some(space) if self.spaces[space].view == view => space,
            other => {
                // Of a view that the thread has left since.
                if let Some(space) = other {
                    self.leave_space(mailbox, space);
                }
                self.enter_space(mailbox, view, context)?
            }
        };
        let left = self.spaces[old].record;
        self.threads[thread].space = space;
        self.counters().context_switches += 1;
        match self.threads[thread].attached.find(left) {
            Some(holding) => holding.space = Some(old),
            None => self.leave_space(mailbox, old),
        }
        mailbox.record(Happening::ContextSwitched, 0, self.threads[thread].number, [0, 0]);
        // Loaded at the latest when the thread goes on; it cannot go on where that fails.
        let _ = self.load_space(mailbox.hart(), space);
        Ok(())
    }

    /// Whether the right by which `thread` holds a context is still there: asked again if anything was revoked since.
    fn still_holds(&mut self, mailbox: Mailbox, thread: u32, context: u32) -> crate::Result {
        let revision = mailbox.revision();
        let id = self.contexts[context].id;
        let holding =
            self.threads[thread].attached.find(context).map(|holding| (holding.asking, holding.revision));
        let (asking, asked_at) = holding.ok_or(ErrorCode::NotPermitted)?;
        if asking == id || asked_at == revision {
            return Ok(());
        }
        // By whose right it was attached is asked in that context's root; a context that nobody uses has no say.
        let by = self.find_context(asking).ok_or(ErrorCode::NotPermitted)?;
        self.visit(mailbox, by)?;
        mailbox.enter(asking, id)?;
        if let Some(holding) = self.threads[thread].attached.find(context) {
            holding.revision = revision;
        }
        Ok(())
    }

    /// The context with this ID, if `thread` holds it.
    fn held(&self, thread: u32, id: ObjectId) -> Option<u32> {
        self.threads[thread].attached.iter().find(|&context| self.contexts[context].id == id)
    }

    /// Ends all uses that a thread made of contexts.
    pub(crate) fn release_attached(&mut self, mailbox: Mailbox, attached: Attached) {
        attached.0.into_iter().flatten().for_each(|holding| self.release_holding(mailbox, holding));
    }

    fn release_holding(&mut self, mailbox: Mailbox, holding: Holding) {
        if let Some(space) = holding.space {
            self.leave_space(mailbox, space);
        }
        self.release_context(mailbox, holding.context);
    }
}

/// Where a vCPU of another root begins.
pub(crate) fn entry_address() -> u64 {
    entry::root_entry as *const () as u64
}
