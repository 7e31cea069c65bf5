//! Journals whose end is torn off, filled with NULs or flipped, and journals that answer what was not asked: what is
//! whole is used, the rest is asked again or refused, and no line is ever wrong.

use crate::common::{Output, Signal};
use crate::frames::{self, Frame};
use crate::plan::{Dice, is_all, say};
use crate::scene::Scene;
use crate::task::{Line, Plan};

/// A finished run's journal, in which two lines are settled by each of the last groups.
fn finished(plan: Plan) -> (Scene, Vec<u8>) {
    let scene = Scene::with_latency(plan, "fixed:3");
    let output = scene.finish();
    scene.check_end(&output, "undisturbed");
    let journal = scene.journal_bytes();
    assert_eq!(frames::read(&journal).last().unwrap().at.end, journal.len(), "the tests cannot read journals");
    (scene, journal)
}

/// Where the last outcome but one begins: from there on anything may be torn.
fn end_begins(journal: &[u8]) -> usize {
    let outcomes: Vec<Frame> = frames::read(journal).into_iter().filter(Frame::is_outcome).collect();
    outcomes[outcomes.len() - 2].at.start
}

/// Runs on a journal that is given, with F there or not, and says how many requests that took.
fn run_on(scene: &Scene, journal: &[u8], result: Option<&[u8]>) -> (Output, u64) {
    scene.reset();
    std::fs::write(scene.journal(), journal).unwrap();
    if let Some(bytes) = result {
        std::fs::write(scene.file(), bytes).unwrap();
    }
    let output = scene.finish();
    (output, scene.sends())
}

/// Requests that a journal's whole records leave to be sent.
fn missing(scene: &Scene, journal: &[u8]) -> u64 {
    scene.plan.asked() - frames::read(journal).iter().filter(|frame| frame.is_paid()).count() as u64
}

#[test]
fn a_journal_that_is_cut_anywhere_is_gone_on_with() {
    let (scene, journal) = finished(Plan::small());
    let result = std::fs::read(scene.file()).unwrap();
    let mut dice = Dice::new();
    let cuts = (end_begins(&journal)..=journal.len()).flat_map(|cut| [0, 1, 2].map(|how| (cut, how)));
    let cases = dice.pick(cuts.collect(), 30);
    for (cut, how) in &cases {
        let mut torn = journal[..*cut].to_vec();
        match how {
            0 => {}
            1 => torn.resize(journal.len(), 0),
            // The beginning of what should be there, and NULs behind it for more than a block.
            _ => torn.resize(journal.len() + 9000, 0),
        }
        let is_published = frames::read(&torn).iter().any(|frame| frame.payload.get("published").is_some());
        for result in [None, Some(&*result)].into_iter().take(1 + usize::from(is_published)) {
            let when = format!("cut at {cut} of {}, {how}, F: {}", journal.len(), result.is_some());
            let (output, sends) = run_on(&scene, &torn, result);
            scene.check_end(&output, &when);
            assert_eq!(sends, missing(&scene, &torn), "{when}");
            // What was cut is gone for good: the journal is whole, and says the same once more.
            let whole = scene.journal_bytes();
            assert_eq!(frames::read(&whole).last().unwrap().at.end, whole.len(), "{when}");
            let next = scene.finish();
            scene.check_end(&next, &when);
            assert_eq!(scene.sends(), sends, "{when}");
        }
    }
    if is_all() {
        say(format_args!("{} journals with a torn end", cases.len()));
    }
}

/// Damage with something whole behind it is refused; at the end it cannot be told from a torn tail.
#[test]
fn a_journal_with_a_flipped_bit_is_never_believed() {
    let (scene, journal) = finished(Plan::small());
    let last = frames::read(&journal).last().unwrap().at.clone();
    let mut dice = Dice::new();
    for at in dice.pick((0..journal.len()).collect(), 30) {
        let (bit, mut flipped) = (dice.below(8), journal.clone());
        flipped[at] ^= 1 << bit;
        let when = format!("bit {bit} of byte {at} of {}", journal.len());
        let (output, sends) = run_on(&scene, &flipped, None);
        if last.contains(&at) {
            scene.check_end(&output, &when);
            assert_eq!(sends, 0, "{when}");
            continue;
        }
        assert_eq!((output.status, sends), (65, 0), "{when}: {output}");
        assert_eq!(scene.names(), ["F.journal"], "{when}");
        assert!(scene.journal_bytes() == flipped, "{when}: a refused journal was changed");
    }
}

/// The index knows half of a key. A record whose key differs in the other half is no answer.
#[test]
fn an_answer_to_another_request_is_never_used() {
    let lines = vec![Line::Good; 4];
    let (scene, journal) = finished(Plan { lines, ..Plan::small() });
    for victim in [0, 3] {
        let mut forged = Vec::new();
        let outcomes = frames::read(&journal).into_iter().filter(Frame::is_outcome);
        let chosen = outcomes.clone().nth(victim).unwrap().at.start;
        for frame in frames::read(&journal) {
            let text = frames::text(&journal, &frame);
            if frame.at.start != chosen {
                forged.extend(frames::write(text));
                continue;
            }
            let key = frame.payload["key"].as_str().unwrap();
            let last = if key.ends_with('0') { "1" } else { "0" };
            let other = format!("{}{last}", &key[..key.len() - 1]);
            forged.extend(frames::write(&text.replace(key, &other).replace("Echo:", "Forged:")));
        }
        let (output, _) = run_on(&scene, &forged, None);
        assert!([65, 0].contains(&output.status), "{output}");
        scene.check_never_wrong("an answer to another request");
        // Nor is it shown where nothing is rendered later.
        let run = crate::common::Run::on(&scene.sim).args(["-j", "2", "--journal"]).args([scene.journal()]);
        let output = run.args([scene.input_path()]).output();
        assert!(!output.text().contains("Forged:"), "{output}");
    }
}

/// Names that were not durable may be missing in any combination.
#[test]
fn lost_names_cost_requests_and_nothing_else() {
    let (scene, journal) = finished(Plan::small());
    let result = std::fs::read(scene.file()).unwrap();
    // The link to F was lost, though the journal says that the run is complete.
    let (output, sends) = run_on(&scene, &journal, None);
    scene.check_end(&output, "F is lost");
    assert_eq!(sends, 0);
    // All is lost.
    scene.reset();
    scene.check_end(&scene.finish(), "all is lost");
    scene.check_sends(0, "all is lost");
    // Without its journal F is a stranger's: nothing is sent, nothing replaced.
    scene.reset();
    std::fs::write(scene.file(), &result).unwrap();
    scene.finish().expect(64);
    assert_eq!((scene.sends(), scene.names()), (0, vec!["F".to_owned()]));
    assert_eq!(std::fs::read(scene.file()).unwrap(), result);
}

/// A crash during the recovery from a crash, again and again, at the cut among others.
#[test]
fn torn_again_and_again() {
    let mut dice = Dice::new();
    for _ in 0..crate::plan::count(60, 3) {
        let scene = Scene::with_latency(Plan::random(&mut dice, 30, crate::task::Goal::File), "fixed:2");
        let mut crashes = 0;
        for _ in 0..6 {
            let live = scene.start();
            std::thread::sleep(std::time::Duration::from_millis(5 + dice.below(40) as u64));
            live.signal(Signal::KILL);
            let output = live.finish();
            if output.status != 137 {
                break;
            }
            crashes += 1;
            scene.check_never_wrong("torn");
            let mut journal = scene.journal_bytes();
            let whole = frames::read(&journal).last().map_or(0, |frame| frame.at.end);
            if whole > 0 && dice.one_in(2) {
                // What was being written when the power failed.
                let text = "{\"line\":1,\"key\":\"00\"}";
                let more = frames::write(text);
                journal.extend(&more[..dice.below(more.len())]);
                journal.resize(journal.len() + dice.below(600), 0);
                std::fs::write(scene.journal(), journal).unwrap();
            }
        }
        let output = scene.finish();
        scene.check_end(&output, "torn again and again");
        scene.check_sends(crashes, "torn again and again");
    }
}
