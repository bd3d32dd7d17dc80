//! Guest RAM before the first instruction: the kernel image, its page tables, stacks, boot information.
//!
//! `twzvmm` builds the kernel half of the page tables itself: it runs natively, while the guest's ring 0 may be interpreted.

use linux_loader::loader::{KernelLoader, elf::Elf};
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{LittleEndian, Object, ObjectSection, elf};
use std::io::Cursor;
use twz_abi::boot::{
    BOOT_INFO_GPA, BOOT_MAGIC, BootInfo, DIRECT_MAP, KERNEL_BASE, KernelStamp, STACK_BASE, STACK_SIZE,
    STACK_STRIDE, STAMP_MAGIC, STAMP_SECTION, ThreadStart,
};
use twz_abi::{ABI_VERSION, PAGE_BYTES, PAGE_SIZE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use zerocopy::{FromBytes, IntoBytes};

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const LEAF: u64 = PRESENT | ACCESSED | DIRTY | GLOBAL;
const TABLE: u64 = PRESENT | WRITE | ACCESSED;
const LARGE_PAGE_BYTES: usize = 2 << 20;

/// The kernel image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Not an ELF file, or a damaged one.
    #[error("the kernel image is not a usable ELF file: {0}")]
    Image(String),
    /// No stamp, or one of something else.
    #[error("the kernel image carries no Twizzler stamp: it is another program")]
    NoStamp,
    /// Built for another twzvmm.
    #[error(
        "the kernel image speaks ABI {image}, this twzvmm speaks {ours}: use the image that came with it"
    )]
    Version {
        /// The image's version.
        image: u32,
        /// Ours.
        ours: u32,
    },
    /// The memory is too small for the kernel and its tables.
    #[error("{needed} bytes of guest memory are needed before the first program: give more with --mem")]
    Memory {
        /// Bytes.
        needed: u64,
    },
}

/// What the machine needs to know about the laid-out memory.
#[derive(Debug)]
pub(super) struct Layout {
    /// First instruction of every hart.
    pub entry: u64,
    /// Guest-physical address of the top-level page table.
    pub page_table: u64,
    /// First guest-physical byte that nothing uses.
    pub free_start: u64,
    /// Guest-physical ranges (start, bytes) of the kernel's text and constants, to be made read-only.
    pub read_only: Vec<(u64, u64)>,
}

/// Facts for [`BootInfo`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Harts.
    pub hart_count: u32,
    /// [`twz_abi::boot::boot_flags`].
    pub flags: u32,
    /// First guest-physical byte of object space.
    pub window_base: u64,
    /// Bytes of object space.
    pub window_bytes: u64,
    /// The first thread.
    pub init: ThreadStart,
}

struct Builder<'a> {
    memory: &'a GuestMemoryMmap,
    next: u64,
    end: u64,
}

impl Builder<'_> {
    fn frame(&mut self) -> Result<u64, LayoutError> {
        let frame = self.next;
        self.next += PAGE_SIZE;
        if self.next > self.end { Err(LayoutError::Memory { needed: self.next }) } else { Ok(frame) }
    }

    fn get(&self, table: u64, index: u64) -> Result<u64, LayoutError> {
        self.memory
            .read_obj(GuestAddress(table + index * 8))
            .map_err(|_| LayoutError::Memory { needed: table })
    }

    fn set(&self, table: u64, index: u64, entry: u64) -> Result<(), LayoutError> {
        self.memory
            .write_obj(entry, GuestAddress(table + index * 8))
            .map_err(|_| LayoutError::Memory { needed: table })
    }

    /// The table of the next lower level for `address` in `table` of `level` (4: top), made if it is missing.
    fn descend(&mut self, table: u64, level: u32, address: u64) -> Result<u64, LayoutError> {
        let index = index(address, level);
        let entry = self.get(table, index)?;
        if entry & PRESENT != 0 {
            return Ok(entry & ADDRESS);
        }
        let lower = self.frame()?;
        self.set(table, index, lower | TABLE)?;
        Ok(lower)
    }

    fn map_page(&mut self, top: u64, address: u64, frame: u64, flags: u64) -> Result<(), LayoutError> {
        let table = (2..=4).rev().try_fold(top, |table, level| self.descend(table, level, address))?;
        self.set(table, index(address, 1), frame | LEAF | flags)
    }

    fn map_large(&mut self, top: u64, address: u64, frame: u64, flags: u64) -> Result<(), LayoutError> {
        let table = (3..=4).rev().try_fold(top, |table, level| self.descend(table, level, address))?;
        self.set(table, index(address, 2), frame | LEAF | LARGE | flags)
    }
}

const fn index(address: u64, level: u32) -> u64 {
    address >> (12 + 9 * (level - 1)) & 511
}

/// Checks that `kernel` is a guest kernel of our ABI.
///
/// # Errors
/// [`LayoutError`], before anything was written.
pub fn check_kernel(kernel: &[u8]) -> Result<(), LayoutError> {
    let file = parse(kernel)?;
    let section = file.section_by_name(STAMP_SECTION).ok_or(LayoutError::NoStamp)?;
    let bytes = section.data().map_err(|_| LayoutError::NoStamp)?;
    let (stamp, _) = KernelStamp::read_from_prefix(bytes).map_err(|_| LayoutError::NoStamp)?;
    match (stamp.magic, stamp.abi_version) {
        (STAMP_MAGIC, ABI_VERSION) => Ok(()),
        (STAMP_MAGIC, image) => Err(LayoutError::Version { image, ours: ABI_VERSION }),
        _ => Err(LayoutError::NoStamp),
    }
}

fn parse(kernel: &[u8]) -> Result<ElfFile64<'_, LittleEndian>, LayoutError> {
    ElfFile64::<LittleEndian>::parse(kernel).map_err(|error| LayoutError::Image(error.to_string()))
}

/// Loads `kernel` into `memory` and writes everything that it finds there at its start.
///
/// # Errors
/// [`LayoutError`].
pub(super) fn lay_out(memory: &GuestMemoryMmap, kernel: &[u8], facts: &Facts) -> Result<Layout, LayoutError> {
    check_kernel(kernel)?;
    let ram_bytes = memory.last_addr().0 + 1;
    let file = parse(kernel)?;
    let loaded = Elf::load(memory, None, &mut Cursor::new(kernel), None);
    loaded.map_err(|error| LayoutError::Image(error.to_string()))?;

    // 1. The kernel image, page by page with the rights of its segments.
    let segments: Vec<_> = file
        .elf_program_headers()
        .iter()
        .filter(|header| header.p_type(LittleEndian) == elf::PT_LOAD)
        .map(|header| {
            let start = header.p_paddr(LittleEndian) & !(PAGE_SIZE - 1);
            let end = header.p_paddr(LittleEndian).saturating_add(header.p_memsz(LittleEndian));
            (start, end.next_multiple_of(PAGE_SIZE), header.p_flags(LittleEndian))
        })
        .collect();
    let image_end = segments.iter().map(|segment| segment.1).max().unwrap_or(0);
    let mut builder = Builder { memory, next: image_end, end: ram_bytes };
    let top = builder.frame()?;
    for &(start, end, segment_flags) in &segments {
        let mut flags = 0;
        if segment_flags & elf::PF_W != 0 {
            flags |= WRITE;
        }
        if segment_flags & elf::PF_X == 0 {
            flags |= NO_EXECUTE;
        }
        for page in (start..end).step_by(PAGE_BYTES) {
            builder.map_page(top, KERNEL_BASE + page, page, flags)?;
        }
    }

    // 2. All RAM, for the kernel's own use.
    for page in (0..ram_bytes).step_by(LARGE_PAGE_BYTES) {
        builder.map_large(top, DIRECT_MAP + page, page, WRITE | NO_EXECUTE)?;
    }

    // 3. A stack for each hart, with unmapped pages below it.
    for hart in 0..u64::from(facts.hart_count) {
        let stack_top = STACK_BASE + (hart + 1) * STACK_STRIDE;
        for page in (stack_top - STACK_SIZE..stack_top).step_by(PAGE_BYTES) {
            let frame = builder.frame()?;
            builder.map_page(top, page, frame, WRITE | NO_EXECUTE)?;
        }
    }

    // 4. What the kernel reads first.
    let boot = BootInfo {
        magic: BOOT_MAGIC,
        abi_version: ABI_VERSION,
        flags: facts.flags,
        hart_count: facts.hart_count,
        reserved: 0,
        ram_bytes,
        free_start: builder.next,
        window_base: facts.window_base,
        window_bytes: facts.window_bytes,
        init: facts.init,
    };
    memory
        .write_slice(boot.as_bytes(), GuestAddress(BOOT_INFO_GPA))
        .map_err(|_| LayoutError::Memory { needed: BOOT_INFO_GPA })?;
    let read_only = segments
        .iter()
        .filter(|segment| segment.2 & elf::PF_W == 0)
        .map(|&(start, end, _)| (start, end - start))
        .collect();
    Ok(Layout { entry: file.entry(), page_table: top, free_start: builder.next, read_only })
}
