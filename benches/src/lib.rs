//! Micro-benchmarks, one file each beside `src`; dated results in `results`. Here is how they time, in [`driver`] how
//! they run an engine, in [`stand_in`] a server without one, and in [`running`] a scheduler alone.

pub mod driver;
pub mod running;
pub mod stand_in;

use std::error::Error;
use std::time::{Duration, Instant};

/// What the benches give up with.
pub type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Median of the times of `call`, run as often as fits in `budget`, at least five times and once
/// before. In seconds.
///
/// # Errors
/// The first error of `call`.
pub fn median_seconds<E>(
    budget: Duration,
    mut call: impl FnMut() -> Result<(), E>,
) -> Result<f64, E> {
    call()?;
    let (start, mut seconds) = (Instant::now(), Vec::new());
    while seconds.len() < 5 || start.elapsed() < budget {
        let before = Instant::now();
        call()?;
        seconds.push(before.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}
