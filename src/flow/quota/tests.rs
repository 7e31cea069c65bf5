//! The quotas against models that count every send, and against greedy senders.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;

use super::window::{Window, moment, since_begin};
use super::{Left, QuotaNews, Quotas, Rate};

pub(super) const BEGIN: Duration = Duration::ZERO;
pub(super) const TARGETS: &[&str] = &["60/min", "1000/h", "2000/3h"];
pub(super) const SCALED: &[&str] = &["60/500ms", "1000/30s", "2000/90s"];

pub(super) fn rates(texts: &[&str]) -> Vec<Rate> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(super) fn quotas(texts: &[&str]) -> Quotas {
    Quotas::new(&rates(texts), None)
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn left(limit: u64, remaining: u64, resets_in_seconds: u64) -> QuotaNews {
    let left = Left { limit: Some(limit), remaining, resets_in: Duration::from_secs(resets_in_seconds) };
    QuotaNews { requests: Some(left), tokens: None }
}

/// Sends as soon as it may, so often; returns when each went.
pub(super) fn send_greedily(quotas: &mut Quotas, begin: Duration, requests: usize) -> Vec<Duration> {
    let mut now = begin;
    let mut sent = Vec::with_capacity(requests);
    while sent.len() < requests {
        now = quotas.ready_at(now, 0).max(now);
        let booking = quotas.take(now, 0);
        quotas.settle(booking, 0);
        sent.push(now);
    }
    sent
}

/// The most of `arrivals` in any window of the rate, counted one by one, both ends included.
fn most_within(arrivals: &[Duration], rate: &Rate) -> u64 {
    let mut arrivals = arrivals.to_vec();
    arrivals.sort_unstable();
    let mut first = 0;
    let counts = arrivals.iter().enumerate().map(|(last, at)| {
        while *at - arrivals[first] > rate.window {
            first += 1;
        }
        (last + 1 - first) as u64
    });
    counts.max().unwrap_or(0)
}

/// How many a greedy sender gets through a stack within `length`, by a count of every send and no margin at all.
fn best_possible(rates: &[Rate], length: Duration) -> usize {
    let mut sent: Vec<Duration> = Vec::new();
    loop {
        let frees = |rate: &Rate| sent.len().checked_sub(rate.count as usize).map(|oldest| sent[oldest] + rate.window);
        let now = rates.iter().filter_map(frees).max().unwrap_or(BEGIN);
        if now > length {
            return sent.len();
        }
        sent.push(now.max(sent.last().copied().unwrap_or(BEGIN)));
    }
}

proptest! {
    /// Whatever the stack, the gaps between sends and the jitter: the service counts no more than it permits.
    #[test]
    fn no_window_is_ever_exceeded(
        stack in prop::collection::vec((1_u64..60, 1_u64..400), 1..4),
        gaps_ms in prop::collection::vec(prop_oneof![3 => Just(0_u64), 2 => 0_u64..30, 1 => 0_u64..3_000], 1..400),
        jitter_ms in prop::collection::vec(0_u64..20, 400),
        seed_ms in 0_u64..100_000,
    ) {
        let stack: Vec<Rate> = stack
            .iter()
            .map(|(count, hundredths)| Rate { count: *count, window: Duration::from_millis(hundredths * 10) })
            .collect();
        let mut quotas = Quotas::new(&stack, None);
        let mut now = Duration::from_millis(seed_ms);
        let mut arrivals = Vec::new();
        for (gap, jitter) in gaps_ms.iter().zip(&jitter_ms) {
            now += Duration::from_millis(*gap);
            now = now.max(quotas.ready_at(now, 0));
            prop_assert!(quotas.ready_at(now, 0) <= now);
            let booking = quotas.take(now, 0);
            quotas.settle(booking, 0);
            arrivals.push(now + Duration::from_millis(*jitter));
        }
        for rate in &stack {
            prop_assert!(most_within(&arrivals, rate) <= rate.count, "{rate}");
        }
    }

    /// Coalesced counts of large quotas are as strict as exact ones, and nearly as quick.
    #[test]
    fn no_large_window_is_ever_exceeded(count in 1_025_u64..3_000, gaps_us in prop::collection::vec(0_u64..900, 64)) {
        let rate = Rate { count, window: Duration::from_secs(1) };
        let mut window = Window::of_requests(count, rate.window);
        let mut now = BEGIN;
        let mut sent = Vec::new();
        for gap in gaps_us.iter().cycle().take(9_000) {
            let ready = since_begin(window.ready_at(1));
            let late = sent.len().checked_sub(count as usize).map(|oldest| ready.saturating_sub(sent[oldest] + rate.window));
            prop_assert!(late.is_none_or(|late| late <= rate.window / 1_000), "{late:?} late");
            now = ready.max(now + Duration::from_micros(*gap));
            window.add(moment(now), 1);
            sent.push(now);
        }
        // What left at its very moment has left: the margin is not this one's matter.
        let just_less = Rate { count, window: rate.window - Duration::from_nanos(1) };
        prop_assert!(most_within(&sent, &just_less) <= count);
    }

    /// Tokens as they were settled, of sends counted when they went, stay within the quota.
    #[test]
    fn no_minute_has_more_tokens_than_its_quota(
        costs in prop::collection::vec((1_u64..400, 0_u64..400, 0_u64..9_000), 1..300),
    ) {
        let mut quotas = Quotas::new(&[], Some(1_000));
        let mut now = BEGIN;
        let mut spent: Vec<(Duration, u64)> = Vec::new();
        for (estimate, less, gap_ms) in costs {
            now = (now + Duration::from_millis(gap_ms)).max(quotas.ready_at(now, estimate));
            let booking = quotas.take(now, estimate);
            let cost = estimate.saturating_sub(less);
            quotas.settle(booking, cost);
            spent.push((now, cost));
        }
        for (last, _) in &spent {
            let minute = spent.iter().filter(|(at, _)| at <= last && *last - *at <= Duration::from_secs(60));
            prop_assert!(minute.map(|(_, cost)| cost).sum::<u64>() <= 1_000);
        }
    }
}

#[test]
fn a_greedy_sender_uses_nearly_all_that_is_permitted() {
    let cases: [(&[&str], u64); 8] = [
        (TARGETS, 40 * 3_600),
        (SCALED, 1_200),
        (SCALED, 125),
        (&["60/min"], 4_000),
        (&["10/s"], 100),
        (&["2000/90s"], 1_800),
        (&["100000/h"], 20_000),
        (&["1/s"], 1_000),
    ];
    for (texts, length_seconds) in cases {
        let length = Duration::from_secs(length_seconds);
        let best = best_possible(&rates(texts), length);
        let sent = send_greedily(&mut quotas(texts), BEGIN, best);
        let share = length_seconds as f64 / sent[best - 1].as_secs_f64();
        assert!(share >= 0.97, "{texts:?}: {best} take {:?}, not {length_seconds} s: {share:.4}", sent[best - 1]);
        for rate in rates(texts) {
            assert!(most_within(&sent, &rate) <= rate.count, "{rate}");
        }
    }
}

#[test]
fn a_burst_goes_at_once_and_the_next_a_margin_after_its_window() {
    let sent = send_greedily(&mut quotas(&["60/min"]), BEGIN, 61);
    assert_eq!((sent[59], sent[60]), (BEGIN, seconds(60.6)));
    let short = send_greedily(&mut quotas(&["60/500ms"]), BEGIN, 61);
    assert_eq!(short[60], seconds(0.52), "20 ms, where it is the slowest");
    let scaled = send_greedily(&mut quotas(SCALED), BEGIN, 61);
    assert_eq!(scaled[60], seconds(0.55), "more, where a slower one binds");
}

#[test]
fn attempts_that_were_sent_too_early_count_as_well() {
    let mut quotas = quotas(&["2/s"]);
    (0..5).for_each(|at| {
        let _ = quotas.take(seconds(f64::from(at) / 10.0), 0);
    });
    assert_eq!(quotas.ready_at(seconds(0.5), 0), seconds(1.325), "when only one of them is left");
}

#[test]
fn without_a_quota_nothing_waits() {
    let mut quotas = Quotas::new(&[], None);
    assert!(quotas.is_empty() && quotas.told().is_none());
    let _ = quotas.take(BEGIN, u64::MAX);
    let _ = quotas.take(BEGIN, u64::MAX);
    assert_eq!(quotas.ready_at(seconds(3.0), 9), seconds(3.0));
    assert_eq!((quotas.binding(BEGIN), quotas.time_for(BEGIN, 9, 9.0, None)), (None, BEGIN));
    assert_eq!(quotas.time_for(BEGIN, 30, 9.0, Some(2.0)), seconds(15.0));
}

#[test]
fn tokens_wait_for_the_minute_and_what_was_not_used_comes_back() {
    let mut quotas = Quotas::new(&[], Some(1_000));
    let first = quotas.take(BEGIN, 600);
    assert_eq!(quotas.ready_at(seconds(1.0), 400), BEGIN);
    assert_eq!(quotas.ready_at(seconds(1.0), 500), seconds(60.6));
    quotas.settle(first, 500);
    assert_eq!(quotas.ready_at(seconds(1.0), 500), BEGIN);
    let second = quotas.take(seconds(10.0), 100);
    let _ = quotas.take(seconds(20.0), 0);
    quotas.learn(seconds(25.0), &QuotaNews::default(), 0);
    quotas.settle(second, 700);
    assert_eq!(quotas.ready_at(seconds(26.0), 1), seconds(60.6), "it cost more than was thought");
    assert_eq!(quotas.ready_at(seconds(26.0), 400), seconds(70.6));
    assert_eq!(quotas.ready_at(seconds(26.0), 401), seconds(85.6), "the excess counts from the latest that is known");
}

#[test]
fn a_request_larger_than_the_quota_of_tokens_goes_when_nothing_else_was_used() {
    let mut quotas = Quotas::new(&[], Some(1_000));
    assert_eq!(quotas.ready_at(BEGIN, 5_000), BEGIN);
    let booking = quotas.take(BEGIN, 5_000);
    assert_eq!(quotas.ready_at(seconds(1.0), 1), seconds(60.6));
    quotas.settle(booking, 5_000);
    assert_eq!(quotas.ready_at(seconds(1.0), 5_000), seconds(60.6));
}

#[test]
fn an_earlier_run_counts_by_its_age() {
    let mut quotas = quotas(&["60/min", "1000/h"]);
    quotas.remember(seconds(30.0), 60, 0);
    quotas.remember(seconds(3_000.0), 930, 0);
    quotas.remember(seconds(90.0), 5, 0);
    quotas.remember(seconds(9e9), 7, 0);
    let ready = quotas.ready_at(BEGIN, 0);
    assert!((30.6..30.7).contains(&ready.as_secs_f64()), "{ready:?}");
    let sent = send_greedily(&mut quotas, BEGIN, 6);
    let last = sent[5].as_secs_f64();
    assert!((602.0..606.0).contains(&last), "930, 60, 5 and 5 fill the hour: {last}");
}

#[test]
fn what_the_service_says_is_left_is_not_exceeded() {
    let mut quotas = Quotas::new(&[], None);
    let bookings: Vec<_> = (0..4).map(|_| quotas.take(BEGIN, 0)).collect();
    quotas.learn(seconds(1.0), &left(60, 5, 30), 3);
    assert!(!quotas.is_empty());
    let _ = quotas.take(seconds(1.0), 0);
    assert_eq!(quotas.ready_at(seconds(1.0), 0), BEGIN);
    let _ = quotas.take(seconds(1.0), 0);
    assert_eq!(quotas.ready_at(seconds(1.0), 0), seconds(31.0), "five were left, less three that it had not counted");
    assert_eq!(quotas.binding(seconds(1.0)).unwrap(), "the service's own quota of 60 requests");
    quotas.learn(seconds(2.0), &left(60, 5, 29), 4);
    assert_eq!(quotas.ready_at(seconds(2.0), 0), BEGIN, "later news count");
    let _ = quotas.take(seconds(2.0), 0);
    bookings.into_iter().for_each(|booking| quotas.settle(booking, 0));
    assert_eq!(quotas.ready_at(seconds(3.0), 0), seconds(31.0), "three are in flight");
    assert!(quotas.ready_at(seconds(31.0), 0) <= seconds(31.0), "the reset was told");
}

#[test]
fn with_nothing_in_flight_one_may_go_while_something_is_left() {
    let mut quotas = Quotas::new(&[], None);
    let booking = quotas.take(BEGIN, 0);
    quotas.learn(seconds(1.0), &left(60, 1, 3_600), 1);
    assert_eq!(quotas.ready_at(seconds(1.0), 0), seconds(3_601.0));
    quotas.settle(booking, 0);
    assert_eq!(quotas.ready_at(seconds(1.0), 0), BEGIN);
    quotas.learn(seconds(2.0), &left(60, 0, 3_600), 0);
    assert_eq!(quotas.ready_at(seconds(2.0), 0), seconds(3_602.0), "nothing is left");
}

#[test]
fn after_the_reset_no_more_than_the_whole_quota_goes_before_the_next_news() {
    let mut quotas = Quotas::new(&[], None);
    let _ = quotas.take(BEGIN, 0);
    quotas.learn(BEGIN, &left(60, 0, 30), 0);
    let mut send = |at: f64, often: usize| {
        (0..often).for_each(|_| {
            let _ = quotas.take(seconds(at), 0);
        });
        quotas.ready_at(seconds(at), 0)
    };
    assert!(send(30.0, 58) <= seconds(30.0));
    assert_eq!(send(31.0, 1), seconds(60.0), "sixty are in flight, and none was heard of");
    assert!(send(60.0, 0) <= seconds(60.0), "but no longer than the last reset took");
}

#[test]
fn learned_tokens_are_spent_by_estimate() {
    let mut quotas = Quotas::new(&[], None);
    let _ = [quotas.take(BEGIN, 100), quotas.take(BEGIN, 300)];
    let told = Left { limit: None, remaining: 1_000, resets_in: seconds(6.0) };
    quotas.learn(BEGIN, &QuotaNews { requests: None, tokens: Some(told) }, 2);
    assert_eq!(quotas.ready_at(BEGIN, 600), BEGIN);
    assert_eq!(quotas.ready_at(BEGIN, 601), seconds(6.0), "200 each may not be counted yet");
    let _ = quotas.take(BEGIN, 500);
    assert_eq!(quotas.ready_at(BEGIN, 101), seconds(6.0));
    assert_eq!(quotas.binding(BEGIN).unwrap(), "the service's own quota of tokens");
}

#[test]
fn the_quota_that_holds_back_is_named() {
    let mut quotas = Quotas::new(&rates(&["2/s", "3/min"]), Some(5_000));
    assert_eq!(quotas.told().unwrap(), "2 per s, 3 per min and 5,000 tokens per min");
    let _ = [quotas.take(BEGIN, 10), quotas.take(BEGIN, 10)];
    assert_eq!(quotas.binding(BEGIN).as_deref(), Some("2 per s"));
    assert_eq!(quotas.binding(seconds(1.5)), None);
    let _ = quotas.take(seconds(1.5), 10);
    assert_eq!(quotas.binding(seconds(1.5)).as_deref(), Some("3 per min"));
    let _ = quotas.take(seconds(2.0), 4_980);
    assert_eq!(quotas.binding(seconds(60.6)).as_deref(), Some("5,000 tokens per min"));
}
