//! Endpoints and limits of configuration files: what a table says holds for its endpoint, and what the machine's own file
//! says holds whatever flags ask for.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Run, Sim, prompts};
use serde_json::json;

/// What services permit whose clients are told ten requests in 300 ms: the rest is for a machine that is busy.
const QUOTA: &str = "10/200ms";

/// A run with this configuration file.
fn configured(text: &str) -> Run {
    let run = Run::plain();
    let file = run.file("config.toml", text);
    run.args(["--config".as_ref(), file.as_os_str()])
}

/// An `[[endpoint]]` table.
fn endpoint(sim: &Sim, rest: &str) -> String {
    format!("[[endpoint]]\nbase_url = '{}'\n{rest}\n", sim.base())
}

/// A service whose answers take so many milliseconds.
fn slow(milliseconds: u64) -> Sim {
    Sim::start(&["--latency", &format!("fixed:{milliseconds}")])
}

#[test]
fn an_endpoint_keeps_to_its_own_concurrency() {
    for fixed in [true, false] {
        let (small, large) = (slow(20), slow(20));
        let tables = endpoint(&small, "concurrency = 2") + &endpoint(&large, "concurrency = 7");
        let run = configured(&format!("fixed = {fixed}\n{tables}"));
        run.input(prompts(150)).output().expect(0).answers_prompts(150);
        let most = [&small, &large].map(|sim| sim.count("in_flight_max"));
        assert!(most[0] <= 2 && most[1] <= 7, "{most:?}");
        assert!(!fixed || most == [2, 7], "{most:?}");
        // A flag bounds all of them together.
        [&small, &large].into_iter().for_each(Sim::reset);
        let run = configured(&format!("fixed = {fixed}\n{tables}")).args(["-j", "3"]);
        run.input(prompts(60)).output().expect(0).answers_prompts(60);
        let most = [&small, &large].map(|sim| sim.count("in_flight_max"));
        assert!(most[0] <= 2 && most[1] <= 3, "{most:?}");
    }
}

#[test]
fn an_endpoint_keeps_to_its_own_rate() {
    let limited = Sim::start(&["--quota", QUOTA, "--latency", "fixed:5"]);
    let free = slow(50);
    let tables = endpoint(&limited, "rate = '10/300ms'") + &endpoint(&free, "concurrency = 4");
    let output = configured(&tables).input(prompts(120)).output().expect(0);
    output.answers_prompts(120);
    assert_eq!(limited.stats()["all"]["over_quota"], 0, "{}", limited.stats());
    assert!(limited.count("ok") >= 20 && free.count("ok") >= 20, "{} {}", limited.stats(), free.stats());
}

/// Each service gets the body that it understands, told or asked.
#[test]
fn each_endpoint_is_spoken_to_in_its_own_dialect() {
    for told in [true, false] {
        let webui = Sim::start(&["--regime", "0.6", "--latency", "fixed:10"]);
        let openai = Sim::start(&["--regime", "openai", "--latency", "fixed:10"]);
        let dialect = |name: &str| if told { format!("dialect = '{name}'") } else { String::new() };
        let tables = endpoint(&webui, &dialect("open-webui")) + &endpoint(&openai, &dialect("openai"));
        let run = configured(&tables).args(["-p", "temperature=0.25", "-p", "seed=7"]);
        run.input(prompts(60)).output().expect(0).answers_prompts(60);
        for sim in [&webui, &openai] {
            let requests = sim.requests();
            assert!(requests.len() > 10, "{}", requests.len());
            for request in requests {
                let reached = &request["reached"];
                assert_eq!((&reached["temperature"], &reached["seed"]), (&json!(0.25), &json!(7)), "{request}");
            }
            assert_eq!(sim.count("version_requests"), u64::from(!told));
        }
        assert!(webui.requests().iter().all(|request| request["body"].get("params").is_some()));
        assert!(openai.requests().iter().all(|request| request["body"].get("params").is_none()));
    }
}

/// A line that fails at one service is made anew for the other, which speaks another dialect.
#[test]
fn a_line_that_moves_on_is_spoken_in_the_other_dialect() {
    let openai = Sim::start(&["--regime", "openai", "--fault", "status=500"]);
    let webui = Sim::start(&["--regime", "0.6", "--latency", "fixed:5"]);
    let tables = endpoint(&openai, "dialect = 'openai'") + &endpoint(&webui, "dialect = 'open-webui'");
    let run = configured(&tables).args(["-p", "temperature=0.25"]);
    run.input(prompts(30)).output().expect(0).answers_prompts(30);
    assert!(openai.count("requests") > 0);
    for (sim, mirrored) in [(&openai, false), (&webui, true)] {
        for request in sim.requests() {
            assert_eq!(request["reached"]["temperature"], json!(0.25), "{request}");
            assert_eq!(request["body"].get("params").is_some(), mirrored, "{request}");
        }
    }
}

#[test]
fn rates_of_a_file_are_kept_one_or_several() {
    for rate in ["'10/300ms'", "['10/300ms', '1000/s']", "['30/s', '10/300ms']"] {
        let sim = Sim::start(&["--quota", QUOTA]);
        let run = configured(&format!("base_url = '{}'\nrate = {rate}\n", sim.base()));
        run.input(prompts(25)).output().expect(0).answers_prompts(25);
        assert_eq!(sim.stats()["all"]["over_quota"], 0, "{rate}: {}", sim.stats());
    }
}

#[test]
fn a_file_that_says_what_cannot_be_is_refused_and_says_where() {
    let sim = slow(0);
    let table = endpoint(&sim, "");
    let cases = [
        ("rate = '60'\n".to_owned(), "line 1"),
        (endpoint(&sim, "rate = 'many/min'"), "line 3"),
        (endpoint(&sim, "concurrency = 0"), "line 3"),
        (endpoint(&sim, "concurency = 2"), "`concurrency` in [[endpoint]]"),
        ("[[endpoint]]\nconcurrency = 2\n".to_owned(), "base_url"),
        (format!("{table}{table}"), "two [[endpoint]] tables"),
        (format!("base_url = '{}'\n{table}", sim.base()), "`base_url` and [[endpoint]]"),
    ];
    for (text, told) in cases {
        let output = configured(&text).input(prompts(1)).output().expect(78);
        assert!(output.stderr.contains(told), "{text}: {output}");
    }
    assert_eq!(sim.count("requests"), 0);
}

/// A run on a machine whose own configuration file is this one.
fn on_machine(run: Run, text: &str) -> Run {
    let file = run.file("machine.toml", text);
    let script = r#"exec unshare --user --map-root-user --mount sh -c \
        'mount -t tmpfs none /etc && mkdir /etc/anvil-filter && cat "$MACHINE" > /etc/anvil-filter/config.toml && exec "$0" "$@"' \
        "$0" "$@""#;
    run.env("MACHINE", file).shell(script)
}

#[test]
fn what_the_machine_limits_no_flag_and_no_file_raises() {
    let limits = "[limits]\nrate = '10/300ms'\nconcurrency = 3\n";
    let sim = || Sim::start(&["--quota", QUOTA, "--latency", "fixed:20"]);
    let flags = [&["--rate", "1000/s", "-j", "32", "--fixed"][..], &[]];
    for args in flags {
        let sim = sim();
        let output = on_machine(Run::on(&sim), limits).args(args).input(prompts(25)).output().expect(0);
        output.answers_prompts(25);
        assert_eq!(sim.stats()["all"]["over_quota"], 0, "{args:?}: {}", sim.stats());
        assert!(sim.count("in_flight_max") <= 3, "{args:?}: {}", sim.stats());
        let is_told = output.stderr.contains("concurrency lowered from 32 to 3, the limit in /etc");
        assert_eq!(is_told, !args.is_empty(), "{output}");
    }
    let sim = sim();
    let run = configured("[limits]\nrate = '1000/s'\nconcurrency = 32\n").args(["--base-url", &sim.base(), "-j", "32"]);
    let output = on_machine(run, limits).input(prompts(25)).output().expect(0);
    assert_eq!(sim.stats()["all"]["over_quota"], 0, "{}", sim.stats());
    assert!(sim.count("in_flight_max") <= 3, "{}", sim.stats());
    assert!(output.stderr.contains("[limits] in"), "{output}");
}

/// What a flag asks for on top of the machine's limits holds as well.
#[test]
fn a_flag_may_ask_for_less_than_the_machine_allows() {
    let sim = Sim::start(&["--quota", "5/120ms"]);
    let run = on_machine(Run::on(&sim), "[limits]\nrate = '1000/s'\nconcurrency = 8\n");
    let output = run.args(["--rate", "5/200ms", "-j", "1"]).input(prompts(15)).output().expect(0);
    output.answers_prompts(15);
    assert_eq!(sim.stats()["all"]["over_quota"], 0, "{}", sim.stats());
    assert!(sim.count("in_flight_max") == 1 && output.waited > Duration::from_millis(390), "{output}");
}
