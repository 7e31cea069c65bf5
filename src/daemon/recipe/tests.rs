//! What a recipe may say, who may say it, and what its errors keep to themselves.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{chown, symlink};

use proptest::prelude::*;

use super::*;

const WHOLE: &str = r#"
model = "llama"
system = "a hidden prompt"
format = "completion"
merge = "answer"
input = "text"
suffix = ".answers.jsonl"
[params]
temperature = 0.5
stop = ["a"]
"#;

fn understood(text: &str) -> Recipe {
    parse(text.as_bytes(), Path::new("d/anvil.toml")).unwrap()
}

fn refused(text: &str) -> String {
    parse(text.as_bytes(), Path::new("d/anvil.toml")).unwrap_err().to_string()
}

fn defaults() -> Defaults {
    let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
    Defaults {
        model: Some("default".to_owned()),
        system: Some("default".to_owned()),
        params: vec![("temperature".to_owned(), raw("1")), ("seed".to_owned(), raw("7"))],
    }
}

fn in_folder(text: impl AsRef<[u8]>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(RECIPE_NAME), text).unwrap();
    folder
}

fn load_strictly(folder: &Path) -> Result<Recipe, RecipeError> {
    load(folder, &|_| false)
}

#[test]
fn every_known_key_is_understood_and_wins_over_the_configuration() {
    let recipe = understood(WHOLE);
    assert_eq!((recipe.format(), recipe.merge()), (Some(Format::Completion), Some("answer")));
    assert_eq!((recipe.input(), recipe.suffix()), (Some(InputForm::Text), Some(".answers.jsonl")));
    let over = recipe.over(&defaults());
    assert_eq!((over.model.as_deref(), over.system.as_deref()), (Some("llama"), Some("a hidden prompt")));
    let params: Vec<_> = over.params.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(params, ["seed=7", r#"stop=["a"]"#, "temperature=0.5"]);
    for key in KEYS {
        assert!(WHOLE.contains(&format!("\n{key} =")) || WHOLE.contains(&format!("[{key}]")), "{key}");
    }
}

#[test]
fn an_empty_recipe_and_none_at_all_leave_everything_to_the_configuration() {
    let nothing = tempfile::tempdir().unwrap();
    for recipe in [understood(""), load_strictly(nothing.path()).unwrap()] {
        let over = recipe.over(&defaults());
        assert_eq!((over.model.as_deref(), over.params.len()), (Some("default"), 2));
        assert_eq!((recipe.format(), recipe.merge(), recipe.input(), recipe.suffix()), (None, None, None, None));
        assert_eq!(recipe.settings_json(), json!({}));
    }
}

#[test]
fn text_files_are_one_prompt_unless_the_recipe_makes_them_lines() {
    let (usual, lines) = (understood("input = 'json'"), understood("input = 'text'"));
    assert_eq!(usual.reading(Kind::Text), (Kind::Text, InputForm::Text));
    assert_eq!(Recipe::default().reading(Kind::Text), (Kind::Text, InputForm::Text));
    assert_eq!(lines.reading(Kind::Text), (Kind::Lines, InputForm::Text));
    for recipe in [usual, lines] {
        assert_eq!(recipe.reading(Kind::Lines), (Kind::Lines, InputForm::Json));
        assert_eq!(recipe.reading(Kind::One), (Kind::One, InputForm::Json));
    }
}

#[test]
fn status_files_tell_the_settings_but_not_the_prompt() {
    let settings = understood(WHOLE).settings_json_over(&defaults());
    let expected = json!({
        "model": "llama",
        "system": { "bytes": 15, "sha256": format!("{:x}", Sha256::digest("a hidden prompt")) },
        "params": { "seed": 7, "stop": ["a"], "temperature": 0.5 },
        "format": "completion",
        "merge": "answer",
        "input": "text",
        "suffix": ".answers.jsonl",
    });
    assert_eq!(settings, expected);
    assert_eq!(understood("model = 'm'").settings_json(), json!({ "model": "m" }));
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    for (text, key, line, nearest) in [
        ("model = 'x'\nmodle = 'x'", "modle", 2, "model"),
        ("\n\nsufix = '.x'", "sufix", 3, "suffix"),
        ("[parms]\na = 1", "parms", 1, "params"),
        ("base_url = 'https://hidden.example'", "base_url", 1, ""),
    ] {
        let shown = refused(text);
        assert!(shown.contains(&format!("d/anvil.toml, line {line}: unknown key `{key}`")), "{shown}");
        assert!(shown.contains(&format!("did you mean `{nearest}")), "{shown}");
    }
}

#[test]
fn a_bad_value_is_refused_with_its_line_and_not_repeated() {
    for text in [
        "model = ''",
        "model = 5",
        "system = ['hidden']",
        "format = 'hidden'",
        "format = 'events'",
        "format = 5",
        "merge = ' '",
        "input = 'hidden'",
        "suffix = 'hidden'",
        "suffix = 5",
        "params = 'hidden'",
        "params.model = 'hidden'",
        "params.messages = []",
        "params.when = 1979-05-27",
        "model = hidden",
        "model = 'hidden",
        "hidden words",
    ] {
        let shown = refused(&format!("\n{text}\n"));
        assert!(shown.starts_with("d/anvil.toml, line 2: "), "{text}: {shown}");
        assert!(shown.contains('\n') && !shown.contains("hidden"), "{text}: {shown}");
    }
    assert!(refused("format = 'events'").contains("completion, raw, batch or text"));
    assert!(refused("input = 'csv'").contains("must be one of json, text"));
    assert!(refused("merge = 'a'\nformat = 'raw'").contains("take one of the two out"));
    let bytes = parse(b"model = 'x'\n# \xff", Path::new("anvil.toml")).unwrap_err().to_string();
    assert!(bytes.starts_with("anvil.toml, line 2: it is not UTF-8"), "{bytes}");
}

#[test]
fn a_recipe_is_a_regular_file_of_modest_size() {
    let folder = in_folder("model = 'm'");
    assert_eq!(load_strictly(folder.path()).unwrap().over(&Defaults::default()).model.as_deref(), Some("m"));
    let is_refused = |folder: &Path, why: &str| {
        let error = load_strictly(folder).unwrap_err();
        assert!(
            matches!(&error, RecipeError::Wrong { message, way_out }
            if message.contains(why) && message.contains(RECIPE_NAME) && !way_out.is_empty()),
            "{error}"
        );
    };
    is_refused(in_folder(vec![b'#'; (64 << 10) + 1]).path(), "longer than 64 KiB");
    load_strictly(in_folder(vec![b'#'; 64 << 10]).path()).unwrap();
    let other = tempfile::tempdir().unwrap();
    symlink(folder.path().join(RECIPE_NAME), other.path().join(RECIPE_NAME)).unwrap();
    is_refused(other.path(), "a symbolic link");
    fs::remove_file(other.path().join(RECIPE_NAME)).unwrap();
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(CWD, other.path().join(RECIPE_NAME), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    is_refused(other.path(), "a pipe");
    assert!(matches!(load_strictly(&other.path().join("nowhere")), Err(RecipeError::Io { .. })));
}

#[test]
fn a_recipe_of_somebody_else_is_refused() {
    const NOBODY: u32 = 65534;
    let folder = in_folder("model = 'm'");
    if chown(folder.path().join(RECIPE_NAME), Some(NOBODY), None).is_err() {
        return;
    }
    let error = load_strictly(folder.path()).unwrap_err().to_string();
    assert!(error.contains("belongs to the user with id 65534"), "{error}");
    load(folder.path(), &|owner| owner == NOBODY).unwrap();
    chown(folder.path(), Some(NOBODY), None).unwrap();
    load_strictly(folder.path()).unwrap();
}

#[test]
fn a_recipe_that_is_being_written_is_waited_for() {
    let folder = in_folder("model = 'm'");
    let writer = fs::OpenOptions::new().append(true).open(folder.path().join(RECIPE_NAME)).unwrap();
    // Where the file system has no leases nobody can tell, and it is read as it is.
    match load_strictly(folder.path()) {
        Err(RecipeError::NotYet { .. }) => {}
        other => assert!(other.is_ok()),
    }
    drop(writer);
    load_strictly(folder.path()).unwrap();
}

proptest! {
    #[test]
    fn no_error_repeats_a_value_or_disturbs_a_terminal(
        key in prop::sample::select(vec!["model", "system", "format", "merge", "input", "suffix", "params", "params.a"]),
        quote in prop::sample::select(vec!["", "'", "\"", "['", "{ a = '"]),
        noise in "[ -~\u{1b}\u{9b}\u{202e}\n]{0,12}",
        value in "hidden[ -~]{0,12}",
    ) {
        let text = format!("{key} = {quote}{value}{quote}\n{noise}");
        if let Err(error) = parse(text.as_bytes(), Path::new("anvil.toml")) {
            let shown = error.to_string();
            prop_assert!(!shown.contains("hidden"), "{text:?}: {shown}");
            prop_assert!(!shown.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{text:?}: {shown:?}");
        }
    }

    #[test]
    fn no_text_makes_it_fail_otherwise_than_by_an_error(text in "([a-z]{1,6}|[=\\[\\].'\"{}\n#0-9 -]){0,20}") {
        let _ = parse(text.as_bytes(), Path::new("anvil.toml"));
    }
}
