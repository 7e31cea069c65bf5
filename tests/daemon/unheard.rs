//! Files of which the kernel tells nothing: found by the scan within its time.

use std::time::{Duration, Instant};

use crate::disks::Mounted;
use crate::needs;
use crate::spool::{Daemon, Spool, lines, quoted};

/// A file that nothing rang for must stay unchanged for so long, and then the next scan finds it.
const BLIND: Duration = Duration::from_secs(10);
/// On a machine that is busy.
const BLIND_MAX: Duration = Duration::from_secs(18);

/// Files that were there before, files behind an overlay's back, and files of a daemon that may watch nothing: at once,
/// for each of them takes its time.
pub fn what_nobody_tells_of_is_found_by_scans() {
    let before = Spool::new();
    before.put("p.jsonl", lines("p", 3));
    before.put("big.jsonl", lines("big", 70));
    let _before = before.start();
    let deaf = Spool::new();
    let deafened = deafened(&deaf);
    let overlaid = overlaid();
    let began = Instant::now();
    let mut spools = vec![&before];
    if let Some(daemon) = &deafened {
        deaf.put("p.jsonl", lines("p", 3));
        std::fs::write(deaf.path("big.jsonl"), lines("big", 70)).unwrap();
        assert!(daemon.stderr().contains("fs.inotify.max_user_watches"), "a warning: {}", daemon.stderr());
        spools.push(&deaf);
    }
    if let Some((spool, ..)) = &overlaid {
        // Written where the daemon does not look, it shows where it does.
        std::fs::write(spool.aside("upper/p.jsonl"), lines("p", 3)).unwrap();
        std::fs::write(spool.aside("upper/big.jsonl"), lines("big", 70)).unwrap();
        assert!(spool.has("p.jsonl"));
        spools.push(spool);
    }
    for spool in spools {
        spool.wait_for_answers("p.out.jsonl", "p", 3);
        spool.wait_for_answers("big.out.jsonl", "big", 70);
        spool.nothing_asked_twice();
    }
    let took = began.elapsed();
    assert!(took < BLIND_MAX, "it took {took:?}");
    if deafened.is_some() || overlaid.is_some() {
        assert!(took > BLIND - Duration::from_secs(1), "after {took:?}, somebody must have told");
    }
}

/// A daemon whose user may watch no folder.
fn deafened(spool: &Spool) -> Option<Daemon> {
    if !needs::has_root() {
        return None;
    }
    let script = r#"exec unshare --user --map-root-user sh -c 'echo 0 > /proc/sys/user/max_inotify_watches && exec "$0" "$@"' "$0" "$@""#;
    let mut daemon = Daemon::start(spool.daemon().shell(script));
    daemon.wait_for_stderr("watch");
    Some(daemon)
}

/// A daemon on an overlay.
fn overlaid() -> Option<(Spool, Mounted, Daemon)> {
    if !needs::has_root() {
        return None;
    }
    let mut spool = Spool::new();
    for folder in ["lower", "upper", "work"] {
        std::fs::create_dir(spool.aside(folder)).unwrap();
    }
    let [lower, upper, work] = ["lower", "upper", "work"].map(|folder| quoted(spool.aside(folder)));
    // A temporary folder may be an overlay itself, which cannot lie below another.
    let mount =
        |folder: &str| format!("mount -t overlay -o lowerdir={lower},upperdir={upper},workdir={work} none {folder}");
    let mounted = Mounted::over(&mut spool, mount);
    let daemon = spool.start();
    Some((spool, mounted, daemon))
}
