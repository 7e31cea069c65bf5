//! The layers below the command line: `/etc`, the user's file, the named file, and the environment.
//!
//! Invariant: a key stays with the base URL that it was written for. Refuses to know what flags say.

use std::path::Path;

use url::Url;

use super::BASE_URL_DEFAULT;
use super::ceilings::{Ceiling, Ceilings};
use super::environment::Environment;
use super::file;
use super::keys::KeyPlace;
use super::layer::Layer;
use super::values::parse_base_url;
use crate::exit::Stop;
use crate::line::escape::shown;

/// What the configuration files say together.
pub(super) struct Files {
    pub(super) settings: Layer,
    /// What no flag can raise.
    pub(super) ceiling: Ceiling,
    /// The key, and the base URL that it was written for.
    pub(super) key: Option<(KeyPlace, Url)>,
    /// The base URLs that keys of other places belong to, too. Of several endpoints that is the first: the others may be
    /// other people's, and have keys of their own.
    pub(super) base_urls: Vec<Url>,
    pub(super) warnings: Vec<String>,
}

pub(super) fn read_files(named: Option<&Path>, environment: &Environment) -> Result<Files, Stop> {
    let home = environment.folder("HOME");
    let etc = environment.etc_config.as_path();
    let user = environment.user_folder().map(|folder| folder.join("config.toml"));
    let mut files = Files {
        settings: Layer::default(),
        ceiling: Ceiling::default(),
        key: None,
        base_urls: Vec::new(),
        warnings: Vec::new(),
    };
    for path in [Some(etc), user.as_deref(), named].into_iter().flatten() {
        match file::load(path, home.as_deref())? {
            Some(layer) => files.add(layer, path, etc)?,
            None if Some(path) == named => {
                return Err(Stop::config(format!("read configuration {}: no such file", shown(path)))
                    .way_out("check the path after --config"));
            }
            None => {}
        }
    }
    Ok(files)
}

impl Files {
    fn add(&mut self, mut layer: Layer, path: &Path, etc: &Path) -> Result<(), Stop> {
        match std::mem::take(&mut layer.limits) {
            values if values == Ceilings::default() => {}
            values if path == etc => self.ceiling = Ceiling { values, path: path.to_owned() },
            _ => self.warnings.push(format!(
                "[limits] in {} is ignored: only {} sets limits; the same keys above all tables set a wish",
                shown(path),
                shown(etc)
            )),
        }
        self.base_urls.extend(first_base_url(&layer).cloned());
        let key = KeyPlace::of(layer.api_key_file.take(), layer.api_key_command.take());
        self.settings = layer.over(std::mem::take(&mut self.settings));
        if let Some(key) = key {
            // A later file may name another service; this key does not follow it there.
            let meant = first_base_url(&self.settings).cloned();
            self.key = Some((key, meant.map_or_else(|| parse_base_url(BASE_URL_DEFAULT), Ok)?));
        }
        Ok(())
    }
}

/// The base URL that stands for a layer's service.
fn first_base_url(layer: &Layer) -> Option<&Url> {
    layer.base_url.as_ref().or_else(|| Some(&layer.endpoint.first()?.base_url))
}

pub(super) fn variables(environment: &Environment) -> Result<Layer, Stop> {
    let name = "ANVILGPT_BASE_URL";
    let base_url = environment.text(name)?.map(|text| parse_base_url(&text)).transpose();
    let base_url = base_url.map_err(|stop| Stop { message: format!("{name}: {}", stop.message), ..stop })?;
    Ok(Layer { base_url, model: environment.text("ANVILGPT_MODEL")?, ..Layer::default() })
}
