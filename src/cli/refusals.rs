//! What a command line may not ask for: keys in the open, options that contradict each other, names that would overwrite.
//!
//! Invariant: every refusal is status 64 and says what to do instead, and none repeats a key. Looks at the names of files
//! and at nothing in them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::Cli;
use crate::api::token::looks_like_key;
use crate::exit::Stop;
use crate::line::Format;
use crate::line::escape::shown;

/// What to do about a key on the command line.
const KEY_WAYS: &str = "\
every user of this machine can read it there; treat it as known and have a new one made. Instead:
  export ANVILGPT_API_KEY=…
  --api-key-file FILE, with the key in a file of mode 0600, or in a pipe";

/// Refuses keys before the parser sees them, so that it cannot quote them.
pub(super) fn refuse_keys(arguments: &[OsString]) -> Result<(), Stop> {
    for argument in arguments.iter().skip(1) {
        let text = argument.to_string_lossy();
        let (name, value) = text.split_once('=').unwrap_or((&text, &text));
        let plain = name.replace(['-', '_'], "").to_ascii_lowercase();
        let asks_for_key = name.starts_with("--")
            && name != "--api-key-file"
            && (plain.starts_with("apikey")
                || ["key", "token", "bearer", "auth", "apitoken"].contains(&plain.as_str()));
        if asks_for_key || looks_like_key(value) || looks_like_key(&text) {
            return Err(Stop::usage("never put a key on the command line").way_out(KEY_WAYS));
        }
    }
    Ok(())
}

/// `check` and `models` send no lines: options about lines beside them are a mistake.
pub(super) fn refuse_strays(command: &clap::Command, matches: &ArgMatches) -> Result<(), Stop> {
    let Some(subcommand) = matches.subcommand_name() else {
        return Ok(());
    };
    let is_stray = |argument: &&clap::Arg| {
        let id = argument.get_id().as_str();
        !argument.is_global_set() && matches.value_source(id) == Some(ValueSource::CommandLine)
    };
    match command.get_arguments().find(is_stray) {
        None => Ok(()),
        Some(stray) => {
            let name = stray.get_long().map_or("FILE".to_owned(), |long| format!("--{long}"));
            Err(Stop::usage(format!("`{subcommand}` takes no {name}"))
                .way_out(format!("leave {name} out; a file named {subcommand} is written ./{subcommand}")))
        }
    }
}

impl Cli {
    pub(super) fn refuse_contradictions(&self) -> Result<(), Stop> {
        if let (Some(_), Some(format)) = (&self.output.merge, self.output.format)
            && format != Format::Completion
        {
            return Err(Stop::usage("--merge writes the input object, so --format cannot choose another form")
                .way_out("leave one of the two out"));
        }
        self.refuse_overwriting("--failed", self.output.failed.as_deref())?;
        self.refuse_overwriting("--meta", self.output.meta.as_deref())?;
        match (&self.output.failed, &self.output.meta) {
            (Some(failed), Some(meta)) if is_same_file(failed, meta) => {
                Err(Stop::usage(format!("--failed and --meta both name {}", shown(failed)))
                    .way_out("name two different files"))
            }
            _ => Ok(()),
        }
    }

    fn refuse_overwriting(&self, flag: &str, output: Option<&Path>) -> Result<(), Stop> {
        let stdin = Path::new("/dev/stdin");
        let named = self.input.files.iter().map(PathBuf::as_path);
        let unasked = self.reads_stdin_unasked().then_some(stdin);
        let mut inputs = named.map(|file| if file == Path::new("-") { stdin } else { file }).chain(unasked);
        match output {
            Some(output) if inputs.any(|input| is_same_file(input, output)) => {
                Err(Stop::usage(format!("{flag} {} is an input, and would overwrite it", shown(output)))
                    .way_out(format!("name another file after {flag}")))
            }
            _ => Ok(()),
        }
    }
}

/// Whether two names mean one file: the same name, or the same inode of a regular file.
fn is_same_file(left: &Path, right: &Path) -> bool {
    let identity = |path: &Path| {
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some((metadata.dev(), metadata.ino()))
    };
    left == right || identity(left).is_some_and(|left| Some(left) == identity(right))
}
