//! A machine: guest RAM, one root, harts, the monitor, the console; and its life from power-on to its end.
//!
//! ```text
//! Machine::build --run--> harts in their threads, events in the caller's --Ending--> all joined, pool written out
//! ```

mod console;
mod coverage;
mod descriptors;
mod events;
mod hart;
mod hypercall;
mod inspect;
mod kvm_stats;
mod layout;
mod monitor;
mod outlet;
mod program;
mod report;
mod roots;
mod stats;
mod terminal;
mod vcpu;
mod wake;

use crate::control::Source;
use crate::resume::{Kind, ResumeList};
use console::Console;
use coverage::Coverage;
use ept_contexts::Ram;
use hart::{Hart, HartShared, Inside, Timer};
use images::Image;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};
use kvm_stats::KvmTotals;
use layout::Facts;
use monitor::{Limits, Monitor, Parts, begin_session, init_context};
use pool::Pool;
use program::{First, ProgramError, Programs};
use roots::RootMaker;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};
use twz_abi::ObjectId;
use twz_abi::boot::{MAX_HARTS, ThreadStart, boot_flags};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub use coverage::CoverageError;
pub use inspect::Inspector;
pub use layout::{LayoutError, check_kernel};
pub(crate) use program::PROGRAM_PREFIX;
pub use report::{Memory, Report};

/// Least guest RAM that boots.
pub const MIN_MEMORY: u64 = 16 << 20;
/// Object space of a context where the second stage is two-dimensional, and where KVM shadows it (8 bytes of kernel memory for
/// each 4 KiB page there).
const WINDOW_BYTES: u64 = 64 << 30;
const WINDOW_BYTES_SHADOW: u64 = 4 << 30;
/// Likewise, for each context in the shared root; and how many of these there are at most.
const SHARED_WINDOW_BYTES: u64 = 8 << 30;
const SHARED_WINDOW_BYTES_SHADOW: u64 = 1 << 30;
const SHARED_WINDOWS_MAX: u32 = 64;
/// Contexts that have tables at a time if the host allows so many descriptors; more take turns.
const TABLES_MAX: usize = 128;
/// Mappings of a process if Linux does not say (`vm.max_map_count`).
const MAPPINGS_USUAL: usize = 65_530;
/// Of these, for everything but what windows show.
const MAPPINGS_OWN: usize = 8192;
/// Stretches that windows may show however few mappings there are.
const STRETCHES_MIN: usize = 1024;
/// Object space begins here at the earliest: above everything that a PC has below 4 GiB.
const WINDOW_BASE: u64 = 4 << 30;
/// How long the end of the machine waits for a reader of the console.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// Guest-physical address of the probe's code; below the kernel, overwritten by nothing that matters.
const PROBE_GPA: u64 = 0x8000;

/// What to build.
#[derive(Clone, Debug)]
pub struct Config<'a> {
    /// Guest RAM in bytes.
    pub memory: u64,
    /// Harts.
    pub harts: u32,
    /// Kernel and programs.
    pub image: &'a Image<'static>,
    /// The program to start and its arguments, its name first.
    pub arguments: Vec<String>,
    /// Its environment, each variable as `NAME=VALUE`.
    pub environment: Vec<String>,
    /// List of the kernel's instructions to watch, to be written again without those that were reached.
    pub coverage: Option<PathBuf>,
}

/// How a machine came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The first thread ended, or somebody shut the machine down, with this status.
    Exit(u8),
    /// A signal asked for it.
    Signal(i32),
    /// Somebody truncated the pool's file while the machine ran.
    Truncated {
        /// Bytes of the pool.
        expected: u64,
        /// Bytes of the file that are left.
        found: u64,
    },
    /// The kernel, KVM or the host failed.
    Broken(String),
}

/// A machine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// `/dev/kvm` cannot be used.
    #[error("cannot open /dev/kvm: {0}; `twzvmm doctor` says what to do")]
    NoKvm(std::io::Error),
    /// KVM lacks something.
    #[error("this host's KVM lacks {0}; `twzvmm doctor` says what to do")]
    Lacks(&'static str),
    /// No such program.
    #[error("no program {name:?} in the image (--program FILE runs one of your own); it has: {known}")]
    NoProgram {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// Guest RAM.
    #[error("cannot get {bytes} bytes of guest memory: {reason}; give less with --mem")]
    Memory {
        /// Bytes.
        bytes: u64,
        /// Why not.
        reason: String,
    },
    /// The kernel.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The program's objects.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The pool.
    #[error(transparent)]
    Pool(#[from] pool::Error),
    /// The first context's table.
    #[error(transparent)]
    Place(#[from] monitor::PlaceError),
    /// The first context was overwritten.
    #[error("object {context} is the first program's security context, but what stands in it is none")]
    NoContext {
        /// Its ID.
        context: ObjectId,
    },
    /// The list of instructions to watch.
    #[error(transparent)]
    Coverage(#[from] CoverageError),
    /// A root.
    #[error(transparent)]
    Root(#[from] ept_contexts::RootError),
    /// Anything else that the host refused.
    #[error("{what} failed: {reason}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        reason: String,
    },
}

fn host(what: &'static str) -> impl FnOnce(&dyn std::fmt::Display) -> BuildError {
    move |reason| BuildError::Host { what, reason: reason.to_string() }
}

/// What the threads of a machine share.
struct Shared {
    memory: GuestMemoryMmap,
    ram_bytes: u64,
    /// First byte of RAM that the kernel hands out.
    free_start: u64,
    monitor: Monitor,
    console: Console,
    programs: Programs,
    pool: Arc<Pool>,
    harts: Vec<HartShared>,
    kvm_stats: Arc<KvmTotals>,
    alarm: Timer,
    started: Instant,
    first_user: OnceLock<Duration>,
    fixup: OnceLock<[u64; 3]>,
    /// First instruction of a vCPU of another root.
    vcpu_entry: OnceLock<u64>,
    /// What this host's KVM supports.
    cpuid: CpuId,
    /// Guest-physical address of the kernel's counters, once it has said so; `None` if what it said cannot be.
    counters: OnceLock<Option<u64>>,
    ending: OnceLock<Ending>,
    wake_loop: EventFd,
    coverage: Option<Coverage>,
}

impl Shared {
    fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Ends the machine; the first reason counts.
    fn stop(&self, ending: Ending) {
        if self.ending.set(ending).is_ok() {
            self.ring_all(wake::STOP);
            self.wake_loop();
        }
    }

    /// What to say if the pool's file has become shorter than the pool. A device has no length of that sort, and cannot.
    fn truncation(&self) -> Option<Ending> {
        let backing = self.pool.backing();
        let file = std::fs::File::from(backing.fd.try_clone_to_owned().ok()?).metadata().ok()?;
        let (expected, found) = (backing.size, file.len());
        (file.is_file() && found < expected).then_some(Ending::Truncated { expected, found })
    }

    /// Waits until the harts' threads have seen that the machine ends.
    fn wait_for(&self, threads: &[thread::JoinHandle<()>]) {
        while !threads.iter().all(thread::JoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(1));
            self.ring_all(wake::STOP);
        }
    }

    /// Lets the readers of the output have what was printed: as long as they take after a program's end, unless a signal comes; a second after a
    /// signal.
    fn drain_console(&self, signals: &OwnedFd) {
        let is_signal = matches!(self.ending(), Some(Ending::Signal(_)));
        let give_up = |waited| if is_signal { waited > OUTPUT_GRACE } else { events::is_signalled(signals) };
        for (outlet, name) in
            [(&self.console.output, "standard output"), (&self.console.log, "standard error")]
        {
            let left = outlet.finish(give_up);
            if left > 0 {
                tracing::warn!("{left} bytes for {name} had no reader");
            }
        }
    }

    /// Makes the event loop look at the ending and at the input.
    fn wake_loop(&self) {
        if let Err(error) = self.wake_loop.write(1) {
            tracing::error!(%error, "cannot wake the event loop");
        }
    }

    fn ending(&self) -> Option<&Ending> {
        self.ending.get()
    }

    fn ring_all(&self, reasons: u32) {
        self.harts.iter().for_each(|hart| hart.bell.ring(reasons));
    }

    /// A hart's kernel runs; the addresses are the same for all harts.
    fn hart_ready(&self, hart: u32, vcpu_entry: u64, fixup: [u64; 3], counters: u64) {
        tracing::debug!(hart, vcpu_entry, counters, "hart ready");
        self.fixup.get_or_init(|| fixup);
        self.vcpu_entry.get_or_init(|| vcpu_entry);
        self.counters.get_or_init(|| self.check_counters(counters));
    }

    /// Kicks hart 0 when `time` since the start has come.
    fn set_alarm(&self, time: Duration) {
        let delay = time.saturating_sub(self.started.elapsed());
        self.alarm.set((time != Duration::from_nanos(u64::MAX)).then_some(delay));
    }

    fn fixup(&self) -> Option<[u64; 3]> {
        self.fixup.get().copied()
    }

    fn note_first_user(&self) {
        let elapsed = *self.first_user.get_or_init(|| self.started.elapsed());
        tracing::debug!(?elapsed, "first instruction of ring 3");
    }
}

/// A machine that is ready to run.
pub struct Machine {
    shared: Arc<Shared>,
    /// Each hart's first vCPU.
    insides: Vec<Inside>,
    pool: Arc<Pool>,
    signals: OwnedFd,
}

impl Machine {
    /// Builds a machine on `pool`. `started` is when the process began, for the start-up time.
    ///
    /// # Errors
    /// [`BuildError`] says what and what to do; nothing but volatile objects and the programs was changed in the pool.
    pub fn build(config: &Config<'_>, pool: Pool, started: Instant) -> Result<Self, BuildError> {
        let resume = ResumeList::load(&pool)?;
        let resumes = resume.in_order().iter().any(|(_, record)| record.word.kind == Kind::Resumable);
        let first = first_program(config, resumes)?;
        layout::check_kernel(config.image.kernel)?;
        let signals = events::block_stop_signals().map_err(|error| host("blocking signals")(&error))?;
        wake::install_handler().map_err(|error| host("installing a signal handler")(&error))?;

        // 1. RAM and the root with its first vCPU, on which ring 0 is tried out.
        let descriptors_max = descriptors::raise_limit();
        let kvm = open_kvm()?;
        let memory = guest_memory(config.memory)?;
        let ram_host =
            memory.get_host_address(GuestAddress(0)).map_err(|error| host("finding guest memory")(&error))?;
        let ram = Ram { host_address: ram_host as u64, bytes: config.memory };
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|error| host("KVM_GET_SUPPORTED_CPUID")(&error))?;
        let maker = RootMaker::new(kvm, memory.clone(), ram);
        let first_root = Arc::new(maker.make()?);
        let mut vcpus =
            (0..config.harts).map(|hart| first_root.create_vcpu(hart)).collect::<Result<Vec<_>, _>>()?;
        for (hart, vcpu) in (0..).zip(&vcpus) {
            vcpu::set_cpuid(vcpu, hart, &cpuid).map_err(|error| host("KVM_SET_CPUID2")(&error))?;
        }
        memory
            .write_slice(&vmm_probe::quick::CODE, GuestAddress(PROBE_GPA))
            .map_err(|error| host("writing to guest memory")(&error))?;
        let ring0_native = vmm_probe::quick::ring0_is_native(&mut vcpus[0], PROBE_GPA)
            .map_err(|error| host("trying ring 0")(&error))?;

        // 2. Object space and what is in it.
        let pool = Arc::new(pool);
        let session = begin_session(&pool, &resume)?;
        let context = init_context(&pool)?;
        let window_base = WINDOW_BASE.max(config.memory.next_multiple_of(1 << 30));
        let allowed = descriptors::share_out(
            descriptors_max,
            descriptors::open_now(),
            config.harts,
            TABLES_MAX,
            kvm_stats::OPEN_MAX,
        );
        let limits = limits(ring0_native, window_base, vcpu::address_bits(&cpuid), allowed.tables);
        let kvm_stats = maker.stats();
        kvm_stats.allow(allowed.statistics);
        let mailboxes = memory.clone();
        let on_revision = Box::new(move |revision| hypercall::tell_revision(&mailboxes, revision));
        let expiry_timer = Timer::new().map_err(|error| host("making a timer")(&error))?;
        let harts = config.harts as usize;
        let monitor = Monitor::new(Parts {
            pool: Arc::clone(&pool),
            session,
            maker,
            first_root: Arc::clone(&first_root),
            limits,
            harts,
            on_revision,
            expiry_timer,
            resume,
        })?;
        if monitor.enter_first(context)?.is_none() {
            return Err(BuildError::NoContext { context });
        }
        let init = match first {
            Some(first) => program::prepare(&pool, &monitor, &first, context, &config.environment)?,
            None => ThreadStart::default(),
        };

        // 3. The kernel.
        let window_bytes = limits.own_bytes;
        // Interpreted ring 0 cannot save the vector registers that ring 3 has on this CPU, told of by CPUID or not.
        let by_call = !ring0_native && vcpu::has_more_than_fxsave();
        let components = vcpu::exchanged_components(&cpuid).filter(|_| by_call);
        let flags = if ring0_native { boot_flags::RING0_NATIVE } else { 0 }
            | if by_call { boot_flags::VECTORS_BY_CALL } else { 0 }
            | if tracing::enabled!(tracing::Level::INFO) { boot_flags::VERBOSE } else { 0 };
        let facts = Facts { hart_count: config.harts, flags, window_base, window_bytes, init };
        let laid_out = layout::lay_out(&memory, config.image.kernel, &facts)?;
        let text: Vec<_> = laid_out.read_only.iter().map(|&(start, bytes)| start..start + bytes).collect();
        let coverage = config.coverage.as_deref();
        let coverage = coverage.map(|path| Coverage::plant(path, &memory, &text)).transpose()?;
        if coverage.is_none() {
            for &(start, bytes) in &laid_out.read_only {
                protect(&memory, start, bytes)?;
            }
        }
        for (hart, vcpu) in (0..).zip(&vcpus) {
            vcpu::prepare(vcpu, hart, laid_out.entry, laid_out.page_table)
                .and_then(|()| components.map_or(Ok(()), |wanted| vcpu::enable_components(vcpu, wanted)))
                .map_err(|(what, error)| host(what)(&error))?;
        }
        (0..).zip(&vcpus).for_each(|(hart, vcpu)| kvm_stats.add(first_root.number(), hart, vcpu));
        let harts = (0..config.harts).map(|_| HartShared::new(started)).collect::<Result<Vec<_>, _>>();
        let shared = Arc::new(Shared {
            ram_bytes: config.memory,
            kvm_stats,
            free_start: laid_out.free_start,
            memory,
            monitor,
            console: Console::new(),
            pool: Arc::clone(&pool),
            programs: Programs::new(Arc::clone(&pool), &config.image.programs),
            harts: harts.map_err(|error| host("making a timer")(&error))?,
            alarm: Timer::new().map_err(|error| host("making a timer")(&error))?,
            started,
            first_user: OnceLock::new(),
            fixup: OnceLock::new(),
            vcpu_entry: OnceLock::new(),
            cpuid,
            counters: OnceLock::new(),
            ending: OnceLock::new(),
            wake_loop: EventFd::new(EFD_NONBLOCK).map_err(|error| host("making an eventfd")(&error))?,
            coverage,
        });
        let insides = vcpus.into_iter().map(|vcpu| Inside { vcpu, root: Arc::clone(&first_root) }).collect();
        Ok(Self { shared, insides, pool, signals })
    }

    /// Looks into the machine while it runs, for a control socket.
    #[must_use]
    pub fn inspector(&self) -> Inspector {
        Inspector(Arc::clone(&self.shared))
    }

    /// Runs the machine to its end and writes the pool out.
    ///
    /// # Errors
    /// The pool could not be written out, or a thread could not be started.
    pub fn run(self, pool_path: &Path) -> Result<(Ending, Report), BuildError> {
        let Self { shared, insides, pool, signals } = self;
        let also_signals = signals.try_clone().map_err(|error| host("copying a descriptor")(&error))?;
        // Not joined: one may wait for a reader that never reads, until the process ends.
        for (name, outlet) in [("output", &shared.console.output), ("log", &shared.console.log)] {
            let (outlet, harts) = (Arc::clone(outlet), Arc::downgrade(&shared));
            let has_room = move || harts.upgrade().into_iter().for_each(|harts| harts.ring_all(wake::KICK));
            let run = move || outlet.run(has_room);
            let spawned = thread::Builder::new().name(name.into()).spawn(run);
            spawned.map_err(|error| host("starting a thread")(&error))?;
        }
        // Whatever a program did to the terminal, it is as before when this returns.
        let _terminal = terminal::Restored;
        let mut threads = Vec::new();
        for (number, inside) in (0..).zip(insides) {
            let hart = Hart::new(number, inside, Arc::clone(&shared));
            let spawned = thread::Builder::new().name(format!("hart {number}")).spawn(|| hart.run());
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => shared.stop(Ending::Broken(format!("cannot start a thread: {error}"))),
            }
        }
        if let Err(error) = events::run(&shared, signals) {
            shared.stop(Ending::Broken(error));
        }
        shared.wait_for(&threads);
        for thread in threads {
            if thread.join().is_err() {
                shared.stop(Ending::Broken("a hart's thread panicked".into()));
            }
        }
        shared.drain_console(&also_signals);
        if matches!(shared.ending(), Some(Ending::Exit(_))) {
            shared.monitor.resume_interrupted()?;
        }
        // Of a file that was truncated, nothing is written out: that may need a page that is gone.
        if !matches!(shared.ending(), Some(Ending::Truncated { .. })) {
            pool.sync()?;
        }
        if let Some(coverage) = &shared.coverage {
            coverage.write()?;
        }
        let ending =
            shared.ending().cloned().unwrap_or_else(|| Ending::Broken("the event loop ended".into()));
        let ram_start = shared.memory.get_host_address(GuestAddress(0)).map_or(0, |address| address as u64);
        let report = Report {
            startup_ns: shared.first_user.get().copied().map(report::nanoseconds),
            stats: Source::stats(&Inspector(Arc::clone(&shared))),
            contexts: shared.monitor().list(),
            memory: Memory::measure(ram_start..ram_start + shared.ram_bytes, pool_path),
        };
        Ok((ending, report))
    }
}

/// The program to start. Without one named, threads that are to be resumed run alone; else the image's first program does.
fn first_program<'a>(config: &Config<'a>, resumes: bool) -> Result<Option<First<'a>>, BuildError> {
    let image = config.image;
    let name = match config.arguments.first() {
        Some(name) => name.as_str(),
        None if resumes => return Ok(None),
        None => {
            tracing::warn!("no thread is to be resumed: starting the image's first program, {}", image.init);
            image.init
        }
    };
    let program = image.program(name).ok_or_else(|| BuildError::NoProgram {
        name: name.to_string(),
        known: image.programs.iter().map(|program| program.name).collect::<Vec<_>>().join(", "),
    })?;
    let arguments = match config.arguments.as_slice() {
        [] => vec![name.to_string()],
        given => given.to_vec(),
    };
    let contents = program.contents().map_err(ProgramError::from)?;
    Ok(Some(First { program, contents, arguments }))
}

fn open_kvm() -> Result<Kvm, BuildError> {
    let kvm = Kvm::new().map_err(|error| BuildError::NoKvm(error.into()))?;
    for (cap, name) in
        [(Cap::UserMemory, "KVM_CAP_USER_MEMORY"), (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT")]
    {
        if !kvm.check_extension(cap) {
            return Err(BuildError::Lacks(name));
        }
    }
    Ok(kvm)
}

fn guest_memory(bytes: u64) -> Result<GuestMemoryMmap, BuildError> {
    let failed = |reason: String| BuildError::Memory { bytes, reason };
    let available = available_memory();
    if available.is_some_and(|available| bytes > available) {
        return Err(failed(format!("the host has {} bytes available", available.unwrap_or(0))));
    }
    let length = usize::try_from(bytes).map_err(|error| failed(error.to_string()))?;
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), length)]).map_err(|error| failed(error.to_string()))
}

/// Memory that the host could give without swapping, in bytes; `None` where it does not say.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Makes kernel text and constants read-only in the second stage of every root.
fn protect(memory: &GuestMemoryMmap, start: u64, bytes: u64) -> Result<(), BuildError> {
    let region = memory
        .find_region(GuestAddress(start))
        .ok_or_else(|| host("finding the kernel")(&"it is not in RAM"))?;
    if start + bytes > region.len() {
        return Err(host("finding the kernel")(&"it is not in RAM"));
    }
    let address =
        memory.get_host_address(GuestAddress(start)).map_err(|error| host("finding the kernel")(&error))?;
    let length = usize::try_from(bytes).map_err(|error| host("finding the kernel")(&error))?;
    // SAFETY: the range lies in the guest's RAM mapping (checked), and nothing of ours writes to the kernel's text after this.
    match unsafe { libc::mprotect(address.cast(), length, libc::PROT_READ) } {
        0 => Ok(()),
        _ => Err(host("mprotect")(&std::io::Error::last_os_error())),
    }
}

/// How much object space contexts get on this host.
fn limits(ring0_native: bool, window_base: u64, address_bits: u32, tables: usize) -> Limits {
    let own_bytes = if ring0_native { WINDOW_BYTES } else { WINDOW_BYTES_SHADOW };
    let shared_bytes = if ring0_native { SHARED_WINDOW_BYTES } else { SHARED_WINDOW_BYTES_SHADOW };
    let end = 1_u64 << address_bits.clamp(36, 47);
    let fitting = end.saturating_sub(window_base) / shared_bytes;
    let shared_count = u32::try_from(fitting).unwrap_or(u32::MAX).min(SHARED_WINDOWS_MAX);
    // A stretch takes two mappings at most; the rest is for the process itself.
    let mappings = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let mappings = mappings.and_then(|text| text.trim().parse().ok()).unwrap_or(MAPPINGS_USUAL);
    let stretches = (mappings.saturating_sub(MAPPINGS_OWN) / 2).max(STRETCHES_MIN);
    Limits { window_base, own_bytes, shared_bytes, shared_count, tables, stretches }
}

/// Checks what a command line may ask for.
///
/// # Errors
/// What is wrong, in words.
pub fn check_limits(memory: u64, harts: u32) -> Result<(), String> {
    if harts == 0 || harts > MAX_HARTS {
        return Err(format!("--harts {harts}: 1 to {MAX_HARTS} are possible"));
    }
    if memory < MIN_MEMORY {
        return Err(format!("--mem {memory}: at least {MIN_MEMORY} bytes (16M) are needed"));
    }
    Ok(())
}
