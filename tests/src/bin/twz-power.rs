//! The full run of power-cut and kill tests, as `make test-power` starts it:
//!
//!     twz-power [--cuts N] [--kills N] [--pages N] [--boots N] [--seed S] [--load churn|ledger|pairs|grants]
//!
//! The numbers are shared out among all loads; with `--load` one has them all, and no faults are seeded.
//! Boots are in the testbed, on `/dev/dax0.0`: each ends with a cut of the emulated machine's own power; in one of four, others come before that lose lines.
//!
//! Prints what was done and checked, and meanwhile, once a second on standard error, what it does; the exit status is 1 if anything was lost, torn or damaged, or a seeded fault was not found.

use std::process::ExitCode;
use std::time::{Duration, Instant};
use tests::power::{
    Campaign, Load, Progress, SEEDED_FAULTS, Tally, bad_pages, boots, cuts, find_fault, kills, memory_kills,
    truncations,
};

/// Between two lines about what it does.
const TICK: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let (mut number_of_cuts, mut number_of_kills, mut number_of_pages) = (500, 1000, 0);
    let (mut number_of_boots, mut seed) = (0, 1);
    let mut only = None;
    let words: Vec<String> = std::env::args().skip(1).collect();
    for pair in words.chunks(2) {
        let number = pair.get(1).and_then(|word| word.parse().ok());
        let load = Load::ALL.into_iter().find(|load| pair.get(1).is_some_and(|word| word == load.name()));
        match (pair[0].as_str(), number) {
            ("--load", _) if load.is_some() => only = load,
            ("--cuts", Some(number)) => number_of_cuts = number,
            ("--kills", Some(number)) => number_of_kills = number,
            ("--pages", Some(number)) => number_of_pages = number,
            ("--boots", Some(number)) => number_of_boots = number,
            ("--seed", Some(number)) => seed = number,
            _ => {
                eprintln!(
                    "usage: twz-power [--cuts N] [--kills N] [--pages N] [--boots N] [--seed S] [--load NAME]"
                );
                return ExitCode::from(2);
            }
        }
    }
    let began = Instant::now();
    let progress = Progress::default();
    let watched = progress.clone();
    // Ends with the process.
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(TICK);
            eprintln!("{:>5} s  {watched}", began.elapsed().as_secs());
        }
    });
    let mut has_failed = false;
    let mut all = Tally::default();
    let mut tell = |what: &str, campaign: &Campaign, result: Result<(), String>| {
        all += campaign.tally;
        let seconds = began.elapsed().as_secs();
        match result {
            Ok(()) => println!("{seconds:>5} s  {what}: {}", campaign.tally),
            Err(error) => {
                has_failed = true;
                println!("{seconds:>5} s  {what}: FAILED after {}\n{error}", Seen(campaign.tally));
            }
        }
    };
    let parts = if only.is_some() { 1 } else { Load::ALL.len() as u64 };
    let is_wanted = |load: &Load| only.is_none_or(|only| only == *load);
    for (load, share) in Load::ALL.into_iter().filter(is_wanted).zip(0..) {
        let part = |number: u64| number.div_ceil(parts);
        let name = load.name();
        let campaign_of = |more: u64| Campaign::new(load, seed + share + more, &[]).watched(&progress);
        if number_of_cuts > 0 {
            let mut campaign = campaign_of(0);
            let result = cuts(&mut campaign, part(number_of_cuts));
            tell(&format!("{name}, power cuts that lose unflushed lines"), &campaign, result);
        }
        if number_of_kills > 0 {
            let mut campaign = campaign_of(10);
            let result = kills(&mut campaign, part(number_of_kills));
            tell(&format!("{name}, kills"), &campaign, result);
            let mut campaign = campaign_of(40);
            let result = memory_kills(&mut campaign, part(number_of_kills).div_ceil(10)).map(drop);
            tell(&format!("{name}, kills for want of memory"), &campaign, result);
        }
        if number_of_pages > 0 {
            let mut campaign = campaign_of(30);
            let result = bad_pages(&mut campaign, part(number_of_pages)).map(drop);
            tell(&format!("{name}, pages that cannot be read"), &campaign, result);
            let mut campaign = campaign_of(50);
            let result = truncations(&mut campaign, part(number_of_pages));
            tell(&format!("{name}, truncated files"), &campaign, result);
        }
        if number_of_boots > 0 {
            let mut campaign = campaign_of(20);
            let result = boots(&mut campaign, part(number_of_boots));
            tell(&format!("{name}, power cuts in the testbed"), &campaign, result);
        }
    }
    // Part of the runs that lose lines.
    let faults = if number_of_cuts > 0 && only.is_none() { SEEDED_FAULTS } else { &[] };
    for &(name, load, sites) in faults {
        let found = find_fault(seed + 20, load, sites, &progress);
        let seconds = began.elapsed().as_secs();
        match found {
            Ok((cuts, how)) => {
                println!("{seconds:>5} s  seeded fault, {name}: found after {cuts} cuts: {how}")
            }
            Err(error) => {
                has_failed = true;
                println!("{seconds:>5} s  seeded fault, {name}: FAILED: {error}");
            }
        }
    }
    if !has_failed {
        println!("{:>5} s  all: {all}", began.elapsed().as_secs());
    }
    if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A tally without its verdict.
struct Seen(Tally);

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} power cuts and {} kills", self.0.cuts + self.0.machines, self.0.kills)
    }
}
