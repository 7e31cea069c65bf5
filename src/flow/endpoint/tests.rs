//! The endpoint as a whole: what one of its parts does to the others.

use super::*;
const NOW: Duration = Duration::from_secs(1);
const AT: At = At { now: NOW, was_probe: false, unit: 1.0 };
const M: Model = Model::FIRST;

fn endpoint(ceiling: usize) -> Endpoint {
    let quotas = Quotas::new(&[], None);
    Endpoint::new(Setup { ceiling, adapts: false, retry_wait_max: Duration::from_secs(60), quotas })
}

/// Two models that were sent for.
fn two(endpoint: &mut Endpoint) -> (Model, Model) {
    let mut models = crate::flow::Models::default();
    let (down, up) = (models.of("down"), models.of("up"));
    for model in [down, up] {
        endpoint.sent(model, NOW);
        endpoint.ended(model);
    }
    (down, up)
}

#[test]
fn one_poisonous_line_is_no_outage() {
    let mut endpoint = endpoint(1);
    assert!((0..50).all(|_| !endpoint.trouble(Trouble::Ambiguous, 7, Some(M), AT)));
    assert!((0..4).any(|line| endpoint.trouble(Trouble::Ambiguous, line, Some(M), AT)));
}

#[test]
fn charges_since_the_last_success_are_void_when_the_breaker_opens() {
    let mut endpoint = endpoint(1);
    let before = endpoint.stamp();
    endpoint.success(M, None);
    let since = endpoint.stamp();
    assert!(!endpoint.trouble(Trouble::Endpoint, 1, Some(M), AT) && !since.is_void());
    assert!(endpoint.trouble(Trouble::Endpoint, 1, Some(M), AT));
    assert!(since.is_void() && !before.is_void());
}

#[test]
fn a_model_that_is_down_leaves_the_others_alone() {
    let mut endpoint = endpoint(1);
    let (down, up) = two(&mut endpoint);
    (0..2).for_each(|_| {
        endpoint.trouble(Trouble::Model, 1, Some(down), AT);
    });
    assert_eq!(endpoint.permit(NOW), Permit::Free);
    assert_eq!(endpoint.permit_model(up, NOW), Permit::Free);
    assert!(matches!(endpoint.permit_model(down, NOW), Permit::Wait(_)));
    assert!(endpoint.sent(down, Duration::from_secs(99)), "a probe");
    assert!(endpoint.success(down, None) && endpoint.permit_model(down, NOW) == Permit::Free);
}

#[test]
fn when_every_known_model_is_down_nothing_is_sent() {
    let mut endpoint = endpoint(1);
    endpoint.sent(M, NOW);
    (0..2).for_each(|_| {
        endpoint.trouble(Trouble::Model, 1, Some(M), AT);
    });
    assert!(matches!(endpoint.permit(NOW), Permit::Wait(_)));
}

#[test]
fn an_outage_ends_at_half_the_limit() {
    let mut endpoint = endpoint(8);
    (0..9).for_each(|line| {
        endpoint.trouble(Trouble::Endpoint, line, Some(M), AT);
    });
    assert!(endpoint.is_open() && endpoint.success(M, None));
    assert_eq!(endpoint.limit_of(M), 4);
}

#[test]
fn refusals_without_a_time_gate_the_endpoint_ever_longer() {
    let mut endpoint = endpoint(8);
    let mut now = NOW;
    let mut waits = Vec::new();
    for _ in 0..8 {
        endpoint.back_off(M, now, now, 1.0);
        endpoint.back_off(M, now - NOW, now, 1.0);
        waits.push((endpoint.gate_until() - now).as_secs());
        now = endpoint.gate_until();
    }
    assert_eq!((waits, endpoint.limit_of(M)), (vec![1, 2, 4, 8, 16, 32, 60, 60], 1));
    endpoint.success(M, None);
    endpoint.back_off(M, now, now, 0.0);
    assert_eq!(endpoint.gate_until() - now, NOW / 2);
}

#[test]
fn models_have_limits_of_their_own_below_one_ceiling() {
    let mut endpoint = endpoint(2);
    let (down, up) = two(&mut endpoint);
    endpoint.one(down);
    endpoint.sent(down, NOW);
    assert!(!endpoint.has_room_for(down) && endpoint.has_room_for(up));
    assert!(endpoint.loaded() == Some(down));
    endpoint.sent(up, NOW);
    assert!(!endpoint.has_room() && endpoint.load(up) == 0.5);
    assert_eq!(endpoint.ended(up), 1);
    assert!(endpoint.has_room_for(up));
}
