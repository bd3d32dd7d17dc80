// The layout of an image, shared by the builder (build.rs) and the reader (lib.rs):
//
//   0x00  magic "TWZIMG02"
//   0x08  ABI version, u32
//   0x0c  number of entries, u32
//   0x10  Blake3 digest of the header before it and of all entries
//   0x30  entries, 112 bytes each: kind u32, name length u32, name [u8; 48], offset u64, bytes u64, digest [u8; 32], reserved u64
//   …     contents, each at a multiple of 4096
//
// An entry has the Blake3 digest of its contents, so that each can be checked when it is used, and no start reads all programs.
//
// The first entry is the kernel (an ELF file), the second the name of the program to start, the others are program objects as they
// stand from offset 0x1000 of the object on.

/// First bytes of an image.
pub(crate) const MAGIC: [u8; 8] = *b"TWZIMG02";
/// Longest name of an entry.
pub(crate) const NAME_BYTES: usize = 48;
/// Bytes before the entries.
pub(crate) const HEADER_BYTES: usize = 0x30;

/// Where the digest stands; it ends the header.
pub(crate) const DIGEST_OFFSET: usize = 0x10;

/// What an entry holds.
pub(crate) mod kind {
    pub(crate) const KERNEL: u32 = 1;
    pub(crate) const INIT: u32 = 2;
    pub(crate) const PROGRAM: u32 = 3;
}

/// The digest of a header, without its own digest, and of the entries.
pub(crate) fn digest(header: &[u8], entries: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header[..DIGEST_OFFSET.min(header.len())]);
    hasher.update(entries);
    *hasher.finalize().as_bytes()
}

/// Start of an image.
#[derive(
    zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout, Clone, Copy,
)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) magic: [u8; 8],
    pub(crate) abi_version: u32,
    pub(crate) entry_count: u32,
    pub(crate) digest: [u8; 32],
}

/// One thing in an image.
#[derive(
    zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout, Clone, Copy,
)]
#[repr(C)]
pub(crate) struct Entry {
    pub(crate) kind: u32,
    pub(crate) name_length: u32,
    pub(crate) name: [u8; NAME_BYTES],
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) digest: [u8; 32],
    pub(crate) reserved: u64,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES && size_of::<Entry>() == 112);
const _: () =
    assert!(std::mem::offset_of!(Header, digest) == DIGEST_OFFSET && DIGEST_OFFSET + 32 == HEADER_BYTES);
