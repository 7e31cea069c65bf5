//! What the names of files in a spool mean.

/// What a prompt file is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `*.jsonl`: a request a line.
    Lines,
    /// `*.json`: the whole file is one request.
    One,
    /// `*.txt`, `*.md`: the whole file is one prompt.
    Text,
}
