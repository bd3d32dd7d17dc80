//! What the probes found, as data: serialised for `--json`, explained by [`Report::lines`].

use serde::Serialize;
use std::collections::BTreeMap;

/// A fact, or why it is not known.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Probed<T> {
    /// Seen.
    Known(T),
    /// The probe could not tell, and why.
    Unknown(String),
}

impl<T> Probed<T> {
    /// The fact, if it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }
}

impl<T, E: std::fmt::Display> From<Result<T, E>> for Probed<T> {
    fn from(result: Result<T, E>) -> Self {
        result.map_or_else(|error| Self::Unknown(error.to_string()), Self::Known)
    }
}

/// Everything that `twzvmm doctor` knows of a host.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Version of this structure's JSON.
    pub format: u32,
    /// The device and whether it opens.
    pub device: Device,
    /// Loaded vendor module.
    pub module: Option<KvmModule>,
    /// How the host translates guest-physical addresses.
    pub second_stage: SecondStage,
    /// Guest-physical address bits, if KVM says.
    pub physical_bits: Option<u8>,
    /// Kernel command line.
    pub command_line: Option<String>,
    /// CPU weaknesses and what is done about them.
    pub mitigations: Vec<Mitigation>,
    /// DAX devices.
    pub dax_devices: Vec<DaxDevice>,
    /// The host's clock source.
    pub clock_source: Option<String>,
    /// What guests showed; absent when no guest could be tried.
    pub guest: Option<GuestFacts>,
}

/// What running guests showed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuestFacts {
    /// Capabilities that `twzvmm` needs and this KVM lacks.
    pub missing_capabilities: Vec<String>,
    /// Memslots that a VM may have.
    pub memslot_limit: u32,
    /// vCPUs that a VM may have.
    pub vcpu_limit: u32,
    /// Whether ring 0 runs on the CPU.
    pub ring0: Probed<Ring0>,
    /// How fast each ring is.
    pub speed: Probed<Speed>,
    /// How SYSCALL arrives.
    pub syscall: Probed<SyscallEntry>,
    /// What a window does when the host's mapping forbids an access.
    pub window: Probed<WindowBehaviour>,
    /// Cost of leaving the guest and coming back.
    pub exit_cost: Probed<ExitCost>,
    /// Cost of a large memslot.
    pub memslot: Probed<MemslotCost>,
    /// The guest's TSC, in kHz.
    pub tsc_khz: Probed<u32>,
    /// What the guest's CPU has.
    pub features: Vec<Feature>,
}

/// Whether the device can be used.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// Opened, with this API version.
    Usable {
        /// `KVM_GET_API_VERSION`
        api_version: i32,
        /// Mode and owner, if they could be read.
        ownership: Option<String>,
    },
    /// No such file.
    Missing {
        /// Its path.
        path: String,
    },
    /// This user may not open it.
    Denied {
        /// Its path.
        path: String,
        /// Mode and owner, if they could be read.
        ownership: Option<String>,
        /// The mode would let members of the group open it.
        open_to_group: bool,
    },
    /// Opening failed otherwise, or it is not KVM.
    Broken {
        /// Its path.
        path: String,
        /// The system's words.
        error: String,
    },
}

/// KVM's vendor module.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KvmModule {
    /// `kvm_intel`, `kvm_amd` or `kvm_pvm`.
    pub name: String,
    /// Parameters that matter here.
    pub parameters: BTreeMap<String, String>,
}

/// How guest-physical addresses are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SecondStage {
    /// Intel's extended page tables.
    Ept,
    /// AMD's nested page tables.
    Npt,
    /// Combined tables that KVM keeps in software.
    Shadow,
    /// Neither module nor behaviour tells.
    Unknown,
}

/// How ring 0 runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ring0 {
    /// On the CPU.
    Native,
    /// In KVM's instruction emulator.
    Interpreted,
}

/// Times of single instructions, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// `dec`/`jnz` in ring 0.
    pub ring0_ns_per_instruction: f64,
    /// `dec`/`jnz` in ring 3.
    pub ring3_ns_per_instruction: f64,
    /// `rdtsc` with its loop in ring 3.
    pub ring3_rdtsc_ns: f64,
}

/// How SYSCALL reaches the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SyscallEntry {
    /// At LSTAR, in ring 0.
    Normal,
    /// As a page fault at LSTAR, still in ring 3, with error 0x15.
    PageFaultAtEntry,
    /// In no way that the guest kernel handles.
    Unusable {
        /// What happened.
        saw: String,
    },
}

/// What one forbidden access did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowAccess {
    /// `KVM_RUN` failed with `EFAULT` before the access; once allowed, it happened exactly once.
    FaultsAndRepeats,
    /// KVM handed it over as a device access (`KVM_EXIT_MMIO`); memory was not touched.
    EmulatedAsDevice,
    /// The guest went on as if it had happened, but memory was not touched.
    Swallowed,
    /// It happened although the mapping forbids it.
    NotPrevented,
    /// Anything else.
    Odd {
        /// What happened.
        saw: String,
    },
}

impl WindowAccess {
    /// Whether memory stayed untouched and the VMM heard of the access.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(self, Self::FaultsAndRepeats | Self::EmulatedAsDevice)
    }
}

/// Forbidden accesses of each kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WindowBehaviour {
    /// A store from ring 3 to `PROT_READ`.
    pub ring3_write_to_read_only: WindowAccess,
    /// `lock inc` from ring 3 to `PROT_READ`.
    pub ring3_locked_write_to_read_only: WindowAccess,
    /// A store from ring 3 to `PROT_NONE`.
    pub ring3_write_to_unmapped: WindowAccess,
    /// A load from ring 3 from `PROT_NONE`.
    pub ring3_read_of_unmapped: WindowAccess,
    /// A store from ring 0 to `PROT_READ`.
    pub ring0_write_to_read_only: WindowAccess,
    /// A load from ring 0 from `PROT_NONE`.
    pub ring0_read_of_unmapped: WindowAccess,
    /// A store from ring 3 after `mprotect` took the right that an earlier store had used.
    pub revoked_while_cached: WindowAccess,
}

impl WindowBehaviour {
    /// Each kind of access with its name in words.
    #[must_use]
    pub fn all(&self) -> [(&'static str, &WindowAccess); 7] {
        [
            ("ring-3 store to read-only", &self.ring3_write_to_read_only),
            ("ring-3 locked add to read-only", &self.ring3_locked_write_to_read_only),
            ("ring-3 store to unmapped", &self.ring3_write_to_unmapped),
            ("ring-3 load from unmapped", &self.ring3_read_of_unmapped),
            ("ring-0 store to read-only", &self.ring0_write_to_read_only),
            ("ring-0 load from unmapped", &self.ring0_read_of_unmapped),
            ("ring-3 store after the right was taken", &self.revoked_while_cached),
        ]
    }
}

/// A port write from ring 0 to user space and back, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ExitCost {
    /// Half take less.
    pub median_ns: u64,
    /// A tenth take less.
    pub p10_ns: u64,
    /// A tenth take more.
    pub p90_ns: u64,
    /// Round trips measured.
    pub samples: usize,
}

/// What one large, empty memslot took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemslotCost {
    /// Its size.
    pub bytes: u64,
    /// Time of the ioctl (median of three).
    pub time_ns: u64,
    /// Kernel memory that came with it, if the host tells.
    pub kernel_bytes: Option<u64>,
}

/// A CPU feature in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// KVM's CPUID has it.
    pub offered: bool,
    /// What using it did.
    pub outcome: Outcome,
}

impl Feature {
    /// Offered, and nothing went wrong when it was used.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.offered && matches!(self.outcome, Outcome::Works | Outcome::NotTried)
    }
}

/// What using a feature did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It works.
    Works,
    /// Nothing to try, or not offered.
    NotTried,
    /// The guest got a vector.
    Faults {
        /// Its number.
        vector: u8,
    },
    /// KVM could not go on (internal error).
    HostGivesUp,
    /// It never came back.
    Hangs,
    /// Anything else.
    Odd {
        /// What happened.
        saw: String,
    },
}

/// A CPU weakness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mitigation {
    /// The kernel's name for it.
    pub name: String,
    /// The kernel's words.
    pub status: String,
    /// What its mitigation adds to a switch of contexts, if anything.
    pub switch_cost: Option<String>,
}

/// A DAX device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DaxDevice {
    /// Its node.
    pub node: String,
    /// Its size.
    pub size_bytes: Option<u64>,
    /// Its alignment: the pool's granule.
    pub align_bytes: Option<u64>,
    /// This user can open it for reading and writing.
    pub openable: bool,
}
