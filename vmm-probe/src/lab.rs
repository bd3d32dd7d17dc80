//! The tiny guest that every probe runs: one vCPU in long mode, 1 MiB of RAM, vectors that report, two rings.
//!
//! # Contract
//! - [`Lab::run`] comes back within its limit, whatever the code does, as long as the host kernel lets a signal
//!   interrupt `KVM_RUN`.
//! - Code enters with interrupts enabled and nothing to inject, flat segments, EFER.{SCE,LME,LMA,NXE}, no SMEP/SMAP.
//! - A fault in the guest is an answer ([`Stop::Fault`]), not an error; [`Trouble`] is for the host's refusals.
//!
//! Guest-physical = virtual, 4 KiB pages up to 2 MiB, plus the window at 1 GiB:
//!
//! ```text
//! 0x01000 PML4  0x02000 PDPT  0x03000 PD  0x04000 PT  0x05000 PD and 0x06000 PT of the window
//! 0x07000 GDT, TSS   0x08000 IDT   0x09000 one reporting stub per vector; SYSCALL entry at 0x9800
//! 0x0a000 ring-0 code   0x0b000 ring-0 data   0x0d000 ring-0 stack, grows down from 0xe000
//! 0x0e000 ring-3 code   0x0f000 ring-3 data and stack      (these two, and the window, for ring 3 too)
//! 0x10000 save area for XSAVE
//! ```
//! Vector `v` does `out 0x80+v` and nothing else, so the host reads the frame from the stack it left.

use crate::mapping::{Mapping, Protection};
use crate::watchdog::Watchdog;
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::time::Duration;

const RAM_BYTES: usize = 0x10_0000;
const PML4: usize = 0x1000;
const PDPT: usize = 0x2000;
const PD: usize = 0x3000;
const PT: usize = 0x4000;
const WINDOW_PD: usize = 0x5000;
const WINDOW_PT: usize = 0x6000;
const GDT: usize = 0x7000;
const TSS: usize = 0x7100;
const IDT: usize = 0x8000;
const STUBS: usize = 0x9000;
/// Where LSTAR points.
pub(crate) const SYSCALL_ENTRY: u64 = 0x9800;
const RING0_CODE: usize = 0xa000;
/// Scratch memory of ring 0.
pub(crate) const RING0_DATA: u64 = 0xb000;
const RING0_STACK_TOP: u64 = 0xe000;
const RING3_CODE: usize = 0xe000;
const RING3_STACK_TOP: u64 = 0x1_0000;
/// A page for XSAVE.
pub(crate) const SAVE_AREA: u64 = 0x1_0000;
/// Where the window's memslot starts.
pub(crate) const WINDOW: u64 = 1 << 30;
/// Pages of the window that are mapped in the guest's tables.
const WINDOW_PAGES: usize = 16;

/// Port of vector 0's stub.
const VECTOR_PORT: u16 = 0x80;
/// Port that the SYSCALL entry writes to.
pub(crate) const SYSCALL_PORT: u16 = 0xc0;
/// Port that ring-0 code writes to when it is through.
pub(crate) const DONE_PORT: u8 = 0xc1;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED_DIRTY: u64 = 0b11 << 5;

const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x10;
const USER_DATA: u16 = 0x20 | 3;
const USER_CODE: u16 = 0x28 | 3;
const TASK: u16 = 0x30;

const EFER_SCE: u64 = 1;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
const CR0_PE_MP_ET_NE_WP_AM_PG: u64 = 0x8005_0033;
/// CR4.PAE, OSFXSR and OSXMMEXCPT: what every probe starts with.
pub(crate) const CR4_BASE: u64 = 1 << 5 | 1 << 9 | 1 << 10;
const RFLAGS_FIXED_IF: u64 = 0x202;
const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_FMASK: u32 = 0xc000_0084;

/// What the host refused. Never a guest's misbehaviour.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// A system call or ioctl failed.
    #[error("{what}: {}", std::io::Error::from_raw_os_error(*.errno))]
    Call {
        /// The call.
        what: &'static str,
        /// Its error number.
        errno: i32,
    },
    /// The outcome is none that the probe knows.
    #[error("{0}")]
    Odd(String),
}

impl Trouble {
    /// The calling thread's last error, for `what`.
    pub(crate) fn last(what: &'static str) -> Self {
        Self::Call { what, errno: last_errno() }
    }

    /// Says that `what` ended with `error`.
    pub(crate) fn io(what: &'static str, error: &std::io::Error) -> Self {
        Self::Call { what, errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }

    /// Turns the error of an ioctl into trouble with `what`.
    pub(crate) fn kvm(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self::Call { what, errno: error.errno() }
    }
}

/// The calling thread's `errno`.
pub(crate) fn last_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Which ring the code starts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ring {
    /// Supervisor.
    Zero,
    /// User.
    Three,
}

/// Where a fault was, as the processor (or KVM's emulator) told the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Vector number.
    pub(crate) vector: u8,
    /// Error code; 0 for vectors that have none.
    pub(crate) error: u64,
    /// Instruction pointer.
    pub(crate) rip: u64,
    /// Code segment; the low two bits are the ring.
    pub(crate) cs: u64,
    /// CR2 at the exit.
    pub(crate) cr2: u64,
}

/// Why the guest stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It wrote to a port.
    Port(u16),
    /// It took a vector.
    Fault(Frame),
    /// `KVM_EXIT_INTERNAL_ERROR`: the instruction emulator does not know the instruction.
    GaveUp,
    /// KVM emulated an access to memory as a device's.
    Mmio {
        /// Guest-physical address.
        address: u64,
        /// A write.
        write: bool,
    },
    /// `KVM_RUN` returned `EFAULT`: the host's mapping forbids the access.
    Efault,
    /// Still running at the limit.
    TimedOut,
    /// Anything else.
    Other(String),
}

impl Stop {
    /// Whether ring-0 code got to its end.
    pub(crate) fn done(&self) -> bool {
        *self == Self::Port(DONE_PORT.into())
    }
}

/// General registers that a probe presets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Preset {
    /// RAX.
    pub(crate) rax: u64,
    /// RCX.
    pub(crate) rcx: u64,
    /// RDX.
    pub(crate) rdx: u64,
    /// RDI.
    pub(crate) rdi: u64,
}

/// The machine. Fields drop in order: vCPU and VM before the memory that they map.
pub(crate) struct Lab {
    /// The only vCPU.
    pub(crate) vcpu: VcpuFd,
    /// Its VM.
    pub(crate) vm: VmFd,
    ram: Mapping,
    window: Option<Mapping>,
    watchdog: Watchdog,
    start_sregs: kvm_sregs,
    limit: Duration,
}

impl Lab {
    /// Makes the machine; `limit` bounds each run.
    pub(crate) fn new(kvm: &Kvm, limit: Duration) -> Result<Self, Trouble> {
        let ram = guest_ram()?;
        let vm = create_vm(kvm)?;
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: ram.len() as u64,
            userspace_addr: ram.address(),
        };
        // SAFETY: the mapping outlives the VM (field order) and nobody else uses it.
        unsafe { vm.set_user_memory_region(slot) }.map_err(Trouble::kvm("KVM_SET_USER_MEMORY_REGION"))?;
        let vcpu = vm.create_vcpu(0).map_err(Trouble::kvm("KVM_CREATE_VCPU"))?;
        vcpu.set_cpuid2(&supported_cpuid(kvm)?).map_err(Trouble::kvm("KVM_SET_CPUID2"))?;
        let reset = vcpu.get_sregs().map_err(Trouble::kvm("KVM_GET_SREGS"))?;
        let start_sregs = long_mode(reset);
        let lab = Self { vcpu, vm, ram, window: None, watchdog: Watchdog::new()?, start_sregs, limit };
        lab.set_syscall_msrs()?;
        Ok(lab)
    }

    fn set_syscall_msrs(&self) -> Result<(), Trouble> {
        let star = u64::from(KERNEL_CODE) << 32 | 0x18 << 48 | 3 << 48;
        let entries = [(MSR_STAR, star), (MSR_LSTAR, SYSCALL_ENTRY), (MSR_FMASK, 0)]
            .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
        let msrs = Msrs::from_entries(&entries).map_err(|_| Trouble::Odd("MSR list too long".into()))?;
        match self.vcpu.set_msrs(&msrs) {
            Ok(count) if count == entries.len() => Ok(()),
            Ok(count) => Err(Trouble::Odd(format!("KVM took only {count} of STAR, LSTAR and FMASK"))),
            Err(error) => Err(Trouble::kvm("KVM_SET_MSRS")(error)),
        }
    }

    /// Puts `window` behind guest-physical [`WINDOW`].
    pub(crate) fn attach_window(&mut self, window: Mapping) -> Result<(), Trouble> {
        let slot = kvm_userspace_memory_region {
            slot: 1,
            flags: 0,
            guest_phys_addr: WINDOW,
            memory_size: window.len() as u64,
            userspace_addr: window.address(),
        };
        // SAFETY: the mapping is kept in `self.window`, which drops after the VM.
        unsafe { self.vm.set_user_memory_region(slot) }
            .map_err(Trouble::kvm("KVM_SET_USER_MEMORY_REGION"))?;
        self.window = Some(window);
        Ok(())
    }

    /// The window attached before.
    pub(crate) fn window(&mut self) -> Result<&mut Mapping, Trouble> {
        self.window.as_mut().ok_or_else(|| Trouble::Odd("no window attached".into()))
    }

    /// Runs `code` from its start in `ring`, to the first exit.
    pub(crate) fn run(&mut self, ring: Ring, code: &[u8], preset: Preset) -> Result<Stop, Trouble> {
        self.run_with_cr4(ring, code, preset, CR4_BASE)
    }

    /// As [`Lab::run`], with another CR4. A CR4 that KVM refuses is [`Trouble`].
    pub(crate) fn run_with_cr4(
        &mut self,
        ring: Ring,
        code: &[u8],
        preset: Preset,
        cr4: u64,
    ) -> Result<Stop, Trouble> {
        self.place(ring, code, preset, cr4)?;
        self.resume()
    }

    /// Prepares `code` without running it.
    pub(crate) fn place(&mut self, ring: Ring, code: &[u8], preset: Preset, cr4: u64) -> Result<(), Trouble> {
        let (at, rsp) = match ring {
            Ring::Zero => (RING0_CODE, RING0_STACK_TOP),
            Ring::Three => (RING3_CODE, RING3_STACK_TOP),
        };
        if code.len() > 4096 {
            return Err(Trouble::Odd("probe code longer than its page".into()));
        }
        self.complete()?;
        self.ram.write(at, code)?;
        let mut sregs = self.start_sregs;
        sregs.cr4 = cr4;
        if ring == Ring::Three {
            sregs.cs = segment(USER_CODE);
            (sregs.ss, sregs.ds, sregs.es) = (segment(USER_DATA), segment(USER_DATA), segment(USER_DATA));
        }
        self.vcpu.set_sregs(&sregs).map_err(Trouble::kvm("KVM_SET_SREGS"))?;
        let Preset { rax, rcx, rdx, rdi } = preset;
        let regs = kvm_regs {
            rip: at as u64,
            rsp,
            rflags: RFLAGS_FIXED_IF,
            rax,
            rcx,
            rdx,
            rdi,
            ..Default::default()
        };
        self.vcpu.set_regs(&regs).map_err(Trouble::kvm("KVM_SET_REGS"))
    }

    /// Ends a port or MMIO access left open by the last exit: KVM does so on the next entry, here one that enters
    /// nothing (Documentation/virt/kvm/api.rst, KVM_RUN).
    fn complete(&mut self) -> Result<(), Trouble> {
        self.arm()?;
        self.vcpu.set_kvm_immediate_exit(1);
        let step = self.vcpu.run().map(drop);
        self.vcpu.set_kvm_immediate_exit(0);
        self.watchdog.disarm()?;
        match step {
            Err(error) if error.errno() != libc::EINTR => Err(Trouble::kvm("KVM_RUN")(error)),
            _ => Ok(()),
        }
    }

    /// Lets the guest go on from where it is, to the next exit.
    pub(crate) fn resume(&mut self) -> Result<Stop, Trouble> {
        self.arm()?;
        let stop = self.step()?;
        self.watchdog.disarm()?;
        match stop {
            Stop::Port(port @ 0x80..=0x9f) => self.frame(port).map(Stop::Fault),
            stop => Ok(stop),
        }
    }

    /// Starts the clock for a series of [`Lab::step`].
    pub(crate) fn arm(&mut self) -> Result<(), Trouble> {
        self.watchdog.arm(self.limit)
    }

    /// One `KVM_RUN` under an armed clock; vectors come as their port.
    pub(crate) fn step(&mut self) -> Result<Stop, Trouble> {
        loop {
            let exit = match self.vcpu.run() {
                Ok(exit) => exit,
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                    if self.watchdog.expired() {
                        return Ok(Stop::TimedOut);
                    }
                    continue;
                }
                Err(error) if error.errno() == libc::EFAULT => return Ok(Stop::Efault),
                Err(error) => return Err(Trouble::kvm("KVM_RUN")(error)),
            };
            return Ok(match exit {
                VcpuExit::IoOut(port, _) => Stop::Port(port),
                VcpuExit::InternalError => Stop::GaveUp,
                VcpuExit::MmioRead(address, _) => Stop::Mmio { address, write: false },
                VcpuExit::MmioWrite(address, _) => Stop::Mmio { address, write: true },
                VcpuExit::Intr if !self.watchdog.expired() => continue,
                VcpuExit::Intr => Stop::TimedOut,
                other => Stop::Other(format!("{other:?}")),
            });
        }
    }

    /// The guest's general registers.
    pub(crate) fn regs(&self) -> Result<kvm_regs, Trouble> {
        self.vcpu.get_regs().map_err(Trouble::kvm("KVM_GET_REGS"))
    }

    /// The ring that the vCPU is in.
    pub(crate) fn current_ring(&self) -> Result<u8, Trouble> {
        let sregs = self.vcpu.get_sregs().map_err(Trouble::kvm("KVM_GET_SREGS"))?;
        Ok((sregs.cs.selector & 3) as u8)
    }

    fn frame(&self, port: u16) -> Result<Frame, Trouble> {
        let vector = u8::try_from(port - VECTOR_PORT).unwrap_or(u8::MAX);
        let rsp = usize::try_from(self.regs()?.rsp).unwrap_or(usize::MAX);
        let cr2 = self.vcpu.get_sregs().map_err(Trouble::kvm("KVM_GET_SREGS"))?.cr2;
        let has_error = matches!(vector, 8 | 10..=14 | 17 | 21);
        let (error, at) = if has_error { (self.ram.read_u64(rsp)?, 8) } else { (0, 0) };
        let word = |index: usize| self.ram.read_u64(rsp.saturating_add(at + 8 * index));
        Ok(Frame { vector, error, rip: word(0)?, cs: word(1)?, cr2 })
    }
}

/// Makes a VM, trying again when a signal interrupts.
pub(crate) fn create_vm(kvm: &Kvm) -> Result<VmFd, Trouble> {
    for _ in 0..100 {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => return result.map_err(Trouble::kvm("KVM_CREATE_VM")),
        }
    }
    Err(Trouble::Call { what: "KVM_CREATE_VM", errno: libc::EINTR })
}

/// What KVM offers to guests.
pub(crate) fn supported_cpuid(kvm: &Kvm) -> Result<CpuId, Trouble> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Trouble::kvm("KVM_GET_SUPPORTED_CPUID"))
}

/// RAM with tables, vectors and the SYSCALL entry in place.
fn guest_ram() -> Result<Mapping, Trouble> {
    let mut ram = Mapping::anonymous(RAM_BYTES, Protection::ReadWrite)?;
    let table = PRESENT | WRITABLE | USER | ACCESSED_DIRTY;
    ram.write_u64(PML4, PDPT as u64 | table)?;
    ram.write_u64(PDPT, PD as u64 | table)?;
    ram.write_u64(PDPT + 8, WINDOW_PD as u64 | table)?;
    ram.write_u64(PD, PT as u64 | table)?;
    ram.write_u64(WINDOW_PD, WINDOW_PT as u64 | table)?;
    for page in 1..RAM_BYTES / 4096 {
        let address = page * 4096;
        let for_user = matches!(address, RING3_CODE..0x1_0000);
        let user = if for_user { USER } else { 0 };
        ram.write_u64(PT + page * 8, address as u64 | PRESENT | WRITABLE | ACCESSED_DIRTY | user)?;
    }
    for page in 0..WINDOW_PAGES {
        let address = WINDOW + page as u64 * 4096;
        ram.write_u64(WINDOW_PT + page * 8, address | PRESENT | WRITABLE | ACCESSED_DIRTY | USER)?;
    }
    for (index, descriptor) in gdt().into_iter().enumerate() {
        ram.write_u64(GDT + index * 8, descriptor)?;
    }
    ram.write_u64(TSS + 4, RING0_STACK_TOP)?;
    for vector in 0..32u16 {
        let stub = STUBS + usize::from(vector) * 8;
        let port = (VECTOR_PORT + vector).to_le_bytes()[0];
        ram.write(stub, &[0xe6, port, 0xf4, 0xeb, 0xfd])?; // out port, al; hlt; jmp back to hlt
        let entry = IDT + usize::from(vector) * 16;
        let present_interrupt_gate = 0x8e00 << 32;
        ram.write_u64(entry, stub as u64 | u64::from(KERNEL_CODE) << 16 | present_interrupt_gate)?;
    }
    let port = SYSCALL_PORT.to_le_bytes()[0];
    ram.write(0x9800, &[0xe6, port, 0xf4, 0xeb, 0xfd])?;
    Ok(ram)
}

fn gdt() -> [u64; 8] {
    let task_low = 0x67 | (TSS as u64) << 16 | 0x89 << 40;
    [
        0,
        0x00af_9b00_0000_ffff, // ring-0 code, 64 bit
        0x00cf_9300_0000_ffff, // ring-0 data
        0,                     // SYSRET's 32-bit code segment, unused
        0x00cf_f300_0000_ffff, // ring-3 data
        0x00af_fb00_0000_ffff, // ring-3 code, 64 bit
        task_low,
        0,
    ]
}

fn segment(selector: u16) -> kvm_segment {
    let code = matches!(selector, KERNEL_CODE | USER_CODE);
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: if code { 0xb } else { 0x3 },
        present: 1,
        dpl: (selector & 3) as u8,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..Default::default()
    }
}

fn long_mode(mut sregs: kvm_sregs) -> kvm_sregs {
    sregs.cs = segment(KERNEL_CODE);
    for data in [&mut sregs.ss, &mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs] {
        *data = segment(KERNEL_DATA);
    }
    sregs.tr = kvm_segment {
        base: TSS as u64,
        limit: 0x67,
        selector: TASK,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    (sregs.gdt.base, sregs.gdt.limit) = (GDT as u64, 63);
    (sregs.idt.base, sregs.idt.limit) = (IDT as u64, 32 * 16 - 1);
    sregs.cr0 = CR0_PE_MP_ET_NE_WP_AM_PG;
    sregs.cr3 = PML4 as u64;
    sregs.cr4 = CR4_BASE;
    sregs.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    sregs
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const LIMIT: Duration = Duration::from_millis(100);

    /// `None` where there is no KVM: these are skipped then, and `this_host_is_understood` tests the refusal.
    fn lab() -> Option<Lab> {
        let kvm = crate::testing::kvm()?;
        Some(Lab::new(&kvm, LIMIT).unwrap())
    }

    #[test]
    fn a_guest_that_never_ends_is_stopped() {
        let Some(mut lab) = lab() else { return };
        for ring in [Ring::Zero, Ring::Three] {
            let start = Instant::now();
            let stop = lab.run(ring, &[0xeb, 0xfe], Preset::default()).unwrap();
            assert_eq!(stop, Stop::TimedOut);
            assert!(start.elapsed() < LIMIT * 20, "{ring:?} took {:?}", start.elapsed());
        }
    }

    #[test]
    fn vectors_tell_where_they_were() {
        let Some(mut lab) = lab() else { return };
        let stop = lab.run(Ring::Three, &[0x90, 0x0f, 0x0b], Preset::default()).unwrap();
        let Stop::Fault(frame) = stop else { panic!("{stop:?}") };
        assert_eq!((frame.vector, frame.error, frame.rip, frame.cs & 3), (6, 0, 0xe001, 3));
        // A store from ring 3 to ring 0's data: present, write, user.
        let store = [0x48, 0x89, 0x07];
        let preset = Preset { rdi: RING0_DATA, ..Preset::default() };
        let stop = lab.run(Ring::Three, &store, preset).unwrap();
        let Stop::Fault(frame) = stop else { panic!("{stop:?}") };
        assert_eq!((frame.vector, frame.error, frame.cr2), (14, 7, RING0_DATA));
    }

    #[test]
    fn a_machine_is_reusable_after_an_exit_in_the_middle() {
        let Some(mut lab) = lab() else { return };
        for _ in 0..3 {
            let code = [0xe6, 0x55, 0x90, 0xe6, DONE_PORT];
            assert_eq!(lab.run(Ring::Zero, &code, Preset::default()).unwrap(), Stop::Port(0x55));
        }
        assert!(lab.resume().unwrap().done());
    }

    #[test]
    fn code_longer_than_its_page_is_refused() {
        let Some(mut lab) = lab() else { return };
        assert!(lab.run(Ring::Zero, &[0x90; 4097], Preset::default()).is_err());
    }
}
