//! What tests ask of the simulator itself: counters, the requests as received, and changes on the fly.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ask;
use crate::chat::{self, Next};
use crate::fault::Rule;
use crate::http::{Conn, Request};
use crate::json::Object;
use crate::refusal::Reply;
use crate::sim::Sim;
use crate::stats::Record;

/// `GET /stats`
pub fn stats(sim: &Sim) -> Reply {
    let mut counts = sim.live.borrow().stats.snapshot();
    let queue = sim.gate.queue();
    (counts.queued, counts.queued_max, counts.queued_mean) = (queue.now, queue.max, queue.mean());
    counts.busy_seconds = queue.busy_seconds();
    Reply::json(200, serde_json::to_vec(&counts).expect("counters serialize"))
}

/// `POST /reset`
pub fn reset(sim: &Sim) -> Reply {
    sim.live.borrow_mut().stats.reset();
    sim.gate.reset_queue();
    Reply::json(200, "{}")
}

/// A request as `/requests` shows it.
#[derive(Serialize)]
struct Shown<'a> {
    body: Option<&'a RawValue>,
    headers: BTreeMap<String, String>,
    authorization_token_index: Option<usize>,
    arrived_us: u64,
    reached: BTreeMap<String, &'a RawValue>,
}

/// `GET /requests`
pub fn requests(sim: &Sim) -> Reply {
    let live = sim.live.borrow();
    let shown: Vec<Shown<'_>> = live.stats.records().map(|record| show(sim, record)).collect();
    Reply::json(200, serde_json::to_vec(&shown).expect("raw values and strings serialize"))
}

fn show<'a>(sim: &Sim, record: &'a Record) -> Shown<'a> {
    let body = std::str::from_utf8(&record.body).unwrap_or("null");
    let object: Option<Object<'a>> = serde_json::from_str(body).ok();
    let reached = object.map(|object| ask::reached(sim.regime(), &object)).unwrap_or_default();
    Shown {
        body: serde_json::from_str(body).ok(),
        headers: headers(&record.head),
        authorization_token_index: record.token,
        arrived_us: record.arrived_us,
        reached: reached.into_iter().map(|(key, value)| (key.into_owned(), value)).collect(),
    }
}

/// The header fields with names in lower case; no token leaves this process.
fn headers(head: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(head);
    let fields = text.lines().skip(1).filter_map(|line| line.split_once(':'));
    let named = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    let secret = |name: &str| matches!(name, "authorization" | "x-api-key");
    named.map(|(name, value)| if secret(&name) { (name, "present".to_owned()) } else { (name, value) }).collect()
}

/// The body of `POST /control`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Control {
    tokens: Option<Vec<String>>,
    /// 0 takes the limit away
    slots: Option<usize>,
    faults: Option<Vec<String>>,
    /// Refuses connections for so long, or answers with the page of `down_status`
    down_ms: Option<u64>,
    down_status: Option<u16>,
}

/// `POST /control`: all of it or nothing, answered before it goes down.
pub async fn control(sim: &Sim, conn: &mut Conn, request: &Request) -> Next {
    let reply = match apply(sim, &request.body) {
        Ok(()) => Reply::json(200, "{}"),
        Err(error) => Reply::detail(400, &error),
    };
    let next = chat::send(sim, conn, &reply).await;
    sim.doorbell.notify_one();
    next
}

fn apply(sim: &Sim, body: &[u8]) -> Result<(), String> {
    let control: Control = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let faults =
        control.faults.map(|faults| faults.iter().map(|fault| Rule::parse(fault)).collect::<Result<Vec<_>, _>>());
    let faults = faults.transpose()?;
    let mut live = sim.live.borrow_mut();
    if let Some(tokens) = control.tokens {
        live.tokens = tokens;
    }
    if let Some(faults) = faults {
        live.faults = faults;
    }
    let down_for = control.down_ms.map(Duration::from_millis);
    match (down_for, control.down_status) {
        (Some(time), Some(status)) => live.page = Some((status, Instant::now() + time)),
        _ => live.down_for = down_for,
    }
    drop(live);
    if let Some(slots) = control.slots {
        sim.gate.set_limit((slots > 0).then_some(slots));
    }
    Ok(())
}
