//! For build scripts of what runs on no operating system: programs (`fn main() { twz_build::program(); }`) and the guest kernel.
//!
//! # Contract
//! With the crate's feature on, its binaries are linked by a script: statically, without C library or start files. Without it nothing
//! changes: programs are Linux programs, the kernel is a library.
#![forbid(unsafe_code)]

use std::env;
use std::path::PathBuf;

/// Links a crate of programs as Twizzler loads them, if its feature `guest` is on: code and data in slots of their own.
///
/// # Panics
/// As [`bare`].
pub fn program() {
    // The precompiled `alloc` names it; nothing unwinds.
    bare("GUEST", include_str!("../program.ld"), &["-Wl,--defsym=_Unwind_Resume=0"]);
}

/// Tells cargo to link the binaries by the text of a linker script, if `feature` (as cargo spells it in `CARGO_FEATURE_…`) is on.
///
/// # Panics
/// Outside of a build script, or if its folder cannot be written.
pub fn bare(feature: &str, script: &str, more: &[&str]) {
    let variable = format!("CARGO_FEATURE_{feature}");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={variable}");
    if env::var_os(variable).is_none() {
        return;
    }
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let path = folder.join("link.ld");
    std::fs::write(&path, script).expect("OUT_DIR is writable");
    let script = format!("-Wl,-T{}", path.display());
    // The crate `libc`, which some use for its numbers, asks for the host's C library: `memcpy` would be taken from it, and much more with that. An
    // empty one is found before it.
    std::fs::write(folder.join("libc.a"), "!<arch>\n").expect("OUT_DIR is writable");
    println!("cargo:rustc-link-search=native={}", folder.display());
    let arguments = [
        "-nostartfiles",
        "-nodefaultlibs",
        "-static",
        "-no-pie",
        &script,
        "-Wl,-z,max-page-size=4096",
        "-Wl,-z,norelro",
        "-Wl,-z,noexecstack",
        "-Wl,--build-id=none",
        "-Wl,--no-eh-frame-hdr",
        "-Wl,--gc-sections",
        "-Wl,--defsym=rust_eh_personality=0",
    ];
    for argument in arguments.iter().chain(more) {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
