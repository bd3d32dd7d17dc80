//! Does one forbidden thing, named by its argument, and shows that only this program pays for it.
//!
//! Each case ends with status 128 + the fault's number (`twz_abi::fault::FaultCause`); `fault --list` prints them all. Reaching the
//! end is status 1: the machine let something pass.
#![no_std]
#![no_main]

use core::arch::asm;
use twz_rt::abi::fault::FaultCause;
use twz_rt::abi::program::{FREE_SLOT, TEXT_SLOT};
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ObjectId, Rights};
use twz_rt::{Args, println, view};

twz_rt::entry!(main);

/// A forbidden thing: its name, the fault that it is, what it does.
struct Case {
    name: &'static str,
    cause: FaultCause,
    run: fn(),
}

const fn case(name: &'static str, cause: FaultCause, run: fn()) -> Case {
    Case { name, cause, run }
}

static CASES: &[Case] = &[
    case("null-read", FaultCause::NullPage, || load(TEXT_SLOT * SLOT_SIZE)),
    case("null-write", FaultCause::NullPage, || store(TEXT_SLOT * SLOT_SIZE + 8)),
    case("zero-read", FaultCause::NullPage, || load(0)),
    case("zero-call", FaultCause::NullPage, || call(0)),
    case("unmapped-read", FaultCause::Unmapped, || load((FREE_SLOT + 7) * SLOT_SIZE + 0x1000)),
    case("unmapped-write", FaultCause::Unmapped, || store((FREE_SLOT + 7) * SLOT_SIZE + 0x1000)),
    case("no-object", FaultCause::NoObject, no_object),
    case("write-text", FaultCause::Rights, || store(main as *const () as u64)),
    case("execute-data", FaultCause::Rights, execute_data),
    case("execute-stack", FaultCause::Rights, execute_stack),
    case("stack-overflow", FaultCause::NullPage, stack_overflow),
    case("kernel-read", FaultCause::KernelAddress, || load(0xffff_ffff_8010_0000)),
    case("kernel-write", FaultCause::KernelAddress, || store(0xffff_8000_0000_1000)),
    case("kernel-call", FaultCause::KernelAddress, || call(0xffff_ffff_8010_2000)),
    case("noncanonical-read", FaultCause::Protection, || load(0x8000_0000_0000_0000)),
    case("undefined", FaultCause::BadInstruction, || {
        // SAFETY: faults; nothing after it runs.
        unsafe { asm!("ud2") }
    }),
    case("breakpoint", FaultCause::Breakpoint, || {
        // SAFETY: as above.
        unsafe { asm!("int3") }
    }),
    case("divide", FaultCause::Divide, || {
        // SAFETY: as above.
        unsafe { asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _) }
    }),
    case("hlt", FaultCause::Protection, || {
        // SAFETY: as above.
        unsafe { asm!("hlt") }
    }),
    case("cli", FaultCause::Protection, || {
        // SAFETY: as above.
        unsafe { asm!("cli") }
    }),
    case("port", FaultCause::Protection, || {
        // SAFETY: as above; this is the hypercall port, which is the kernel's alone.
        unsafe { asm!("out 0x54, al", in("al") 0_u8) }
    }),
    case("control-register", FaultCause::Protection, || {
        // SAFETY: as above.
        unsafe { asm!("mov {}, cr3", out(reg) _) }
    }),
    case("msr", FaultCause::Protection, || {
        // SAFETY: as above.
        unsafe { asm!("rdmsr", in("ecx") 0xc000_0080_u32, out("eax") _, out("edx") _) }
    }),
    case("linux-call", FaultCause::BadSyscall, || {
        // SAFETY: as above.
        unsafe { asm!("syscall", inout("rax") 1_u64 => _, out("rcx") _, out("r11") _) }
    }),
    case("panic", FaultCause::Exception, || panic!("a program's own panic")),
];

fn main(mut args: Args) -> u8 {
    let wanted = args.nth(1).unwrap_or("--list");
    if wanted == "--list" {
        for case in CASES {
            println!("{} {}", case.name, status(case));
        }
        return 0;
    }
    match CASES.iter().find(|case| case.name == wanted) {
        Some(case) => {
            println!("fault: {wanted}, expecting status {}", status(case));
            (case.run)();
            println!("fault: {wanted} did nothing");
            1
        }
        None => {
            println!("fault: no case named {wanted}; `fault --list` names them");
            2
        }
    }
}

/// The documented exit status of a case; a panic is no fault and has Rust's own.
fn status(case: &Case) -> u32 {
    if case.name == "panic" { 101 } else { 128 + case.cause as u32 }
}

fn load(address: u64) {
    // SAFETY: faults, which is the purpose; in assembler, so that the compiler makes no assumption.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) address => _) }
}

fn store(address: u64) {
    // SAFETY: as above.
    unsafe { asm!("mov qword ptr [{0}], 1", in(reg) address) }
}

fn call(address: u64) {
    // SAFETY: as above.
    unsafe { asm!("call {0}", in(reg) address) }
}

fn no_object() {
    let nobody = ObjectId { lo: 1, hi: 1 };
    if let Some(base) = view::map(FREE_SLOT, nobody, Rights::READ) {
        load(base as u64 + 0x1000);
    }
}

fn execute_data() {
    static mut CODE: [u8; 1] = [0xc3];
    call(&raw const CODE as u64);
}

fn execute_stack() {
    let code = [0xc3_u8];
    call(&raw const code as u64);
}

/// Runs off the lower end of the stack object, into its page 0.
fn stack_overflow() {
    // SAFETY: faults when RSP has left the stack's data; nothing after it runs.
    unsafe { asm!("2: push rax", "jmp 2b") }
}
