//! The history of appends against one that forgets nothing.

use proptest::prelude::*;

use super::*;

/// Every append: (moment, bytes).
struct Exact(Vec<(Moment, u32)>);

impl Exact {
    fn bytes_since(&self, moment: Moment, from: Seq) -> u64 {
        let records = self.0.iter().skip(from.get() as usize - 1);
        records
            .filter(|(at, _)| *at >= moment)
            .map(|(_, bytes)| u64::from(*bytes))
            .sum()
    }

    /// Compares a lag, priced now, with the truth.
    fn check(&self, lag: &Lag, held: Seq, now: Moment) -> Result<(), TestCaseError> {
        let counted = Seq::new(self.0.len() as u64);
        let rpo = lag.between(held, counted, 0, now);
        prop_assert_eq!(rpo.writes, counted.since(held));
        if rpo.writes == 0 {
            prop_assert_eq!(rpo, Rpo::default());
            return Ok(());
        }
        let oldest = self.0[held.get() as usize].0;
        let age = now.since(oldest);
        let error = age / 20 + SPACING;
        prop_assert!(rpo.age >= age, "{:?} below {age:?}", rpo.age);
        prop_assert!(rpo.age <= age + error, "{:?} far above {age:?}", rpo.age);
        // Bytes are off by a part of one span, whose records lie within the error of the age.
        let bytes = self.bytes_since(Moment::START, held.next());
        let upper = self.bytes_since(now.since_start(rpo.age), Seq::FIRST);
        let lower = self.bytes_since(oldest.plus(error * 2), held.next());
        prop_assert!(
            rpo.bytes <= upper.max(bytes),
            "{} bytes above {upper}",
            rpo.bytes
        );
        prop_assert!(
            rpo.bytes >= lower.min(bytes),
            "{} bytes below {lower}",
            rpo.bytes
        );
        Ok(())
    }
}

impl Moment {
    fn since_start(self, age: Duration) -> Self {
        Self::from_micros(self.since(Self::START).saturating_sub(age).as_micros() as u64)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Bursts and pauses up to a day; one copy keeps up, another stopped at some point.
    #[test]
    fn a_lag_is_never_too_young_and_at_most_a_twentieth_too_old(
        bursts in prop::collection::vec((1_u64..400, 0_u64..3_000, 0_u64..86_400_000), 1..30),
        dead_at in 0_u64..3_000,
    ) {
        let mut now = Moment::from_micros(5_000_000);
        let mut lag = Lag::new(Seq::NONE, 0, now, 2);
        let mut exact = Exact(vec![]);
        for (records, spacing_us, pause_ms) in bursts {
            for _ in 0..records {
                now = now.plus(Duration::from_micros(spacing_us));
                let bytes = 40 + (spacing_us * 7 % 1_000) as u32;
                exact.0.push((now, bytes));
                lag.record(Seq::new(exact.0.len() as u64), bytes, now);
            }
            let appended = exact.0.len() as u64;
            let dead = Seq::new(dead_at.min(appended));
            lag.forget_upto(dead);
            exact.check(&lag, dead, now)?;
            exact.check(&lag, Seq::new(appended), now)?;
            exact.check(&lag, Seq::new(appended.saturating_sub(3).max(dead.get())), now)?;
            let pause = Duration::from_millis(pause_ms % (1 << (records % 27)));
            exact.check(&lag, dead, now.plus(pause))?;
            now = now.plus(pause);
        }
        let kept = lag.tiers.iter().map(VecDeque::len).max();
        prop_assert!(kept <= Some(TIER_CHECKPOINTS_MAX), "{kept:?} checkpoints in a tier");
    }
}

#[test]
fn a_live_copy_is_exact_while_another_is_dead_for_a_day() {
    let mut now = Moment::from_micros(1);
    let mut lag = Lag::new(Seq::NONE, 0, now, 2);
    let records = 24 * 3_600 * 10;
    for seq in 1..=records {
        now = now.plus(Duration::from_millis(100));
        lag.record(Seq::new(seq), 100, now);
    }
    let live = lag.between(Seq::new(records - 1), Seq::new(records), 0, now);
    assert_eq!(
        live,
        Rpo {
            writes: 1,
            bytes: 100,
            age: Duration::ZERO
        }
    );
    let dead = lag.between(Seq::new(1_000), Seq::new(records), 0, now);
    assert_eq!(dead.writes, records - 1_000);
    assert_eq!(
        dead.bytes,
        100 * dead.writes,
        "equal sizes interpolate without error"
    );
    for held in (0..records).step_by(97) {
        let dead = lag.between(Seq::new(held), Seq::new(records), 0, now);
        let age = Duration::from_millis(100 * (records - held - 1));
        assert!(
            dead.age >= age && dead.age <= age + age / 20,
            "{:?} for {age:?}",
            dead.age
        );
    }
    let kept = lag.tiers.iter().map(VecDeque::len).sum::<usize>();
    assert!(
        kept <= 13 * TIER_CHECKPOINTS_MAX,
        "{kept} checkpoints for a day"
    );
}

#[test]
fn what_was_before_the_start_has_its_bytes_and_the_age_of_the_start() {
    let open = Moment::from_micros(9_000_000);
    let mut lag = Lag::new(Seq::new(1_000), 50_000, open, 1);
    lag.record(Seq::new(1_001), 70, open);
    let second = open.plus(Duration::from_secs(1));
    let rpo = lag.between(Seq::new(900), Seq::new(1_001), 0, second);
    assert_eq!(
        rpo,
        Rpo {
            writes: 101,
            bytes: 5_070,
            age: Duration::from_secs(1)
        }
    );
    // What is in flight beyond the counted records is left out.
    let rpo = lag.between(Seq::new(900), Seq::new(1_000), 70, second);
    assert_eq!((rpo.writes, rpo.bytes), (100, 5_000));
}

#[test]
fn a_copy_that_comes_back_with_less_is_priced_by_the_average() {
    let now = Moment::from_micros(1_000);
    let mut lag = Lag::new(Seq::NONE, 0, now, 1);
    for seq in 1..=100 {
        lag.record(Seq::new(seq), 10, now.plus(Duration::from_millis(2 * seq)));
    }
    lag.forget_upto(Seq::new(100));
    let rpo = lag.between(
        Seq::new(50),
        Seq::new(100),
        0,
        now.plus(Duration::from_secs(1)),
    );
    assert_eq!((rpo.writes, rpo.bytes), (50, 500));
}
