//! Campaigns whose medium fails: a full pool, a full disk, one that fails to write or to read, a file that is truncated.

use super::{AT_ONCE, Campaign, LIMIT};
use crate::{BadReads, Output, Running, binary, start};
use rustix::process::Signal;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a machine on a bad medium may work before its page counts as not needed.
const UNTROUBLED: Duration = Duration::from_secs(2);
/// Pages in the pool's first segment, without which no machine gets on.
const SEGMENT_PAGES: u64 = 512;

impl Campaign {
    /// Fills the pool, lets `churn` meet that, and makes room again.
    ///
    /// # Errors
    /// As [`Campaign::round`].
    pub fn fill(&mut self) -> Result<(), String> {
        // 128 + the fault: out of space.
        let filled = self.run_fill();
        if filled.status != 133 || !filled.stderr.contains("out of space") {
            return Err(format!("filling ended with {}: {}", filled.status, filled.stderr));
        }
        // The other `churn` may have met the full pool in that life.
        self.judge_full(&filled)?;
        let running = self.start(None);
        sleep(Duration::from_millis(300));
        if running.wait_until("churn: the pool is full", Duration::from_secs(5)) {
            sleep(Duration::from_millis(50));
        }
        running.signal(Signal::KILL);
        let output = running.wait(LIMIT);
        self.judge_full(&output)?;
        self.make_room()
    }

    /// Fills the pool on a disk that fails meanwhile: the machine must say so and end, and so must the next one if it meets that.
    ///
    /// # Errors
    /// As [`Campaign::round`].
    pub fn wear_out(&mut self) -> Result<(), String> {
        let filled = self.run_fill();
        self.judge_failed_disk(&filled)?;
        // The next one may find all the blocks that it writes to in place, and then has nothing to complain about.
        let running = self.start(None);
        let ended = running.ends_within(Duration::from_secs(5));
        running.signal(Signal::KILL);
        let next = running.wait(LIMIT);
        if ended { self.judge_failed_disk(&next) } else { self.judge_full(&next) }
    }

    fn judge_failed_disk(&mut self, output: &Output) -> Result<(), String> {
        // It fails in an operation, or at last, when all is written out.
        let said = ["twzvmm: a write to the disk under the pool failed", "twzvmm: cannot sync "];
        if output.status != 2 || !said.iter().any(|said| output.stderr.contains(said)) {
            return Err(format!("a failed disk: status {}, {}", output.status, output.stderr));
        }
        self.judge_full(output)?;
        // Whether its end was recorded cannot be known.
        self.is_listed = false;
        Ok(())
    }

    fn run_fill(&self) -> Output {
        let mut command = Command::new(binary("twzvmm"));
        command.arg("--pmem").arg(self.pool()).args(["--mem", "32M", "--", "churn", "fill"]);
        start(command).wait(LIMIT)
    }

    /// Deletes what filled the pool, and lets the load come up again.
    ///
    /// # Errors
    /// As [`Campaign::round`].
    pub fn make_room(&mut self) -> Result<(), String> {
        self.check_pool()?;
        let mut command = Command::new(binary("twzvmm"));
        command.args(["pool", "rm"]).arg(self.pool()).arg("churn/fill");
        let removed = start(command).wait(LIMIT);
        if removed.status != 0 {
            return Err(format!("making room: {}", removed.stderr));
        }
        self.settle()
    }

    /// A life in which the pool was full, or its disk failed.
    fn judge_full(&mut self, output: &Output) -> Result<(), String> {
        let ended_by_itself = output.stdout.contains("churn: the pool is full");
        let is_told = |line: &str| line.contains("the pool is full") || line.contains("medium failed");
        self.judge_rest(output, is_told, ended_by_itself)
    }

    /// Judges a life that was allowed to end as it did: all that it said but the lines that tell why. One that ended by itself is not resumed.
    fn judge_rest(
        &mut self,
        output: &Output,
        is_told: impl Fn(&str) -> bool,
        ended_by_itself: bool,
    ) -> Result<(), String> {
        let rest = output.stdout.lines().filter(|line| !is_told(line));
        let stdout = rest.map(|line| format!("{line}\n")).collect();
        self.judge(&Output { status: 137, stdout, ..output.clone() }, AT_ONCE)?;
        self.is_running &= !ended_by_itself;
        self.is_listed &= !ended_by_itself;
        Ok(())
    }

    /// Truncates the pool's file under the machine, at a random moment and to any length that cannot go unnoticed: it must say so and end, and so must the
    /// next one; with the file as it was before, all goes on.
    fn truncate(&mut self) -> Result<(), String> {
        let (after_us, length) = (self.lot(60_000), (1 + self.lot(SEGMENT_PAGES)) * 4096);
        self.note(&format_args!("truncating to {length} bytes after {after_us} us"));
        let (pool, copy) = (self.pool(), self.folder.path().join("copy.img"));
        let io = |error: std::io::Error| error.to_string();
        std::fs::copy(&pool, &copy).map_err(io)?;
        let running = self.start(None);
        if !running.wait_until(&self.line("done"), LIMIT) {
            return Err("it does not begin".into());
        }
        sleep(Duration::from_micros(after_us));
        let file = std::fs::File::options().write(true).open(&pool).map_err(io)?;
        file.set_len(length).map_err(io)?;
        let output = running.wait(LIMIT);
        // An error of twzvmm, the fault of a thread, or a program that was told: the medium failed.
        let is_told = ["truncated", "medium"].iter().any(|word| output.stderr.contains(word));
        if ![2, 142, 1].contains(&output.status) || !is_told {
            let Output { status, stdout, stderr } = output;
            return Err(format!("a file truncated to {length}: status {status}, {stdout}{stderr}"));
        }
        let mut command = Command::new(binary("twzvmm"));
        command.arg("--pmem").arg(&pool).args(["--", "counter"]);
        let again = start(command).wait(LIMIT);
        if again.status != 2 || !again.stderr.contains("truncated") {
            return Err(format!("a start on a truncated file: status {}, {:?}", again.status, again.stderr));
        }
        std::fs::rename(&copy, &pool).map_err(io)?;
        self.tally.truncations += 1;
        self.settle()
    }

    /// A healthy life on a medium that can be bad; how many pages were read until some operations were done.
    ///
    /// # Errors
    /// As [`Campaign::round`].
    fn count_reads(&mut self, medium: &BadReads) -> Result<u64, String> {
        medium.heal();
        let running = self.start_on(&medium.file(), None);
        if running.wait_until(&self.line("done"), LIMIT) {
            sleep(Duration::from_millis(200));
        }
        let reads = medium.reads();
        running.signal(Signal::KILL);
        self.judge(&running.wait(LIMIT), AT_ONCE)?;
        Ok(reads)
    }

    /// Two lives on a medium of which a page goes bad after so many reads, and a check of it: whoever reads that page must say so and end. When it can be
    /// read again, nothing is lost.
    ///
    /// # Errors
    /// As [`Campaign::round`].
    fn bad_read(&mut self, medium: &BadReads, reads: u64) -> Result<(), String> {
        self.note(&format_args!("a read error after {reads} reads"));
        medium.heal();
        medium.fail_after(reads);
        for _ in 0..2 {
            let running = self.start_on(&medium.file(), None);
            let output = self.until_it_fails(running);
            self.judge_bad_read(medium, &output)?;
        }
        let mut command = Command::new(binary("twzvmm"));
        command.args(["pool", "fsck"]).arg(medium.file());
        let checked = start(command).wait(LIMIT);
        if checked.status != 0 && !told_of_bad_read(medium, &checked) {
            return Err(format!("fsck of a bad medium: status {}, {:?}", checked.status, checked.stderr));
        }
        let was_read = medium.page().is_some();
        self.tally.bad_pages += u64::from(was_read);
        medium.heal();
        self.settle()
    }

    /// Waits for the end of a machine that may meet a bad page, or ends it when it has worked long enough without.
    fn until_it_fails(&self, running: Running) -> Output {
        if running.wait_until(&self.line("done"), LIMIT) {
            let until = Instant::now() + UNTROUBLED;
            while Instant::now() < until && !running.ends_within(Duration::from_millis(10)) {}
            running.signal(Signal::KILL);
        }
        running.wait(LIMIT)
    }

    fn judge_bad_read(&mut self, medium: &BadReads, output: &Output) -> Result<(), String> {
        if output.status != 137 && !told_of_bad_read(medium, output) {
            return Err(format!(
                "page {:?} cannot be read: status {}, {}{}",
                medium.page(),
                output.status,
                output.stdout,
                output.stderr
            ));
        }
        let failed = self.line("failed: ");
        // 1: the load was told by a call, or a gate, that something failed, and ended by itself.
        self.judge_rest(output, |line| line.starts_with(&failed), output.status == 1)
    }
}

/// Files truncated under a machine, `count` of them.
///
/// # Errors
/// As [`Campaign::round`].
pub fn truncations(campaign: &mut Campaign, count: u64) -> Result<(), String> {
    campaign.settle()?;
    (0..count).try_for_each(|_| campaign.truncate())
}

/// Pages of the medium that cannot be read, one after the other, `count` of them: any that a machine reads, from its first to those under load. False if this
/// host cannot make any.
///
/// # Errors
/// As [`Campaign::round`]; most of the pages must have been met.
pub fn bad_pages(campaign: &mut Campaign, count: u64) -> Result<bool, String> {
    campaign.settle()?;
    let Some(medium) = BadReads::in_front_of(&campaign.pool()) else { return Ok(false) };
    let reads = campaign.count_reads(&medium)?;
    for round in 0..count {
        // All over, since those at the start are read more surely.
        let after = campaign.lot(reads.div_ceil(count)) + round * reads / count;
        let name = campaign.load.name();
        campaign
            .bad_read(&medium, after)
            .map_err(|what| format!("{name}, page {:?}, read {after}: {what}", medium.page()))?;
    }
    let met = campaign.tally.bad_pages;
    if met < count / 2 {
        return Err(format!("only {met} bad pages of {count} were read"));
    }
    Ok(true)
}

/// Whether a program ended as it should when it met the bad page: with the page's place if it knows it, and never without a word.
fn told_of_bad_read(medium: &BadReads, output: &Output) -> bool {
    let Some(page) = medium.page() else { return false };
    let told = |text: &str| output.stderr.contains(text) || output.stdout.contains(text);
    let is_placed = byte_told(&output.stderr).is_some_and(|byte| byte / 4096 == page);
    match output.status {
        // twzvmm itself met it, in memory that it maps, or by a call.
        2 => is_placed || told("Input/output error"),
        // 128 + the fault of the thread; twzvmm knows where.
        142 => told("the medium or the memory failed") && is_placed,
        // The program's own words for what a call or a gate told it; twzvmm's for the reason, unless the program has it.
        1 => told("the pool's medium failed") || is_placed,
        _ => false,
    }
}

/// Which byte of the pool cannot be read, says twzvmm.
fn byte_told(stderr: &str) -> Option<u64> {
    let place = ["cannot be read or written at byte 0x", "cannot be read at byte 0x"];
    let rest = place.iter().find_map(|place| Some(stderr.split_once(place)?.1))?;
    let digits = rest.split(|letter: char| !letter.is_ascii_hexdigit()).next()?;
    u64::from_str_radix(digits, 16).ok()
}
