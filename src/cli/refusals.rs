//! What a command line may not ask for: keys in the open, options that contradict each other, names that would overwrite.
//!
//! Invariant: every refusal is status 64 and says what to do instead, and none repeats a key. Looks at the names of files
//! and at nothing in them.

mod keys;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches};

use super::Cli;
use super::arguments::{Command, JournalArgs, MergeArgs, ResumeArgs};
use crate::config::{input_copy_beside, journal_beside};
use crate::exit::Stop;
use crate::line::Format;
use crate::line::escape::shown;
pub(super) use keys::refuse_keys;

/// The subcommands that talk to no service.
pub(super) const SERVICELESS: &[&str] = &["journal", "merge", "status", "submit"];

/// What a daemon does not take, and why.
const DAEMON_REFUSES: &[(&[&str], &str)] = &[
    (
        &["--max-outage", "--auth-wait"],
        "a daemon waits for the service, and for a key that it takes, as long as it lasts",
    ),
    (
        &["--output", "-o", "--journal", "--fresh", "--retry-failed", "--force", "--discard-journal", "--unordered"],
        "results go beside their prompt files, in their order, and a daemon keeps its own journals; \
         NAME.retry beside a prompt file asks again for its failed lines",
    ),
    (
        &["--failed", "--meta", "--allow-failed", "--max-failed"],
        "each prompt file has its own result and its own status",
    ),
    (&["--deadline"], "a daemon has no end of its own: stop it, or run it with --once"),
    (&["--shard"], "a folder has one daemon, which runs all that is in it"),
    (&["--dry-run"], "try the prompt file itself: anvil-filter --dry-run FILE"),
    (&["--pilot"], "try a prompt file itself: anvil-filter --pilot N FILE"),
    (&["--input"], "a file's ending says what it holds; `input` in a folder's anvil.toml may say otherwise"),
    (&["--null", "-0"], "the records of a prompt file are lines"),
    (&["--progress"], "anvil-filter status --spool DIR --watch shows it"),
];

/// Whether an option of the main command has no meaning for a subcommand.
pub(super) fn is_stray(subcommand: &str, argument: &Arg) -> bool {
    let is_about_reporting = matches!(argument.get_id().as_str(), "quiet" | "verbose");
    match argument.is_global_set() {
        // Options about the service.
        true => SERVICELESS.contains(&subcommand) && !is_about_reporting,
        // Options about request lines, and those that the subcommand has itself.
        false => true,
    }
}

/// Options before or behind a subcommand that mean nothing to it are a mistake.
pub(super) fn refuse_strays(command: &clap::Command, matches: &ArgMatches) -> Result<(), Stop> {
    let Some(name) = matches.subcommand_name() else {
        return Ok(());
    };
    let is_given = |argument: &Arg| matches.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine);
    let Some(stray) = command.get_arguments().find(|argument| is_given(argument) && is_stray(name, argument)) else {
        return Ok(());
    };
    let option = stray.get_long().map_or("FILE".to_owned(), |long| format!("--{long}"));
    let is_own = |argument: &Arg| !argument.is_global_set() && argument.get_long() == stray.get_long();
    let has_own = stray.get_long().is_some()
        && command.find_subcommand(name).is_some_and(|subcommand| subcommand.get_arguments().any(is_own));
    Err(match has_own {
        true => Stop::usage(format!("{option} stands before `{name}`, where it means a run of its own")).way_out(
            format!("write it behind: anvil-filter {name} … {option}; a file named {name} is written ./{name}"),
        ),
        false => Stop::usage(format!("`{name}` takes no {option}"))
            .way_out(format!("leave {option} out; a file named {name} is written ./{name}")),
    })
}

/// What to say of an argument that the parser does not know, on the command line of a daemon.
pub(super) fn daemon_refuses(error: &clap::Error) -> Option<Stop> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return None };
    if !argument.starts_with('-') {
        return Some(
            Stop::usage("`daemon` takes no FILE")
                .way_out("drop the file into the folder after --spool: anvil-filter submit --spool DIR FILE"),
        );
    }
    let (_, reason) = DAEMON_REFUSES.iter().find(|(flags, _)| flags.contains(&argument.as_str()))?;
    Some(Stop::usage(format!("`daemon` takes no {argument}: {reason}")).way_out(format!("leave {argument} out")))
}

impl Cli {
    pub(super) fn refuse_contradictions(&self) -> Result<(), Stop> {
        match &self.command {
            Some(Command::Journal(arguments)) => arguments.refuse_contradictions(),
            Some(Command::Merge(arguments)) => arguments.refuse_contradictions(),
            Some(Command::Daemon(arguments)) => arguments.refuse_contradictions(),
            Some(Command::Submit(arguments)) => arguments.refuse_contradictions(),
            Some(Command::Check | Command::Models | Command::Status(_)) => Ok(()),
            None => {
                self.refuse_contradicting_forms()?;
                self.run.resume.refuse_contradictions()?;
                self.refuse_overwriting()
            }
        }
    }

    fn refuse_contradicting_forms(&self) -> Result<(), Stop> {
        let other_form = self.run.output.format.is_some_and(|format| format != Format::Completion);
        refuse_if(
            self.run.output.merge.is_some() && other_form,
            "--merge writes the input object, so --format cannot choose another form",
            "leave one of the two out",
        )?;
        refuse_if(
            self.run.input.pilot.is_some() && self.run.input.dry_run,
            "--pilot tries lines on the service, and --dry-run sends nothing",
            "leave one of the two out",
        )?;
        refuse_if(
            self.run.resume.output.is_some() && self.run.output.unordered,
            "-o writes its file in the order of the input, so --unordered cannot be had with it",
            "leave one of the two out; --journal keeps the answers of an unordered stream",
        )
    }

    /// Refuses to write what is read, and to write two things under one name.
    fn refuse_overwriting(&self) -> Result<(), Stop> {
        let inputs = self.inputs();
        let written = self.written();
        for (at, one) in written.iter().enumerate() {
            if inputs.iter().any(|input| input.is_same_file(&one.name)) {
                return Err(Stop::usage(format!("{} is an input, and would overwrite it", one.told()))
                    .way_out(format!("name another file after {}", one.flag)));
            }
            let mut others = written[..at].iter().filter(|other| other.flag != one.flag);
            if let Some(other) = others.find(|other| other.name.is_same_file(&one.name)) {
                return Err(Stop::usage(format!(
                    "{} and {} both name {}",
                    other.flag,
                    one.flag,
                    shown(&one.name.path)
                ))
                .way_out("name two different files"));
            }
        }
        Ok(())
    }

    fn inputs(&self) -> Vec<FileName> {
        let stdin = Path::new("/dev/stdin");
        let named = self.run.input.files.iter().map(|file| if file == Path::new("-") { stdin } else { file.as_path() });
        named.chain(self.reads_stdin_unasked().then_some(stdin)).map(FileName::new).collect()
    }

    /// Every file that the run would write.
    fn written(&self) -> Vec<Written> {
        let written = |flag, path: &PathBuf, beside| Written { flag, name: FileName::new(path), beside };
        let named = [
            ("--failed", &self.run.output.failed),
            ("--meta", &self.run.output.meta),
            ("--journal", &self.run.resume.journal),
            ("-o", &self.run.resume.output),
        ];
        let named = named.into_iter().filter_map(|(flag, path)| Some(written(flag, path.as_ref()?, false)));
        let beside =
            self.run.resume.output.iter().flat_map(|output| [journal_beside(output), input_copy_beside(output)]);
        named.chain(beside.map(|path| written("-o", &path, true))).collect()
    }
}

/// A file that a run would write, and the flag that makes it.
struct Written {
    flag: &'static str,
    name: FileName,
    /// Whether it is kept beside the file that the flag names.
    beside: bool,
}

impl Written {
    fn told(&self) -> String {
        format!("{}{} {}", self.flag, if self.beside { "'s own" } else { "" }, shown(&self.name.path))
    }
}

impl ResumeArgs {
    fn refuse_contradictions(&self) -> Result<(), Stop> {
        let (file, journal) = (self.output.is_some(), self.journal.is_some());
        refuse_if(
            file && journal,
            "-o keeps its journal beside its own file, so --journal cannot name another",
            "leave --journal out, or leave -o out and write to standard output",
        )?;
        for (given, flag) in [(self.fresh, "--fresh"), (self.retry_failed, "--retry-failed")] {
            refuse_if(
                given && !file && !journal,
                &format!("{flag} is about the answers of an earlier run, and none are kept"),
                &format!("add -o FILE or --journal JOURNAL, or leave {flag} out"),
            )?;
        }
        for (given, flag) in [(self.force, "--force"), (self.discard_journal, "--discard-journal")] {
            refuse_if(
                given && !file,
                &format!("{flag} is about the file of -o, and there is none"),
                &format!("add -o FILE, or leave {flag} out"),
            )?;
        }
        refuse_no_file("-o", self.output.as_deref())?;
        refuse_no_file("--journal", self.journal.as_deref())
    }
}

impl JournalArgs {
    fn refuse_contradictions(&self) -> Result<(), Stop> {
        let journal = FileName::new(&self.journal);
        match self.salvage.as_deref().filter(|salvage| journal.is_same_file(&FileName::new(salvage))) {
            None => Ok(()),
            Some(salvage) => Err(Stop::usage(format!("--salvage {} is the journal itself", shown(salvage)))
                .way_out("name a new file after --salvage")),
        }
    }
}

impl MergeArgs {
    fn refuse_contradictions(&self) -> Result<(), Stop> {
        refuse_if(
            self.force && self.output.is_none(),
            "--force is about the file of -o, and there is none",
            "add -o FILE, or leave --force out",
        )?;
        refuse_no_file("-o", self.output.as_deref())?;
        let output = self.output.as_deref().map(FileName::new);
        let shards: Vec<FileName> = self.shards.iter().map(|shard| FileName::new(shard)).collect();
        for (at, shard) in shards.iter().enumerate() {
            if output.as_ref().is_some_and(|output| output.is_same_file(shard)) {
                return Err(Stop::usage(format!("-o {} is a shard, and would overwrite it", shown(&shard.path)))
                    .way_out("name another file after -o"));
            }
            if shards[..at].iter().any(|other| other.is_same_file(shard)) {
                return Err(Stop::usage(format!("the shard {} is named twice", shown(&shard.path)))
                    .way_out("name every shard once"));
            }
        }
        Ok(())
    }
}

pub(super) fn refuse_if(given: bool, message: &str, way_out: &str) -> Result<(), Stop> {
    if given { Err(Stop::usage(message).way_out(way_out)) } else { Ok(()) }
}

/// Refuses folders, pipes and devices in the place of a file that is replaced or appended to.
fn refuse_no_file(flag: &str, path: Option<&Path>) -> Result<(), Stop> {
    let Some(path) = path else { return Ok(()) };
    let is_folder = path.as_os_str().as_bytes().ends_with(b"/") || path.is_dir();
    let is_special = fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
    let wrong =
        |what: &str, way_out: String| Err(Stop::usage(format!("{flag} {} is {what}", shown(path))).way_out(way_out));
    match () {
        () if is_folder => wrong("a folder", format!("name a file in it after {flag}")),
        () if is_special => wrong(
            "no regular file",
            format!("name a file after {flag}, or leave {flag} out and redirect standard output"),
        ),
        () => Ok(()),
    }
}

/// A name of a file, and what tells whether another name means the same file.
struct FileName {
    path: PathBuf,
    /// The folder, without links and dots in it, and the last part of the name; the file need not exist.
    place: Option<(PathBuf, OsString)>,
    /// Device and inode of a regular file.
    inode: Option<(u64, u64)>,
}

impl FileName {
    fn new(path: &Path) -> FileName {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let place = fs::canonicalize(folder).ok().zip(path.file_name().map(OsString::from));
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file);
        FileName { path: path.to_owned(), place, inode: metadata.map(|metadata| (metadata.dev(), metadata.ino())) }
    }

    fn is_same_file(&self, other: &FileName) -> bool {
        let same_place = self.place.is_some() && self.place == other.place;
        self.path == other.path || same_place || self.inode.is_some() && self.inode == other.inode
    }
}
