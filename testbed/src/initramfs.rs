//! The machine's root file system: an archive that the kernel unpacks into memory.
//!
//! # Contract
//! - Holds guest/init, busybox, the drivers in loading order, ndctl if asked for, the project's binaries, the user's
//!   files, and the command; nothing else, so that a run depends on nothing but its arguments.
//! - Not compressed: the emulated CPU would take longer to unpack it than the emulator to copy it.

use crate::cli::{Align, Arguments};
use crate::packages::{Ndctl, Packages, walk};
use anyhow::{Context, Result, bail};
use cpio::newc::{Builder, ModeFileType, trailer};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the kernel has taken when it unpacks the archive. Measured: for 212 MiB of files 736 MiB of memory are too little, and 768 enough.
const KERNEL_BYTES: u64 = 104 << 20;

/// An archive being written.
pub(crate) struct Initramfs {
    archive: BufWriter<File>,
    directories: BTreeSet<String>,
}

impl Initramfs {
    /// Starts an archive in the file `path` with init and busybox.
    pub(crate) fn create(path: &Path, packages: &Packages) -> Result<Initramfs> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        let mut archive = Initramfs { archive: BufWriter::new(file), directories: BTreeSet::new() };
        archive.add("/init", 0o755, include_bytes!("../guest/init"))?;
        archive.add_host_file("/bin/busybox", &packages.busybox)?;
        Ok(archive)
    }

    /// Adds kernel modules and all modules they depend on, with the list that init loads them by. Names without .ko;
    /// a module that the kernel has built in is left out.
    pub(crate) fn add_modules(&mut self, packages: &Packages, wanted: &[&str]) -> Result<()> {
        let builtin = fs::read_to_string(packages.modules.join("modules.builtin")).unwrap_or_default();
        let mut found = Vec::new();
        walk(&packages.modules, &mut |path| {
            if let Some(name) = module_name(path) {
                found.push((name, path.to_owned()));
            }
        })?;
        let mut order: Vec<String> = Vec::new();
        let mut stack: Vec<(String, bool)> =
            wanted.iter().rev().map(|name| ((*name).to_owned(), false)).collect();
        while let Some((name, needs_added)) = stack.pop() {
            if order.contains(&name)
                || builtin.lines().any(|line| module_name(Path::new(line)).as_ref() == Some(&name))
            {
                continue;
            }
            let Some((_, path)) = found.iter().find(|(module, _)| *module == name) else {
                bail!(
                    "the kernel package has no module {name}, neither built in (in {})",
                    packages.modules.display()
                );
            };
            let image = read_module(path)?;
            if needs_added {
                self.add(&format!("/twz/modules/{name}.ko"), 0o644, &image)?;
                order.push(name);
            } else {
                stack.push((name, true));
                stack.extend(module_dependencies(&image).into_iter().map(|needed| (needed, false)));
            }
        }
        let list: String = order.iter().map(|name| format!("{name}.ko\n")).collect();
        self.add("/twz/modules/order", 0o644, list.as_bytes())
    }

    /// Adds ndctl where init looks for it.
    pub(crate) fn add_ndctl(&mut self, ndctl: &Ndctl) -> Result<()> {
        self.add_host_file("/twz/ndctl/ndctl", &ndctl.program)?;
        self.add_host_file("/twz/ndctl/ld.so", &ndctl.loader)?;
        for library in &ndctl.libraries {
            let name =
                library.file_name().and_then(|name| name.to_str()).context("a library without a name")?;
            self.add_host_file(&format!("/twz/ndctl/{name}"), library)?;
        }
        Ok(())
    }

    /// Adds the executables of `directory` (not of those below it) to CMD's PATH.
    fn add_binaries(&mut self, directory: &Path) -> Result<()> {
        self.add_directories("/twz/bin/x")?;
        let entries =
            fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            let executable =
                path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o100 != 0);
            if let Some(name) = path.file_name().and_then(|name| name.to_str())
                && executable
                && path.extension().is_none()
                && name != env!("CARGO_PKG_NAME")
            {
                self.add_host_file(&format!("/twz/bin/{name}"), &path)?;
            }
        }
        Ok(())
    }

    /// Adds what guest/init must know of the machine: the device of each port, and the alignment of /dev/dax0.0.
    pub(crate) fn add_config(
        &mut self,
        ports: &[(&str, String)],
        end_mark: &str,
        align: Align,
    ) -> Result<()> {
        let mut config = format!("end_mark='{end_mark}'\npmem_align={}\n", align.name());
        for (name, device) in ports {
            config += &format!("port_{name}={device}\n");
        }
        self.add("/twz/config", 0o644, config.as_bytes())
    }

    /// Adds what the user wants in the machine: the project's binaries, files, and the command.
    pub(crate) fn add_payload(&mut self, arguments: &Arguments, bin_dir: &Path) -> Result<()> {
        self.add_binaries(bin_dir)?;
        for file in &arguments.files {
            self.add_host_file(&file.guest, &file.host)?;
        }
        let mut script = String::new();
        for (name, value) in &arguments.variables {
            script += &format!("export {name}={}\n", quote(value));
        }
        let words: Vec<String> = arguments.command.iter().map(|word| quote(word)).collect();
        script += &format!("exec {}\n", words.join(" "));
        self.add("/twz/command", 0o644, script.as_bytes())
    }

    /// Adds one file with these contents.
    pub(crate) fn add(&mut self, name: &str, mode: u32, contents: &[u8]) -> Result<()> {
        self.add_directories(name)?;
        let length =
            u32::try_from(contents.len()).ok().with_context(|| format!("{name} is too large (4 GiB)"))?;
        let header =
            Builder::new(name.trim_start_matches('/')).mode(mode).set_mode_file_type(ModeFileType::Regular);
        let mut writer = header.write(&mut self.archive, length);
        writer.write_all(contents)?;
        writer.finish()?;
        Ok(())
    }

    /// Completes the archive, for a machine with so much memory, whose kernel leaves out without a word what has no room.
    pub(crate) fn finish(self, memory_bytes: u64) -> Result<()> {
        const WHAT: &str = "cannot write the initramfs";
        let file = trailer(self.archive)?.into_inner().context(WHAT)?;
        let bytes = file.metadata().context(WHAT)?.len();
        // The root file system has half of the memory that the archive itself leaves.
        let least = KERNEL_BYTES + 3 * bytes;
        if memory_bytes < least {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            bail!(
                "{} MiB of files have no room in a machine with {} MiB of memory: give it --mem {}M, or fewer files",
                mib(bytes),
                mib(memory_bytes),
                mib(least).next_multiple_of(64)
            );
        }
        Ok(())
    }

    fn add_host_file(&mut self, name: &str, path: &Path) -> Result<()> {
        let read = || -> io::Result<(u32, Vec<u8>)> {
            let mut file = File::open(path)?;
            let mode = file.metadata()?.permissions().mode() & 0o777;
            let mut contents = Vec::new();
            file.read_to_end(&mut contents)?;
            Ok((mode, contents))
        };
        let (mode, contents) = read().with_context(|| format!("cannot read {}", path.display()))?;
        self.add(name, mode, &contents)
    }

    /// Adds the directories above `name`, once each: the kernel makes none by itself.
    fn add_directories(&mut self, name: &str) -> Result<()> {
        let name = name.trim_start_matches('/');
        for (at, _) in name.match_indices('/') {
            if self.directories.insert(name[..at].to_owned()) {
                let header =
                    Builder::new(&name[..at]).mode(0o755).set_mode_file_type(ModeFileType::Directory);
                header.write(&mut self.archive, 0).finish()?;
            }
        }
        Ok(())
    }
}

/// `kvm_amd` for `kernel/arch/x86/kvm/kvm-amd.ko.xz`: the kernel takes - and _ for the same.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = ["", ".xz", ".zst", ".gz"].iter().find_map(|end| name.strip_suffix(&format!(".ko{end}")))?;
    Some(name.replace('-', "_"))
}

/// The modules that a module's `depends=` names.
fn module_dependencies(image: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = image.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = image[at + KEY.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    let unpacker = match path.extension().and_then(|end| end.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut command = Command::new(unpacker);
    command.args(["-q", "-d", "-c"]).arg(path).stderr(Stdio::null());
    let output =
        command.output().with_context(|| format!("cannot run {unpacker}: install it with apt-get"))?;
    if !output.status.success() {
        bail!("{unpacker} cannot unpack {}", path.display());
    }
    Ok(output.stdout)
}

/// One word for a shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_pass_a_shell_unchanged() {
        for word in ["plain", "", "a b", "it's", "$HOME `x` \\ \"q\"", "line\nline", "-n"] {
            let output =
                Command::new("sh").args(["-c", &format!("printf %s {}", quote(word))]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), if word == "-n" { "-n" } else { word });
        }
    }

    #[test]
    fn modules_are_named_as_the_kernel_names_them() {
        assert_eq!(module_name(Path::new("kernel/arch/x86/kvm/kvm-amd.ko.zst")).as_deref(), Some("kvm_amd"));
        assert_eq!(module_name(Path::new("nfit.ko")).as_deref(), Some("nfit"));
        assert_eq!(module_name(Path::new("modules.order")), None);
    }

    #[test]
    fn dependencies_are_read_from_the_image() {
        assert_eq!(
            module_dependencies(b"\x7fELF\0license=GPL\0depends=kvm,irq-bypass\0name=x\0"),
            ["kvm", "irq_bypass"]
        );
        assert!(module_dependencies(b"\0depends=\0name=x\0").is_empty());
        assert!(module_dependencies(b"no such thing").is_empty());
    }

    fn archive_in(file: &tempfile::NamedTempFile) -> Initramfs {
        Initramfs { archive: BufWriter::new(file.reopen().unwrap()), directories: BTreeSet::new() }
    }

    #[test]
    fn what_has_no_room_in_the_machine_is_said() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut archive = archive_in(&file);
        archive.add("/file", 0o644, &vec![0; 80 << 20]).unwrap();
        let error = archive.finish(256 << 20).unwrap_err().to_string();
        assert!(
            error.starts_with("81 MiB of files have no room in a machine with 256 MiB")
                && error.contains("--mem 384M"),
            "{error}"
        );
    }

    #[test]
    fn archive_has_each_directory_once_and_first() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut archive = archive_in(&file);
        archive.add("/a/b/one", 0o644, b"1").unwrap();
        archive.add("/a/b/two", 0o755, b"22").unwrap();
        archive.finish(1 << 30).unwrap();
        let mut names = Vec::new();
        let mut input = File::open(file.path()).unwrap();
        loop {
            let reader = cpio::newc::Reader::new(input).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push((reader.entry().name().to_owned(), reader.entry().mode(), reader.entry().file_size()));
            input = reader.finish().unwrap();
        }
        let expected =
            [("a", 0o040755, 0), ("a/b", 0o040755, 0), ("a/b/one", 0o100644, 1), ("a/b/two", 0o100755, 2)];
        assert_eq!(names, expected.map(|(name, mode, size)| (name.to_owned(), mode, size)));
    }
}
