//! Many processes on one journal, files that are not ours, and inputs that change meanwhile.

use std::time::Duration;

use crate::common::{Live, Output, Signal, wait_for};
use crate::plan::{Dice, count, is_all, say};
use crate::scene::Scene;
use crate::task::{Goal, Line, Plan};

const CONTENDERS: usize = 10;

fn lines(count: usize) -> Plan {
    Plan { lines: vec![Line::Good; count], ..Plan::small() }
}

/// Starts many runs at once, and waits for all of them.
fn contend(scene: &Scene) -> Vec<Output> {
    let runs: Vec<Live> = (0..CONTENDERS).map(|_| scene.start()).collect();
    runs.into_iter().map(Live::finish).collect()
}

/// One has done the work; those who came while it did were refused, and those who came later found nothing to do.
fn check_owners(scene: &Scene, outputs: &[Output], crashes: u64, when: &str) -> usize {
    let (refused, done): (Vec<&Output>, Vec<&Output>) = outputs.iter().partition(|output| output.status == 75);
    assert!(!done.is_empty(), "{when}: nobody did it: {}", outputs[0]);
    for output in &refused {
        assert!(output.stderr.contains("is held by") && output.stdout.is_empty(), "{when}: {output}");
    }
    for output in done {
        scene.check_end(output, when);
    }
    scene.check_sends(crashes, when);
    refused.len()
}

#[test]
fn of_many_runs_on_one_journal_one_works() {
    let mut refused = 0;
    let rounds = count(30, 2);
    for round in 0..rounds {
        let goal = if round % 3 == 2 { Goal::Stdout } else { Goal::File };
        let scene = Scene::with_latency(Plan { goal, ..lines(12) }, "fixed:60");
        refused += check_owners(&scene, &contend(&scene), 0, &format!("round {round}"));
    }
    if is_all() {
        say(format_args!("{rounds} rounds of {CONTENDERS} runs: {refused} were refused"));
    }
    assert!(refused > 0);
}

/// The lock of a holder that was killed is taken over at once, and by one.
#[test]
fn of_many_runs_after_a_kill_one_goes_on() {
    let (mut dice, mut refused) = (Dice::new(), 0);
    let rounds = count(60, 3);
    for round in 0..rounds {
        let scene = Scene::with_latency(lines(14), "fixed:40");
        let live = scene.start();
        std::thread::sleep(Duration::from_millis(30 + dice.below(120) as u64));
        live.signal(Signal::KILL);
        let crashed = live.finish().status == 137;
        refused += check_owners(&scene, &contend(&scene), u64::from(crashed), &format!("after a kill, round {round}"));
    }
    if is_all() {
        say(format_args!("{rounds} rounds of {CONTENDERS} runs after a kill: {refused} were refused"));
    }
}

/// A holder that was stopped for a while, while others came, goes on as if nothing had been.
#[test]
fn a_holder_that_was_stopped_goes_on() {
    let scene = Scene::with_latency(lines(12), "fixed:30");
    let live = scene.start();
    wait_for("the first requests", || (scene.sim.count("requests") >= 3).then_some(()));
    live.signal(Signal::STOP);
    for output in contend(&scene) {
        assert!(output.stderr.contains(&format!("pid {}", live.pid())), "{output}");
        output.expect(75);
    }
    live.signal(Signal::CONT);
    scene.check_end(&live.finish(), "stopped");
    scene.check_sends(0, "stopped");
}

/// What appears at F's place during a run is not ours.
#[test]
fn a_file_that_appears_meanwhile_is_not_replaced() {
    let scene = Scene::with_latency(lines(6), "fixed:40");
    let live = scene.start();
    wait_for("the first requests", || (scene.sim.count("requests") >= 2).then_some(()));
    std::fs::write(scene.file(), "a stranger's").unwrap();
    let output = live.finish().expect(64);
    assert_eq!(std::fs::read_to_string(scene.file()).unwrap(), "a stranger's", "{output}");
    scene.finish().expect(64);
    assert_eq!(scene.names(), ["F", "F.journal"], "{output}");
    std::fs::remove_file(scene.file()).unwrap();
    scene.check_end(&scene.finish(), "without the stranger");
    scene.check_sends(0, "all was kept");
}

/// F is replaced only while it is what was published: neither an edit before the run nor one during it is lost.
#[test]
fn an_edited_result_is_not_replaced() {
    let scene = Scene::with_latency(
        Plan { lines: vec![Line::Late; 4], args: vec!["--retry-failed"], ..Plan::small() },
        "fixed:40",
    );
    let first = scene.finish().expect(1);
    let published = std::fs::read_to_string(scene.file()).unwrap();
    let edited = published.replace("upstream_rejected", "edited_by_hand...");
    assert_eq!((published.len(), edited == published), (edited.len(), false), "{first}");
    std::fs::write(scene.file(), &edited).unwrap();
    scene.finish().expect(64);
    assert_eq!(scene.sends(), 4, "nothing is sent for a result that cannot be put in its place");
    std::fs::write(scene.file(), &published).unwrap();
    let live = scene.start();
    wait_for("the first requests", || (scene.sim.count("requests") > 4).then_some(()));
    std::fs::write(scene.file(), &edited).unwrap();
    let output = live.finish().expect(64);
    assert_eq!(std::fs::read_to_string(scene.file()).unwrap(), edited, "{output}");
    std::fs::write(scene.file(), &published).unwrap();
    scene.check_end(&scene.finish(), "put back");
}

/// The gate: F is made of the input as it was when its lines were asked, or not at all.
#[test]
fn an_input_that_changes_meanwhile_gives_no_result() {
    type Edit = fn(&str) -> String;
    let edits: [(&str, Edit); 4] = [
        ("shorter", |text| text.split_inclusive('\n').take(4).collect()),
        ("longer", |text| text.to_owned() + "{\"prompt\":\"one more\"}\n"),
        ("another line", |text| text.replace("2 plain", "9 plain")),
        ("in another order", |text| text.split_inclusive('\n').rev().collect()),
    ];
    for (what, edit) in edits {
        let scene = Scene::with_latency(lines(6), "fixed:60");
        let live = scene.start();
        wait_for("the last requests", || (scene.sim.count("requests") >= 5).then_some(()));
        std::fs::write(scene.input_path(), edit(&scene.plan.input())).unwrap();
        let output = live.finish().expect(75);
        assert_eq!(scene.names(), ["F.journal"], "{what}: {output}");
        // The next run makes F of what the input is now.
        let output = scene.finish().expect(0);
        let found = std::fs::read_to_string(scene.file()).unwrap();
        let expected = edit(&scene.plan.input()).lines().count();
        assert_eq!(found.lines().count(), expected, "{what}: {output}");
        std::fs::write(scene.input_path(), scene.plan.input()).unwrap();
        scene.check_end(&scene.finish(), what);
    }
}
