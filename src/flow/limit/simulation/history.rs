//! What happened in a simulation, and what is measured of it.

/// What one request met.
#[derive(Clone, Copy, Debug)]
pub struct Met {
    pub client: usize,
    pub sent: f64,
    pub ended: f64,
    pub waited: f64,
    /// The limit afterwards, and what was in flight.
    pub limit: usize,
}

/// All that happened.
#[derive(Debug, Default)]
pub struct History {
    pub met: Vec<Met>,
    /// When the server's queue became how long.
    pub queue: Vec<(f64, usize)>,
}

impl History {
    /// Answers a second of clients for which `of` holds, between two times.
    pub fn throughput(&self, (from, until): (f64, f64), of: impl Fn(usize) -> bool) -> f64 {
        let met = self.met.iter().filter(|met| of(met.client) && (from..until).contains(&met.ended));
        met.count() as f64 / (until - from)
    }

    /// Mean length of the server's queue between two times.
    pub fn queued(&self, (from, until): (f64, f64)) -> f64 {
        let ends = self.queue.iter().skip(1).map(|(at, _)| *at).chain([until]);
        let parts = self.queue.iter().zip(ends);
        let part =
            |((at, length), end): (&(f64, usize), f64)| *length as f64 * (end.min(until) - at.max(from)).max(0.0);
        parts.map(part).sum::<f64>() / (until - from)
    }

    /// Median time from sending to the end over what it were without waiting.
    pub fn slowdown(&self, (from, until): (f64, f64)) -> f64 {
        let met = || self.met.iter().filter(|met| met.client == 0 && (from..until).contains(&met.ended));
        median(met().map(|met| met.ended - met.sent)) / median(met().map(|met| met.ended - met.sent - met.waited))
    }

    /// Mean time of a client's answers over what it were without waiting.
    pub fn mean_slowdown(&self, client: usize, (from, until): (f64, f64)) -> f64 {
        let met = || self.met.iter().filter(|met| met.client == client && (from..until).contains(&met.ended));
        let loaded: f64 = met().map(|met| met.ended - met.sent).sum();
        let alone: f64 = met().map(|met| met.ended - met.sent - met.waited).sum();
        loaded / alone
    }

    /// When the `count`-th answer after `from` came.
    pub fn time_after(&self, from: f64, count: usize) -> f64 {
        self.met.iter().filter(|met| met.ended >= from).nth(count - 1).map_or(f64::INFINITY, |met| met.ended)
    }

    /// The mean limit of client 0 at its answers between two times.
    pub fn mean_limit(&self, (from, until): (f64, f64)) -> f64 {
        let met: Vec<_> = self.met.iter().filter(|met| met.client == 0 && (from..until).contains(&met.ended)).collect();
        met.iter().map(|met| met.limit as f64).sum::<f64>() / met.len() as f64
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
