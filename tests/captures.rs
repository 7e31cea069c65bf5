//! Verdicts on real replies: recorded from unmodified Open WebUI servers of both regimes, 0.6.13 and 0.12.4.
//!
//! Invariant: [`TABLE`] is the specification. It was derived from what the service is known to send and from what each
//! reply means, never from what the program makes of it. How a reply is split into pieces must not change a byte.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use anvil_filter::api::assemble::{Assembler, More};
use anvil_filter::api::headers::{ContentKind, Head};
use anvil_filter::api::signal::{Body, Signal, judge};
use anvil_filter::api::sse::Decoder;
use anvil_filter::api::transport::{ReplyBody, TransportError, collect};
use anvil_filter::api::{Dialect, models};
use anvil_filter::line::{Answer, ErrorCode};
use bytes::Bytes;
use futures_util::FutureExt as _;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

const OLD: &str = "0.6.13";
const NEW: &str = "0.12.4";
const VERSIONS: [&str; 2] = [OLD, NEW];
/// Random splits that each reply is read in.
const SPLITS: u64 = 300;
const REPLY_BYTES_MAX: usize = 1 << 20;

// ---------------------------------------------------------------------------------------------- the specification

/// What one reply means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// There is no such capture of this version.
    Absent,
    /// A completion that holds up.
    Says(Said),
    /// The line is refused, with this HTTP status.
    Rejected(u16),
    /// 429, with the seconds that the head asks to wait.
    RateLimited(Option<u64>),
    /// 502 or 503, with the seconds that the head asks to wait.
    Unavailable(Option<u64>),
    /// 400, 404: the model is not known.
    ModelNotFound,
    NotFound,
    WrongPath,
    Unauthorized,
    Failing,
    Invalid,
    Html,
    /// The connection broke off in mid-reply.
    Lost,
}

/// What a completion says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    content: &'static str,
    finish_reason: &'static str,
    model: &'static str,
    tool_calls: usize,
    reasoning: Option<&'static str>,
    tokens: (u64, u64),
}

const fn says(content: &'static str, model: &'static str, prompt: u64, completion: u64) -> Said {
    Said { content, finish_reason: "stop", model, tool_calls: 0, reasoning: None, tokens: (prompt, completion) }
}

impl Said {
    const fn ended_by(mut self, finish_reason: &'static str) -> Expected {
        self.finish_reason = finish_reason;
        Says(self)
    }

    const fn with_reasoning(mut self, reasoning: &'static str) -> Expected {
        self.reasoning = Some(reasoning);
        Says(self)
    }

    const fn with_tool_call(mut self) -> Self {
        self.tool_calls = 1;
        self
    }
}

use Expected::{
    Absent, Failing, Html, Invalid, Lost, ModelNotFound, NotFound, RateLimited, Rejected, Says, Unauthorized,
    Unavailable, WrongPath,
};

const LLAMA: &str = "llama3.1:latest";
const W7: &str = "I w1 w2 w3 w4 w5 w6 w7";
const UNICODE: &str = "café 日本語 🙂\u{2028}x\ny\"q\"\t";
const CONTROL: &str = "a\0b\r\ndata: [DONE]\n\n\u{85}end";
const WORDS: Expected = Says(says(W7, LLAMA, 4, 8));
/// The same, for a prompt of which one token, none, or 1.8 million were counted.
const WORDS_1: Expected = Says(says(W7, LLAMA, 1, 8));
const WORDS_0: Expected = Says(says(W7, LLAMA, 0, 8));
const WORDS_BIG: Expected = Says(says(W7, LLAMA, 1_800_000, 8));
const THOUGHT: Said = says(W7, "think:latest", 4, 8);
const FULL: Said = says(W7, "lengthstop:latest", 4, 8);
const CALLED: Said = says(W7, "tool:latest", 4, 8).with_tool_call();
const ONLY_CALLED: Said = says("", "tool:latest", 4, 8).with_tool_call();
const FOUR_WORDS: Expected = Says(says("I w1 w2 w3", "slow:latest", 3, 4));

/// Every reply to a chat request: what it means from 0.6.13, and what from 0.12.4.
const TABLE: &[(&str, Expected, Expected)] = &[
    ("01_ok_nonstream", WORDS, WORDS),
    ("02_ok_nonstream_jwt", WORDS, WORDS),
    ("03_ok_stream", WORDS, WORDS),
    ("04_ok_stream_options", WORDS, WORDS),
    // 0.6 drops the thoughts and calls each such chunk's end a stop, before the text.
    ("05_ok_stream_think", Says(THOUGHT), THOUGHT.with_reasoning("Let me think.")),
    ("06_ok_nonstream_think", Says(THOUGHT), THOUGHT.with_reasoning("Let me think.")),
    ("07_ok_stream_tool", Says(CALLED), CALLED.ended_by("tool_calls")),
    ("08_ok_nonstream_tool", Says(ONLY_CALLED), ONLY_CALLED.ended_by("tool_calls")),
    ("09_ok_stream_unicode", Says(says(UNICODE, "unicode:latest", 4, 9)), Says(says(UNICODE, "unicode:latest", 4, 9))),
    (
        "10_ok_nonstream_unicode",
        Says(says(UNICODE, "unicode:latest", 4, 9)),
        Says(says(UNICODE, "unicode:latest", 4, 9)),
    ),
    ("11_ok_stream_ctrl", Says(says(CONTROL, "ctrlchars:latest", 4, 5)), Says(says(CONTROL, "ctrlchars:latest", 4, 5))),
    // 0.6 hides that the token limit cut the text.
    ("12_ok_stream_length", Says(FULL), FULL.ended_by("length")),
    ("13_ok_nonstream_length", Says(FULL), FULL.ended_by("length")),
    ("14_ok_stream_empty", Says(says("", "empty:latest", 4, 0)), Says(says("", "empty:latest", 4, 0))),
    ("15_ok_nonstream_empty", Says(says("", "empty:latest", 4, 0)), Says(says("", "empty:latest", 4, 0))),
    // llama.cpp stood only behind 0.6.13, and streams no usage.
    ("16_ok_llama_nonstream", says("ʕHb queue", "tiny-random", 36, 8).ended_by("length"), ModelNotFound),
    ("17_ok_llama_stream", says("'U8,d", "tiny-random", 0, 0).ended_by("length"), ModelNotFound),
    ("18_ok_llama_ctxoverflow", Rejected(400), ModelNotFound),
    ("19_ok_llama_ctxoverflow_stream", Invalid, ModelNotFound),
    // Compressed, though this program never asks for it.
    ("20_ok_gzip", Invalid, Invalid),
    ("21_ok_gzip_big", Invalid, Invalid),
    // The recording itself was cut in mid-chunk.
    ("22_ok_gzip_stream", Invalid, Invalid),
    ("23_ok_br_zstd_big", Invalid, Invalid),
    ("24_ok_br_zstd_stream", Invalid, Invalid),
    ("25_auth_none", Unauthorized, Unauthorized),
    ("26_auth_badkey", Unauthorized, Unauthorized),
    ("27_auth_badjwt", Unauthorized, Unauthorized),
    ("28_auth_garbage", Unauthorized, Unauthorized),
    ("29_auth_empty", Unauthorized, Unauthorized),
    ("30_auth_basic", Unauthorized, Unauthorized),
    ("31_auth_nobearer", Unauthorized, Unauthorized),
    ("32_auth_xapikey", Unauthorized, WORDS),
    ("33_auth_newline_key", Unauthorized, WORDS),
    ("34_auth_lowercase", WORDS, WORDS),
    ("35_auth_twospaces", Unauthorized, WORDS),
    ("36_auth_pending", Unauthorized, Unauthorized),
    ("37_auth_user_nomodel", ModelNotFound, ModelNotFound),
    ("38_auth_user_nomodel_stream", ModelNotFound, ModelNotFound),
    ("39_auth_expired", Unauthorized, Unauthorized),
    ("49_model_missing", ModelNotFound, ModelNotFound),
    ("50_model_missing_stream", ModelNotFound, ModelNotFound),
    ("51_model_none", ModelNotFound, ModelNotFound),
    ("52_model_notag", ModelNotFound, ModelNotFound),
    ("53_bad_json", Rejected(422), Rejected(422)),
    ("54_bad_array", Rejected(422), Rejected(422)),
    ("55_bad_empty", Rejected(422), Rejected(422)),
    ("56_bad_ctype", Rejected(422), Rejected(422)),
    ("57_bad_utf8", Rejected(400), Rejected(400)),
    ("58_bad_surrogate", WORDS_1, WORDS_1),
    ("59_bad_nomessages", Rejected(400), WORDS_0),
    ("60_bad_emptymessages", WORDS_0, WORDS_0),
    ("61_bad_messagesstr", Rejected(400), Rejected(400)),
    ("62_bad_norole", Rejected(400), Rejected(400)),
    ("63_bad_nullcontent", Rejected(400), Rejected(400)),
    ("64_bad_nocontent", WORDS_0, WORDS_0),
    ("65_ok_parts", WORDS_1, WORDS_1),
    ("66_bad_streamstr", WORDS, WORDS),
    ("67_bad_temp", WORDS, WORDS),
    ("68_bad_params", Rejected(400), Rejected(400)),
    ("69_ok_unknown", WORDS, WORDS),
    ("70_path_post_wrong", WrongPath, WrongPath),
    ("71_path_get", Html, Html),
    ("72_path_get_wrong", Html, Html),
    ("73_path_v1", WrongPath, WrongPath),
    ("74_path_api_v1", WrongPath, WORDS),
    ("75_path_slash", WrongPath, WrongPath),
    ("76_path_double", WrongPath, WrongPath),
    ("77_path_openai", NotFound, Unavailable(None)),
    ("79_path_ollama_v1", NotFound, NotFound),
    // 0.6 says 400 for whatever Ollama said, the status in front of the text, and loses Retry-After.
    // A wrapped 404 is none of the wrapped statuses that are taken for the status itself.
    ("82_up_err404", Rejected(400), NotFound),
    ("83_up_err404_stream", Rejected(400), NotFound),
    ("84_up_err429", RateLimited(None), RateLimited(Some(7))),
    ("85_up_err429_stream", RateLimited(None), RateLimited(Some(7))),
    ("86_up_err500", Failing, Failing),
    ("87_up_err500_stream", Failing, Failing),
    ("88_up_err503", Unavailable(None), Unavailable(None)),
    ("89_up_err503_stream", Unavailable(None), Unavailable(None)),
    ("90_up_err503html", Unavailable(None), Unavailable(Some(5))),
    ("91_up_err503html_stream", Unavailable(None), Unavailable(Some(5))),
    ("92_up_errnobody", Unavailable(None), Unavailable(None)),
    ("93_up_errnobody_stream", Unavailable(None), Unavailable(None)),
    ("94_up_connreset", Failing, Failing),
    ("95_up_connreset_stream", Failing, Failing),
    // The model is literally `ollama`.
    ("96_up_midjson_stream", Invalid, Invalid),
    ("97_up_midjson", Invalid, Invalid),
    ("98_up_midcut_stream", Lost, Invalid),
    // 0.12 says of a broken body what it says of a wrong request, so nothing better can be known.
    ("99_up_midcut", Invalid, Rejected(400)),
    ("100_up_midgarbage_stream", Lost, Invalid),
    ("101_up_midgarbage", Invalid, Rejected(400)),
    // No finish_reason, but `[DONE]`.
    ("102_up_nodone_stream", Invalid, Invalid),
    ("103_up_nodone", Says(says(W7, "nodone:latest", 4, 8)), Says(says(W7, "nodone:latest", 4, 8))),
    ("106_slow_stream", FOUR_WORDS, FOUR_WORDS),
    // A background task, whose text never comes.
    ("107_bg_ids_stream", Invalid, NotFound),
    ("108_bg_ids_nonstream", WORDS, NotFound),
    ("109_bg_chatid_only", WORDS, NotFound),
    ("110_bg_sess_only", WORDS, WORDS),
    ("111_bg_id_only", WORDS, WORDS),
    ("112_rag_file", WORDS, WORDS),
    ("113_rag_coll", WORDS, WORDS),
    ("114_rag_bad", WORDS, WORDS),
    ("115_big_10mb", WORDS_BIG, WORDS_BIG),
    ("116_big_10mb_stream", WORDS_BIG, WORDS_BIG),
    ("117_expect100", WORDS, WORDS),
    ("118_chunked_req", WORDS, WORDS),
    ("119_gzip_req", Rejected(400), Rejected(400)),
    ("130_down_nonstream", Failing, Failing),
    ("131_down_stream", Failing, Absent),
    ("133_down_after_models", ModelNotFound, ModelNotFound),
    ("134_back_before_models", ModelNotFound, WORDS_1),
    ("135_back_after_models", WORDS_1, WORDS_1),
    ("136_down_openai", ModelNotFound, Absent),
    ("140_user_shared_model", Says(says("I w1", LLAMA, 2, 2)), Absent),
    ("141_apikey_off", Unauthorized, Absent),
    ("142_apikey_endpoint_restricted", Unauthorized, Absent),
    ("143_server_killed_midstream", Lost, Absent),
    ("144_alias_model", Says(says("I w1", LLAMA, 2, 2)), Absent),
];

/// Replies to `GET /api/models` and `GET /api/version`.
const PAGES: &[&str] = &["40_models", "41_models_user", "42_models_noauth", "46_version", "132_down_models"];

// -------------------------------------------------------------------------------------------------------- the tests

#[test]
fn every_capture_is_named_in_the_tables_and_every_name_has_its_capture() {
    for version in VERSIONS {
        let named: BTreeSet<String> =
            chats(version).map(|(name, _)| name).chain(PAGES.iter().copied()).map(str::to_owned).collect();
        let stored: BTreeSet<String> = std::fs::read_dir(folder().join(version))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "http"))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(stored, named, "captures of {version}");
    }
}

#[test]
fn every_reply_means_what_the_table_says() {
    let mut wrong = Vec::new();
    for version in VERSIONS {
        for (name, expected) in chats(version) {
            let capture = Capture::load(version, name);
            let found = found(&capture.read(vec![capture.body.clone()], ending(expected)), capture.head.wait);
            if found != render(expected) {
                wrong.push(format!("{version}/{name}\n  expected {}\n  found    {found}", render(expected)));
            }
        }
    }
    assert!(wrong.is_empty(), "{} verdicts are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn splitting_a_reply_changes_nothing() {
    for version in VERSIONS {
        for (seed, (name, expected)) in chats(version).enumerate() {
            let capture = Capture::load(version, name);
            let ending = ending(expected);
            let whole = Verdict::of(capture.read(vec![capture.body.clone()], ending));
            let by_byte = capture.body.chunks(1).map(Bytes::copy_from_slice).collect();
            assert_eq!(Verdict::of(capture.read(by_byte, ending)), whole, "{version}/{name}, byte by byte");
            for round in 0..SPLITS {
                let seed = seed as u64 * SPLITS + round;
                let pieces = split(&capture.body, seed);
                assert_eq!(Verdict::of(capture.read(pieces, ending)), whole, "{version}/{name}, split by seed {seed}");
            }
        }
    }
}

#[test]
fn a_stream_that_breaks_off_is_no_answer_even_when_its_end_looks_clean() {
    let cut = chats(OLD).filter(|(_, expected)| *expected == Lost);
    let verdicts: Vec<_> = cut
        .map(|(name, _)| Capture::load(OLD, name))
        .map(|capture| found(&capture.read(vec![capture.body.clone()], Ending::Clean), None))
        .collect();
    assert_eq!(verdicts, ["Invalid"; 3]);
}

#[test]
fn no_prefix_of_a_streamed_answer_is_an_answer() {
    for version in VERSIONS {
        for name in ["03_ok_stream", "05_ok_stream_think", "07_ok_stream_tool", "11_ok_stream_ctrl"] {
            let capture = Capture::load(version, name);
            let marker = b"data: [DONE]\n";
            let end = capture.body.windows(marker.len()).rposition(|window| window == marker).unwrap() + marker.len();
            for length in 0..end {
                let signal = capture.read(vec![capture.body.slice(..length)], Ending::Clean);
                assert!(matches!(signal, Signal::Invalid(_)), "{version}/{name}, {length} bytes: {signal:?}");
            }
        }
    }
}

#[test]
fn a_stop_on_a_thinking_chunk_does_not_end_the_answer() {
    let mut capture = Capture::load(OLD, "05_ok_stream_think");
    let text = String::from_utf8(capture.body.to_vec()).unwrap();
    let without_last: String = text.split_inclusive('\n').filter(|line| !line.contains("\"usage\"")).collect();
    assert!(without_last.len() < text.len() && without_last.matches("\"stop\"").count() == 3);
    // With usage from elsewhere the missing finish_reason is all there is to see.
    let usage = "data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 4}}\n\ndata: [DONE]";
    capture.body = without_last.replace("data: [DONE]", usage).into();
    let signal = capture.read(vec![capture.body.clone()], Ending::Clean);
    assert!(matches!(&signal, Signal::Invalid(reason) if reason.contains("finish_reason")), "{signal:?}");
}

#[test]
fn an_error_after_the_finish_reason_still_voids_the_answer() {
    let failed = Capture::load(NEW, "98_up_midcut_stream").body;
    let failed = std::str::from_utf8(&failed).unwrap();
    let error = failed.lines().find(|line| line.contains("\"error\"")).unwrap();
    for version in VERSIONS {
        let mut capture = Capture::load(version, "03_ok_stream");
        let text = String::from_utf8(capture.body.to_vec()).unwrap();
        capture.body = text.replace("data: [DONE]", &format!("\n\n{error}\n\ndata: [DONE]")).into();
        let signal = capture.read(vec![capture.body.clone()], Ending::Clean);
        assert!(matches!(signal, Signal::Invalid(_)), "{version}: {signal:?}");
    }
}

#[test]
fn a_compressed_reply_is_called_so() {
    for version in VERSIONS {
        for name in ["20_ok_gzip", "21_ok_gzip_big", "23_ok_br_zstd_big"] {
            let capture = Capture::load(version, name);
            let signal = capture.read(vec![capture.body.clone()], Ending::Clean);
            assert!(matches!(&signal, Signal::Invalid(reason) if reason.contains("compressed")), "{name}: {signal:?}");
        }
    }
}

#[test]
fn oddities_of_an_answer_can_be_seen() {
    for version in VERSIONS {
        let answer = |name: &str| Capture::load(version, name).answer();
        for name in ["12_ok_stream_length", "13_ok_nonstream_length"] {
            assert_eq!(answer(name).is_truncated(None), version == NEW, "{version}/{name}");
            assert!(answer(name).is_truncated(Some(8)) && !answer("03_ok_stream").is_truncated(Some(9)), "{version}");
        }
        assert!(answer("14_ok_stream_empty").is_empty() && answer("15_ok_nonstream_empty").is_empty(), "{version}");
        assert!(!answer("08_ok_nonstream_tool").is_empty(), "{version}: a tool call is an answer");
    }
    let alias = Capture::load(OLD, "144_alias_model").answer();
    assert!(alias.is_other_model("my-alias") && !alias.is_other_model("llama3.1"));
}

#[test]
fn the_prompt_that_a_refusal_echoes_is_not_passed_on() {
    assert!(Capture::load(NEW, "56_bad_ctype").body.windows(17).any(|window| window == b"What is your name"));
    assert_eq!(that_pass_on("What is your name"), Vec::<String>::new());
}

#[test]
fn the_address_of_the_server_behind_is_not_passed_on() {
    assert_eq!(that_pass_on("://"), Vec::<String>::new());
}

#[test]
fn an_assembled_reply_keeps_the_servers_own_bytes() {
    let answer = Capture::load(OLD, "09_ok_stream_unicode").answer();
    let content = r#""caf\u00e9 \u65e5\u672c\u8a9e \ud83d\ude42\u2028x\ny\"q\"\t""#;
    assert_eq!(answer.part_or_null(answer.choices[0].content), content.as_bytes());
    for version in VERSIONS {
        let capture = Capture::load(version, "03_ok_stream");
        let answer = capture.answer();
        let usage = answer.part_or_null(answer.usage);
        assert!(usage.len() > 100 && capture.body.windows(usage.len()).any(|window| window == usage), "{version}");
    }
}

#[test]
fn duplicate_headers_do_not_disturb() {
    let capture = Capture::load(OLD, "03_ok_stream");
    for name in ["date", "server"] {
        assert_eq!(capture.headers.get_all(name).iter().count(), 2, "{name} is there twice");
    }
    let mut single = HeaderMap::new();
    for name in capture.headers.keys() {
        single.insert(name.clone(), capture.headers[name].clone());
    }
    let alone = Head::read(capture.head.status, &single, UNIX_EPOCH);
    assert_eq!(format!("{:?}", capture.head), format!("{alone:?}"));

    let mut refusal = Capture::load(NEW, "84_up_err429").headers;
    refusal.append("date", HeaderValue::from_static("Mon, 23 Nov 2026 04:27:29 GMT"));
    refusal.append("server", HeaderValue::from_static("Python/3.11 aiohttp/3.11.11"));
    assert_eq!(Head::read(429, &refusal, UNIX_EPOCH).wait, Some(Duration::from_secs(7)));
}

#[test]
fn the_version_page_tells_open_webui_and_no_other_page_does() {
    for version in VERSIONS {
        let dialect = |name: &str| {
            let capture = Capture::load(version, name);
            Dialect::of_version_reply(capture.head.status, &capture.body)
        };
        assert_eq!(dialect("46_version"), Dialect::OpenWebUi, "{version}");
        for name in ["40_models", "41_models_user", "42_models_noauth", "71_path_get", "70_path_post_wrong"] {
            assert_eq!(dialect(name), Dialect::OpenAi, "{version}/{name}");
        }
    }
}

#[test]
fn the_list_of_models_is_read_in_the_servers_order() {
    const OLLAMA: [&str; 21] = [
        "llama3.1:latest",
        "llama3.2:latest",
        "think:latest",
        "slow:latest",
        "empty:latest",
        "err404:latest",
        "err500:latest",
        "err503:latest",
        "err503html:latest",
        "errnobody:latest",
        "err429:latest",
        "midjson:latest",
        "midcut:latest",
        "midgarbage:latest",
        "nodone:latest",
        "lengthstop:latest",
        "tool:latest",
        "unicode:latest",
        "hang:latest",
        "connreset:latest",
        "ctrlchars:latest",
    ];
    let list = |version: &str, name: &str| models::parse(&Capture::load(version, name).body);
    let with_llama_cpp: Vec<&str> = ["tiny-random"].into_iter().chain(OLLAMA).collect();
    assert_eq!(list(OLD, "40_models").unwrap(), with_llama_cpp);
    assert_eq!(list(NEW, "40_models").unwrap(), OLLAMA);
    assert_eq!(list(OLD, "132_down_models").unwrap(), ["tiny-random"]);
    assert_eq!(list(NEW, "132_down_models").unwrap(), OLLAMA);
    for version in VERSIONS {
        assert_eq!(list(version, "41_models_user"), Ok(Vec::new()), "{version}: nothing is shared with this account");
        for name in ["42_models_noauth", "71_path_get", "46_version", "01_ok_nonstream"] {
            assert!(list(version, name).is_err(), "{version}/{name} is no list of models");
        }
    }
    let names = list(NEW, "40_models").unwrap();
    assert!(models::contains(&names, "llama3.1") && models::contains(&names, "llama3.1:latest"));
    assert!(!models::contains(&names, "tiny-random"));
}

// ------------------------------------------------------------------------------------------------------- the helpers

/// The chat replies of one version.
fn chats(version: &str) -> impl Iterator<Item = (&'static str, Expected)> {
    let old = version == OLD;
    TABLE
        .iter()
        .map(move |(name, of_old, of_new)| (*name, if old { *of_old } else { *of_new }))
        .filter(|(_, expected)| *expected != Absent)
}

/// The captures whose verdict, in whatever words, contains `secret`.
fn that_pass_on(secret: &str) -> Vec<String> {
    let mut telling = Vec::new();
    for version in VERSIONS {
        for (name, expected) in chats(version).filter(|(_, expected)| !matches!(expected, Says(_))) {
            let capture = Capture::load(version, name);
            let said = format!("{:?}", capture.read(vec![capture.body.clone()], ending(expected)));
            if said.contains(secret) {
                telling.push(format!("{version}/{name}: {said}"));
            }
        }
    }
    telling
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/captures")
}

/// One recorded reply; its body was stored without the chunked framing.
struct Capture {
    headers: HeaderMap,
    head: Head,
    body: Bytes,
}

impl Capture {
    fn load(version: &str, name: &str) -> Self {
        let path = folder().join(version).join(format!("{name}.http"));
        let stored = std::fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        Self::parse(Bytes::from(stored))
    }

    fn parse(stored: Bytes) -> Self {
        let mut wire = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut wire);
        let httparse::Status::Complete(length) = response.parse(&stored).unwrap() else { panic!("the head is cut") };
        let status = response.code.unwrap();
        if status < 200 {
            return Self::parse(stored.slice(length..));
        }
        let mut headers = HeaderMap::new();
        for header in response.headers.iter() {
            let name = HeaderName::from_bytes(header.name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(header.value).unwrap());
        }
        let head = Head::read(status, &headers, UNIX_EPOCH);
        Self { headers, head, body: stored.slice(length..) }
    }

    /// The verdict on the reply when its body arrives in these pieces.
    fn read(&self, pieces: Vec<Bytes>, ending: Ending) -> Signal {
        let mut body = Pieces { rest: pieces.into(), ending };
        let streams = (200..300).contains(&self.head.status);
        let read = if streams && self.head.kind == ContentKind::EventStream && !self.head.encoded {
            read_stream(&mut body)
        } else {
            let whole = collect(&mut body, REPLY_BYTES_MAX).now_or_never().expect("pieces never wait");
            whole.map(|whole| whole.map_or(Body::TooLarge, Body::Whole))
        };
        match read {
            Ok(body) => judge(&self.head, body),
            Err(TransportError::Lost(text)) => Signal::Lost(text),
            Err(other) => panic!("pieces do not end by {other:?}"),
        }
    }

    fn answer(&self) -> Answer {
        match self.read(vec![self.body.clone()], Ending::Clean) {
            Signal::Answer(answer) => *answer,
            other => panic!("no answer: {other:?}"),
        }
    }
}

/// How the connection behaved after the last byte.
#[derive(Clone, Copy)]
enum Ending {
    Clean,
    Broken,
}

fn ending(expected: Expected) -> Ending {
    if expected == Lost { Ending::Broken } else { Ending::Clean }
}

/// A body that arrives in pieces.
struct Pieces {
    rest: VecDeque<Bytes>,
    ending: Ending,
}

impl ReplyBody for Pieces {
    async fn chunk(&mut self) -> Result<Option<Bytes>, TransportError> {
        match (self.rest.pop_front(), self.ending) {
            (Some(piece), _) => Ok(Some(piece)),
            (None, Ending::Clean) => Ok(None),
            (None, Ending::Broken) => Err(TransportError::Lost("the reply broke off".to_owned())),
        }
    }
}

/// Reads a stream to its end, as an attempt does.
fn read_stream(body: &mut Pieces) -> Result<Body, TransportError> {
    let (mut decoder, mut assembler) = (Decoder::default(), Assembler::default());
    while let Some(piece) = body.chunk().now_or_never().expect("pieces never wait")? {
        if !decoder.feed(&piece, &mut |data| assembler.event(data) == More::Yes) {
            return Ok(Body::Stream(assembler.finish()));
        }
    }
    decoder.finish(&mut |data| assembler.event(data) == More::Yes);
    Ok(Body::Stream(assembler.finish()))
}

/// Cuts `body` at up to 24 random places; the same seed gives the same cuts.
fn split(body: &Bytes, seed: u64) -> Vec<Bytes> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cuts: Vec<usize> = (0..random.usize(1..=24)).map(|_| random.usize(0..=body.len())).collect();
    cuts.extend([0, body.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| body.slice(pair[0]..pair[1])).collect()
}

/// All that a verdict consists of: the assembled bytes of an answer, the words of anything else.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Answer(Vec<u8>),
    Other(String),
}

impl Verdict {
    fn of(signal: Signal) -> Self {
        match signal {
            Signal::Answer(answer) => Self::Answer(answer.body().to_vec()),
            other => Self::Other(format!("{other:?}")),
        }
    }
}

/// An expectation in the words in which [`found`] tells a verdict.
fn render(expected: Expected) -> String {
    format!("{expected:?}")
}

/// A verdict in the words of the table.
fn found(signal: &Signal, wait: Option<Duration>) -> String {
    let wait = wait.map(|wait| wait.as_secs());
    let expected = match signal {
        Signal::Answer(answer) => return said(answer),
        Signal::Rejected(failure) if is_upstreams(failure.code) => {
            return format!("Rejected({})", failure.status.unwrap_or_default());
        }
        Signal::RateLimited(_) => RateLimited(wait),
        Signal::Unavailable(_) => Unavailable(wait),
        Signal::ModelNotFound(_) => ModelNotFound,
        Signal::NotFound(_) => NotFound,
        Signal::WrongPath(_) => WrongPath,
        Signal::Unauthorized(_) => Unauthorized,
        Signal::Failing(_) => Failing,
        Signal::Invalid(_) => Invalid,
        Signal::Html(_) => Html,
        Signal::Lost(_) => Lost,
        other => return format!("{other:?}"),
    };
    render(expected)
}

fn is_upstreams(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::UpstreamRejected | ErrorCode::ModelNotFound)
}

/// An answer as [`Says`], every part read back from the answer's own bytes.
fn said(answer: &Answer) -> String {
    let [choice] = &answer.choices[..] else { return format!("{} choices", answer.choices.len()) };
    let text = |span| serde_json::from_slice::<Option<String>>(answer.part_or_null(span)).unwrap();
    let calls = serde_json::from_slice::<Option<Vec<Call>>>(answer.part_or_null(choice.tool_calls)).unwrap();
    let calls = calls.unwrap_or_default();
    assert!(calls.iter().all(Call::holds_up), "{calls:?}");
    let (content, finish_reason) = (text(choice.content), text(choice.finish_reason));
    let reasoning = text(choice.reasoning);
    render(Says(Said {
        content: leak(content.unwrap_or_else(|| "(no content)".to_owned())),
        finish_reason: leak(finish_reason.unwrap_or_else(|| "(no finish_reason)".to_owned())),
        model: leak(answer.model().as_deref().unwrap_or("(no model)").to_owned()),
        tool_calls: calls.len(),
        reasoning: reasoning.map(leak),
        tokens: (answer.tokens.prompt, answer.tokens.completion),
    }))
}

/// The table is made of constants, so what is compared with it has to live as long.
fn leak(text: String) -> &'static str {
    text.leak()
}

/// A tool call as every capture has it.
#[derive(Debug, serde::Deserialize)]
struct Call {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    function: Function,
}

#[derive(Debug, serde::Deserialize)]
struct Function {
    name: String,
    arguments: String,
}

impl Call {
    fn holds_up(&self) -> bool {
        let arguments: serde_json::Value = serde_json::from_str(&self.function.arguments).unwrap_or_default();
        self.id.starts_with("call_")
            && self.kind == "function"
            && self.function.name == "get_weather"
            && arguments["city"] == "Lafayette"
    }
}
