//! The AMD machine: QEMU without KVM, emulating SVM with nested paging and an NVDIMM.
//!
//! CMD's streams go through virtio serial ports, which carry bytes unchanged and wait for the reader; the kernel's
//! console goes to a file. The emulator gets its ends of the ports as open sockets, so that no name is left behind
//! and both sides see the other's end.

use crate::cli::Arguments;
use crate::initramfs::Initramfs;
use crate::machine::Plan;
use crate::nvdimm::{LABEL_BYTES, Nvdimm};
use crate::packages::{Packages, output_of};
use anyhow::{Context, Result, bail};
use rustix::io::FdFlags;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Drivers: KVM, the serial ports, the NVDIMM.
const MODULES: [&str; 7] =
    ["kvm_amd", "virtio_pci", "virtio_console", "nfit", "nd_pmem", "device_dax", "dax_pmem"];

/// How long it may take until it starts CMD: 3 s on an idle host.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How long output may take to arrive after CMD has ended, and the machine to power off after that.
const END_LIMIT: Duration = Duration::from_secs(10);

/// CPU models with SVM, the best first; QEMU has had the second since 5.2.
const CPU_MODELS: [&str; 2] = ["EPYC-v4", "EPYC-v3"];

/// The port numbers behind /dev/vport0pN.
const PORTS: [&str; 4] = ["control", "output", "error", "input"];

/// Prepares the machine's files in `directory` and the command that runs it.
pub(crate) fn plan(
    arguments: &Arguments,
    packages: &Packages,
    bin_dir: &Path,
    directory: &Path,
) -> Result<Plan> {
    let end_mark = crate::machine::new_end_mark()?;
    let pmem_path = arguments.pmem.clone().unwrap_or_else(|| directory.join("nv.img"));
    let nvdimm = Nvdimm::open(&pmem_path, arguments.pmem_size.unwrap_or(512 << 20))?;
    let memory_bytes = arguments.mem.unwrap_or(2 << 30);
    let initrd = directory.join("initramfs.cpio");
    write_initramfs(arguments, packages, bin_dir, &initrd, &nvdimm, &end_mark, memory_bytes)?;

    let console = directory.join("console.log");
    // The emulator must die with us, however we die; setpriv is part of every Debian and Ubuntu (util-linux).
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    // One thread for all emulated CPUs: with one each, QEMU 7.2's SVM loses itself now and then when several of them run guests (guests that
    // shut down, emulated kernels that break down).
    command.args(["-machine", "q35,nvdimm=on", "-accel", "tcg,thread=single"]);
    command.args(["-cpu", &format!("{},+svm,+npt", cpu_model()?)]);
    command.args(["-smp", &arguments.smp.unwrap_or(2).to_string()]);
    let megabytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let most = megabytes(memory_bytes + nvdimm.file_bytes) + 1024; // room for the DIMM's own alignment
    command.args(["-m", &format!("{}M,slots=2,maxmem={most}M", megabytes(memory_bytes))]);
    command.arg("-kernel").arg(&packages.kernel);
    command.arg("-initrd").arg(&initrd);
    // Without the check: on a busy host the emulated timer may come too late for it, and the kernel panics.
    command.args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check"]);
    command.args(["-serial", &format!("file:{}", option_value(&console)?)]);
    let backend = option_value(&nvdimm.path)?;
    let size = nvdimm.file_bytes;
    command.args(["-object", &format!("memory-backend-file,id=nv,share=on,mem-path={backend},size={size}")]);
    command.args(["-device", &format!("nvdimm,id=dimm,memdev=nv,label-size={LABEL_BYTES}")]);
    command.args(["-device", "virtio-serial-pci"]);
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for (number, name) in (1..).zip(PORTS) {
        let (our_end, their_end) = UnixStream::pair().context("cannot make a socket")?;
        rustix::io::fcntl_setfd(&their_end, FdFlags::empty()).context("cannot hand on a socket")?;
        command.args(["-chardev", &format!("socket,id={name},fd={}", their_end.as_raw_fd())]);
        command.args(["-device", &format!("virtserialport,nr={number},chardev={name},name=twz.{name}")]);
        ours.push(our_end);
        theirs.push(their_end);
    }
    let Ok([control, output, error, input]) = <[UnixStream; 4]>::try_from(ours) else {
        bail!("internal: {} ports", PORTS.len());
    };
    Ok(Plan {
        command,
        control: Box::new(control),
        output: Box::new(output),
        error: Box::new(error),
        input: Some(input),
        emulator_ends: theirs,
        end_mark,
        console,
        log: directory.join("emulator.log"),
        nvdimm: Some(nvdimm),
        terminal: None,
        boot_limit: BOOT_LIMIT,
        end_limit: END_LIMIT,
    })
}

fn write_initramfs(
    arguments: &Arguments,
    packages: &Packages,
    bin_dir: &Path,
    path: &Path,
    nvdimm: &Nvdimm,
    end_mark: &str,
    memory_bytes: u64,
) -> Result<()> {
    let ports: Vec<_> =
        (1..).zip(PORTS).map(|(number, name)| (name, format!("/dev/vport0p{number}"))).collect();
    let mut archive = Initramfs::create(path, packages)?;
    archive.add_modules(packages, &MODULES)?;
    if nvdimm.is_new() {
        archive.add_ndctl(&packages.ndctl()?)?;
    }
    archive.add_config(&ports, end_mark, arguments.align)?;
    archive.add_payload(arguments, bin_dir)?;
    archive.finish(memory_bytes)
}

/// The best of [`CPU_MODELS`] that this QEMU has.
fn cpu_model() -> Result<&'static str> {
    let mut help = Command::new("qemu-system-x86_64");
    help.args(["-cpu", "help"]);
    let listed = output_of(help)?;
    let model = CPU_MODELS.into_iter().find(|model| listed.split_whitespace().any(|word| word == *model));
    model.with_context(|| format!("this QEMU knows none of {}: it is older than 5.2", CPU_MODELS.join(", ")))
}

/// A path as a value in QEMU's `key=value,…` options, where a comma is doubled.
fn option_value(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(text.replace(',', ",,"))
}
