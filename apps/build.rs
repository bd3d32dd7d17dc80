//! Link arguments of the programs; only when they are really built for the guest.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../twz-rt/program.ld");
    if std::env::var_os("CARGO_FEATURE_GUEST").is_none() {
        return;
    }
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let script = format!("-Wl,-T{here}/../twz-rt/program.ld");
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
