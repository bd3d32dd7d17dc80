//! What the findings mean to a user, and what to do about them.

use crate::report::{
    Device, Feature, GuestFacts, Outcome, Probed, Report, Ring0, SecondStage, SyscallEntry, WindowAccess,
};
use serde::Serialize;
use std::fmt;

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Good,
    /// Works, with a cost or a limit.
    Note,
    /// `twzvmm` cannot run.
    Bad,
}

/// One line of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// How good it is.
    pub level: Level,
    /// What it is about.
    pub topic: &'static str,
    /// What was found.
    pub fact: String,
    /// What that means, and what to do where something can be done.
    pub meaning: String,
}

impl Report {
    /// Every finding, explained; the last line is the verdict.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = vec![self.device_line(), self.second_stage_line()];
        if let Some(guest) = &self.guest {
            lines.extend([ring0_line(guest), syscall_line(guest), window_line(guest)]);
            lines.extend([exit_line(guest), self.memslot_line(guest), clock_line(self, guest)]);
            lines.push(features_line(&guest.features));
        }
        lines.extend([self.mitigations_line(), self.dax_line()]);
        lines.push(match self.usable() {
            Ok(()) => Line::new(Level::Good, "verdict", "usable", "twzvmm can run here"),
            Err(reason) => Line::new(Level::Bad, "verdict", "not usable", reason.to_string()),
        });
        lines
    }

    fn device_line(&self) -> Line {
        match &self.device {
            Device::Usable { api_version, ownership } => {
                let fact = match ownership {
                    Some(text) => format!("API version {api_version}, {text}"),
                    None => format!("API version {api_version}"),
                };
                let missing = self.guest.as_ref().map_or(&[][..], |guest| &guest.missing_capabilities);
                if missing.is_empty() {
                    Line::new(Level::Good, "kvm", fact, "has every capability that twzvmm needs")
                } else {
                    let meaning = format!("lacks {}: use a newer kernel", missing.join(", "));
                    Line::new(Level::Bad, "kvm", fact, meaning)
                }
            }
            Device::Missing { path } => {
                let meaning = "no guest can run; see the verdict for what to do";
                Line::new(Level::Bad, "kvm", format!("{path} does not exist"), meaning)
            }
            Device::Denied { path, ownership, .. } => {
                let fact = match ownership {
                    Some(text) => format!("{path} may not be opened ({text})"),
                    None => format!("{path} may not be opened"),
                };
                let meaning = "no guest can run as this user; see the verdict for what to do";
                Line::new(Level::Bad, "kvm", fact, meaning)
            }
            Device::Broken { path, error } => {
                Line::new(Level::Bad, "kvm", format!("{path}: {error}"), "no guest can run")
            }
        }
    }

    fn second_stage_line(&self) -> Line {
        let module = self.module.as_ref().map_or("no module seen", |module| &module.name);
        let (level, name, meaning) = match self.second_stage {
            SecondStage::Ept => (Level::Good, "EPT", "contexts are Intel's second-stage tables"),
            SecondStage::Npt => (Level::Good, "NPT", "contexts are AMD's second-stage tables"),
            SecondStage::Shadow => (
                Level::Note,
                "shadow",
                "KVM combines both stages in software: rights hold, but new mappings are slow and windows are small; measure switches elsewhere",
            ),
            SecondStage::Unknown => (
                Level::Note,
                "unknown",
                "neither the module's parameters nor its behaviour tell; everything works, figures need care",
            ),
        };
        let bits = self.physical_bits.map_or("unknown".into(), |bits| bits.to_string());
        let fact = format!("{name} ({module}, address bits: {bits})");
        Line::new(level, "second stage", fact, meaning)
    }

    fn memslot_line(&self, guest: &GuestFacts) -> Line {
        let window = self.recommended_window_bytes() >> 30;
        match &guest.memslot {
            Probed::Known(cost) => {
                let memory = cost.kernel_bytes.map_or("unknown memory".into(), bytes_in_words);
                let fact = format!(
                    "{} GiB memslot: {}, {memory}",
                    cost.bytes >> 30,
                    time_in_words(cost.time_ns as f64)
                );
                let meaning = format!("windows of {window} GiB; {} memslots", guest.memslot_limit);
                let level = if window >= 128 { Level::Good } else { Level::Note };
                Line::new(level, "window", fact, meaning)
            }
            Probed::Unknown(why) => {
                let meaning = format!("windows of {window} GiB, the smallest, to be safe");
                Line::new(Level::Note, "window", why.as_str(), meaning)
            }
        }
    }

    fn mitigations_line(&self) -> Line {
        let dear: Vec<_> = self.mitigations.iter().filter(|one| one.switch_cost.is_some()).collect();
        let asked = self
            .command_line
            .iter()
            .flat_map(|line| line.split_whitespace())
            .find(|word| word.starts_with("mitigations="));
        if self.mitigations.is_empty() {
            let meaning = "the kernel does not say; figures of switches cannot be compared";
            return Line::new(Level::Note, "mitigations", "unknown", meaning);
        }
        let fact = match asked {
            Some(word) => format!("{} make switching dear; booted with {word}", dear.len()),
            None => format!("{} make switching dear; kernel defaults", dear.len()),
        };
        let open: Vec<_> = self
            .mitigations
            .iter()
            .filter(|one| one.status.starts_with("Vulnerable"))
            .map(|one| one.name.as_str())
            .collect();
        let open = match open.is_empty() {
            true => String::new(),
            false => format!("; not mitigated, whatever the placement: {}", open.join(", ")),
        };
        if dear.is_empty() {
            let meaning = format!("a switch between own contexts costs the bare exit{open}");
            return Line::new(Level::Good, "mitigations", fact, meaning);
        }
        let costs: Vec<_> = dear
            .iter()
            .filter_map(|one| Some(format!("{}: {}", one.name, one.switch_cost.as_ref()?)))
            .collect();
        let costs = costs.join("; ");
        let meaning = format!("{costs}; use shared placement for parts that trust each other{open}");
        Line::new(Level::Note, "mitigations", fact, meaning)
    }

    fn dax_line(&self) -> Line {
        if self.dax_devices.is_empty() {
            let meaning = "use a file with --pmem: all works, but data is durable only after a sync";
            return Line::new(Level::Note, "pmem", "no DAX device", meaning);
        }
        let all: Vec<_> = self
            .dax_devices
            .iter()
            .map(|device| {
                let number = |value: Option<u64>| value.map_or("?".into(), bytes_in_words);
                let (size, align) = (number(device.size_bytes), number(device.align_bytes));
                format!("{} ({size}, align {align})", device.node)
            })
            .collect();
        let closed = self.dax_devices.iter().find(|device| !device.openable);
        match closed {
            None => Line::new(
                Level::Good,
                "pmem",
                all.join(", "),
                "use as --pmem: stores are durable once flushed",
            ),
            Some(device) => {
                let meaning = format!("{} may not be opened by this user, or is in use", device.node);
                Line::new(Level::Note, "pmem", all.join(", "), meaning)
            }
        }
    }
}

fn ring0_line(guest: &GuestFacts) -> Line {
    let speed = match &guest.speed {
        Probed::Known(speed) => format!(
            "{} an instruction; ring 3: {}",
            time_in_words(speed.ring0_ns_per_instruction),
            time_in_words(speed.ring3_ns_per_instruction)
        ),
        Probed::Unknown(why) => format!("speed unknown: {why}"),
    };
    match &guest.ring0 {
        Probed::Known(Ring0::Native) => {
            Line::new(Level::Good, "ring 0", format!("native, {speed}"), "the guest kernel runs on the CPU")
        }
        Probed::Known(Ring0::Interpreted) => Line::new(
            Level::Note,
            "ring 0",
            format!("interpreted, {speed}"),
            "programs run at full speed, system calls and faults are slow; no figures of switches from here",
        ),
        Probed::Unknown(why) => {
            Line::new(Level::Bad, "ring 0", why.as_str(), "a small test guest does not run")
        }
    }
}

fn syscall_line(guest: &GuestFacts) -> Line {
    let topic = "syscall";
    match &guest.syscall {
        Probed::Known(SyscallEntry::Normal) => {
            Line::new(Level::Good, topic, "enters ring 0 at LSTAR", "as on a bare machine")
        }
        Probed::Known(SyscallEntry::PageFaultAtEntry) => Line::new(
            Level::Note,
            topic,
            "arrives as a page fault at LSTAR",
            "the guest kernel knows this and treats it as a system call",
        ),
        Probed::Known(SyscallEntry::Unusable { saw }) => {
            Line::new(Level::Bad, topic, saw.as_str(), "the guest kernel would not get system calls")
        }
        Probed::Unknown(why) => Line::new(Level::Bad, topic, why.as_str(), "could not be tried"),
    }
}

fn window_line(guest: &GuestFacts) -> Line {
    let behaviour = match &guest.window {
        Probed::Known(behaviour) => behaviour,
        Probed::Unknown(why) => return Line::new(Level::Bad, "rights", why.as_str(), "could not be tried"),
    };
    let accesses = behaviour.all();
    if let Some((name, access)) = accesses.iter().find(|(_, access)| !access.is_stopped()) {
        let meaning = "the second stage does not enforce rights here: do not use this host";
        return Line::new(Level::Bad, "rights", format!("{name}: {access:?}"), meaning);
    }
    let emulated: Vec<_> = accesses
        .iter()
        .filter(|(_, access)| **access == WindowAccess::EmulatedAsDevice)
        .map(|(name, _)| *name)
        .collect();
    let fact = format!("{} of {} forbidden accesses stopped", accesses.len(), accesses.len());
    if emulated.is_empty() {
        let meaning = "each ends in EFAULT and repeats exactly once allowed";
        Line::new(Level::Good, "rights", fact, meaning)
    } else {
        let meaning =
            format!("as device accesses: {}; the others in EFAULT, and repeat", emulated.join(", "));
        Line::new(Level::Note, "rights", fact, meaning)
    }
}

fn exit_line(guest: &GuestFacts) -> Line {
    match &guest.exit_cost {
        Probed::Known(cost) => {
            let time = |nanoseconds: u64| time_in_words(nanoseconds as f64);
            let fact =
                format!("{} (p10 {}, p90 {})", time(cost.median_ns), time(cost.p10_ns), time(cost.p90_ns));
            let level = if cost.median_ns <= 5_000 { Level::Good } else { Level::Note };
            let meaning =
                "a port write and back: what a hypercall, or a switch between own contexts, adds at least";
            Line::new(level, "exit", fact, meaning)
        }
        Probed::Unknown(why) => Line::new(Level::Note, "exit", why.as_str(), "could not be measured"),
    }
}

fn clock_line(report: &Report, guest: &GuestFacts) -> Line {
    let invariant = guest.features.iter().any(|feature| feature.name == "invariant TSC" && feature.offered);
    let source = report.clock_source.as_deref().unwrap_or("unknown");
    let khz = guest.tsc_khz.known().map_or("unknown".into(), |khz| format!("{} MHz", khz / 1000));
    let rdtsc = guest.speed.known().map(|speed| speed.ring3_rdtsc_ns);
    let shown = rdtsc.map_or("unknown".into(), time_in_words);
    let fact = format!("TSC {khz}, host clock {source}, rdtsc in ring 3 {shown}");
    if rdtsc.is_none_or(|time| time > 500.0) {
        let meaning = "rdtsc may trap: time long loops, not single operations";
        Line::new(Level::Note, "clock", fact, meaning)
    } else if !invariant {
        let meaning = "the TSC is not promised to be constant: compare times within one run only";
        Line::new(Level::Note, "clock", fact, meaning)
    } else {
        Line::new(Level::Good, "clock", fact, "times may be compared across cores and contexts")
    }
}

fn features_line(features: &[Feature]) -> Line {
    let names = |wanted: &dyn Fn(&Feature) -> bool| {
        let found: Vec<_> = features.iter().filter(|one| wanted(one)).map(|one| one.name.as_str()).collect();
        found.join(", ")
    };
    let usable = names(&Feature::usable);
    let absent = names(&|one| !one.offered);
    let broken: Vec<_> = features
        .iter()
        .filter(|one| one.offered && !one.usable())
        .map(|one| match &one.outcome {
            Outcome::Faults { vector } => format!("{} (vector {vector})", one.name),
            Outcome::HostGivesUp => format!("{} (KVM gives up)", one.name),
            Outcome::Hangs => format!("{} (hangs)", one.name),
            other => format!("{} ({other:?})", one.name),
        })
        .collect();
    let mut parts = Vec::new();
    if !absent.is_empty() {
        parts.push(format!("without {absent}"));
    }
    if !broken.is_empty() {
        parts.push(format!("announced but not usable: {}", broken.join(", ")));
    }
    if parts.is_empty() {
        return Line::new(Level::Good, "cpu", usable, "the guest kernel uses all of them");
    }
    let meaning = format!("{}; the guest kernel falls back", parts.join("; "));
    Line::new(Level::Note, "cpu", usable, meaning)
}

fn time_in_words(nanoseconds: f64) -> String {
    match nanoseconds {
        ns if ns < 10.0 => format!("{ns:.2} ns"),
        ns if ns < 1e4 => format!("{ns:.0} ns"),
        ns if ns < 1e7 => format!("{:.1} us", ns / 1e3),
        ns => format!("{:.1} ms", ns / 1e6),
    }
}

fn bytes_in_words(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

impl Line {
    fn new(level: Level, topic: &'static str, fact: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self { level, topic, fact: fact.into(), meaning: meaning.into() }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.level {
            Level::Good => "ok  ",
            Level::Note => "note",
            Level::Bad => "BAD ",
        };
        write!(f, "{mark}  {:<13} {}: {}", self.topic, self.fact, self.meaning)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines().iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
