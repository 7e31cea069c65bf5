//! The `[daemon]` and `[owner.NAME]` tables of one layer of settings.
//!
//! Invariant: a value here is valid on its own; that a folder is there, or an owner known, is for the build to find out.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use super::LogFormat;
use crate::config::layer::{bytes, duration, key_file, one_or_more};

/// The settings of the daemon from one place; whatever is `None` is left to the layers below.
#[derive(Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)] // The names are those of the configuration file and of `Daemon`, where they are described.
pub struct DaemonLayer {
    #[serde(deserialize_with = "one_or_more")]
    pub spool: Option<Vec<PathBuf>>,
    pub recursive: Option<bool>,
    pub archive: Option<PathBuf>,
    pub once: Option<bool>,
    pub standby: Option<bool>,
    #[serde(deserialize_with = "duration")]
    pub settle: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub scan_every: Option<Duration>,
    pub max_open_files: Option<NonZeroUsize>,
    #[serde(deserialize_with = "bytes")]
    pub max_file_bytes: Option<usize>,
    pub max_owner_files: Option<NonZeroU64>,
    #[serde(deserialize_with = "bytes")]
    pub max_owner_bytes: Option<usize>,
    pub max_owner_lines: Option<NonZeroU64>,
    #[serde(deserialize_with = "duration")]
    pub retain: Option<Duration>,
    pub log_format: Option<LogFormat>,
}

/// One `[owner.NAME]` of a layer.
#[derive(Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerLayer {
    /// The file with the key that pays for this owner; never empty.
    #[serde(deserialize_with = "key_file")]
    pub api_key_file: Option<PathBuf>,
    /// The configuration file in which it stands.
    #[serde(skip)]
    pub origin: PathBuf,
}

impl DaemonLayer {
    /// This layer on top of another: what it leaves open is the other's.
    pub(in crate::config) fn over(self, lower: DaemonLayer) -> DaemonLayer {
        DaemonLayer {
            spool: self.spool.or(lower.spool),
            recursive: self.recursive.or(lower.recursive),
            archive: self.archive.or(lower.archive),
            once: self.once.or(lower.once),
            standby: self.standby.or(lower.standby),
            settle: self.settle.or(lower.settle),
            scan_every: self.scan_every.or(lower.scan_every),
            max_open_files: self.max_open_files.or(lower.max_open_files),
            max_file_bytes: self.max_file_bytes.or(lower.max_file_bytes),
            max_owner_files: self.max_owner_files.or(lower.max_owner_files),
            max_owner_bytes: self.max_owner_bytes.or(lower.max_owner_bytes),
            max_owner_lines: self.max_owner_lines.or(lower.max_owner_lines),
            retain: self.retain.or(lower.retain),
            log_format: self.log_format.or(lower.log_format),
        }
    }

    /// Every path in it, to be made whole.
    pub(in crate::config) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.spool.iter_mut().flatten().chain(self.archive.iter_mut())
    }
}
