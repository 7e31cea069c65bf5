//! What the daemon needs to know beside what every run does.

mod folders;
mod layer;
mod owners;

use std::path::PathBuf;
use std::time::Duration;

use super::layer::Layer;
use crate::exit::Stop;
pub use layer::{DaemonLayer, OwnerLayer};

/// More files are not run at the same time.
const OPEN_FILES_MAX: usize = 4096;

/// The settings of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// The watched folders; at least one, no two the same.
    pub spools: Vec<PathBuf>,
    /// Whether folders in them are watched, too.
    pub recursive: bool,
    /// Where finished inputs and their results are moved; `None` leaves them where they are.
    pub archive: Option<PathBuf>,
    /// Whether to end when everything that is there was run.
    pub once: bool,
    /// Whether to wait for a spool that another daemon holds.
    pub standby: bool,
    /// How long a file that was closed must stay unchanged before it is taken.
    pub settle: Duration,
    /// How often the folders are looked through, whatever the kernel tells.
    pub scan_every: Duration,
    /// How many files may be run at the same time.
    pub open_files_max: usize,
    /// The largest file that is taken, in bytes.
    pub file_bytes_max: u64,
    /// What one owner may have under way.
    pub owner_caps: OwnerCaps,
    /// Owners whose requests are paid by their own key.
    pub owners: Vec<Owner>,
    /// How long the answers of finished files are kept, so that a changed file asks only for what is new.
    pub retain: Duration,
    /// How the log looks.
    pub log_format: LogFormat,
}

/// What one owner may have queued and running; what exceeds it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerCaps {
    /// Files.
    pub files: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Lines of files that run.
    pub lines: u64,
}

/// An owner of files whose own key pays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The name, as the table `[owner.NAME]` gives it.
    pub name: String,
    /// The user's id.
    pub id: u32,
    /// The file with the key.
    pub api_key_file: PathBuf,
}

/// How the daemon's log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; with the kernel's priorities in front when the journal of systemd reads it.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

impl Default for Daemon {
    fn default() -> Daemon {
        Daemon {
            spools: Vec::new(),
            recursive: false,
            archive: None,
            once: false,
            standby: false,
            settle: Duration::from_secs(2),
            scan_every: Duration::from_secs(10),
            open_files_max: 64,
            file_bytes_max: 16 << 30,
            owner_caps: OwnerCaps { files: 1_000_000, bytes: 1 << 40, lines: 100_000_000 },
            owners: Vec::new(),
            retain: Duration::from_secs(14 * 24 * 3600),
            log_format: LogFormat::default(),
        }
    }
}

/// The settings of the daemon that all layers come to. The folders are there, no two are the same, and every owner is a
/// user of this machine.
///
/// Fails with 64 when no folder is named, and with 78 when one cannot be watched, or when an owner is nobody.
pub(super) fn daemon(settings: &mut Layer) -> Result<Daemon, Stop> {
    let default = Daemon::default();
    let caps = default.owner_caps;
    let layer = std::mem::take(&mut settings.daemon);
    let daemon = Daemon {
        spools: layer.spool.unwrap_or_default(),
        recursive: layer.recursive.unwrap_or(default.recursive),
        archive: layer.archive,
        once: layer.once.unwrap_or(default.once),
        standby: layer.standby.unwrap_or(default.standby),
        settle: layer.settle.unwrap_or(default.settle),
        scan_every: layer.scan_every.unwrap_or(default.scan_every),
        open_files_max: layer.max_open_files.map_or(default.open_files_max, usize::from),
        file_bytes_max: layer.max_file_bytes.map_or(default.file_bytes_max, |bytes| bytes as u64),
        owner_caps: OwnerCaps {
            files: layer.max_owner_files.map_or(caps.files, u64::from),
            bytes: layer.max_owner_bytes.map_or(caps.bytes, |bytes| bytes as u64),
            lines: layer.max_owner_lines.map_or(caps.lines, u64::from),
        },
        owners: owners::resolve(std::mem::take(&mut settings.owner))?,
        retain: layer.retain.unwrap_or(default.retain),
        log_format: layer.log_format.unwrap_or(default.log_format),
    };
    if daemon.open_files_max > OPEN_FILES_MAX {
        return Err(Stop::config(format!("--max-open-files {} is more than {OPEN_FILES_MAX}", daemon.open_files_max))
            .way_out("choose fewer: more open files make nothing faster"));
    }
    folders::check(&daemon)?;
    Ok(daemon)
}
