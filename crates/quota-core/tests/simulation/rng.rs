//! Chance from a seed: the same numbers for the same seed, on every machine and for ever.

/// A `SplitMix64` generator.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x5bd1_e995_9d1b_54a5)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `from..to`.
    pub fn range(&mut self, from: i64, to: i64) -> i64 {
        assert!(from < to, "an empty range");
        from + (self.next() % (to - from).unsigned_abs()) as i64
    }

    pub fn below(&mut self, count: usize) -> usize {
        self.range(0, count as i64) as usize
    }

    /// Whether something happens that happens once in so many times.
    pub fn one_in(&mut self, times: u64) -> bool {
        times > 0 && self.next().is_multiple_of(times)
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for index in (1..all.len()).rev() {
            all.swap(index, self.below(index + 1));
        }
    }

    /// Mostly near `usual`, now and then up to a hundred times as long.
    pub fn delay(&mut self, usual: i64) -> i64 {
        let long = match self.next() % 64 {
            0 => 100,
            1..=3 => 10,
            _ => 1,
        };
        self.range(usual / 2, usual * 2) * long
    }
}
