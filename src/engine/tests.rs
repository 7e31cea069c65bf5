//! The engine against a scripted transport and a paused clock: every row of the retry policy, without a network.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::api::headers::ContentKind;
use crate::api::scripted::{Play, Script, Scripted};
use crate::api::transport::TransportError;
use crate::line::{Defaults, ErrorCode, InputForm};
use crate::shutdown::{Cause, Shutdown};

mod several;

const SECOND: Duration = Duration::from_secs(1);
const OK: &str = r#"{"model":"m","choices":[{"finish_reason":"stop","message":{"content":"yes"}}]}"#;

/// A mode that hands out a list and remembers what comes back.
#[derive(Default)]
struct List {
    work: VecDeque<Work>,
    settled: Vec<(u64, Result<String, ErrorCode>, u32)>,
    events: Vec<Event>,
    /// Whether slots are held until `commit` looks again, and how many are.
    holds: bool,
    held: usize,
    most_taken: usize,
    in_flight: usize,
}

impl List {
    fn of(lines: u64) -> Self {
        let work = (1..=lines).map(|key| Work { key: Key(key), request: request(&format!("line {key}")) });
        Self { work: work.collect(), ..Self::default() }
    }

    fn codes(&self) -> Vec<Option<ErrorCode>> {
        let mut settled: Vec<_> =
            self.settled.iter().map(|(key, result, _)| (*key, result.as_ref().err().copied())).collect();
        settled.sort_unstable();
        settled.into_iter().map(|(_, code)| code).collect()
    }
}

fn request(prompt: &str) -> crate::line::Request {
    let defaults = Defaults { model: Some("m".into()), ..Defaults::default() };
    crate::line::Request::parse(prompt.as_bytes(), InputForm::Text, &defaults).unwrap()
}

impl Mode for List {
    fn poll_pull(&mut self, room: &Room<'_>, _: &mut Context<'_>) -> Poll<Option<Work>> {
        let Some(first) = self.work.front() else { return Poll::Ready(None) };
        if room.for_model(&first.request.model) == Fit::None {
            Poll::Pending
        } else {
            Poll::Ready(self.work.pop_front())
        }
    }

    fn settle(&mut self, key: Key, _: &crate::line::Request, outcome: Outcome) -> Slot {
        let result = outcome
            .result
            .map(|answer| String::from_utf8_lossy(answer.part_or_null(answer.choices[0].content)).into_owned());
        self.settled.push((key.0, result.map_err(|failure| failure.code), outcome.attempts));
        self.held += usize::from(self.holds);
        if self.holds { Slot::Held } else { Slot::Free }
    }

    fn take_freed(&mut self) -> usize {
        // A commit takes its time: it is done when half of the slots wait for it.
        if self.held >= 2 || self.work.is_empty() { std::mem::take(&mut self.held) } else { 0 }
    }

    fn delta(&mut self, _: Delta) {}

    fn has_room(&self) -> bool {
        true
    }

    fn event(&mut self, event: Event) {
        if let Event::Sent { in_flight } | Event::Ended { in_flight } = event {
            self.in_flight = in_flight;
            self.most_taken = self.most_taken.max(in_flight + self.held);
        }
        self.events.push(event);
    }

    fn poll_stop(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn idle(&mut self, _: &mut Context<'_>) {}
}

fn settings(concurrency: usize) -> Settings {
    Settings {
        concurrency,
        upstream: Upstream::Stream,
        adapts: false,
        integrity: Integrity::default(),
        clocks: Clocks { first_token: 900 * SECOND, between_chunks: 120 * SECOND, whole_reply: 900 * SECOND },
        reply_bytes_max: 1 << 20,
        outage_max: Some(1800 * SECOND),
        auth_wait: 1800 * SECOND,
        retry_delay_max: 60 * SECOND,
        drain: 25 * SECOND,
        deadline: None,
        asks_at_once: true,
        endless: false,
        deltas: false,
    }
}

fn whole(status: u16, body: &'static str) -> Script {
    vec![Play::Head(status, ContentKind::Other), Play::Piece(body)]
}

fn transport(chats: Vec<Script>) -> Scripted {
    Scripted { chats: std::cell::RefCell::new(chats.into()), ..Scripted::default() }
}

/// An endpoint that is asked for its dialect only when it has an answer ready.
fn endpoint<'t>(name: &str, transport: &'t Scripted) -> Endpoint<'t, Scripted> {
    let dialect = transport.versions.borrow().is_empty().then_some(Dialect::OpenAi);
    Endpoint { transport, name: name.to_owned(), dialect, concurrency: None, quotas: Quotas::default() }
}

fn run_for(settings: Settings, transport: &Scripted, lines: u64) -> (Ended, List, Duration) {
    run_until(settings, transport, lines, &Shutdown::default())
}

fn run_until(settings: Settings, transport: &Scripted, lines: u64, shutdown: &Shutdown) -> (Ended, List, Duration) {
    run_mode(settings, transport, List::of(lines), shutdown)
}

fn run_mode(settings: Settings, transport: &Scripted, mut mode: List, shutdown: &Shutdown) -> (Ended, List, Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let start = Instant::now();
        let ended = run(settings, vec![endpoint("only", transport)], &mut mode, shutdown).await;
        (ended, mode, start.elapsed())
    })
}

#[test]
fn a_plain_run_settles_every_line() {
    let (ended, mode, _) = run_for(settings(4), &transport(vec![whole(200, OK)]), 50);
    assert_eq!(ended, Ended::Complete);
    assert_eq!(mode.codes(), vec![None; 50]);
}

#[test]
fn each_charged_failure_has_its_own_bound_of_attempts() {
    let lost = || vec![Play::Break(TransportError::Lost("reset".into()))];
    let cases: [(Script, ErrorCode, u32); 8] = [
        (whole(200, r#"{"choices":[]}"#), ErrorCode::UpstreamInvalid, 3),
        (whole(200, "null"), ErrorCode::UpstreamInvalid, 3),
        (lost(), ErrorCode::ConnectionLost, 3),
        (whole(500, "{}"), ErrorCode::UpstreamError, 10),
        (whole(408, "{}"), ErrorCode::UpstreamError, 10),
        (whole(504, "<html>"), ErrorCode::Timeout, 2),
        (
            vec![Play::Head(200, ContentKind::EventStream), Play::Piece("data: {\"choices\":[]}\n\n"), Play::Hang],
            ErrorCode::Timeout,
            2,
        ),
        (vec![Play::Hang], ErrorCode::Timeout, 2),
    ];
    for (script, code, attempts) in cases {
        let (ended, mode, _) = run_for(settings(4), &transport(vec![script.clone()]), 1);
        assert_eq!(ended, Ended::Complete, "{script:?}");
        assert_eq!(mode.settled[0].1, Err(code), "{script:?}");
        assert_eq!(mode.settled[0].2, attempts, "{script:?}");
    }
}

#[test]
fn what_the_line_is_refused_for_is_not_tried_again() {
    for (status, code) in [
        (400, ErrorCode::UpstreamRejected),
        (413, ErrorCode::UpstreamRejected),
        (422, ErrorCode::UpstreamRejected),
        (404, ErrorCode::ModelNotFound),
    ] {
        let (_, mode, _) = run_for(settings(1), &transport(vec![whole(status, "{}"), whole(200, OK)]), 2);
        assert_eq!(mode.codes(), [Some(code), None], "{status}");
        assert_eq!(mode.settled[0].2, 1);
    }
}

#[test]
fn a_wrong_address_halts_the_run() {
    let html = || vec![Play::Head(200, ContentKind::Html), Play::Piece("<html>")];
    for (script, cause) in [
        (html(), HaltCause::ServiceRefuses),
        (whole(302, ""), HaltCause::ServiceRefuses),
        (whole(405, "{}"), HaltCause::ServiceRefuses),
        (whole(404, "{}"), HaltCause::ServiceRefuses),
        (whole(501, "{}"), HaltCause::Misconfigured),
        (vec![Play::Break(TransportError::Misconfigured("bad certificate".into()))], HaltCause::Misconfigured),
    ] {
        let (ended, _, _) = run_for(settings(1), &transport(vec![script.clone()]), 9);
        assert!(matches!(&ended, Ended::Halted(halt) if halt.cause == cause), "{script:?}: {ended:?}");
    }
}

#[test]
fn a_page_after_a_success_is_an_outage_and_costs_no_line() {
    let html = || vec![Play::Head(200, ContentKind::Html), Play::Piece("<html>")];
    let mut chats = vec![whole(200, OK)];
    chats.extend((0..40).map(|_| html()));
    chats.push(whole(200, OK));
    let patient = Settings { outage_max: Some(86_400 * SECOND), ..settings(4) };
    let (ended, mode, _) = run_for(patient, &transport(chats), 20);
    assert_eq!(ended, Ended::Complete);
    assert_eq!(mode.codes(), vec![None; 20]);
}

#[test]
fn a_long_outage_costs_no_line_and_is_probed_rarely() {
    let down = || vec![Play::Break(TransportError::NotSent("refused".into()))];
    let mut chats: Vec<Script> = (0..30).map(|_| down()).collect();
    chats.push(whole(200, OK));
    let transport = transport(chats);
    let (ended, mode, took) = run_for(Settings { outage_max: Some(86_400 * SECOND), ..settings(4) }, &transport, 20);
    assert_eq!(ended, Ended::Complete);
    assert_eq!(mode.codes(), vec![None; 20]);
    assert!(took > 3600 * SECOND, "25 probes take more than an hour: {took:?}");
    assert!(
        mode.events.iter().any(|event| matches!(event, Event::Paused { .. })) && mode.events.contains(&Event::Resumed)
    );
}

#[test]
fn an_outage_that_outlasts_patience_ends_resumable() {
    let (ended, mode, took) = run_for(settings(4), &transport(vec![whole(503, "{}")]), 20);
    assert!(matches!(ended, Ended::Halted(Halt { cause: HaltCause::Outage, .. })), "{ended:?}");
    assert!(mode.settled.is_empty());
    assert!((1800..2200).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn one_poisonous_line_does_not_stop_the_others() {
    for concurrency in [1, 4] {
        // Every second request is the poisonous one, as long as it lasts.
        let transport = transport(vec![whole(200, OK)]);
        let mut chats: VecDeque<Script> = VecDeque::new();
        for _ in 0..12 {
            chats.push_back(whole(500, "{}"));
        }
        chats.push_back(whole(200, OK));
        *transport.chats.borrow_mut() = chats;
        let (ended, mode, _) = run_for(settings(concurrency), &transport, 30);
        assert_eq!(ended, Ended::Complete);
        assert_eq!(mode.settled.len(), 30);
    }
}

#[test]
fn retry_after_holds_the_whole_endpoint() {
    let chats = vec![vec![Play::HeadWait(429, 100 * SECOND), Play::Piece("{}")], whole(200, OK)];
    let transport = transport(chats);
    let (ended, _, took) = run_for(settings(1), &transport, 5);
    assert_eq!(ended, Ended::Complete);
    let sent = transport.sent.borrow();
    assert!(sent[1].0 - sent[0].0 >= 100 * SECOND && sent[1].0 - sent[0].0 <= 111 * SECOND);
    assert!(took < 180 * SECOND, "{took:?}");
}

#[test]
fn a_wait_beyond_patience_ends_at_once_and_names_the_time() {
    let chats = vec![vec![Play::HeadWait(429, 7200 * SECOND), Play::Piece("{}")]];
    let (ended, _, took) = run_for(settings(1), &transport(chats), 5);
    let Ended::Halted(halt) = ended else { panic!("{ended:?}") };
    assert!(halt.cause == HaltCause::Outage && halt.message.contains("2h") && took < SECOND, "{halt:?}");
}

#[test]
fn a_first_token_that_never_comes_is_overload_not_the_lines_fault() {
    let chats = vec![vec![Play::Hang], vec![Play::Hang], vec![Play::Hang], vec![Play::Hang], whole(200, OK)];
    let (ended, mode, _) = run_for(settings(4), &transport(chats), 8);
    assert_eq!(ended, Ended::Complete);
    assert_eq!(mode.codes(), vec![None; 8]);
}

#[test]
fn a_drip_without_events_runs_out_of_time() {
    let mut script = vec![Play::Head(200, ContentKind::EventStream), Play::Piece("data: {")];
    script.extend((0..100_000).flat_map(|_| [Play::Wait(SECOND / 5), Play::Piece(" ")]));
    let (_, mode, _) = run_for(settings(1), &transport(vec![script]), 1);
    assert_eq!(mode.codes(), [Some(ErrorCode::Timeout)]);
}

#[test]
fn a_missing_model_is_told_from_an_outage_by_the_list() {
    let missing = || whole(400, r#"{"detail":"Model not found"}"#);
    let listing = |body| Scripted {
        chats: std::cell::RefCell::new([missing(), whole(200, OK)].into()),
        models: std::cell::RefCell::new([whole(200, body)].into()),
        ..Scripted::default()
    };
    let (_, mode, _) = run_for(settings(1), &listing(r#"{"data":[{"id":"m"}]}"#), 1);
    assert_eq!(mode.codes(), [None], "listed: retried");
    let (_, mode, _) = run_for(settings(1), &listing(r#"{"data":[{"id":"other"}]}"#), 2);
    assert_eq!(mode.codes(), [Some(ErrorCode::ModelNotFound), None]);
    let (_, mode, _) = run_for(settings(1), &listing(r#"{"data":[]}"#), 1);
    assert_eq!(mode.codes(), [None], "nothing listed: waited out");
    let nothing = Scripted {
        chats: std::cell::RefCell::new([missing()].into()),
        models: std::cell::RefCell::new([whole(200, r#"{"data":[]}"#)].into()),
        ..Scripted::default()
    };
    let (ended, _, _) = run_for(settings(1), &nothing, 3);
    assert!(
        matches!(&ended, Ended::Halted(halt) if halt.cause == HaltCause::ServiceRefuses && halt.way_out.contains("shared")),
        "{ended:?}"
    );
}

#[test]
fn a_token_that_was_never_good_ends_the_run() {
    let transport = transport(vec![whole(401, "{}")]);
    *transport.models.borrow_mut() = [whole(401, "{}")].into();
    let (ended, _, _) = run_for(settings(4), &transport, 9);
    assert!(matches!(ended, Ended::Halted(Halt { cause: HaltCause::TokenRejected, .. })), "{ended:?}");
}

#[test]
fn a_token_that_expires_is_read_again_and_no_line_pays() {
    let mut transport = transport(vec![whole(200, OK), whole(401, "{}"), whole(200, OK)]);
    transport.renewable = true;
    *transport.models.borrow_mut() = [whole(401, "{}"), whole(200, r#"{"data":[{"id":"m"}]}"#)].into();
    *transport.new_token.borrow_mut() = true;
    let (ended, mode, _) = run_for(settings(1), &transport, 9);
    assert_eq!(ended, Ended::Complete);
    assert_eq!(mode.codes(), vec![None; 9]);
    transport.renewable = false;
    *transport.chats.borrow_mut() = [whole(200, OK), whole(401, "{}")].into();
    *transport.models.borrow_mut() = [whole(401, "{}")].into();
    let (ended, _, _) = run_for(settings(1), &transport, 9);
    assert!(matches!(ended, Ended::Halted(Halt { cause: HaltCause::TokenRejected, .. })), "{ended:?}");
}

#[test]
fn a_good_token_isolates_what_it_may_not_do() {
    let transport = transport(vec![whole(403, "{}"), whole(200, OK)]);
    *transport.models.borrow_mut() = [whole(200, r#"{"data":[{"id":"m"}]}"#)].into();
    let (ended, mode, _) = run_for(settings(1), &transport, 3);
    assert_eq!(ended, Ended::Complete);
    assert_eq!(mode.codes(), [Some(ErrorCode::NotAllowed), None, None]);
}

#[test]
fn the_dialect_waits_behind_the_breaker_and_is_never_guessed() {
    let transport = transport(vec![whole(200, OK)]);
    let mut versions: VecDeque<Script> = (0..8).map(|_| whole(503, "")).collect();
    versions.push_back(whole(200, r#"{"version":"0.6.13"}"#));
    *transport.versions.borrow_mut() = versions;
    let (ended, mode, _) = run_for(settings(4), &transport, 3);
    assert_eq!(ended, Ended::Complete);
    assert!(mode.events.contains(&Event::DialectFound(Dialect::OpenWebUi)));
    assert!(!transport.sent.borrow()[0].1.contains("stream_options"), "Open WebUI's body");
}

#[test]
fn a_drain_lets_what_is_in_flight_end_and_sends_nothing_new() {
    let shutdown = Shutdown::default();
    let slow = vec![Play::Wait(10 * SECOND), Play::Head(200, ContentKind::Other), Play::Piece(OK)];
    let transport = transport(vec![slow]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (ended, mode) = runtime.block_on(async {
        let mut mode = List::of(100);
        let signal = async {
            tokio::time::sleep(5 * SECOND).await;
            shutdown.signal(Cause::Terminate);
            std::future::pending::<Ended>().await
        };
        let ended = tokio::select! { ended = run(settings(4), vec![endpoint("only", &transport)], &mut mode, &shutdown) => ended, ended = signal => ended };
        (ended, mode)
    });
    assert_eq!(ended, Ended::Drained);
    assert_eq!((mode.settled.len(), transport.sent.borrow().len()), (4, 4));
}

#[test]
fn the_end_of_a_body_is_awaited_behind_the_answer_and_not_for_long() {
    const STREAM: &str =
        "data: {\"choices\":[{\"delta\":{\"content\":\"yes\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let stream = vec![Play::Head(200, ContentKind::EventStream), Play::Piece(STREAM)];
    let millis = Duration::from_millis;
    for (end, until_next) in [(vec![], 0), (vec![Play::Wait(millis(3))], 3), (vec![Play::Hang], 50)] {
        let transport = transport(vec![[stream.clone(), end].concat()]);
        let (ended, mode, took) = run_for(settings(3), &transport, 2);
        assert_eq!((ended, mode.codes(), took), (Ended::Complete, vec![None; 2], Duration::ZERO));
        let before = transport.sent.borrow().len();
        run_for(settings(1), &transport, 2);
        let sent = &transport.sent.borrow()[before..];
        assert_eq!(sent[1].0 - sent[0].0, millis(until_next), "the next one waits for the end of the first");
    }
}

#[test]
fn a_drain_does_not_wait_for_ever() {
    let shutdown = Shutdown::default();
    shutdown.signal(Cause::Terminate);
    let (ended, _, took) = run_until(settings(4), &transport(vec![vec![Play::Hang]]), 4, &shutdown);
    assert_eq!(ended, Ended::Drained);
    assert!(took <= 25 * SECOND);
}

#[test]
fn a_third_of_random_failures_is_survived_with_little_amplification() {
    let mut random = fastrand::Rng::with_seed(7);
    let chats: Vec<Script> = (0..6000)
        .map(|_| if random.f64() < 0.3 { whole(500, "{}") } else { whole(200, OK) })
        .map(|script| [vec![Play::Wait(SECOND / 10)], script].concat())
        .collect();
    let transport = transport(chats);
    let (ended, mode, took) = run_for(settings(16), &transport, 2000);
    assert_eq!(ended, Ended::Complete);
    assert_eq!(mode.codes(), vec![None; 2000]);
    let amplification = transport.sent.borrow().len() as f64 / 2000.0;
    assert!(amplification <= 1.5, "{amplification}");
    assert!(took < 600 * SECOND, "{took:?}");
}

#[test]
fn a_slot_that_is_held_is_no_slot_for_another() {
    let mode = List { holds: true, ..List::of(40) };
    let slow = vec![Play::Wait(SECOND), Play::Head(200, ContentKind::Other), Play::Piece(OK)];
    let transport = transport(vec![slow]);
    let (ended, mode, _) = run_mode(settings(4), &transport, mode, &Shutdown::default());
    assert_eq!((ended, mode.settled.len(), mode.held), (Ended::Complete, 40, 0));
    assert_eq!(mode.most_taken, 4);
}

#[test]
fn nothing_is_sent_when_a_drain_would_outlast_the_deadline() {
    let slow = || vec![Play::Wait(10 * SECOND), Play::Head(200, ContentKind::Other), Play::Piece(OK)];
    let settings = Settings { deadline: Some(120 * SECOND), drain: 25 * SECOND, ..settings(1) };
    let (ended, mode, took) = run_for(settings, &transport(vec![slow()]), 50);
    assert!(matches!(&ended, Ended::Halted(halt) if halt.cause == HaltCause::Deadline), "{ended:?}");
    assert_eq!(mode.settled.len(), 10, "the last one is sent before 95 s");
    assert_eq!(took, 100 * SECOND);
}

#[test]
fn what_is_still_in_flight_at_the_deadline_is_given_up() {
    let slow = || vec![Play::Wait(300 * SECOND), Play::Head(200, ContentKind::Other), Play::Piece(OK)];
    let settings = Settings { deadline: Some(20 * SECOND), ..settings(2) };
    let (ended, mode, took) = run_for(settings, &transport(vec![slow()]), 5);
    assert!(matches!(&ended, Ended::Halted(halt) if halt.cause == HaltCause::Deadline), "{ended:?}");
    assert_eq!((mode.settled.len(), took), (0, 19 * SECOND));
}

#[test]
fn the_dialect_is_asked_for_only_when_something_is_to_be_sent() {
    let unasked = || Settings { asks_at_once: false, ..settings(2) };
    let versions = || std::cell::RefCell::new(vec![whole(404, "")].into());
    let silent = Scripted { versions: versions(), ..transport(vec![whole(200, OK)]) };
    let (ended, _, _) = run_for(unasked(), &silent, 0);
    assert_eq!((ended, *silent.pages.borrow()), (Ended::Complete, 0));
    let asked = Scripted { versions: versions(), ..transport(vec![whole(200, OK)]) };
    let (ended, mode, _) = run_for(unasked(), &asked, 5);
    assert_eq!((ended, mode.settled.len(), *asked.pages.borrow()), (Ended::Complete, 5, 1));
}
