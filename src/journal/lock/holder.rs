//! Who holds a lock, as its file says it. One JSON line; knows nothing of how a lock is taken.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use crate::line::escape::for_people;

/// A process that holds a lock, or wants to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The node's name (uname(2)).
    pub host: String,
    /// Which boot of that node: pids and flocks of another one mean nothing.
    pub boot: String,
    /// The process on that node.
    pub pid: u32,
    /// The batch job that it runs in, as the caller knows it.
    pub job: Option<String>,
    /// Sets this holder apart from every other, the same process's earlier ones included.
    pub nonce: String,
}

impl Holder {
    /// This process, in this batch job.
    ///
    /// Fails when there is no `/proc` or no source of random numbers.
    pub fn this_process(job: Option<String>) -> io::Result<Holder> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Holder { host, boot, pid: std::process::id(), job, nonce: nonce()? })
    }

    /// Whether `other` runs, or ran, under the same kernel.
    pub fn same_boot(&self, other: &Holder) -> bool {
        (&self.host, &self.boot) == (&other.host, &other.boot)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAME_CHARS_MAX: usize = 64;
        write!(out, "pid {} on host {}", self.pid, for_people(&self.host, NAME_CHARS_MAX))?;
        match &self.job {
            Some(job) => write!(out, " (Slurm job {})", for_people(job, NAME_CHARS_MAX)),
            None => Ok(()),
        }
    }
}

/// The line in a lock file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    #[serde(flatten)]
    pub(super) holder: Holder,
    /// Whether the holder has an flock on the file, so that a free one means that it is dead.
    pub(super) flock: bool,
}

impl Entry {
    /// The entry in these bytes; `None` when they are none.
    pub(super) fn parse(bytes: &[u8]) -> Option<Entry> {
        serde_json::from_slice(bytes.strip_suffix(b"\n")?).ok()
    }

    /// The entry as a line.
    pub(super) fn line(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// Thirty-two hexadecimal digits that nobody else draws.
pub(super) fn nonce() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if got < bytes.len() {
        return Err(io::Error::other("too few random bytes"));
    }
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_line_is_fixed_and_comes_back() {
        let holder =
            Holder { host: "n1".into(), boot: "b".into(), pid: 123, job: Some("77".into()), nonce: "ab".into() };
        let entry = Entry { holder, flock: true };
        let line = entry.line().unwrap();
        let text = r#"{"host":"n1","boot":"b","pid":123,"job":"77","nonce":"ab","flock":true}"#.to_owned() + "\n";
        assert_eq!(String::from_utf8(line.clone()).unwrap(), text);
        assert_eq!(Entry::parse(&line), Some(entry));
        for bytes in [&line[..line.len() - 1], b"", b"\n", b"{}\n", b"\xff\n"] {
            assert_eq!(Entry::parse(bytes), None);
        }
    }

    #[test]
    fn it_is_shown_without_control_characters() {
        let mut holder = Holder::this_process(None).unwrap();
        assert_eq!(holder.to_string(), format!("pid {} on host {}", std::process::id(), holder.host));
        (holder.host, holder.job) = ("n\u{1b}[2J".into(), Some("7\n7".into()));
        let shown = holder.to_string();
        assert!(shown.contains("(Slurm job 7\\u{a}7)") && !shown.contains(char::is_control), "{shown}");
    }

    #[test]
    fn no_two_holders_are_the_same() {
        let [one, other] = [(); 2].map(|()| Holder::this_process(None).unwrap());
        assert!(one.same_boot(&other));
        assert_ne!(one, other);
    }
}
