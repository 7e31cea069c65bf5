//! What the adaptive limit must reach, in simulations.

use super::simulation::*;

const SIGHTS: [Sight; 2] = [Sight::ServerTimes, Sight::FirstToken];
const SERVICES: [Service; 3] = [Service::Lognormal, Service::Exponential, Service::Deterministic];

fn ours(adaptive: bool, ceiling: usize) -> Client {
    Client::Ours { adaptive, ceiling, from_seconds: 0.0, requests_max: usize::MAX }
}

fn scenario(slots: usize, service: Service, service_seconds: f64, sight: Sight) -> Scenario {
    Scenario {
        seed: 1,
        slots: vec![(0.0, slots)],
        loading: Vec::new(),
        clients: vec![ours(true, 64)],
        service,
        service_seconds,
        prompt_share: 0.07,
        prompt_spread: 1.5,
        round_trip_seconds: if service_seconds > 1.0 { 0.005 } else { 0.001 },
        jitter_seconds: (0.0, 0.001),
        sight,
        until: (1500.0 / slots as f64).max(100.0) * service_seconds,
    }
}

#[test]
fn table() {
    for service_seconds in [10.0, 0.3] {
        for slots in [1, 2, 4, 8, 16, 32, 64] {
            for service in SERVICES {
                for sight in SIGHTS {
                    let plan = scenario(slots, service, service_seconds, sight);
                    let from = plan.until * 0.2;
                    let best = (0..=4)
                        .map(|more| {
                            let plan = Scenario { clients: vec![ours(false, slots + more)], ..plan.clone() };
                            run(&plan).throughput(from, plan.until, |_| true)
                        })
                        .fold(0.0, f64::max);
                    let history = run(&plan);
                    println!(
                        "S {service_seconds:4} slots {slots:2} {service:13?} {sight:11?}: {:5.1}% queue {:4.2} p50 {:4.2} limit {:5.2}",
                        100.0 * history.throughput(from, plan.until, |_| true) / best,
                        history.queued(from, plan.until),
                        history.slowdown(from, plan.until),
                        history.mean_limit(from, plan.until),
                    );
                }
            }
        }
    }
}

#[test]
fn changes() {
    for service_seconds in [10.0, 0.3] {
        for service in SERVICES {
            for sight in SIGHTS {
                let mut plan = scenario(8, service, service_seconds, sight);
                let s = service_seconds;
                let at = [0.0, 40.0 * s, 240.0 * s, 280.0 * s];
                plan.slots = vec![(0.0, 8), (at[1], 2), (at[2], 16)];
                plan.until = at[3];
                let best = run(&Scenario { clients: vec![ours(false, 18)], ..plan.clone() });
                let history = run(&plan);
                print!("S {service_seconds:4} {service:13?} {sight:11?}:");
                for phase in 0..3 {
                    let from = history.time_after(at[phase], 60);
                    let to = at[phase + 1];
                    print!(
                        " {:5.1}% queue {:4.2}",
                        100.0 * history.throughput(from, to, |_| true) / best.throughput(from, to, |_| true),
                        history.queued(from, to)
                    );
                }
                println!();
            }
        }
    }
}

#[test]
fn three() {
    for service_seconds in [10.0, 0.3] {
        for apart in [0.0, 20.0] {
            for service in SERVICES {
                for sight in SIGHTS {
                    let mut plan = scenario(8, service, service_seconds, sight);
                    plan.clients = (0..3)
                        .map(|at| Client::Ours {
                            adaptive: true,
                            ceiling: 64,
                            from_seconds: at as f64 * apart,
                            requests_max: usize::MAX,
                        })
                        .collect();
                    let from = 2.0 * apart + 20.0 * service_seconds;
                    plan.until = from + 300.0 * service_seconds;
                    let best = run(&Scenario { clients: vec![ours(false, 11)], ..plan.clone() });
                    let history = run(&plan);
                    let all = history.throughput(from, plan.until, |_| true);
                    print!(
                        "S {service_seconds:4} apart {apart} {service:13?} {sight:11?}: {:5.1}% queue {:4.2}",
                        100.0 * all / best.throughput(from, plan.until, |_| true),
                        history.queued(from, plan.until)
                    );
                    for who in 0..3 {
                        print!(" {:4.1}", 100.0 * history.throughput(from, plan.until, |at| at == who) / all);
                    }
                    println!();
                }
            }
        }
    }
}

#[test]
fn user() {
    for service_seconds in [10.0, 0.3] {
        for slots in [2, 4, 8, 16] {
            for service in SERVICES {
                for sight in SIGHTS {
                    let mut plan = scenario(slots, service, service_seconds, sight);
                    plan.clients.push(Client::Interactive);
                    plan.until *= 2.0;
                    let from = 20.0 * service_seconds;
                    let history = run(&plan);
                    println!(
                        "S {service_seconds:4} slots {slots} {service:13?} {sight:11?}: user {:4.2} queue {:4.2} busy {:4.1}%",
                        history.mean_slowdown(1, from, plan.until),
                        history.queued(from, plan.until),
                        100.0 * history.throughput(from, plan.until, |_| true) * service_seconds / slots as f64
                    );
                }
            }
        }
    }
}

#[test]
fn odd() {
    for service_seconds in [10.0, 1.0, 0.3] {
        for sight in SIGHTS {
            for (name, spread, share, jitter, slots) in [
                ("mixed", 20.0, 0.07, 0.001, 8),
                ("mixed2", 20.0, 0.2, 0.001, 8),
                ("mixed64", 20.0, 0.07, 0.001, 100),
                ("jitter", 1.5, 0.07, 0.025, 100),
                ("jitter8", 1.5, 0.07, 0.025, 8),
                ("jitter+mixed", 20.0, 0.07, 0.025, 100),
                ("jitter2", 1.5, 0.07, 0.050, 100),
            ] {
                let mut plan = scenario(slots, Service::Lognormal, service_seconds, sight);
                plan.prompt_spread = spread;
                plan.prompt_share = share;
                plan.jitter_seconds.1 = jitter;
                plan.until = (100.0 + 1000.0 / slots as f64) * service_seconds;
                let from = 30.0 * service_seconds;
                let history = run(&plan);
                let best = run(&Scenario { clients: vec![ours(false, (slots + 4).min(64))], ..plan.clone() });
                println!(
                    "S {service_seconds:4} {name} {sight:11?}: {:5.1}% queue {:4.2} p50 {:4.2} limit {:5.2}",
                    100.0 * history.throughput(from, plan.until, |_| true)
                        / best.throughput(from, plan.until, |_| true),
                    history.queued(from, plan.until),
                    history.slowdown(from, plan.until),
                    history.mean_limit(from, plan.until),
                );
            }
        }
    }
}

#[test]
fn cold() {
    for service_seconds in [10.0, 3.0] {
        for sight in SIGHTS {
            for first in [0.0, 30.0] {
                let mut plan = scenario(8, Service::Lognormal, service_seconds, sight);
                let at = first + 50.0 * service_seconds;
                plan.loading = vec![(0.0, first), (at, at + 30.0)];
                plan.until = at + 30.0 + 100.0 * service_seconds;
                let history = run(&plan);
                let l = |a: f64, b: f64| history.mean_limit(a, b);
                println!(
                    "S {service_seconds:4} {sight:11?} first {first}: limit {:4.1} before {:4.1} after load {:4.1} later {:4.1}",
                    l(first, first + 3.0 * service_seconds),
                    l(first + 20.0 * service_seconds, at),
                    l(at + 30.0, at + 30.0 + 3.0 * service_seconds),
                    l(at + 30.0 + 3.0 * service_seconds, at + 30.0 + 10.0 * service_seconds),
                );
            }
        }
    }
}
