//! Errors of every durable call of a daemon: never a wrong result, no sync of a file is tried again, and the daemon
//! recovers by itself, or ends and says why; the next one comes to the right end.

use std::collections::BTreeMap;
use std::fmt;

use super::story::{Site, Story};
use crate::common::Output;
use crate::plan::{Dice, is_all, say, try_each};
use crate::strace::{self, Call, Options};
use crate::trace::is_write;

const ERRNOS: [&str; 6] = ["EIO", "ENOSPC", "EDQUOT", "EINTR", "EROFS", "ESTALE"];

/// Calls that are written down beside the one that fails.
const CALLS: &str = "openat,close,write,pwrite64,fdatasync,fsync,ftruncate,link,linkat,rename,renameat,renameat2,unlink,\
     unlinkat,mkdir,mkdirat,rmdir,fchmod,chmod,utimensat,flock,statx";

/// What fails, and with what. Whoever tries again may do so on another thread, where it fails once more.
struct Fault {
    site: Site,
    errno: &'static str,
    /// Whether all such calls fail that follow on this thread, too.
    lasts: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.lasts { " and on" } else { "" };
        write!(out, "{}{more} at {}", self.errno, self.site)
    }
}

impl Story {
    /// Whether a call failed there: where its thread makes no such call that often, the daemon comes to its end.
    fn fail_at(&self, fault: &Fault, told: &mut BTreeMap<String, usize>) -> bool {
        let (errno, site) = (fault.errno, &fault.site);
        self.begin();
        let (before, trace) = (self.spool.sends(), self.spool.aside("trace"));
        let paths: Vec<_> = site.path.iter().cloned().collect();
        let more = if fault.lasts { "+" } else { "" };
        let mut options = Options::inject(&site.call, &format!("error={errno}:when={}{more}", site.time), &paths);
        options.calls = CALLS.to_owned();
        let when = format!("{}: {fault}", self.name);
        let (output, is_own) = self.tell_of_trouble(&options, &trace, &when);
        let calls = strace::read(&trace);
        self.spool.check_never_wrong(&self.old, &when);
        check_no_second_try(&calls, errno, &when);
        if is_own {
            check_told(&output, &when);
        }
        self.check_next(before, &when);
        let is_failed = calls.iter().any(Call::is_injected);
        let end = if is_own { format!("status {}", output.status) } else { "recovered later".to_owned() };
        *told.entry(end).or_default() += usize::from(is_failed);
        is_failed
    }
}

/// It has come to a good end, or says what has failed.
fn check_told(output: &Output, when: &str) {
    let is_told = ["(os error ", "Os {", "lost", "is not there"].iter().any(|part| output.stderr.contains(part));
    assert!(output.status == 0 || [74, 75].contains(&output.status) && is_told, "{when}: {output}");
}

/// After a sync of a file has failed it is neither synced nor written again by whoever had it open then. What is done in
/// a folder after a failed sync changes it anew.
fn check_no_second_try(calls: &[Call], errno: &str, when: &str) {
    let is_sync = |call: &&Call| matches!(&*call.name, "fsync" | "fdatasync");
    let is_folder = |path: &str| ["spool", ".anvil", "jobs"].iter().any(|name| path.ends_with(&format!("/{name}")));
    let is_file = |call: &&Call| call.path().is_some_and(|path| !is_folder(path));
    let failed = calls.iter().filter(is_sync).filter(is_file).find(|call| call.is_injected());
    let Some(failed) = failed.filter(|_| errno != "EINTR") else { return };
    let is_opened = |call: &&Call| call.begin > failed.end && call.opened() == failed.path();
    let until = calls.iter().find(is_opened).map_or(usize::MAX, |call| call.begin);
    let again = |call: &&Call| call.begin > failed.end && call.begin < until && call.path() == failed.path();
    let again = calls.iter().filter(again).find(|call| is_sync(call) || is_write(call));
    assert!(again.is_none(), "{when}: tried again: {again:?}");
}

fn errors_at_each_call(story: fn() -> Story, sample: usize) {
    if !strace::is_here() {
        return;
    }
    let (story, mut dice) = (story(), Dice::new());
    let mut faults = Vec::new();
    for site in story.sites() {
        for errno in ERRNOS {
            // Each call's first failure may be its last one, or not; but nobody is interrupted for ever.
            let lasts = dice.one_in(4) && errno != "EINTR";
            faults.push(Fault { site: site.clone(), errno, lasts });
        }
    }
    let (all, mut told) = (faults.len(), BTreeMap::new());
    let failed = try_each(&dice.pick(faults, sample), |fault| story.fail_at(fault, &mut told));
    if is_all() {
        say(format_args!("daemon, {}: {failed} of {all} errors: {told:?}", story.name));
    }
    assert!(2 * failed >= all.min(sample), "only {failed} of {all} calls failed");
}

#[test]
fn each_call_of_a_daemon_of_new_files_fails() {
    errors_at_each_call(Story::all()[0], 8);
}

#[test]
fn each_call_of_a_daemon_after_a_crash_fails() {
    errors_at_each_call(Story::all()[1], 5);
}

#[test]
fn each_call_of_a_daemon_that_replaces_results_fails() {
    errors_at_each_call(Story::all()[2], 5);
}
