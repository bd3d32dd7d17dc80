//! Threads; see [`crate::thread`].
//!
//! # Contract
//! - **I1**: what a scoped thread borrows lives as long as its closure runs: [`scope`] returns only when `unfinished` is 0, and that counts each
//!   thread whose closure has not returned and which nobody has joined. Where the scope's own thread panics or faults, its stack stays as it is
//!   and nobody gets to join it while one of those threads runs ([`lend_stack`]).

use super::Guest;
use crate::lock::Lock;
use crate::sys::Seam;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::RefCell;
use core::fmt;
use core::marker::PhantomData;
use core::num::{NonZeroU64, NonZeroUsize};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use twz_abi::ErrorCode;
use twz_rt::syscall;
use twz_rt::thread::{Lent, lend_stack};

pub use twz_rt::thread::Ended;
pub use twz_rt::thread_local;
pub use twz_rt::tls::{AccessError, LocalKey};

/// What joining a thread gives: its value, or in a box the [`Ended`] that says how else it ended.
pub type Result<T> = core::result::Result<T, Box<dyn Any + Send + 'static>>;

/// How often a scope looks whether handles of threads that ended badly were left to it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A number that no other thread of this program has or had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ThreadId(NonZeroU64);

#[derive(Debug)]
struct Inner {
    id: ThreadId,
    name: Option<String>,
    /// 1: [`park`] returns at once.
    token: AtomicU32,
}

/// A thread, as others know it.
#[derive(Clone, Debug)]
pub struct Thread(Arc<Inner>);

impl Thread {
    fn new(name: Option<String>) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let id = ThreadId(NonZeroU64::MIN.saturating_add(number));
        Self(Arc::new(Inner { id, name, token: AtomicU32::new(0) }))
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ThreadId {
        self.0.id
    }

    /// Its name, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// Makes its present or next [`park`] return.
    pub fn unpark(&self) {
        if self.0.token.swap(1, Ordering::Release) == 0 {
            Guest::wake(&self.0.token, 1);
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Thread>> = RefCell::new(None);
}

/// The calling thread.
#[must_use]
pub fn current() -> Thread {
    // One that nobody here started is the first.
    CURRENT.with_borrow_mut(|current| current.get_or_insert_with(|| Thread::new(Some("main".into()))).clone())
}

/// Sleeps until somebody calls [`Thread::unpark`]; returns at once if that was before. May also return for no reason.
pub fn park() {
    park_for(None);
}

/// As [`park`], for at most `time`.
pub fn park_timeout(time: Duration) {
    park_for(Some(time));
}

fn park_for(limit: Option<Duration>) {
    let thread = current();
    let token = &thread.0.token;
    if token.swap(0, Ordering::Acquire) == 0 {
        Guest::wait(token, 0, limit);
        token.swap(0, Ordering::Acquire);
    }
}

/// What a new thread is to be.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    name: Option<String>,
}

impl Builder {
    /// All defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A name for messages; the kernel keeps its first 16 bytes.
    #[must_use]
    pub fn name(mut self, name: String) -> Self {
        self.name = Some(name);
        self
    }

    /// Accepted for programs that say it: every stack grows to 8 MiB, and takes what it uses.
    #[must_use]
    pub const fn stack_size(self, _bytes: usize) -> Self {
        self
    }

    /// Starts a thread that runs `body`.
    ///
    /// # Errors
    /// [`crate::Error::Platform`] when there is no memory, or no room in the pool, for its stack.
    pub fn spawn<T, F>(self, body: F) -> crate::Result<JoinHandle<T>>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        // SAFETY: nothing is borrowed.
        unsafe { self.start(body) }
    }

    /// Starts a thread of a [`scope`].
    ///
    /// # Errors
    /// As [`Builder::spawn`].
    pub fn spawn_scoped<'scope, 'env, T, F>(
        self,
        scope: &'scope Scope<'scope, 'env>,
        body: F,
    ) -> crate::Result<ScopedJoinHandle<'scope, T>>
    where
        T: Send + 'scope,
        F: FnOnce() -> T + Send + 'scope,
    {
        let data = &scope.data;
        data.count.unfinished.fetch_add(1, Ordering::Relaxed);
        let finished = Arc::new(AtomicBool::new(false));
        let (count, theirs) = (Arc::clone(&data.count), Arc::clone(&finished));
        let run = move || {
            let result = body();
            count.finish(&theirs);
            result
        };
        // SAFETY: I1 for what the closure borrows; a handle that is dropped is joined by the scope, so results do not outlive it.
        match unsafe { self.start(run) } {
            Ok(inner) => {
                data.lent.to(inner.inner.thread(), Arc::clone(&finished));
                Ok(ScopedJoinHandle { data, finished, thread: inner.thread.clone(), inner: Some(inner) })
            }
            Err(error) => {
                data.count.finish(&finished);
                Err(error)
            }
        }
    }

    /// # Safety
    /// As [`twz_rt::thread::Builder::spawn_unchecked`].
    unsafe fn start<'a, T, F>(self, body: F) -> crate::Result<JoinHandle<T>>
    where
        T: Send + 'a,
        F: FnOnce() -> T + Send + 'a,
    {
        let mut builder = twz_rt::thread::Builder::new();
        if let Some(name) = &self.name {
            builder = builder.name(name);
        }
        let thread = Thread::new(self.name);
        let theirs = thread.clone();
        let run = move || {
            CURRENT.set(Some(theirs));
            body()
        };
        // SAFETY: the caller's promise.
        let inner = unsafe { builder.spawn_unchecked(run) };
        let inner = inner.map_err(|error| super::platform("start a thread", error))?;
        Ok(JoinHandle { inner, thread })
    }
}

/// Starts a thread with all defaults.
///
/// # Panics
/// When it cannot be started; [`Builder::spawn`] returns an error instead.
pub fn spawn<T, F>(body: F) -> JoinHandle<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match Builder::new().spawn(body) {
        Ok(handle) => handle,
        Err(error) => panic!("{error}"),
    }
}

/// A thread that was started; dropping the handle lets it run on.
#[derive(Debug)]
pub struct JoinHandle<T> {
    inner: twz_rt::thread::JoinHandle<T>,
    thread: Thread,
}

impl<T> JoinHandle<T> {
    /// Waits for the thread's end.
    ///
    /// # Errors
    /// An [`Ended`] in a box when it panicked or faulted.
    pub fn join(self) -> Result<T> {
        self.inner.join().map_err(|ended| -> Box<dyn Any + Send> { Box::new(ended) })
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.inner.is_finished()
    }

    /// The thread.
    #[must_use]
    pub fn thread(&self) -> &Thread {
        &self.thread
    }
}

/// What a scope and its threads count in.
#[derive(Debug)]
struct Count {
    /// See I1.
    unfinished: AtomicU32,
    has_failed: AtomicBool,
}

impl Count {
    /// Counts a thread as finished, once.
    fn finish(&self, finished: &AtomicBool) {
        if !finished.swap(true, Ordering::AcqRel) && self.unfinished.fetch_sub(1, Ordering::AcqRel) == 1 {
            Guest::wake(&self.unfinished, 1);
        }
    }
}

type Join<'scope> = Box<dyn FnOnce() + Send + 'scope>;

struct ScopeData {
    count: Arc<Count>,
    /// The stack of the scope's own thread.
    lent: Lent,
    /// Joins of threads whose handles were dropped. They borrow for the scope's life, which the type does not say: [`scope`] runs them all.
    left: Lock<Vec<Join<'static>>>,
}

/// Threads that may borrow, since [`scope`] waits for them.
pub struct Scope<'scope, 'env: 'scope> {
    data: ScopeData,
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({} threads)", self.data.count.unfinished.load(Ordering::Relaxed))
    }
}

impl<'scope> Scope<'scope, '_> {
    /// Starts a thread.
    ///
    /// # Panics
    /// When it cannot be started; [`Builder::spawn_scoped`] returns an error instead.
    pub fn spawn<F, T>(&'scope self, body: F) -> ScopedJoinHandle<'scope, T>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        match Builder::new().spawn_scoped(self, body) {
            Ok(handle) => handle,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Runs `body`, which may start threads that borrow what is outside of it, and waits for them all.
///
/// # Panics
/// When a thread that nobody joined panicked or faulted.
pub fn scope<'env, F, T>(body: F) -> T
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    let count = Arc::new(Count { unfinished: AtomicU32::new(0), has_failed: AtomicBool::new(false) });
    let scope = Scope {
        data: ScopeData { count: Arc::clone(&count), lent: lend_stack(), left: Lock::new(Vec::new()) },
        scope: PhantomData,
        env: PhantomData,
    };
    let result = body(&scope);
    // Threads may start others until the last has finished (I1).
    loop {
        let left = core::mem::take(&mut *scope.data.left.lock());
        left.into_iter().for_each(|join| join());
        let unfinished = count.unfinished.load(Ordering::Acquire);
        if unfinished == 0 && scope.data.left.lock().is_empty() {
            break;
        }
        if unfinished != 0 {
            // A thread that panics does not wake us, but its handle may be left meanwhile.
            Guest::wait(&count.unfinished, unfinished, Some(LOOK_AGAIN));
        }
    }
    assert!(!count.has_failed.load(Ordering::Relaxed), "a scoped thread panicked");
    result
}

/// A thread of a [`scope`].
pub struct ScopedJoinHandle<'scope, T: Send + 'scope> {
    data: &'scope ScopeData,
    finished: Arc<AtomicBool>,
    thread: Thread,
    inner: Option<JoinHandle<T>>,
}

impl<T: Send> fmt::Debug for ScopedJoinHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScopedJoinHandle({:?})", self.thread)
    }
}

impl<'scope, T: Send + 'scope> ScopedJoinHandle<'scope, T> {
    /// Waits for the thread's end.
    ///
    /// # Errors
    /// As [`JoinHandle::join`].
    pub fn join(mut self) -> Result<T> {
        match self.inner.take() {
            Some(inner) => {
                let result = inner.join();
                self.data.count.finish(&self.finished);
                result
            }
            // Only `drop` takes it otherwise.
            None => Err(Box::new(())),
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.inner.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// The thread.
    #[must_use]
    pub fn thread(&self) -> &Thread {
        &self.thread
    }
}

impl<'scope, T: Send + 'scope> Drop for ScopedJoinHandle<'scope, T> {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        let (count, finished) = (Arc::clone(&self.data.count), Arc::clone(&self.finished));
        let join: Join<'scope> = Box::new(move || {
            if inner.join().is_err() {
                count.has_failed.store(true, Ordering::Relaxed);
            }
            count.finish(&finished);
        });
        // SAFETY: only the lifetime changes; `scope` runs the closure before 'scope ends.
        let join = unsafe { core::mem::transmute::<Join<'scope>, Join<'static>>(join) };
        self.data.left.lock().push(join);
    }
}

/// Sleeps for at least `time`.
pub fn sleep(time: Duration) {
    let until = Guest::monotonic().saturating_add(time);
    let nobody_wakes = AtomicU32::new(0);
    while let Some(left) = until.checked_sub(Guest::monotonic()).filter(|left| !left.is_zero()) {
        Guest::wait(&nobody_wakes, 0, Some(left));
    }
}

/// How many threads can run at the same time: the machine's harts.
///
/// # Errors
/// [`crate::Error::Platform`] if the kernel does not say.
pub fn available_parallelism() -> crate::Result<NonZeroUsize> {
    let harts = syscall::thread_self().ok().and_then(|running| usize::try_from(running.harts).ok());
    let unknown = crate::Error::Platform { operation: "count harts", code: ErrorCode::NoSuchCall as i32 };
    harts.and_then(NonZeroUsize::new).ok_or(unknown)
}

/// Lets other threads run.
pub fn yield_now() {
    Guest::yield_now();
}
