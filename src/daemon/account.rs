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
    /// The transports that send its key, one for each endpoint.
    clients: RefCell<Option<Rc<[ApiClient]>>>,
}

impl Account {
    /// The daemon's account, and those of the owners that the configuration names. Fails when the daemon's own cannot
    /// be used; an owner's is tried when it is needed.
    pub fn all(config: &Config) -> Result<Vec<Self>, Stop> {
        let clients = RefCell::new(Some(connection::clients(config)?.into()));
        let own = Self { place: 0, owner: None, clients };
        let owners = config.daemon.iter().flat_map(|daemon| &daemon.owners).cloned();
        let others = owners.enumerate().map(|(place, owner)| Self {
            place: place + 1,
            owner: Some(owner),
            clients: RefCell::default(),
        });
        Ok(std::iter::once(own).chain(others).collect())
    }

    /// Whose it is, when it is an owner's.
    pub fn name(&self) -> Option<&str> {
        self.owner.as_ref().map(|owner| owner.name.as_str())
    }

    /// The transports that send this account's key, one for each endpoint. The error names the key file.
    pub fn clients(&self, config: &Config) -> Result<Rc<[ApiClient]>, Stop> {
        if let Some(clients) = &*self.clients.borrow() {
            return Ok(Rc::clone(clients));
        }
        let Some(owner) = &self.owner else { return Ok(connection::clients(config)?.into()) };
        let token = TokenSource::File(TokenFile::new(owner.api_key_file.clone(), FileRule::OwnerOnly));
        let settings = Settings { token: Arc::new(token), ..connection::settings(config) };
        let client = ApiClient::new(settings)
            .map_err(|message| Stop::config(message).way_out("mend the key file: it is read again soon"))?;
        let clients: Rc<[ApiClient]> = Rc::new([client]);
        *self.clients.borrow_mut() = Some(Rc::clone(&clients));
        Ok(clients)
    }

    /// Reads the key again; whether it is another one, or can be used now.
    pub fn has_new_key(&self, config: &Config) -> bool {
        let clients = self.clients.borrow().clone();
        let renew = |clients: Rc<[ApiClient]>| {
            // Each of them reads its own key again, whatever the others found.
            clients.iter().filter(|client| client.renew_token() == Ok(true)).count() > 0
        };
        clients.map_or_else(|| self.clients(config).is_ok(), renew)
    }
}
