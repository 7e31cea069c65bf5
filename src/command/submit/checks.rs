//! What `submit` refuses before it copies anything: names that a daemon never takes, names that are taken, and what cannot
//! be read.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use super::Entry;
use super::ending::Companions;
use crate::config::{InputFile, SubmitTask};
use crate::daemon::names::{Name, classify, has_suffix, result_name};
use crate::daemon::recipe::{self, Recipe, RecipeError};
use crate::exit::{Exit, Stop};
use crate::line::escape::shown;

/// Where every file will go.
///
/// Fails with 65 when there is no such folder or a file cannot be read, and with 64 when a name cannot be used.
pub(super) fn plan(task: &SubmitTask) -> Result<Vec<Entry>, Stop> {
    let spool = &task.spool;
    let is_folder = fs::metadata(spool).map(|metadata| metadata.is_dir());
    match is_folder {
        Ok(true) => {}
        Ok(false) => return Err(no_spool(spool, "it is no folder")),
        Err(error) => return Err(no_spool(spool, &error.to_string())),
    }
    let recipe = recipe_of(spool)?;
    let mut entries: Vec<Entry> = Vec::with_capacity(task.files.len());
    for source in &task.files {
        let entry = entry(task, source, &recipe)?;
        if entries.iter().any(|other| other.name == entry.name) {
            return Err(Stop::usage(format!("two of the files are called {}", shown(Path::new(&entry.name))))
                .way_out("submit them one by one, and give one of them another name by --name"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn no_spool(spool: &Path, cause: &str) -> Stop {
    Stop::new(Exit::Input, format!("submit into {}: {cause}", shown(spool)))
        .way_out("name the folder of a daemon after --spool")
}

/// The folder's recipe, which has a say in the names of results. A daemon takes no file while it is wrong.
fn recipe_of(spool: &Path) -> Result<Recipe, Stop> {
    // Whose recipes count is for the daemon to judge: here nothing is run by it.
    recipe::load(spool, &|_| true).map_err(|error| match error {
        RecipeError::Wrong { message, way_out } => Stop::new(Exit::Input, message).way_out(way_out),
        RecipeError::NotYet { .. } => Stop::new(Exit::Resumable, error.to_string()).way_out("submit again in a moment"),
        RecipeError::Io { .. } => Stop::new(Exit::Io, error.to_string()).way_out("nothing was submitted"),
    })
}

fn entry(task: &SubmitTask, source: &InputFile, recipe: &Recipe) -> Result<Entry, Stop> {
    let own_name = match source {
        InputFile::Path(path) => path.file_name(),
        InputFile::Stdin => None,
    };
    let name = task.name.as_deref().or(own_name).ok_or_else(|| {
        Stop::usage(format!("{} has no name for a prompt file", told(source))).way_out("add --name NAME")
    })?;
    let is_result = recipe.suffix().is_some_and(|suffix| has_suffix(name, suffix));
    let Name::Input(kind) = (if is_result { Name::Ignored } else { classify(name) }) else {
        return Err(Stop::usage(format!("{}: {}", shown(Path::new(name)), never(name)))
            .way_out("give it a name that ends in .jsonl, .json, .txt or .md: --name NAME"));
    };
    let target = task.spool.join(name);
    must_be_free(&target, source)?;
    let result_name = result_name(name, kind, recipe.suffix()).map_err(|error| {
        Stop::usage(format!("{}: {error}", shown(Path::new(name)))).way_out("give it a shorter name: --name NAME")
    })?;
    let result = task.spool.join(result_name);
    if fs::symlink_metadata(&result).is_ok() {
        return Err(Stop::usage(format!("{} is there already, and would keep the result away", shown(&result)))
            .way_out("move it away, or submit the file under another name: --name NAME"));
    }
    // Opened to see that it can be; a pipe would lose its writer by that.
    if matches!(source, InputFile::Path(path) if !is_pipe(path)) {
        open(source)?;
    }
    let left = Companions::beside(&task.spool, name);
    let kind = recipe.reading(kind).0;
    Ok(Entry { source: source.clone(), kind, name: name.to_owned(), target, result, left })
}

fn is_pipe(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// Why a name is never a prompt file's.
fn never(name: &OsStr) -> &'static str {
    let bytes = name.as_bytes();
    let ends = |endings: &[&str]| endings.iter().any(|ending| bytes.ends_with(ending.as_bytes()));
    match classify(name) {
        Name::Cancel | Name::Retry => "a daemon takes it for a wish about another file",
        _ if bytes.starts_with(b".") => "a daemon never takes files whose names begin with a dot",
        _ if ends(&["~", ".tmp", ".part", ".partial", ".filepart", ".crdownload", ".swp"]) => {
            "a daemon takes it for a file that is not finished"
        }
        _ if ends(&[".jsonl", ".json", ".txt", ".md"]) => "a daemon takes it for a result or a status",
        _ => "a daemon takes no files of this ending",
    }
}

fn must_be_free(target: &Path, source: &InputFile) -> Result<(), Stop> {
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Stop::new(Exit::Input, format!("look at {}: {error}", shown(target)))
            .way_out("see that you may enter the folder, and that the name is not too long")),
        Ok(found) if found.is_file() && is_same_content(target, source) => {
            Err(Stop::usage(format!("{} is there already, with this very content", shown(target)))
                .way_out("nothing is left to submit; NAME.retry beside it asks again for its failed lines"))
        }
        Ok(_) => Err(taken(target)),
    }
}

/// Something has the name already.
pub(super) fn taken(target: &Path) -> Stop {
    Stop::usage(format!("{} is there already, and is not overwritten", shown(target)))
        .way_out("submit the file under another name: --name NAME")
}

/// Whether both are readable and equal; a pipe is not compared, since that would empty it.
fn is_same_content(target: &Path, source: &InputFile) -> bool {
    let InputFile::Path(path) = source else { return false };
    let regular = |path: &Path| {
        let length = fs::metadata(path).ok().filter(fs::Metadata::is_file)?.len();
        Some((length, File::open(path).ok()?))
    };
    match (regular(target), regular(path)) {
        (Some((one, left)), Some((other, right))) if one == other => {
            let bytes = |file: File| BufReader::with_capacity(64 << 10, file).bytes().map(Result::ok);
            bytes(left).eq(bytes(right))
        }
        _ => false,
    }
}

/// Opens a source.
pub(super) fn open(source: &InputFile) -> Result<Box<dyn Read>, Stop> {
    let failed = |cause: String| {
        Stop::new(Exit::Input, format!("read {}: {cause}", told(source))).way_out("name files that you may read")
    };
    match source {
        InputFile::Stdin => Ok(Box::new(io::stdin().lock())),
        InputFile::Path(path) if path.is_dir() => Err(failed("it is a folder".to_owned())),
        InputFile::Path(path) => match File::open(path) {
            Ok(file) => Ok(Box::new(file)),
            Err(error) => Err(failed(error.to_string())),
        },
    }
}

/// A source as it is told of.
pub(super) fn told(source: &InputFile) -> String {
    match source {
        InputFile::Stdin => "standard input".to_owned(),
        InputFile::Path(path) => shown(path),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Verbosity;
    use crate::daemon::names::Kind;

    fn task(spool: &Path, files: &[&Path], name: Option<&str>) -> SubmitTask {
        let files = files.iter().map(|path| InputFile::Path(path.to_path_buf())).collect();
        SubmitTask {
            spool: spool.to_owned(),
            files,
            name: name.map(Into::into),
            wait: false,
            verbosity: Verbosity::Normal,
        }
    }

    #[track_caller]
    fn refused(task: &SubmitTask, exit: Exit, told: &str) {
        let stop = plan(task).unwrap_err();
        assert!(stop.exit == exit && stop.way_out.is_some() && stop.message.contains(told), "{stop:?}");
    }

    #[test]
    fn names_that_are_no_inputs_are_refused_with_their_reason() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("p.jsonl");
        fs::write(&source, "").unwrap();
        let spool = folder.path().join("spool");
        fs::create_dir(&spool).unwrap();
        for (name, told) in [
            (".p.jsonl", "begin with a dot"),
            ("p.jsonl~", "not finished"),
            ("p.out.jsonl", "a result or a status"),
            ("p.jsonl.status.json", "a result or a status"),
            ("p.jsonl.cancel", "a wish about another file"),
            ("p.csv", "of this ending"),
        ] {
            refused(&task(&spool, &[&source], Some(name)), Exit::Usage, told);
        }
        refused(&task(&spool, &[&source], Some(&format!("{}.jsonl", "n".repeat(246)))), Exit::Usage, "too long");
        let planned = plan(&task(&spool, &[&source], None)).unwrap();
        assert_eq!((planned[0].kind, &planned[0].result), (Kind::Lines, &spool.join("p.out.jsonl")));
    }

    #[test]
    fn the_recipe_has_its_say_in_the_names_of_results() {
        let folder = tempfile::tempdir().unwrap();
        let (source, recipe) = (folder.path().join("p.txt"), folder.path().join("spool/anvil.toml"));
        fs::create_dir(folder.path().join("spool")).unwrap();
        fs::write(&source, "").unwrap();
        fs::write(&recipe, "suffix = '.answers.txt'\ninput = 'text'").unwrap();
        let spool = folder.path().join("spool");
        let planned = plan(&task(&spool, &[&source], None)).unwrap();
        assert_eq!((planned[0].kind, &planned[0].result), (Kind::Lines, &spool.join("p.txt.answers.txt")));
        refused(&task(&spool, &[&source], Some("q.answers.txt")), Exit::Usage, "a result or a status");
        fs::write(&recipe, "sufix = '.x'").unwrap();
        refused(&task(&spool, &[&source], None), Exit::Input, "unknown key `sufix`");
    }

    #[test]
    fn names_that_are_taken_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("spool/folder.jsonl")).unwrap();
        for name in ["p.jsonl", "q.jsonl", "spool/p.jsonl", "spool/q.out.jsonl"] {
            fs::write(at(name), "one").unwrap();
        }
        let spool = at("spool");
        let submit = |name: &str, own: Option<&str>| task(&spool, &[&at(name)], own);
        refused(&submit("p.jsonl", None), Exit::Usage, "with this very content");
        fs::write(at("p.jsonl"), "two").unwrap();
        refused(&submit("p.jsonl", None), Exit::Usage, "is not overwritten");
        refused(&submit("p.jsonl", Some("folder.jsonl")), Exit::Usage, "is not overwritten");
        refused(&submit("q.jsonl", None), Exit::Usage, "keep the result away");
        refused(&submit("none.jsonl", None), Exit::Input, "none.jsonl");
        refused(&task(&spool, &[&at("p.jsonl"), &at("./p.jsonl")], Some("r.jsonl")), Exit::Usage, "two of the files");
        refused(&task(&at("none"), &[&at("p.jsonl")], None), Exit::Input, "none");
    }
}
