//! `kill -9` at any instant, again and again, of runs of 200 lines: the end is that of an undisturbed run.

use std::time::{Duration, Instant};

use crate::common::Signal;
use crate::plan::{Dice, count, is_all, say};
use crate::scene::Scene;
use crate::task::{Goal, Plan, same};

const LINES: usize = 200;
const LATENCY: &str = "lognormal:4:20";
/// A run is not killed more often: it must come to an end.
const CRASHES_MAX: u64 = 12;

#[derive(Default)]
struct Sum {
    runs: u64,
    crashes: u64,
    asked: u64,
    sends: u64,
}

/// Carries a plan out, killed until it ends by itself.
fn carry_out(dice: &mut Dice, goal: Goal, crashes_max: u64) -> Sum {
    let scene = Scene::with_latency(Plan::random(dice, LINES, goal), LATENCY);
    let (began, mut crashes) = (Instant::now(), 0);
    let pause = 20 + LINES * 5 / scene.plan.concurrency;
    let output = loop {
        let live = scene.start();
        if crashes < crashes_max {
            std::thread::sleep(Duration::from_millis(5 + dice.below(pause) as u64));
            live.signal(Signal::KILL);
        }
        let output = live.finish();
        if output.status != 137 {
            break output;
        }
        crashes += 1;
        let when = format!("crash {crashes} of {:?}", scene.plan);
        scene.check_never_wrong(&when);
        scene.check_unrecorded(crashes, &when);
        if goal == Goal::Stdout {
            let text = output.text();
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            assert!(scene.wanted.starts_with(&same(whole)), "{when}: {output}");
        }
    };
    let when = format!("after {crashes} crashes of {:?} in {:?}", scene.plan, began.elapsed());
    scene.check_end(&output, &when);
    scene.check_sends(crashes, &when);
    let sends = scene.sends();
    // The same command once more sends nothing, and comes to the same end.
    scene.check_end(&scene.finish(), &format!("once more, {when}"));
    assert_eq!(scene.sends(), sends, "{when}");
    Sum { runs: 1, crashes, asked: scene.plan.asked(), sends }
}

fn kill_again_and_again(goal: Goal, crashes: u64) {
    let (mut dice, mut sum) = (Dice::new(), Sum::default());
    while sum.crashes < crashes {
        let run = carry_out(&mut dice, goal, CRASHES_MAX.min(crashes - sum.crashes));
        sum.runs += run.runs;
        sum.crashes += run.crashes;
        sum.asked += run.asked;
        sum.sends += run.sends;
    }
    if is_all() {
        let again = sum.sends - sum.asked;
        say(format_args!(
            "{goal:?}: {} crashes of {} runs, {} lines asked, {again} again",
            sum.crashes, sum.runs, sum.asked
        ));
    }
}

#[test]
fn a_file_is_the_same_after_any_number_of_kills() {
    kill_again_and_again(Goal::File, count(500, 16) as u64);
}

#[test]
fn a_pipe_gets_the_same_after_any_number_of_kills() {
    kill_again_and_again(Goal::Stdout, count(200, 9) as u64);
}
