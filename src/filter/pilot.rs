//! `--pilot N`: which few lines are tried. The input is read twice: to find out how many lines can be sent, and then by
//! the run itself, which takes in the sample alone.
//!
//! Invariants: the sample is spread evenly, first and last line included; only lines that can be sent are in it; each
//! keeps its number, so that a later run of all lines finds its answer in the journal.

use super::reader::{self, Again, Found, Input, Source, Split};
use super::understanding::Understanding;
use super::{Stage, split, understanding};
use crate::connection;
use crate::exit::{Exit, Stop};
use crate::line::ErrorCode;
use crate::report::Pilot;
use crate::shutdown::Level;

/// Takes so many of the lines that can be sent, evenly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    of: u64,
    count: u64,
    /// Lines that can be sent and were met.
    met: u64,
    /// Those of them that were taken.
    taken: u64,
}

impl Sample {
    /// Of `of` lines that can be sent, `wanted` or as many as there are.
    pub fn new(wanted: u64, of: u64) -> Self {
        Self { of, count: wanted.min(of), met: 0, taken: 0 }
    }

    /// Whether the next record is taken. `can_be_sent` says whether it makes a request.
    pub fn takes(&mut self, can_be_sent: bool) -> bool {
        if !can_be_sent {
            return false;
        }
        let takes = self.taken < self.count && self.met == self.place(self.taken);
        self.met += 1;
        self.taken += u64::from(takes);
        takes
    }

    /// Where the n-th of the sample lies among the lines that can be sent, both from 0.
    fn place(&self, nth: u64) -> u64 {
        match self.count {
            0 | 1 => 0,
            count => (u128::from(nth) * u128::from(self.of - 1) / u128::from(count - 1)) as u64,
        }
    }
}

/// What the first reading finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Survey {
    good: u64,
    bad: u64,
    /// Whether the first line has no model: then none is given at all.
    lacks_model: bool,
}

/// Finds out what the sample is, when a pilot is wanted. `None` when the run was stopped meanwhile.
pub async fn prepare(stage: &mut Stage) -> Result<Option<Option<Sample>>, Stop> {
    let Some(wanted) = stage.config.input.pilot else { return Ok(Some(None)) };
    let sources = std::mem::take(&mut stage.sources);
    let again = sources.iter().map(Source::again).collect::<std::io::Result<Vec<_>>>().map_err(read_again)?;
    let Some(survey) = survey(stage, sources).await? else { return Ok(None) };
    let rewound: std::io::Result<Option<Vec<Source>>> =
        again.into_iter().map(|again| again.map(Again::rewind).transpose()).collect();
    stage.sources = rewound.map_err(read_again)?.unwrap_or_default();
    if survey.lacks_model {
        return Err(connection::no_model(&stage.clients).await);
    }
    if survey.good == 0 && survey.bad > 0 {
        return Err(Stop::new(Exit::Input, format!("none of the {} lines can be sent", survey.bad))
            .way_out("--dry-run says what is wrong with them"));
    }
    let sample = Sample::new(wanted.get() as u64, survey.good);
    stage.reporter.begin_pilot(Pilot { tried: sample.count, lines: survey.good, bad: survey.bad });
    Ok(Some(Some(sample)))
}

/// A pipe is gone once it was read.
pub fn must_be_files(sources: &[Source]) -> Result<(), Stop> {
    for source in sources {
        if source.again().map_err(read_again)?.is_none() {
            return Err(Stop::usage(format!("--pilot reads its input twice, and {} is no file", source.name))
                .way_out("write the lines into a file first, and name that"));
        }
    }
    Ok(())
}

fn read_again(error: std::io::Error) -> Stop {
    Stop::new(Exit::Io, format!("read the input: {error}"))
}

async fn survey(stage: &Stage, sources: Vec<Source>) -> Result<Option<Survey>, Stop> {
    let split = Split { hash: false, ..split(&stage.config) };
    let understanding = Understanding { hashes: false, keeps_records: false, ..understanding(&stage.config) };
    let look =
        move |line, found: Found<'_>| understanding.of(line, found).request.map_err(|bad| bad.failure.code).err();
    let mut input = reader::start(sources, split, None, look)
        .map_err(|error| Stop::new(Exit::Io, format!("start the reading thread: {error}")))?;
    let mut survey = Survey::default();
    loop {
        let next = tokio::select! {
            next = input.next() => next,
            _ = std::future::poll_fn(|cx| stage.shutdown.poll_above(Level::Running, cx)) => return Ok(None),
        };
        match next {
            Some(Input::Block(block)) => block.into_iter().for_each(|code| survey.add(code)),
            Some(Input::End(end)) => {
                return match end.error {
                    Some(error) => Err(Stop::new(Exit::Io, error)),
                    None => Ok(Some(survey)),
                };
            }
            None => return Err(Stop::new(Exit::Io, "the reading thread ended early")),
        }
    }
}

impl Survey {
    fn add(&mut self, code: Option<ErrorCode>) {
        self.lacks_model |= self.good + self.bad == 0 && code == Some(ErrorCode::NoModel);
        match code {
            None => self.good += 1,
            Some(_) => self.bad += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(wanted: u64, lines: &[bool]) -> Vec<usize> {
        let mut sample = Sample::new(wanted, lines.iter().filter(|good| **good).count() as u64);
        (1..).zip(lines).filter(|(_, good)| sample.takes(**good)).map(|(line, _)| line).collect()
    }

    #[test]
    fn a_sample_has_the_first_the_last_and_what_lies_between() {
        assert_eq!(taken(3, &[true; 9]), [1, 5, 9]);
        assert_eq!(taken(4, &[true; 10]), [1, 4, 7, 10]);
        assert_eq!(taken(2, &[true; 100]), [1, 100]);
        assert_eq!(taken(1, &[true; 5]), [1]);
        assert_eq!(taken(9, &[true; 4]), [1, 2, 3, 4]);
        assert_eq!(taken(5, &[]), [0; 0]);
    }

    #[test]
    fn lines_that_cannot_be_sent_are_no_samples() {
        let (good, bad) = (true, false);
        assert_eq!(taken(3, &[bad, good, bad, bad, good, good, bad]), [2, 5, 6]);
        assert_eq!(taken(3, &[bad; 6]), [0; 0]);
    }

    #[test]
    fn any_sample_of_any_input_is_full_and_rising() {
        for of in 1..60u64 {
            for wanted in 1..=of {
                let lines = taken(wanted, &vec![true; of as usize]);
                assert_eq!(lines.len() as u64, wanted, "{wanted} of {of}");
                assert!(lines.windows(2).all(|pair| pair[0] < pair[1]), "{wanted} of {of}: {lines:?}");
            }
        }
    }
}
