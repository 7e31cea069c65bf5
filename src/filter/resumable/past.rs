//! What earlier runs of a journal sent, for the quotas of this one.

use std::time::SystemTime;

use crate::api::client::ApiClient;
use crate::config::Config;
use crate::engine::Endpoint;
use crate::journal::Past;

/// The base URLs of a configuration's endpoints, by which a journal tells them apart.
pub fn base_urls(config: &Config) -> Vec<String> {
    config.service.endpoints.iter().map(|endpoint| endpoint.base_url.as_str().to_owned()).collect()
}

/// Lets the quotas of this run count what earlier ones sent.
pub fn remember(endpoints: &mut [Endpoint<'_, ApiClient>], config: &Config, past: &Past) {
    let now = SystemTime::now();
    for (endpoint, base_url) in endpoints.iter_mut().zip(base_urls(config)) {
        if endpoint.quotas.is_empty() {
            continue;
        }
        for (age, requests, tokens) in past.of(&base_url, now) {
            endpoint.quotas.remember(age, requests, tokens);
        }
    }
}
