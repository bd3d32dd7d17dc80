//! The same in the testbed, on `/dev/dax0.0`.
//!
//! One boot is one round: some lives of the load whose power fails inside of the machine, with lost lines; then one in which the power of the
//! emulated machine is cut, at a random moment. Between two lives, `fsck`.

use super::{AT_ONCE, Campaign, Load};
use crate::{Output, binary, start};
use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

/// Size of the NVDIMM: the smaller, the sooner a shadow of it is made.
const NVDIMM: &str = "32M";
/// Time limit of a boot, in seconds.
const BOOT_LIMIT: u64 = 240;
/// Announcements that may be lost with the power of the emulated machine: what its output port can hold (64 KiB), in lines of at least 13 bytes.
const ON_THEIR_WAY: u64 = (64 << 10) / 13;
/// What separates the lives in the output.
const LIFE: &str = "next life";

impl Campaign {
    /// A boot with `cuts` lives that lose lines, and a power cut so many milliseconds after the first of them began; `None`: when the load has
    /// announced an operation.
    ///
    /// # Errors
    /// As [`Campaign::round`].
    pub fn boot(&mut self, cuts: u64, after_ms: Option<u64>) -> Result<(), String> {
        self.note(&format_args!("a boot with {cuts} cuts"));
        let load = self.load;
        let mut script = String::new();
        for _ in 0..cuts {
            let (seed, events) = (self.lot(u64::MAX), self.lot(600));
            add_life(&mut script, load, self.seed, &format!("--power-cut {seed}:{events}"));
        }
        add_life(&mut script, load, self.seed, "");
        let mut command = Command::new(binary("testbed"));
        command.arg("--pmem").arg(self.folder.path().join("nv.img")).args(["--pmem-size", NVDIMM]);
        command.args(["--timeout", &BOOT_LIMIT.to_string()]);
        let cut = after_ms.map_or_else(|| self.line("done"), |after_ms| after_ms.to_string());
        command.args(["--power-cut", &cut, "--", "sh", "-c", &script]);
        let output = start(command).wait(Duration::from_secs(BOOT_LIMIT + 60));
        if output.status != 137 {
            return Err(format!(
                "the testbed ended with {}:\n{}\n{}",
                output.status, output.stdout, output.stderr
            ));
        }
        self.tally.kills += 1;
        for life in output.stdout.split(&format!("{LIFE}\n")).skip(1) {
            let stdout = life.to_owned();
            self.tally.cuts += u64::from(life.contains("power failed"));
            // What twzvmm says on standard error is among it.
            let one = Output { status: 137, stderr: stdout.clone(), stdout };
            self.judge(&one, AT_ONCE)
                .map_err(|what| format!("{what}\n--- all of the boot\n{}", output.stdout))?;
        }
        self.unheard = ON_THEIR_WAY;
        Ok(())
    }
}

/// A life: a check of the pool, if there is one, and the load, resumed or started.
fn add_life(script: &mut String, load: Load, seed: u64, options: &str) {
    let name = load.name();
    // Writing to a string cannot fail.
    let _ = writeln!(
        script,
        "echo {LIFE}; \
         if twzvmm pool info /dev/dax0.0 >/dev/null 2>&1; then \
           twzvmm pool fsck /dev/dax0.0 >fsck.txt 2>&1 || {{ sed 's/^/{name}: fsck: /' fsck.txt; }}; \
           twzvmm resume ls --json --pmem /dev/dax0.0 | grep -q set-aside && twzvmm resume retry --pmem /dev/dax0.0 1; \
         fi; \
         program='-- {name} {seed}'; \
         twzvmm resume ls --json --pmem /dev/dax0.0 2>/dev/null | grep -q resumable && program=; \
         twzvmm --pmem /dev/dax0.0 --create 0 --mem 32M {options} $program 2>&1; \
         [ $? = 137 ] && echo power failed"
    );
}

/// Boots with lost lines and power cuts, `count` of them.
///
/// # Errors
/// As [`Campaign::round`].
pub fn boots(campaign: &mut Campaign, count: u64, cuts_each: u64) -> Result<(), String> {
    for _ in 0..count {
        let after_ms = 2_000 + cuts_each * 2_500 + campaign.lot(9_000);
        campaign.boot(cuts_each, Some(after_ms))?;
    }
    campaign.boot(0, None)
}
