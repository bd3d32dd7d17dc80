//! Machines that tests run `twzvmm` on: this host, or one in the testbed.
//!
//! Starting the testbed takes seconds, so a [`Machine`] takes a list of commands and runs them all in one boot.

use crate::{Facility, Output, available, binary, start};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Time limit of a whole boot of the testbed with its commands: some ten times what it takes on an idle host.
const TESTBED_LIMIT: Duration = Duration::from_secs(240);
/// What a job may take of it, in limits for this host.
const TESTBED_FACTOR: u32 = 10;
/// A job's limit if it says nothing.
const USUAL_LIMIT: Duration = Duration::from_secs(20);
/// The same as [`TESTBED_LIMIT`] for the Intel machine.
const INTEL_LIMIT: Duration = Duration::from_secs(900);

/// Which machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// This host, through its own `/dev/kvm`.
    Local,
    /// The testbed's AMD machine; `/dev/dax0.0` has this alignment ("4K" or "2M").
    Testbed {
        /// As `testbed --align` takes it.
        align: &'static str,
    },
    /// The testbed's Intel machine.
    TestbedIntel,
}

/// A command and its limits.
#[derive(Clone, Debug)]
pub struct Job {
    /// The program, found among the project's and then in the PATH, and its arguments.
    pub words: Vec<String>,
    /// Time limit on this host; a testbed's is ten times that.
    pub limit: Duration,
}

impl Job {
    /// A command with a limit of 20 s.
    pub fn new(words: &[&str]) -> Job {
        Job { words: words.iter().map(|word| (*word).to_owned()).collect(), limit: USUAL_LIMIT }
    }
}

/// A machine whose persistent memory lives as long as this value, over any number of boots (the Intel machine's: one).
pub struct Machine {
    place: Place,
    files: Vec<(PathBuf, String)>,
    directory: tempfile::TempDir,
}

impl Machine {
    /// The machine, or `None` (said aloud) if this host cannot have it.
    ///
    /// # Panics
    /// If `TWZ_REQUIRE` names what is missing.
    pub fn new(place: Place) -> Option<Machine> {
        let facility = match place {
            Place::Local => Facility::Kvm,
            Place::Testbed { .. } => Facility::Testbed,
            Place::TestbedIntel => Facility::TestbedIntel,
        };
        let directory = || tempfile::tempdir().expect("there is room for temporary files");
        available(facility).then(|| Machine { place, files: Vec::new(), directory: directory() })
    }

    /// Where a pool is kept: a file here, `/dev/dax0.0` in the testbed.
    pub fn pool(&self) -> String {
        match self.place {
            Place::Local => self.directory.path().join("pool.img").to_str().expect("a plain path").to_owned(),
            Place::Testbed { .. } | Place::TestbedIntel => "/dev/dax0.0".to_owned(),
        }
    }

    /// A directory for files of a test: on this host, or in the machine's memory until it is off.
    pub fn scratch(&self) -> String {
        match self.place {
            Place::Local => self.directory.path().to_str().expect("a plain path").to_owned(),
            Place::Testbed { .. } | Place::TestbedIntel => "/root".to_owned(),
        }
    }

    /// Puts a file into the machine's scratch directory, under this name.
    ///
    /// # Panics
    /// If it cannot be copied.
    pub fn add_file(&mut self, path: &Path, name: &str) {
        match self.place {
            Place::Local => {
                let copied = std::fs::copy(path, self.directory.path().join(name));
                copied.unwrap_or_else(|error| panic!("cannot copy {}: {error}", path.display()));
            }
            Place::Testbed { .. } | Place::TestbedIntel => {
                self.files.push((path.to_owned(), name.to_owned()))
            }
        }
    }

    /// Runs one command; in the testbed that is one boot.
    pub fn run(&self, words: &[&str]) -> Output {
        let mut outputs = self.run_all(&[Job::new(words)]);
        outputs.remove(0)
    }

    /// Runs commands one after the other, whatever their status; in the testbed all in one boot.
    ///
    /// # Panics
    /// If the machine does not come up, or not to the end of the list.
    pub fn run_all(&self, jobs: &[Job]) -> Vec<Output> {
        match self.place {
            Place::Local => jobs.iter().map(|job| self.run_here(job)).collect(),
            Place::Testbed { .. } | Place::TestbedIntel => self.run_in_testbed(jobs),
        }
    }

    /// A command for this host, to be started by the caller; `None` if the machine is another.
    pub fn local_command(&self, words: &[&str]) -> Option<Command> {
        (self.place == Place::Local).then(|| self.command(&Job::new(words).words))
    }

    fn run_here(&self, job: &Job) -> Output {
        start(self.command(&job.words)).wait(job.limit)
    }

    fn command(&self, words: &[String]) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(&words[0]);
        command.env("PATH", format!("{}:{path}", crate::binary_directory().display()));
        command.args(&words[1..]).current_dir(self.directory.path());
        command
    }

    /// Boots the testbed for a shell script, and cuts the power as soon as it prints a line that contains `marker`; what it
    /// printed until then.
    ///
    /// # Panics
    /// If the machine does not come up, or the script ends before.
    pub fn run_until_power_cut(&self, script: &str, marker: &str) -> String {
        let output = self.testbed(&["--power-cut", marker], &["sh", "-c", script], Duration::ZERO);
        output.expect_status(137);
        output.stdout
    }

    fn run_in_testbed(&self, jobs: &[Job]) -> Vec<Output> {
        let script = self.directory.path().join("jobs.sh");
        std::fs::write(&script, batch_script(jobs)).expect("there is room for temporary files");
        let script = format!("{}:/twz/jobs.sh", script.display());
        // Jobs that say that they take long get their time; the usual limits together are far beyond what a boot may take.
        let long = jobs.iter().map(|job| job.limit).filter(|limit| *limit > USUAL_LIMIT).sum::<Duration>();
        let output = self.testbed(&["--file", &script], &["sh", "/twz/jobs.sh"], long * TESTBED_FACTOR);
        output.expect_status(0);
        parse_batch(&output.stdout, jobs.len()).unwrap_or_else(|| {
            panic!("the testbed's answer is garbled:\n{}\n{}", output.stdout, output.stderr)
        })
    }

    /// One boot of the testbed's machine, with `more` time than usual.
    fn testbed(&self, options: &[&str], words: &[&str], more: Duration) -> Output {
        let mut command = Command::new(binary("testbed"));
        let limit = if self.place == Place::TestbedIntel { INTEL_LIMIT } else { TESTBED_LIMIT } + more;
        match self.place {
            Place::Testbed { align } => {
                command.args(["--cpu", "amd", "--mem", "1G", "--align", align, "--pmem"]);
                command.arg(self.directory.path().join("nv.img"));
            }
            Place::TestbedIntel => drop(command.args(["--cpu", "intel"])),
            Place::Local => panic!("this host has no power switch"),
        }
        command.args(["--timeout", &limit.as_secs().to_string()]).args(options);
        command.arg("--bin-dir").arg(crate::binary_directory());
        for (path, name) in &self.files {
            command.arg("--file").arg(format!("{}:/root/{name}", path.display()));
        }
        command.arg("--").args(words);
        start(command).wait(limit + Duration::from_secs(30))
    }
}

/// A script that runs all jobs and prints, for each, a line "status, bytes of stdout, bytes of stderr" and these bytes.
fn batch_script(jobs: &[Job]) -> String {
    let mut script = String::new();
    for job in jobs {
        let words: Vec<String> =
            job.words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
        let seconds = (job.limit * TESTBED_FACTOR).as_secs();
        script += &format!(
            "timeout -s KILL {seconds} {} </dev/null >/tmp/out 2>/tmp/err\n\
             echo $? $(wc -c </tmp/out) $(wc -c </tmp/err)\ncat /tmp/out /tmp/err\n",
            words.join(" ")
        );
    }
    script
}

/// Reads what [`batch_script`] printed. Lengths count bytes, so the streams must be UTF-8.
fn parse_batch(mut text: &str, count: usize) -> Option<Vec<Output>> {
    let mut outputs = Vec::new();
    for _ in 0..count {
        let (line, rest) = text.split_once('\n')?;
        let numbers: Vec<usize> = line.split(' ').map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let [status, out, err] = numbers[..] else { return None };
        let stdout = rest.get(..out)?.to_owned();
        let stderr = rest.get(out..out + err)?.to_owned();
        text = &rest[out + err..];
        outputs.push(Output { status: i32::try_from(status).ok()?, stdout, stderr });
    }
    text.is_empty().then_some(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_comes_back_as_it_went() {
        let jobs = [
            Job::new(&["sh", "-c", "echo 'it'\\''s'; printf no-newline >&2; exit 7"]),
            Job::new(&["true"]),
            Job::new(&["printf", "1 2 3\n"]),
        ];
        let place = tempfile::tempdir().unwrap();
        let script = place.path().join("jobs.sh");
        std::fs::write(&script, batch_script(&jobs)).unwrap();
        let mut command = Command::new("sh");
        command.arg(script);
        let output = start(command).wait(Duration::from_secs(10));
        let outputs = parse_batch(&output.stdout, jobs.len()).unwrap();
        assert_eq!(
            (outputs[0].status, &*outputs[0].stdout, &*outputs[0].stderr),
            (7, "it's\n", "no-newline")
        );
        assert_eq!((outputs[1].status, &*outputs[1].stdout), (0, ""));
        assert_eq!((outputs[2].status, &*outputs[2].stdout), (0, "1 2 3\n"));
    }

    #[test]
    fn garbled_batches_are_refused() {
        assert!(parse_batch("0 1 0\n", 1).is_none());
        assert!(parse_batch("0 1 0\nab", 1).is_none());
        assert!(parse_batch("x 1 0\na", 1).is_none());
        assert!(parse_batch("", 1).is_none());
    }
}
