//! Builds the guest kernel and the programs with nested cargo runs, turns the programs into objects, and packs all of it.
//!
//! The nested runs have flags of their own (`guest-kernel/kernel.toml`, `twz-rt/program.toml`) and one target folder, shared by all
//! profiles of the outer build.

#[path = "src/format.rs"]
mod format;
#[path = "src/program.rs"]
#[allow(unreachable_pub, reason = "public in the library, which has the same file")]
mod program;

use format::{DIGEST_OFFSET, Entry, HEADER_BYTES, Header, MAGIC, NAME_BYTES, kind};
use program::program_object;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};
use zerocopy::IntoBytes;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PAGE: usize = 4096;
/// Builds the kernel that was taken over, for tests.
const HOSTILE_KERNEL: [&str; 6] =
    ["-p", "guest-kernel", "--features", "image,hostile", "--config", "guest-kernel/kernel.toml"];
/// The program that uses it.
const TAKEOVER: &str = "takeover";

/// What an image is made of.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    init: String,
    programs: Vec<String>,
}

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let workspace = here.parent().expect("the crate lies in the workspace").to_path_buf();
    for watched in [
        "images/default.toml",
        "images/build.rs",
        "images/src/format.rs",
        "images/src/program.rs",
        "twz-build",
        "guest-kernel",
        "twz-abi",
        "twz-rt",
        "apps",
        "object-id",
        "pmem",
        "sec",
        "libtwz",
        "libtwz-derive",
        "bench/apps/src/ours.rs",
        "bench/libtwz/src/ours.rs",
        "Cargo.toml",
    ] {
        println!("cargo:rerun-if-changed={}", workspace.join(watched).display());
    }
    let manifest = fs::read_to_string(here.join("default.toml")).expect("default.toml is readable");
    let manifest: Manifest = toml::from_str(&manifest).expect("default.toml is a manifest");

    let built = build(
        &workspace,
        &[
            &["-p", "guest-kernel", "--features", "image", "--config", "guest-kernel/kernel.toml"],
            &[
                "-p",
                "apps",
                "--no-default-features",
                "--features",
                "guest",
                "--config",
                "twz-rt/program.toml",
            ],
        ],
    );
    let read = |name: &str| {
        let path = built.join(name);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let image = |kernel: &[u8], init: &str, programs: &[&str]| {
        let mut entries = vec![(kind::KERNEL, "kernel".to_string(), kernel.to_vec())];
        entries.push((kind::INIT, init.to_string(), Vec::new()));
        let program = |name: &&str| {
            let contents = program_object(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            (kind::PROGRAM, (*name).to_string(), contents)
        };
        entries.extend(programs.iter().map(program));
        pack(&entries)
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let programs: Vec<&str> = manifest.programs.iter().map(String::as_str).collect();
    let default = image(&read("guest-kernel"), &manifest.init, &programs);
    fs::write(out.join("default.img"), default).expect("OUT_DIR is writable");

    // The kernel that was taken over replaces the other in the target folder, so it is built last.
    build(&workspace, &[&HOSTILE_KERNEL]);
    let hostile = image(&read("guest-kernel"), TAKEOVER, &[TAKEOVER]);
    fs::write(out.join("hostile.img"), hostile).expect("OUT_DIR is writable");
}

/// Runs a nested cargo for each list of arguments; returns the folder with the results.
fn build(workspace: &Path, runs: &[&[&str]]) -> PathBuf {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // <target>/<triple>/<profile>/build/<crate>/out
    let target = out.ancestors().nth(5).expect("OUT_DIR lies in a target folder").join("guest");
    for arguments in runs {
        let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
        cargo
            .current_dir(workspace)
            .args(["build", "--profile", "guest", "--target", TARGET, "--target-dir"])
            .arg(&target)
            .args(*arguments);
        for inherited in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
        ] {
            cargo.env_remove(inherited);
        }
        let status = cargo.status().expect("cargo can be started");
        assert!(status.success(), "the nested build failed: cargo {}", arguments.join(" "));
    }
    target.join(TARGET).join("guest")
}

fn pack(entries: &[(u32, String, Vec<u8>)]) -> Vec<u8> {
    let mut image = vec![0; HEADER_BYTES + entries.len() * size_of::<Entry>()];
    for (index, (kind, name, contents)) in entries.iter().enumerate() {
        assert!(name.len() <= NAME_BYTES, "{name}: the name is longer than {NAME_BYTES} bytes");
        image.resize(image.len().next_multiple_of(PAGE), 0);
        let mut entry = Entry {
            kind: *kind,
            name_length: u32::try_from(name.len()).expect("checked above"),
            name: [0; NAME_BYTES],
            offset: image.len() as u64,
            bytes: contents.len() as u64,
            digest: *blake3::hash(contents).as_bytes(),
            reserved: 0,
        };
        entry.name[..name.len()].copy_from_slice(name.as_bytes());
        let at = HEADER_BYTES + index * size_of::<Entry>();
        image[at..at + size_of::<Entry>()].copy_from_slice(entry.as_bytes());
        image.extend_from_slice(contents);
    }
    let header = Header {
        magic: MAGIC,
        abi_version: twz_abi::ABI_VERSION,
        entry_count: u32::try_from(entries.len()).expect("few entries"),
        digest: [0; 32],
    };
    image[..HEADER_BYTES].copy_from_slice(header.as_bytes());
    let entries = HEADER_BYTES..HEADER_BYTES + entries.len() * size_of::<Entry>();
    let digest = format::digest(&image[..HEADER_BYTES], &image[entries]);
    image[DIGEST_OFFSET..HEADER_BYTES].copy_from_slice(&digest);
    image
}
