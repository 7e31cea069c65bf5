//! Keeps the house in order: reads every file under `src/` and fails on what the architecture forbids.
//!
//! Invariant: each rule is a pure function from one file to its offences, and each has a test with a planted offender,
//! so a rule that can no longer fail is itself a failure. Comments, strings and test code are not looked at.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

// --------------------------------------------------------------------------------------------------------- the rules

/// The rooms, and how high each lies: a file may use rooms of its own rank or lower.
const ROOMS: &[(&str, u8)] = &[
    ("line", 0),
    ("api", 1),
    ("flow", 1),
    ("shutdown", 1),
    ("exit", 1),
    ("stdout_probe", 1),
    ("engine", 2),
    ("journal", 2),
    ("config", 3),
    ("report", 4),
    ("filter", 5),
    ("daemon", 6),
    ("connection", 4),
    ("command", 7),
    ("cli", 7),
    ("lib", 8),
    ("main", 8),
];

/// Rooms that may use these others only, whatever their rank.
const ONLY: &[(&str, &[&str])] =
    &[("line", &[]), ("flow", &[]), ("journal", &["line", "exit"]), ("cli", &["config", "api", "line", "exit"])];

/// Files and folders that know neither clock nor file nor environment.
const PURE: &[&str] = &[
    "line/",
    "flow/",
    "api/body.rs",
    "api/sse.rs",
    "api/assemble.rs",
    "api/chunk.rs",
    "api/pattern.rs",
    "api/headers.rs",
    "api/signal.rs",
    "api/models.rs",
    "engine/policy.rs",
    "engine/ticket.rs",
    "journal/frame.rs",
    "journal/key.rs",
    "journal/index.rs",
    "journal/places.rs",
    "journal/known.rs",
    "journal/record.rs",
    "journal/note.rs",
    "filter/splitter.rs",
    "filter/window.rs",
    "report/eta.rs",
    "report/quotas.rs",
    "daemon/names.rs",
    "daemon/settle.rs",
    "daemon/log.rs",
    "daemon/history.rs",
    "daemon/plan.rs",
    "daemon/rota.rs",
];

/// Files that may write stdout.
const STDOUT_WRITERS: &[&str] = &["filter/writer.rs", "command/mod.rs", "lib.rs"];

/// Files that may have unsafe code.
const UNSAFE: &[&str] = &["stdout_probe.rs", "daemon/snapshot/writers.rs"];

const FORBIDDEN_MACROS: [&str; 7] = ["println", "print", "eprintln", "eprint", "dbg", "todo", "unimplemented"];

type Rule = fn(&Source) -> Vec<String>;

const RULES: &[(&str, Rule)] = &[
    ("an arrow runs back", arrows_run_one_way),
    ("a macro that is not for this program", no_forbidden_macro),
    ("the process is ended from within", no_exit),
    ("unsafe code", no_unsafe),
    ("a pure room looks outside", pure_rooms_stay_pure),
    ("the engine uses a clock that tests cannot stop", engine_uses_the_runtimes_clock),
    ("stdout is touched", stdout_has_few_writers),
    ("a test is ignored", no_ignored_test),
    ("the file does not open with its job", opens_with_its_job),
];

fn arrows_run_one_way(source: &Source) -> Vec<String> {
    let own = source.room();
    let targets = source.paths.iter().filter_map(|path| Some((path, source.room_that(path)?)));
    targets.filter(|(_, target)| !may_use(own, target)).map(|(path, _)| path.told()).collect()
}

/// Whether a file in room `own` may use `target`; a room without a rank may be used by none but the top.
fn may_use(own: &str, target: &str) -> bool {
    let rank = |room: &str| ROOMS.iter().find(|(name, _)| *name == room).map(|(_, rank)| *rank);
    let only = ONLY.iter().find(|(room, _)| *room == own).map(|(_, only)| *only);
    let low_enough = match (rank(own), rank(target)) {
        (Some(own), Some(target)) => target <= own,
        (own, None) => own == rank("lib"),
        (None, _) => false,
    };
    own == target || low_enough && only.is_none_or(|only| only.contains(&target))
}

fn no_forbidden_macro(source: &Source) -> Vec<String> {
    let calls = source.tokens.windows(3).filter(|three| three[1].text == "!" && three[2].text != "=");
    calls.map(|three| &three[0]).filter(|name| FORBIDDEN_MACROS.contains(&&*name.text)).map(Token::told).collect()
}

fn no_exit(source: &Source) -> Vec<String> {
    source.that_name(&[&["process", "exit"]])
}

fn no_unsafe(source: &Source) -> Vec<String> {
    if UNSAFE.contains(&&*source.name) {
        return Vec::new();
    }
    source.tokens.iter().filter(|token| matches!(&*token.text, "unsafe" | "unsafe_code")).map(Token::told).collect()
}

fn pure_rooms_stay_pure(source: &Source) -> Vec<String> {
    if !PURE.iter().any(|pure| source.name.starts_with(pure)) {
        return Vec::new();
    }
    source.that_name(&[&["Instant", "now"], &["SystemTime", "now"], &["std", "fs"], &["std", "env"]])
}

fn engine_uses_the_runtimes_clock(source: &Source) -> Vec<String> {
    if source.room() == "engine" { source.that_name(&[&["std", "time", "Instant"]]) } else { Vec::new() }
}

fn stdout_has_few_writers(source: &Source) -> Vec<String> {
    if STDOUT_WRITERS.contains(&&*source.name) {
        return Vec::new();
    }
    source.that_name(&[&["io", "stdout"], &["io", "Stdout"], &["stdio", "stdout"], &["STDOUT_FILENO"]])
}

fn no_ignored_test(source: &Source) -> Vec<String> {
    let starts = source.all_tokens.windows(3);
    starts.filter(|three| three[0].text == "#" && three[2].text == "ignore").map(|three| three[2].told()).collect()
}

fn opens_with_its_job(source: &Source) -> Vec<String> {
    if source.raw.starts_with("//! ") { Vec::new() } else { vec!["1: no //! head".to_owned()] }
}

// --------------------------------------------------------------------------------------------------------- the tests

#[test]
fn the_house_is_in_order() {
    let sources = sources();
    assert!(sources.len() > 40, "only {} files were found", sources.len());
    let mut offences = Vec::new();
    for source in &sources {
        for (what, rule) in RULES {
            offences.extend(rule(source).iter().map(|where_| format!("src/{}:{where_}: {what}", source.name)));
        }
    }
    assert!(offences.is_empty(), "{} offences:\n{}", offences.len(), offences.join("\n"));
}

#[test]
fn every_file_lies_in_a_room_and_every_rule_names_files_that_exist() {
    let sources = sources();
    for source in &sources {
        assert!(ROOMS.iter().any(|(room, _)| *room == source.room()), "src/{} is in no room", source.name);
    }
    for named in PURE.iter().chain(STDOUT_WRITERS).chain(UNSAFE) {
        assert!(sources.iter().any(|source| source.name.starts_with(named)), "there is no src/{named}");
    }
    for (room, _) in ROOMS {
        assert!(sources.iter().any(|source| source.room() == *room), "there is no room {room}");
    }
}

/// Plants code that `rule` must report once, then code that it must leave alone.
fn assert_rule(rule: Rule, offenders: &[(&str, &str)], innocents: &[(&str, &str)]) {
    for (name, code) in offenders {
        assert_eq!(rule(&Source::new(name, code)).len(), 1, "one offence in {name}: {code}");
    }
    for (name, code) in innocents {
        assert_eq!(rule(&Source::new(name, code)), Vec::<String>::new(), "no offence in {name}: {code}");
    }
}

#[test]
fn an_arrow_that_runs_back_is_found() {
    let offenders = [
        ("line/chat.rs", "use crate::api::Dialect;"),
        ("flow/mod.rs", "use crate::line::Answer;"),
        ("api/signal.rs", "use crate::engine::Key;"),
        ("engine/core/asking.rs", "fn f() { crate::config::load() }"),
        ("engine/mod.rs", "use crate::{line::Answer, api::{self, Signal}, filter::run};"),
        ("engine/ticket.rs", "use super::super::report;"),
        ("config.rs", "use super::cli;"),
        ("report/mod.rs", "use crate::filter::reader::Source;"),
        ("filter/mod.rs", "use crate::command;"),
        ("cli.rs", "use crate::engine::Clocks;"),
        ("command/mod.rs", "use crate::attic::Key;"),
    ];
    let innocents = [
        ("line/chat.rs", "use crate::line::Answer; use super::fields; use super::super::line::escape;"),
        ("api/signal.rs", "use crate::line::Answer; use super::headers::Head;"),
        ("engine/core/asking.rs", "use super::super::policy; use crate::flow::Endpoint;"),
        ("filter/mod.rs", "use crate::report::say; use crate::{engine, config};"),
        ("cli.rs", "use crate::config::Config;"),
        ("lib.rs", "use crate::filter::run;"),
        ("line/mod.rs", "// use crate::api;\n/* crate::api */ const A: &str = \"crate::api\";"),
        ("line/mod.rs", "#[cfg(test)]\n#[allow(x)]\nmod tests { use crate::api::Dialect; fn f() { {} } }"),
    ];
    assert_rule(arrows_run_one_way, &offenders, &innocents);
}

#[test]
fn a_forbidden_macro_is_found() {
    let code = FORBIDDEN_MACROS.map(|name| format!("fn f() {{ {name}!(\"x\") }}"));
    let offenders = code.each_ref().map(|code| ("report/mod.rs", code.as_str()));
    let innocents = [
        ("report/mod.rs", "fn print() { self.print(1) || print != writeln!(out) }"),
        ("report/mod.rs", "/// println!(1)\nconst A: &str = r#\"println!(\"x\")\"#; const B: u8 = b'\"'; // dbg!(1)"),
        ("report/mod.rs", "#[cfg(test)] mod tests { fn f() { todo!() } }"),
    ];
    assert_rule(no_forbidden_macro, &offenders, &innocents);
}

#[test]
fn an_exit_from_within_is_found() {
    let offenders = [
        ("filter/mod.rs", "fn f() { std::process::exit(1) }"),
        ("main.rs", "use std::process::{self, Command}; fn f() { process::exit(1) }"),
        ("main.rs", "use std::{fs, process::{exit, Command}};"),
    ];
    assert_rule(no_exit, &offenders, &[("main.rs", "use std::process::ExitCode; fn exit() { exit() }")]);
}

#[test]
fn unsafe_code_is_found() {
    let offenders = [
        ("filter/writer.rs", "fn f() { unsafe { g() } }"),
        ("filter/writer.rs", "#![allow(unsafe_code)]"),
        ("api/mod.rs", "fn f<'a>(x: &'a str) -> char { '\\'' } unsafe fn g() {}"),
    ];
    let innocents = [
        ("stdout_probe.rs", "fn f() { unsafe { g() } }"),
        ("api/mod.rs", "/*/ unsafe /* né\u{301}sted */ unsafe */ // unsafe"),
    ];
    assert_rule(no_unsafe, &offenders, &innocents);
}

#[test]
fn a_pure_room_that_looks_outside_is_found() {
    let offenders = [
        ("flow/breaker.rs", "fn f() { let now = Instant::now(); }"),
        ("line/request.rs", "fn f() { std::time::SystemTime::now() }"),
        ("api/headers.rs", "use std::{env, time::Duration};"),
        ("api/sse.rs", "use std::fs::File;"),
        ("engine/policy.rs", "fn f() { tokio::time::Instant::now() }"),
    ];
    let innocents = [
        ("api/client.rs", "fn f() { SystemTime::now() }"),
        ("engine/core.rs", "fn f() { Instant::now() }"),
        ("api/headers.rs", "fn f(now: SystemTime) { env!(\"X\"); now.elapsed() }"),
        ("flow/breaker.rs", "fn f() {}\n#[cfg(test)]\nmod tests { fn f() { Instant::now() } }"),
    ];
    assert_rule(pure_rooms_stay_pure, &offenders, &innocents);
}

#[test]
fn a_clock_of_std_in_the_engine_is_found() {
    let offenders = [
        ("engine/core.rs", "use std::time::{Duration, Instant};"),
        ("engine/core/asking.rs", "fn f() { std::time::Instant::now() }"),
    ];
    let innocents = [
        ("engine/core.rs", "use std::time::Duration; use tokio::time::Instant;"),
        ("report/mod.rs", "use std::time::Instant;"),
    ];
    assert_rule(engine_uses_the_runtimes_clock, &offenders, &innocents);
}

#[test]
fn a_further_writer_of_stdout_is_found() {
    let offenders = [
        ("filter/mod.rs", "fn f() { std::io::stdout().lock() }"),
        ("report/mod.rs", "use std::io::{self, stdout, Write as _};"),
        ("engine/mod.rs", "fn f(out: io::Stdout) {}"),
        ("api/token.rs", "fn f() { rustix::stdio::stdout() }"),
        ("stdout_probe.rs", "fn f() { libc::write(libc::STDOUT_FILENO, p, 1) }"),
    ];
    let innocents = [
        ("filter/writer.rs", "fn f() { io::stdout().lock() }"),
        ("command/mod.rs", "fn f() { io::stdout().lock() }"),
        ("lib.rs", "fn f() { io::stdout().lock() }"),
        ("filter/mod.rs", "fn f() { Writer::to_stdout(io::stderr(), stdout_stop) }"),
    ];
    assert_rule(stdout_has_few_writers, &offenders, &innocents);
}

#[test]
fn an_ignored_test_is_found() {
    let offenders = [
        ("flow/limit.rs", "#[cfg(test)]\nmod tests {\n#[test]\n#[ignore]\nfn f() {}\n}"),
        ("flow/limit.rs", "#[ignore = \"slow\"] fn f() {}"),
    ];
    assert_rule(no_ignored_test, &offenders, &[("flow/limit.rs", "// #[ignore]\nfn ignore() {}")]);
}

#[test]
fn a_file_without_its_job_is_found() {
    let offenders = [("flow/limit.rs", "use std::fs;\n//! Late."), ("flow/limit.rs", "/// Not a head.\nfn f() {}")];
    assert_rule(opens_with_its_job, &offenders, &[("flow/limit.rs", "//! Holds a number.\n\nfn f() {}")]);
}

#[test]
fn a_file_that_only_tests_use_is_left_out() {
    let parent = Source::new("api/mod.rs", "#[cfg(test)]\npub mod scripted;\npub mod signal;");
    assert_eq!(parent.test_modules, ["api/scripted"]);
    assert_eq!(Source::new("engine.rs", "#[cfg(test)] mod tests;").test_modules, ["engine/tests"]);
    let sources = sources();
    assert!(sources.iter().any(|source| source.name == "api/signal.rs"));
    assert!(sources.iter().all(|source| source.name != "api/scripted.rs"));
}

// ------------------------------------------------------------------------------------------------------- the sources

/// One file, as the rules see it.
struct Source {
    /// Path below `src/`, with slashes.
    name: String,
    raw: String,
    /// Without comments and strings.
    all_tokens: Vec<Token>,
    /// Without what stands under `#[cfg(test)]` as well.
    tokens: Vec<Token>,
    paths: Vec<NamePath>,
    /// Modules that only tests have, as paths below `src/` without their ending.
    test_modules: Vec<String>,
}

impl Source {
    fn new(name: &str, raw: &str) -> Self {
        let all_tokens = tokens(&blanked(raw));
        let (tokens, test_modules) = without_tests(&all_tokens);
        let below = module_path(name).join("/");
        let test_modules = test_modules.iter().map(|module| format!("{below}/{module}")).collect();
        Self { name: name.to_owned(), raw: raw.to_owned(), paths: paths(&tokens), all_tokens, tokens, test_modules }
    }

    /// The top-level module that the file belongs to.
    fn room(&self) -> &str {
        self.name.split('/').next().unwrap().trim_end_matches(".rs")
    }

    /// The room that `path` leads into, when it starts from this crate's root or climbs up to it.
    fn room_that<'p>(&self, path: &'p NamePath) -> Option<&'p str> {
        let depth = module_path(&self.name).len();
        let names = path.names.iter().skip_while(|name| *name == "self").map(String::as_str);
        let climbed = names.clone().take_while(|name| *name == "super").count();
        let mut names = names.skip(climbed);
        if climbed == 0 {
            names.next().filter(|first| *first == "crate")?;
        } else if climbed < depth {
            return None;
        }
        names.next()
    }

    /// Where a path contains one of these runs of names.
    fn that_name(&self, runs: &[&[&str]]) -> Vec<String> {
        let contains = |path: &&NamePath| {
            runs.iter().any(|run| path.names.windows(run.len()).any(|names| names.iter().eq(run.iter())))
        };
        self.paths.iter().filter(contains).map(NamePath::told).collect()
    }
}

/// `engine/core/asking.rs` is `engine`, `core`, `asking`; `api/mod.rs` is `api`; `lib.rs` is the root.
fn module_path(name: &str) -> Vec<&str> {
    let names = name.trim_end_matches(".rs").split('/');
    names.filter(|name| !matches!(*name, "mod" | "lib" | "main")).collect()
}

/// Every file under `src/` but those that only tests use.
fn sources() -> Vec<Source> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect_files(&root, &mut files);
    files.sort();
    let name = |file: &Path| file.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
    let sources: Vec<Source> =
        files.iter().map(|file| Source::new(&name(file), &std::fs::read_to_string(file).unwrap())).collect();
    let test_modules: BTreeSet<String> = sources.iter().flat_map(|source| source.test_modules.clone()).collect();
    let is_for_tests = |source: &Source| test_modules.contains(&module_path(&source.name).join("/"));
    sources.into_iter().filter(|source| !is_for_tests(source)).collect()
}

fn collect_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect_files(&path, files),
            false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
            false => {}
        }
    }
}

// -------------------------------------------------------------------------------------------------- reading the code

/// A word, `::`, or a single character of code.
#[derive(Clone, Debug)]
struct Token {
    text: String,
    line: usize,
}

impl Token {
    fn is_name(&self) -> bool {
        self.text.starts_with(|first: char| first.is_alphabetic() || first == '_')
    }

    fn told(&self) -> String {
        format!("{}: `{}`", self.line, self.text)
    }
}

/// Names joined by `::`, groups of a `use` written out.
#[derive(Clone, Debug)]
struct NamePath {
    names: Vec<String>,
    line: usize,
}

impl NamePath {
    fn told(&self) -> String {
        format!("{}: `{}`", self.line, self.names.join("::"))
    }
}

/// The code with comments, strings and character literals as blanks; line ends stay.
fn blanked(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    let mut after_name = false;
    while let Some(first) = rest.chars().next() {
        let length = if after_name { 0 } else { raw_string_length(rest) };
        let length = if length > 0 { length } else { literal_length(rest) };
        if length > 0 {
            out.extend(rest[..length].chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
            (rest, after_name) = (&rest[length..], false);
        } else {
            out.push(first);
            (rest, after_name) = (&rest[first.len_utf8()..], first.is_alphanumeric() || first == '_');
        }
    }
    out
}

/// Bytes of the comment, string or character literal that `rest` starts with; 0 when it starts with code.
fn literal_length(rest: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_length(rest);
    }
    match rest.as_bytes()[0] {
        b'"' => quoted_length(rest, '"'),
        // A lifetime has no closing quote right after its first character.
        b'\'' if rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\'') => quoted_length(rest, '\''),
        _ => 0,
    }
}

fn block_comment_length(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(first) = rest[at..].chars().next() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += first.len_utf8();
        }
    }
    rest.len()
}

fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_string_length(rest: &str) -> usize {
    let prefix = ["r", "br", "cr"]
        .into_iter()
        .find(|prefix| rest.strip_prefix(prefix).is_some_and(|after| after.trim_start_matches('#').starts_with('"')));
    let Some(prefix) = prefix else { return 0 };
    let hashes: String = rest[prefix.len()..].chars().take_while(|character| *character == '#').collect();
    let start = prefix.len() + hashes.len() + 1;
    let closing = format!("\"{hashes}");
    rest[start..].find(&closing).map_or(rest.len(), |end| start + end + closing.len())
}

fn tokens(code: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let is_word = |character: char| character.is_alphanumeric() || character == '_';
            let length = match () {
                () if is_word(first) => rest.find(|character| !is_word(character)).unwrap_or(rest.len()),
                () if rest.starts_with("::") => 2,
                () => first.len_utf8(),
            };
            tokens.push(Token { text: rest[..length].to_owned(), line: line + 1 });
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// The tokens without the items under `#[cfg(test)]`, and the names of modules among those that lie in other files.
fn without_tests(tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut modules, mut at) = (Vec::new(), Vec::new(), 0);
    while at < tokens.len() {
        let rest = &tokens[at..];
        if !rest.iter().map(|token| &*token.text).take(MARK.len()).eq(MARK) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let item = &rest[..item_length(rest)];
        if let [.., word, name, end] = item
            && word.text == "mod"
            && end.text == ";"
        {
            modules.push(name.text.clone());
        }
        at += item.len();
    }
    (kept, modules)
}

/// Tokens of the item that starts here, its attributes included: up to its `;` or its closing brace.
fn item_length(tokens: &[Token]) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate() {
        match &*token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 && token.text == "}" {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Every path in the code.
fn paths(tokens: &[Token]) -> Vec<NamePath> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].is_name() {
            at += read_path(&tokens[at..], &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads the path that starts here behind `prefix`; returns how many tokens it took.
fn read_path(tokens: &[Token], prefix: &[String], found: &mut Vec<NamePath>) -> usize {
    let mut names = prefix.to_vec();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if token.text == "{" {
            return at + read_group(&tokens[at..], &names, found);
        }
        if !token.is_name() && token.text != "*" {
            break;
        }
        // `self` in a group stands for the path before the group.
        if token.text != "self" || names.is_empty() {
            names.push(token.text.clone());
        }
        at += 1;
        if tokens.get(at).is_none_or(|next| next.text != "::") {
            break;
        }
        at += 1;
    }
    found.push(NamePath { names, line: tokens[0].line });
    at.max(1)
}

/// Reads `{a, b::c, d as e}` behind `prefix`; returns how many tokens it took.
fn read_group(tokens: &[Token], prefix: &[String], found: &mut Vec<NamePath>) -> usize {
    let mut at = 1;
    while let Some(token) = tokens.get(at) {
        at += match &*token.text {
            "}" => return at + 1,
            "as" => 2,
            "," => 1,
            _ => read_path(&tokens[at..], prefix, found),
        };
    }
    at
}
