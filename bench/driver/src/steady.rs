//! Rounds that are measured while nothing else uses the core, as far as that can be had.
//!
//! A round is all sides of a row, in turns. A busy sibling makes a CPU up to half as fast, for milliseconds to seconds, and meets one side more
//! than the other: what waits for memory loses less by it than what is bound by instructions.
//!
//! # Contract
//! - The control loop ([`crate::pace`]) runs before a round, between its sides and after it. The round is *disturbed* if one of these looks is
//!   worse than the best one of this process by more than [`TOLERANCE`]. Nothing else decides, above all not what the round measured.
//! - A disturbed round is dropped, with all of its sides, and measured again; before a round the end of a disturbance is waited for.
//! - Both cost no more than a row's share of the program's patience, and at most [`MOST`] more rounds for each that is wanted. After
//!   that, disturbed rounds count as they are, and the row says how many.

use crate::pace::{Cpu, Source, Summary};
use crate::sample::Samples;
use std::time::Duration;

/// How much worse than the best a look may be. On the AMD host that this was chosen on, looks without a sibling are within 1 % of the best, those
/// with one 10 to 90 % worse, and one of a hundred is between 5 and 10 %.
pub const TOLERANCE: f64 = 0.1;
/// Rounds that may be measured again, for each that is wanted.
pub const MOST: usize = 2;
/// So many good looks, a millisecond, are the end of a disturbance: there are shorter pauses in one, in which no round has room.
const CALM: usize = 20;
/// What the best look is looked for in at first. Nine of ten phases in which a sibling never paused for the time of a look were shorter than this.
const CALIBRATION: Duration = Duration::from_millis(500);

/// The most rounds that [`Steady::rounds`] may measure to have so many: what grows by them needs that much room.
#[must_use]
pub const fn most(rounds: usize) -> usize {
    1 + rounds * (1 + MOST)
}

/// Measures rounds, and repeats those that were disturbed.
#[derive(Debug)]
pub struct Steady<S = Cpu> {
    source: S,
    best: f64,
    /// What may still be spent on waiting and on repeating, by rows that have not begun.
    patience: Duration,
    /// How many those are.
    shares: usize,
    /// Around and between the sides of rounds.
    looks: Vec<f64>,
    summary: Summary,
}

/// What the rounds of a row may still cost.
#[derive(Debug)]
pub struct Share {
    patience: Duration,
    rounds: usize,
    outcome: Outcome,
}

/// What became of a row's rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Rounds that were dropped and measured again.
    pub again: usize,
    /// Rounds that count although they were disturbed.
    pub disturbed: usize,
}

/// Rounds of ours and of one peer, which may be missing.
#[derive(Debug, Default)]
pub struct Pairs {
    /// What ours took.
    pub ours: Vec<f64>,
    /// What the peer took.
    pub theirs: Vec<f64>,
    /// What became of the rounds.
    pub outcome: Outcome,
}

impl Pairs {
    /// Of what [`Steady::rounds`] measured.
    #[must_use]
    pub fn of((rounds, outcome): (Vec<(f64, Option<f64>)>, Outcome)) -> Self {
        let (ours, theirs) = (rounds.iter().map(|round| round.0), rounds.iter().filter_map(|round| round.1));
        Self { ours: ours.collect(), theirs: theirs.collect(), outcome }
    }
}

/// A round that is being measured.
#[derive(Debug)]
pub struct Round<'a, S = Cpu> {
    steady: &'a mut Steady<S>,
    is_disturbed: bool,
}

impl<S: Source> Round<'_, S> {
    /// To be called between two sides.
    pub fn between(&mut self) {
        let look = self.steady.look();
        self.steady.looks.push(look);
        self.is_disturbed |= !self.steady.is_good(look);
    }
}

impl Steady {
    /// For so many rows (or groups that are measured in the same rounds), which share `patience`.
    #[must_use]
    pub fn new(patience: Duration, shares: usize) -> Self {
        Self::by(Cpu::default(), patience, shares)
    }
}

impl<S: Source> Steady<S> {
    fn by(source: S, patience: Duration, shares: usize) -> Self {
        let (looks, summary) = (Vec::new(), Summary::default());
        let mut steady = Self { source, best: f64::INFINITY, patience, shares, looks, summary };
        let begun = steady.source.now();
        while steady.source.now() - begun < CALIBRATION {
            steady.look();
        }
        steady
    }

    /// Begins a row of so many rounds.
    pub fn share(&mut self, rounds: usize) -> Share {
        let shares = u32::try_from(self.shares).unwrap_or(u32::MAX).max(1);
        self.shares = self.shares.saturating_sub(1);
        let patience = self.patience / shares;
        self.patience -= patience;
        Share { patience, rounds: rounds * MOST, outcome: Outcome::default() }
    }

    /// Ends a row: what it did not use is for those that have not begun.
    pub fn end(&mut self, share: Share) -> Outcome {
        self.patience += share.patience;
        share.outcome
    }

    /// Measures a row: a round that warms all sides and does not count, then so many that do. `measure` does one, and says where its sides
    /// meet ([`Round::between`]).
    ///
    /// # Errors
    /// What `measure` says.
    pub fn rounds<T, E>(
        &mut self,
        rounds: usize,
        mut measure: impl FnMut(&mut Round<'_, S>) -> Result<T, E>,
    ) -> Result<(Vec<T>, Outcome), E> {
        let mut share = self.share(rounds);
        if rounds > 0 {
            measure(&mut Round { steady: self, is_disturbed: false })?;
        }
        let samples = (0..rounds).map(|_| self.round(&mut share, &mut measure)).collect::<Result<_, _>>()?;
        Ok((samples, self.end(share)))
    }

    /// Measures a round of a row that has begun, until one is undisturbed or the share is used up.
    ///
    /// # Errors
    /// What `measure` says.
    pub fn round<T, E>(
        &mut self,
        share: &mut Share,
        mut measure: impl FnMut(&mut Round<'_, S>) -> Result<T, E>,
    ) -> Result<T, E> {
        loop {
            self.wait(share);
            let mut round = Round { steady: self, is_disturbed: false };
            round.between();
            let begun = round.steady.source.now();
            let sides = measure(&mut round)?;
            round.between();
            let is_disturbed = round.is_disturbed;
            self.summary.rounds += 1;
            if !is_disturbed {
                return Ok(sides);
            }
            self.summary.disturbed += 1;
            if share.rounds == 0 || share.patience.is_zero() {
                share.outcome.disturbed += 1;
                return Ok(sides);
            }
            self.summary.again += 1;
            share.outcome.again += 1;
            share.rounds -= 1;
            self.spend(share, begun);
        }
    }

    /// Waits for the end of a disturbance, if there is one, as long as the share lasts. By looking all the time: a CPU that slept is slower at
    /// first.
    fn wait(&mut self, share: &mut Share) {
        let look = self.look();
        if self.is_good(look) {
            return;
        }
        let (begun, mut calm) = (self.source.now(), 0);
        while calm < CALM && self.source.now() - begun < share.patience {
            let look = self.look();
            calm = if self.is_good(look) { calm + 1 } else { 0 };
        }
        self.summary.waited_s += (self.source.now() - begun).as_secs_f64();
        self.spend(share, begun);
    }

    fn look(&mut self) -> f64 {
        let look = self.source.look();
        self.best = self.best.min(look);
        look
    }

    fn is_good(&self, look: f64) -> bool {
        look <= self.best * (1.0 + TOLERANCE)
    }

    fn spend(&self, share: &mut Share, begun: Duration) {
        share.patience = share.patience.saturating_sub(self.source.now() - begun);
    }

    /// What the pace was until now.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let median_ns = Samples::new(&self.looks).median();
        Summary {
            best_ns: self.best,
            median_ns: if median_ns.is_nan() { self.best } else { median_ns },
            ..self.summary.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    const MS: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(1000);

    /// A clock that looks and sides push on, and a sibling.
    #[derive(Clone, Debug, Default)]
    struct Fake {
        now: Rc<Cell<Duration>>,
        is_busy: Rc<Cell<bool>>,
        /// The sibling sleeps from then on.
        sleeps: Rc<Cell<Duration>>,
        /// It pauses then, for half a millisecond.
        pause: Rc<Cell<Option<Duration>>>,
    }

    impl Fake {
        fn pass(&self, time: Duration) {
            self.now.set(self.now.get() + time);
        }

        /// Somebody is busy until a time from now.
        fn disturb(&self, time: Duration) {
            self.is_busy.set(true);
            self.sleeps.set(self.now.get() + time);
        }
    }

    impl Source for Fake {
        fn look(&mut self) -> f64 {
            self.pass(MS / 20);
            let now = self.now.get();
            let pauses = self.pause.get().is_some_and(|from| (from..from + MS / 2).contains(&now));
            let is_slow = self.is_busy.get() && now < self.sleeps.get() && !pauses;
            if is_slow { 15.0 } else { 10.0 }
        }

        fn now(&self) -> Duration {
            self.now.get()
        }
    }

    fn with(patience: Duration, shares: usize) -> (Fake, Steady<Fake>) {
        let fake = Fake::default();
        (fake.clone(), Steady::by(fake, patience, shares))
    }

    /// Rounds of two sides of 10 ms, of which each gets the round's number; `disturb` is asked in the middle of the first side, of the
    /// second, and after both.
    fn rounds(
        fake: &Fake,
        steady: &mut Steady<Fake>,
        disturb: impl Fn(usize, usize),
    ) -> (Vec<(usize, usize)>, Outcome, [usize; 2]) {
        let mut sides = [0; 2];
        let measured = steady.rounds(3, |round| {
            let number = sides[0];
            for (side, count) in sides.iter_mut().enumerate() {
                fake.pass(10 * MS);
                disturb(number, side);
                *count += 1;
                if side == 0 {
                    round.between();
                }
            }
            Ok::<_, ()>((number, number))
        });
        let (samples, outcome) = measured.unwrap();
        (samples, outcome, sides)
    }

    #[test]
    fn the_first_round_warms_and_undisturbed_ones_count() {
        let (fake, mut steady) = with(LONG, 1);
        let (samples, outcome, sides) = rounds(&fake, &mut steady, |_, _| ());
        assert_eq!((samples, sides), (vec![(1, 1), (2, 2), (3, 3)], [4; 2]));
        assert_eq!((outcome.again, outcome.disturbed), (0, 0));
        let Summary { rounds, disturbed, again, waited_s, best_ns, median_ns } = steady.summary();
        assert_eq!((rounds, disturbed, again, waited_s), (3, 0, 0, 0.0));
        assert_eq!((best_ns, median_ns), (10.0, 10.0));
    }

    #[test]
    fn a_disturbed_round_is_measured_again_on_both_sides() {
        for side in 0..2 {
            let (fake, mut steady) = with(LONG, 1);
            // The sibling begins in a side and ends before the next look but one.
            let (samples, outcome, sides) = rounds(&fake, &mut steady, |number, at| {
                if number == 2 && at == side {
                    fake.disturb(MS);
                }
            });
            assert_eq!(samples, [(1, 1), (3, 3), (4, 4)], "disturbed in side {side}");
            assert_eq!((outcome.again, outcome.disturbed, sides), (1, 0, [5; 2]));
            assert_eq!(steady.summary().disturbed, 1);
        }
    }

    #[test]
    fn the_end_of_a_disturbance_is_waited_for() {
        let (fake, mut steady) = with(LONG, 1);
        let (samples, outcome, _) = rounds(&fake, &mut steady, |number, at| {
            if number == 0 && at == 1 {
                fake.disturb(5000 * MS);
            }
        });
        assert_eq!((samples, outcome.again), (vec![(1, 1), (2, 2), (3, 3)], 0));
        assert!((4.9..5.1).contains(&steady.summary().waited_s), "{:?}", steady.summary());
    }

    #[test]
    fn a_short_pause_is_not_the_end_of_a_disturbance() {
        let (fake, mut steady) = with(LONG, 1);
        fake.disturb(100 * MS);
        fake.pause.set(Some(fake.now() + 50 * MS));
        let (begun, mut share) = (fake.now(), steady.share(1));
        steady.wait(&mut share);
        assert!(fake.now() - begun > 100 * MS, "{:?}", fake.now() - begun);
    }

    #[test]
    fn rounds_in_vain_cost_patience() {
        let (fake, mut steady) = with(50 * MS, 1);
        let (_, outcome, _) = rounds(&fake, &mut steady, |_, _| fake.disturb(MS));
        assert_eq!((outcome.again, outcome.disturbed), (3, 3), "three rounds of 20 ms in vain");
    }

    #[test]
    fn when_the_rounds_are_used_up_disturbed_ones_count() {
        let (fake, mut steady) = with(LONG, 1);
        let (samples, outcome, sides) = rounds(&fake, &mut steady, |_, _| fake.disturb(MS));
        assert_eq!((outcome.again, outcome.disturbed), (3 * MOST, 3));
        assert_eq!(sides[0], most(3));
        assert_eq!(samples.len(), 3);
    }

    #[test]
    fn when_the_time_is_used_up_disturbed_ones_count() {
        let (fake, mut steady) = with(100 * MS, 1);
        fake.disturb(LONG);
        let begun = fake.now();
        let (samples, outcome, sides) = rounds(&fake, &mut steady, |_, _| ());
        assert_eq!((samples.len(), sides, outcome.again, outcome.disturbed), (3, [4; 2], 0, 3));
        let took = fake.now() - begun;
        assert!(took > 180 * MS && took < 182 * MS, "four rounds of 20 ms, and 100 ms: {took:?}");
    }

    #[test]
    fn rows_share_the_patience() {
        let (fake, mut steady) = with(200 * MS, 2);
        let (mut first, second) = (steady.share(3), steady.share(3));
        assert_eq!((first.patience, second.patience), (100 * MS, 100 * MS));
        assert!(steady.share(3).patience.is_zero());
        fake.disturb(LONG);
        steady.wait(&mut first);
        assert!(first.patience.is_zero());
        let (_, mut steady) = with(200 * MS, 2);
        let first = steady.share(3);
        steady.end(first);
        assert_eq!(steady.share(3).patience, 200 * MS, "what the first did not use");
    }

    #[test]
    fn a_better_look_is_what_the_next_are_held_to() {
        let (fake, steady) = with(LONG, 1);
        assert!(steady.is_good(10.9) && !steady.is_good(11.1));
        let slow = Fake::default();
        slow.disturb(LONG);
        let mut steady = Steady::by(slow.clone(), LONG, 1);
        assert!(steady.is_good(15.0), "nothing better was seen");
        slow.is_busy.set(false);
        steady.look();
        assert!(!steady.is_good(15.0));
        assert!(fake.now() >= CALIBRATION);
    }
}
