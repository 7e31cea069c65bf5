//! The key goes to its own host and nowhere else, what comes from outside is harmless on a terminal, and a connection
//! that cannot be trusted is not used.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{Output, Run, Sim, prompt, prompts};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use serde_json::json;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A key that occurs nowhere else.
const CANARY: &str = "sk-canary-0a7f3b91c5";

// Row 41: TLS.

/// A certificate authority of our own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A server of the simulator behind TLS, with a certificate for `name`; returns its port.
    fn serve(&self, name: &str, last_year: i32, sim: &Sim) -> u16 {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config =
            ServerConfig::builder_with_provider(Arc::new(tokio_rustls::rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], key)
                .unwrap();
        tls_in_front_of(sim.address().to_owned(), TlsAcceptor::from(Arc::new(config)))
    }
}

/// Takes TLS off and passes the bytes on; lives as long as the test.
fn tls_in_front_of(target: String, acceptor: TlsAcceptor) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, target) = (acceptor.clone(), target.clone());
                tokio::spawn(async move {
                    let Ok(mut outside) = acceptor.accept(stream).await else { return };
                    let Ok(mut inside) = tokio::net::TcpStream::connect(&target).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                });
            }
        });
    });
    port
}

fn over_tls(port: u16, trusted: Option<&Authority>) -> Output {
    let run = Run::at(&format!("https://localhost:{port}/api")).args(["--max-outage", "2s"]);
    let authority = trusted.map(|authority| run.file("ca.pem", authority.0.pem()));
    let run = run.args(authority.into_iter().flat_map(|path| ["--ca-cert".into(), path.into_os_string()]));
    run.input(prompts(3)).output()
}

#[test]
fn a_certificate_of_a_trusted_authority_is_accepted() {
    let (sim, authority) = (Sim::start(&[]), Authority::new());
    let output = over_tls(authority.serve("localhost", 2100, &sim), Some(&authority)).expect(0);
    assert_eq!(output.codes(), ["", "", ""]);
}

#[test]
fn a_bad_certificate_ends_the_run_with_78_and_nothing_is_sent() {
    let (sim, authority) = (Sim::start(&[]), Authority::new());
    let expired = over_tls(authority.serve("localhost", 2021, &sim), Some(&authority));
    let unknown = over_tls(authority.serve("localhost", 2100, &sim), None);
    let of_another = over_tls(authority.serve("localhost", 2100, &sim), Some(&Authority::new()));
    let wrong_name = over_tls(authority.serve("other.example", 2100, &sim), Some(&authority));
    for output in [expired, unknown, of_another, wrong_name] {
        let output = output.expect(78);
        assert!(output.stdout.is_empty() && output.stderr.contains("certificate"), "{output}");
    }
    assert_eq!((sim.count("requests"), sim.count("version_requests")), (0, 0));
}

#[test]
fn a_plain_server_behind_https_is_no_success() {
    let sim = Sim::start(&[]);
    let port = sim.address().rsplit(':').next().unwrap().parse().unwrap();
    let output = over_tls(port, None);
    assert!([75, 78].contains(&output.status) && output.stdout.is_empty(), "{output}");
}

// Row 41: proxies.

#[derive(Clone)]
enum Manner {
    /// 407 to everything.
    AsksWho,
    /// Reads the request, then closes.
    Drops,
    /// Connects to this port of this machine, whatever is asked for.
    Tunnels(u16),
}

/// A proxy, and the heads of the requests that it got.
struct Proxy {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(manner: Manner) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (manner, seen) = (manner.clone(), Arc::clone(&seen));
                std::thread::spawn(move || handle(stream, &manner, &seen));
            }
        });
        Proxy { port, heads }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn handle(mut stream: TcpStream, manner: &Manner, seen: &Mutex<Vec<String>>) {
    let head = read_head(&mut stream);
    seen.lock().unwrap().push(head);
    match manner {
        Manner::Drops => {}
        Manner::AsksWho => {
            let _ = stream.write_all(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n",
            );
        }
        Manner::Tunnels(port) => {
            let server = TcpStream::connect(("127.0.0.1", *port)).unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            let (mut from, mut to) = (stream.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            let (mut server, mut stream) = (server, stream);
            let _ = std::io::copy(&mut server, &mut stream);
        }
    }
}

fn read_head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length > 0) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// A run against a host that only the proxy can find.
fn through(proxy: &Proxy) -> Run {
    let run = Run::bare()
        .env("https_proxy", proxy.url())
        .args(["--base-url", "https://service.example/api", "-m", common::MODEL])
        .args(["--max-retry-delay", "50ms", "--max-outage", "500ms"]);
    let key = run.file("key", CANARY);
    run.args(["--api-key-file".as_ref(), key.as_os_str()])
}

#[test]
fn a_proxy_from_the_environment_is_used_and_does_not_see_the_key() {
    let (sim, authority) = (Sim::start(&[]), Authority::new());
    let proxy = Proxy::start(Manner::Tunnels(authority.serve("service.example", 2100, &sim)));
    let run = through(&proxy);
    let pem = run.file("ca.pem", authority.0.pem());
    let output = run.args(["--ca-cert".as_ref(), pem.as_os_str()]).input(prompts(3)).output().expect(0);
    assert_eq!(output.codes(), ["", "", ""]);
    let heads = proxy.heads();
    assert!(heads.iter().all(|head| head.starts_with("CONNECT service.example:443 ")), "{heads:?}");
    assert!(!heads.is_empty() && !heads.concat().contains(CANARY));
}

#[test]
fn a_proxy_that_wants_to_know_who_we_are_ends_the_run_with_78() {
    let proxy = Proxy::start(Manner::AsksWho);
    let output = through(&proxy).input(prompts(3)).output().expect(78);
    assert!(output.stdout.is_empty() && output.stderr.contains("proxy"), "{output}");
    let sim = Sim::start(&[]);
    let output = Run::on(&sim).env("http_proxy", proxy.url()).input(prompts(3)).output();
    assert!([0, 78].contains(&output.status), "by way of the proxy, or past it: {output}");
}

#[test]
fn a_proxy_that_drops_the_connection_is_an_outage() {
    let proxy = Proxy::start(Manner::Drops);
    let output = through(&proxy).input(prompts(3)).output().expect(75);
    assert!(output.stdout.is_empty(), "{output}");
    assert!(proxy.heads().len() >= 3, "it was tried again: {:?}", proxy.heads());
}

#[test]
fn a_proxy_that_is_not_there_is_an_outage() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let proxy = Proxy { port, heads: Arc::default() };
    let output = through(&proxy).input(prompts(3)).output().expect(75);
    assert!(output.stdout.is_empty(), "{output}");
}

// Row 42.

fn harmless(text: &str) -> bool {
    let harmful = |character: char| {
        (character.is_control() && character != '\n')
            || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    !text.contains(harmful) && !text.contains("\nsecond line")
}

#[test]
fn hostile_replies_and_errors_are_harmless_on_a_terminal() {
    for regime in ["0.6", "0.12", "openai"] {
        let sim = Sim::start(&["--regime", regime]);
        let faults = ["escape", "escape-error=400", "escape-error=422", "escape-error=429*1", "escape-error=503*1"];
        let faults = faults.into_iter().chain(["escape-error=500*1", "escape-error=403", "escape-error=404"]);
        let input: String = faults.map(|fault| prompt(&format!("sim:{fault} x"))).collect();
        for format in ["completion", "raw", "batch", "events"] {
            let output =
                Run::on(&sim).args(["-v", "-v", "--format", format, "-j", "1"]).input(&*input).output().expect(1);
            assert!(harmless(&output.stderr), "{regime} {format}: {:?}", output.stderr);
            let records = output.lines();
            if format != "events" {
                assert_eq!(records.len(), 8, "one line each: {output}");
            }
            // C0 would break JSON, and lines() has read it; an error's text is escaped for people as well.
            for record in records.iter().filter(|record| record["error"].is_object()) {
                assert!(harmless(record["error"]["message"].as_str().unwrap()), "{record}");
            }
        }
        let output = Run::on(&sim).args(["--format", "text", "-0"]).input(input.replace('\n', "\0")).output().expect(1);
        assert!(harmless(&output.stderr), "{regime}: {:?}", output.stderr);
        assert!(output.stderr.contains("line 2: upstream_rejected"), "{output}");
    }
}

#[test]
fn hostile_texts_that_end_a_run_are_harmless_as_well() {
    for fault in ["escape-error=405", "escape-error=501", "escape-error=401", "escape-error=503"] {
        let sim = Sim::start(&["--fault", fault]);
        let output = Run::on(&sim).args(["--max-outage", "300ms", "-v"]).input(prompts(3)).output();
        assert!([1, 69, 75, 77, 78].contains(&output.status), "{fault}: {output}");
        assert!(harmless(&output.stderr), "{fault}: {:?}", output.stderr);
    }
    let sim = Sim::start(&["--model", "bad\u{1b}[31m\u{202e}name"]);
    let run = || Run::bare().env("ANVILGPT_API_KEY", common::KEY);
    let output = run().args(["--base-url", &sim.base()]).input(prompts(1)).output().expect(78);
    assert!(harmless(&output.stderr) && output.stderr.contains("bad"), "{output}");
    let output = run().args(["models", "--base-url", &sim.base()]).output().expect(0);
    assert!(harmless(&output.text()) && output.text().contains("bad"), "{output}");
    let output = run().args(["check", "--base-url", &sim.base(), "-m", "x\u{1b}[31m"]).output();
    assert!(harmless(&output.text()) && harmless(&output.stderr), "{output}");
}

// Row 43.

fn no_canary(output: &Output, files: &[&str]) {
    let secret = CANARY.strip_prefix("sk-").unwrap();
    assert!(!output.stderr.contains(secret), "{output}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains(secret), "{output}");
    for name in files.iter().filter(|name| output.has_file(name)) {
        assert!(!String::from_utf8_lossy(&output.file(name)).contains(secret), "{name}");
    }
}

fn proc_file(pid: u32, name: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{name}")).unwrap()).into_owned()
}

/// A run that says all it can.
fn talkative(run: Run) -> Run {
    let (meta, failed) = (run.path("meta.json"), run.path("failed.jsonl"));
    run.args(["-v".as_ref(), "-v".as_ref(), "--progress".as_ref(), "--meta".as_ref(), meta.as_os_str()])
        .args(["--failed".as_ref(), failed.as_os_str()])
}

const WRITTEN: [&str; 2] = ["meta.json", "failed.jsonl"];

#[test]
fn the_key_is_in_no_output_of_a_run_that_succeeds_or_fails() {
    let faults =
        ["", "sim:status=413", "sim:null", "sim:eof", "sim:unauthorized", "sim:status=422", "sim:retry-after=503:3600"];
    for fault in faults {
        let sim = Sim::start(&["--token", CANARY]);
        let input = format!("{}{}", prompts(1), prompt(fault));
        let run = Run::on(&sim).env("ANVILGPT_API_KEY", CANARY).args(["-j", "1"]);
        let output = talkative(run).input(&*input).output();
        no_canary(&output, &WRITTEN);
        assert_eq!(sim.requests()[0]["authorization_token_index"], 0, "the key did arrive");
        let run = Run::on(&sim).without("ANVILGPT_API_KEY");
        let key = run.file("key", CANARY);
        let output = talkative(run.args(["--api-key-file".as_ref(), key.as_os_str()])).input(input).output();
        no_canary(&output, &WRITTEN);
    }
}

#[test]
fn the_key_is_in_no_output_of_a_run_that_is_refused() {
    let sim = Sim::start(&["--token", "sk-other"]);
    let run = Run::on(&sim).env("ANVILGPT_API_KEY", CANARY);
    no_canary(&talkative(run).input(prompts(2)).output().expect(77), &WRITTEN);
    let broken = format!("{CANARY} and more");
    let run = Run::on(&sim).env("ANVILGPT_API_KEY", &broken);
    no_canary(&talkative(run).input(prompts(2)).output().expect(78), &WRITTEN);
    let run = Run::on(&sim).without("ANVILGPT_API_KEY");
    let key = run.file("key", format!("{CANARY}\n{CANARY}\n"));
    no_canary(&talkative(run.args(["--api-key-file".as_ref(), key.as_os_str()])).output().expect(78), &WRITTEN);
    for args in [vec![format!("--api-key={CANARY}")], vec!["--api-key-file".into(), CANARY.into()], vec![CANARY.into()]]
    {
        no_canary(&Run::on(&sim).args(args).output().expect(64), &[]);
    }
    for command in ["check", "models"] {
        let run = Run::bare().env("ANVILGPT_API_KEY", CANARY).args([command, "--base-url", &sim.base(), "-v", "-v"]);
        no_canary(&run.output().expect(77), &[]);
    }
    let userinfo = format!("http://user:{CANARY}@127.0.0.1:1/api");
    let run = Run::bare().env("ANVILGPT_API_KEY", common::KEY).args(["--base-url", &userinfo, "-m", "x", "-v"]);
    let output = run.args(["--max-outage", "200ms", "--max-retry-delay", "50ms"]).input(prompts(1)).output();
    assert_ne!(output.status, 0);
    no_canary(&output, &[]);
}

/// Some services quote the key that they refuse.
#[test]
fn a_key_that_the_service_quotes_back_is_not_passed_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || quote_back(&mut stream));
        }
    });
    let run = Run::at(&format!("http://127.0.0.1:{port}/api")).env("ANVILGPT_API_KEY", CANARY);
    let output = talkative(run).args(["--dialect", "openai"]).input(prompts(2)).output().expect(1);
    assert_eq!(output.codes(), ["upstream_rejected"; 2]);
    no_canary(&output, &WRITTEN);
}

fn quote_back(stream: &mut TcpStream) {
    let head = read_head(stream);
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    let _ = stream.read_exact(&mut body);
    let key = head.lines().find_map(|line| Some(line.split_once("Bearer ")?.1.to_owned())).unwrap_or_default();
    let reply = json!({ "detail": format!("Incorrect API key provided: {key}.") }).to_string();
    let length = reply.len();
    let _ = write!(
        stream,
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{reply}"
    );
}

#[test]
fn the_key_is_in_no_argument_and_of_a_file_not_in_the_environment() {
    let sim = Sim::start(&["--token", CANARY]);
    let run = Run::on(&sim).without("ANVILGPT_API_KEY");
    let key = run.file("key", CANARY);
    let mut live = run.args(["--api-key-file".as_ref(), key.as_os_str()]).start();
    live.feed(prompts(1));
    live.wait_for_lines(1);
    assert!(
        !proc_file(live.pid(), "cmdline").contains("canary") && !proc_file(live.pid(), "environ").contains("canary")
    );
    live.close_input();
    no_canary(&live.finish().expect(0), &[]);
    let mut live = Run::on(&sim).env("ANVILGPT_API_KEY", CANARY).start();
    live.feed(prompts(1));
    live.wait_for_lines(1);
    assert!(!proc_file(live.pid(), "cmdline").contains("canary"));
    let children = Path::new("/proc").join(live.pid().to_string()).join("task").join(live.pid().to_string());
    assert_eq!(std::fs::read_to_string(children.join("children")).unwrap_or_default(), "", "nobody inherits it");
}

#[test]
fn a_key_goes_to_no_host_but_its_own() {
    let run = |base: &str| Run::at(base).env("ANVILGPT_API_KEY", CANARY).input(prompts(1)).output();
    for base in [
        "https://other.example/api",
        "https://anvilgpt.rcac.purdue.edu.other.example/api",
        "https://127.0.0.1.example/api",
    ] {
        let output = run(base).expect(78);
        assert!(output.stdout.is_empty() && output.stderr.contains("--api-key-file"), "{output}");
        no_canary(&output, &[]);
    }
    for base in [
        "http://other.example/api",
        "http://10.0.0.1/api",
        "http://0.0.0.0:1/api",
        "http://localhost.example/api",
        "ftp://localhost/api",
    ] {
        let output = run(base).expect(78);
        assert!(output.stdout.is_empty(), "{output}");
        no_canary(&output, &[]);
    }
}

#[test]
fn a_key_file_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let sim = Sim::start(&[]);
    for mode in [0o640, 0o604, 0o644] {
        let run = Run::on(&sim).without("ANVILGPT_API_KEY");
        let key = run.file("key", CANARY);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        let run = run.args(["--api-key-file".as_ref(), key.as_os_str()]);
        let output = run.input(prompts(1)).output().expect(78);
        assert!(output.stderr.contains("chmod 600"), "{output}");
    }
    assert_eq!(sim.count("requests"), 0);
}

/// The key's own file in the user's folder, and a pipe, serve as well.
#[test]
fn a_key_is_found_in_its_usual_places() {
    let sim = Sim::start(&["--token", CANARY]);
    let run = Run::on(&sim).without("ANVILGPT_API_KEY");
    std::fs::create_dir_all(run.path(".config/anvil-filter")).unwrap();
    run.file(".config/anvil-filter/api-key", CANARY);
    run.env("ANVILGPT_BASE_URL", sim.base()).input(prompts(1)).output().expect(0);
    let script = format!(r#"printf '%s\n' {CANARY} | {{ "$0" "$@" --api-key-file /dev/fd/3 3<&0 </dev/null; }}"#);
    let run = Run::on(&sim).without("ANVILGPT_API_KEY");
    let input = run.file("in.jsonl", prompts(1));
    let output = run.args([input]).shell(&script).output().expect(0);
    assert_eq!(output.codes(), [""]);
    // On this machine a service may want no key; elsewhere the lack of one is found before anything is sent.
    Run::on(&sim).without("ANVILGPT_API_KEY").input(prompts(1)).output().expect(77);
    Run::on(&Sim::start(&["--open"])).without("ANVILGPT_API_KEY").input(prompts(1)).output().expect(0);
    let output = Run::bare().args(["-m", "x"]).input(prompts(1)).output().expect(78);
    assert!(output.stderr.contains("ANVILGPT_API_KEY") && output.stderr.contains("--api-key-file"), "{output}");
}
