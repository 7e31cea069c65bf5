//! Whose turn it is: small files beside large ones, and owners beside one another.

use std::os::unix::fs::chown;
use std::time::{Duration, Instant};

use crate::common::write_private;
use crate::needs;
use crate::spool::{Daemon, Spool, lines};

/// Of one request.
const SERVICE_TIME: Duration = Duration::from_millis(20);

/// The promise is twice the service time and 250 ms; an unoptimized build on a busy machine gets as much again.
#[test]
fn a_large_file_holds_up_no_small_one() {
    let spool = Spool::with(&["--latency", &format!("fixed:{}", SERVICE_TIME.as_millis())]);
    let daemon = spool.start_with(&["-j", "8"]);
    spool.put("big.jsonl", lines("big", 20_000));
    spool.wait("a hundred answers", || (spool.sim.count("ok") > 100).then_some(()));
    let mut times: Vec<Duration> = (0..5)
        .map(|number| {
            let began = Instant::now();
            spool.pass(&format!("small{number}"));
            began.elapsed()
        })
        .collect();
    assert!(spool.sim.count("in_flight") > 0 && !spool.has("big.out.jsonl"), "the large one was over");
    times.sort_unstable();
    let promised = 2 * SERVICE_TIME + Duration::from_millis(250);
    assert!(times[2] <= 2 * promised, "{times:?}, and {promised:?} is promised");
    daemon.kill();
}

/// A thousand files that were there first hold up one that comes later no longer than those that are open.
#[test]
fn owners_have_their_turns_whatever_they_bring() {
    if !needs::has_root() {
        return;
    }
    let spool = Spool::slow(20);
    let (key, config) = (spool.aside("key"), spool.aside("config.toml"));
    write_private(&key, crate::common::KEY.as_bytes());
    let owner = |name: &str| format!("[owner.{name}]\napi_key_file = {:?}\n", key.to_str().unwrap());
    std::fs::write(&config, owner("nobody") + &owner("daemon")).unwrap();
    let run = spool.daemon().args(["-j", "2", "--max-open-files", "8", "--config"]).args([&config]);
    let _daemon = Daemon::watching(run);
    let put_of = |owner: u32, name: &str, count: usize| {
        let temp = spool.path(format!(".{name}.temp"));
        std::fs::write(&temp, lines(name, count)).unwrap();
        chown(&temp, Some(owner), None).unwrap();
        std::fs::rename(temp, spool.path(format!("{name}.jsonl"))).unwrap();
    };
    let (nobody, somebody) = (65534, 1);
    (0..150).for_each(|number| put_of(nobody, &format!("greedy{number}"), 4));
    put_of(nobody, "greedy-large", 300);
    spool.wait("some answers", || (spool.sim.count("ok") > 20).then_some(()));
    (0..5).for_each(|number| put_of(somebody, &format!("modest{number}"), 4));
    (0..5)
        .for_each(|number| spool.wait_for_answers(&format!("modest{number}.out.jsonl"), &format!("modest{number}"), 4));
    let prompts = spool.prompts();
    let first = prompts.iter().position(|text| text.starts_with("modest")).unwrap();
    let last = prompts.iter().rposition(|text| text.starts_with("modest")).unwrap();
    // Its twenty lines have every second turn, once the files that were open have made room.
    let between = prompts[first..last].iter().filter(|text| text.starts_with("greedy")).count();
    assert!(between <= 80, "{between} requests of the other owner between the first and the last of twenty");
    assert!(first <= 100, "{first} requests came before the first of them");
}

#[test]
fn no_more_files_are_open_than_were_allowed() {
    let spool = Spool::slow(50);
    let _daemon = spool.start_with(&["--max-open-files", "2", "-j", "8"]);
    for number in 0..8 {
        spool.put(format!("p{number}.jsonl"), lines(&format!("p{number}"), 6));
    }
    let mut running_max = 0;
    spool.wait("all results", || {
        running_max = running_max.max(spool.status()?["files"]["running"].as_u64().unwrap());
        (0..8).all(|number| spool.has(format!("p{number}.out.jsonl"))).then_some(())
    });
    assert!(running_max <= 2, "{running_max} files at a time");
    // One line of each file that is open at a time stands for how many there were.
    let prompts = spool.prompts();
    let last_of = |name: &str| prompts.iter().rposition(|text| text.starts_with(name)).unwrap();
    let first_of = |name: &str| prompts.iter().position(|text| text.starts_with(name)).unwrap();
    let open_at_once = |name: &str| {
        (0..8)
            .filter(|other| {
                first_of(&format!("p{other} ")) <= first_of(name) && last_of(&format!("p{other} ")) > first_of(name)
            })
            .count()
    };
    for number in 0..8 {
        let open = open_at_once(&format!("p{number} "));
        assert!(open <= 2, "{open} files were open when p{number} began: {prompts:?}");
    }
}

/// All found, each once, whatever the kernel's queue holds.
#[test]
fn a_burst_of_files_is_run_to_the_last_one() {
    let spool = Spool::new();
    let daemon = spool.start_with(&["-j", "16"]);
    let count = needs::count(20_000, 1_000);
    for number in 0..count {
        spool.put(format!("p{number}.jsonl"), lines(&format!("p{number}"), 1));
    }
    spool.wait_done(count as u64);
    assert_eq!(spool.sim.count("requests"), count as u64);
    assert_eq!(spool.sim.count("identities"), count as u64);
    assert_eq!(spool.names().len(), 2 * count);
    daemon.stop().expect(0);
}
