//! What one look at a file tells of it: enough to see whether it has changed. Never its contents.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

/// A file as stat(2) shows it. Two equal stamps mean: nothing was written to it, and nothing replaced it, as far as its
/// file system tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The inode's number.
    pub inode: u64,
    /// Its length, in bytes.
    pub bytes: u64,
    /// When its contents changed last, in nanoseconds since 1970 by the clock of its file system.
    pub modified_ns: i64,
    /// When anything about it changed last, the number of its links included; as `modified_ns`.
    pub changed_ns: i64,
    /// Who owns it.
    pub owner: u32,
}

impl Stamp {
    /// The stamp in a stat.
    pub fn of(metadata: &Metadata) -> Stamp {
        let nanoseconds = |seconds: i64, part: i64| seconds.saturating_mul(1_000_000_000).saturating_add(part);
        Stamp {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            owner: metadata.uid(),
        }
    }

    /// Whether both are of the same contents, as far as stamps can tell: links and permissions may have changed between.
    pub fn same_contents(&self, other: &Stamp) -> bool {
        (self.inode, self.bytes, self.modified_ns, self.owner)
            == (other.inode, other.bytes, other.modified_ns, other.owner)
    }
}
