//! How long it takes from power-on until resumed programs run, by how much their view maps.

use anyhow::{Context, Result, bail};
use bench::row::{Row, Where};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Objects that the program's view maps when the power fails.
const MAPPED: [u32; 3] = [1, 100, 10_000];

/// Kills a machine whose program is resumable and maps objects, starts it again and again, and reads what the resumed program says.
pub(crate) fn rows(twzvmm: &Path, rounds: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for objects in MAPPED {
        let folder = tempfile::tempdir_in("/dev/shm").context("cannot make a folder in /dev/shm")?;
        let pool = folder.path().join("pool.img");
        let command = || {
            let mut command = Command::new(twzvmm);
            command
                .arg("--pmem")
                .arg(&pool)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null());
            command
        };
        let mut first = command();
        first.args(["--create", "512M", "--", "resumes", "mapped", &objects.to_string()]);
        lines_until_ready(first)?;
        let (mut begun, mut touched) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let lines = lines_until_ready(command())?;
            let of = |what: &str| {
                let line = lines.iter().find_map(|line| line.strip_prefix(what)?.strip_suffix(" ns"));
                line.and_then(|number| number.trim().parse::<f64>().ok())
                    .with_context(|| format!("the resumed program did not say {what:?}: {lines:?}"))
            };
            begun.push(of("begun ")? / 1e6);
            touched.push(of("touched ")? / 1e6);
        }
        let row = |what: &str, samples: &[f64]| {
            let name = format!("{what}, {objects} objects mapped");
            Row::new("resume", &name, Where::Guest, "ms", samples)
        };
        rows.push(row("power-on to the resumed program's first line", &begun));
        rows.push(row("power-on until it has read a word of each", &touched));
    }
    Ok(rows)
}

/// What a machine prints until its program is ready; then the power fails.
fn lines_until_ready(mut command: Command) -> Result<Vec<String>> {
    let mut running = command.spawn().context("cannot run twzvmm")?;
    let output = running.stdout.take().context("the output is piped")?;
    let mut lines = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line == "ready" {
            running.kill()?;
            running.wait()?;
            return Ok(lines);
        }
        lines.push(line);
    }
    bail!("it ended before it was ready ({}): {lines:?}", running.wait()?)
}
