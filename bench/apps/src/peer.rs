//! A peer: a C program, compiled here and spoken to over pipes, so that both sides run in turns.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Where Debian puts the example sources of libpmemobj-dev.
const EXAMPLES: &str = "/usr/share/doc/libpmemobj-dev/examples";

/// A peer program that is running.
pub(crate) struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// PMDK's example maps.
    pub(crate) fn pmdk(folder: &Path, data: &Path) -> Result<Self> {
        let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/pmdk.c").to_string();
        let hash = format!("{EXAMPLES}/hashmap");
        let tree = format!("{EXAMPLES}/tree_map");
        let sources = [ours, format!("{hash}/hashmap_tx.c"), format!("{tree}/rbtree_map.c")];
        let flags = [format!("-I{hash}"), format!("-I{tree}"), "-lpmemobj".to_string()];
        Self::start("pmdk", folder, &sources, &flags, data)
    }

    /// LMDB.
    pub(crate) fn lmdb(folder: &Path, data: &Path) -> Result<Self> {
        let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/lmdb.c").to_string();
        Self::start("lmdb", folder, &[ours], &["-llmdb".to_string()], data)
    }

    fn start(name: &str, folder: &Path, sources: &[String], flags: &[String], data: &Path) -> Result<Self> {
        let program = folder.join(name);
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-o"]).arg(&program).args(sources).args(flags);
        let output = compiler.output().context("cannot run the C compiler")?;
        if !output.status.success() {
            bail!("cc cannot build {name}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let mut child = Command::new(&program)
            .arg(data)
            .env("PMEM_IS_PMEM_FORCE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let (input, output) = (child.stdin.take().context("pipe")?, child.stdout.take().context("pipe")?);
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    /// Nanoseconds an operation of `count` operations.
    pub(crate) fn measure(&mut self, what: &str, count: u64) -> Result<f64> {
        writeln!(self.input, "{what} {count}").context("cannot ask the peer")?;
        let mut line = String::new();
        self.output.read_line(&mut line).context("cannot hear the peer")?;
        line.trim().parse().with_context(|| format!("the peer answered {line:?} to {what}"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
