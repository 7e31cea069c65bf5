//! Whose key pays. The daemon has its own, and an owner of files may have one that pays for these alone.
//!
//! Invariant: a key is sent to the configured service and to no other.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::api::client::{ApiClient, Settings};
use crate::api::token::{FileRule, TokenFile, TokenSource};
use crate::api::transport::Transport as _;
use crate::config::{Config, Owner};
use crate::connection;
use crate::exit::Stop;

/// An account of the service.
#[derive(Debug)]
pub struct Account {
    /// Its place among the accounts; 0 is the daemon's own.
    pub place: usize,
    owner: Option<Owner>,
    client: RefCell<Option<Rc<ApiClient>>>,
}

impl Account {
    /// The daemon's account, and those of the owners that the configuration names. Fails when the daemon's own cannot
    /// be used; an owner's is tried when it is needed.
    pub fn all(config: &Config) -> Result<Vec<Self>, Stop> {
        let own = Self { place: 0, owner: None, client: RefCell::new(Some(Rc::new(connection::client(config)?))) };
        let owners = config.daemon.iter().flat_map(|daemon| &daemon.owners).cloned();
        let others = owners.enumerate().map(|(place, owner)| Self {
            place: place + 1,
            owner: Some(owner),
            client: RefCell::default(),
        });
        Ok(std::iter::once(own).chain(others).collect())
    }

    /// Whose it is, when it is an owner's.
    pub fn name(&self) -> Option<&str> {
        self.owner.as_ref().map(|owner| owner.name.as_str())
    }

    /// The transport that sends this account's key. The error names the key file.
    pub fn client(&self, config: &Config) -> Result<Rc<ApiClient>, Stop> {
        if let Some(client) = &*self.client.borrow() {
            return Ok(Rc::clone(client));
        }
        let Some(owner) = &self.owner else { return Ok(Rc::new(connection::client(config)?)) };
        let token = TokenSource::File(TokenFile::new(owner.api_key_file.clone(), FileRule::OwnerOnly));
        let settings = Settings { token: Arc::new(token), ..connection::settings(config) };
        let client = ApiClient::new(settings)
            .map_err(|message| Stop::config(message).way_out("mend the key file: it is read again soon"))?;
        let client = Rc::new(client);
        *self.client.borrow_mut() = Some(Rc::clone(&client));
        Ok(client)
    }

    /// Reads the key again; whether it is another one, or can be used now.
    pub fn has_new_key(&self, config: &Config) -> bool {
        let client = self.client.borrow().clone();
        client.map_or_else(|| self.client(config).is_ok(), |client| client.renew_token() == Ok(true))
    }
}
