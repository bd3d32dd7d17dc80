//! For the build script of a crate of programs: `fn main() { twz_build::program(); }`.
//!
//! # Contract
//! With the crate's feature `guest` its binaries are linked as Twizzler loads them (`program.ld`): statically, without C library or start
//! files, code and data in slots of their own. Without it nothing changes: they are Linux programs.
#![forbid(unsafe_code)]

use std::env;
use std::path::PathBuf;

const SCRIPT: &str = include_str!("../program.ld");

/// Prints cargo's instructions.
///
/// # Panics
/// Outside of a build script, or if its folder cannot be written.
pub fn program() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CARGO_FEATURE_GUEST");
    if env::var_os("CARGO_FEATURE_GUEST").is_none() {
        return;
    }
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let script = folder.join("program.ld");
    std::fs::write(&script, SCRIPT).expect("OUT_DIR is writable");
    let script = format!("-Wl,-T{}", script.display());
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
        // The precompiled `alloc` names it; nothing unwinds.
        "-Wl,--defsym=_Unwind_Resume=0",
    ];
    for argument in arguments {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
