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
            for sight in SIGHTS {
                let mut worst = [9.0f64, 0.0, 0.0];
                let mut mean = [0.0; 3];
                for service in SERVICES {
                    for seed in 0..12 {
                        let plan = Scenario { seed, ..scenario(slots, service, service_seconds, sight) };
                        let from = plan.until * 0.2;
                        let best = (0..=4)
                            .map(|more| {
                                let plan = Scenario { clients: vec![ours(false, slots + more)], ..plan.clone() };
                                run(&plan).throughput(from, plan.until, |_| true)
                            })
                            .fold(0.0, f64::max);
                        let history = run(&plan);
                        let it = [
                            history.throughput(from, plan.until, |_| true) / best,
                            history.queued(from, plan.until),
                            history.slowdown(from, plan.until),
                        ];
                        worst = [worst[0].min(it[0]), worst[1].max(it[1]), worst[2].max(it[2])];
                        (0..3).for_each(|i| mean[i] += it[i] / 36.0);
                    }
                }
                println!("S {service_seconds:4} slots {slots:2} {sight:11?}: mean {mean:.3?} worst {worst:.3?}");
            }
        }
    }
}

#[test]
fn changes() {
    for service_seconds in [10.0, 0.3] {
        for service in SERVICES {
            for sight in SIGHTS {
                let mut worst = [9.0f64; 3];
                for seed in 0..12 {
                    let mut plan = scenario(8, service, service_seconds, sight);
                    plan.seed = seed;
                    let s = service_seconds;
                    let at = [0.0, 40.0 * s, 240.0 * s, 280.0 * s];
                    plan.slots = vec![(0.0, 8), (at[1], 2), (at[2], 16)];
                    plan.until = at[3];
                    let best = run(&Scenario { clients: vec![ours(false, 18)], ..plan.clone() });
                    let history = run(&plan);
                    for phase in 0..3 {
                        let from = history.time_after(at[phase], 60);
                        let to = at[phase + 1];
                        worst[phase] = worst[phase]
                            .min(history.throughput(from, to, |_| true) / best.throughput(from, to, |_| true));
                    }
                }
                println!("S {service_seconds:4} {service:13?} {sight:11?}: {worst:.3?}");
            }
        }
    }
}

#[test]
fn three() {
    for service_seconds in [10.0, 1.0, 0.3] {
        for apart in [0.0, 20.0] {
            for sight in SIGHTS {
                let (mut sum, mut queue, mut low, mut high) = (9.0f64, 0.0f64, 1.0f64, 0.0f64);
                for service in SERVICES {
                    for seed in 0..10 {
                        let mut plan = scenario(8, service, service_seconds, sight);
                        plan.seed = seed;
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
                        sum = sum.min(all / best.throughput(from, plan.until, |_| true));
                        queue = queue.max(history.queued(from, plan.until));
                        for who in 0..3 {
                            let share = history.throughput(from, plan.until, |at| at == who) / all;
                            low = low.min(share);
                            high = high.max(share);
                        }
                    }
                }
                println!(
                    "S {service_seconds:4} apart {apart:4} {sight:11?}: worst sum {sum:.3} queue {queue:.2} low {low:.3} high {high:.3}"
                );
            }
        }
    }
}

#[test]
fn user() {
    for service_seconds in [10.0, 0.3] {
        for slots in [2, 4, 8, 16] {
            for sight in SIGHTS {
                print!("S {service_seconds:4} slots {slots} {sight:11?}:");
                for service in SERVICES {
                    let mut it = [0.0; 3];
                    let mut worst = 0.0f64;
                    for seed in 0..12 {
                        let mut plan = scenario(slots, service, service_seconds, sight);
                        plan.seed = seed;
                        plan.clients.push(Client::Interactive);
                        plan.until *= 2.0;
                        let from = 20.0 * service_seconds;
                        let history = run(&plan);
                        it[0] += 1.0 / 12.0 * history.mean_slowdown(1, from, plan.until);
                        worst = worst.max(history.mean_slowdown(1, from, plan.until));
                        it[1] += 1.0 / 12.0 * history.queued(from, plan.until);
                        it[2] += 1.0 / 12.0 * history.throughput(from, plan.until, |_| true) * service_seconds
                            / slots as f64;
                    }
                    print!("  {service:?} {it:.2?} {worst:.2}");
                }
                println!();
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
#[test]
fn trace() {
    for seed in 0..12 {
        let mut plan = scenario(8, Service::Lognormal, 10.0, Sight::ServerTimes);
        plan.seed = seed;
        let s = 10.0;
        let at = [0.0, 40.0 * s, 240.0 * s, 280.0 * s];
        plan.slots = vec![(0.0, 8), (at[1], 2), (at[2], 16)];
        plan.until = at[3];
        let best = run(&Scenario { clients: vec![ours(false, 18)], ..plan.clone() });
        let history = run(&plan);
        let from = history.time_after(at[0], 60);
        println!("{seed} {:.3}", history.throughput(from, at[1], |_| true) / best.throughput(from, at[1], |_| true));
        let mut n = 0;
        for met in &history.met {
            if met.ended < at[1] {
                n += 1;
                if n % 4 == 0 {
                    print!("{} ", met.limit);
                }
            }
        }
        println!();
    }
}
