//! What each account has sent: its quotas outlast the engine that halts, and the daemon that ends.
//!
//! Invariant: an attempt is counted in memory as soon as it ended, and in the log within a second.

use std::collections::HashMap;
use std::time::SystemTime;

use super::account::Account;
use super::log::Note;
use crate::api::client::ApiClient;
use crate::engine::Endpoint;
use crate::journal::{Past, Spending, Spent};

/// What all accounts have sent.
#[derive(Debug)]
pub struct Spendings {
    base_urls: Vec<String>,
    accounts: Vec<OfAccount>,
}

#[derive(Debug)]
struct OfAccount {
    /// The owner's name; nothing for the daemon's own account.
    name: String,
    fresh: Spending,
    past: Past,
}

impl Spendings {
    /// Of these accounts, at endpoints with these base URLs. `past` is what the logs of all spools say; whoever wrote
    /// them may have been killed with up to `in_flight_max` attempts under way, which the service has counted.
    pub fn new(
        accounts: &[Account],
        base_urls: Vec<String>,
        mut past: HashMap<String, Past>,
        in_flight_max: usize,
    ) -> Self {
        let of = |account: &Account| {
            let name = account.name().unwrap_or_default().to_owned();
            let mut past = past.remove(&name).unwrap_or_default();
            past.add_unknown(in_flight_max as u64);
            OfAccount { name, fresh: Spending::new(base_urls.clone()), past }
        };
        Self { accounts: accounts.iter().map(of).collect(), base_urls }
    }

    /// An attempt of an account ended.
    pub fn add(&mut self, account: usize, endpoint: usize, tokens: u64) {
        self.accounts[account].fresh.add(endpoint, tokens);
    }

    /// What is to be written into the log now: everything, when it is the `last` time.
    pub fn take(&mut self, last: bool) -> Vec<Note> {
        let mut notes = Vec::new();
        for account in self.accounts.iter_mut().filter(|account| account.fresh.is_pending()) {
            for spent in account.fresh.take(SystemTime::now(), last) {
                account.past.push(spent.clone());
                notes.push(Note::Spent { account: account.name.clone(), spent });
            }
        }
        notes
    }

    /// What is to be written into the log at the end: the rest, and that it was the end.
    pub fn close(&mut self) -> Vec<Note> {
        let mut notes = self.take(true);
        let accounts = self.accounts.iter().filter(|account| !account.past.stretches().is_empty());
        notes.extend(
            accounts.map(|account| Note::Spent { account: account.name.clone(), spent: Spent::end(SystemTime::now()) }),
        );
        notes
    }

    /// Lets the quotas of an account's next engine count what was sent before.
    pub fn remember(&self, account: usize, endpoints: &mut [Endpoint<'_, ApiClient>]) {
        let now = SystemTime::now();
        for (endpoint, base_url) in endpoints.iter_mut().zip(&self.base_urls) {
            if endpoint.quotas.is_empty() {
                continue;
            }
            for (age, requests, tokens) in self.accounts[account].past.of(base_url, now) {
                endpoint.quotas.remember(age, requests, tokens);
            }
        }
    }
}
