//! Which part of the input is a run's own, so that several runs can share one input.

use super::environment::Environment;
use crate::exit::Stop;
use crate::line::escape::for_people;

/// The variable in which Slurm tells the task of a job array its number.
const TASK_VARIABLE: &str = "SLURM_ARRAY_TASK_ID";
/// The most that an error shows of that variable.
const TASK_CHARS_MAX: usize = 40;

/// One of `count` shards: takes every line whose number modulo `count` equals `index` modulo `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which one, from 1 to `count`.
    pub index: u64,
    /// How many there are, at least one.
    pub count: u64,
}

impl Shard {
    /// Whether a line of the whole input, by its number, is this shard's.
    pub fn takes(&self, line: u64) -> bool {
        line % self.count == self.index % self.count
    }
}

/// A shard as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardChoice {
    /// This one.
    Named(Shard),
    /// The one with the number of the Slurm array task that this run is.
    SlurmTask {
        /// How many shards there are, at least one.
        count: u64,
    },
}

impl ShardChoice {
    /// The shard that is meant. How many there are is never taken from Slurm: a requeue of a few tasks of an array has
    /// another count, and lines would move from shard to shard.
    pub(super) fn resolve(self, environment: &Environment) -> Result<Shard, Stop> {
        let count = match self {
            ShardChoice::Named(shard) => return Ok(shard),
            ShardChoice::SlurmTask { count } => count,
        };
        let wrong = |cause: String| {
            Stop::usage(format!("--shard slurm/{count}: {cause}")).way_out(format!(
                "submit a job array with #SBATCH --array=1-{count}, or name the shard itself: --shard 1/{count}"
            ))
        };
        let Some(text) = environment.lossy(TASK_VARIABLE) else {
            return Err(wrong(format!("the variable {TASK_VARIABLE} is not set")));
        };
        match text.parse() {
            Ok(index) if (1..=count).contains(&index) => Ok(Shard { index, count }),
            number => {
                let told = for_people(&text, TASK_CHARS_MAX);
                let fault = if number.is_ok() { format!("not from 1 to {count}") } else { "no number".to_owned() };
                Err(wrong(format!("{TASK_VARIABLE} is {told}, which is {fault}")))
            }
        }
    }
}

/// A shard `I/N`, I from 1 to N, or `slurm/N`.
pub fn parse_shard(text: &str) -> Result<ShardChoice, String> {
    let wrong = || "write I/N, for example 3/10, or slurm/N in a job array".to_owned();
    let (index, count) = text.split_once('/').ok_or_else(wrong)?;
    let count = count.parse().ok().filter(|count| *count > 0).ok_or_else(wrong)?;
    if index == "slurm" {
        return Ok(ShardChoice::SlurmTask { count });
    }
    match index.parse().map_err(|_| wrong())? {
        index if (1..=count).contains(&index) => Ok(ShardChoice::Named(Shard { index, count })),
        _ => Err(format!("shards are counted from 1 to {count}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::exit::Exit;
    use std::collections::HashMap;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;
    use std::path::PathBuf;

    fn task(id: Option<&[u8]>) -> Environment {
        let id = id.map(|id| (TASK_VARIABLE.to_owned(), OsString::from_vec(id.to_vec())));
        let beside = [("SLURM_ARRAY_TASK_COUNT", "2"), ("SLURM_ARRAY_TASK_MIN", "1"), ("SLURM_ARRAY_TASK_MAX", "2")];
        let beside = beside.map(|(name, value)| (name.to_owned(), value.into()));
        Environment::new(HashMap::from_iter(beside.into_iter().chain(id)), PathBuf::new())
    }

    #[test]
    fn every_line_belongs_to_one_shard() {
        for count in 1..6 {
            for line in 1..50 {
                let takers = (1..=count).filter(|index| Shard { index: *index, count }.takes(line)).count();
                assert_eq!(takers, 1, "line {line} of {count} shards");
            }
        }
        let last = Shard { index: 3, count: 3 };
        assert!(last.takes(3) && last.takes(6) && !last.takes(1) && !last.takes(4));
    }

    #[test]
    fn shards_are_read_and_bad_ones_refused() {
        assert_eq!(parse_shard("3/10"), Ok(ShardChoice::Named(Shard { index: 3, count: 10 })));
        assert_eq!(parse_shard("1/1"), Ok(ShardChoice::Named(Shard { index: 1, count: 1 })));
        assert_eq!(parse_shard("slurm/7"), Ok(ShardChoice::SlurmTask { count: 7 }));
        for text in
            ["", "/", "3", "0/3", "4/3", "1/0", "slurm", "slurm/0", "slurm/", "-1/3", "1/3/5", "Slurm/3", "1/3 "]
        {
            assert!(parse_shard(text).is_err(), "{text}");
        }
        assert!(parse_shard("4/3").unwrap_err().contains("from 1 to 3"));
    }

    #[test]
    fn the_array_task_names_the_shard_and_nothing_else_does() {
        let choice = ShardChoice::SlurmTask { count: 4 };
        assert_eq!(choice.resolve(&task(Some(b"4"))).unwrap(), Shard { index: 4, count: 4 });
        let named = ShardChoice::Named(Shard { index: 2, count: 3 });
        assert_eq!(named.resolve(&task(Some(b"1"))).unwrap(), Shard { index: 2, count: 3 });
        for (id, told) in [
            (None, "SLURM_ARRAY_TASK_ID is not set"),
            (Some(&b""[..]), "SLURM_ARRAY_TASK_ID is not set"),
            (Some(b"0"), "SLURM_ARRAY_TASK_ID is 0, which is not from 1 to 4"),
            (Some(b"5"), "SLURM_ARRAY_TASK_ID is 5, which is not from 1 to 4"),
            (Some(b"-1"), "is -1, which is no number"),
            (Some(b"t\x1b\xff"), "is t\\u{1b}\u{fffd}, which is no number"),
        ] {
            let stop = choice.resolve(&task(id)).unwrap_err();
            assert_eq!(stop.exit, Exit::Usage);
            assert!(stop.message.starts_with("--shard slurm/4: ") && stop.message.contains(told), "{stop}");
            assert!(stop.way_out.unwrap().contains("--array=1-4"));
        }
    }
}
