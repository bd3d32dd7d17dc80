//! What a run needs from the host's distribution: an emulator, a kernel with its modules, busybox, ndctl.
//!
//! # Contract
//! - Everything comes through apt. Only the emulator is installed, and only by root; the rest is downloaded and unpacked
//!   into the cache, once.
//! - What cannot be had is one error that says what to do.
//! - A half-done unpacking is never used: the directory gets its name when it is complete.

use crate::cache::Cache;
use crate::cli::Cpu;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Raised whenever the list below or its unpacking changes, so that older caches are made anew.
const RECIPE: &str = "unpacked-2";

/// Packages whose dependency is the current kernel: Debian's, then Ubuntu's.
const KERNELS: [&str; 3] = ["linux-image-cloud-amd64", "linux-image-virtual", "linux-image-generic"];

/// Files of the host that a machine needs, each with the package that has it.
type HostFile = (&'static str, &'static str);
const FOR_AMD: [HostFile; 1] = [("qemu-system-x86_64", "qemu-system-x86")];
const FOR_INTEL: [HostFile; 7] = [
    ("bochs", "bochs"),
    ("/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so", "bochs-term"),
    ("/usr/share/bochs/BIOS-bochs-latest", "bochsbios"),
    ("/usr/share/vgabios/vgabios.bin", "vgabios"),
    ("xorriso", "xorriso"),
    ("/usr/lib/ISOLINUX/isolinux.bin", "isolinux"),
    ("/usr/lib/syslinux/modules/bios/ldlinux.c32", "syslinux-common"),
];

/// The unpacked packages.
pub(crate) struct Packages {
    root: PathBuf,
    /// The kernel image.
    pub(crate) kernel: PathBuf,
    /// The directory of that kernel's modules.
    pub(crate) modules: PathBuf,
    /// A static busybox.
    pub(crate) busybox: PathBuf,
}

/// `ndctl`, its loader and its libraries.
pub(crate) struct Ndctl {
    pub(crate) program: PathBuf,
    pub(crate) loader: PathBuf,
    pub(crate) libraries: Vec<PathBuf>,
}

impl Packages {
    /// Installs, downloads and unpacks what is not there yet.
    pub(crate) fn provide(cache: &Cache, cpu: Cpu) -> Result<Packages> {
        let _shared = cache.lock()?;
        for command in ["apt-get", "apt-cache", "dpkg-deb"] {
            if find_command(command).is_none() {
                bail!(
                    "there is no {command} here: the testbed needs a Debian or Ubuntu host (see testbed/README.md)"
                );
            }
        }
        match cpu {
            Cpu::Amd => require(&FOR_AMD)?,
            Cpu::Intel => require(&FOR_INTEL)?,
        }
        let root = cache.path().join(RECIPE);
        if !root.exists() {
            unpack(cache, &root)?;
        }
        let boot = root.join("boot");
        let kernel = find_file(&boot, |name| name.starts_with("vmlinuz-"))?;
        let version = kernel.file_name().and_then(|name| name.to_str()?.strip_prefix("vmlinuz-"));
        let version = version.with_context(|| format!("{} has no version", kernel.display()))?;
        // Distributions move from the first to the second.
        let modules = ["lib/modules", "usr/lib/modules"].map(|place| root.join(place).join(version));
        let modules = modules.into_iter().find(|path| path.exists());
        let modules = modules.with_context(|| format!("{} has no modules beside it", kernel.display()))?;
        let busybox = find_file(&root, |name| name == "busybox")?;
        Ok(Packages { root, kernel, modules, busybox })
    }

    /// Finds `ndctl` and, with its own loader, the libraries it needs.
    pub(crate) fn ndctl(&self) -> Result<Ndctl> {
        let program = find_file(&self.root, |name| name == "ndctl" || name == "ndctl.bin")?;
        let loader = find_file(&self.root, |name| name == "ld-linux-x86-64.so.2")?;
        let directories = ["lib", "usr/lib"].map(|lib| self.root.join(lib).join("x86_64-linux-gnu"));
        let path = directories.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":");
        let mut list = Command::new(&loader);
        list.args(["--library-path", &path, "--list"]).arg(&program);
        let listed = output_of(list)?;
        if let Some(line) = listed.lines().find(|line| line.contains("not found")) {
            bail!("ndctl needs a library that its packages do not bring: {}", line.trim());
        }
        let libraries = listed
            .lines()
            .filter_map(|line| Some(PathBuf::from(line.split_once(" => ")?.1.split_whitespace().next()?)))
            .filter(|path| path.starts_with(&self.root) && *path != loader)
            .collect();
        Ok(Ndctl { program, loader, libraries })
    }
}

/// Downloads and unpacks everything to `root`.
fn unpack(cache: &Cache, root: &Path) -> Result<()> {
    let mut kernel = kernel_packages()?;
    if kernel.is_empty() {
        refresh_lists()?;
        kernel = kernel_packages()?;
    }
    if kernel.is_empty() {
        bail!("apt offers none of {}: add a Debian or Ubuntu archive to apt's sources", KERNELS.join(", "));
    }
    let mut names = kernel;
    names.insert("busybox-static".to_owned());
    names.extend(closure("ndctl", |name| name.starts_with("lib") || name.starts_with("zlib"))?);

    let work = tempfile::Builder::new().prefix("unpacking-").tempdir_in(cache.path())?;
    let archives = work.path().join("archives");
    let unpacked = work.path().join("root");
    fs::create_dir(&archives)?;
    fs::create_dir(&unpacked)?;
    eprintln!("testbed: downloading {} packages (once)", names.len());
    let mut download = Command::new("apt-get");
    // As root apt would drop to a user that cannot write here, and say so each time.
    download.args(["-o", "APT::Sandbox::User=root", "download"]).args(&names).current_dir(&archives);
    output_of(download).context("see if `apt-get update` helps")?;
    for archive in fs::read_dir(&archives)? {
        let mut extract = Command::new("dpkg-deb");
        extract.arg("-x").arg(archive?.path()).arg(&unpacked);
        output_of(extract)?;
    }
    fs::rename(&unpacked, root).with_context(|| format!("cannot make {}", root.display()))
}

/// The packages that hold the current kernel and its modules; none if apt does not know any.
fn kernel_packages() -> Result<BTreeSet<String>> {
    for name in KERNELS {
        let mut found =
            closure(name, |name| name.starts_with("linux-image-") || name.starts_with("linux-modules-"))?;
        found.remove(name); // the meta package itself is empty
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(BTreeSet::new())
}

/// `package` and what it depends on, of those `wanted`.
fn closure(package: &str, wanted: impl Fn(&str) -> bool) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::from([package.to_owned()]);
    let mut new = vec![package.to_owned()];
    while !new.is_empty() {
        let mut depends = Command::new("apt-cache");
        depends.args(["depends", "--important", "--no-pre-depends"]).args(&new);
        // apt-cache fails for a package it does not know, which here means that it has no dependencies.
        let listed = output_of(depends).unwrap_or_default();
        new = dependencies(&listed)
            .filter(|name| wanted(name) && !found.contains(*name))
            .map(str::to_owned)
            .collect();
        found.extend(new.iter().cloned());
    }
    Ok(found)
}

/// The packages on the "Depends:" lines of apt-cache; of alternatives the first.
fn dependencies(listed: &str) -> impl Iterator<Item = &str> {
    let mut alternative = false;
    listed.lines().filter_map(move |line| {
        let skip = alternative;
        let line = line.trim();
        alternative = line.starts_with('|');
        let name = line.trim_start_matches('|').strip_prefix("Depends: ")?;
        (!skip && !name.starts_with('<')).then_some(name)
    })
}

/// Makes sure that files are there, installing their packages if we may.
fn require(files: &[HostFile]) -> Result<()> {
    let missing = || -> Vec<&str> {
        let is_there = |name: &str| {
            if name.starts_with('/') { Path::new(name).exists() } else { find_command(name).is_some() }
        };
        files.iter().filter(|(name, _)| !is_there(name)).map(|(_, package)| *package).collect()
    };
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !rustix::process::geteuid().is_root() {
        bail!(
            "these packages are missing: run `sudo apt-get update && sudo apt-get install -y --no-install-recommends {list}`"
        );
    }
    eprintln!("testbed: installing {list}");
    if install(&packages).is_err() {
        refresh_lists()?;
        install(&packages)?;
    }
    match missing()[..] {
        [] => Ok(()),
        ref still => {
            bail!("installed {list}, but files of {} are not where Debian has them", still.join(" "))
        }
    }
}

fn install(packages: &[&str]) -> Result<String> {
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "--no-install-recommends"]).args(packages);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    output_of(install)
}

fn refresh_lists() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("apt has no package lists: run `sudo apt-get update`");
    }
    let mut update = Command::new("apt-get");
    update.args(["update", "-q"]);
    output_of(update).map(|_| ())
}

fn find_command(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// The first file below `directory`, in order of paths, whose name is `wanted`. Symbolic links are not followed as
/// directories, but are found as files.
pub(crate) fn find_file(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let mut found = Vec::new();
    walk(directory, &mut |path| {
        if path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted) {
            found.push(path.to_owned());
        }
    })?;
    found.sort();
    // Links may be absolute, thus lead out of the unpacked packages; directories cannot be what is wanted.
    let file = found.into_iter().find(|path| path.symlink_metadata().is_ok_and(|meta| meta.is_file()));
    file.with_context(|| {
        format!("no file of that name in {} (to make it anew, remove it)", directory.display())
    })
}

/// Calls `visit` with every file (not directory) below `directory`.
pub(crate) fn walk(directory: &Path, visit: &mut impl FnMut(&Path)) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), visit)?;
        } else {
            visit(&entry.path());
        }
    }
    Ok(())
}

/// Runs a command to its end; its standard output, or an error with the last line of its standard error.
pub(crate) fn output_of(mut command: Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.env("LC_ALL", "C").output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        bail!("{program} failed ({}): {}", output.status, last.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read() {
        let listed = "ndctl\n  PreDepends: init\n  Depends: libc6\n |Depends: libone\n  Depends: libtwo\n  Depends: <virtual>\n    real\n  Recommends: more\n";
        let names: Vec<&str> = dependencies(listed).collect();
        assert_eq!(names, ["libc6", "libone"]);
    }

    #[test]
    fn failures_name_the_command_and_its_last_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo first >&2; echo the reason >&2; exit 3"]);
        let error = output_of(command).unwrap_err().to_string();
        assert!(error.starts_with("sh failed"), "{error}");
        assert!(error.ends_with("the reason"), "{error}");
    }
}
