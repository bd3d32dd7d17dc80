//! Descriptor tables: a GDT and a TSS for each hart, one IDT for all.
//!
//! Ring-3 selectors are Linux's (0x33, 0x2b), because KVM without hardware ring 0 runs ring 3 with the host's own.

use super::entry::{VECTOR_COUNT, trap_entries};
use core::arch::asm;
use core::cell::UnsafeCell;

/// Kernel code.
pub(crate) const KERNEL_CODE: u16 = 0x10;
/// Ring-3 data, with RPL 3.
pub(crate) const USER_DATA: u16 = 0x2b;
/// Ring-3 code, with RPL 3.
pub(crate) const USER_CODE: u16 = 0x33;
/// MSR STAR: SYSCALL loads CS 0x10 and SS 0x18; SYSRET loads SS 0x2b and CS 0x33.
pub(crate) const STAR: u64 = 0x23 << 48 | 0x10 << 32;
const TSS_SELECTOR: u16 = 0x40;

/// Interrupt stack table entries: faults that may come at any instruction, the SWAPGS windows included.
const IST_DOUBLE_FAULT: u8 = 1;
const IST_NMI: u8 = 2;
const IST_MACHINE_CHECK: u8 = 3;
const IST_DEBUG: u8 = 4;
const IST_COUNT: usize = 4;
const IST_STACK_BYTES: usize = 2048;

/// The long-mode task state segment (AMD64 manual vol. 2, §12.2.5).
#[repr(C, packed(4))]
struct Tss {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map: u16,
}
const TSS_BYTES: u16 = 104;
const _: () = assert!(size_of::<Tss>() == TSS_BYTES as usize);

/// What the SYSCALL entry reads through GS: where to push, and a place for the program's RSP.
#[repr(C)]
struct SyscallScratch {
    frame_end: u64,
    rsp: u64,
}

/// One hart's tables.
#[repr(C, align(64))]
pub(crate) struct HartTables {
    scratch: SyscallScratch,
    gdt: [u64; 10],
    tss: Tss,
    ist_stacks: [[u8; IST_STACK_BYTES]; IST_COUNT],
}

impl HartTables {
    /// Tables that are not in use yet.
    pub(crate) const EMPTY: Self = Self {
        scratch: SyscallScratch { frame_end: 0, rsp: 0 },
        gdt: [0; 10],
        tss: Tss {
            reserved0: 0,
            rsp: [0; 3],
            reserved1: 0,
            ist: [0; 7],
            reserved2: 0,
            reserved3: 0,
            io_map: 0,
        },
        ist_stacks: [[0; IST_STACK_BYTES]; IST_COUNT],
    };

    /// Makes the next entry from ring 3 push its registers below `end`.
    pub(crate) fn set_frame_end(&mut self, end: u64) {
        self.tss.rsp[0] = end;
        self.scratch.frame_end = end;
    }

    /// Address that MSR KERNEL_GS_BASE must hold.
    pub(crate) fn scratch_address(&self) -> u64 {
        &raw const self.scratch as u64
    }

    /// Fills the tables and makes this hart use them.
    ///
    /// # Safety
    /// `self` must stay where it is for ever and be this hart's alone.
    pub(crate) unsafe fn load(&mut self) {
        for (index, stack) in self.ist_stacks.iter().enumerate() {
            self.tss.ist[index] = stack.as_ptr_range().end as u64 & !15;
        }
        // No I/O permission map: it would begin behind the segment's limit.
        self.tss.io_map = TSS_BYTES;
        let base = &raw const self.tss as u64;
        let limit = size_of::<Tss>() as u64 - 1;
        self.gdt = [
            0,
            0,
            0x00af_9b00_0000_ffff, // 0x10: code, ring 0, 64 bits
            0x00cf_9300_0000_ffff, // 0x18: data, ring 0
            0x00cf_fb00_0000_ffff, // 0x20: code, ring 3, 32 bits: only there because SYSRET counts from it
            0x00cf_f300_0000_ffff, // 0x28: data, ring 3
            0x00af_fb00_0000_ffff, // 0x30: code, ring 3, 64 bits
            0,
            limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56, // 0x40: TSS
            base >> 32,
        ];
        let gdtr = TableRegister::new(&raw const self.gdt as u64, size_of_val(&self.gdt));
        // SAFETY: the descriptors are those of the flat 64-bit model that is in use already, at the selectors in use.
        unsafe { asm!("lgdt [{}]", in(reg) &gdtr, options(readonly, nostack, preserves_flags)) };
        // SAFETY: 0x40 is the TSS descriptor that was written above.
        unsafe { asm!("ltr {0:x}", in(reg) TSS_SELECTOR, options(nostack, preserves_flags)) };
    }
}

/// Operand of LGDT and LIDT.
#[repr(C, packed(2))]
struct TableRegister {
    limit: u16,
    base: u64,
}

impl TableRegister {
    #[allow(clippy::cast_possible_truncation, reason = "a table is at most 4 KiB long")]
    fn new(base: u64, bytes: usize) -> Self {
        Self { limit: bytes as u16 - 1, base }
    }
}

#[repr(C, align(16))]
struct Idt(UnsafeCell<[[u64; 2]; VECTOR_COUNT]>);

// SAFETY: written by hart 0 before any other hart loads it (`fill_idt`), only read by the CPU afterwards.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([[0; 2]; VECTOR_COUNT]));

/// Writes the gates.
///
/// # Safety
/// Hart 0 only, before any hart has called [`load_idt`].
pub(crate) unsafe fn fill_idt() {
    // SAFETY: the assembler wrote the table and nobody changes it.
    let entries = unsafe { trap_entries };
    for (vector, entry) in entries.into_iter().enumerate() {
        let stack = match vector {
            1 => IST_DEBUG,
            2 => IST_NMI,
            8 => IST_DOUBLE_FAULT,
            18 => IST_MACHINE_CHECK,
            _ => 0,
        };
        // Interrupt gate, ring 0: `int n` from ring 3 is a #GP, so a program cannot fake an exception. #BP and #OF are
        // the exceptions that programs may raise by instruction.
        let privilege = if vector == 3 || vector == 4 { 3_u64 } else { 0 };
        let low = (entry & 0xffff)
            | u64::from(KERNEL_CODE) << 16
            | u64::from(stack) << 32
            | (0x8e00 | privilege << 13) << 32
            | (entry >> 16 & 0xffff) << 48;
        // SAFETY: no hart uses the table yet (caller's promise), and `vector` is in range.
        unsafe { (*IDT.0.get())[vector] = [low, entry >> 32] };
    }
}

/// Makes this hart use the IDT.
pub(crate) fn load_idt() {
    let idtr = TableRegister::new(IDT.0.get() as u64, size_of::<Idt>());
    // SAFETY: every gate leads to an entry in `entry.rs`; `fill_idt` ran before any hart got here.
    unsafe { asm!("lidt [{}]", in(reg) &idtr, options(readonly, nostack, preserves_flags)) };
}
