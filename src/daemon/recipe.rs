//! The recipe of a folder: `anvil.toml`, which says how the prompt files beside it are run.
//!
//! Invariant: a [`Recipe`] cannot exist invalid, and holds no secrets: no key and no host can be set by it. Written by
//! the users of the spool: no error quotes what stands in it but for the names of keys.

mod suffix;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::io::retry_on_intr;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::names::Kind;
use super::snapshot::guard::{self, Fault, Opened, Rule};
use super::stamp::Stamp;
use crate::config::{Params, filled, params, params_over, parse_toml};
use crate::exit::Stop;
use crate::line::escape::shown;
use crate::line::{Defaults, Format, InputForm};

/// What a recipe is called.
pub const RECIPE_NAME: &str = "anvil.toml";
/// The longest recipe, in bytes.
const RECIPE_BYTES_MAX: u64 = 64 << 10;
/// Every key that a recipe may hold.
const KEYS: &[&str] = &["model", "system", "params", "format", "merge", "input", "suffix"];

/// How the prompt files of a folder are run; whatever it leaves open is the daemon's configuration's to say.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    #[serde(deserialize_with = "filled")]
    model: Option<String>,
    system: Option<String>,
    #[serde(deserialize_with = "params")]
    params: Params,
    #[serde(deserialize_with = "format")]
    format: Option<Format>,
    #[serde(deserialize_with = "filled")]
    merge: Option<String>,
    #[serde(deserialize_with = "input_form")]
    input: Option<InputForm>,
    #[serde(deserialize_with = "suffix::suffix")]
    suffix: Option<String>,
}

/// Why a folder's recipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// It is wrong, and stays so until somebody changes it.
    #[error("{message}\n{way_out}")]
    Wrong {
        /// What is wrong with it: path, line, cause.
        message: String,
        /// What to do about it.
        way_out: String,
    },
    /// Somebody is writing it: look again later.
    #[error("{} is being written", shown(path))]
    NotYet {
        /// The recipe.
        path: PathBuf,
    },
    /// Reading failed on our side, which says nothing about the recipe.
    #[error("read {}: {source}", shown(path))]
    Io {
        /// The recipe, or its folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Reads the recipe of a folder; a folder without one has the default recipe, which says nothing.
///
/// A recipe counts when it belongs to root, the daemon's own user, the folder's owner, or an owner that
/// `allowed_owners` lets through; any other is an error, for its author meant it to count.
pub fn load(folder: &Path, allowed_owners: &dyn Fn(u32) -> bool) -> Result<Recipe, RecipeError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = retry_on_intr(|| openat(CWD, folder, flags, Mode::empty()))
        .map_err(|error| RecipeError::Io { path: folder.to_owned(), source: error.into() })?;
    load_at(open.as_fd(), folder, allowed_owners)
}

/// Reads the recipe of an open folder, as [`load`] does; `path` is what errors call the folder.
pub fn load_at(
    folder: BorrowedFd<'_>,
    path: &Path,
    allowed_owners: &dyn Fn(u32) -> bool,
) -> Result<Recipe, RecipeError> {
    let path = path.join(RECIPE_NAME);
    let failed = |source| RecipeError::Io { path: path.clone(), source };
    let folder_owner = fstat(folder).map_err(|error| failed(error.into()))?.st_uid;
    let trusted = [0, rustix::process::geteuid().as_raw(), folder_owner];
    let owner_allowed = |owner| trusted.contains(&owner) || allowed_owners(owner);
    let rule = Rule { owner_allowed: &owner_allowed, bytes_max: RECIPE_BYTES_MAX };
    match guard::open(folder, OsStr::new(RECIPE_NAME), &rule) {
        Ok(opened) => parse(&read(opened, &path)?, &path),
        Err(Fault::Gone) => Ok(Recipe::default()),
        Err(fault) => Err(refusal(fault, path)),
    }
}

fn read(opened: Opened, path: &Path) -> Result<Vec<u8>, RecipeError> {
    let failed = |source| RecipeError::Io { path: path.to_owned(), source };
    let Opened { file, stamp } = opened;
    let mut bytes = Vec::new();
    (&file).take(RECIPE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    let is_unchanged = is_still(&file, &stamp).map_err(failed)? && bytes.len() as u64 == stamp.bytes;
    if is_unchanged { Ok(bytes) } else { Err(RecipeError::NotYet { path: path.to_owned() }) }
}

fn is_still(file: &File, stamp: &Stamp) -> io::Result<bool> {
    Ok(guard::stamp_of(&fstat(file)?) == *stamp)
}

fn parse(bytes: &[u8], path: &Path) -> Result<Recipe, RecipeError> {
    let wrong = |message: String, way_out: &str| RecipeError::Wrong { message, way_out: way_out.to_owned() };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count();
        wrong(format!("{}, line {line}: it is not UTF-8", shown(path)), "save it as UTF-8")
    })?;
    let recipe: Recipe = parse_toml(text, path, KEYS).map_err(|stop: Stop| RecipeError::Wrong {
        message: stop.message,
        way_out: stop.way_out.unwrap_or_default(),
    })?;
    // The same rule as for the flags of these names.
    if recipe.merge.is_some() && !matches!(recipe.format, None | Some(Format::Completion)) {
        return Err(wrong(
            format!("{}: `merge` writes the input object, so `format` cannot choose another form", shown(path)),
            "take one of the two out",
        ));
    }
    Ok(recipe)
}

fn refusal(fault: Fault, path: PathBuf) -> RecipeError {
    let name = shown(&path);
    let (message, way_out) = match fault {
        Fault::BeingWritten => return RecipeError::NotYet { path },
        Fault::Io(source) => return RecipeError::Io { path, source },
        Fault::Gone => return RecipeError::Io { path, source: io::ErrorKind::NotFound.into() },
        Fault::NotRegular(what) => {
            (format!("{name} is {what}, and a recipe must be a regular file"), "put the file itself in its place")
        }
        Fault::WrongOwner(owner) => (
            format!("{name} belongs to the user with id {owner}, who may not say how the files of this folder are run"),
            "take it away, or let the owner of the folder write it",
        ),
        Fault::TooLarge(_) => {
            (format!("{name} is longer than {} KiB", RECIPE_BYTES_MAX >> 10), "make it shorter, or take it away")
        }
        Fault::HardLinked => (
            format!("{name} has several hard links, and on this machine anybody can link the files of others"),
            "put a copy in its place",
        ),
        Fault::Unreadable(error) => {
            (format!("open {name}: {}", io::Error::from(error)), "let the daemon read it, or take it away")
        }
    };
    RecipeError::Wrong { message, way_out: way_out.to_owned() }
}

impl Recipe {
    /// What a line gets that does not say so itself: the recipe's word, or else the daemon's; parameters one by one.
    pub fn over(&self, defaults: &Defaults) -> Defaults {
        Defaults {
            model: self.model.clone().or_else(|| defaults.model.clone()),
            system: self.system.clone().or_else(|| defaults.system.clone()),
            params: params_over(self.params.clone(), defaults.params.clone()),
        }
    }

    /// The form of a result line; never [`Format::Events`].
    pub fn format(&self) -> Option<Format> {
        self.format
    }

    /// The field of the input object that takes the answer; the form is the object's own then.
    pub fn merge(&self) -> Option<&str> {
        self.merge.as_deref()
    }

    /// What text files are made of, as the recipe says it: see [`Recipe::reading`] for what follows.
    pub fn input(&self) -> Option<InputForm> {
        self.input
    }

    /// The ending of results, with its dot, in the place of the usual one.
    pub fn suffix(&self) -> Option<&str> {
        self.suffix.as_deref()
    }

    /// How a file is read that is of this kind by its name, and what one of its records is.
    ///
    /// With `input = "text"` every line of a text file is a prompt of its own; what is called JSON stays JSON.
    pub fn reading(&self, kind: Kind) -> (Kind, InputForm) {
        match (kind, self.input) {
            (Kind::Text, Some(InputForm::Text)) => (Kind::Lines, InputForm::Text),
            (Kind::Text, _) => (Kind::Text, InputForm::Text),
            (kind, _) => (kind, InputForm::Json),
        }
    }

    /// What the recipe sets, for status files; see [`Recipe::settings_json_over`].
    pub fn settings_json(&self) -> Value {
        self.settings_json_over(&Defaults::default())
    }

    /// What is set by the recipe and, where it is silent, by the daemon's defaults, for status files.
    ///
    /// Status files may be readable for more people than the recipe is: of the system prompt they get length and hash.
    pub fn settings_json_over(&self, defaults: &Defaults) -> Value {
        let lines_get = self.over(defaults);
        let params = lines_get.params.iter().map(|(key, value)| (key.clone(), value_of(value)));
        let params: Map<String, Value> = params.collect();
        let fields = [
            ("model", lines_get.model.map(Value::from)),
            ("system", lines_get.system.as_deref().map(outline)),
            ("params", Some(params).filter(|params| !params.is_empty()).map(Value::from)),
            ("format", self.format.and_then(name_of).map(Value::from)),
            ("merge", self.merge.clone().map(Value::from)),
            ("input", self.input.and_then(name_of).map(Value::from)),
            ("suffix", self.suffix.clone().map(Value::from)),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect::<Map<_, _>>().into()
    }
}

/// A number that is too large for a [`Value`] stands as the text that was written.
fn value_of(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().into())
}

fn outline(text: &str) -> Value {
    json!({ "bytes": text.len(), "sha256": format!("{:x}", Sha256::digest(text)) })
}

/// The name by which a setting's value is chosen.
fn name_of(value: impl clap::ValueEnum) -> Option<String> {
    Some(value.to_possible_value()?.get_name().to_owned())
}

fn format<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Format>, D::Error> {
    match chosen(input)? {
        Format::Events => Err(D::Error::custom(
            "events tell the pieces of answers as they arrive, and a result appears whole; \
             choose completion, raw, batch or text",
        )),
        format => Ok(Some(format)),
    }
}

fn input_form<'de, D: Deserializer<'de>>(input: D) -> Result<Option<InputForm>, D::Error> {
    chosen(input).map(Some)
}

/// One of the values of a setting, by its name. The error does not repeat what was there instead.
fn chosen<'de, D: Deserializer<'de>, T: clap::ValueEnum>(input: D) -> Result<T, D::Error> {
    let found = match toml::Value::deserialize(input)? {
        toml::Value::String(text) => T::from_str(&text, false).ok(),
        _ => None,
    };
    found.ok_or_else(|| {
        let names: Vec<String> = T::value_variants().iter().cloned().filter_map(name_of).collect();
        D::Error::custom(format!("must be one of {}", names.join(", ")))
    })
}
