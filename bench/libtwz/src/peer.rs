//! A peer: a C program, compiled here and spoken to over pipes, so that both sides run in turns on the same CPU.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A peer program that is running.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Compiles `sources` into `directory` and starts the program with its files in `data`.
    pub(crate) fn start(
        name: &str,
        directory: &Path,
        sources: &[String],
        flags: &[String],
        data: &Path,
    ) -> Result<Self> {
        let program = directory.join(name);
        let output = Command::new("cc")
            .args(["-O2", "-o"])
            .arg(&program)
            .args(sources)
            .args(flags)
            .output()
            .context("run the C compiler")?;
        if !output.status.success() {
            bail!("cc cannot build {name}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let mut child = Command::new(&program)
            .arg(data)
            .env("PMEM_IS_PMEM_FORCE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let (input, output) = (child.stdin.take().context("pipe")?, child.stdout.take().context("pipe")?);
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    /// Nanoseconds per operation of `count` operations.
    pub(crate) fn measure(&mut self, what: &str, parameter: u32, count: u64) -> Result<f64> {
        writeln!(self.input, "{what} {parameter} {count}").context("ask the peer")?;
        let mut line = String::new();
        self.output.read_line(&mut line).context("hear the peer")?;
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
