// From a linked program (ELF) to the contents of a program object; shared by the builder (build.rs) and the library.
//
// The file comes from a user: whatever it holds, the answer is an object that fits or an error.

use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{LittleEndian, Object, elf};
use twz_abi::object::{DATA_END, DATA_OFFSET};
use twz_abi::program::{DATA_SLOT, PROGRAM_MAGIC, ProgramHeader, TEXT_OFFSET, TEXT_SLOT};
use twz_abi::view::SLOT_SIZE;
use zerocopy::IntoBytes;

const PAGE: usize = 4096;

/// Why a file is no program for Twizzler.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProgramError {
    /// It is no ELF file for x86-64.
    #[error("not an ELF file for x86-64: {0}")]
    NotElf(String),
    /// A segment is not where the linker script puts it.
    #[error(
        "segment at {address:#x}: {expected}; link with twz-rt/program.ld (crate twz-build in build.rs), feature `guest`"
    )]
    Segment {
        /// Its virtual address.
        address: u64,
        /// What it should have been.
        expected: &'static str,
    },
    /// Text and data do not fit.
    #[error("text or data of the program is larger than an object")]
    TooLarge,
}

/// Turns a linked program into the contents of a program object, from offset 0x1000 on.
///
/// # Errors
/// [`ProgramError`].
pub fn program_object(file: &[u8]) -> Result<Vec<u8>, ProgramError> {
    let parsed = ElfFile64::<LittleEndian>::parse(file).map_err(|e| ProgramError::NotElf(e.to_string()))?;
    if parsed.elf_header().e_machine.get(LittleEndian) != elf::EM_X86_64 {
        return Err(ProgramError::NotElf("it is for another machine".into()));
    }
    let text_base = TEXT_SLOT * SLOT_SIZE;
    let data_base = DATA_SLOT * SLOT_SIZE + DATA_OFFSET;
    let mut contents =
        vec![0; usize::try_from(TEXT_OFFSET - DATA_OFFSET).map_err(|_| ProgramError::TooLarge)?];
    let mut data: &[u8] = &[];
    let mut data_total = 0;
    for segment in parsed.elf_program_headers() {
        if segment.p_type(LittleEndian) != elf::PT_LOAD {
            continue;
        }
        let address = segment.p_vaddr(LittleEndian);
        let wrong = |expected| ProgramError::Segment { address, expected };
        let bytes = segment.data(LittleEndian, file).map_err(|()| wrong("it lies outside of the file"))?;
        if segment.p_flags(LittleEndian) & elf::PF_W == 0 {
            let end = address.checked_add(bytes.len() as u64).ok_or(ProgramError::TooLarge)?;
            if address < text_base + DATA_OFFSET || end > text_base + DATA_END {
                return Err(wrong("code and constants belong into slot 1"));
            }
            let at =
                usize::try_from(address - text_base - DATA_OFFSET).map_err(|_| ProgramError::TooLarge)?;
            if at < contents.len() {
                return Err(wrong("it overlaps what comes before"));
            }
            contents.resize(at, 0);
            contents.extend_from_slice(bytes);
        } else {
            if address != data_base || data_total != 0 {
                return Err(wrong("one data segment at the start of slot 2 is expected"));
            }
            (data, data_total) = (bytes, segment.p_memsz(LittleEndian));
        }
    }
    contents.resize(contents.len().next_multiple_of(PAGE), 0);
    let end = DATA_OFFSET + (contents.len() + data.len()) as u64;
    if end > DATA_END || data_total >= DATA_END - DATA_OFFSET || (data.len() as u64) > data_total {
        return Err(ProgramError::TooLarge);
    }
    let header = ProgramHeader {
        magic: PROGRAM_MAGIC,
        abi_version: twz_abi::ABI_VERSION,
        reserved: 0,
        entry: parsed.entry(),
        data_offset: DATA_OFFSET + contents.len() as u64,
        data_bytes: data.len() as u64,
        data_total,
    };
    contents[..size_of::<ProgramHeader>()].copy_from_slice(header.as_bytes());
    contents.extend_from_slice(data);
    Ok(contents)
}
