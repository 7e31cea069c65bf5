//! Files that cannot be taken, and the way out that each is told.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use serde_json::Value;

use crate::common::{KEY, Run};
use crate::needs;
use crate::spool::{Daemon, Spool, lines};

/// A user who owns nothing here.
const NOBODY: u32 = 65534;

/// The reject file of an input, which must tell this code, a reason and a way out.
#[track_caller]
fn rejected(spool: &Spool, input: &str, code: &str) -> Value {
    let reject = spool.wait_companion(input, "reject");
    assert_eq!((&reject["code"], &reject["path"]), (&code.into(), &input.into()), "{reject}");
    for field in ["message", "way_out", "at"] {
        assert!(reject[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {reject}");
    }
    reject
}

#[test]
fn a_file_that_is_too_large_is_refused_until_it_is_smaller() {
    let spool = Spool::new();
    let _daemon = spool.start_with(&["--max-file-bytes", "1000"]);
    spool.put("p.jsonl", lines("p", 60));
    let reject = rejected(&spool, "p.jsonl", "too_large");
    assert!(reject["way_out"].as_str().unwrap().contains("--max-file-bytes"), "{reject}");
    spool.wait_status("one rejected", |status| (status["files"]["rejected"] == 1).then_some(()));
    assert!(!spool.has("p.out.jsonl") && spool.sim.count("requests") == 0);
    spool.put("p.jsonl", lines("p", 10));
    spool.wait_for_answers("p.out.jsonl", "p", 10);
    spool.wait("the reject file's end", || (!spool.has("p.jsonl.reject.json")).then_some(()));
    spool.wait_status("none rejected", |status| (status["files"]["rejected"] == 0).then_some(()));
}

#[test]
fn what_is_no_regular_file_is_refused_and_holds_nobody_up() {
    let spool = Spool::new();
    let _daemon = spool.start();
    std::fs::write(spool.aside("secret"), lines("secret", 1)).unwrap();
    symlink(spool.aside("secret"), spool.path("link.jsonl")).unwrap();
    symlink("/nowhere", spool.path("dangling.jsonl")).unwrap();
    std::fs::create_dir(spool.path("folder.jsonl")).unwrap();
    assert!(Command::new("mkfifo").arg(spool.path("pipe.jsonl")).status().unwrap().success());
    std::os::unix::net::UnixListener::bind(spool.path("socket.jsonl")).unwrap();
    spool.pass("p");
    for name in ["link.jsonl", "dangling.jsonl", "folder.jsonl", "pipe.jsonl", "socket.jsonl"] {
        rejected(&spool, name, "not_regular");
    }
    spool.pass("q");
    assert_eq!(spool.sim.count("requests"), 2, "{:?}", spool.prompts());
}

/// A daemon that is nobody in particular: whose file is unreadable for it, is told how to let it read.
pub fn a_file_that_cannot_be_read_is_told_how_to_let_the_daemon_read_it() {
    let spool = Spool::new();
    let _daemon = if rustix::process::geteuid().is_root() {
        std::fs::set_permissions(spool.aside(""), PermissionsExt::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(spool.root(), Some(NOBODY), Some(NOBODY)).unwrap();
        Daemon::watching(
            spool
                .daemon()
                .env("HOME", "/nowhere")
                .env("XDG_CONFIG_HOME", "/nowhere")
                .shell(r#"exec setpriv --reuid 65534 --regid 65534 --clear-groups "$0" "$@""#),
        )
    } else {
        spool.start()
    };
    for name in ["p.jsonl", "q.jsonl"] {
        std::fs::write(spool.path(".temp"), lines(name, 3)).unwrap();
        std::fs::set_permissions(spool.path(".temp"), PermissionsExt::from_mode(0o000)).unwrap();
        std::fs::rename(spool.path(".temp"), spool.path(name)).unwrap();
    }
    let reject = rejected(&spool, "p.jsonl", "unreadable");
    assert!(reject["way_out"].as_str().unwrap().contains("chmod a+r"), "{reject}");
    rejected(&spool, "q.jsonl", "unreadable");
    // The way out, as it was told, is enough.
    std::fs::set_permissions(spool.path("p.jsonl"), PermissionsExt::from_mode(0o444)).unwrap();
    spool.wait_for_answers("p.out.jsonl", "p.jsonl", 3);
    spool.wait("the reject file's end", || (!spool.has("p.jsonl.reject.json")).then_some(()));
    assert_eq!(spool.sim.count("requests"), 3);
}

#[test]
fn a_file_of_somebody_else_is_refused() {
    if !needs::has_root() {
        return;
    }
    let spool = Spool::new();
    let _daemon = spool.start();
    std::fs::write(spool.path(".temp"), lines("p", 3)).unwrap();
    std::os::unix::fs::chown(spool.path(".temp"), Some(NOBODY), None).unwrap();
    std::fs::rename(spool.path(".temp"), spool.path("p.jsonl")).unwrap();
    let reject = rejected(&spool, "p.jsonl", "wrong_owner");
    assert!(reject["message"].as_str().unwrap().contains("65534"), "{reject}");
    assert!(!spool.has("p.out.jsonl") && spool.sim.count("requests") == 0);
    std::fs::copy(spool.path("p.jsonl"), spool.path("copy.tmp")).unwrap();
    std::fs::rename(spool.path("copy.tmp"), spool.path("p.jsonl")).unwrap();
    spool.wait_for_answers("p.out.jsonl", "p", 3);
}

#[test]
fn a_file_without_a_model_is_refused_as_a_whole() {
    let spool = Spool::new();
    let base = spool.sim.base();
    let run = Run::bare().env("ANVILGPT_API_KEY", KEY).args(["daemon", "--base-url", &base, "--spool"]);
    let _daemon = Daemon::watching(run.args([spool.root()]));
    spool.put("p.jsonl", lines("p", 3));
    spool.put("big.jsonl", lines("big", 100));
    let reject = rejected(&spool, "p.jsonl", "no_model");
    assert!(reject["way_out"].as_str().unwrap().contains("anvil.toml"), "{reject}");
    rejected(&spool, "big.jsonl", "no_model");
    assert_eq!(spool.sim.count("requests"), 0);
    assert_eq!(spool.names(), ["big.jsonl", "big.jsonl.reject.json", "p.jsonl", "p.jsonl.reject.json"]);
    // The way out.
    spool.put("anvil.toml", "model = \"llama3.1:latest\"\n");
    spool.put("p.jsonl", lines("p", 3));
    spool.put("big.jsonl", lines("big", 100));
    spool.wait_for_answers("p.out.jsonl", "p", 3);
    spool.wait_for_answers("big.out.jsonl", "big", 100);
}

#[test]
fn a_recipe_that_is_wrong_refuses_the_files_beside_it() {
    let spool = Spool::new();
    let _daemon = spool.start();
    spool.put("anvil.toml", "modell = \"a secret word\"\n");
    spool.put("p.jsonl", lines("p", 3));
    let reject = rejected(&spool, "p.jsonl", "recipe");
    assert!(reject["message"].as_str().unwrap().contains("anvil.toml"), "{reject}");
    assert!(!reject.to_string().contains("secret word"), "{reject}");
    spool.put("anvil.toml", "model = \"llama3.2:latest\"\n");
    spool.put("p.jsonl", lines("p", 3));
    spool.wait_for_answers("p.out.jsonl", "p", 3);
}

/// Hard links to what others own would be the way to another's prompts; one's own are fine where the kernel sees to it.
#[test]
fn a_file_with_two_names_is_taken_where_nobody_can_link_the_files_of_others() {
    let spool = Spool::new();
    let _daemon = spool.start();
    std::fs::write(spool.aside("elsewhere"), lines("p", 3)).unwrap();
    std::fs::hard_link(spool.aside("elsewhere"), spool.path("p.jsonl")).unwrap();
    let protected = std::fs::read_to_string("/proc/sys/fs/protected_hardlinks").is_ok_and(|text| text.trim() == "1");
    match protected {
        true => spool.wait_for_answers("p.out.jsonl", "p", 3),
        false => drop(rejected(&spool, "p.jsonl", "hard_linked")),
    }
}
