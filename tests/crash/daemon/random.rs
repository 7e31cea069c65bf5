//! `kill -9` at any instant, again and again, with twenty files in flight: each has its one whole result in the end, and a
//! crash costs at most the requests that were in flight.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::spool::{Came, File, Since, Spool, large};
use crate::plan::{Dice, count, is_all, say};
use crate::task::{Goal, Line, Plan};

const FILES: usize = 20;
const LATENCY: &str = "lognormal:4:20";
/// Files are not killed over more often: they must come to an end.
const CRASHES_MAX: u64 = 12;

/// A file of any size, with lines of every kind.
fn any_file(dice: &mut Dice, number: usize) -> File {
    if dice.one_in(10) {
        return File::prompt(&format!("f{number:02}"), &format!("{number} words alone"));
    }
    let lines = 1 + dice.below(16);
    let mut plan = Plan { first: number * 1000, ..Plan::random(dice, lines, Goal::File) };
    plan.lines.iter_mut().for_each(|line| {
        if let Line::Same(which) = line {
            *line = Line::Same(number * 1000 + *which);
        }
    });
    if dice.one_in(4) {
        plan.lines = large(&plan.lines);
    }
    File::lines(&format!("f{number:02}"), &plan)
}

#[derive(Default)]
struct Sum {
    crashes: u64,
    asked: u64,
    again: u64,
}

/// Carries files out, over so many crashes.
fn carry_out(dice: &mut Dice, crashes_max: u64) -> Sum {
    let files = (0..FILES).map(|number| any_file(dice, number)).collect();
    let spool = Spool::new(files, 1 + dice.below(8), LATENCY);
    let (began, since, nothing, mut crashes) = (Instant::now(), Since::new(), BTreeMap::new(), 0);
    let output = loop {
        let mut daemon = spool.start();
        let when = format!("crash {crashes} of {} slots after {:?}", spool.slots, began.elapsed());
        if crashes == crashes_max {
            spool.carry_out(&mut daemon, &spool.files, &since, &when);
            break daemon.stop();
        }
        let pause = Duration::from_millis(dice.below(500) as u64);
        if spool.watch(&mut daemon, &spool.files, &since, pause) == Came::Done {
            break daemon.stop();
        }
        assert_eq!(daemon.kill().status, 137, "{when}");
        crashes += 1;
        spool.check_never_wrong(&nothing, &when);
        let (sends, paid) = (spool.sends(), spool.paid());
        let bound = paid + crashes * spool.slots as u64;
        assert!(sends <= bound, "{when}: {sends} requests, {paid} outcomes recorded");
    };
    let when = format!("after {crashes} crashes of {} slots in {:?}", spool.slots, began.elapsed());
    spool.check_end(&output, &when);
    let (sends, asked) = (spool.sends(), spool.asked());
    assert!(sends >= asked && sends <= asked + crashes * spool.slots as u64, "{when}: {sends} requests of {asked}");
    // All of that is known to whoever starts next, and costs nothing.
    spool.check_end(&spool.finish(&since, &when), &format!("once more, {when}"));
    assert_eq!(spool.sends(), sends, "{when}");
    Sum { crashes, asked, again: sends - asked }
}

#[test]
fn every_file_has_its_result_after_any_number_of_kills() {
    let (mut dice, mut sum, crashes) = (Dice::new(), Sum::default(), count(300, 12) as u64);
    while sum.crashes < crashes {
        let run = carry_out(&mut dice, CRASHES_MAX.min(crashes - sum.crashes));
        sum.crashes += run.crashes;
        sum.asked += run.asked;
        sum.again += run.again;
    }
    if is_all() {
        let Sum { crashes, asked, again } = sum;
        say(format_args!("daemon: {crashes} crashes, {asked} lines asked, {again} again"));
    }
}
