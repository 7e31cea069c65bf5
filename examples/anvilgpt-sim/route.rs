//! A connection's life, and which path leads where. Knows nothing of what a chat is.

use std::io::Write as _;
use std::rc::Rc;

use tokio::net::TcpStream;

use crate::admin;
use crate::args::Regime;
use crate::chat::{self, Next};
use crate::fault::Kind;
use crate::http::{Conn, Method, ReadError, Request};
use crate::json;
use crate::refusal::Reply;
use crate::sim::Sim;

/// Serves a connection until it ends.
pub async fn connection(sim: Rc<Sim>, stream: TcpStream) {
    let _counted = Counted::new(&sim);
    let mut conn = Conn::new(stream);
    loop {
        let request = match conn.request().await {
            Ok(request) => request,
            Err(ReadError::Gone) => return,
            Err(ReadError::Bad(status)) => {
                let text = Reply {
                    content_type: "text/plain; charset=utf-8",
                    ..Reply::json(status, "Invalid HTTP request received.")
                };
                chat::send(&sim, &mut conn, &text).await;
                return;
            }
        };
        if answer(&sim, &mut conn, &request).await == Next::Close || !request.keep_alive {
            return;
        }
    }
}

/// Counts a connection as open until it drops.
struct Counted(Rc<Sim>);

impl Counted {
    fn new(sim: &Rc<Sim>) -> Counted {
        let mut live = sim.live.borrow_mut();
        let counts = &mut live.stats.counts;
        counts.connections += 1;
        counts.connections_max = counts.connections_max.max(counts.connections);
        Counted(Rc::clone(sim))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.live.borrow_mut().stats.counts.connections -= 1;
    }
}

async fn answer(sim: &Rc<Sim>, conn: &mut Conn, request: &Request) -> Next {
    if request.path.starts_with("/redirected") {
        sim.live.borrow_mut().stats.counts.redirect_hits += 1;
    }
    let reply = match (request.method, request.path.as_str()) {
        (Method::Get, "/stats") => admin::stats(sim),
        (Method::Get, "/requests") => admin::requests(sim),
        (Method::Post, "/control") => return admin::control(sim, conn, request).await,
        (Method::Post, "/reset") => admin::reset(sim),
        _ => match sim.page() {
            Some(page) => page,
            None => return serve(sim, conn, request).await,
        },
    };
    chat::send(sim, conn, &reply).await
}

/// Answers what clients of the service ask.
async fn serve(sim: &Rc<Sim>, conn: &mut Conn, request: &Request) -> Next {
    let regime = sim.regime();
    let reply = match (request.method, request.path.as_str()) {
        (Method::Post, path) if is_chat(regime, path) => {
            return Box::pin(chat::chat(sim, conn, request)).await;
        }
        (Method::Get, "/health") => Reply::json(200, r#"{"status":true}"#),
        (Method::Get, path) if is_under(regime, path, "/models") => models(sim, request),
        (Method::Get, path) if path.ends_with("/version") => version(sim, path),
        (Method::Head, _) => return head_only(sim, conn).await,
        (method, path) => unknown(regime, method, path),
    };
    chat::send(sim, conn, &reply).await
}

fn is_chat(regime: Regime, path: &str) -> bool {
    let versioned = regime == Regime::Webui12 && path.ends_with("/api/v1/chat/completions");
    is_under(regime, path, "/chat/completions") || versioned
}

/// Whether a path is an endpoint of the API: Open WebUI has it under `/api`, others anywhere, both under any prefix.
fn is_under(regime: Regime, path: &str, endpoint: &str) -> bool {
    let Some(base) = path.strip_suffix(endpoint).filter(|base| !base.contains("//")) else {
        return false;
    };
    if regime.is_webui() { base.strip_suffix("/api").is_some_and(|prefix| prefix != "/") } else { !base.ends_with('/') }
}

fn unknown(regime: Regime, method: Method, path: &str) -> Reply {
    match (regime, method) {
        (Regime::Openai, _) => Reply::openai(
            404,
            &format!("Invalid URL ({} {path})", if method == Method::Get { "GET" } else { "POST" }),
            None,
        ),
        (_, Method::Get) => Reply::app_page(),
        (_, Method::Options) => Reply { content_type: "text/plain; charset=utf-8", ..Reply::json(200, "OK") },
        (Regime::Webui12, _) => Reply::detail(405, "Method Not Allowed").with("allow", "GET, HEAD"),
        _ => Reply::detail(405, "Method Not Allowed"),
    }
}

/// Answers a HEAD as the application's page, without the page.
async fn head_only(sim: &Sim, conn: &mut Conn) -> Next {
    let page = Reply::app_page();
    let bytes = sim.render(&page);
    match conn.write(&bytes[..bytes.len() - page.body.len()]).await {
        Ok(()) => Next::Keep,
        Err(_) => Next::Close,
    }
}

fn version(sim: &Sim, path: &str) -> Reply {
    let (number, turn) = {
        let mut live = sim.live.borrow_mut();
        live.stats.counts.version_requests += 1;
        (live.stats.counts.requests, live.stats.counts.version_requests)
    };
    if sim.is_struck(&Kind::VersionDown, number, turn) {
        return Reply::of_status(sim.regime(), 503, b"");
    }
    if sim.is_struck(&Kind::VersionHtml, number, turn) {
        return Reply::maintenance_page();
    }
    match sim.regime() {
        Regime::Webui06 => Reply::json(200, r#"{"version":"0.6.13"}"#),
        Regime::Webui12 => Reply::json(200, r#"{"version":"0.12.4","deployment_id":""}"#),
        Regime::Openai => unknown(Regime::Openai, Method::Get, path),
    }
}

fn models(sim: &Sim, request: &Request) -> Reply {
    let (number, turn) = {
        let mut live = sim.live.borrow_mut();
        live.stats.counts.models_requests += 1;
        (live.stats.counts.requests, live.stats.counts.models_requests)
    };
    if let Err(reply) = sim.authorize(request) {
        return reply;
    }
    if sim.is_struck(&Kind::ModelsDown, number, turn) {
        return Reply::of_status(sim.regime(), 503, b"");
    }
    let shown = if sim.is_struck(&Kind::ModelsEmpty, number, turn) { &[][..] } else { &sim.args.models[..] };
    Reply::json(200, model_list(sim.regime(), shown, sim.created()))
}

fn model_list(regime: Regime, models: &[String], now: u64) -> Vec<u8> {
    let mut out =
        if regime == Regime::Openai { br#"{"object":"list","data":["#.to_vec() } else { br#"{"data":["#.to_vec() };
    for (index, model) in models.iter().enumerate() {
        let name = String::from_utf8_lossy(&json::quoted(model)).into_owned();
        let comma = if index > 0 { "," } else { "" };
        let created = if regime == Regime::Webui12 { 0 } else { now };
        let loaded = match (regime, index) {
            (Regime::Webui12, 0) => r#","loaded":true"#,
            (Regime::Webui12, _) => r#","loaded":false"#,
            _ => "",
        };
        let expires = if index == 0 { format!(r#","expires_at":{now}"#) } else { String::new() };
        match regime {
            Regime::Openai => write!(out, r#"{comma}{{"id":{name},"object":"model","created":{now},"owned_by":"library"}}"#),
            _ => write!(
                out,
                r#"{comma}{{"id":{name},"name":{name},"object":"model","created":{created},"owned_by":"ollama","ollama":{{"name":{name},"model":{name},{OLLAMA_MODEL}{expires}}}{loaded},"connection_type":"local","tags":[],"actions":[],"filters":[]}}"#
            ),
        }
        .expect("a Vec takes every write");
    }
    out.extend_from_slice(b"]}");
    out
}

/// What Ollama tells of a model, the same for all.
const OLLAMA_MODEL: &str = r#""modified_at":"2025-06-01T00:00:00Z","size":4920753328,"digest":"42182419e9508c30c4b1fe55015f06b65f4ca4b9e28a744be55008d21998a093","details":{"parent_model":"","format":"gguf","family":"llama","families":["llama"],"parameter_size":"8.0B","quantization_level":"Q4_K_M"},"connection_type":"local","urls":[0]"#;
