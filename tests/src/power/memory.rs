//! Campaigns in which the kernel kills the machine because it needs more memory than it may have.

use super::{Campaign, End, From, LIMIT, Moment};
use crate::memory_group::MemoryGroup;
use rustix::process::Signal;
use std::io;
use std::thread::sleep;
use std::time::Duration;

/// How long a machine works before what it has counts as what it needs, or before it is ended because the kernel did not.
const WORKING: Duration = Duration::from_millis(300);

/// Lives with a limit on memory somewhere between what a machine has when it starts and what it has under load, `count` of them. False if this host lets us
/// set none.
///
/// # Errors
/// As [`Campaign::round`]; the kernel must have killed some.
pub fn memory_kills(campaign: &mut Campaign, count: u64) -> Result<bool, String> {
    let Some(group) = MemoryGroup::new() else { return Ok(false) };
    for number in 0..count {
        // Without a limit first, and now and then again: the pool's own pages, in memory as well, become more.
        let limit = if number % 8 == 0 { None } else { Some(campaign.lot(1000)) };
        campaign.limited(&group, limit)?;
    }
    campaign.settle()?;
    let killed = campaign.tally.memory_kills;
    if killed == 0 { Err(format!("none of {count} was killed")) } else { Ok(true) }
}

impl Campaign {
    /// A life in the group, with so many thousandths of what a machine needs.
    fn limited(&mut self, group: &MemoryGroup, thousandths: Option<u64>) -> Result<(), String> {
        let host = |error: io::Error| format!("the control group: {error}");
        self.note(&format_args!("with {thousandths:?} thousandths of its memory"));
        group.set_limit(None).map_err(host)?;
        let (before, kills) = (group.usage().map_err(host)?, group.kills().map_err(host)?);
        if let Some(thousandths) = thousandths {
            let limit = before + self.needs_bytes * thousandths / 1000;
            group.set_limit(Some(limit)).map_err(host)?;
        }
        self.members = Some(group.members());
        let running = self.start(None);
        self.members = None;
        if running.wait_until(&self.line("done"), LIMIT) {
            sleep(WORKING);
        }
        let used = group.usage().map_err(host)?;
        running.signal(Signal::KILL);
        let output = running.wait(LIMIT);
        if thousandths.is_none() {
            self.needs_bytes = used.saturating_sub(before);
        }
        self.tally.kills += 1;
        self.tally.memory_kills += u64::from(group.kills().map_err(host)? > kills);
        group.set_limit(None).map_err(host)?;
        let end = End::NoMemory(Moment { from: From::Start, after_us: 0 });
        self.judge(&output, end).and_then(|()| self.check_pool()).map_err(|what| {
            format!(
                "{thousandths:?}/1000 of {} bytes: {what}\n--- status {}\n{}{}",
                self.needs_bytes, output.status, output.stdout, output.stderr
            )
        })
    }
}
