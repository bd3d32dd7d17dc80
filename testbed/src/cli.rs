//! The command line.

use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Boots an emulated machine with KVM and persistent memory, runs CMD in it and returns its exit status.
///
/// CMD finds the project's binaries in its PATH, busybox's commands, /dev/kvm and /dev/dax0.0.
/// Exit status: CMD's own; 124 when --timeout passed, 125 when the testbed itself failed, 137 when --power-cut
/// cut the power, 128 + N when signal N ended it.
#[derive(Debug, Parser)]
#[command(name = "testbed", version)]
pub(crate) struct Arguments {
    /// The NVDIMM's contents, made if absent; without this, a new one that is thrown away
    #[arg(long, value_name = "FILE")]
    pub(crate) pmem: Option<PathBuf>,

    /// Usable size of a new NVDIMM [default: 512M; intel: 256M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) pmem_size: Option<u64>,

    /// Alignment of a new /dev/dax0.0; must be what it was made with when the NVDIMM is not new
    #[arg(long, value_enum, ignore_case = true, default_value = "4K")]
    pub(crate) align: Align,

    /// The CPU to emulate. amd: SVM with nested paging, by QEMU. intel: VT-x with EPT, by Bochs; slower, and its
    /// persistent memory is gone when it is off
    #[arg(long, value_enum, default_value = "amd")]
    pub(crate) cpu: Cpu,

    /// Keep the machine's files (kernel console, initramfs, NVDIMM) and say where they are
    #[arg(long)]
    pub(crate) keep: bool,

    /// End everything after this many seconds
    #[arg(long, value_name = "SECS", default_value = "300", value_parser = parse_seconds)]
    pub(crate) timeout: Duration,

    /// Number of CPUs [default: 2; intel: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) smp: Option<u8>,

    /// Memory, besides the NVDIMM [default: 2G; intel: 768M]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    pub(crate) mem: Option<u64>,

    /// Put a file of the host into the machine (default: under its own name in /root); may be repeated
    #[arg(long = "file", value_name = "HOSTPATH[:GUESTPATH]", value_parser = parse_file)]
    pub(crate) files: Vec<GuestFile>,

    /// Set a variable in CMD's environment; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub(crate) variables: Vec<(String, String)>,

    /// Cut the power so many milliseconds after CMD started, or as soon as it prints a line that contains MARKER
    #[arg(long, value_name = "AFTER_MS|MARKER", value_parser = parse_power_cut)]
    pub(crate) power_cut: Option<PowerCut>,

    /// Directory whose executables CMD finds in its PATH [default: where this tool was built]
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,

    /// Directory for unpacked packages [default: `testbed` in the cargo target directory]
    #[arg(long, value_name = "DIR", env = "TWZ_TESTBED_CACHE")]
    pub(crate) cache: Option<PathBuf>,

    /// Only install and unpack what a run needs
    #[arg(long)]
    pub(crate) prepare: bool,

    /// The command and its arguments
    #[arg(last = true, value_name = "CMD", required_unless_present = "prepare")]
    pub(crate) command: Vec<String>,
}

/// The emulated CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cpu {
    /// QEMU without KVM: SVM and nested page tables.
    Amd,
    /// Bochs: VT-x and extended page tables.
    Intel,
}

/// Alignment of a device-DAX namespace, the smallest piece of it that can be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Align {
    /// 4 KiB.
    #[value(name = "4K")]
    Small,
    /// 2 MiB, ndctl's default.
    #[value(name = "2M")]
    Large,
}

impl Align {
    /// As `ndctl --align` takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Align::Small => "4K",
            Align::Large => "2M",
        }
    }
}

/// A file of the host and where it goes in the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestFile {
    /// On the host.
    pub(crate) host: PathBuf,
    /// In the machine: absolute.
    pub(crate) guest: String,
}

/// When `--power-cut` ends the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PowerCut {
    /// So long after CMD started.
    After(Duration),
    /// When CMD's output has a line that contains this.
    Marker(String),
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        unit => return Err(format!("unknown unit {unit}: use K, M or G")),
    };
    let number: u64 = digits.parse().map_err(|_| "not a number with K, M or G".to_owned())?;
    number.checked_shl(shift).filter(|size| size >> shift == number).ok_or_else(|| "too large".to_owned())
}

fn parse_memory(text: &str) -> Result<u64, String> {
    /// Below this the kernel and its initramfs do not fit.
    const SMALLEST: u64 = 256 << 20;
    parse_size(text).and_then(|size| if size < SMALLEST { Err("256M at least".to_owned()) } else { Ok(size) })
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err("not a number of seconds from 1 to 86400".to_owned()),
    }
}

fn parse_file(text: &str) -> Result<GuestFile, String> {
    let (host, guest) = match text.split_once(':') {
        Some((host, guest)) => (PathBuf::from(host), guest.to_owned()),
        None => {
            let host = PathBuf::from(text);
            let name = host.file_name().and_then(|name| name.to_str()).ok_or("has no file name")?;
            let guest = format!("/root/{name}");
            (host, guest)
        }
    };
    if !guest.starts_with('/') || guest.split('/').any(|part| part == "..") {
        return Err("the path in the machine must be absolute, without ..".to_owned());
    }
    Ok(GuestFile { host, guest })
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("not NAME=VALUE")?;
    let mut letters = name.bytes();
    let starts_well = letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
    if !starts_well || !letters.all(|letter| letter.is_ascii_alphanumeric() || letter == b'_') {
        return Err("the name must be letters, digits and _".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_power_cut(text: &str) -> Result<PowerCut, String> {
    if text.is_empty() {
        return Err("neither milliseconds nor a marker".to_owned());
    }
    match text.parse() {
        Ok(milliseconds) => Ok(PowerCut::After(Duration::from_millis(milliseconds))),
        Err(_) => Ok(PowerCut::Marker(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert!(parse_size("99999999999G").is_err());
        assert!(parse_size("4X").is_err());
        assert!(parse_size("M").is_err());
        assert!(parse_size("").is_err());
    }

    #[test]
    fn files_get_a_place() {
        assert_eq!(parse_file("a/b.bin").unwrap().guest, "/root/b.bin");
        assert_eq!(parse_file("a/b.bin:/x/y").unwrap().guest, "/x/y");
        assert!(parse_file("a:b").is_err());
        assert!(parse_file("a:/x/../y").is_err());
        assert!(parse_file("/").is_err());
    }

    #[test]
    fn variables_have_plain_names() {
        assert_eq!(parse_variable("A_1=x=y").unwrap(), ("A_1".to_owned(), "x=y".to_owned()));
        assert!(parse_variable("1A=x").is_err());
        assert!(parse_variable("A;b=x").is_err());
        assert!(parse_variable("A").is_err());
    }

    #[test]
    fn power_cut_is_a_time_or_a_marker() {
        assert_eq!(parse_power_cut("250"), Ok(PowerCut::After(Duration::from_millis(250))));
        assert_eq!(parse_power_cut("step 3"), Ok(PowerCut::Marker("step 3".to_owned())));
        assert!(parse_power_cut("").is_err());
    }
}
