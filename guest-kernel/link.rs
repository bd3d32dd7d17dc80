// Link arguments of what runs on no operating system: the kernel image and the programs. Included by their build scripts.

/// Tells cargo to link binaries by the script at `script`, relative to the crate, when `feature` is on; libraries stay ordinary crates.
fn link_bare(feature: &str, script: &str, more: &[&str]) {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={script}");
    if std::env::var_os(format!("CARGO_FEATURE_{feature}")).is_none() {
        return;
    }
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let script = format!("-Wl,-T{here}/{script}");
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
