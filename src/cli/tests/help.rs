//! What the help texts say, and that it is true.

use super::*;
use crate::exit::EXITS;

fn help(flag: &str) -> String {
    match parsed(&[flag]) {
        Err(CliExit::Help(text)) => text,
        other => panic!("{flag}: {other:?}"),
    }
}

#[test]
fn help_has_its_headings_examples_and_ends_with_the_exit_table() {
    let (long, short) = (help("--help"), help("-h"));
    for heading in
        ["Input:", "Output:", "Resuming:", "Service:", "Limits and clocks:", "Reporting:", "Examples:", "Exit status:"]
    {
        assert!(long.contains(heading), "{heading}");
    }
    let last = EXITS.last().unwrap().1;
    assert!(long.trim_end().ends_with(last) && short.trim_end().ends_with(last));
    assert!(short.len() < long.len() && !short.contains("--chunk-timeout"));
    assert!(!long.contains("--api-key ") && !long.contains("--api-key="));
    assert!(help("--version").starts_with("anvil-filter "));
    assert!(!short.contains("--discard-journal") && long.contains("--discard-journal"));
    assert!((5..=7).contains(&short_usage().lines().count()));
}

#[test]
fn help_of_work_on_journals_tells_of_nothing_else() {
    for name in ["journal", "merge"] {
        let shown = match parsed(&[name, "--help"]) {
            Err(CliExit::Help(text)) => text,
            other => panic!("{name}: {other:?}"),
        };
        assert!(shown.contains("--format") && shown.contains("--quiet"), "{shown}");
        assert!(!shown.contains("--model") && !shown.contains("--base-url") && !shown.contains("timeout"), "{shown}");
    }
    let Err(CliExit::Help(shown)) = parsed(&["check", "--help"]) else { panic!("no help") };
    assert!(shown.contains("--model"), "{shown}");
}

#[test]
fn help_states_the_real_defaults() {
    let (limits, clocks) = (Limits::default(), Clocks::default());
    let long = help("--help").split_whitespace().collect::<Vec<_>>().join(" ");
    let has = |flag: &str, value: String| assert_default(&long, flag, &value);
    has("concurrency", limits.concurrency.to_string());
    has("max-line-bytes", format!("{}M", limits.line_bytes_max >> 20));
    has("window-bytes", format!("{}M", limits.window_bytes_max >> 20));
    has("max-reply-bytes", format!("{}M", limits.reply_bytes_max >> 20));
    has("max-outage", format!("{}m", clocks.outage_max.as_secs() / 60));
    has("auth-wait", format!("{}m", clocks.auth_wait.as_secs() / 60));
    has("max-retry-delay", format!("{}s", clocks.retry_delay_max.as_secs()));
    has("connect-timeout", format!("{}s", clocks.connect.as_secs()));
    has("first-token-timeout", format!("{}s", clocks.first_token.as_secs()));
    has("chunk-timeout", format!("{}s", clocks.between_chunks.as_secs()));
    has("reply-timeout", format!("{}s", clocks.whole_reply.as_secs()));
    has("drain-timeout", format!("{}s", clocks.drain.as_secs()));
}
