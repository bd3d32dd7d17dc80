//! A few of what `make test-power` does by the hundred: power cuts that lose unflushed lines, kills, a full pool, a truncated file.

use tests::power::{
    Campaign, Load, Progress, SEEDED_FAULTS, bad_pages, boots, cuts, find_fault, kills, memory_kills,
    truncations,
};
use tests::{Facility, Mounted, available};

/// The seed of these tests; `twz-power --seed` tries others.
const SEED: u64 = 20_261_120;

mod local {
    use super::*;

    /// A campaign, unless this host has no KVM.
    fn campaign(load: Load, seed: u64) -> Option<Campaign> {
        available(Facility::Kvm).then(|| Campaign::new(load, seed, &[]))
    }

    #[test]
    fn power_cuts_lose_nothing_that_was_acknowledged() {
        for load in Load::ALL {
            let Some(mut campaign) = campaign(load, SEED) else { return };
            cuts(&mut campaign, 12).unwrap_or_else(|error| panic!("{error}"));
            assert!(campaign.tally.states > 3, "{}", campaign.tally);
        }
    }

    #[test]
    fn kills_lose_nothing_that_was_acknowledged() {
        for load in Load::ALL {
            let Some(mut campaign) = campaign(load, SEED + 1) else { return };
            kills(&mut campaign, 15).unwrap_or_else(|error| panic!("{error}"));
            assert!(campaign.tally.acknowledged > 0, "{}", campaign.tally);
        }
    }

    #[test]
    fn forgotten_flushes_are_found() {
        if !available(Facility::Kvm) {
            return;
        }
        for &(name, load, sites) in SEEDED_FAULTS {
            find_fault(SEED + 2, load, sites, &Progress::default())
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn a_full_pool_is_said_and_survived() {
        let Some(mut campaign) = campaign(Load::Churn, SEED + 3) else { return };
        kills(&mut campaign, 2).unwrap_or_else(|error| panic!("{error}"));
        campaign.fill().unwrap_or_else(|error| panic!("{error}"));
    }

    #[test]
    fn a_full_disk_is_said_and_survived() {
        let Some(memory) = Mounted::memory("8m") else { return };
        if !available(Facility::Kvm) {
            return;
        }
        let mut campaign = Campaign::within(&memory.folder(), Load::Churn, SEED + 6, &[]);
        kills(&mut campaign, 2).unwrap_or_else(|error| panic!("{error}"));
        campaign.fill().unwrap_or_else(|error| panic!("{error}"));
    }

    /// A filesystem on a loop device whose file lies in a memory that is too small for it: each write to a new block fails.
    #[test]
    fn a_failing_disk_is_said_and_survived() {
        let Some(memory) = Mounted::memory("10m") else { return };
        let Some(disk) = memory.disk() else { return };
        if !available(Facility::Kvm) {
            return;
        }
        let mut campaign = Campaign::within(&disk.folder(), Load::Churn, SEED + 7, &[]);
        kills(&mut campaign, 2).unwrap_or_else(|error| panic!("{error}"));
        campaign.wear_out().unwrap_or_else(|error| panic!("{error}"));
        memory.enlarge("64m");
        campaign.make_room().unwrap_or_else(|error| panic!("{error}"));
        kills(&mut campaign, 2).unwrap_or_else(|error| panic!("{error}"));
    }

    /// A campaign for each load, unless `each` says that this host cannot do it.
    fn under_all_loads(seed: u64, each: impl Fn(&mut Campaign) -> Result<bool, String>) {
        if !available(Facility::Kvm) {
            return;
        }
        for load in Load::ALL {
            if !each(&mut Campaign::new(load, seed, &[])).unwrap_or_else(|error| panic!("{error}")) {
                return;
            }
        }
    }

    /// A page that cannot be read: any page that a machine reads, from its first to those under load.
    #[test]
    fn a_bad_page_is_said_and_survived() {
        under_all_loads(SEED + 8, |campaign| bad_pages(campaign, 4));
    }

    /// The kernel kills it where it needs more memory than its control group may have.
    #[test]
    fn kills_for_want_of_memory_lose_nothing() {
        under_all_loads(SEED + 9, |campaign| memory_kills(campaign, 8));
    }

    #[test]
    fn a_truncated_file_is_said() {
        for load in Load::ALL {
            let Some(mut campaign) = campaign(load, SEED + 4) else { return };
            truncations(&mut campaign, 2).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

mod testbed {
    use super::*;

    #[test]
    fn power_cuts_on_a_dax_device_lose_nothing_that_was_acknowledged() {
        if !available(Facility::Testbed) {
            return;
        }
        let mut campaign = Campaign::new(Load::Churn, SEED + 5, &[]);
        boots(&mut campaign, 2).unwrap_or_else(|error| panic!("{error}"));
        assert!(campaign.tally.states > 0, "{}", campaign.tally);
    }
}
