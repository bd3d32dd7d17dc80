//! The kernel's state, its start, and what happens on every entry.

use crate::arch::entry::{self, KICK_VECTOR, REFUSED_VECTOR, SYSCALL_VECTOR, TIMER_VECTOR, TrapFrame};
use crate::arch::fpu::FpuPages;
use crate::arch::tables::{self, HartTables};
use crate::arch::{cpu, usercopy};
use crate::context::{self, CONTEXT_CHAINS, Context};
use crate::fault;
use crate::gate::{Call, GATE_CHAINS, Gate};
use crate::lock::{Guard, Lock};
use crate::mailbox::{self, Mailbox};
use crate::memory::chains::Chains;
use crate::memory::frames::Frames;
use crate::memory::slab::Slab;
use crate::memory::table::{Table, bits};
use crate::objects::{MAP_CHAINS, ObjectMap};
use crate::sched::RunQueue;
use crate::space::{Mapping, SPACE_CHAINS, Space};
use crate::sync::{WAIT_BUCKETS, Wait, WaitBucket};
use crate::thread::Thread;
use crate::tlb::{self, PcidCache};
use core::sync::atomic::{AtomicBool, Ordering};
use twz_abi::boot::boot_flags;
use twz_abi::boot::{
    BOOT_INFO_GPA, BOOT_MAGIC, BootInfo, DIRECT_MAP, KernelStamp, MAX_HARTS, STAMP_MAGIC, ThreadStart,
};
use twz_abi::fault::{FaultCause, FaultInfo};
use twz_abi::hypercall::Happening;
use twz_abi::{ABI_VERSION, Rights};

/// Status of a machine in which nothing could be started.
const NOTHING_RUNS: u64 = 2;
/// How often one instruction may be refused by the second stage in a row.
const REFUSALS_MAX: u32 = 8;
/// More page faults than an instruction takes until it is done or refused again.
const FAULTS_MANY: u64 = 64;
/// Bits of a page fault's error code.
const FAULT_WRITE: u64 = 1 << 1;
const FAULT_FETCH: u64 = 1 << 4;
/// Error code of the page fault that a SYSCALL becomes where ring 3 cannot enter ring 0 by it: present, user, fetch.
const SYSCALL_FAULT: u64 = 0x15;

#[used]
#[unsafe(link_section = ".twz_stamp")]
static STAMP: KernelStamp = KernelStamp { magic: STAMP_MAGIC, abi_version: ABI_VERSION, reserved: 0 };

/// What belongs to one hart.
pub(crate) struct Hart {
    pub(crate) tables: HartTables,
    pub(crate) pcids: PcidCache,
    /// The thread whose vector state the CPU holds.
    pub(crate) vector_owner: Option<u32>,
    /// The space whose tables are loaded; none: the boot table.
    pub(crate) space: Option<u32>,
    /// Number of the root that it is in; 0 before it was told.
    pub(crate) root: u64,
    pub(crate) is_idle: bool,
    pub(crate) timer_armed: bool,
    /// Of the thread that it runs.
    pub(crate) priority: u32,
}

/// Everything, behind one lock.
pub(crate) struct Kernel {
    pub(crate) frames: Frames,
    pub(crate) fpu_pages: FpuPages,
    pub(crate) threads: Slab<Thread>,
    pub(crate) spaces: Slab<Space>,
    pub(crate) contexts: Slab<Context>,
    pub(crate) context_chains: Chains<CONTEXT_CHAINS>,
    pub(crate) gates: Slab<Gate>,
    pub(crate) gate_chains: Chains<GATE_CHAINS>,
    pub(crate) calls: Slab<Call>,
    pub(crate) space_chains: Chains<SPACE_CHAINS>,
    pub(crate) maps: Slab<ObjectMap>,
    pub(crate) mappings: Slab<Mapping>,
    pub(crate) waits: Slab<Wait>,
    pub(crate) map_chains: Chains<MAP_CHAINS>,
    pub(crate) wait_buckets: [WaitBucket; WAIT_BUCKETS],
    pub(crate) queue: RunQueue,
    /// The thread that entered the kernel and goes on when the entry ends; it is in no queue meanwhile.
    pub(crate) continuing: Option<u32>,
    /// Threads that wait for console input, or for room in the output, as a list.
    pub(crate) console_waiters: Option<u32>,
    /// Threads that sleep with a deadline, as a list, and when the alarm rings.
    pub(crate) timed_sleepers: Option<u32>,
    pub(crate) alarm: u64,
    /// Last serial number given to a thread or a space.
    pub(crate) next_serial: u64,
    /// Calls that may have made the second stage refuse what the tables allow: copies, trims, writes to pages that were shared.
    pub(crate) page_changes: u64,
    /// Threads that the machine ends with, and its status by then.
    pub(crate) first_left: u32,
    pub(crate) first_status: u32,
    boot_table: Option<Table>,
    harts: [Hart; MAX_HARTS as usize],
    hart_count: u32,
    first_user_told: bool,
}

static KERNEL: Lock<Kernel> = Lock::new(Kernel {
    frames: Frames::EMPTY,
    fpu_pages: FpuPages::EMPTY,
    threads: Slab::new(),
    spaces: Slab::new(),
    contexts: Slab::new(),
    context_chains: Chains::EMPTY,
    gates: Slab::new(),
    gate_chains: Chains::EMPTY,
    calls: Slab::new(),
    space_chains: Chains::EMPTY,
    maps: Slab::new(),
    mappings: Slab::new(),
    waits: Slab::new(),
    map_chains: Chains::EMPTY,
    wait_buckets: [WaitBucket::EMPTY; WAIT_BUCKETS],
    queue: RunQueue::EMPTY,
    continuing: None,
    console_waiters: None,
    timed_sleepers: None,
    alarm: 0,
    next_serial: 0,
    page_changes: 0,
    first_left: 0,
    first_status: 0,
    boot_table: None,
    harts: [const {
        Hart {
            tables: HartTables::EMPTY,
            pcids: PcidCache::EMPTY,
            vector_owner: None,
            space: None,
            root: 0,
            is_idle: false,
            timer_armed: false,
            priority: 0,
        }
    }; MAX_HARTS as usize],
    hart_count: 0,
    first_user_told: false,
});

/// Hart 0 has set up what the others need.
static STARTED: AtomicBool = AtomicBool::new(false);

/// First Rust code of every hart.
#[unsafe(no_mangle)]
extern "C" fn hart_main(hart: u32) -> ! {
    // SAFETY: `twzvmm` wrote it before the first instruction, and nobody changes it.
    let boot = unsafe { &*((DIRECT_MAP + BOOT_INFO_GPA) as *const BootInfo) };
    assert!(boot.magic == BOOT_MAGIC && boot.abi_version == ABI_VERSION, "twzvmm speaks another ABI");
    let mailbox = Mailbox::of(hart);
    if hart == 0 {
        // SAFETY: the other harts wait for `STARTED` below.
        unsafe { tables::fill_idt() };
    } else {
        while !STARTED.load(Ordering::Acquire) {
            mailbox.relax();
        }
    }
    let mut kernel = KERNEL.lock(mailbox);
    if hart == 0 {
        kernel.take_memory(boot);
    }
    let tables = &mut kernel.hart(hart).tables;
    // SAFETY: the tables live in a static, and their place there belongs to this hart.
    unsafe { tables.load() };
    tables::load_idt();
    cpu::init(boot, tables);
    let counters = kernel.frames.counters().map_or(0, |page| page.address());
    if boot.flags & boot_flags::VERBOSE != 0 {
        mailbox::be_verbose();
    }
    mailbox.log_info(format_args!("hart {hart} runs: {}", cpu::Features));
    mailbox.ready(context::entry_address(), usercopy::fixup_addresses(), counters);
    if hart == 0 {
        kernel.begin(mailbox, &boot.init);
        STARTED.store(true, Ordering::Release);
    }
    let frame = run(kernel, hart, mailbox);
    // SAFETY: the frame is a thread's, with flags and selectors of ring 3 (`Thread::new`, `trap`, `fault_return`).
    unsafe { entry::leave(frame) }
}

/// Every entry from ring 3, with the thread's registers; returns those of the thread that runs next.
#[unsafe(no_mangle)]
extern "C" fn trap_from_ring3(frame: *const TrapFrame) -> *const TrapFrame {
    let address = cpu::fault_address();
    let running = frame.cast::<Thread>();
    // SAFETY: the entry pushed into the frame of the thread that this hart runs, which is the thread's first field. Nobody
    // else writes these two fields while it runs.
    let hart = unsafe { (*running).hart };
    // SAFETY: as above.
    let thread = unsafe { (*running).index };
    tlb::left_ring3(hart);
    let mailbox = Mailbox::of(hart);
    let mut kernel = KERNEL.lock(mailbox);
    kernel.catch_up(hart);
    kernel.trap(mailbox, thread, address);
    if kernel.continuing == Some(thread) && kernel.stays(hart, thread) {
        kernel.continuing = None;
        kernel.enters_ring3(hart);
        return frame;
    }
    run(kernel, hart, mailbox)
}

/// Picks the next thread and makes the hart ready to return to it; sleeps while there is none.
fn run(mut kernel: Guard<'_, Kernel>, hart: u32, mailbox: Mailbox) -> *const TrapFrame {
    loop {
        if let Some(thread) = kernel.continuing.take() {
            kernel.put_back(mailbox, thread);
        }
        if let Some(thread) = kernel.next_thread(hart) {
            let Some(frame) = kernel.prepare(hart, mailbox, thread) else { continue };
            if cpu::is_user_address(kernel.threads[thread].frame.rip) {
                if !kernel.first_user_told {
                    kernel.first_user_told = true;
                    mailbox.first_user();
                }
                kernel.enters_ring3(hart);
                return frame;
            }
            // Returning to such an address would fault in ring 0.
            let info = fault::bad_instruction_pointer(&kernel.threads[thread].frame);
            kernel.fault(mailbox, thread, info);
            continue;
        }
        kernel.release_cpu_state(mailbox);
        kernel.load_boot_table(hart);
        kernel.counters().idles += 1;
        kernel.hart(hart).is_idle = true;
        drop(kernel);
        cpu::halt();
        kernel = KERNEL.lock(mailbox);
        kernel.catch_up(hart);
        let state = kernel.hart(hart);
        (state.is_idle, state.timer_armed) = (false, false);
        kernel.wake_console_waiters(mailbox);
        kernel.expire(mailbox);
    }
}

impl Kernel {
    /// Hart 0: takes over the memory that the boot left free.
    fn take_memory(&mut self, boot: &BootInfo) {
        self.frames.add_fresh(boot.free_start, boot.ram_bytes);
        self.boot_table = Table::of_entry(cpu::page_table() | bits::PRESENT);
        self.hart_count = boot.hart_count;
        self.alarm = u64::MAX;
        let is_ready = self.frames.begin_counting() && self.fpu_pages.prepare(&mut self.frames);
        assert!(is_ready, "no memory at all");
    }

    /// Settles why `thread` entered the kernel; leaves it queued if it can go on.
    fn trap(&mut self, mailbox: Mailbox, thread: u32, address: u64) {
        let frame = &mut self.threads[thread].frame;
        let is_syscall_fault = frame.vector == 14
            && frame.error == SYSCALL_FAULT
            && frame.rip == address
            && address == cpu::lstar();
        if is_syscall_fault {
            // SYSCALL has saved RIP and flags in RCX and R11, as always. A program that jumps here gets the same.
            frame.rip = frame.rcx;
            frame.rflags = frame.r11;
            frame.vector = SYSCALL_VECTOR;
        }
        frame.rflags = cpu::sanitise_flags(frame.rflags);
        match frame.vector {
            SYSCALL_VECTOR => self.syscall(mailbox, thread),
            14 => self.page_fault(mailbox, thread, address),
            TIMER_VECTOR => {
                self.counters().timer_ticks += 1;
                self.hart(mailbox.hart()).timer_armed = false;
                self.enqueue(mailbox, thread);
                self.expire(mailbox);
            }
            KICK_VECTOR => {
                self.counters().kicks += 1;
                self.go_on(thread);
                self.wake_console_waiters(mailbox);
                self.expire(mailbox);
            }
            REFUSED_VECTOR => self.refused(mailbox, thread),
            vector => {
                let info = fault::of_exception(vector, frame);
                self.fault(mailbox, thread, info);
            }
        }
    }

    fn page_fault(&mut self, mailbox: Mailbox, thread: u32, address: u64) {
        self.counters().page_faults += 1;
        let frame = &self.threads[thread].frame;
        let access = if frame.error & FAULT_FETCH != 0 {
            Rights::EXEC
        } else if frame.error & FAULT_WRITE != 0 {
            Rights::WRITE
        } else {
            Rights::READ
        };
        let (rip, space) = (frame.rip, self.threads[thread].space);
        let changes = self.page_changes;
        match self.resolve(mailbox, space, address, access) {
            Ok(()) => {
                // Its own repetition is no reason to be patient with it.
                self.threads[thread].refused.2 += self.page_changes - changes;
                self.go_on(thread);
            }
            Err(mut info) => {
                info.instruction = rip;
                self.fault(mailbox, thread, info);
            }
        }
    }

    /// The second stage stopped `thread` where the first did not. The instruction is repeated after the tables were emptied, which
    /// ends in a precise answer; an instruction that keeps being refused, while nobody changes pages, stands on memory that failed.
    fn refused(&mut self, mailbox: Mailbox, thread: u32) {
        self.counters().refusals += 1;
        let (changes, faults) = (self.page_changes, self.counters().page_faults);
        let stopped = &mut self.threads[thread];
        let rip = stopped.frame.rip;
        let (last_rip, last_times, last_changes) = stopped.refused;
        // So many faults later it has gone on meanwhile: a loop whose window is emptied now and then.
        let is_repeated =
            last_rip == rip && last_changes == changes && faults - stopped.refused_at < FAULTS_MANY;
        let times = if is_repeated { last_times + 1 } else { 1 };
        (stopped.refused, stopped.refused_at) = ((rip, times, changes), faults);
        mailbox.record(Happening::Refused, 0, stopped.number, [rip, 0]);
        if times > REFUSALS_MAX {
            let cause = FaultCause::MachineCheck as u32;
            self.fault(mailbox, thread, FaultInfo { cause, instruction: rip, ..FaultInfo::default() });
            return;
        }
        let context = self.spaces[self.threads[thread].space].context;
        self.forget_pages(mailbox, context);
        self.go_on(thread);
    }

    /// Starts what is to run: resumed threads in their order, then the first thread, if there is one.
    fn begin(&mut self, mailbox: Mailbox, init: &ThreadStart) {
        let alone = init.view.is_null();
        // While the hart is where it began: resuming may lead it into another root, from which nobody speaks for the first context.
        let context = (!alone).then(|| self.use_context(mailbox, init.context, init.context));
        self.resume_all(mailbox, alone);
        let started = context
            .map_or(Ok(()), |context| context.and_then(|context| self.spawn_first(mailbox, init, context)));
        if let Err(error) = started {
            mailbox.log(format_args!("the first thread cannot start in view {}: {error}", init.view));
        }
        if self.first_left == 0 {
            mailbox.shutdown(NOTHING_RUNS);
        }
    }

    /// A hart's record.
    pub(crate) fn hart(&mut self, hart: u32) -> &mut Hart {
        &mut self.harts[hart as usize]
    }

    /// A hart's record.
    pub(crate) fn hart_ref(&self, hart: u32) -> &Hart {
        &self.harts[hart as usize]
    }

    /// Harts of the machine.
    pub(crate) fn hart_count(&self) -> u32 {
        self.hart_count
    }

    /// A bit for each hart.
    pub(crate) fn all_harts(&self) -> u64 {
        (1 << self.hart_count) - 1
    }

    /// Guest-physical address of the boot table.
    pub(crate) fn boot_root(&self) -> u64 {
        self.boot_table.map_or(0, Table::address)
    }

    /// An entry of the boot table's kernel half.
    pub(crate) fn boot_table_entry(&self, index: u64) -> u64 {
        self.boot_table.map_or(0, |table| table.get(index))
    }
}
