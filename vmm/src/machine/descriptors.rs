//! File descriptors: how many tables they allow.
//!
//! A root is a descriptor, and so is the vCPU of each hart that has been in it. A process may have so many (`RLIMIT_NOFILE`); the soft limit is
//! usually 1,024 and the hard one far above, and only the soft one counts, which a process may raise by itself.

use std::io;

/// Descriptors that are opened and closed as the machine runs: a control socket's clients, files that are read, timers of the harts.
const OTHERS: u64 = 16;
/// Tables without which nothing runs: a caller's and a callee's.
const TABLES_MIN: u64 = 2;
/// One of so many descriptors may be a vCPU's statistics.
const STATISTICS_SHARE: u64 = 8;

/// How many of what may be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// Tables of contexts, each in a root of its own that every hart has been in.
    pub(super) tables: usize,
    /// Statistics of vCPUs.
    pub(super) statistics: usize,
}

/// Raises the soft limit to the hard one; how many descriptors the process may have.
pub(super) fn raise_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes a struct of ours.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        tracing::warn!(error = %io::Error::last_os_error(), "the limit of descriptors is unknown");
        return u64::MAX;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: reads a struct of ours.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
        return raised.rlim_cur;
    }
    tracing::warn!(error = %io::Error::last_os_error(), "the limit of descriptors stays at {}", limit.rlim_cur);
    limit.rlim_cur
}

/// Descriptors that are open now; 0 if the host does not say.
pub(super) fn open_now() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

/// Shares out what is left of `limit`, with `open` descriptors open, in a machine of `harts` harts: at most `tables_max` tables and
/// `statistics_max` statistics.
pub(super) fn share_out(
    limit: u64,
    open: u64,
    harts: u32,
    tables_max: usize,
    statistics_max: usize,
) -> Descriptors {
    let statistics = (limit / STATISTICS_SHARE).min(statistics_max as u64);
    // A timer of each hart is yet to come.
    let left = limit.saturating_sub(open + OTHERS + u64::from(harts) + statistics);
    let tables = (left / (1 + u64::from(harts))).clamp(TABLES_MIN, (tables_max as u64).max(TABLES_MIN));
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Descriptors { tables: count(tables), statistics: count(statistics) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_fit_the_limit() {
        for (limit, open, harts) in [(64, 12, 1), (64, 16, 4), (256, 20, 2), (1024, 30, 16), (4096, 100, 64)]
        {
            let Descriptors { tables, statistics } = share_out(limit, open, harts, 128, 64);
            let taken =
                open + OTHERS + u64::from(harts) + statistics as u64 + tables as u64 * (1 + u64::from(harts));
            assert!(taken <= limit || tables as u64 == TABLES_MIN, "{limit}: {taken}");
            // And no more tables would.
            assert!(taken + 1 + u64::from(harts) > limit || tables == 128, "{limit}: {taken}");
        }
        assert_eq!(share_out(u64::MAX, 30, 4, 128, 64), Descriptors { tables: 128, statistics: 64 });
        assert_eq!(share_out(0, 30, 4, 128, 64), Descriptors { tables: 2, statistics: 0 });
    }

    #[test]
    fn open_ones_are_counted() {
        let before = open_now();
        let file = std::fs::File::open("/dev/null").expect("/dev/null");
        // Other tests open and close theirs meanwhile.
        assert!(before > 0 && open_now() > 0);
        drop(file);
        assert!(raise_limit() >= before);
    }
}
