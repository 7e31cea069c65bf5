//! The connection of a configuration to its service: the transport, and the list of models with what to do when there
//! is none. Knows no line and no stdout.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::api::client::{ApiClient, Settings};
use crate::api::token::{TokenError, TokenSource};
use crate::api::transport::{Page, Transport as _, collect};
use crate::api::{self, TransportError};
use crate::config::{Config, EndpointConfig};
use crate::engine;
use crate::exit::{Exit, Stop};
use crate::flow::Quotas;

const LIST_MAX: Duration = Duration::from_secs(30);
const LIST_BYTES_MAX: usize = 8 << 20;

/// The transports of a configuration, one for each endpoint in their order.
pub fn clients(config: &Config) -> Result<Vec<ApiClient>, Stop> {
    config.service.endpoints.iter().map(|endpoint| client_of(config, endpoint)).collect()
}

/// The transport of one endpoint. A command that gives its key is run. Where there are several, the error names the
/// endpoint.
pub fn client_of(config: &Config, endpoint: &EndpointConfig) -> Result<ApiClient, Stop> {
    let client = run_command(&endpoint.token).and_then(|()| {
        ApiClient::new(settings_of(config, endpoint)).map_err(|message| {
            Stop::config(message).way_out("`anvil-filter check` walks configuration, connection and token one by one")
        })
    });
    client.map_err(|stop| at(config, endpoint, stop))
}

/// Runs the command of a source that is one. Its error knows the way out, which that of a transport does not.
fn run_command(source: &TokenSource) -> Result<(), Stop> {
    match source {
        TokenSource::Command(_) => {
            let stop = |error: TokenError| Stop::config(error.to_string()).way_out(error.way_out());
            source.read().map(drop).map_err(stop)
        }
        TokenSource::None | TokenSource::Environment(_) | TokenSource::File(_) => Ok(()),
    }
}

/// The endpoints of a configuration, for the engine; `clients` are their transports, in the same order.
pub fn endpoints<'c>(config: &Config, clients: &'c [ApiClient]) -> Vec<engine::Endpoint<'c, ApiClient>> {
    let endpoints = config.service.endpoints.iter().zip(clients);
    let given = endpoints.map(|(endpoint, transport)| engine::Endpoint {
        transport,
        name: name(endpoint),
        dialect: endpoint.dialect,
        concurrency: endpoint.concurrency.map(NonZeroUsize::get),
        quotas: Quotas::new(&endpoint.rates, endpoint.tokens_per_minute),
    });
    given.collect()
}

/// What people call an endpoint: its host, and its port when that is not the usual one.
pub fn name(endpoint: &EndpointConfig) -> String {
    let url = &endpoint.base_url;
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What the transport of a configuration's first endpoint needs to know.
pub fn settings(config: &Config) -> Settings {
    settings_of(config, config.service.first())
}

fn settings_of(config: &Config, endpoint: &EndpointConfig) -> Settings {
    Settings {
        base_url: endpoint.base_url.clone(),
        token: endpoint.token.clone(),
        ca_certificates_pem: config.service.ca_certificates_pem.clone(),
        connect_timeout: config.clocks.connect,
        connections_max: endpoint.concurrency.unwrap_or(config.limits.concurrency).get(),
    }
}

/// The same stop, with the endpoint that it is about where there are several.
pub fn at(config: &Config, endpoint: &EndpointConfig, stop: Stop) -> Stop {
    match config.service.endpoints.len() {
        0 | 1 => stop,
        _ => Stop { message: format!("{}: {}", endpoint.base_url, stop.message), ..stop },
    }
}

/// The names of the models that the token may use.
pub async fn models(client: &ApiClient) -> Result<Vec<String>, Stop> {
    let fetched = async {
        let mut reply = client.get(Page::Models).await?;
        let body = collect(&mut reply.body, LIST_BYTES_MAX).await?.unwrap_or_default();
        Ok::<_, TransportError>((reply.head.status, body))
    };
    let reply = tokio::time::timeout(LIST_MAX, fetched).await;
    let (status, body) = match reply {
        Ok(Ok(reply)) => reply,
        Ok(Err(TransportError::Misconfigured(message))) => {
            return Err(Stop::config(message).way_out("check --base-url, --ca-cert and the proxy variables"));
        }
        Ok(Err(error)) => return Err(unreachable(&error.to_string())),
        Err(_) => return Err(unreachable(&format!("no answer within {}", humantime::format_duration(LIST_MAX)))),
    };
    match status {
        200..=299 => api::models::parse(&body).map_err(|error| wrong_address(&error)),
        401 | 403 => Err(token_rejected(status)),
        429 | 500..=599 => Err(unreachable(&format!("HTTP {status}"))),
        _ => Err(wrong_address(&format!("HTTP {status}"))),
    }
}

fn unreachable(cause: &str) -> Stop {
    Stop::new(Exit::Resumable, format!("the service cannot be reached: {cause}"))
        .way_out("try again later; on a compute node, see whether it may reach the network or needs https_proxy")
}

fn token_rejected(status: u16) -> Stop {
    Stop::new(Exit::TokenRejected, format!("the service rejects the token (HTTP {status})"))
        .way_out("get a new key from the web page of the service (Settings, Account), and put it into the key file or ANVILGPT_API_KEY")
}

fn wrong_address(cause: &str) -> Stop {
    Stop::new(Exit::Unavailable, format!("there is no list of models at this base URL ({cause})"))
        .way_out("check --base-url: for Open WebUI it ends in /api, for most others in /v1")
}

/// The error of a run that has no model, with what the service offers.
pub async fn no_model(clients: &[ApiClient]) -> Stop {
    let (mut names, mut trouble) = (Vec::new(), None);
    for client in clients {
        match models(client).await {
            Ok(more) => names.extend(more),
            Err(stop) => trouble = trouble.or(Some(stop.message)),
        }
    }
    names.sort_unstable();
    names.dedup();
    let offered = match trouble {
        _ if !names.is_empty() => format!("the service has: {}", api::models::few(&names)),
        Some(trouble) => trouble,
        None => nothing_listed().message,
    };
    Stop::config("no model: neither the first line nor the configuration names one; nothing was sent")
        .way_out(format!("name one by -m MODEL, ANVILGPT_MODEL, or a \"model\" in each line; {offered}"))
}

/// The error of an account that sees no model.
pub fn nothing_listed() -> Stop {
    Stop::new(Exit::Unavailable, "the service lists no model for this token")
        .way_out("either its model servers are down, or no model is shared with your account: look at the web page, or ask the administrators")
}
