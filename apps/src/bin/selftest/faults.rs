//! Faults: what a handler is told, and that it can repeat, skip, or let end.

use crate::{Mapped, Outcome, READ_WRITE, Test, check, failed, same};
use alloc::format;
use apps::probe;
use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use twz_rt::abi::Rights;
use twz_rt::abi::fault::{FaultCause, FaultFrame, FaultInfo};
use twz_rt::abi::program::STACK_TOP;
use twz_rt::abi::thread::{ThreadPhase, ThreadState};
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::fault::register;
use twz_rt::thread::{Builder, Ended};
use twz_rt::{fault, slots, syscall, view};

pub(crate) const TESTS: &[Test] = &[
    ("fault-facts", facts),
    ("fault-retry", retry),
    ("fault-causes", causes),
    ("fault-registers", registers),
    ("fault-red-zone", red_zone),
    ("fault-many", many),
    ("fault-alternate-stack", alternate_stack),
    ("fault-nested", nested),
    ("fault-without-handler", without_handler),
    ("fault-lost-stack", lost_stack),
    ("fault-garbage-handler", garbage_handler),
];

/// What the last fault was, for handlers that are told nothing by the faulting code.
static LAST_CAUSE: AtomicU32 = AtomicU32::new(0);
static LAST_RIP: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);

fn recovering(frame: &mut FaultFrame) {
    if !probe::recover(frame) {
        syscall::thread_exit(99);
    }
}

/// Goes on at the address in R15, and remembers the fault.
fn to_r15(frame: &mut FaultFrame) {
    LAST_CAUSE.store(frame.info.cause, Ordering::SeqCst);
    LAST_RIP.store(frame.rip, Ordering::SeqCst);
    COUNT.fetch_add(1, Ordering::SeqCst);
    frame.rip = frame.registers[register::R8 + 7];
}

fn facts() -> Outcome {
    // SAFETY: the handler takes no lock; likewise below.
    unsafe { fault::set_handler(recovering) };
    let mapped = Mapped::new()?;
    let read_only = Mapped::of(mapped.id, Rights::READ)?;
    let empty = slots::allocate().ok_or("no free slot")?;
    let (id, none) = (mapped.id, twz_rt::abi::ObjectId::NULL);
    let facts = |fault: FaultInfo| (fault.cause, fault.access, fault.address, fault.object, fault.offset);
    let (read, write) = (Rights::READ.bits(), Rights::WRITE.bits());

    let address = empty * SLOT_SIZE + 0x2468;
    let fault = probe::load(address).err().ok_or("an empty slot was read")?;
    same!(facts(fault), (FaultCause::Unmapped as u32, read, address, none, 0x2468), "an empty slot");
    let load_rip = fault.instruction;
    // SAFETY: nothing is there.
    let fault = unsafe { probe::store(address, 1) }.err().ok_or("an empty slot was written")?;
    same!(
        facts(fault),
        (FaultCause::Unmapped as u32, write, address, none, 0x2468),
        "a write to an empty slot"
    );
    check!(fault.instruction != load_rip && fault.instruction.abs_diff(load_rip) < 64, "{fault:x?}");

    same!(read_only.get(0), 0, "reading");
    let address = read_only.address(9);
    // SAFETY: an object of this test.
    let fault = unsafe { probe::store(address, 1) }.err().ok_or("a read-only slot was written")?;
    same!(facts(fault), (FaultCause::Rights as u32, write, address, id, 0x1048), "a read-only slot");
    let address = mapped.slot * SLOT_SIZE + 16;
    let fault = probe::load(address).err().ok_or("page 0 was read")?;
    same!(
        (fault.cause, fault.access, fault.address, fault.offset),
        (FaultCause::NullPage as u32, read, address, 16),
        "page 0"
    );
    for address in [1 << 47, 0xffff_8000_0000_1000, 0xffff_ffff_8010_0000] {
        let fault = probe::load(address).err().ok_or("kernel memory was read")?;
        let wanted = [FaultCause::KernelAddress as u32, FaultCause::Protection as u32];
        check!(wanted.contains(&fault.cause), "{address:#x}: {fault:x?}");
    }
    slots::free(empty);
    Ok(())
}

static RETRY_SLOT: AtomicU64 = AtomicU64::new(0);
static RETRY_ID: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn maps_it(frame: &mut FaultFrame) {
    COUNT.fetch_add(1, Ordering::SeqCst);
    let slot = RETRY_SLOT.load(Ordering::SeqCst);
    if frame.info.cause != FaultCause::Unmapped as u32 || frame.info.address / SLOT_SIZE != slot {
        syscall::thread_exit(99);
    }
    let id = twz_rt::abi::ObjectId {
        lo: RETRY_ID[0].load(Ordering::SeqCst),
        hi: RETRY_ID[1].load(Ordering::SeqCst),
    };
    let _ = view::map(slot, id, READ_WRITE);
}

fn retry() -> Outcome {
    let source = Mapped::new()?;
    source.set(1, 31);
    let slot = slots::allocate().ok_or("no free slot")?;
    RETRY_SLOT.store(slot, Ordering::SeqCst);
    RETRY_ID[0].store(source.id.lo, Ordering::SeqCst);
    RETRY_ID[1].store(source.id.hi, Ordering::SeqCst);
    COUNT.store(0, Ordering::SeqCst);
    // SAFETY: as above.
    unsafe { fault::set_handler(maps_it) };
    // A locked instruction is done exactly once, however often it is repeated.
    // SAFETY: the handler maps an object of this test there.
    unsafe { probe::add(slot * SLOT_SIZE + 0x1008, 100) }.map_err(|fault| format!("{fault:x?}"))?;
    same!(source.get(1), 131, "the word that was added to");
    same!(COUNT.load(Ordering::SeqCst), 1, "faults");
    // SAFETY: nothing uses the slot any more.
    unsafe { view::unmap(slot) }.map_err(failed("unmapping"))
}

/// Runs an instruction that faults, with R15 leading behind it; returns the cause.
macro_rules! cause_of {
    ($instruction:literal) => {{
        LAST_CAUSE.store(0, Ordering::SeqCst);
        let at: u64;
        // SAFETY: the instruction faults and the handler goes on at label 3; registers that it may change are declared.
        unsafe {
            asm!(
                "lea r15, [rip + 3f]", "lea r14, [rip + 2f]",
                concat!("2: ", $instruction), "3: mov {at}, r14",
                at = lateout(reg) at,
                out("r14") _, out("r15") _, out("rax") _, out("rcx") _, out("rdx") _,
            );
        }
        let cause = FaultCause::try_from(LAST_CAUSE.load(Ordering::SeqCst));
        (cause, LAST_RIP.load(Ordering::SeqCst).wrapping_sub(at))
    }};
}

fn causes() -> Outcome {
    // SAFETY: as above.
    unsafe { fault::set_handler(to_r15) };
    let before = syscall::counters().map_err(failed("counters"))?;
    same!(cause_of!("ud2"), (Ok(FaultCause::BadInstruction), 0), "ud2");
    // A trap: RIP is behind the instruction.
    same!(cause_of!("int3"), (Ok(FaultCause::Breakpoint), 1), "int3");
    same!(
        cause_of!("xor edx, edx\n xor eax, eax\n xor ecx, ecx\n lea r14, [rip + 4f]\n 4: div ecx"),
        (Ok(FaultCause::Divide), 0),
        "div"
    );
    same!(cause_of!("hlt"), (Ok(FaultCause::Protection), 0), "hlt");
    same!(cause_of!("cli"), (Ok(FaultCause::Protection), 0), "cli");
    same!(cause_of!("mov rax, cr3"), (Ok(FaultCause::Protection), 0), "mov cr3");
    same!(cause_of!("mov rax, dr7"), (Ok(FaultCause::Protection), 0), "mov dr7");
    same!(
        cause_of!("mov eax, 1\n lea r14, [rip + 4f]\n 4: syscall"),
        (Ok(FaultCause::BadSyscall), 2),
        "a low call"
    );
    same!(cause_of!("mov rax, [0]"), (Ok(FaultCause::NullPage), 0), "null");
    let after = syscall::counters().map_err(failed("counters"))?;
    let counted = [
        after.faults_bad_instruction - before.faults_bad_instruction,
        after.faults_breakpoint - before.faults_breakpoint,
        after.faults_divide - before.faults_divide,
        after.faults_protection - before.faults_protection,
        after.faults_bad_syscall - before.faults_bad_syscall,
        after.faults_null_page - before.faults_null_page,
    ];
    same!(counted, [1, 1, 1, 4, 1, 1], "faults by cause, as the kernel counts them");
    Ok(())
}

/// Puts patterns into all registers, faults, and returns a bit for each that is not as before.
#[unsafe(naked)]
unsafe extern "C" fn fault_keeps_registers() -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov rax, 0x201",
        "mov rbx, 0x202",
        "mov rcx, 0x203",
        "mov rdx, 0x204",
        "mov rsi, 0x205",
        "mov rdi, 0x206",
        "mov rbp, 0x207",
        "mov r8, 0x208",
        "mov r9, 0x209",
        "mov r10, 0x20a",
        "mov r11, 0x20b",
        "mov r12, 0x20c",
        "mov r13, 0x20d",
        "mov r14, rsp",
        "lea r15, [rip + 3f]",
        "movq xmm0, rax",
        "movq xmm7, rbx",
        "movq xmm15, rcx",
        "std",
        "stc",
        "ud2",
        "3: pushfq",
        "cld",
        "xchg rax, [rsp]",
        // CF, DF and the bit that is always one.
        "and eax, 0x403",
        "cmp eax, 0x403",
        "pop rax",
        "mov eax, eax",
        "mov r15d, 0",
        "je 2f",
        "or r15d, 1",
        "2:",
        "cmp rax, 0x201",
        "je 2f",
        "or r15d, 2",
        "2:",
        "cmp rbx, 0x202",
        "je 2f",
        "or r15d, 4",
        "2:",
        "cmp rcx, 0x203",
        "je 2f",
        "or r15d, 8",
        "2:",
        "cmp rdx, 0x204",
        "je 2f",
        "or r15d, 16",
        "2:",
        "cmp rsi, 0x205",
        "je 2f",
        "or r15d, 32",
        "2:",
        "cmp rdi, 0x206",
        "je 2f",
        "or r15d, 64",
        "2:",
        "cmp rbp, 0x207",
        "je 2f",
        "or r15d, 128",
        "2:",
        "cmp r8, 0x208",
        "je 2f",
        "or r15d, 256",
        "2:",
        "cmp r9, 0x209",
        "je 2f",
        "or r15d, 512",
        "2:",
        "cmp r10, 0x20a",
        "je 2f",
        "or r15d, 1024",
        "2:",
        "cmp r11, 0x20b",
        "je 2f",
        "or r15d, 2048",
        "2:",
        "cmp r12, 0x20c",
        "je 2f",
        "or r15d, 4096",
        "2:",
        "cmp r13, 0x20d",
        "je 2f",
        "or r15d, 8192",
        "2:",
        "cmp r14, rsp",
        "je 2f",
        "or r15d, 16384",
        "2:",
        "movq rax, xmm0",
        "cmp rax, 0x201",
        "je 2f",
        "or r15d, 0x10000",
        "2:",
        "movq rax, xmm7",
        "cmp rax, 0x202",
        "je 2f",
        "or r15d, 0x20000",
        "2:",
        "movq rax, xmm15",
        "cmp rax, 0x203",
        "je 2f",
        "or r15d, 0x40000",
        "2:",
        "mov eax, r15d",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// As [`to_r15`], and destroys every vector register that code may use.
fn careless(frame: &mut FaultFrame) {
    to_r15(frame);
    // SAFETY: the registers are declared.
    unsafe {
        asm!(
            "pcmpeqd xmm0, xmm0", "pcmpeqd xmm7, xmm7", "pcmpeqd xmm15, xmm15",
            out("xmm0") _, out("xmm7") _, out("xmm15") _,
        );
    }
}

fn registers() -> Outcome {
    // SAFETY: as above.
    unsafe { fault::set_handler(careless) };
    for round in 0..20 {
        // SAFETY: the function keeps what its caller expects, and its fault is handled.
        same!(unsafe { fault_keeps_registers() }, 0, "registers changed in round {round}");
    }
    Ok(())
}

/// Fills the red zone, faults, and returns how many of its words are not as before.
#[unsafe(naked)]
unsafe extern "C" fn fault_keeps_red_zone() -> u64 {
    naked_asm!(
        "push r15",
        "lea r15, [rip + 3f]",
        "mov ecx, 16",
        "2: mov rdx, rcx",
        "neg rdx",
        "mov [rsp + rdx * 8], rcx",
        "loop 2b",
        "ud2",
        "3: xor eax, eax",
        "mov ecx, 16",
        "4: mov rdx, rcx",
        "neg rdx",
        "cmp [rsp + rdx * 8], rcx",
        "je 5f",
        "inc eax",
        "5: loop 4b",
        "pop r15",
        "ret",
    )
}

fn red_zone() -> Outcome {
    // SAFETY: as above.
    unsafe { fault::set_handler(to_r15) };
    // SAFETY: as above.
    same!(unsafe { fault_keeps_red_zone() }, 0, "words of the red zone that changed");
    Ok(())
}

fn many() -> Outcome {
    // SAFETY: as above.
    unsafe { fault::set_handler(recovering) };
    let slot = slots::allocate().ok_or("no free slot")?;
    let before = syscall::counters().map_err(failed("counters"))?;
    let address = slot * SLOT_SIZE + 0x1000;
    let faults = (0..500).filter(|&step| probe::load(address + step * 8).is_err()).count();
    same!(faults, 500, "faults seen");
    let after = syscall::counters().map_err(failed("counters"))?;
    same!(after.handled_faults - before.handled_faults, 500, "faults that the kernel counted");
    slots::free(slot);
    Ok(())
}

static HANDLER_STACK: AtomicU64 = AtomicU64::new(0);

fn ends_with_77(frame: &mut FaultFrame) {
    let here = 0_u8;
    HANDLER_STACK.store(&raw const here as u64, Ordering::SeqCst);
    LAST_CAUSE.store(frame.info.cause, Ordering::SeqCst);
    syscall::thread_exit(77);
}

fn alternate_stack() -> Outcome {
    // SAFETY: as above.
    unsafe { fault::set_handler(ends_with_77) };
    let stack = Mapped::new()?;
    let top = stack.slot * SLOT_SIZE + STACK_TOP;
    // Runs off the end of its own stack: only another one can tell.
    let overflow = || {
        // SAFETY: faults when RSP has left the stack's data; nothing after it runs.
        unsafe { asm!("2: push rax", "jmp 2b", options(noreturn)) }
    };
    let thread = Builder::new().fault_stack(top).spawn(overflow).map_err(failed("starting a thread"))?;
    let ended = thread.join().err().ok_or("the thread came back")?;
    same!(ended.status, 77, "its status ({ended})");
    same!(LAST_CAUSE.load(Ordering::SeqCst), FaultCause::NullPage as u32, "the cause");
    let here = HANDLER_STACK.load(Ordering::SeqCst);
    check!((stack.slot * SLOT_SIZE..top).contains(&here), "the handler ran on {here:#x}, not below {top:#x}");
    // Without it, there is no room to tell and the thread ends by the fault.
    let thread = twz_rt::thread::spawn(overflow).map_err(failed("starting a thread"))?;
    let ended = thread.join().err().ok_or("the thread came back")?;
    same!(ended.status, 128 + FaultCause::NullPage as u32, "its status without a fault stack");
    Ok(())
}

fn faults_itself(_: &mut FaultFrame) {
    // SAFETY: faults, which is the purpose.
    unsafe { asm!("ud2") };
}

fn nested() -> Outcome {
    // SAFETY: as above.
    unsafe { fault::set_handler(faults_itself) };
    let thread = twz_rt::thread::spawn(|| probe::load(0).is_ok()).map_err(failed("starting a thread"))?;
    let Err(Ended { status, fault: Some(info) }) = thread.join() else {
        return Err("a thread survived its handler's fault".into());
    };
    same!(status, 128 + FaultCause::BadInstruction as u32, "the status");
    same!(info.cause, FaultCause::BadInstruction as u32, "the cause in its state");
    Ok(())
}

fn without_handler() -> Outcome {
    fault::clear_handler();
    let slot = slots::allocate().ok_or("no free slot")?;
    let address = slot * SLOT_SIZE + 0x1230;
    let thread = twz_rt::thread::Builder::new().name("expected").spawn(move || probe::load(address).is_ok());
    let thread = thread.map_err(failed("starting a thread"))?;
    let (number, state) = (thread.thread(), thread.state_address());
    let ended = thread.join().err().ok_or("an empty slot was read")?;
    same!(ended.status, 128 + FaultCause::Unmapped as u32, "the status");
    let info = ended.fault.ok_or("no fault in the thread's state")?;
    same!(
        (info.cause, info.address, info.offset),
        (FaultCause::Unmapped as u32, address, 0x1230),
        "the fault"
    );
    // SAFETY: the stack object stays mapped until the runner releases it.
    let state = unsafe { (state as *const ThreadState).read_volatile() };
    same!((state.phase, state.thread), (ThreadPhase::Faulted as u32, number), "the state");
    slots::free(slot);
    Ok(())
}

fn lost_stack() -> Outcome {
    // SAFETY: as above.
    unsafe { fault::set_handler(recovering) };
    for stack in [0, 8, 200, 1 << 46, 1 << 47, 0xffff_8000_0000_2000, 0x8000_0000_0000_0000, u64::MAX - 15] {
        let thread = twz_rt::thread::spawn(move || {
            // SAFETY: faults with a stack that is none; nothing after it runs.
            unsafe { asm!("mov rsp, {}", "ud2", in(reg) stack, options(noreturn)) }
        });
        let ended =
            thread.map_err(failed("starting a thread"))?.join().err().ok_or("the thread came back")?;
        same!(ended.status, 128 + FaultCause::BadInstruction as u32, "its status with RSP {stack:#x}");
    }
    Ok(())
}

fn garbage_handler() -> Outcome {
    // The fault of fetching the handler is a fault in the handler: it ends the thread.
    for handler in [8, 0x4000_0000, 0x7fff_0000_0000, 1 << 47, 0xffff_ffff_8010_0000, u64::MAX] {
        // SAFETY: the thread below is the only one that faults, and it is to end.
        unsafe { view::View::current().set_fault_handler(handler) };
        let thread = twz_rt::thread::spawn(|| probe::load(0).is_ok()).map_err(failed("starting a thread"))?;
        let ended = thread.join().err().ok_or("the thread came back")?;
        check!(ended.status > 128, "handler {handler:#x}: {ended}");
    }
    Ok(())
}
