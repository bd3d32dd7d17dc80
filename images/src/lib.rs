//! Boot images: a guest kernel and programs in one file.
//!
//! # Contract
//! - [`DEFAULT`] is built with this crate, from `default.toml`; `twzvmm` needs no other file.
//! - [`Image::parse`] accepts only images of our ABI: magic, version, every offset and name, and the kernel checked. What it returns can be
//!   used without further checks of its bounds.
//! - A program's contents are checked when they are asked for ([`Program::contents`]): a start reads the program that it starts.
#![forbid(unsafe_code)]

mod format;
mod program;

pub use program::{ProgramError, program_object};

use format::{Entry, Header, MAGIC, NAME_BYTES, kind};
use std::mem::offset_of;
use twz_abi::program::{PROGRAM_MAGIC, ProgramHeader};
use zerocopy::FromBytes;

/// The image that came with this build.
pub static DEFAULT: &[u8] = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/default.img"))).0;

/// A kernel that was taken over, and the program that shows what that is worth: for tests.
pub static HOSTILE: &[u8] = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/hostile.img"))).0;

/// As an image lies in a file that is mapped: its entries, at multiples of 4096, are then aligned as an ELF file must be.
#[repr(C, align(4096))]
struct Aligned<Bytes>(Bytes);

/// An image cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ImageError {
    /// It does not begin like one.
    #[error("not a Twizzler image")]
    NotAnImage,
    /// Built for another ABI.
    #[error(
        "the image speaks ABI {found}, this twzvmm speaks {}: use the image that came with it",
        twz_abi::ABI_VERSION
    )]
    Version {
        /// The image's.
        found: u32,
    },
    /// Its bytes are not those that were packed.
    #[error("the image is damaged: {0}")]
    Damaged(&'static str),
    /// Likewise a program's.
    #[error("the image is damaged: program {0} is not what was packed")]
    DamagedProgram(String),
}

/// A program in an image.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// Its name.
    pub name: &'a str,
    /// Digest of the contents; identical programs have identical digests.
    pub digest: [u8; 32],
    contents: &'a [u8],
}

/// Contents that were checked.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The program object, from offset 0x1000 on.
    pub bytes: &'a [u8],
    /// How its parts are to be mapped.
    pub header: ProgramHeader,
}

impl<'a> Program<'a> {
    fn new(name: &'a str, contents: &'a [u8]) -> Self {
        Self { name, digest: *blake3::hash(contents).as_bytes(), contents }
    }

    /// What it consists of.
    ///
    /// # Errors
    /// [`ImageError::DamagedProgram`] if the digest does not match or the program's header cannot be.
    pub fn contents(&self) -> Result<Contents<'a>, ImageError> {
        let bytes = self.contents;
        let header = header_of(bytes).filter(|_| *blake3::hash(bytes).as_bytes() == self.digest);
        let header = header.ok_or_else(|| ImageError::DamagedProgram(self.name.to_owned()))?;
        Ok(Contents { bytes, header })
    }
}

/// A checked image.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    /// The kernel, an ELF file.
    pub kernel: &'a [u8],
    /// Name of the program that starts when none is named.
    pub init: &'a str,
    /// All programs.
    pub programs: Vec<Program<'a>>,
}

impl<'a> Image<'a> {
    /// Checks an image.
    ///
    /// # Errors
    /// [`ImageError`] says what is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let damaged = ImageError::Damaged;
        let (header, rest) = Header::read_from_prefix(bytes).map_err(|_| ImageError::NotAnImage)?;
        if header.magic != MAGIC {
            return Err(ImageError::NotAnImage);
        }
        if header.abi_version != twz_abi::ABI_VERSION {
            return Err(ImageError::Version { found: header.abi_version });
        }
        let count = usize::try_from(header.entry_count).unwrap_or(usize::MAX);
        let entries = rest.get(..count.saturating_mul(size_of::<Entry>()));
        let entries = entries.ok_or(damaged("the list of entries is cut"))?;
        if format::digest(bytes, entries) != header.digest {
            return Err(damaged("the digest of its entries does not match"));
        }
        let mut image = Self { kernel: &[], init: "", programs: Vec::new() };
        for raw in entries.chunks_exact(size_of::<Entry>()) {
            let entry = Entry::read_from_bytes(raw).map_err(|_| damaged("an entry is cut"))?;
            let name_at = offset_of!(Entry, name);
            let name_field = &raw[name_at..name_at + NAME_BYTES];
            let name = usize::try_from(entry.name_length)
                .ok()
                .filter(|&length| length <= NAME_BYTES)
                .and_then(|length| std::str::from_utf8(&name_field[..length]).ok())
                .ok_or(damaged("a name is not text"))?;
            let contents =
                slice(bytes, entry.offset, entry.bytes).ok_or(damaged("an entry is outside of the file"))?;
            match entry.kind {
                kind::KERNEL if *blake3::hash(contents).as_bytes() != entry.digest => {
                    return Err(damaged("the kernel is not what was packed"));
                }
                kind::KERNEL => image.kernel = contents,
                kind::INIT => image.init = name,
                kind::PROGRAM => image.programs.push(Program { name, digest: entry.digest, contents }),
                _ => return Err(damaged("an entry is of an unknown kind")),
            }
        }
        if image.kernel.is_empty() {
            return Err(damaged("there is no kernel"));
        }
        Ok(image)
    }

    /// Adds a program that [`program_object`] made, or replaces the one of that name.
    ///
    /// # Errors
    /// [`ImageError::DamagedProgram`] for contents that are no program object's.
    pub fn add(&mut self, name: &'a str, contents: &'a [u8]) -> Result<(), ImageError> {
        let added = Program::new(name, contents);
        added.contents()?;
        self.programs.retain(|known| known.name != name);
        self.programs.push(added);
        Ok(())
    }

    /// The program called `name`.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<&Program<'a>> {
        self.programs.iter().find(|program| program.name == name)
    }
}

fn slice(bytes: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    bytes.get(start..end)
}

/// The header of a program object, if it can be one's.
fn header_of(contents: &[u8]) -> Option<ProgramHeader> {
    let (header, _) = ProgramHeader::read_from_prefix(contents).ok()?;
    let end = twz_abi::object::DATA_OFFSET + contents.len() as u64;
    let template_fits = header.data_offset.checked_add(header.data_bytes).is_some_and(|last| last <= end);
    let data_fits = header.data_bytes <= header.data_total && header.data_total < twz_abi::object::DATA_END;
    let is_one = header.magic == PROGRAM_MAGIC && end <= twz_abi::object::DATA_END;
    (is_one && template_fits && data_fits).then_some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_image_is_whole() {
        let image = Image::parse(DEFAULT).expect("our own image");
        assert!(image.program(image.init).is_some(), "init is one of the programs");
        assert!(image.program("counter").is_some() && image.program("fault").is_some());
        for program in &image.programs {
            assert!(program.contents().is_ok(), "{}", program.name);
        }
    }

    #[test]
    fn refuses_every_single_changed_byte_of_the_head() {
        for at in 0..256 {
            let mut bytes = DEFAULT.to_vec();
            bytes[at] ^= 1;
            assert!(Image::parse(&bytes).is_err(), "byte {at}");
        }
    }

    #[test]
    fn refuses_every_entry_with_a_changed_byte() {
        let image = Image::parse(DEFAULT).expect("our own image");
        let offset = |contents: &[u8]| contents.as_ptr().addr() - DEFAULT.as_ptr().addr();
        let mut bytes = DEFAULT.to_vec();
        let mut change = |contents: &[u8], check: fn(&[u8], &str) -> bool, name: &str| {
            for at in [0, contents.len() / 2, contents.len() - 1] {
                bytes[offset(contents) + at] ^= 1;
                assert!(check(&bytes, name), "byte {at} of {name}");
                bytes[offset(contents) + at] ^= 1;
            }
        };
        change(image.kernel, |bytes, _| Image::parse(bytes).is_err(), "the kernel");
        for program in &image.programs {
            let is_found = |bytes: &[u8], name: &str| {
                let image = Image::parse(bytes).expect("the rest is whole");
                image.programs.iter().all(|program| program.contents().is_err() == (program.name == name))
            };
            change(program.contents, is_found, program.name);
        }
    }

    #[test]
    fn refuses_files_that_are_no_programs() {
        assert!(matches!(program_object(b"#!/bin/sh\n"), Err(ProgramError::NotElf(_))));
        // The kernel is an ELF file, but not linked as a program.
        let kernel = Image::parse(DEFAULT).expect("our own image").kernel;
        let refused = program_object(kernel).map(|object| object.len());
        assert!(matches!(refused, Err(ProgramError::Segment { .. })), "{refused:?}");
        for cut in (0..kernel.len().min(4096)).step_by(64) {
            assert!(program_object(&kernel[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn an_added_program_replaces_its_namesake() {
        let mut image = Image::parse(DEFAULT).expect("our own image");
        let (count, contents) = (image.programs.len(), image.program("echo").expect("echo").contents);
        image.add("counter", contents).expect("a program");
        image.add("another", contents).expect("a program");
        assert_eq!(image.programs.len(), count + 1);
        assert_eq!(image.program("counter").expect("counter").contents, contents);
        assert!(image.add("bad", b"nothing").is_err());
    }

    #[test]
    fn refuses_cut_and_foreign_files() {
        assert_eq!(Image::parse(b"").err(), Some(ImageError::NotAnImage));
        assert_eq!(Image::parse(&[0; 4096]).err(), Some(ImageError::NotAnImage));
        let cut = &DEFAULT[..DEFAULT.len() - 1];
        assert_eq!(Image::parse(cut).err(), Some(ImageError::Damaged("an entry is outside of the file")));
        let cut = &DEFAULT[..200];
        assert_eq!(Image::parse(cut).err(), Some(ImageError::Damaged("the list of entries is cut")));
    }
}
