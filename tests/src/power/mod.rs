//! Power cuts and kills of a machine under load, with a model of what it acknowledged.
//!
//! # Contract
//! - One [`Campaign`] is one pool in one folder. Each [`Campaign::round`] starts a machine on it, which resumes its [`Load`] (or starts it, the first time), ends it in
//!   some [`End`], and checks: the pool with `fsck`, and in the next life everything that it finds against the model.
//! - A round fails with words that say what was lost, torn or damaged; nothing is repaired in between.

mod medium;
mod memory;
mod model;
#[path = "../../../apps/src/bin/churn/plan.rs"]
mod plan;
mod progress;
mod testbed;

pub use medium::{bad_pages, truncations};
pub use memory::memory_kills;
pub use progress::Progress;
pub use testbed::{MachineCut, boots};

use crate::{Output, Running, binary, start};
use model::{Model, Said};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use std::fmt;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Size of the pool.
const POOL: &str = "16M";
/// How many operations may be done and not announced when a machine ends: the one between the two.
const LAST_OPERATION: u64 = 1;
/// How many may be in a life without memory, in which nothing that a program prints is sure to come out. What was done is held against the model all the same.
const WITHOUT_MEMORY: u64 = 10_000;
/// How long a machine may take for what takes milliseconds, but much longer on a busy host.
const LIMIT: Duration = Duration::from_secs(300);
/// Where a fault was seeded, which may well keep a program busy for ever: that finds it, too.
const LIMIT_SEEDED: Duration = Duration::from_secs(60);

/// From when a time counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The start of the machine.
    Start,
    /// The first operation that the load announces.
    Load,
}

/// How a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Power failure after so many flushes and fences: unflushed lines are lost.
    PowerCut {
        /// Events.
        events: u64,
    },
    /// SIGKILL.
    Kill(Moment),
    /// SIGKILL of a machine on a shadow: all that was not durable is lost.
    KillShadowed(Moment),
    /// SIGSTOP, SIGCONT after 2 ms, and SIGKILL as long after that as it took before.
    Stop(Moment),
    /// No more memory from the host, and SIGKILL 20 ms later.
    NoMemory(Moment),
    /// SIGTERM.
    Terminate(Moment),
}

/// When something happens to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// From when on.
    pub from: From,
    /// Microseconds later.
    pub after_us: u64,
}

/// The program that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// System calls: objects made, copied and deleted, names; a log of its own.
    Churn,
    /// `libtwz`: transactions, collections, pointers through FOTs.
    Ledger,
    /// `kv`: pairs put, deleted and loaded, transactions beside them.
    Pairs,
    /// Security contexts: capabilities granted and revoked.
    Grants,
}

impl Load {
    /// All.
    pub const ALL: [Self; 4] = [Self::Churn, Self::Ledger, Self::Pairs, Self::Grants];

    /// The program's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Churn => "churn",
            Self::Ledger => "ledger",
            Self::Pairs => "pairs",
            Self::Grants => "grants",
        }
    }

    /// Before which event its power fails. Each operation on rights takes many switches of contexts, so fewer of those are waited for.
    const fn events_max(self) -> u64 {
        match self {
            Self::Grants => 700,
            _ => 1500,
        }
    }
}

/// What was seen in all rounds so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Power cuts that lose lines.
    pub cuts: u64,
    /// Power cuts of emulated machines.
    pub machines: u64,
    /// Kills and stops.
    pub kills: u64,
    /// Of these, by the kernel, because of a limit on memory.
    pub memory_kills: u64,
    /// Pages that could not be read.
    pub bad_pages: u64,
    /// Files that were truncated under a machine.
    pub truncations: u64,
    /// Lives in which the load came so far as to tell what it found: states that were checked.
    pub states: u64,
    /// Operations that had been acknowledged when they were checked.
    pub acknowledged: u64,
    /// Threads that were set aside because three cuts in a row came before they had recovered.
    pub set_aside: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            cuts,
            machines,
            kills,
            memory_kills,
            bad_pages,
            truncations,
            states,
            acknowledged,
            set_aside,
        } = self;
        write!(
            f,
            "{cuts} power cuts that lose lines, {machines} power cuts of emulated machines, {kills} kills ({memory_kills} by the kernel, out of memory), {bad_pages} bad pages, {truncations} truncated files, {states} states checked, {acknowledged} acknowledged operations checked, \
             set aside and retried {set_aside} times: 0 lost, 0 torn"
        )
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.cuts += other.cuts;
        self.machines += other.machines;
        self.kills += other.kills;
        self.memory_kills += other.memory_kills;
        self.bad_pages += other.bad_pages;
        self.truncations += other.truncations;
        self.states += other.states;
        self.acknowledged += other.acknowledged;
        self.set_aside += other.set_aside;
    }
}

/// A pool under load, through many failures.
#[derive(Debug)]
pub struct Campaign {
    folder: tempfile::TempDir,
    load: Load,
    model: Model,
    seed: u64,
    /// Source lines whose flushes are dropped.
    deaf_to: Vec<String>,
    announced: u64,
    /// How many more operations may have been done than were heard of.
    unheard: u64,
    /// How long a life may take in all.
    limit: Duration,
    /// The load is on the resume list, as far as we know.
    is_running: bool,
    /// It certainly is: it has announced an operation since it was started.
    is_listed: bool,
    random: u64,
    /// So far.
    pub tally: Tally,
    progress: Progress,
    /// Where the next machine writes its number, to be in a control group.
    members: Option<PathBuf>,
    /// What a machine needed under load, in bytes.
    needs_bytes: u64,
    /// How the life before this one ended.
    before: Option<End>,
}

impl Campaign {
    /// A new pool, in memory if the host has a place for that.
    ///
    /// # Panics
    /// If there is no room for it.
    #[must_use]
    pub fn new(load: Load, seed: u64, deaf_to: &[&str]) -> Self {
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
        Self::within(&folder, load, seed, deaf_to)
    }

    /// A new pool somewhere in this folder.
    ///
    /// # Panics
    /// If there is no room for it.
    #[must_use]
    pub fn within(folder: &Path, load: Load, seed: u64, deaf_to: &[&str]) -> Self {
        Self {
            folder: tempfile::tempdir_in(folder).expect("room for a pool"),
            load,
            model: Model::new(seed),
            seed,
            deaf_to: deaf_to.iter().map(|&site| site.to_owned()).collect(),
            announced: 0,
            unheard: LAST_OPERATION,
            limit: LIMIT,
            is_running: false,
            is_listed: false,
            random: seed,
            tally: Tally::default(),
            progress: Progress::default(),
            members: None,
            needs_bytes: 0,
            before: None,
        }
    }

    /// Has it note there what it does.
    #[must_use]
    pub fn watched(self, progress: &Progress) -> Self {
        Self { progress: progress.clone(), ..self }
    }

    fn note(&self, what: &dyn fmt::Debug) {
        let Tally { cuts, machines, kills, states, .. } = self.tally;
        let name = self.load.name();
        self.progress.note(format!(
            "{name}: {} power cuts, {kills} kills, {states} states checked; now {what:?}",
            cuts + machines
        ));
    }

    /// How a line of the load's begins.
    fn line(&self, word: &str) -> String {
        format!("{}: {word}", self.load.name())
    }

    /// Where the pool is.
    #[must_use]
    pub fn pool(&self) -> PathBuf {
        self.folder.path().join("pool.img")
    }

    /// The next random number below `bound`.
    pub fn lot(&mut self, bound: u64) -> u64 {
        // A step of splitmix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ x >> 31) % bound
    }

    fn start(&mut self, shadow: Option<Option<u64>>) -> Running {
        self.start_on(&self.pool(), shadow)
    }

    /// Starts a machine on this pool, which is the campaign's, whatever its name.
    fn start_on(&mut self, pool: &Path, shadow: Option<Option<u64>>) -> Running {
        let mut command = match &self.members {
            None => Command::new(binary("twzvmm")),
            Some(members) => {
                let mut command = Command::new("sh");
                command.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]).arg(members).arg(binary("twzvmm"));
                command
            }
        };
        command.arg("--pmem").arg(pool).args(["--create", POOL, "--mem", "32M"]);
        if let Some(events) = shadow {
            let seed = self.lot(u64::MAX);
            let cut = events.map_or(format!("{seed}"), |events| format!("{seed}:{events}"));
            command.args(["--power-cut", &cut]);
            for site in &self.deaf_to {
                command.args(["--power-cut-deaf", site]);
            }
        }
        if !self.is_running {
            command.args(["--", self.load.name(), &self.seed.to_string()]);
            // It may be resumable by the time of its end, and must not run twice: the next start tells.
            self.is_running = true;
        }
        start(command)
    }

    /// One life of the machine.
    ///
    /// # Errors
    /// What was lost, torn or damaged, in words.
    pub fn round(&mut self, end: End) -> Result<(), String> {
        self.note(&end);
        let shadow = match end {
            End::PowerCut { events } => Some(Some(events)),
            End::KillShadowed(_) => Some(None),
            _ => None,
        };
        let running = self.start(shadow);
        let output = ended(running, end, &self.line("done"), self.limit);
        match end {
            End::PowerCut { .. } => self.tally.cuts += 1,
            End::KillShadowed(_) => {
                (self.tally.cuts, self.tally.kills) = (self.tally.cuts + 1, self.tally.kills + 1)
            }
            _ => self.tally.kills += 1,
        }
        let before = self.before.replace(end);
        let judged = self.judge(&output, end).and_then(|()| self.check_pool());
        judged.map_err(|what| {
            format!(
                "{end:?} after {before:?}: {what}\n--- status {}\n{}--- stderr\n{}",
                output.status,
                tail(&output.stdout),
                output.stderr
            )
        })
    }

    fn judge(&mut self, output: &Output, end: End) -> Result<(), String> {
        let expected: &[i32] = match end {
            End::PowerCut { .. } | End::Kill(_) | End::KillShadowed(_) | End::Stop(_) => &[137],
            End::Terminate(_) => &[143],
            // It notices, or is killed, or a thread gets no page: fault 5, or 14 where the host maps nothing more, or a call of the program
            // fails: 1. 127: there was not even enough to load the program.
            End::NoMemory(_) => &[137, 2, 133, 134, 142, 127, 1],
        };
        if output.stderr.contains("was set aside") {
            self.tally.set_aside += 1;
            if self.pool().exists() {
                self.retry()?;
            }
            return Ok(());
        }
        if output.stderr.contains("no thread is to be resumed") {
            if self.is_listed {
                return Err("it was resumable when it announced an operation, and is not resumed".into());
            }
            // The last cut came before it was resumable.
            self.is_running = false;
            return Ok(());
        }
        let Said { found, announced, complaint } = model::read(self.load.name(), &output.stdout);
        if let Some(complaint) = complaint.filter(|_| !matches!(end, End::NoMemory(_))) {
            return Err(complaint);
        }
        if !expected.contains(&output.status) {
            return Err(format!("unexpected end, status {}", output.status));
        }
        if matches!(end, End::NoMemory(_)) && output.status != 137 && output.stderr.trim().is_empty() {
            return Err("it ended without a word".into());
        }
        if let Some(found) = found {
            self.tally.states += 1;
            self.tally.acknowledged += self.announced;
            self.model.follow(self.announced, self.unheard, &found)?;
            // What the next life finds begins there.
            (self.announced, self.unheard) = (found.done, LAST_OPERATION);
        }
        if let Some(announced) = announced {
            self.announced = announced;
            self.is_listed = true;
        }
        if matches!(end, End::NoMemory(_)) {
            // The program may have ended by itself, even just before the kill, and need not be resumed then.
            self.is_listed = false;
            self.unheard = WITHOUT_MEMORY;
        }
        Ok(())
    }

    fn check_pool(&self) -> Result<(), String> {
        // A process that was killed holds the pool until it is gone.
        let mut command = Command::new(binary("twzvmm"));
        command.args(["pool", "fsck"]).arg(self.pool());
        let output = start(command).wait(LIMIT);
        let none_yet = output.stderr.contains("No such file");
        if output.status == 0 || none_yet {
            Ok(())
        } else {
            Err(format!("fsck: {}{}", output.stdout, output.stderr))
        }
    }

    fn retry(&self) -> Result<(), String> {
        let mut command = Command::new(binary("twzvmm"));
        command.args(["resume", "retry", "--pmem"]).arg(self.pool()).arg("1");
        let output = start(command).wait(LIMIT);
        if output.status == 0 { Ok(()) } else { Err(format!("retry: {}", output.stderr)) }
    }

    /// Lets `churn` come up once more, undisturbed, and checks what it finds.
    ///
    /// # Errors
    /// As [`Campaign::round`].
    pub fn settle(&mut self) -> Result<(), String> {
        for _ in 0..3 {
            self.note(&"the last life");
            let states = self.tally.states;
            let running = self.start(None);
            if running.wait_until(&self.line("done"), LIMIT) {
                running.signal(Signal::KILL);
            }
            let output = running.wait(LIMIT);
            self.judge(&output, AT_ONCE)
                .map_err(|what| format!("at last: {what}\n{}{}", tail(&output.stdout), output.stderr))?;
            if self.tally.states > states {
                return self.check_pool();
            }
        }
        Err("it does not come up any more".into())
    }
}

/// The end of a life that was ended when it had done what it was for.
const AT_ONCE: End = End::Kill(Moment { from: From::Load, after_us: 0 });

/// Brings a machine to its end, within `limit`; `works` is what the load prints when it works.
fn ended(running: Running, end: End, works: &str, limit: Duration) -> Output {
    let began = Instant::now();
    let pause = |us: u64| sleep(Duration::from_micros(us));
    let wait = |moment: Moment| {
        // One that does not come so far ends by itself.
        let _ = moment.from == From::Start || running.wait_until(works, limit);
        pause(moment.after_us);
    };
    match end {
        End::PowerCut { .. } => {}
        End::Kill(moment) | End::KillShadowed(moment) => {
            wait(moment);
            running.signal(Signal::KILL);
        }
        End::Stop(moment) => {
            wait(moment);
            running.signal(Signal::STOP);
            pause(2000);
            running.signal(Signal::CONT);
            pause(moment.after_us);
            running.signal(Signal::KILL);
        }
        End::NoMemory(moment) => {
            wait(moment);
            let none = Rlimit { current: Some(1 << 20), maximum: None };
            let id = i32::try_from(running.id()).ok().and_then(Pid::from_raw);
            // Fails if it has ended, which its status tells.
            let _ = prlimit(id, Resource::As, none);
            pause(20_000);
            running.signal(Signal::KILL);
        }
        End::Terminate(moment) => {
            wait(moment);
            running.signal(Signal::TERM);
        }
    }
    running.wait(limit.saturating_sub(began.elapsed()).max(Duration::from_secs(1)))
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(40);
    lines[from..].iter().map(|line| format!("{line}\n")).collect()
}

/// A moment: one in eight in the start of the machine, else under load.
fn moment(campaign: &mut Campaign) -> Moment {
    let after_us = campaign.lot(60_000);
    let from = if campaign.lot(8) == 0 { From::Start } else { From::Load };
    Moment { from, after_us }
}

/// Power cuts at random moments: most by the count of events, some by killing a machine on a shadow.
///
/// # Errors
/// As [`Campaign::round`].
pub fn cuts(campaign: &mut Campaign, count: u64) -> Result<(), String> {
    for _ in 0..count {
        let end = match campaign.lot(8) {
            0 => End::KillShadowed(moment(campaign)),
            // Now and then early, in the start of the machine.
            1 => End::PowerCut { events: campaign.lot(60) },
            _ => End::PowerCut { events: campaign.lot(campaign.load.events_max()) },
        };
        campaign.round(end)?;
    }
    campaign.settle()
}

/// Kills of all sorts at random moments.
///
/// # Errors
/// As [`Campaign::round`].
pub fn kills(campaign: &mut Campaign, count: u64) -> Result<(), String> {
    for _ in 0..count {
        let moment = moment(campaign);
        let end = match campaign.lot(10) {
            0 => End::Stop(moment),
            1 => End::NoMemory(moment),
            2 => End::Terminate(Moment { from: From::Load, ..moment }),
            _ => End::Kill(moment),
        };
        campaign.round(end)?;
    }
    campaign.settle()
}

/// Programs with a forgotten flush or fence: what it is, who runs, and the source lines that are not heard.
pub const SEEDED_FAULTS: &[(&str, Load, &[&str])] = &[
    ("no flush in the program's own log", Load::Churn, &["churn/main.rs"]),
    ("no flush of the pool's records", Load::Churn, &["pool/src/format/records.rs"]),
    ("no flush of what the monitor writes", Load::Churn, &["pool/src/object.rs"]),
    (
        "no flush of the transactions' log",
        Load::Ledger,
        &["libtwz/src/tx/log/mod.rs", "libtwz/src/tx/log/append.rs", "libtwz/src/tx/log/dirty.rs"],
    ),
    (
        "no flush of what transactions changed",
        Load::Ledger,
        &["libtwz/src/tx/inner.rs", "libtwz/src/tx/part.rs"],
    ),
    ("no flush of kv's records", Load::Pairs, &["apps/kv/src/data.rs"]),
    ("no flush of capabilities", Load::Grants, &["apps/src/mapped.rs"]),
    ("no flush of revocations", Load::Grants, &["pool/src/object.rs"]),
];

/// Cuts the power of machines with a forgotten flush until that shows; after how many cuts, and how. The same cuts without the fault must not show
/// anything.
///
/// # Errors
/// It does not show, or something shows without it, too.
pub fn find_fault(
    seed: u64,
    load: Load,
    sites: &[&str],
    progress: &Progress,
) -> Result<(u64, String), String> {
    const POOLS_MAX: u64 = 50;
    let search = |sites: &[&str], pools: u64| {
        (0..pools).find_map(|pool| {
            let campaign = Campaign::new(load, seed + pool, sites).watched(progress);
            few_cuts(campaign).map(|found| (pool, found))
        })
    };
    let (pool, (cuts, how)) = search(sites, POOLS_MAX).ok_or("not found")?;
    if let Some((_, (_, how))) = search(&[], pool + 1) {
        return Err(format!("without the fault: {how}"));
    }
    Ok((pool * CUTS + cuts, how.lines().next().unwrap_or_default().to_owned()))
}

/// Cuts of a pool in [`find_fault`]. Some faults show only in what a new pool needs first, so these are many pools.
const CUTS: u64 = 4;

/// A few cuts under load; after how many of them something showed, and how.
fn few_cuts(mut campaign: Campaign) -> Option<(u64, String)> {
    if !campaign.deaf_to.is_empty() {
        campaign.limit = LIMIT_SEEDED;
    }
    for _ in 0..CUTS {
        let events = 200 + campaign.lot(campaign.load.events_max() - 300);
        if let Err(how) = campaign.round(End::PowerCut { events }) {
            return Some((campaign.tally.cuts, how));
        }
    }
    None
}
