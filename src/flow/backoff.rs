//! Spaces retries: full jitter, capped (Brooker, "Exponential Backoff and Jitter", 2015). Pure.

use std::time::Duration;

/// A wait of U(0, min(cap, 2^failures)) seconds; `unit` is uniform in 0..1 and `failures` counts from 1.
pub fn full_jitter(failures: u32, cap: Duration, unit: f64) -> Duration {
    let ceiling = 2f64.powi(failures.min(30) as i32).min(cap.as_secs_f64());
    Duration::from_secs_f64(ceiling * unit)
}

/// A wait that a server asked for, plus up to a tenth, so that not all its clients come back at once.
pub fn with_jitter(wait: Duration, unit: f64) -> Duration {
    wait + wait.mul_f64(0.1 * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap() {
        let cap = Duration::from_secs(60);
        let ceilings: Vec<u64> = (1..=8).map(|failures| full_jitter(failures, cap, 1.0).as_secs()).collect();
        assert_eq!(ceilings, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(full_jitter(u32::MAX, cap, 0.5), Duration::from_secs(30));
        assert_eq!(full_jitter(3, cap, 0.0), Duration::ZERO);
    }
}
