//! The probes that run guests: rings, SYSCALL, windows, exits, instructions.
//!
//! Each takes a fresh [`Lab`] or makes one, and returns what it saw; what it means is `report`'s to say.

use crate::lab::{
    CR4_BASE, Lab, Preset, RING0_DATA, Ring, SAVE_AREA, SYSCALL_ENTRY, SYSCALL_PORT, Stop, Trouble,
};
use crate::lab::{DONE_PORT, WINDOW};
use crate::mapping::{Mapping, Protection, memory_file};
use crate::report::{ExitCost, Feature, Outcome, Ring0, Speed, SyscallEntry, WindowAccess, WindowBehaviour};
use kvm_bindings::CpuId;
use kvm_ioctls::Kvm;
use std::time::{Duration, Instant};

/// `out DONE_PORT, al`: the end of every ring-0 snippet.
const DONE: [u8; 2] = [0xe6, DONE_PORT];
/// `ud2`: the end of every ring-3 snippet, reported as vector 6.
const UD2: [u8; 2] = [0x0f, 0x0b];
/// `popcnt eax, eax`
const POPCNT: [u8; 4] = [0xf3, 0x0f, 0xb8, 0xc0];
/// `1: dec ecx; jnz 1b`
const COUNTDOWN: [u8; 4] = [0xff, 0xc9, 0x75, 0xfc];
/// `1: rdtsc; dec ecx; jnz 1b`
const RDTSC_COUNTDOWN: [u8; 6] = [0x0f, 0x31, 0xff, 0xc9, 0x75, 0xfa];

const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_PCIDE: u64 = 1 << 17;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Whether ring 0 runs on the CPU: `popcnt`, which KVM's emulator does not know, gets through.
pub(crate) fn ring0(lab: &mut Lab) -> Result<Ring0, Trouble> {
    let stop = lab.run(Ring::Zero, &join(&[&POPCNT, &DONE]), Preset::default())?;
    match stop {
        stop if stop.done() => Ok(Ring0::Native),
        Stop::GaveUp => Ok(Ring0::Interpreted),
        stop => Err(Trouble::Odd(format!("popcnt in ring 0 ended with {stop:?}"))),
    }
}

/// Time of an instruction in each ring, and of RDTSC in ring 3.
pub(crate) fn speed(lab: &mut Lab) -> Result<Speed, Trouble> {
    let zero = join(&[&COUNTDOWN, &DONE]);
    let three = join(&[&COUNTDOWN, &UD2]);
    let tsc = join(&[&RDTSC_COUNTDOWN, &UD2]);
    Ok(Speed {
        ring0_ns_per_instruction: per_iteration(lab, Ring::Zero, &zero)? / 2.0,
        ring3_ns_per_instruction: per_iteration(lab, Ring::Three, &three)? / 2.0,
        ring3_rdtsc_ns: per_iteration(lab, Ring::Three, &tsc)?,
    })
}

/// Nanoseconds per iteration of a countdown in ECX: the difference of a long and a short run, so that the exit
/// cancels out. The long run grows until it takes 2 ms, which keeps a slow host within its limit.
#[allow(clippy::cast_precision_loss, reason = "a quotient of measured times needs no 53 bits")]
fn per_iteration(lab: &mut Lab, ring: Ring, code: &[u8]) -> Result<f64, Trouble> {
    let mut time = |count: u64| -> Result<Duration, Trouble> {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            lab.place(ring, code, Preset { rcx: count, ..Preset::default() }, CR4_BASE)?;
            let start = Instant::now();
            let stop = lab.resume()?;
            let took = start.elapsed();
            if !stop.done() && !matches!(stop, Stop::Fault(frame) if frame.vector == 6) {
                return Err(Trouble::Odd(format!("a counting loop in {ring:?} ended with {stop:?}")));
            }
            best = best.min(took);
        }
        Ok(best)
    };
    let base = time(1)?;
    let mut count = 200;
    loop {
        let took = time(count)?.saturating_sub(base);
        if took >= Duration::from_millis(2) || count >= 1 << 24 {
            return Ok(took.as_nanos() as f64 / (count - 1) as f64);
        }
        count *= 8;
    }
}

/// What SYSCALL does in ring 3.
pub(crate) fn syscall(lab: &mut Lab) -> Result<SyscallEntry, Trouble> {
    let stop = lab.run(Ring::Three, &join(&[&[0x0f, 0x05], &UD2]), Preset::default())?;
    Ok(match stop {
        Stop::Port(SYSCALL_PORT) if lab.current_ring()? == 0 => SyscallEntry::Normal,
        Stop::Fault(frame)
            if frame.vector == 14
                && frame.error == 0x15
                && frame.rip == SYSCALL_ENTRY
                && frame.cr2 == SYSCALL_ENTRY
                && frame.cs & 3 == 3 =>
        {
            SyscallEntry::PageFaultAtEntry
        }
        stop => SyscallEntry::Unusable { saw: format!("{stop:?}") },
    })
}

/// What the guest's accesses do to a window whose host mapping forbids them.
pub(crate) fn window(kvm: &Kvm, limit: Duration) -> Result<WindowBehaviour, Trouble> {
    let lock_inc = [0xf0, 0x48, 0xff, 0x07]; // lock inc qword [rdi]
    let store = [0x48, 0x89, 0x07]; // mov [rdi], rax
    let load = [0x48, 0x8b, 0x07]; // mov rax, [rdi]
    let forbidden = |ring, code: &[u8], protection| forbidden_access(kvm, limit, ring, code, protection);
    Ok(WindowBehaviour {
        ring3_write_to_read_only: forbidden(Ring::Three, &store, Protection::Read)?,
        ring3_locked_write_to_read_only: forbidden(Ring::Three, &lock_inc, Protection::Read)?,
        ring3_write_to_unmapped: forbidden(Ring::Three, &store, Protection::None)?,
        ring3_read_of_unmapped: forbidden(Ring::Three, &load, Protection::None)?,
        ring0_write_to_read_only: forbidden(Ring::Zero, &store, Protection::Read)?,
        ring0_read_of_unmapped: forbidden(Ring::Zero, &load, Protection::None)?,
        revoked_while_cached: revoked(kvm, limit)?,
    })
}

/// A machine with one page of window at `protection`, and a second alias through which the host can look.
fn lab_with_window(kvm: &Kvm, limit: Duration, protection: Protection) -> Result<(Lab, Mapping), Trouble> {
    let file = memory_file(4096)?;
    let mut host_view = Mapping::of_file(&file, 4096, Protection::ReadWrite)?;
    host_view.write_u64(0, 41)?;
    let mut lab = Lab::new(kvm, limit)?;
    lab.attach_window(Mapping::of_file(&file, 4096, protection)?)?;
    Ok((lab, host_view))
}

/// Runs one access that the host's mapping forbids; if it is reported as EFAULT, allows it and looks whether the
/// instruction then happens exactly once.
fn forbidden_access(
    kvm: &Kvm,
    limit: Duration,
    ring: Ring,
    access: &[u8],
    protection: Protection,
) -> Result<WindowAccess, Trouble> {
    let end: &[u8] = if ring == Ring::Zero { &DONE } else { &UD2 };
    let (mut lab, host_view) = lab_with_window(kvm, limit, protection)?;
    let preset = Preset { rdi: WINDOW, rax: 42, ..Preset::default() };
    let code = join(&[access, end]);
    lab.place(ring, &code, preset, CR4_BASE)?;
    let start = lab.regs()?.rip;
    let stop = lab.resume()?;
    let after_denial = host_view.read_u64(0)?;
    match stop {
        Stop::Efault => {}
        Stop::Mmio { .. } if after_denial == 41 => return Ok(WindowAccess::EmulatedAsDevice),
        stop if finished(&stop) => {
            return Ok(if after_denial == 41 && is_store(access) {
                WindowAccess::Swallowed
            } else {
                WindowAccess::NotPrevented
            });
        }
        stop => return Ok(WindowAccess::Odd { saw: format!("{stop:?}") }),
    }
    if after_denial != 41 {
        return Ok(WindowAccess::NotPrevented);
    }
    if lab.regs()?.rip != start {
        return Ok(WindowAccess::Odd { saw: "EFAULT with RIP past the instruction".into() });
    }
    lab.window()?.protect(Protection::ReadWrite)?;
    let stop = lab.resume()?;
    let value = if is_store(access) { host_view.read_u64(0)? } else { lab.regs()?.rax + 1 };
    Ok(if finished(&stop) && value == 42 {
        WindowAccess::FaultsAndRepeats
    } else {
        WindowAccess::Odd { saw: format!("after mprotect: {stop:?}, value {value}") }
    })
}

fn finished(stop: &Stop) -> bool {
    stop.done() || matches!(stop, Stop::Fault(frame) if frame.vector == 6)
}

fn is_store(access: &[u8]) -> bool {
    access != [0x48, 0x8b, 0x07]
}

/// Lets the guest store once, takes the right away by `mprotect`, and lets it store again.
fn revoked(kvm: &Kvm, limit: Duration) -> Result<WindowAccess, Trouble> {
    let (mut lab, host_view) = lab_with_window(kvm, limit, Protection::ReadWrite)?;
    let store = [0x48, 0x89, 0x07];
    let preset = |rax| Preset { rdi: WINDOW, rax, ..Preset::default() };
    let code = join(&[&store, &UD2]);
    let stop = lab.run(Ring::Three, &code, preset(42))?;
    if !finished(&stop) || host_view.read_u64(0)? != 42 {
        return Err(Trouble::Odd(format!("a permitted store to the window ended with {stop:?}")));
    }
    lab.window()?.protect(Protection::Read)?;
    let stop = lab.run(Ring::Three, &code, preset(43))?;
    if host_view.read_u64(0)? != 42 {
        return Ok(WindowAccess::NotPrevented);
    }
    if stop != Stop::Efault {
        return Ok(WindowAccess::Odd { saw: format!("{stop:?}") });
    }
    lab.window()?.protect(Protection::ReadWrite)?;
    let stop = lab.resume()?;
    Ok(if finished(&stop) && host_view.read_u64(0)? == 43 {
        WindowAccess::FaultsAndRepeats
    } else {
        WindowAccess::Odd { saw: format!("after mprotect: {stop:?}") }
    })
}

/// Port writes from ring 0 to this process and back.
pub(crate) fn exit_cost(lab: &mut Lab) -> Result<ExitCost, Trouble> {
    const MOST: usize = 2000;
    const ENOUGH_TIME: Duration = Duration::from_millis(100);
    let code = [0xe6, DONE_PORT, 0xeb, 0xfc]; // 1: out DONE_PORT, al; jmp 1b
    lab.place(Ring::Zero, &code, Preset::default(), CR4_BASE)?;
    lab.arm()?;
    let begun = Instant::now();
    let mut nanoseconds = Vec::with_capacity(MOST);
    while nanoseconds.len() < MOST && begun.elapsed() < ENOUGH_TIME {
        let start = Instant::now();
        let stop = lab.step()?;
        let took = start.elapsed();
        if !stop.done() {
            return Err(Trouble::Odd(format!("a loop of port writes ended with {stop:?}")));
        }
        nanoseconds.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
    nanoseconds.sort_unstable();
    let at = |part: usize| nanoseconds.get(nanoseconds.len() * part / 100).copied().unwrap_or(0);
    Ok(ExitCost { median_ns: at(50), p10_ns: at(10), p90_ns: at(90), samples: nanoseconds.len() })
}

/// The guest's TSC frequency.
pub(crate) fn tsc_khz(lab: &Lab) -> Result<u32, Trouble> {
    let khz = lab.vcpu.get_tsc_khz();
    khz.map_err(|error| Trouble::Call { what: "KVM_GET_TSC_KHZ", errno: error.errno() })
}

/// One feature: what CPUID calls it, and code that uses it.
struct Trial {
    name: &'static str,
    leaf: (u32, u32),
    register: Register,
    bit: u32,
    /// CR4 bits that it needs.
    cr4: u64,
    ring: Ring,
    code: &'static [u8],
}

#[derive(Clone, Copy)]
enum Register {
    Ebx,
    Ecx,
    Edx,
}

/// The features that the guest kernel chooses by, with code for each (none where CPUID is all there is).
const TRIALS: &[Trial] = {
    use Register::{Ebx, Ecx, Edx};
    const fn trial(
        name: &'static str,
        leaf: u32,
        register: Register,
        bit: u32,
        cr4: u64,
        code: &'static [u8],
    ) -> Trial {
        Trial { name, leaf: (leaf, 0), register, bit, cr4, ring: Ring::Zero, code }
    }
    &[
        trial("xsave", 1, Ecx, 26, CR4_OSXSAVE, &[0x0f, 0xae, 0x27]),
        trial("xgetbv", 1, Ecx, 26, CR4_OSXSAVE, &[0x0f, 0x01, 0xd0]),
        trial("popcnt", 1, Ecx, 23, 0, &POPCNT),
        trial("pcid", 1, Ecx, 17, CR4_PCIDE, &[0x90]),
        trial("smep", 7, Ebx, 7, CR4_SMEP, &[0x90]),
        trial("smap", 7, Ebx, 20, CR4_SMAP, &[0x0f, 0x01, 0xcb, 0x0f, 0x01, 0xca]), // stac; clac
        trial("fsgsbase", 7, Ebx, 0, CR4_FSGSBASE, &[0xf3, 0x48, 0x0f, 0xae, 0xc0]), // rdfsbase rax
        trial("invpcid", 7, Ebx, 10, 0, &[0x66, 0x0f, 0x38, 0x82, 0x07]),
        trial("rdtscp", 0x8000_0001, Edx, 27, 0, &[0x0f, 0x01, 0xf9]),
        trial("1 GiB pages", 0x8000_0001, Edx, 26, 0, &[]),
        trial("invariant TSC", 0x8000_0007, Edx, 8, 0, &[]),
        Trial { ring: Ring::Three, ..trial("clflushopt (ring 3)", 7, Ebx, 23, 0, &[0x66, 0x0f, 0xae, 0x3f]) },
        Trial { ring: Ring::Three, ..trial("clwb (ring 3)", 7, Ebx, 24, 0, &[0x66, 0x0f, 0xae, 0x37]) },
    ]
};

/// What the guest's CPU says it has, and what happens when it is used.
pub(crate) fn features(
    kvm: &Kvm,
    cpuid: &CpuId,
    limit: Duration,
    in_time: &dyn Fn() -> Result<(), Trouble>,
) -> Vec<Feature> {
    let outcome = |trial: &Trial| {
        if trial.code.is_empty() {
            return Outcome::NotTried;
        }
        in_time()
            .and_then(|()| try_feature(kvm, limit, trial))
            .unwrap_or_else(|trouble| Outcome::Odd { saw: trouble.to_string() })
    };
    TRIALS
        .iter()
        .map(|trial| {
            let offered = offered(cpuid, trial);
            let outcome = if offered { outcome(trial) } else { Outcome::NotTried };
            Feature { name: trial.name.into(), offered, outcome }
        })
        .collect()
}

fn offered(cpuid: &CpuId, trial: &Trial) -> bool {
    let (function, index) = trial.leaf;
    let entry = cpuid.as_slice().iter().find(|entry| (entry.function, entry.index) == (function, index));
    entry.is_some_and(|entry| {
        let word = match trial.register {
            Register::Ebx => entry.ebx,
            Register::Ecx => entry.ecx,
            Register::Edx => entry.edx,
        };
        word >> trial.bit & 1 == 1
    })
}

/// A fresh machine for each: one that KVM gave up on is not used again.
fn try_feature(kvm: &Kvm, limit: Duration, trial: &Trial) -> Result<Outcome, Trouble> {
    let mut lab = Lab::new(kvm, limit)?;
    let data = if trial.name == "xsave" { SAVE_AREA } else { RING0_DATA };
    let (rdi, end): (u64, &[u8]) = match trial.ring {
        Ring::Zero => (data, &DONE),
        Ring::Three => (0xf000, &UD2),
    };
    let rax = if trial.name == "xsave" { 1 } else { 0 }; // component 0 (x87) only
    // Set the CR4 bits as a kernel does, by an instruction: mov rax, cr4-to-be is preset in rdx.
    let set_cr4: &[u8] = if trial.cr4 == 0 { &[] } else { &[0x0f, 0x22, 0xe2] }; // mov cr4, rdx
    let code = join(&[set_cr4, trial.code, end]);
    let rdx_after = CR4_BASE | trial.cr4;
    // XSAVE's mask is EDX:EAX; components that XCR0 lacks are ignored, so the CR4 value in RDX does no harm.
    let preset = Preset { rax, rdx: rdx_after, rdi, rcx: 0 };
    Ok(match lab.run(trial.ring, &code, preset)? {
        stop if finished_in(trial.ring, &stop, code.len()) => Outcome::Works,
        Stop::Fault(frame) => Outcome::Faults { vector: frame.vector },
        Stop::GaveUp => Outcome::HostGivesUp,
        Stop::TimedOut => Outcome::Hangs,
        stop => Outcome::Odd { saw: format!("{stop:?}") },
    })
}

/// Whether the end was reached: in ring 3 the final `ud2` itself, not an earlier #UD.
fn finished_in(ring: Ring, stop: &Stop, code_len: usize) -> bool {
    let last = 0xe000 + code_len as u64 - 2;
    match (ring, stop) {
        (Ring::Zero, stop) => stop.done(),
        (Ring::Three, Stop::Fault(frame)) => frame.vector == 6 && frame.rip == last,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    /// What the probes of the window would report of a second stage that does not hold.
    #[test]
    fn an_access_that_is_not_stopped_is_noticed() {
        let Some(kvm) = crate::testing::kvm() else { return };
        let accesses: [&[u8]; 3] = [&[0x48, 0x89, 0x07], &[0xf0, 0x48, 0xff, 0x07], &[0x48, 0x8b, 0x07]];
        for (ring, access) in [Ring::Zero, Ring::Three].into_iter().flat_map(|r| accesses.map(|a| (r, a))) {
            let seen = forbidden_access(&kvm, LIMIT, ring, access, Protection::ReadWrite).unwrap();
            assert_eq!(seen, WindowAccess::NotPrevented, "{ring:?} {access:x?}");
        }
    }

    #[test]
    fn instructions_that_do_not_work_are_told_apart() {
        let Some(kvm) = crate::testing::kvm() else { return };
        let trial = |ring, code| Trial {
            name: "none",
            leaf: (0, 0),
            register: Register::Ebx,
            bit: 0,
            cr4: 0,
            ring,
            code,
        };
        for ring in [Ring::Zero, Ring::Three] {
            let outcome = |code| try_feature(&kvm, LIMIT, &trial(ring, code)).unwrap();
            assert_eq!(outcome(&[0x90]), Outcome::Works);
            assert_eq!(outcome(&[0x0f, 0x0b]), Outcome::Faults { vector: 6 });
            assert_eq!(outcome(&[0xeb, 0xfe]), Outcome::Hangs);
        }
        // cli is for ring 0 only.
        assert_eq!(
            try_feature(&kvm, LIMIT, &trial(Ring::Three, &[0xfa])).unwrap(),
            Outcome::Faults { vector: 13 }
        );
    }

    #[test]
    fn a_loop_that_never_ends_is_no_speed() {
        let Some(kvm) = crate::testing::kvm() else { return };
        let mut lab = Lab::new(&kvm, LIMIT).unwrap();
        assert!(per_iteration(&mut lab, Ring::Three, &[0xeb, 0xfe]).is_err());
    }
}
