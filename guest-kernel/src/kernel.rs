//! The kernel's state, its start, and the loop that picks what a hart runs.

use crate::arch::entry::{self, KICK_VECTOR, REFUSED_VECTOR, SYSCALL_VECTOR, TIMER_VECTOR, TrapFrame};
use crate::arch::tables::{self, HartTables};
use crate::arch::{cpu, usercopy};
use crate::fault;
use crate::lock::{Guard, Lock};
use crate::mailbox::Mailbox;
use crate::memory::frames::Frames;
use crate::memory::slab::Slab;
use crate::memory::table::{Table, bits};
use crate::space::{Mapping, ObjectMap, Space};
use crate::thread::{State, Thread};
use core::sync::atomic::{AtomicBool, Ordering};
use twz_abi::boot::{
    BOOT_INFO_GPA, BOOT_MAGIC, BootInfo, DIRECT_MAP, KernelStamp, MAX_HARTS, STAMP_MAGIC, ThreadStart,
};
use twz_abi::fault::{FaultCause, FaultInfo};
use twz_abi::{ABI_VERSION, ErrorCode, Rights};

/// Buckets of the table that finds object maps.
pub(crate) const MAP_BUCKETS: usize = 4096;
/// How long a thread runs while others wait.
const TIME_SLICE_NANOSECONDS: u64 = 10_000_000;
/// How often one instruction may be refused by the second stage in a row.
const REFUSALS_MAX: u32 = 8;
/// Bits of a page fault's error code.
const FAULT_WRITE: u64 = 1 << 1;
const FAULT_FETCH: u64 = 1 << 4;
/// Error code of the page fault that a SYSCALL becomes where ring 3 cannot enter ring 0 by it: present, user, fetch.
const SYSCALL_FAULT: u64 = 0x15;

#[used]
#[unsafe(link_section = ".twz_stamp")]
static STAMP: KernelStamp = KernelStamp { magic: STAMP_MAGIC, abi_version: ABI_VERSION, reserved: 0 };

/// What belongs to one hart.
struct Hart {
    tables: HartTables,
    /// The thread whose vector state the CPU holds.
    vector_owner: Option<u32>,
    /// The space whose tables are loaded; none: the boot table.
    space: Option<u32>,
    is_idle: bool,
    timer_armed: bool,
}

/// Everything, behind one lock.
pub(crate) struct Kernel {
    pub(crate) frames: Frames,
    pub(crate) threads: Slab<Thread>,
    pub(crate) spaces: Slab<Space>,
    pub(crate) maps: Slab<ObjectMap>,
    pub(crate) mappings: Slab<Mapping>,
    pub(crate) map_buckets: [Option<u32>; MAP_BUCKETS],
    boot_table: Option<Table>,
    harts: [Hart; MAX_HARTS as usize],
    hart_count: u32,
    queue_head: Option<u32>,
    queue_tail: Option<u32>,
    /// Threads that wait for console input, as a list.
    pub(crate) console_readers: Option<u32>,
    first_user_told: bool,
}

static KERNEL: Lock<Kernel> = Lock::new(Kernel {
    frames: Frames::EMPTY,
    threads: Slab::new(),
    spaces: Slab::new(),
    maps: Slab::new(),
    mappings: Slab::new(),
    map_buckets: [None; MAP_BUCKETS],
    boot_table: None,
    harts: [const {
        Hart {
            tables: HartTables::EMPTY,
            vector_owner: None,
            space: None,
            is_idle: false,
            timer_armed: false,
        }
    }; MAX_HARTS as usize],
    hart_count: 0,
    queue_head: None,
    queue_tail: None,
    console_readers: None,
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
    let tables = &mut kernel.harts[hart as usize].tables;
    // SAFETY: the tables live in a static, and their place there belongs to this hart.
    unsafe { tables.load() };
    tables::load_idt();
    cpu::init(boot, tables);
    mailbox.ready(entry::start as *const () as u64, usercopy::fixup_addresses());
    if hart == 0 {
        kernel.start(boot, mailbox);
        STARTED.store(true, Ordering::Release);
    }
    let frame = run(kernel, hart, mailbox);
    // SAFETY: the frame is a thread's, sanitised by `Thread::new`.
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
    let mailbox = Mailbox::of(hart);
    let mut kernel = KERNEL.lock(mailbox);
    kernel.trap(mailbox, thread, address);
    run(kernel, hart, mailbox)
}

/// Picks the next thread and makes the hart ready to return to it; sleeps while there is none.
fn run(mut kernel: Guard<'_, Kernel>, hart: u32, mailbox: Mailbox) -> *const TrapFrame {
    loop {
        if let Some(thread) = kernel.next_thread() {
            if cpu::is_user_address(kernel.threads[thread].frame.rip) {
                return kernel.prepare(hart, mailbox, thread);
            }
            // Returning to such an address would fault in ring 0.
            let info = fault::bad_instruction_pointer(&kernel.threads[thread].frame);
            kernel.fault(mailbox, thread, info);
            continue;
        }
        kernel.release_cpu_state(hart);
        kernel.load_boot_table(hart);
        kernel.harts[hart as usize].is_idle = true;
        drop(kernel);
        cpu::halt();
        kernel = KERNEL.lock(mailbox);
        kernel.harts[hart as usize].is_idle = false;
        kernel.harts[hart as usize].timer_armed = false;
        kernel.wake_console_readers(mailbox);
    }
}

impl Kernel {
    /// Hart 0: takes over the memory and makes the first thread.
    fn start(&mut self, boot: &BootInfo, mailbox: Mailbox) {
        self.frames.add_fresh(boot.free_start, boot.ram_bytes);
        self.boot_table = Table::of_entry(cpu::page_table() | bits::PRESENT);
        self.hart_count = boot.hart_count;
        match self.spawn(mailbox, &boot.init) {
            Ok(thread) => self.threads[thread].is_first = true,
            Err(error) => {
                mailbox
                    .log(format_args!("the first thread cannot start in view {}: {error}", boot.init.view));
                mailbox.shutdown(2);
            }
        }
    }

    /// Makes a thread and queues it.
    pub(crate) fn spawn(&mut self, mailbox: Mailbox, start: &ThreadStart) -> Result<u32, ErrorCode> {
        if !(cpu::is_user_address(start.entry) && cpu::is_user_address(start.tls)) {
            return Err(ErrorCode::BadArgument);
        }
        let space = self.enter_space(mailbox, start.view, start.context)?;
        match self.threads.insert(&mut self.frames, Thread::new(start, space)) {
            Ok(thread) => {
                self.threads[thread].index = thread;
                self.enqueue(mailbox, thread);
                Ok(thread)
            }
            Err(_) => {
                self.leave_space(mailbox, space);
                Err(ErrorCode::NoMemory)
            }
        }
    }

    /// Ends `thread`, which runs on this hart or on none.
    pub(crate) fn end_thread(&mut self, mailbox: Mailbox, thread: u32, status: u64) {
        let Some(ended) = self.threads.remove(thread) else { return };
        let hart = &mut self.harts[mailbox.hart() as usize];
        if hart.vector_owner == Some(thread) {
            hart.vector_owner = None;
        }
        if hart.space == Some(ended.space) {
            self.load_boot_table(mailbox.hart());
        }
        self.leave_space(mailbox, ended.space);
        if ended.is_first {
            mailbox.shutdown(status);
        }
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
            14 => {
                let access = if frame.error & FAULT_FETCH != 0 {
                    Rights::EXEC
                } else if frame.error & FAULT_WRITE != 0 {
                    Rights::WRITE
                } else {
                    Rights::READ
                };
                let (rip, space) = (frame.rip, self.threads[thread].space);
                match self.resolve(mailbox, space, address, access) {
                    Ok(()) => self.enqueue_front(thread),
                    Err(mut info) => {
                        info.instruction = rip;
                        self.fault(mailbox, thread, info);
                    }
                }
            }
            TIMER_VECTOR => {
                let hart = self.threads[thread].hart as usize;
                self.harts[hart].timer_armed = false;
                self.enqueue(mailbox, thread);
            }
            KICK_VECTOR => {
                self.enqueue_front(thread);
                self.wake_console_readers(mailbox);
            }
            REFUSED_VECTOR => self.refused(mailbox, thread),
            vector => {
                let info = fault::of_exception(vector, frame);
                self.fault(mailbox, thread, info);
            }
        }
    }

    /// The second stage stopped `thread` where the first did not. The instruction is repeated after the tables were emptied, which
    /// ends in a precise answer; an instruction that keeps being refused stands on memory that failed.
    fn refused(&mut self, mailbox: Mailbox, thread: u32) {
        let stopped = &mut self.threads[thread];
        let rip = stopped.frame.rip;
        let times = if stopped.refused.0 == rip { stopped.refused.1 + 1 } else { 1 };
        stopped.refused = (rip, times);
        let space = stopped.space;
        if times > REFUSALS_MAX {
            let cause = FaultCause::MachineCheck as u32;
            self.fault(mailbox, thread, FaultInfo { cause, instruction: rip, ..FaultInfo::default() });
            return;
        }
        let context = self.spaces[space].context;
        self.forget_pages(context);
        // SAFETY: the space's own root, loaded again to drop this hart's translations.
        unsafe { cpu::load_page_table(self.spaces[space].root_address()) };
        self.enqueue_front(thread);
    }

    /// Puts a thread at the end of the queue and wakes a hart for it.
    pub(crate) fn enqueue(&mut self, mailbox: Mailbox, thread: u32) {
        self.threads[thread].state = State::Ready;
        self.threads[thread].next = None;
        match self.queue_tail {
            Some(tail) => self.threads[tail].next = Some(thread),
            None => self.queue_head = Some(thread),
        }
        self.queue_tail = Some(thread);
        let idle = (0..self.hart_count).find(|&hart| self.harts[hart as usize].is_idle);
        if let Some(hart) = idle {
            self.harts[hart as usize].is_idle = false;
            mailbox.kick(1 << hart);
        }
    }

    /// Puts the thread that this hart was running first in the queue, so that it goes on at once.
    pub(crate) fn enqueue_front(&mut self, thread: u32) {
        self.threads[thread].state = State::Ready;
        self.threads[thread].next = self.queue_head;
        self.queue_head = Some(thread);
        self.queue_tail = self.queue_tail.or(Some(thread));
    }

    fn next_thread(&mut self) -> Option<u32> {
        let thread = self.queue_head?;
        self.queue_head = self.threads[thread].next.take();
        if self.queue_head.is_none() {
            self.queue_tail = None;
        }
        Some(thread)
    }

    /// Makes `hart` the one that runs `thread`.
    fn prepare(&mut self, hart: u32, mailbox: Mailbox, thread: u32) -> *const TrapFrame {
        let others_wait = self.queue_head.is_some();
        if self.harts[hart as usize].vector_owner != Some(thread) {
            self.release_cpu_state(hart);
            self.threads[thread].restore_cpu_state();
        }
        let state = &mut self.harts[hart as usize];
        state.vector_owner = Some(thread);
        let running = &mut self.threads[thread];
        running.hart = hart;
        running.kernel_stack = entry::hart_stack_top(hart);
        running.state = State::Running;
        let space = running.space;
        let frame = &raw const running.frame;
        state.tables.set_frame_end(frame as u64 + size_of::<TrapFrame>() as u64);
        if state.space != Some(space) {
            state.space = Some(space);
            // SAFETY: every space's root has the kernel's entries (`new_space_tables`).
            unsafe { cpu::load_page_table(self.spaces[space].root_address()) };
        }
        if others_wait && !state.timer_armed {
            state.timer_armed = true;
            mailbox.set_timer(TIME_SLICE_NANOSECONDS);
        }
        if !self.first_user_told {
            self.first_user_told = true;
            mailbox.first_user();
        }
        frame
    }

    /// Saves what the CPU holds of the thread that ran here. Done before the lock is released, so a thread in the queue is whole and any
    /// hart may take it.
    fn release_cpu_state(&mut self, hart: u32) {
        let owner = self.harts[hart as usize].vector_owner.take();
        if let Some(owner) = owner.and_then(|owner| self.threads.get_mut(owner)) {
            owner.save_cpu_state();
        }
    }

    fn load_boot_table(&mut self, hart: u32) {
        if self.harts[hart as usize].space.take().is_some()
            && let Some(table) = self.boot_table
        {
            // SAFETY: the boot table is where the kernel's entries come from.
            unsafe { cpu::load_page_table(table.address()) };
        }
    }

    /// An entry of the boot table's kernel half.
    pub(crate) fn boot_table_entry(&self, index: u64) -> u64 {
        self.boot_table.map_or(0, |table| table.get(index))
    }
}
