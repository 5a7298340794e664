//! How many drafts pay: what a row costs, measured, against how often drafts are right.

use std::time::Duration;

/// What a row adds to a step of one row, until it was measured.
const PRIOR_SHARE: f64 = 0.1;
/// Steps that the measurement looks back on, roughly.
const MEMORY: f64 = 50.0;
/// What is less likely than this is not worth the trouble, however cheap.
pub(crate) const LEAST_PRICE: f64 = 0.01;
/// A draft must promise this much more than it costs: both are estimates.
const MARGIN: f64 = 1.2;

/// Least-squares line through the times of the last decode steps: a step of `rows` rows takes
/// `base + rows * per_row`. Until the number of rows has varied, `per_row` is a guess.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Seconds of a draft model for one guess, once known.
    guess: Option<f64>,
    weight: f64,
    rows: f64,
    seconds: f64,
    rows_rows: f64,
    rows_seconds: f64,
}

impl Pace {
    /// Takes in a step that did nothing but decode.
    pub(crate) fn record(&mut self, num_rows: usize, time: Duration) {
        let (rows, seconds) = (num_rows as f64, time.as_secs_f64());
        let add = |sum: &mut f64, value: f64| *sum = *sum * (1.0 - 1.0 / MEMORY) + value;
        add(&mut self.weight, 1.0);
        add(&mut self.rows, rows);
        add(&mut self.seconds, seconds);
        add(&mut self.rows_rows, rows * rows);
        add(&mut self.rows_seconds, rows * seconds);
    }

    /// Takes in how long a draft model took over each of its guesses, or that it made none. Then the
    /// estimate falls slowly, so that one bad measurement does not keep it out for good.
    pub(crate) fn record_guesses(&mut self, each: Option<Duration>) {
        match each {
            Some(time) => {
                let seconds = time.as_secs_f64();
                let guess = self.guess.get_or_insert(seconds);
                *guess += (seconds - *guess) / MEMORY;
            }
            None => self.guess = self.guess.map(|guess| guess * (1.0 - 0.1 / MEMORY)),
        }
    }

    /// Whether a row that gives a token with some probability is worth its time: the least
    /// probability for which it is, when `num_rows` rows would run anyway and each give a token.
    pub(crate) fn price_of_row(&self, num_rows: usize) -> f64 {
        let (base, per_row) = self.line();
        let time = base + per_row * num_rows as f64;
        (MARGIN * per_row * num_rows as f64 / time).clamp(LEAST_PRICE, 1.0)
    }

    /// The same for a row that a draft model guesses first. The first guess is free: it tells the time.
    pub(crate) fn price_of_guess(&self, num_rows: usize) -> f64 {
        let (base, per_row) = self.line();
        let time = base + per_row * num_rows as f64;
        let cost = per_row + self.guess.unwrap_or(0.0);
        (MARGIN * cost * num_rows as f64 / time).clamp(LEAST_PRICE, 1.0)
    }

    /// (base, per_row) in seconds; before any step was measured, up to a factor.
    fn line(&self) -> (f64, f64) {
        let prior =
            |rows: f64, seconds: f64| PRIOR_SHARE * seconds / (1.0 + PRIOR_SHARE * (rows - 1.0));
        if self.weight < 1.0 {
            return (1.0 - PRIOR_SHARE, PRIOR_SHARE);
        }
        let (rows, seconds) = (self.rows / self.weight, self.seconds / self.weight);
        let variance = self.rows_rows / self.weight - rows * rows;
        let covariance = self.rows_seconds / self.weight - rows * seconds;
        // The guess counts as much as rows that vary by one.
        let per_row = (covariance + prior(rows, seconds)) / (variance + 1.0);
        let per_row = per_row.clamp(0.0, seconds / rows);
        (seconds - per_row * rows, per_row)
    }
}

/// How often the drafts of one sequence are right.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acceptance(f64);

/// Of the first drafts, and what a sequence without any drifts back to, so that it tries again.
const EXPECTED: f64 = 0.5;
/// How much one draft moves the estimate, and one step without any.
const GAIN: f64 = 0.15;
const DRIFT: f64 = 0.002;

impl Default for Acceptance {
    fn default() -> Self {
        Self(EXPECTED)
    }
}

impl Acceptance {
    /// Takes in that the first `num_right` of `num_drafts` were right.
    pub(crate) fn record(&mut self, num_right: usize, num_drafts: usize) {
        for _ in 0..num_right {
            self.0 += GAIN * (1.0 - self.0);
        }
        if num_right < num_drafts {
            self.0 -= GAIN * self.0;
        }
    }

    /// Takes in a step without drafts.
    pub(crate) fn rest(&mut self) {
        self.0 += DRIFT * (EXPECTED - self.0).max(0.0);
    }

    /// How many drafts in a row reach `least_probability`, at most `max`: the n-th is of use if all
    /// before it are right.
    pub(crate) fn num_drafts(self, least_probability: f64, max: usize) -> usize {
        let mut probability = self.0;
        let mut num = 0;
        while num < max && probability >= least_probability {
            probability *= self.0;
            num += 1;
        }
        num
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_found() {
        let mut pace = Pace::default();
        let guess = pace.price_of_row(1);
        assert!((guess - MARGIN * PRIOR_SHARE).abs() < 1e-9, "{guess}");
        for step in 0..300 {
            let num_rows = 1 + step % 9;
            pace.record(num_rows, Duration::from_micros(10_000 + 2_000 * num_rows as u64));
        }
        let (base, per_row) = pace.line();
        assert!(
            (base - 0.010).abs() < 0.001 && (per_row - 0.002).abs() < 0.0003,
            "{base} {per_row}"
        );
        // At 45 rows nine tenths of the time is the rows': only what is nearly sure pays.
        assert!(pace.price_of_row(1) < 0.25 && pace.price_of_row(45) > 0.95);
    }

    #[test]
    fn steps_of_one_size_keep_the_guess() {
        let mut pace = Pace::default();
        for _ in 0..300 {
            pace.record(1, Duration::from_millis(20));
        }
        let (base, per_row) = pace.line();
        assert!((base - 0.018).abs() < 1e-6 && (per_row - 0.002).abs() < 1e-6, "{base} {per_row}");
    }

    #[test]
    fn drafts_grow_while_right_and_stop_when_wrong() {
        let mut acceptance = Acceptance::default();
        assert_eq!(acceptance.num_drafts(0.12, 16), 3);
        for _ in 0..5 {
            acceptance.record(4, 4);
        }
        assert_eq!(acceptance.num_drafts(0.12, 16), 16);
        let mut num_tries = 0;
        while acceptance.num_drafts(0.12, 16) > 0 {
            acceptance.record(0, 3);
            num_tries += 1;
        }
        assert!(num_tries < 16, "{num_tries}");
        let mut num_rests = 0;
        while acceptance.num_drafts(0.12, 16) == 0 {
            acceptance.rest();
            num_rests += 1;
        }
        assert!((1..60).contains(&num_rests), "{num_rests}");
    }
}
