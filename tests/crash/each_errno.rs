//! Errors of every durable system call: never a wrong or an empty F, the status tells, no sync is tried again, and the
//! next run comes to the right end.

use crate::each_syscall::Story;
use crate::plan::{Dice, is_all, say};
use crate::scene::Scene;
use crate::strace::{self, Call, Options};
use crate::task::{Goal, Plan};

/// Calls and what they fail with; `true` for those that count only when they are about the job's files.
const ERRORS: &[(&str, bool, &[&str])] = &[
    ("write", true, &["ENOSPC", "EDQUOT", "EIO"]),
    ("fdatasync", false, &["EIO", "ENOSPC", "EDQUOT"]),
    ("fsync", false, &["EIO", "ENOSPC", "EDQUOT"]),
    ("close", true, &["EIO", "EDQUOT"]),
    ("openat", true, &["ENOSPC", "EDQUOT", "EIO", "EMFILE"]),
    ("ftruncate", false, &["EIO", "ENOSPC"]),
    ("read", true, &["EIO", "ESTALE"]),
    ("pread64", true, &["EIO", "ESTALE"]),
    ("lseek", true, &["EIO", "ESTALE"]),
    ("fstat", true, &["EIO", "ESTALE"]),
    ("statx", true, &["EIO", "ESTALE"]),
    ("newfstatat", true, &["EIO", "ESTALE"]),
    ("link", false, &["EIO", "ENOSPC", "EDQUOT"]),
    ("linkat", false, &["EIO", "ENOSPC", "EDQUOT"]),
    ("rename", false, &["EIO", "ENOSPC"]),
    ("renameat", false, &["EIO", "ENOSPC"]),
    ("renameat2", false, &["EIO", "ENOSPC"]),
    ("unlink", false, &["EIO"]),
    ("unlinkat", false, &["EIO"]),
    ("fchmod", false, &["EIO", "EPERM"]),
    ("utimensat", false, &["EIO", "ESTALE"]),
    ("flock", false, &["ENOSYS", "ENOLCK"]),
    ("getdents64", true, &["EIO"]),
];
const CALLS: &str = "openat,close,write,read,pread64,lseek,fstat,statx,newfstatat,fdatasync,fsync,ftruncate,fchmod,\
     ?link,linkat,?rename,renameat,renameat2,?unlink,unlinkat,utimensat,flock,getdents64";
/// No run makes a call more often.
const TIMES_MAX: usize = 200;

impl Story {
    /// A run in which one call fails: its status and that call; nothing, when it is not made so often.
    fn fail_at(&self, name: &str, bound: bool, errno: &str, time: usize) -> Option<(i32, Call)> {
        self.begin();
        let before = self.scene.sends();
        let mut paths = if bound { self.paths() } else { Vec::new() };
        // The input is the job's, too, as far as it is read.
        paths.extend(Some(self.scene.input_path()).filter(|_| bound));
        let trace = self.scene.aside("trace");
        let mut options = Options::inject(name, &format!("error={errno}:when={time}"), &paths);
        options.calls = CALLS.to_owned();
        let output = self.scene.start_as(|run| options.wrap(run, &trace)).finish();
        let calls = strace::read(&trace);
        let failed = calls.iter().find(|call| call.is_injected())?.clone();
        let when = format!("{}: {name} {time} {errno}, {:.200}", self.name, failed.args);
        self.check_never_wrong(&when);
        check_no_second_try(&calls, &when);
        if [0, 1].contains(&output.status) {
            assert!(is_tolerated(&failed, &calls), "{when}: {output}");
            if self.scene.plan.goal == Goal::File {
                assert_eq!(self.scene.found().as_ref(), Some(&*self.scene.wanted), "{when}: {output}");
            }
        } else {
            // When the file server has forgotten the lock, somebody has removed it, and may work here.
            let lost = failed.name == "utimensat" && errno == "ESTALE" && output.status == 75;
            assert!(lost || output.status == 74, "{when}: {output}");
            // The standard library panics when a folder's close fails; a folder that cannot be looked at is called missing.
            let told = ["(os error ", "closedir: Os {", "is not there"];
            let is_told = told.iter().any(|part| output.stderr.contains(part));
            assert!(lost || is_told, "{when}: the cause is not told: {output}");
        }
        self.check_next(before, &when);
        Some((output.status, failed))
    }
}

/// Whether a run may come to its end in spite of this: nothing of what it says is then in doubt.
fn is_tolerated(failed: &Call, calls: &[Call]) -> bool {
    let written = |call: &Call| call.name == "write" && call.end < failed.begin && call.path() == failed.path();
    let about = |part: &str| failed.args.contains(part);
    let closes =
        |call: &Call| call.name == "write" && call.end < failed.begin && call.args.contains("{\\\"closed\\\":");
    if about(".lock") && calls.iter().any(closes) {
        // All is done; a lock that cannot be given back is stale as soon as its process has ended.
        return true;
    }
    match &*failed.name {
        // File systems without flock are no error; then the time decides whose lock it is.
        "flock" => true,
        // The close of a draft or a probe tells what was lost of it. The rest was synced, or only read, or has no name.
        "close" if about("anvil-draft>") || about("anvil-probe>") => about("(deleted)") || !calls.iter().any(written),
        "close" => true,
        // What is left over is removed by the next run.
        "unlink" | "unlinkat" => about(".lock.") && about(".tmp"),
        "openat" => about("O_DIRECTORY"),
        "getdents64" => true,
        // Looks before anything is opened, which find out again what they come to.
        "statx" | "newfstatat" => ["anvil-draft", "/out>", "in.jsonl", "/out/F\"", "/out/F.journal\"", "/out/F>"]
            .iter()
            .any(|part| about(part)),
        _ => false,
    }
}

/// After a sync of a file has failed it is neither synced nor written again.
fn check_no_second_try(calls: &[Call], when: &str) {
    let is_sync = |call: &&Call| matches!(&*call.name, "fsync" | "fdatasync");
    let Some(failed) = calls.iter().filter(is_sync).find(|call| call.is_injected()) else { return };
    let again = |call: &&Call| call.begin > failed.end && call.path() == failed.path() && failed.path().is_some();
    let again = calls.iter().filter(again).find(|call| is_sync(call) || call.name == "write");
    assert!(again.is_none(), "{when}: tried again: {again:?}");
}

fn errors_at_each_call(story: fn() -> Story, sample: usize) {
    if !strace::is_here() {
        return;
    }
    let (story, mut dice) = (story(), Dice::new());
    let cases = ERRORS.iter().flat_map(|(name, bound, errnos)| errnos.iter().map(move |errno| (*name, *bound, *errno)));
    let mut told = Vec::new();
    for (name, bound, errno) in dice.pick(cases.collect(), sample) {
        let times = if is_all() { (1..TIMES_MAX).collect() } else { vec![1, dice.below(8) + 2] };
        let failed = times.iter().map_while(|time| Some((time, story.fail_at(name, bound, errno, *time)?)));
        told.extend(
            failed.map(|(time, (status, failed))| format!("{name} {time} {errno} → {status}: {:.150}", failed.args)),
        );
    }
    if is_all() {
        say(format_args!("{}: {} errors", story.name, told.len()));
        std::fs::write(format!("{}/errors-{}", env!("CARGO_TARGET_TMPDIR"), story.name), told.join("\n")).unwrap();
    }
}

#[test]
fn each_call_of_a_first_run_fails() {
    errors_at_each_call(Story::all()[0], 12);
}

#[test]
fn each_call_of_a_run_of_a_pipe_fails() {
    errors_at_each_call(Story::all()[1], 4);
}

#[test]
fn each_call_of_a_run_to_stdout_fails() {
    errors_at_each_call(Story::all()[2], 4);
}

#[test]
fn each_call_of_a_run_after_a_crash_fails() {
    errors_at_each_call(Story::all()[3], 4);
}

#[test]
fn each_call_of_a_run_of_a_longer_input_fails() {
    errors_at_each_call(Story::all()[4], 4);
}

#[test]
fn each_call_of_a_retry_fails() {
    errors_at_each_call(Story::all()[5], 4);
}

/// Runs with links, and renames when that is wanted, refused as file systems do that have no such thing.
fn refused(errno: &str, calls: &[&str]) -> (Scene, crate::common::Output) {
    let scene = Scene::new(Plan::small());
    let inject = calls.iter().map(|call| format!("{call}:error={errno}")).collect();
    let options = Options { calls: CALLS.to_owned(), inject, paths: Vec::new() };
    let trace = scene.aside("trace");
    let output = scene.start_as(|run| options.wrap(run, &trace)).finish();
    (scene, output)
}

#[test]
fn where_links_are_refused_a_rename_does_and_where_both_are_nothing_is_sent() {
    if !strace::is_here() {
        return;
    }
    for errno in ["EPERM", "EOPNOTSUPP", "EMLINK", "ENOSYS"] {
        let (scene, output) = refused(errno, &["linkat"]);
        scene.check_end(&output, errno);
        scene.check_sends(0, errno);
        let (scene, output) = refused(errno, &["linkat", "renameat2"]);
        assert_eq!((output.status, scene.sends()), (78, 0), "{errno}: {output}");
        assert_eq!(scene.names(), Vec::<String>::new(), "{errno}: {output}");
    }
}
