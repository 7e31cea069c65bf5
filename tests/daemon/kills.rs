//! `kill -9` at any instant, of files that change meanwhile: the last version has its whole result, and a crash costs at
//! most the requests that were in flight.

use std::time::Duration;

use crate::needs::{Dice, count};
use crate::spool::{SLOTS, Spool, lines};

const KILLS: u64 = 6;

#[test]
fn kills_and_changes_together_lose_nothing() {
    let mut dice = Dice::new();
    for _ in 0..count(50, 2) {
        change_and_kill(&mut dice);
    }
}

/// Files that grow before each kill, one of them from small to large.
fn change_and_kill(dice: &mut Dice) {
    let spool = Spool::with(&["--latency", "lognormal:10:60"]);
    let mut sizes = [20, 60, 80];
    let mut daemon = spool.start();
    for kill in 0..KILLS {
        for (number, size) in sizes.iter_mut().enumerate() {
            *size += dice.below(6);
            spool.put(format!("g{number}.jsonl"), lines(&format!("g{number}"), *size));
        }
        std::thread::sleep(Duration::from_millis(dice.below(300) as u64));
        daemon.kill();
        let repeats = spool.sim.count("repeats");
        assert!(repeats <= kill * SLOTS, "{repeats} repeats after {kill} kills");
        daemon = spool.start();
    }
    // A last word that the kernel tells of.
    for (number, size) in sizes.iter().enumerate() {
        let name = format!("g{number}");
        spool.put(format!("{name}.jsonl"), lines(&name, *size));
        spool.wait_for_answers(&format!("{name}.out.jsonl"), &name, *size);
    }
    spool.wait_until_idle();
    let repeats = spool.sim.count("repeats");
    assert!(repeats <= KILLS * SLOTS, "{repeats} repeats after {KILLS} kills");
    daemon.stop().expect(0);
    let names = ["g0.jsonl", "g0.out.jsonl", "g1.jsonl", "g1.out.jsonl", "g2.jsonl", "g2.out.jsonl"];
    assert_eq!(spool.names(), names, "nothing else lies there");
}
