//! How long it takes from power-on until resumed programs run, by how much their view maps.

use anyhow::{Context, Result, bail};
use bench::row::{Row, Where};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Objects that the program's view maps when the power fails.
const MAPPED: [u32; 3] = [1, 100, 10_000];
/// The most that it goes on to touch in a quick run: where ring 0 is interpreted, each takes most of a millisecond.
const TOUCHED_QUICKLY: u32 = 1000;

/// A machine with a resumable program, whose power fails again and again.
struct Machine<'a> {
    twzvmm: &'a Path,
    folder: TempDir,
    objects: u32,
    begun: Vec<f64>,
    touched: Vec<f64>,
}

impl<'a> Machine<'a> {
    /// Starts the program, waits until it maps `objects`, and kills it.
    fn new(twzvmm: &'a Path, data: &Path, objects: u32) -> Result<Self> {
        let folder = tempfile::tempdir_in(data)?;
        let machine = Self { twzvmm, folder, objects, begun: Vec::new(), touched: Vec::new() };
        let mut first = machine.command();
        first.args(["--create", "512M", "--", "resumes", "mapped", &objects.to_string()]);
        lines_until(first, "ready")?;
        Ok(machine)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.twzvmm);
        command.arg("--pmem").arg(self.folder.path().join("pool.img"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    /// Starts it again, reads what the resumed program says, and kills it.
    fn round(&mut self, touches: bool) -> Result<()> {
        let lines = lines_until(self.command(), if touches { "ready" } else { "begun " })?;
        let of = |what: &str| {
            let line = lines.iter().find_map(|line| line.strip_prefix(what)?.strip_suffix(" ns"));
            line.and_then(|number| number.trim().parse::<f64>().ok())
                .with_context(|| format!("the resumed program did not say {what:?}: {lines:?}"))
        };
        self.begun.push(of("begun ")? / 1e6);
        if touches {
            self.touched.push(of("touched ")? / 1e6);
        }
        Ok(())
    }
}

/// How long it takes until programs go on, by how much is mapped.
pub(crate) fn rows(twzvmm: &Path, data: &Path, rounds: usize, quick: bool) -> Result<Vec<Row>> {
    let touches = |objects: u32| !quick || objects <= TOUCHED_QUICKLY;
    let machines = MAPPED.iter().map(|objects| Machine::new(twzvmm, data, *objects));
    let mut machines = machines.collect::<Result<Vec<_>>>()?;
    for _ in 0..rounds {
        machines.iter_mut().try_for_each(|machine| machine.round(touches(machine.objects)))?;
    }
    let mut rows = Vec::new();
    for Machine { objects, begun, touched, .. } in machines {
        let row = |what: &str, samples: &[f64]| {
            let name = format!("{what}, {objects} objects mapped");
            Row::new("resume", &name, Where::Guest, "ms", samples)
        };
        rows.push(row("power-on to the resumed program's first line", &begun));
        let all = row("power-on until it has read a word of each", &touched);
        rows.push(if touches(objects) { all } else { all.skip("takes too long for a quick run") });
    }
    Ok(rows)
}

/// What a machine prints until, and with, a line that begins with `last`; then the power fails.
fn lines_until(mut command: Command, last: &str) -> Result<Vec<String>> {
    let mut running = command.spawn().context("cannot run twzvmm")?;
    let output = running.stdout.take().context("the output is piped")?;
    let mut lines = Vec::new();
    for line in BufReader::new(output).lines() {
        lines.push(line?);
        if lines.last().is_some_and(|line| line.starts_with(last)) {
            running.kill()?;
            running.wait()?;
            return Ok(lines);
        }
    }
    bail!("it ended before it said {last:?} ({}): {lines:?}", running.wait()?)
}
