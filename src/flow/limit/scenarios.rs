//! What the adaptive limit must reach, in simulations: the promises that its law was chosen by.
//!
//! Each holds for minutes-long answers as for those of a benchmark, where the slack for noise counts, and whether the
//! server tells its times or only the first token is seen. `--nocapture` shows the figures.

use super::simulation::{Client, History, Scenario, Service, Sight, run};

const CEILING: usize = 64;
const SIGHTS: [Sight; 2] = [Sight::ServerTimes, Sight::FirstToken];
const SERVICES: [Service; 3] = [Service::Lognormal, Service::Exponential, Service::Deterministic];
const SERVICE_SECONDS: [f64; 2] = [10.0, 0.3];

#[test]
fn one_client_fills_the_slots_and_little_more() {
    for_each(&SERVICES, |service, service_seconds, sight| {
        for slots in [1, 2, 4, 8, 16, 32, 64] {
            let plan = scenario(slots, service, service_seconds, sight);
            let span = (0.2 * plan.until, plan.until);
            let throughput = of_best(&plan, &run(&plan), &[slots + 1, slots + 4], span);
            let history = run(&plan);
            let (queued, slowdown) = (history.queued(span), history.slowdown(span));
            let told = told(&plan, format!("{slots} slots: {throughput:.3} queue {queued:.2} p50 {slowdown:.2}"));
            assert!(throughput >= if slots <= 2 { 0.95 } else { 0.97 }, "{told}");
            assert!(queued <= if slots <= 8 { 1.0 } else { slots as f64 / 8.0 }, "{told}");
            assert!(slots < 8 || slowdown <= 1.2, "{told}");
        }
    });
}

#[test]
fn it_is_as_good_as_the_best_fixed_limit() {
    for_each(&SERVICES, |service, service_seconds, sight| {
        for slots in [2, 8] {
            let plan = scenario(slots, service, service_seconds, sight);
            let span = (0.2 * plan.until, plan.until);
            let best: Vec<usize> = (slots..=slots + 4).collect();
            let throughput = of_best(&plan, &run(&plan), &best, span);
            let told = told(&plan, format!("{slots} slots: {throughput:.3} of the best of {best:?}"));
            assert!(throughput >= if slots == 2 { 0.95 } else { 0.97 }, "{told}");
        }
    });
}

#[test]
fn it_follows_the_slots_within_sixty_answers() {
    for_each(&SERVICES, |service, service_seconds, sight| {
        let (second, third, until) = (40.0 * service_seconds, 140.0 * service_seconds, 180.0 * service_seconds);
        let mut plan = scenario(8, service, service_seconds, sight);
        (plan.slots, plan.until) = (vec![(0.0, 8), (second, 2), (third, 16)], until);
        let history = run(&plan);
        for (slots, from, until) in [(8, 0.0, second), (2, second, third), (16, third, until)] {
            let span = (history.time_after(from, 60), until);
            let throughput = of_best(&plan, &history, &[18], span);
            let queued = history.queued(span);
            let told = told(&plan, format!("now {slots} slots: {throughput:.3} queue {queued:.2}"));
            assert!(throughput >= 0.9 && queued <= 3.0, "{told}");
        }
    });
}

#[test]
fn clients_share_alike_whenever_they_began() {
    for apart in [0.0, 20.0] {
        for_each(&SERVICES, |service, service_seconds, sight| {
            let mut plan = scenario(8, service, service_seconds, sight);
            plan.clients = (0..3).map(|who| ours(f64::from(who) * apart)).collect();
            let from = 2.0 * apart + 20.0 * service_seconds;
            plan.until = from + 200.0 * service_seconds;
            let (history, span) = (run(&plan), (from, plan.until));
            let throughput = of_best(&Scenario { clients: vec![ours(0.0)], ..plan.clone() }, &history, &[11], span);
            let all = history.throughput(span, |_| true);
            let shares = [0, 1, 2].map(|who| history.throughput(span, |client| client == who) / all);
            let told = told(&plan, format!("three, {apart} s apart: {throughput:.3} shares {shares:.2?}"));
            assert!(throughput >= 0.95 && shares.iter().all(|share| (0.25..=0.42).contains(share)), "{told}");
        });
    }
}

#[test]
fn a_person_beside_a_run_hardly_waits() {
    // Where all answers take equally long the slots fall into step, and any second client waits for the whole row.
    for_each(&[Service::Lognormal, Service::Exponential], |service, service_seconds, sight| {
        let mut plan = scenario(8, service, service_seconds, sight);
        plan.clients.push(Client::Interactive);
        (plan.seed, plan.until) = (3, 500.0 * service_seconds);
        let (history, span) = (run(&plan), (20.0 * service_seconds, plan.until));
        let slowdown = history.mean_slowdown(1, span);
        let used = history.throughput(span, |_| true) * service_seconds / 8.0;
        let told = told(&plan, format!("a person's answers: {slowdown:.2}, used {used:.3}"));
        assert!(slowdown <= 1.2 && used >= 0.95, "{told}");
    });
}

#[test]
fn long_and_short_prompts_are_told_from_a_queue() {
    for_each(&[Service::Lognormal], |service, service_seconds, sight| {
        for (slots, prompt_share) in [(8, 0.07), (8, 0.2), (100, 0.07), (100, 0.2)] {
            let mut plan = scenario(slots, service, service_seconds, sight);
            (plan.prompt_spread, plan.prompt_share) = (20.0, prompt_share);
            assert_full(&plan, slots, "prompts that differ 20 times");
        }
    });
}

#[test]
fn jitter_is_no_queue() {
    for_each(&SERVICES, |service, service_seconds, sight| {
        for (slots, jitter_seconds) in [(100, 0.002), (100, 0.01), (100, 0.05), (8, 0.05)] {
            let mut plan = scenario(slots, service, service_seconds, sight);
            plan.jitter_seconds = (0.001, jitter_seconds / 2.0);
            assert_full(&plan, slots, &format!("jitter of {jitter_seconds} s"));
        }
    });
}

#[test]
fn a_model_that_is_loaded_first_or_again_is_no_queue() {
    for sight in SIGHTS {
        for (service_seconds, first) in [(10.0, 0.0), (10.0, 30.0), (3.0, 0.0), (3.0, 30.0)] {
            let mut plan = scenario(8, Service::Lognormal, service_seconds, sight);
            let again = first + 50.0 * service_seconds;
            plan.loading = vec![(0.0, first), (again, again + 30.0)];
            plan.until = again + 30.0 + 40.0 * service_seconds;
            let history = run(&plan);
            let before = history.mean_limit((again - 20.0 * service_seconds, again));
            let loaded = again + 30.0;
            let spans = [(loaded, loaded + 3.0 * service_seconds), (loaded + 3.0 * service_seconds, plan.until)];
            let after = spans.map(|span| history.mean_limit(span) / before);
            let told = told(&plan, format!("loaded at {again}: {before:.1} before, then {after:.2?} of it"));
            assert!(before > 8.0 && after.iter().all(|after| (0.85..1.2).contains(after)), "{told}");
        }
    }
}

#[test]
fn a_limit_is_neither_grown_nor_cut_by_what_it_did_not_hold_back() {
    for_each(&[Service::Lognormal], |service, service_seconds, sight| {
        let mut plan = scenario(100, service, service_seconds, sight);
        let [begun, few, until] = [8.0, 12.0, 60.0].map(|times| times * service_seconds);
        plan.clients = vec![Client::Ours { adaptive: true, ceiling: CEILING, from_seconds: 0.0, plenty_until: few }];
        plan.until = until;
        let history = run(&plan);
        let (before, after) = (history.mean_limit((begun, few)), history.mean_limit((few + begun, until)));
        let told = told(&plan, format!("{before:.1} with plenty to send, {after:.1} in the tail"));
        assert!(after >= 0.9 * before, "{told}");
        plan.clients = vec![Client::Ours { adaptive: true, ceiling: CEILING, from_seconds: 0.0, plenty_until: 0.0 }];
        assert!(run(&plan).met.iter().all(|met| met.limit == 4), "two at once");
    });
}

#[test]
fn where_nothing_is_seen_the_limit_stays_at_four() {
    let plan = scenario(2, Service::Lognormal, 10.0, Sight::Nothing);
    assert!(run(&plan).met.iter().all(|met| met.limit == 4));
}

// ----------------------------------------------------------------------------------------------------------- scenarios

fn for_each(services: &[Service], check: impl Fn(Service, f64, Sight)) {
    for service_seconds in SERVICE_SECONDS {
        services.iter().for_each(|service| SIGHTS.iter().for_each(|sight| check(*service, service_seconds, *sight)));
    }
}

fn ours(from_seconds: f64) -> Client {
    Client::Ours { adaptive: true, ceiling: CEILING, from_seconds, plenty_until: f64::INFINITY }
}

fn scenario(slots: usize, service: Service, service_seconds: f64, sight: Sight) -> Scenario {
    Scenario {
        seed: 1,
        slots: vec![(0.0, slots)],
        loading: Vec::new(),
        clients: vec![ours(0.0)],
        service,
        service_seconds,
        prompt_share: 0.07,
        prompt_spread: 1.5,
        round_trip_seconds: if service_seconds > 1.0 { 0.005 } else { 0.001 },
        jitter_seconds: (0.0, 0.001),
        sight,
        until: (1000.0 / slots as f64).max(60.0) * service_seconds,
    }
}

/// Answers in the span, over those that the best of the fixed limits gets.
fn of_best(plan: &Scenario, history: &History, limits: &[usize], span: (f64, f64)) -> f64 {
    let fixed = |ceiling: &usize| Client::Ours {
        adaptive: false,
        ceiling: *ceiling,
        from_seconds: 0.0,
        plenty_until: f64::INFINITY,
    };
    let plans = limits.iter().map(|ceiling| Scenario { clients: vec![fixed(ceiling)], ..plan.clone() });
    let best = plans.map(|plan| run(&plan).throughput(span, |_| true)).fold(0.0, f64::max);
    history.throughput(span, |_| true) / best
}

/// With more slots than the ceiling, the limit is to reach the ceiling; with fewer, to fill the slots.
fn assert_full(plan: &Scenario, slots: usize, what: &str) {
    let (history, span) = (run(plan), (0.3 * plan.until, plan.until));
    let throughput = of_best(plan, &history, &[(slots + 4).min(CEILING)], span);
    let (limit, queued) = (history.mean_limit(span), history.queued(span));
    let told = told(plan, format!("{what}, {slots} slots: {throughput:.3} queue {queued:.2} limit {limit:.1}"));
    assert!(throughput >= 0.97 && queued <= 1.5, "{told}");
    assert!(slots < CEILING || limit >= 0.9 * CEILING as f64, "{told}");
}

/// Figures with what they are figures of, for who looks and for who finds them wrong.
#[allow(clippy::print_stdout)]
fn told(plan: &Scenario, figures: String) -> String {
    let (service, sight) = (format!("{:?}", plan.service), format!("{:?}", plan.sight));
    let told = format!("{:4} s {service:13} {sight:11} {figures}", plan.service_seconds);
    println!("{told}");
    told
}
