//! The Intel machine: Bochs, which emulates VT-x with EPT.
//!
//! It boots from a CD image. CMD's streams go through serial lines into files that we follow; it has no input. Its
//! persistent memory is a piece of its RAM that the kernel is told to take for an NVDIMM, gone when it is off.

use crate::cli::Arguments;
use crate::initramfs::Initramfs;
use crate::machine::Plan;
use crate::packages::{Packages, output_of};
use crate::terminal::Terminal;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Drivers: KVM, the piece of RAM as persistent memory.
const MODULES: [&str; 5] = ["kvm_intel", "nd_e820", "nd_pmem", "device_dax", "dax_pmem"];

/// The serial lines after the console's, in order.
const PORTS: [&str; 3] = ["control", "output", "error"];

/// How long it may take until it starts CMD: 25 s on an idle host.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// As for the AMD machine; here a serial line may still have to send what is buffered.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Instructions that Bochs counts as one second; it has no relation to the host's clock (`sync=none`).
const INSTRUCTIONS_PER_SECOND: u64 = 100_000_000;

/// Where the persistent memory begins. The boot loader uses the RAM after it, and may not use it itself.
const PMEM_START_MIB: u64 = 512;
/// Smallest RAM, without persistent memory: what is before it and 256 MiB after it.
const SMALLEST_MEMORY_MIB: u64 = PMEM_START_MIB + 256;
/// Most that fits below the holes of a 32-bit address space.
const MOST_MEMORY_MIB: u64 = 2048;

/// Prepares the machine's files in `directory` and the command that runs it.
pub(crate) fn plan(
    arguments: &Arguments,
    packages: &Packages,
    bin_dir: &Path,
    directory: &Path,
) -> Result<Plan> {
    if arguments.pmem.is_some() {
        bail!("the Intel machine's persistent memory does not outlive it: --pmem FILE needs --cpu amd");
    }
    let pmem_mib = arguments.pmem_size.unwrap_or(256 << 20) >> 20;
    let memory_mib = arguments.mem.map_or(SMALLEST_MEMORY_MIB, |bytes| bytes >> 20);
    if memory_mib < SMALLEST_MEMORY_MIB || memory_mib + pmem_mib > MOST_MEMORY_MIB || pmem_mib < 16 {
        bail!(
            "the Intel machine needs --mem {SMALLEST_MEMORY_MIB}M at least, --pmem-size 16M at least, both together \
             {MOST_MEMORY_MIB}M at most"
        );
    }
    let end_mark = crate::machine::new_end_mark()?;
    write_disc(arguments, packages, bin_dir, directory, &end_mark, (memory_mib, pmem_mib))?;

    let terminal = Terminal::new().context("cannot make a terminal for the emulator")?;
    let follow = |name: &str| {
        let path = directory.join(format!("{name}.serial"));
        terminal.follow(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (control, output, error) = (follow("control")?, follow("output")?, follow("error")?);

    let cpus = arguments.smp.unwrap_or(1);
    fs::write(directory.join("bochsrc"), configuration(cpus, memory_mib + pmem_mib))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "bochs", "-q", "-f", "bochsrc"]);
    if has_debugger()? {
        fs::write(directory.join("continue"), "c\n")?;
        command.args(["-rc", "continue"]);
    }
    // Bochs draws with curses, which must know the terminal.
    command.current_dir(directory).env("TERM", "vt100");
    Ok(Plan {
        command,
        control: Box::new(control),
        output: Box::new(output),
        error: Box::new(error),
        input: None,
        emulator_ends: Vec::new(),
        end_mark,
        console: directory.join("console.log"),
        log: directory.join("bochs.log"),
        nvdimm: None,
        terminal: Some(terminal),
        boot_limit: BOOT_LIMIT,
        end_limit: END_LIMIT,
    })
}

/// Writes `disc.iso`: boot loader, kernel, initramfs.
fn write_disc(
    arguments: &Arguments,
    packages: &Packages,
    bin_dir: &Path,
    directory: &Path,
    end_mark: &str,
    (memory_mib, pmem_mib): (u64, u64),
) -> Result<()> {
    let disc = directory.join("disc");
    fs::create_dir(&disc)?;
    let mut ports: Vec<_> = (1..).zip(PORTS).map(|(line, name)| (name, format!("/dev/ttyS{line}"))).collect();
    ports.push(("input", "/dev/null".to_owned()));
    let mut archive = Initramfs::create(&disc.join("initramfs"), packages)?;
    archive.add_modules(packages, &MODULES)?;
    archive.add_ndctl(&packages.ndctl()?)?;
    archive.add_config(&ports, end_mark, arguments.align)?;
    archive.add_payload(arguments, bin_dir)?;
    archive.finish(memory_mib << 20)?;
    let copies = [
        (packages.kernel.as_path(), "vmlinuz"),
        (Path::new("/usr/lib/ISOLINUX/isolinux.bin"), "isolinux.bin"),
        (Path::new("/usr/lib/syslinux/modules/bios/ldlinux.c32"), "ldlinux.c32"),
    ];
    for (from, name) in copies {
        fs::copy(from, disc.join(name)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    // The kernel cannot measure the clock of Bochs: it is told.
    let kilohertz = INSTRUCTIONS_PER_SECOND / 1000;
    fs::write(
        disc.join("isolinux.cfg"),
        format!(
            "DEFAULT testbed\nPROMPT 0\nLABEL testbed\n KERNEL /vmlinuz\n INITRD /initramfs\n \
             APPEND console=ttyS0,115200 panic=-1 mitigations=off quiet tsc_early_khz={kilohertz} \
             memmap={pmem_mib}M!{PMEM_START_MIB}M\n"
        ),
    )?;
    let mut write = Command::new("xorriso");
    write.args(["-as", "mkisofs", "-quiet", "-o"]).arg(directory.join("disc.iso"));
    write.args([
        "-b",
        "isolinux.bin",
        "-c",
        "boot.cat",
        "-no-emul-boot",
        "-boot-load-size",
        "4",
        "-boot-info-table",
    ]);
    write.arg(&disc);
    output_of(write).map(|_| ())
}

/// Bochs's own configuration; paths are relative to the run's directory.
fn configuration(cpus: u8, memory_mib: u64) -> String {
    let mut text = format!(
        // Not a newer model: Bochs 2.7 takes XSAVE out of that one.
        "cpu: model=corei7_haswell_4770, count={cpus}, ips={INSTRUCTIONS_PER_SECOND}, reset_on_triple_fault=0\n\
         clock: sync=none\n\
         memory: guest={memory_mib}, host={memory_mib}\n\
         romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
         vgaromimage: file=/usr/share/vgabios/vgabios.bin\n\
         ata0-master: type=cdrom, path=disc.iso, status=inserted\n\
         boot: cdrom\n\
         com1: enabled=1, mode=file, dev=console.log\n\
         display_library: term\n\
         log: bochs.log\n\
         panic: action=fatal\n\
         error: action=ignore\n\
         info: action=ignore\n"
    );
    for (line, name) in (2..).zip(PORTS) {
        text += &format!("com{line}: enabled=1, mode=file, dev={name}.serial\n");
    }
    text
}

/// True if this Bochs was built with its debugger, which waits for a command at the start.
fn has_debugger() -> Result<bool> {
    let output = Command::new("bochs").arg("--help").output().context("cannot run bochs")?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).contains("-rc "))
}
