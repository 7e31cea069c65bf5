//! A stand-in for the real chat service: speaks its wire format, its latency and its failures on 127.0.0.1.
//! Invariant: what it sends is a function of the flags, the prompt and the attempt number, never of arrival order.
//! It knows nothing of the filter; any client may talk to it.

use std::io::Write as _;
use std::rc::Rc;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

#[path = "anvilgpt-sim/admin.rs"]
mod admin;
#[path = "anvilgpt-sim/answer.rs"]
mod answer;
#[path = "anvilgpt-sim/args.rs"]
mod args;
#[path = "anvilgpt-sim/ask.rs"]
mod ask;
#[path = "anvilgpt-sim/auth.rs"]
mod auth;
#[path = "anvilgpt-sim/chat.rs"]
mod chat;
#[path = "anvilgpt-sim/deliver.rs"]
mod deliver;
#[path = "anvilgpt-sim/draw.rs"]
mod draw;
#[path = "anvilgpt-sim/fault.rs"]
mod fault;
#[path = "anvilgpt-sim/flood.rs"]
mod flood;
#[path = "anvilgpt-sim/gate.rs"]
mod gate;
#[path = "anvilgpt-sim/head.rs"]
mod head;
#[path = "anvilgpt-sim/http.rs"]
mod http;
#[path = "anvilgpt-sim/job.rs"]
mod job;
#[path = "anvilgpt-sim/json.rs"]
mod json;
#[path = "anvilgpt-sim/listen.rs"]
mod listen;
#[path = "anvilgpt-sim/quota.rs"]
mod quota;
#[path = "anvilgpt-sim/refusal.rs"]
mod refusal;
#[path = "anvilgpt-sim/route.rs"]
mod route;
#[path = "anvilgpt-sim/sim.rs"]
mod sim;
#[path = "anvilgpt-sim/stats.rs"]
mod stats;
#[path = "anvilgpt-sim/stream.rs"]
mod stream;
#[path = "anvilgpt-sim/tally.rs"]
mod tally;
#[path = "anvilgpt-sim/usage.rs"]
mod usage;

fn main() -> anyhow::Result<()> {
    let args = args::Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    tokio::task::LocalSet::new().block_on(&runtime, run(args))
}

/// Serves until SIGTERM or SIGINT.
async fn run(args: args::Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let mut listener = listen::Listener::bind(args.port)?;
    announce(listener.port())?;
    let sim = Rc::new(sim::Sim::new(args));
    tokio::select! {
        end = listener.serve(&sim) => end,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Prints where the service listens; whoever started us waits for this line.
fn announce(port: u16) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening http://127.0.0.1:{port}/api").context("write to stdout")?;
    out.flush().context("flush stdout")
}
