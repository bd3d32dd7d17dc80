//! A hart: one host thread and its vCPUs.
//!
//! ```text
//!            +---------------------- port -> hypercall ---------------------+
//!            v                                                              |
//! Enter -> KVM_RUN --HLT--> Asleep --reason--> Enter                        |
//!            |  |-- interrupted: take reasons, inject a vector --> Enter    |
//!            |  `-- EFAULT/MMIO in object space: refused access --> Enter   |
//!            `-- anything else: the kernel is broken --> machine stops      |
//! ```

use super::hypercall::Caller;
use super::roots::RootCell;
use super::stats::{Exit, HartStats};
use super::wake::{self, Doorbell};
use super::{Ending, Shared, vcpu};
use ept_contexts::RootError;
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use twz_abi::hypercall;
use vmm_sys_util::timerfd::TimerFd;

const TIMER_VECTOR: u8 = 0x20;
const KICK_VECTOR: u8 = 0x21;
const REFUSED_VECTOR: u8 = 0x22;
/// Most accesses of one instruction that KVM emulates: a repeated move of a mailbox's data, word by word.
const EMULATED_MAX: u32 = 1024;
/// Touches behind a refused access that are suspect: all the pages that an instruction and the kernel's way back to it need.
const SUSPECTS: u32 = 16;

/// A timer whose expiry the event loop sees.
pub(super) struct Timer {
    timer: Mutex<TimerFd>,
    descriptor: RawFd,
}

impl Timer {
    /// One that is not set.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub(super) fn new() -> Result<Self, vmm_sys_util::errno::Error> {
        let timer = TimerFd::new()?;
        let descriptor = timer.as_raw_fd();
        // SAFETY: changes a flag of a descriptor of our own.
        if unsafe { libc::fcntl(descriptor, libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
            return Err(vmm_sys_util::errno::Error::last());
        }
        Ok(Self { timer: Mutex::new(timer), descriptor })
    }

    /// What the event loop watches.
    pub(super) fn descriptor(&self) -> RawFd {
        self.descriptor
    }

    /// Expires after `delay`; `None` for never.
    pub(super) fn set(&self, delay: Option<Duration>) {
        let mut timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match delay {
            // Zero would disarm it.
            Some(delay) => timer.reset(delay.max(Duration::from_nanos(1)), None),
            None => timer.clear(),
        };
        if let Err(error) = result {
            tracing::error!(%error, "cannot set a timer");
        }
    }

    /// Makes the descriptor unreadable again. Another setting may have raced the event loop here, so this does not wait for an expiry:
    /// it reads without blocking.
    pub(super) fn clear(&self) {
        let _guard = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut expirations = [0_u8; 8];
        // SAFETY: the descriptor is the timer's, which we hold, and does not block (`Timer::new`); the buffer is ours.
        let count =
            unsafe { libc::read(self.descriptor, expirations.as_mut_ptr().cast(), expirations.len()) };
        tracing::trace!(count, "timer");
    }
}

/// What other threads know of a hart.
pub(super) struct HartShared {
    /// Sleep and wake-up.
    pub(super) bell: Doorbell,
    /// Its time slice.
    pub(super) timer: Timer,
    /// What it counts.
    pub(super) stats: HartStats,
    /// So many of its next touches may be of a page of the medium that cannot be read.
    pub(super) suspects: AtomicU32,
}

impl HartShared {
    /// Of a hart that has not started.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub(super) fn new(started: Instant) -> Result<Self, vmm_sys_util::errno::Error> {
        Ok(Self {
            bell: Doorbell::new(),
            timer: Timer::new()?,
            stats: HartStats::new(started),
            suspects: AtomicU32::new(0),
        })
    }
}

/// A root that the hart has a vCPU in. The vCPU goes first.
pub(super) struct Inside {
    pub(super) vcpu: VcpuFd,
    pub(super) root: Arc<RootCell>,
}

/// The thread's own part of a hart.
pub(super) struct Hart {
    number: u32,
    /// The root that it is in.
    inside: Inside,
    shared: Arc<Shared>,
    /// Vectors to inject, highest first when several wait.
    waiting: Vec<u8>,
    /// Events of the kernel's that are in the trace.
    kernel_events: u64,
}

impl Hart {
    /// A hart in its first root, with a vCPU that is ready to run.
    pub(super) fn new(number: u32, inside: Inside, shared: Arc<Shared>) -> Self {
        Self { number, inside, shared, waiting: Vec::new(), kernel_events: 0 }
    }

    /// Runs until the machine stops.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let bell = &shared.harts[self.number as usize].bell;
        self.attend(bell);
        while shared.ending().is_none() {
            self.step(bell);
        }
        bell.leave();
    }

    /// Lets others interrupt the vCPU that the hart is in, until `bell.leave`.
    fn attend(&mut self, bell: &Doorbell) {
        self.inside.vcpu.set_kvm_immediate_exit(0);
        let immediate_exit = &raw mut self.inside.vcpu.get_kvm_run().immediate_exit;
        // SAFETY: the `kvm_run` page is mapped as long as the vCPU, which lives until after `leave`.
        unsafe { bell.enter(immediate_exit) };
    }

    fn step(&mut self, bell: &Doorbell) {
        self.inject();
        match self.inside.vcpu.run() {
            Ok(VcpuExit::IoOut(port, _)) if port == u16::from(hypercall::PORT) => {
                self.note_kernel_events();
                let (root, vcpu) = (self.inside.root.number(), &self.inside.vcpu);
                if let Some(root) = self.shared.hypercall(Caller { hart: self.number, root, vcpu }) {
                    self.change_root(bell, root);
                }
            }
            Ok(VcpuExit::Hlt) => {
                if self.goes_on_after_watch() {
                    return self.count(Exit::Watched);
                }
                self.count(Exit::Halt);
                // A vector that could not be injected before the HLT is a reason that was taken already: it must not be slept over.
                if self.waiting.is_empty() {
                    bell.sleep();
                }
                self.inside.vcpu.set_kvm_immediate_exit(0);
                // The kernel looks at everything after HLT by itself; nothing has to be injected.
                self.waiting.clear();
            }
            Ok(VcpuExit::IrqWindowOpen) => self.count(Exit::InterruptWindow),
            Ok(VcpuExit::Intr) => self.interrupted(bell),
            Ok(VcpuExit::MmioRead(address, data)) => {
                data.fill(0);
                self.refused_mmio(bell, address);
            }
            Ok(VcpuExit::MmioWrite(address, _)) => self.refused_mmio(bell, address),
            Ok(exit) => {
                let what = format!("{exit:?}");
                self.count(Exit::Other);
                self.broken(&what);
            }
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => self.interrupted(bell),
                libc::EFAULT => {
                    self.count(Exit::RefusedFault);
                    self.refused();
                }
                _ => self.broken(&format!("KVM_RUN: {error}")),
            },
        }
    }

    /// Whether the hart has halted at an instruction that is only watched; it then goes on there.
    fn goes_on_after_watch(&mut self) -> bool {
        let Some(coverage) = &self.shared.coverage else { return false };
        let Ok(mut regs) = self.inside.vcpu.get_regs() else { return false };
        let Some(rip) = coverage.reach(regs.rip) else { return false };
        regs.rip = rip;
        self.inside.vcpu.set_regs(&regs).is_ok()
    }

    /// Goes on in another root: with the vCPU that waits there, or with a new one. Reasons to look up and waiting vectors belong to the hart,
    /// so they come along.
    fn change_root(&mut self, bell: &Doorbell, root: Arc<RootCell>) {
        if root.number() == self.inside.root.number() {
            return;
        }
        let next = match root.enter(self.number) {
            Some(vcpu) => Inside { vcpu, root },
            None => match self.first_entry(root) {
                Ok(inside) => inside,
                Err((what, error)) => return self.broken(&format!("entering a root: {what}: {error}")),
            },
        };
        bell.leave();
        let left = std::mem::replace(&mut self.inside, next);
        left.root.leave(self.number, left.vcpu);
        self.attend(bell);
        // What was rung between leaving and attending has set no flag.
        let reasons = bell.take();
        self.note(reasons);
    }

    fn first_entry(&mut self, root: Arc<RootCell>) -> Result<Inside, (&'static str, String)> {
        let text = |what| move |error: &dyn std::fmt::Display| (what, error.to_string());
        self.count_register_ioctl();
        let vcpu = self.new_vcpu(&root).map_err(|error| text("creating a vCPU")(&error))?;
        vcpu::set_cpuid(&vcpu, self.number, &self.shared.cpuid)
            .map_err(|error| text("KVM_SET_CPUID2")(&error))?;
        let entry = self.shared.vcpu_entry.get().copied();
        let entry = entry.ok_or(("the kernel", "it has not said where other roots begin".to_string()))?;
        vcpu::imitate(&vcpu, &self.inside.vcpu, entry).map_err(|(what, error)| text(what)(&error))?;
        self.shared.kvm_stats.add(root.number(), self.number, &vcpu);
        Ok(Inside { vcpu, root })
    }

    /// Makes the hart's vCPU of a root. Where descriptors run out, tables that no hart is in go for it.
    fn new_vcpu(&self, root: &RootCell) -> Result<VcpuFd, RootError> {
        loop {
            match root.create_vcpu(self.number) {
                Err(error) if error.is_out_of_descriptors() && self.shared.monitor().spare_descriptors() => {}
                made => return made,
            }
        }
    }

    /// What the kernel has recorded comes into the trace before the exit that ended it.
    fn note_kernel_events(&mut self) {
        self.kernel_events = self.shared.note_kernel_events(self.number, self.kernel_events);
    }

    fn count(&mut self, exit: Exit) {
        self.note_kernel_events();
        self.shared.harts[self.number as usize].stats.exit(exit);
    }

    fn interrupted(&mut self, bell: &Doorbell) {
        self.count(Exit::Interrupted);
        self.inside.vcpu.set_kvm_immediate_exit(0);
        self.note(bell.take());
    }

    fn note(&mut self, reasons: u32) {
        for (reason, vector) in [(wake::TIMER, TIMER_VECTOR), (wake::KICK, KICK_VECTOR)] {
            if reasons & reason != 0 {
                self.add(vector);
            }
        }
    }

    fn add(&mut self, vector: u8) {
        if !self.waiting.contains(&vector) {
            self.waiting.push(vector);
            self.waiting.sort_unstable();
        }
    }

    /// Injects the highest waiting vector if the vCPU can take one now, else asks to be told when it can.
    fn inject(&mut self) {
        let run = self.inside.vcpu.get_kvm_run();
        let ready = run.ready_for_interrupt_injection != 0 && run.if_flag != 0;
        let more = if ready { self.waiting.len() > 1 } else { !self.waiting.is_empty() };
        run.request_interrupt_window = u8::from(more);
        if !ready {
            return;
        }
        let Some(vector) = self.waiting.pop() else { return };
        match vcpu::interrupt(&self.inside.vcpu, vector) {
            Ok(()) => self.shared.harts[self.number as usize].stats.inject(vector),
            Err(error) => {
                tracing::debug!(%error, vector, "not injected yet");
                self.add(vector);
            }
        }
    }

    /// A refused access that KVM emulates. It finishes the instruction when it is entered again, and sets RIP itself then: so that happens
    /// first, with zeros for what was to be loaded and nothing stored.
    fn refused_mmio(&mut self, bell: &Doorbell, address: u64) {
        tracing::debug!(address, "refused access, emulated");
        self.count(Exit::RefusedMmio);
        self.count_register_ioctl();
        let Ok(before) = self.inside.vcpu.get_regs() else {
            return self.broken("the registers cannot be read after a refused access");
        };
        self.inside.vcpu.set_kvm_immediate_exit(1);
        for _ in 0..EMULATED_MAX {
            match self.inside.vcpu.run() {
                Ok(VcpuExit::MmioRead(_, data)) => data.fill(0),
                Ok(VcpuExit::MmioWrite(..)) => {}
                _ => break,
            }
        }
        // As after any interruption: what was rung meanwhile has set the flag, too.
        self.inside.vcpu.set_kvm_immediate_exit(0);
        self.note(bell.take());
        self.refused_at(before.rip);
    }

    /// The guest touched object space that the alias does not allow, and stands on the instruction.
    fn refused(&mut self) {
        self.count_register_ioctl();
        match self.inside.vcpu.get_regs() {
            Ok(regs) => self.refused_at(regs.rip),
            Err(_) => self.broken("the registers cannot be read after a refused access"),
        }
    }

    fn count_register_ioctl(&self) {
        self.shared.harts[self.number as usize].stats.register_ioctl();
    }

    /// The instruction at `rip` touched object space that the alias does not allow. In ring 3 the kernel is told and looks again; in its copy
    /// routine it goes on at the fix-up; elsewhere in ring 0 it is broken. Of a truncated file, nobody could go on.
    fn refused_at(&mut self, rip: u64) {
        if let Some(truncated) = self.shared.truncation() {
            return self.shared.stop(truncated);
        }
        self.shared.harts[self.number as usize].suspects.store(SUSPECTS, Ordering::Relaxed);
        if self.inside.vcpu.get_kvm_run().if_flag != 0 {
            self.add(REFUSED_VECTOR);
            return;
        }
        let fixup = self.shared.fixup();
        if let Some([start, end, target]) = fixup
            && (start..end).contains(&rip)
            && let Ok(regs) = self.inside.vcpu.get_regs()
            && self.inside.vcpu.set_regs(&kvm_bindings::kvm_regs { rip: target, ..regs }).is_ok()
        {
            return;
        }
        self.broken(&format!("refused access to memory in ring 0 at {rip:#x}"));
    }

    /// The kernel, or KVM, did what cannot be continued.
    fn broken(&mut self, what: &str) {
        if let Some(truncated) = self.shared.truncation() {
            return self.shared.stop(truncated);
        }
        let place = match self.inside.vcpu.get_regs() {
            Ok(regs) => {
                format!("rip {:#x} rsp {:#x} rax {:#x} rdi {:#x}", regs.rip, regs.rsp, regs.rax, regs.rdi)
            }
            Err(error) => format!("registers unknown: {error}"),
        };
        let faulting = self.inside.vcpu.get_sregs().map(|sregs| sregs.cr2).unwrap_or_default();
        self.shared.stop(Ending::Broken(format!("hart {}: {what} ({place} cr2 {faulting:#x})", self.number)));
    }
}
