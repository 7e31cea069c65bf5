//! What commands give, and what happens to those that give nothing.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use super::super::TokenSource;
use super::*;

const KEY: &str = "sk-0123456789abcdef";

fn command(text: &str) -> TokenCommand {
    TokenCommand::new(KeyCommand(text.to_owned()))
}

/// A command that may be started again at once, and takes a second at most.
fn eager(text: &str) -> TokenCommand {
    let bounds = Bounds { run_max: Duration::from_secs(1), pause: Duration::ZERO };
    TokenCommand { bounds, ..command(text) }
}

/// What the command's failure says to people; nothing of its output and of its arguments.
fn refused(source: TokenCommand) -> String {
    let error = source.read().unwrap_err();
    let shown = format!("{error} {error:?} {} {source:?}", error.way_out());
    assert!(!shown.contains("sk-") && !shown.contains("hidden"), "{shown}");
    shown
}

fn read(source: &TokenCommand) -> String {
    source.read().unwrap().expose().to_owned()
}

/// Asks again until the command's own run on its thread shows `wanted`.
fn renew_until(source: &TokenCommand, wanted: impl Fn(&Result<Option<Secret>, TokenError>) -> bool) {
    let began = Instant::now();
    while !wanted(&source.renew()) {
        assert!(began.elapsed() < Duration::from_secs(30), "the command's run was never seen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn is_key(found: &Result<Option<Secret>, TokenError>, key: &str) -> bool {
    matches!(found, Ok(Some(secret)) if secret.expose() == key)
}

/// A file that a command prints.
fn file(folder: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("key");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn what_a_command_prints_is_the_key() {
    assert_eq!(read(&command(&format!("printf '\\n %s \\n' {KEY}"))), KEY);
    assert_eq!(read(&command(&format!("echo {KEY}; echo loud >&2"))), KEY);
    // Nothing is there to be read.
    assert_eq!(read(&command("cat && echo at-end")), "at-end");
}

#[test]
fn a_command_that_fails_tells_its_name_and_status_alone() {
    let shown = refused(command("printf sk-hidden; printf sk-hidden >&2; exit 3"));
    assert!(shown.starts_with("token command printf: it failed (exit status: 3)"), "{shown}");
    let shown = refused(command("/none/at/all/vault read secret/hidden"));
    assert!(shown.starts_with("token command vault: it failed (exit status: 127)"), "{shown}");
    let shown = refused(command("TOKEN=hidden vault read"));
    assert!(shown.starts_with("token command /bin/sh: "), "{shown}");
    assert!(refused(command("kill -9 $$")).contains("signal: 9"));
}

#[test]
fn what_is_no_key_is_refused_and_not_repeated() {
    for (text, cause) in [
        ("printf 'sk-one\\nsk-two\\n'", "white space or control characters inside"),
        ("printf 'sk-\\377'", "characters outside ASCII"),
        ("true", "it is empty"),
        ("head -c 70000 /dev/zero | tr '\\0' x", "more than 64 KiB"),
    ] {
        let shown = refused(command(text));
        assert!(shown.contains(cause) && !shown.contains("xxx"), "{text}: {shown}");
    }
}

#[test]
fn a_command_that_never_ends_is_killed_with_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pids");
    let shown = path.display();
    // The first ends at once and leaves somebody behind who holds the pipe; the second closes the pipe and stays.
    for text in [
        format!("sleep 600 & echo $! $$ > {shown}; echo {KEY}"),
        format!("sleep 600 & echo $! $$ > {shown}; exec >&-; wait"),
    ] {
        let began = Instant::now();
        let shown = refused(TokenCommand {
            bounds: Bounds { run_max: Duration::from_millis(300), pause: PAUSE },
            ..command(&text)
        });
        assert!(shown.contains("did not end within 300ms"), "{shown}");
        assert!(began.elapsed() < Duration::from_secs(20));
        let ids = fs::read_to_string(&path).unwrap();
        for id in ids.split_whitespace() {
            wait_for_end(id);
        }
    }
}

/// Somebody else's child is gone, or waits for its new parent to take its status.
fn wait_for_end(id: &str) {
    let began = Instant::now();
    let is_alive = || fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while is_alive() {
        assert!(began.elapsed() < Duration::from_secs(20), "process {id} is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_key_of_the_environment_is_not_handed_on() {
    // Cargo's own tests run in one process, whose environment no test may change: a run of this very test in another
    // process has the variable.
    if std::env::var_os("ANVILGPT_API_KEY").is_some() {
        return assert_eq!(read(&command("echo ${ANVILGPT_API_KEY-none}")), "none");
    }
    let test = concat!(module_path!(), "::the_key_of_the_environment_is_not_handed_on");
    let test = test.split_once("::").unwrap().1;
    let mut run = Command::new(std::env::current_exe().unwrap());
    let output = run.args(["--exact", test]).env("ANVILGPT_API_KEY", KEY).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

#[test]
fn reading_again_gives_what_is_known_and_renewing_runs_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "first");
    let source = eager(&format!("cat {}", path.display()));
    assert_eq!(read(&source), "first");
    fs::write(&path, "second").unwrap();
    assert_eq!(read(&source), "first");
    renew_until(&source, |found| is_key(found, "second"));
    assert_eq!(read(&source), "second");
}

#[test]
fn renewing_waits_for_nobody_and_has_one_run_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "");
    let path = path.display();
    // Each run leaves a mark when it begins, and prints the new key only once the gate is open.
    let gate = folder.path().join("gate");
    let text = format!("echo run >> {path}; until [ -e {} ]; do sleep 0.01; done; echo new", gate.display());
    let source = TokenCommand { bounds: Bounds { run_max: RUN_MAX, pause: Duration::ZERO }, ..command(&text) };
    source.last().secret = Some(Secret::new("old").unwrap());
    for _ in 0..50 {
        assert!(is_key(&source.renew(), "old"));
    }
    renew_until(&source, |_| fs::read_to_string(folder.path().join("key")).unwrap() == "run\n");
    assert!(is_key(&source.renew(), "old"));
    fs::write(gate, "").unwrap();
    renew_until(&source, |found| is_key(found, "new"));
}

#[test]
fn a_command_is_not_started_again_within_its_pause() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "first");
    let source = command(&format!("cat {}", path.display()));
    assert_eq!(read(&source), "first");
    fs::write(&path, "second").unwrap();
    assert!(is_key(&source.renew(), "first") && !source.last().is_running);
    source.last().started_at = Instant::now().checked_sub(PAUSE);
    assert!(is_key(&source.renew(), "first") && source.last().started_at.unwrap().elapsed() < PAUSE);
    renew_until(&source, |found| is_key(found, "second"));
}

#[test]
fn a_renewal_that_fails_is_told_once_and_the_old_key_stays() {
    let source = eager("exit 1");
    source.last().secret = Some(Secret::new("old").unwrap());
    renew_until(&source, |found| matches!(found, Err(TokenError::Command { .. })));
    assert_eq!(read(&source), "old");
}

#[test]
fn a_source_that_is_a_command_can_change() {
    let source = TokenSource::Command(eager(&format!("echo {KEY}")));
    assert!(source.can_change());
    assert_eq!(source.read().unwrap().unwrap().expose(), KEY);
    assert_eq!(source.renew().unwrap().unwrap().expose(), KEY);
    assert!(!format!("{source:?}").contains(KEY));
}

#[test]
fn commands_with_a_key_in_them_are_refused() {
    for text in ["echo sk-hidden", "KEY='sk-hidden' printenv KEY", "(echo sk-hidden)", "", " \n", "a\0b"] {
        let cause = KeyCommand::new(text).unwrap_err();
        assert!(!cause.contains("hidden"), "{cause}");
    }
    let command = KeyCommand::new("/usr/bin/vault read -field=hidden secret/anvil").unwrap();
    assert_eq!(format!("{command} {command:?}"), "vault vault…");
    for text in ["$(hidden)", "\u{1b}[2J", "'hid den'"] {
        assert_eq!(KeyCommand::new(text).unwrap().to_string(), "/bin/sh");
    }
}
