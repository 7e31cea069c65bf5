//! The layers below the command line: `/etc`, the user's file, the named file, and the environment.
//!
//! Invariant: a key file stays with the base URL that it was written for. Refuses to know what flags say.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use url::Url;

use super::BASE_URL_DEFAULT;
use super::environment::Environment;
use super::file;
use super::layer::Layer;
use super::values::parse_base_url;
use crate::exit::Stop;
use crate::line::escape::shown;

/// What the configuration files say together.
pub(super) struct Files {
    pub(super) settings: Layer,
    /// What no flag can raise, and the file that says so.
    pub(super) ceiling: Option<(NonZeroUsize, PathBuf)>,
    /// The key file, and the base URL that it was written for.
    pub(super) key_file: Option<(PathBuf, Url)>,
    pub(super) base_urls: Vec<Url>,
    pub(super) warnings: Vec<String>,
}

pub(super) fn read_files(named: Option<&Path>, environment: &Environment) -> Result<Files, Stop> {
    let home = environment.folder("HOME");
    let etc = environment.etc_config.as_path();
    let user = environment.user_folder().map(|folder| folder.join("config.toml"));
    let mut files = Files {
        settings: Layer::default(),
        ceiling: None,
        key_file: None,
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
        match std::mem::take(&mut layer.limits).concurrency {
            Some(ceiling) if path == etc => self.ceiling = Some((ceiling, path.to_owned())),
            Some(_) => self.warnings.push(format!(
                "[limits] in {} is ignored: only {} sets limits; `concurrency` sets a wish",
                shown(path),
                shown(etc)
            )),
            None => {}
        }
        self.base_urls.extend(layer.base_url.clone());
        let key_file = layer.api_key_file.take();
        self.settings = layer.over(std::mem::take(&mut self.settings));
        if let Some(key_file) = key_file {
            // A later file may name another service; this key does not follow it there.
            let meant = self.settings.base_url.clone().map_or_else(|| parse_base_url(BASE_URL_DEFAULT), Ok)?;
            self.key_file = Some((key_file, meant));
        }
        Ok(())
    }
}

pub(super) fn variables(environment: &Environment) -> Result<Layer, Stop> {
    let name = "ANVILGPT_BASE_URL";
    let base_url = environment.text(name)?.map(|text| parse_base_url(&text)).transpose();
    let base_url = base_url.map_err(|stop| Stop { message: format!("{name}: {}", stop.message), ..stop })?;
    Ok(Layer { base_url, model: environment.text("ANVILGPT_MODEL")?, ..Layer::default() })
}
