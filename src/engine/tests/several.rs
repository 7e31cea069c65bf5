//! Several endpoints: who gets what, and what becomes of the lines when one of them is no use.

use super::*;
use crate::flow::quota::Rate;

/// A run over endpoints that are named a, b, …
fn run_over(settings: Settings, transports: &[&Scripted], mut mode: List) -> (Ended, List, Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let names = ["a", "b", "c"];
    runtime.block_on(async {
        let start = Instant::now();
        let endpoints = names.iter().zip(transports).map(|(name, transport)| endpoint(name, transport)).collect();
        let ended = run(settings, endpoints, &mut mode, &Shutdown::default()).await;
        (ended, mode, start.elapsed())
    })
}

fn served_in(seconds: u32) -> Scripted {
    transport(vec![vec![Play::Wait(seconds * SECOND), Play::Head(200, ContentKind::Other), Play::Piece(OK)]])
}

fn sent(transport: &Scripted) -> usize {
    transport.sent.borrow().len()
}

/// What was told of endpoints: each name, and whether it was out.
fn told(mode: &List) -> Vec<(String, bool)> {
    let told = mode.events.iter().filter_map(|event| match event {
        Event::Endpoint { name, reason } => Some((name.clone(), reason.is_some())),
        _ => None,
    });
    told.collect()
}

#[test]
fn the_least_busy_endpoint_gets_the_next_line() {
    let (slow, fast) = (served_in(3), served_in(1));
    let (ended, mode, took) = run_over(settings(8), &[&slow, &fast], List::of(80));
    assert_eq!((ended, mode.codes()), (Ended::Complete, vec![None; 80]));
    assert!(sent(&fast) > sent(&slow) && sent(&slow) >= 10, "{} and {}", sent(&slow), sent(&fast));
    assert!(took <= 20 * SECOND, "{took:?}");
    assert!(mode.most_taken <= 8, "the limit holds over all endpoints");
}

#[test]
fn an_endpoint_that_is_down_costs_no_line_anything() {
    let down = transport(vec![vec![Play::Break(TransportError::NotSent("refused".into()))]]);
    let up = served_in(1);
    let (ended, mode, _) = run_over(settings(4), &[&down, &up], List::of(100));
    assert_eq!((ended, mode.codes()), (Ended::Complete, vec![None; 100]));
    assert_eq!(sent(&up), 100);
    assert!(sent(&down) <= 15, "{} requests met a dead endpoint", sent(&down));
    assert_eq!(told(&mode).first(), Some(&("a".to_owned(), true)));
    assert!(!mode.events.iter().any(|event| matches!(event, Event::Paused { .. })), "the other one goes on");
}

#[test]
fn all_endpoints_out_for_too_long_is_an_outage() {
    let down = || transport(vec![vec![Play::Break(TransportError::NotSent("refused".into()))]]);
    let (a, b) = (down(), down());
    let (ended, mode, took) = run_over(settings(4), &[&a, &b], List::of(10));
    assert!(matches!(&ended, Ended::Halted(halt) if halt.cause == HaltCause::Outage), "{ended:?}");
    assert!(mode.settled.is_empty() && took >= 1800 * SECOND && took < 1900 * SECOND, "{took:?}");
    assert!(mode.events.iter().any(|event| matches!(event, Event::Paused { .. })));
}

#[test]
fn a_key_that_one_endpoint_refuses_leaves_the_lines_to_the_other() {
    let refusing = Scripted {
        models: std::cell::RefCell::new(vec![whole(401, "{}")].into()),
        ..transport(vec![whole(401, "{}")])
    };
    let good = served_in(1);
    let (ended, mode, _) = run_over(settings(4), &[&refusing, &good], List::of(20));
    assert_eq!((ended, mode.codes()), (Ended::Complete, vec![None; 20]));
    assert_eq!((sent(&good), told(&mode)), (20, vec![("a".to_owned(), true)]));
    let (ended, _, _) = run_over(settings(4), &[&refusing, &refusing], List::of(20));
    assert!(matches!(&ended, Ended::Halted(halt) if halt.cause == HaltCause::TokenRejected), "{ended:?}");
}

#[test]
fn a_model_that_one_endpoint_lacks_is_asked_of_the_other() {
    let lacking = || transport(vec![whole(200, OK), whole(404, r#"{"error":"model not found"}"#)]);
    let (a, has) = (lacking(), served_in(1));
    let (ended, mode, _) = run_over(settings(2), &[&a, &has], List::of(20));
    assert_eq!((ended, mode.codes()), (Ended::Complete, vec![None; 20]));
    assert!(sent(&a) <= 3, "it said so once: {}", sent(&a));
    let (a, b) = (lacking(), lacking());
    let (ended, mode, _) = run_over(settings(1), &[&a, &b], List::of(9));
    assert_eq!(ended, Ended::Complete);
    assert_eq!(mode.codes().iter().filter(|code| **code == Some(ErrorCode::ModelNotFound)).count(), 7);
    assert!(mode.settled.iter().all(|(.., attempts)| *attempts >= 1), "no line fails without having been asked");
}

#[test]
fn each_endpoint_gets_the_body_of_its_dialect() {
    let version = |body| std::cell::RefCell::new(vec![whole(200, body)].into());
    let broken = || vec![vec![Play::Break(TransportError::Lost("reset".into()))], whole(200, OK)];
    let webui = Scripted { versions: version(r#"{"version":"0.6.13"}"#), ..transport(broken()) };
    let openai = Scripted { versions: std::cell::RefCell::new(vec![whole(404, "")].into()), ..transport(broken()) };
    let defaults = Defaults {
        model: Some("m".into()),
        params: vec![("temperature".to_owned(), serde_json::value::RawValue::from_string("0.5".into()).unwrap())],
        ..Defaults::default()
    };
    let request = crate::line::Request::parse(b"hello", InputForm::Text, &defaults).unwrap();
    let mode = List { work: VecDeque::from([Work { key: Key(1), request }]), ..List::default() };
    let (ended, mode, _) = run_over(settings(2), &[&webui, &openai], mode);
    assert_eq!((ended, mode.codes(), mode.settled[0].2), (Ended::Complete, vec![None], 3));
    let bodies =
        |transport: &Scripted| transport.sent.borrow().iter().map(|(_, body)| body.clone()).collect::<Vec<_>>();
    let (mirrored, plain) = (bodies(&webui), bodies(&openai));
    assert!(
        !mirrored.is_empty() && mirrored.iter().all(|body| body.contains(r#""params":{"temperature":0.5"#)),
        "{mirrored:?}"
    );
    assert!(
        !plain.is_empty() && plain.iter().all(|body| !body.contains("params") && body.contains("hello")),
        "{plain:?}"
    );
}

#[test]
fn a_quota_holds_at_its_own_endpoint_only() {
    let (limited, free) = (served_in(1), served_in(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let mut mode = List::of(60);
    let ended = runtime.block_on(async {
        let rate: Rate = "3/min".parse().unwrap();
        let quotas = Quotas::new(&[rate], None);
        let endpoints = vec![Endpoint { quotas, ..endpoint("a", &limited) }, endpoint("b", &free)];
        run(settings(4), endpoints, &mut mode, &Shutdown::default()).await
    });
    assert_eq!((ended, mode.codes()), (Ended::Complete, vec![None; 60]));
    assert_eq!((sent(&limited), sent(&free)), (3, 57));
}

#[test]
fn a_quota_of_the_only_endpoint_is_waited_for() {
    let limited = served_in(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let mut mode = List::of(10);
    let (ended, took) = runtime.block_on(async {
        let start = Instant::now();
        let rate: Rate = "3/min".parse().unwrap();
        let endpoints = vec![Endpoint { quotas: Quotas::new(&[rate], None), ..endpoint("a", &limited) }];
        (run(settings(4), endpoints, &mut mode, &Shutdown::default()).await, start.elapsed())
    });
    assert_eq!((ended, mode.codes()), (Ended::Complete, vec![None; 10]));
    assert!(took >= 180 * SECOND && took < 190 * SECOND, "{took:?}");
}

#[test]
fn a_run_ends_with_its_last_answer_though_its_quota_is_used_up() {
    let limited = served_in(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let mut mode = List::of(3);
    let (ended, took) = runtime.block_on(async {
        let start = Instant::now();
        let rate: Rate = "3/h".parse().unwrap();
        let endpoints = vec![Endpoint { quotas: Quotas::new(&[rate], None), ..endpoint("a", &limited) }];
        (run(settings(4), endpoints, &mut mode, &Shutdown::default()).await, start.elapsed())
    });
    assert_eq!((ended, mode.codes(), took), (Ended::Complete, vec![None; 3], SECOND));
}

#[test]
fn lines_of_a_model_that_no_endpoint_has_all_fail() {
    let lacking = |seconds| {
        let refusal = whole(404, r#"{"error":"model not found"}"#);
        transport(vec![[vec![Play::Wait(seconds * SECOND)], refusal].concat()])
    };
    let (a, b) = (lacking(1), lacking(2));
    let (ended, mode, _) = run_over(settings(8), &[&a, &b], List::of(50));
    assert_eq!((ended, mode.codes()), (Ended::Complete, vec![Some(ErrorCode::ModelNotFound); 50]));
}

#[test]
fn a_line_that_every_endpoint_refuses_fails_alone() {
    let forbidden = || whole(403, r#"{"detail":"not for you"}"#);
    let listing = || std::cell::RefCell::new(vec![whole(200, r#"{"data":[{"id":"m"}]}"#)].into());
    let refusing = || Scripted { models: listing(), ..transport(vec![forbidden(), whole(200, OK)]) };
    let (a, b) = (refusing(), refusing());
    let (ended, mode, _) = run_over(settings(1), &[&a, &b], List::of(40));
    assert_eq!(ended, Ended::Complete);
    let failed: Vec<_> = mode.settled.iter().filter(|(_, result, _)| result.is_err()).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!((failed[0].1.clone().unwrap_err(), failed[0].2), (ErrorCode::NotAllowed, 2));
}

#[test]
fn an_empty_retry_budget_at_one_endpoint_is_waited_for() {
    let failing = |times: usize| {
        let mut chats = vec![whole(200, "no JSON"); times];
        chats.push(whole(200, OK));
        transport(chats)
    };
    let (a, b) = (failing(40), failing(40));
    let (ended, mode, _) = run_over(settings(8), &[&a, &b], List::of(40));
    assert_eq!((ended, mode.settled.len()), (Ended::Complete, 40));
}

/// Endpoint a has the model x only, and answers; b has m.
fn two_models(b: Scripted, lines: u64) -> (Scripted, Scripted, List) {
    let refusal = whole(404, r#"{"error":"model not found"}"#);
    let a = Scripted { only: Some(("\"x\"", refusal)), ..served_in(1) };
    let asks = |key: u64, model: &str| {
        let defaults = Defaults { model: Some(model.into()), ..Defaults::default() };
        let request = crate::line::Request::parse(format!("line {key}").as_bytes(), InputForm::Text, &defaults);
        Work { key: Key(key), request: request.unwrap() }
    };
    let work = (1..=lines).map(|key| asks(key, if key % 2 == 0 { "m" } else { "x" }));
    (a, b, List { work: work.collect(), ..List::default() })
}

#[test]
fn lines_that_only_a_refused_endpoint_could_serve_are_left_for_the_next_run() {
    let refused = Scripted {
        models: std::cell::RefCell::new(vec![whole(401, "{}")].into()),
        ..transport(vec![whole(401, "{}")])
    };
    let (a, b, mode) = two_models(refused, 40);
    let (ended, mode, _) = run_over(settings(4), &[&a, &b], mode);
    assert!(matches!(&ended, Ended::Halted(halt) if halt.cause == HaltCause::TokenRejected), "{ended:?}");
    let wrong = mode.settled.iter().filter(|(key, result, _)| (key % 2 == 0) || result.is_err()).count();
    assert!(wrong <= 1, "no line fails because an endpoint halted: {:?}", mode.settled);
}

#[test]
fn an_endpoint_that_has_nothing_to_do_does_not_hide_an_outage() {
    let mut chats = vec![whole(200, OK); 5];
    chats.push(whole(503, ""));
    let (a, b, mode) = two_models(transport(chats), 40);
    let (ended, mode, took) = run_over(settings(4), &[&a, &b], mode);
    assert!(matches!(&ended, Ended::Halted(halt) if halt.cause == HaltCause::Outage), "{ended:?}");
    assert!(took < 2400 * SECOND && mode.settled.iter().all(|(_, result, _)| result.is_ok()), "{took:?}");
}

#[test]
fn a_line_that_is_always_refused_for_now_is_convicted_by_several_endpoints_too() {
    let picky = || Scripted { never: Some(("line 7\"", whole(503, ""))), ..served_in(1) };
    let (a, b) = (picky(), picky());
    let (ended, mode, _) = run_over(settings(4), &[&a, &b], List::of(3000));
    assert_eq!(ended, Ended::Complete);
    let failed: Vec<u64> = mode.settled.iter().filter(|(_, result, _)| result.is_err()).map(|(key, ..)| *key).collect();
    assert_eq!(failed, [7]);
}

#[test]
fn a_probe_that_the_quota_of_tokens_does_not_let_pass_waits_for_it() {
    let mut chats = vec![whole(200, OK); 3];
    chats.extend(vec![whole(500, ""); 8]);
    chats.push(whole(200, OK));
    let flaky = transport(chats);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let mut mode = List::of(20);
    let ended = runtime.block_on(async {
        let endpoints = vec![Endpoint { quotas: Quotas::new(&[], Some(900)), ..endpoint("a", &flaky) }];
        run(settings(4), endpoints, &mut mode, &Shutdown::default()).await
    });
    assert_eq!((ended, mode.codes()), (Ended::Complete, vec![None; 20]));
}

#[test]
fn a_quota_that_opens_behind_the_deadline_ends_the_run_at_once() {
    let limited = served_in(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let mut mode = List::of(10);
    let settings = Settings { deadline: Some(600 * SECOND), ..settings(4) };
    let (ended, took) = runtime.block_on(async {
        let start = Instant::now();
        let rate: Rate = "3/h".parse().unwrap();
        let endpoints = vec![Endpoint { quotas: Quotas::new(&[rate], None), ..endpoint("a", &limited) }];
        (run(settings, endpoints, &mut mode, &Shutdown::default()).await, start.elapsed())
    });
    assert!(matches!(&ended, Ended::Halted(halt) if halt.cause == HaltCause::Deadline), "{ended:?}");
    assert_eq!((mode.settled.len(), took), (3, SECOND));
}

#[test]
fn an_endpoint_that_halts_on_its_probe_is_tried_again_in_a_run_without_an_end() {
    let mut chats = vec![vec![Play::Break(TransportError::NotSent("refused".into()))]; 6];
    chats.push(whole(405, ""));
    chats.push(whole(200, OK));
    let (steady, back) = (served_in(30), transport(chats));
    let endless = Settings { endless: true, ..settings(4) };
    let (ended, mode, _) = run_over(endless, &[&steady, &back], List::of(60));
    assert_eq!((ended, mode.codes()), (Ended::Complete, vec![None; 60]));
    assert!(sent(&back) > 20, "{} requests were sent there", sent(&back));
}
