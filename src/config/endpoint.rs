//! The `[[endpoint]]` tables of one layer of settings.
//!
//! Invariant: a value here is valid on its own; which keys may go to an endpoint is for the build to find out.

use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use serde::de::{Deserializer, SeqAccess, Visitor};
use url::Url;

use super::layer::{base_url_itself, key_command, key_file, rates};
use super::{DialectChoice, Rate};
use crate::api::token::KeyCommand;

/// One `[[endpoint]]` of a layer: a base URL, and what holds for it alone.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // The names are those of the configuration file and of `EndpointConfig`, where they are described.
pub struct EndpointLayer {
    #[serde(deserialize_with = "base_url_itself")]
    pub base_url: Url,
    #[serde(default, deserialize_with = "key_file")]
    pub api_key_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "key_command")]
    pub api_key_command: Option<KeyCommand>,
    #[serde(default)]
    pub dialect: Option<DialectChoice>,
    #[serde(default)]
    pub concurrency: Option<NonZeroUsize>,
    #[serde(default, deserialize_with = "rates")]
    pub rate: Option<Vec<Rate>>,
    #[serde(default)]
    pub tokens_per_min: Option<NonZeroU64>,
}

impl EndpointLayer {
    /// An endpoint of which nothing but its base URL is said.
    pub(super) fn at(base_url: Url) -> EndpointLayer {
        EndpointLayer {
            base_url,
            api_key_file: None,
            api_key_command: None,
            dialect: None,
            concurrency: None,
            rate: None,
            tokens_per_min: None,
        }
    }
}

/// All the tables of a layer. A single one with the brackets of other tables gets an error that says how to write it.
pub(super) fn tables<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<EndpointLayer>, D::Error> {
    struct Tables;
    impl<'de> Visitor<'de> for Tables {
        type Value = Vec<EndpointLayer>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("one table or several, each under a [[endpoint]] of its own")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut tables = Vec::new();
            while let Some(table) = items.next_element()? {
                tables.push(table);
            }
            Ok(tables)
        }
    }
    input.deserialize_seq(Tables)
}
