//! Peers: programs that are spoken to over pipes, so that both sides run in turns. Most are in C, and compiled here.
//!
//! A peer reads lines of words that end in a count, and answers each with the nanoseconds that an operation took (`peers/peer.h`). One that
//! cannot be built, for want of its library, costs the rows their peer, not the run: they say so. A program on Twizzler that speaks likewise is
//! run by `twzvmm` ([`Peer::on_twizzler`]).

use crate::row::Row;
use anyhow::{Context, Result, bail};
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};
use tempfile::TempDir;

/// Headers that peers share.
const HEADERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");
/// Where Debian puts the example sources of libpmemobj-dev.
const EXAMPLES: &str = "/usr/share/doc/libpmemobj-dev/examples";

/// Of the pool of a program on Twizzler; sparse. What Figure 6 has at a time takes a sixth of it.
const POOL_SIZE: &str = "2G";

/// A peer program, or why there is none.
#[derive(Debug)]
pub struct Peer(Result<Running, String>);

#[derive(Debug)]
struct Running {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// What goes away with it.
    _folder: Option<TempDir>,
}

impl Peer {
    /// `source`, with these of PMDK's example maps ("hashmap/hashmap_tx.c"), on libpmemobj. Built in `folder`, its pools in `data`.
    #[must_use]
    pub fn pmdk(source: &str, maps: &[&str], folder: &Path, data: &Path) -> Self {
        let mut arguments = vec![source.to_owned()];
        arguments.extend(maps.iter().map(|map| format!("{EXAMPLES}/{map}")));
        arguments.extend(["hashmap", "tree_map"].map(|of| format!("-I{EXAMPLES}/{of}")));
        arguments.push("-lpmemobj".into());
        // Its pools are present, as ours are made to be: what is compared is not who takes whose first touch of a page.
        let present = [("PMEMOBJ_CONF", "prefault.at_create=1")];
        Self::start("pmdk", "libpmemobj-dev", &arguments, &present, folder, data)
    }

    /// `source` on libpmemobj alone, whose pools are as it makes them. Built in `folder`, its pools in `data`.
    #[must_use]
    pub fn pmemobj(source: &str, folder: &Path, data: &Path) -> Self {
        let arguments = [source.to_owned(), "-lpmemobj".into()];
        Self::start("pmemobj", "libpmemobj-dev", &arguments, &[], folder, data)
    }

    /// `source` on LMDB. Built in `folder`, its store in `data`.
    #[must_use]
    pub fn lmdb(source: &str, folder: &Path, data: &Path) -> Self {
        Self::start(
            "lmdb",
            "liblmdb-dev",
            &[source, "-llmdb", "-lpthread", "-lm"].map(str::to_owned),
            &[],
            folder,
            data,
        )
    }

    /// The program `words` on Twizzler, by this `twzvmm`, with a new pool in `data`; or the reason for none.
    #[must_use]
    pub fn on_twizzler(twzvmm: Result<&Path, &str>, words: &[&str], data: &Path) -> Self {
        let start = |twzvmm: &Path| -> Result<Running> {
            let folder = tempfile::tempdir_in(data)?;
            let mut command = Command::new(twzvmm);
            command.arg("--pmem").arg(folder.path().join("pool.img"));
            command.args(["--create", POOL_SIZE, "--"]).args(words);
            Running::spawn(command, Some(folder))
        };
        Self(match twzvmm {
            Ok(twzvmm) => start(twzvmm).map_err(|error| format!("{error:#}")),
            Err(reason) => Err(reason.to_owned()),
        })
    }

    /// Why there is none.
    #[must_use]
    pub fn missing(&self) -> Option<&str> {
        self.0.as_ref().err().map(String::as_str)
    }

    fn start(
        name: &str,
        package: &str,
        arguments: &[String],
        environment: &[(&str, &str)],
        folder: &Path,
        data: &Path,
    ) -> Self {
        Self(Running::start(name, arguments, environment, folder, data).map_err(|error| {
            let reason = format!("{package} is not usable here: {error:#}");
            eprintln!("bench: rows without their peer: {reason}");
            reason.lines().next().unwrap_or_default().to_owned()
        }))
    }

    /// Adds the nanoseconds that an operation takes, of `count`, to `samples`; nothing if there is no peer.
    ///
    /// # Errors
    /// When the peer ends, or answers something else.
    pub fn measure(&mut self, what: impl Display, count: u64, samples: &mut Vec<f64>) -> Result<()> {
        let [sample] = self.measure_all(what, count)?;
        samples.extend(sample);
        Ok(())
    }

    /// The same of a question that has `N` answers; nothing each if there is no peer.
    ///
    /// # Errors
    /// As for one.
    pub fn measure_all<const N: usize>(
        &mut self,
        what: impl Display,
        count: u64,
    ) -> Result<[Option<f64>; N]> {
        match &mut self.0 {
            Ok(running) => running.ask(&what, count).map(|answers: [f64; N]| answers.map(Some)),
            Err(_) => Ok([None; N]),
        }
    }

    /// `row` with what this peer took beside, or with the reason for nothing.
    #[must_use]
    pub fn put_beside(&self, row: Row, name: &str, samples: &[f64]) -> Row {
        match &self.0 {
            Ok(_) => row.beside(name, samples),
            Err(reason) => row.without(name, reason),
        }
    }
}

impl Running {
    fn start(
        name: &str,
        arguments: &[String],
        environment: &[(&str, &str)],
        folder: &Path,
        data: &Path,
    ) -> Result<Self> {
        let program = folder.join(name);
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-I", HEADERS, "-o"]).arg(&program).args(arguments);
        let output = compiler.output().context("the C compiler does not run")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let error = said.lines().find(|line| line.contains("error")).unwrap_or("it says nothing");
            bail!("cc cannot build {name}: {error}");
        }
        let mut command = Command::new(&program);
        command.arg(data).env("PMEM_IS_PMEM_FORCE", "1").envs(environment.iter().copied());
        Self::spawn(command, None)
    }

    fn spawn(mut command: Command, folder: Option<TempDir>) -> Result<Self> {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child =
            spawned.with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let (input, output) = (child.stdin.take().context("pipe")?, child.stdout.take().context("pipe")?);
        Ok(Self { child, input, output: BufReader::new(output), _folder: folder })
    }

    fn ask<const N: usize>(&mut self, what: &impl Display, count: u64) -> Result<[f64; N]> {
        let asked = writeln!(self.input, "{what} {count}").context("cannot ask the peer");
        let mut line = String::new();
        self.output.read_line(&mut line).context("cannot hear the peer")?;
        self.settle();
        if line.is_empty() {
            asked?; // one that has ended may have said why before: then that is what counts
        }
        let numbers = line.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>().ok();
        let numbers = numbers.and_then(|numbers| numbers.try_into().ok());
        numbers.with_context(|| format!("the peer answered {line:?} to {what}"))
    }
}

impl Running {
    /// Waits until it does nothing any more, for a tenth of a second at most: a machine goes on for most of a millisecond after its program has
    /// answered, on the CPU that we want next.
    fn settle(&self) {
        let tasks = PathBuf::from(format!("/proc/{}/task", self.child.id()));
        let deadline = Instant::now() + Duration::from_millis(100);
        while is_running(&tasks) && Instant::now() < deadline {
            thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Whether a thread of these runs, or could.
fn is_running(tasks: &Path) -> bool {
    let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
    let runs = |task: fs::DirEntry| {
        // The state follows the name, which is in parentheses and may hold any.
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('R'))
    };
    tasks.into_iter().any(runs)
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Where;

    fn of(source: &str, folder: &Path) -> Peer {
        let path = folder.join("peer.c");
        std::fs::write(&path, source).unwrap();
        Peer::start("peer", "no package", &[path.display().to_string()], &[], folder, folder)
    }

    #[test]
    fn it_answers() {
        let folder = tempfile::tempdir().unwrap();
        let source = "#include \"peer.h\"\nint main(void) { char what[9]; uint64_t n;\n\
            while (scanf(\"%8s %\" SCNu64, what, &n) == 2) answer(2.5 * n, n); return 0; }\n";
        let mut peer = of(source, folder.path());
        let mut samples = Vec::new();
        peer.measure("get", 1000, &mut samples).unwrap();
        peer.measure("get", 10, &mut samples).unwrap();
        assert_eq!(samples, [2.5, 2.5]);
        let row = peer.put_beside(Row::new("g", "n", Where::Hosted, "ns", &[5.0]), "C", &samples);
        assert_eq!((row.ratio, row.skipped), (Some(2.0), None));
        assert!(peer.measure_all::<2>("get", 10).is_err(), "it answers one number");
    }

    #[test]
    fn one_that_goes_on_after_its_answer_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let source = "#include \"peer.h\"\nint main(void) { char what[9]; uint64_t n;\n\
            while (scanf(\"%8s %\" SCNu64, what, &n) == 2) { answer(0, n); double begun = now(); while (now() - begun < n * 1e6); } return 0; }\n";
        let mut peer = of(source, folder.path());
        let mut after = |milliseconds| {
            let begun = Instant::now();
            peer.measure("go", milliseconds, &mut Vec::new()).unwrap();
            begun.elapsed()
        };
        assert!(after(30) >= Duration::from_millis(30));
        assert!(after(10_000) < Duration::from_secs(5), "but not for long");
    }

    #[test]
    fn one_that_fails_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let source = "#include <stdio.h>\nint main(void) { puts(\"failed: no room\"); return 0; }\n";
        let error = of(source, folder.path()).measure("get", 1, &mut Vec::new()).unwrap_err();
        assert!(format!("{error:#}").contains("failed: no room"), "{error:#}");
        let mut none = Peer::on_twizzler(Err("no KVM"), &["libbench"], folder.path());
        assert_eq!(none.measure_all::<2>("kv", 1).unwrap(), [None; 2]);
        assert_eq!(none.missing(), Some("no KVM"));
        let missing = folder.path().join("twzvmm");
        let none = Peer::on_twizzler(Ok(&missing), &["libbench"], folder.path());
        assert!(none.missing().is_some_and(|reason| reason.contains("cannot start")));
    }

    #[test]
    fn a_missing_one_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let mut peer = of("#include <no_such_library.h>\n", folder.path());
        let mut samples = Vec::new();
        peer.measure("get", 1000, &mut samples).unwrap();
        let row = peer.put_beside(Row::new("g", "n", Where::Hosted, "ns", &[5.0]), "C", &samples);
        let row = row.ratio_at_most(1.0);
        assert_eq!((row.ratio, row.holds), (None, None));
        assert!(row.skipped.is_some_and(|reason| reason.contains("no_such_library.h")));
    }
}
