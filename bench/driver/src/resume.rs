//! How long it takes from power-on until resumed programs run, by how much their view maps.

use anyhow::{Context, Result, bail};
use bench::row::{Row, Where};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Objects that the program's view maps when the power fails, and the most rounds in which it goes on until it has touched them all: where ring 0 is
/// interpreted, that takes most of a millisecond for each.
const MAPPED: [(u32, usize); 3] = [(1, usize::MAX), (100, usize::MAX), (10_000, 3)];

/// Kills a machine whose program is resumable and maps objects, starts it again and again, and reads what the resumed program says.
pub(crate) fn rows(twzvmm: &Path, data: &Path, rounds: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (objects, touching_rounds) in MAPPED {
        let folder = tempfile::tempdir_in(data)?;
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
        lines_until(first, "ready")?;
        let (mut begun, mut touched) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let touches = round < touching_rounds;
            let lines = lines_until(command(), if touches { "ready" } else { "begun " })?;
            let of = |what: &str| {
                let line = lines.iter().find_map(|line| line.strip_prefix(what)?.strip_suffix(" ns"));
                line.and_then(|number| number.trim().parse::<f64>().ok())
                    .with_context(|| format!("the resumed program did not say {what:?}: {lines:?}"))
            };
            begun.push(of("begun ")? / 1e6);
            if touches {
                touched.push(of("touched ")? / 1e6);
            }
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
