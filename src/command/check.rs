//! `anvil-filter check`: walks configuration, name, connection, token, model and one tiny completion, and says at the
//! first failure what to do.

use std::time::{Duration, Instant, SystemTime};

use super::print;
use crate::api::body::render;
use crate::api::client::ApiClient;
use crate::api::models;
use crate::api::signal::{Body, Signal, judge};
use crate::api::token::{TokenSource, jwt_expiry};
use crate::api::transport::{Page, Transport as _, collect};
use crate::api::{Dialect, TransportError};
use crate::config::{Config, EndpointConfig};
use crate::connection;
use crate::exit::{Exit, Stop};
use crate::line::{InputForm, Request};

const REPLY_BYTES_MAX: usize = 8 << 20;

/// Walks the steps, of each endpoint one after another.
pub async fn run(config: Config) -> Result<Exit, Stop> {
    let mut lacking = Vec::new();
    for endpoint in &config.service.endpoints {
        let walked = walk(&config, endpoint).await.map_err(|stop| connection::at(&config, endpoint, stop))?;
        lacking.extend(walked.map(|stop| connection::at(&config, endpoint, stop)));
    }
    match lacking.len() == config.service.endpoints.len() {
        true => lacking.into_iter().next().map_or(Ok(Exit::Answered), Err),
        false => Ok(Exit::Answered),
    }
}

/// Walks one endpoint. Where there are several, one that has not the model is no failure, for another one may have it:
/// the stop comes back as a value.
async fn walk(config: &Config, endpoint: &EndpointConfig) -> Result<Option<Stop>, Stop> {
    print(&format!("configuration  ok   {}", endpoint.base_url))?;
    if std::ptr::eq(endpoint, config.service.first()) {
        config.warnings.iter().try_for_each(|warning| print(&format!("               note {warning}")))?;
    }
    resolve(endpoint).await?;
    let client = connection::client_of(config, endpoint)?;
    let dialect = connect(endpoint, &client).await?;
    let names = connection::models(&client).await?;
    print(&format!("token          ok   {}", token_text(&endpoint.token)))?;
    let model = match choose_model(config, &names) {
        Ok(model) => model,
        Err(stop) if config.service.endpoints.len() > 1 => {
            print(&format!("model          --   {}", stop.message))?;
            return Ok(Some(stop));
        }
        Err(stop) => return Err(stop),
    };
    print(&format!("model          ok   {model} ({} available)", names.len()))?;
    complete(config, &client, dialect, &model).await?;
    Ok(None)
}

async fn resolve(endpoint: &EndpointConfig) -> Result<(), Stop> {
    let url = &endpoint.base_url;
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443));
    if let Some(proxy) = proxy_of(url.scheme()) {
        return print(&format!("name           --   left to the proxy {proxy}"));
    }
    let found = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await;
    let addresses: Vec<String> =
        found.map(|list| list.map(|address| address.ip().to_string()).collect()).unwrap_or_default();
    match addresses.first() {
        Some(first) => print(&format!("name           ok   {host} is {first}")),
        None => Err(Stop::new(Exit::Resumable, format!("the name {host} cannot be resolved")).way_out(
            "check the spelling of --base-url and the network; on a compute node, see whether it needs https_proxy",
        )),
    }
}

/// The proxy that the environment names for a scheme, without credentials.
fn proxy_of(scheme: &str) -> Option<String> {
    let names = [
        format!("{scheme}_proxy"),
        format!("{}_PROXY", scheme.to_uppercase()),
        "all_proxy".to_owned(),
        "ALL_PROXY".to_owned(),
    ];
    let value = names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
    let url = url::Url::parse(&value).ok();
    Some(
        url.and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)))
            .unwrap_or_else(|| "of the environment".to_owned()),
    )
}

async fn connect(endpoint: &EndpointConfig, client: &ApiClient) -> Result<Dialect, Stop> {
    let began = Instant::now();
    let asked = async {
        let mut reply = client.get(Page::Version).await?;
        let body = collect(&mut reply.body, REPLY_BYTES_MAX).await?.unwrap_or_default();
        Ok::<_, TransportError>((reply.head.status, body))
    };
    let (status, body) = asked.await.map_err(|error| match error {
        TransportError::Misconfigured(message) => {
            Stop::config(message).way_out("check --ca-cert and the proxy variables")
        }
        other => Stop::new(Exit::Resumable, format!("cannot connect: {other}"))
            .way_out("see whether the service is up, and whether this machine may reach it (firewall, https_proxy)"),
    })?;
    let secure = if endpoint.base_url.scheme() == "https" { "TLS" } else { "plain http" };
    print(&format!("connection     ok   {secure}, {} ms", began.elapsed().as_millis()))?;
    let found = Dialect::of_version_reply(status, &body);
    let dialect = endpoint.dialect.unwrap_or(found);
    let how = match endpoint.dialect {
        Some(_) => "as configured".to_owned(),
        None => format!("found by GET /version: HTTP {status}"),
    };
    print(&format!("dialect        ok   {} ({how})", dialect.name()))?;
    Ok(dialect)
}

fn token_text(source: &TokenSource) -> String {
    let Ok(Some(secret)) = source.read() else { return "none, and none is needed".to_owned() };
    let Some(expiry) = jwt_expiry(&secret) else { return "accepted".to_owned() };
    let left = expiry.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
    format!("accepted; it expires in {}", humantime::format_duration(Duration::from_secs(left.as_secs() / 60 * 60)))
}

fn choose_model(config: &Config, names: &[String]) -> Result<String, Stop> {
    let Some(model) = &config.defaults.model else {
        return names.first().cloned().ok_or_else(|| {
            Stop::new(Exit::Unavailable, "the service lists no model")
                .way_out("ask its administrators whether a model is shared with your account")
        });
    };
    if names.is_empty() || models::contains(names, model) {
        return Ok(model.clone());
    }
    Err(Stop::config(format!("the service has no model {model}"))
        .way_out(format!("name one of: {}", models::few(names))))
}

async fn complete(config: &Config, client: &ApiClient, dialect: Dialect, model: &str) -> Result<(), Stop> {
    let mut defaults = config.defaults.clone();
    defaults.model = Some(model.to_owned());
    let mut request = Request::parse(br#"{"prompt":"Say ok.","max_tokens":8}"#, InputForm::Json, &defaults)
        .map_err(|bad| Stop::config(bad.failure.to_string()))?;
    let began = Instant::now();
    let asked = async {
        let mut reply = client.post_chat(render(&mut request.chat, dialect, false).into()).await?;
        let body = collect(&mut reply.body, REPLY_BYTES_MAX).await?;
        Ok::<_, TransportError>(judge(&reply.head, body.map_or(Body::TooLarge, Body::Whole)))
    };
    match tokio::time::timeout(config.clocks.first_token, asked).await {
        Ok(Ok(Signal::Answer(answer))) => print(&format!(
            "completion     ok   {:.2} s, {} + {} tokens{}",
            began.elapsed().as_secs_f64(),
            answer.tokens.prompt,
            answer.tokens.completion,
            answer
                .model()
                .map(|served| format!(", served by {}", crate::line::escape::for_people(&served, 80)))
                .unwrap_or_default()
        )),
        Ok(Ok(signal)) => Err(refused(&signal.map_text(|text| client.redact(text)))),
        Ok(Err(error)) => Err(Stop::new(Exit::Resumable, format!("the completion failed: {error}"))
            .way_out("try again; if it stays, tell the administrators of the service")),
        Err(_) => Err(Stop::new(Exit::Resumable, "no completion in time")
            .way_out("the service may be overloaded or loading the model: try again later")),
    }
}

fn refused(signal: &Signal) -> Stop {
    let (exit, text) = match signal {
        Signal::Rejected(failure) => (Exit::Config, failure.message.clone()),
        Signal::ModelNotFound(text) | Signal::NotFound(text) => (Exit::Config, text.clone()),
        Signal::Unauthorized(text) => (Exit::TokenRejected, text.clone()),
        Signal::WrongPath(text) | Signal::Html(text) | Signal::Redirect(text) => (Exit::Unavailable, text.clone()),
        other => (Exit::Resumable, format!("{other:?}").chars().take(300).collect()),
    };
    let way_out = match exit {
        Exit::Unavailable => "check --base-url: for Open WebUI it ends in /api, for most others in /v1",
        Exit::TokenRejected => "the token may list models but not chat: ask the administrators",
        Exit::Config => "try another model: `anvil-filter models` lists them",
        _ => "try again later",
    };
    Stop::new(exit, format!("the completion was refused: {text}")).way_out(way_out)
}
