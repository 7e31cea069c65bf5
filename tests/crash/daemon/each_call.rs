//! A kill at every durable call of a daemon: the next one comes to the same end, leaves nothing behind, and asks again
//! for no more than was in flight.

use super::story::{Site, Story};
use crate::plan::{Dice, is_all, say, try_each};
use crate::strace::{self, Options};

impl Story {
    /// Whether the daemon was killed there: where its thread makes no such call that often, it comes to its end.
    fn kill_at(&self, site: &Site) -> bool {
        self.begin();
        let (before, trace) = (self.spool.sends(), self.spool.aside("trace"));
        let paths: Vec<_> = site.path.iter().cloned().collect();
        let options = Options::inject(&site.call, &format!("signal=KILL:when={}", site.time), &paths);
        let when = format!("{}: killed at {site}", self.name);
        let output = self.tell(&options, &trace, &when);
        if output.status != 137 {
            self.spool.check_end(&output, &when);
            return false;
        }
        self.spool.check_never_wrong(&self.old, &when);
        self.check_next(before, &when);
        true
    }
}

fn killed_at_each_call(story: fn() -> Story, sample: usize) {
    if !strace::is_here() {
        return;
    }
    let (story, mut dice) = (story(), Dice::new());
    let sites = story.sites();
    let all = sites.len();
    let killed = try_each(&dice.pick(sites, sample), |site| story.kill_at(site));
    if is_all() {
        say(format_args!("daemon, {}: killed at {killed} of {all} calls", story.name));
    }
    // Groups of records differ from run to run, and with them how often a call is made; but not by much.
    assert!(2 * killed >= all.min(sample), "only {killed} of {all} calls were hit");
}

#[test]
fn a_daemon_of_new_files_is_killed_at_each_call() {
    killed_at_each_call(Story::all()[0], 14);
}

#[test]
fn a_daemon_after_a_crash_is_killed_at_each_call() {
    killed_at_each_call(Story::all()[1], 7);
}

#[test]
fn a_daemon_that_replaces_results_is_killed_at_each_call() {
    killed_at_each_call(Story::all()[2], 7);
}
