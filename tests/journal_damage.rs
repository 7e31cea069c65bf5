//! Damaged journals: a torn end is cut and its line asked again; anything else is refused with the place, untouched, and
//! salvaged on request. Never a wrong line.

#![allow(clippy::unwrap_used)]

mod common;

use common::desk::{Desk, numbers, timeless};
use common::{Output, Run, prompts};

const LINES: usize = 8;

/// A journal of so many answered lines, and the bytes where its records begin.
struct Specimen {
    desk: Desk,
    whole: Vec<u8>,
    starts: Vec<usize>,
    /// Where the records of answers begin.
    answers: Vec<usize>,
    plain: String,
}

impl Specimen {
    fn new() -> Specimen {
        let desk = Desk::new();
        // One after another, so that the records lie in the order of the lines.
        desk.journaled().args(["-j", "1"]).input(prompts(LINES)).output().expect(0);
        let whole = desk.bytes("journal");
        let ends = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        let mut starts: Vec<usize> = [0].into_iter().chain(ends).collect();
        starts.pop();
        let is_answer = |start: &&usize| {
            let record = whole[**start..].split(|byte| *byte == b'\n').next().unwrap();
            String::from_utf8_lossy(record).contains("\"outcome\":\"answer\"")
        };
        let answers: Vec<usize> = starts.iter().filter(is_answer).copied().collect();
        assert_eq!(answers.len(), LINES);
        let plain = desk.plain(&prompts(LINES), &[]);
        Specimen { desk, whole, starts, answers, plain }
    }

    /// The run that made the journal, once more.
    fn again(&self) -> Output {
        self.desk.journaled().input(prompts(LINES)).output()
    }

    /// Puts these bytes in the journal's place; the same command must go on, ask again for so many lines, and warn.
    #[track_caller]
    fn goes_on(&self, bytes: &[u8], asked: usize, torn: usize, what: &str) {
        self.desk.write("journal", bytes);
        let looked = self.desk.journal("journal", &[]);
        assert_eq!(looked.lines().len(), LINES - asked, "{what}: {looked}");
        assert_eq!(looked.stderr.contains(&format!("the last {torn} bytes")), torn > 0, "{what}: {looked}");
        let (sent, output) = self.desk.sent(|| self.again().expect(0));
        assert_eq!(sent.len(), asked, "{what}: {output}");
        assert_eq!(timeless(&output.text()), self.plain, "{what}");
        assert_eq!(output.stderr.contains("were cut"), torn > 0, "{what}: {output}");
        self.desk.journal("journal", &["--check"]).expect(0);
        assert_eq!(self.desk.journal("journal", &[]).expect(0).text(), output.text(), "{what}");
    }

    /// Puts these bytes in the journal's place; everything must refuse them, say this, and leave them alone.
    #[track_caller]
    fn is_refused(&self, bytes: &[u8], told: &str, what: &str) {
        self.desk.write("journal", bytes);
        let before = self.desk.identity("journal");
        let run = || self.desk.journaled().input(prompts(LINES));
        let runs = [run(), run().args(["--fresh"]), run().args(["--retry-failed"])];
        let looks = [&[][..], &["--check"]]
            .map(|args: &[&str]| Run::bare().args(["journal".into(), self.desk.path("journal")]).args(args));
        for run in runs.into_iter().chain(looks) {
            let output = self.desk.nothing_sent(|| run.output().expect(65));
            assert!(output.stderr.contains(told), "{what}: {told:?}: {output}");
            assert!(output.stdout.is_empty(), "{what}: {output}");
        }
        assert_eq!(self.desk.identity("journal"), before, "{what}");
    }

    fn answers_before(&self, at: usize) -> usize {
        self.answers.iter().filter(|start| self.end_of(**start) <= at).count()
    }

    fn end_of(&self, start: usize) -> usize {
        self.starts.iter().copied().find(|other| *other > start).unwrap_or(self.whole.len())
    }

    /// The start of the record that a byte lies in.
    fn start_of(&self, at: usize) -> usize {
        self.starts.iter().copied().filter(|start| *start <= at).max().unwrap()
    }
}

#[test]
fn a_torn_end_is_cut_and_its_line_is_asked_again() {
    let specimen = Specimen::new();
    let first_answer = specimen.answers[0];
    // Every 97th byte, and both sides of where records meet.
    let meetings = specimen.starts.iter().skip(4).step_by(3).flat_map(|start| [start - 1, *start, start + 1]);
    for at in (first_answer..specimen.whole.len()).step_by(297).chain(meetings.filter(|at| *at >= first_answer)) {
        let torn = at - specimen.start_of(at);
        let asked = LINES - specimen.answers_before(at);
        specimen.goes_on(&specimen.whole[..at], asked, torn, &format!("cut at byte {at}"));
    }
}

#[test]
fn zeros_at_the_end_are_a_torn_end() {
    let specimen = Specimen::new();
    let mut zeros = specimen.whole.clone();
    zeros.resize(zeros.len() + 4096, 0);
    specimen.goes_on(&zeros, 0, 4096, "zeros behind the end");
    let last = *specimen.answers.last().unwrap();
    for kept in [0, 5, 100] {
        let mut zeros = specimen.whole.clone();
        zeros[last + kept..].fill(0);
        let torn = zeros.len() - last;
        specimen.goes_on(&zeros, 1, torn, "zeros in place of the last records");
    }
}

#[test]
fn one_wrong_bit_in_the_middle_is_refused_with_its_place() {
    let specimen = Specimen::new();
    let (first, last) = (specimen.answers[0], *specimen.starts.last().unwrap());
    for (number, at) in (first..last).step_by(411).enumerate() {
        let mut bytes = specimen.whole.clone();
        bytes[at] ^= 1 << (number % 8);
        let start = specimen.start_of(at);
        specimen.is_refused(&bytes, &format!("damaged at byte {start};"), &format!("byte {at}"));
    }
    // Bytes put in or taken out are damage, too.
    let middle = specimen.answers[4];
    let (before, after) = specimen.whole.split_at(middle);
    let told = format!("damaged at byte {middle}; the next whole record begins at byte {}", middle + 7);
    specimen.is_refused(&[before, b"strange", after].concat(), &told, "put in");
    specimen.is_refused(&[before, &after[30..]].concat(), &format!("damaged at byte {middle};"), "taken out");
}

#[test]
fn a_wrong_bit_in_the_last_record_is_a_torn_end() {
    let specimen = Specimen::new();
    let last = *specimen.answers.last().unwrap();
    let end = specimen.end_of(last);
    for at in [last, last + 9, last + 40, end - 2, end - 1] {
        let mut bytes = specimen.whole[..end].to_vec();
        bytes[at] ^= 4;
        specimen.goes_on(&bytes, 1, end - last, &format!("byte {at}"));
    }
}

#[test]
fn what_does_not_begin_as_a_journal_is_none() {
    let specimen = Specimen::new();
    let mut flipped = specimen.whole.clone();
    flipped[12] ^= 1;
    specimen.is_refused(&flipped, "cannot be used as a journal", "a wrong bit in the first record");
    specimen.is_refused(&specimen.whole[..20], "cannot be used as a journal", "a piece of the first record");
    specimen.is_refused(
        &specimen.whole[specimen.starts[1]..],
        "does not begin as a journal",
        "without its first record",
    );
}

#[test]
fn what_is_whole_can_be_salvaged_and_the_run_goes_on_with_it() {
    let specimen = Specimen::new();
    let desk = &specimen.desk;
    for (hits, lost) in [(vec![3], vec![4]), (vec![0, 5], vec![1, 6]), (vec![2, 3], vec![3, 4]), (vec![], vec![])] {
        let mut bytes = specimen.whole.clone();
        let hit: Vec<usize> = hits.iter().map(|hit: &usize| specimen.answers[*hit]).collect();
        hit.iter().for_each(|start| bytes[start + 30] ^= 64);
        desk.write("journal", &bytes);
        let before = desk.identity("journal");
        let salvage = || desk.journal("journal", &["--salvage", &desk.arg("salvaged")]);
        let output = salvage().expect(0);
        let left_out: usize = hit.iter().map(|start| specimen.end_of(*start) - start).sum();
        assert!(output.text().contains(&format!("{left_out} bytes in ")), "{output}");
        assert_eq!(desk.identity("journal"), before);
        let kept = numbers(&desk.journal("salvaged", &[]).expect(0).lines());
        assert_eq!(kept, (1..=LINES as u64).filter(|line| !lost.contains(line)).collect::<Vec<_>>());
        desk.journal("salvaged", &["--check"]).expect(0);
        // What stands there already is never overwritten.
        let salvaged = desk.identity("salvaged");
        salvage().expect(64);
        assert_eq!(desk.identity("salvaged"), salvaged);
        std::fs::rename(desk.path("salvaged"), desk.path("journal")).unwrap();
        let (sent, output) = desk.sent(|| specimen.again().expect(0));
        assert_eq!(sent.len(), lost.len(), "{output}");
        assert_eq!(timeless(&output.text()), specimen.plain);
        assert_eq!(desk.names(), ["journal"]);
    }
}

#[test]
fn even_a_journal_without_its_beginning_can_be_salvaged() {
    let specimen = Specimen::new();
    let desk = &specimen.desk;
    let third = specimen.answers[2];
    desk.write("journal", &specimen.whole[third + 10..]);
    desk.journal("journal", &["--salvage", &desk.arg("salvaged")]).expect(0);
    std::fs::rename(desk.path("salvaged"), desk.path("journal")).unwrap();
    let (sent, output) = desk.sent(|| specimen.again().expect(0));
    assert_eq!(sent.len(), 3, "{output}");
    assert_eq!(timeless(&output.text()), specimen.plain);
    desk.write("journal", "nothing of ours\n");
    desk.journal("journal", &["--salvage", &desk.arg("none")]).expect(65);
    desk.journal("missing", &["--salvage", &desk.arg("none")]).expect(74);
    assert_eq!(desk.names(), ["journal"]);
}

#[test]
fn check_says_what_there_is_and_how_far_it_is_valid() {
    let specimen = Specimen::new();
    let desk = &specimen.desk;
    let (records, length) = (specimen.starts.len(), specimen.whole.len());
    let whole = desk.journal("journal", &["--check"]).expect(0).text();
    let told = format!("{records} records, {LINES} answers and 0 errors, valid up to byte {length} of {length}");
    assert!(whole.contains(&told), "{whole}");
    let (last, cut) = (*specimen.starts.last().unwrap(), length - 3);
    desk.write("journal", &specimen.whole[..cut]);
    let torn = desk.journal("journal", &["--check"]).expect(0).text();
    let told = format!("{} records, {LINES} answers and 0 errors, valid up to byte {last} of {cut}", records - 1);
    assert!(torn.contains(&told) && torn.contains("will be cut by the next run"), "{torn}");
}
