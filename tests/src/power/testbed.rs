//! The same in the testbed, on `/dev/dax0.0`: the power of a whole emulated machine is cut.
//!
//! # Contract
//! - One [`Campaign::boot`] is one power-on: each life of the load in it is judged as a round is, with `fsck` between any two, and the machine's power is
//!   cut at the end, whatever it does then.
//! - Only what came out of the machine counts as acknowledged; what was done beyond it is held against the model all the same.
//! - The only thing that goes from one boot to the next is the NVDIMM's file.

use super::{AT_ONCE, Campaign, Load};
use crate::{Output, Running, binary, start};
use rustix::process::Signal;
use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Size of the NVDIMM: the smaller, the sooner a shadow of it is made.
const NVDIMM: &str = "32M";
/// Memory of the emulated machine; it boots faster than with more.
const MEMORY: &str = "512M";
/// Time limit of a boot, in seconds: the testbed ends what takes longer. One with lives that lose lines takes 20 s on an idle host.
const BOOT_LIMIT: u64 = 1200;
/// Should it not. Larger by far, since the testbed may have to wait for its turn.
const TESTBED_LIMIT: Duration = Duration::from_secs(3600);
/// Announcements that may be lost with the power of the emulated machine: what its output port can hold (64 KiB), in lines of at least 13 bytes.
const ON_THEIR_WAY: u64 = (64 << 10) / 13;
/// What the script says before a life that loses lines, and before one that does not.
const LIFE: &str = "next life";
/// Before a life without such a shadow, in which the load runs until the power is cut.
const LAST_LIFE: &str = "last life";
/// What the script says behind a life that ended by itself, with its status.
const ENDED: &str = "life ended with ";
/// How often the machine's output is looked at.
const GLANCE: Duration = Duration::from_millis(2);

/// When the power of an emulated machine is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineCut {
    /// So many milliseconds after its first sign of life: in a check of the pool, in the start of `twzvmm`, in whichever life it has come to.
    Early {
        /// Milliseconds.
        after_ms: u64,
    },
    /// So many milliseconds after the load's first announcement in the last life.
    UnderLoad {
        /// Milliseconds.
        after_ms: u64,
    },
}

impl Campaign {
    /// A boot with `lives` that lose unflushed lines, and then one that goes on until the machine's power is cut.
    ///
    /// # Errors
    /// As [`Campaign::round`].
    pub fn boot(&mut self, lives: u64, cut: MachineCut) -> Result<(), String> {
        self.note(&format_args!("a boot with {lives} lives that lose lines, then {cut:?}"));
        let script = self.script(lives);
        let mut command = Command::new(binary("testbed"));
        command.arg("--pmem").arg(self.folder.path().join("nv.img")).args(["--pmem-size", NVDIMM]);
        command.arg("--bin-dir").arg(self.only_twzvmm()?).args(["--mem", MEMORY, "--smp", "1"]);
        command.args(["--timeout", &BOOT_LIMIT.to_string(), "--", "sh", "-c", &script]);
        let running = start(command);
        let is_reached = match cut {
            MachineCut::Early { .. } => {
                hears(&running, |said| said.contains(LIFE) || said.contains(LAST_LIFE))
            }
            MachineCut::UnderLoad { .. } => {
                let announced = self.line("done");
                hears(&running, |said| {
                    said.rsplit_once(LAST_LIFE).is_some_and(|(_, life)| life.contains(&announced))
                })
            }
        };
        let (MachineCut::Early { after_ms } | MachineCut::UnderLoad { after_ms }) = cut;
        if is_reached {
            sleep(Duration::from_millis(after_ms));
        }
        // The testbed kills the emulator at once, and ends.
        running.signal(Signal::TERM);
        let output = running.wait(TESTBED_LIMIT);
        if !is_reached || output.status != 128 + Signal::TERM.as_raw() {
            return Err(format!(
                "{cut:?}: the testbed ended with {}:\n{}\n{}",
                output.status, output.stdout, output.stderr
            ));
        }
        self.tally.machines += 1;
        self.judge_lives(&output.stdout).map_err(|what| {
            format!("{cut:?} after {lives} lives: {what}\n--- all of the boot\n{}", output.stdout)
        })?;
        self.unheard = ON_THEIR_WAY;
        Ok(())
    }

    fn judge_lives(&mut self, stdout: &str) -> Result<(), String> {
        let marked = stdout.replace(&format!("{LAST_LIFE}\n"), &format!("{LIFE}\n"));
        for life in marked.split(&format!("{LIFE}\n")).skip(1) {
            // Behind the load's last line, which may lack its end.
            let (said, status) = match life.rsplit_once(ENDED) {
                Some((said, status)) if status.ends_with('\n') => (said, status.trim_end().parse().ok()),
                _ => (life, None),
            };
            self.tally.cuts += u64::from(status == Some(137));
            // What twzvmm says on standard error is among it. A life without an end was in the machine's last moments.
            let (stdout, stderr) = (said.to_owned(), said.to_owned());
            self.judge(&Output { status: status.unwrap_or(137), stdout, stderr }, AT_ONCE)?;
        }
        Ok(())
    }

    /// What the machine is to do.
    fn script(&mut self, lives: u64) -> String {
        let mut script = String::new();
        for _ in 0..lives {
            let (seed, events) = (self.lot(u64::MAX), self.lot(self.load.events_max()));
            add_life(&mut script, self.load, self.seed, LIFE, &format!("--power-cut {seed}:{events}"));
        }
        // One that is set aside, or was not yet to be resumed, ends by itself, and makes room for the next.
        for _ in 0..3 {
            add_life(&mut script, self.load, self.seed, LAST_LIFE, "");
        }
        script
    }

    /// A folder with nothing but `twzvmm`: what is not copied into the machine need not be waited for.
    fn only_twzvmm(&self) -> Result<std::path::PathBuf, String> {
        let folder = self.folder.path().join("bin");
        let program = folder.join("twzvmm");
        if !program.exists() {
            fs::create_dir_all(&folder)
                .and_then(|()| fs::copy(binary("twzvmm"), &program))
                .map_err(|error| format!("cannot copy twzvmm to {}: {error}", folder.display()))?;
        }
        Ok(folder)
    }
}

/// Waits until what it said on standard output is as wanted; false if it ends, or a boot's time, before.
fn hears(running: &Running, is_wanted: impl Fn(&str) -> bool) -> bool {
    let until = Instant::now() + TESTBED_LIMIT;
    while Instant::now() < until {
        let has_ended = running.ends_within(GLANCE);
        if is_wanted(&running.said()) {
            return true;
        }
        if has_ended {
            return false;
        }
    }
    false
}

/// A life: a check of the pool, if there is one, and the load, resumed or started.
fn add_life(script: &mut String, load: Load, seed: u64, title: &str, options: &str) {
    let name = load.name();
    // Writing to a string cannot fail.
    let _ = writeln!(
        script,
        "echo {title}; \
         if twzvmm pool info /dev/dax0.0 >/dev/null 2>&1; then \
           twzvmm pool fsck /dev/dax0.0 >fsck.txt 2>&1 || {{ sed 's/^/{name}: fsck: /' fsck.txt; }}; \
           twzvmm resume ls --json --pmem /dev/dax0.0 | grep -q set-aside && twzvmm resume retry --pmem /dev/dax0.0 1; \
         fi; \
         program='-- {name} {seed}'; \
         twzvmm resume ls --json --pmem /dev/dax0.0 2>/dev/null | grep -q resumable && program=; \
         twzvmm --pmem /dev/dax0.0 --create 0 --mem 32M {options} $program 2>&1; \
         echo {ENDED}$?"
    );
}

/// Power cuts of emulated machines at random moments, `count` of them: three of four under load, one in the middle of anything; in one of four there are
/// other lives before, which lose unflushed lines.
///
/// # Errors
/// As [`Campaign::round`].
pub fn boots(campaign: &mut Campaign, count: u64) -> Result<(), String> {
    const LIVES: u64 = 3;
    for number in 0..count {
        let lives = if number % 4 == 1 { LIVES } else { 0 };
        let cut = match campaign.lot(4) {
            0 => MachineCut::Early { after_ms: campaign.lot(1500 + lives * 3000) },
            _ => MachineCut::UnderLoad { after_ms: campaign.lot(1500) },
        };
        campaign.boot(lives, cut)?;
    }
    // What the last one left.
    let states = campaign.tally.states;
    campaign.boot(0, MachineCut::UnderLoad { after_ms: 0 })?;
    if campaign.tally.states == states {
        return Err("it does not come up any more".into());
    }
    Ok(())
}
