//! The list of models behind `GET {base}/models`, of which only the names matter.

use serde::Deserialize;

/// Models that are looked at; a longer list is cut.
const MODELS_MAX: usize = 10_000;

#[derive(Deserialize)]
struct WireList {
    #[serde(alias = "models")]
    data: Vec<WireModel>,
}

#[derive(Deserialize)]
struct WireModel {
    #[serde(alias = "name", alias = "model")]
    id: String,
}

#[derive(Deserialize)]
struct WireOpenWebUiModel {
    id: String,
}

#[derive(Deserialize)]
struct WireOpenWebUiList {
    data: Vec<WireOpenWebUiModel>,
}

/// The names of the models, in the server's order; the error says that this is no list of models.
pub fn parse(body: &[u8]) -> Result<Vec<String>, String> {
    let names = match serde_json::from_slice::<WireOpenWebUiList>(body) {
        Ok(list) => list.data.into_iter().map(|model| model.id).collect::<Vec<_>>(),
        Err(_) => {
            let list: WireList =
                serde_json::from_slice(body).map_err(|error| format!("not a list of models: {error}"))?;
            list.data.into_iter().map(|model| model.id).collect()
        }
    };
    Ok(names.into_iter().take(MODELS_MAX).collect())
}

/// Whether `model` is in the list, the way Ollama reads names (`x` is `x:latest`).
pub fn contains(names: &[String], model: &str) -> bool {
    names.iter().any(|name| name == model || name.strip_suffix(":latest") == Some(model))
}

/// A few of the names, for an error message.
pub fn few(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| crate::line::escape::for_people(name, 80)).collect();
    let rest = names.len().saturating_sub(SHOWN);
    if rest > 0 { format!("{} and {rest} more", shown.join(", ")) } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[test]
    fn open_webui_openai_and_ollama_lists_are_read() {
        let webui = br#"{"data":[{"id":"a:latest","name":"A","model":"x"},{"id":"b"}]}"#;
        assert_eq!(super::parse(webui).unwrap(), ["a:latest", "b"]);
        assert_eq!(super::parse(br#"{"models":[{"name":"c"}]}"#).unwrap(), ["c"]);
        assert!(super::parse(b"<html>").is_err());
        assert!(super::contains(&["a:latest".into()], "a") && !super::contains(&["a:8b".into()], "a"));
    }
}
