//! How one prompt file is run: what its lines get, how they are read, how the result looks. Fixed when the file is taken,
//! and written down with it, so that a restart goes on as it began. Pure.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::log::Bytes;
use super::names::Kind;
use crate::filter::{Found, Split, Splitter, Understanding, Understood};
use crate::journal::Settings;
use crate::line::completion::Style;
use crate::line::{Defaults, Format, InputForm};

/// How a prompt file is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The model of lines that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The system prompt of lines that bring none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Further request fields: names and JSON values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<(String, String)>,
    /// The form of a result line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// The field of the input object that takes the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<String>,
    /// Whether the file is one record, whatever line ends are in it.
    pub whole: bool,
    /// Whether a record is a prompt, rather than JSON.
    pub text: bool,
    /// The result's name.
    pub result_name: Bytes,
}

/// The settings that a plan is made of, from the folder's recipe and the daemon's configuration.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// What lines get that do not say so themselves.
    pub defaults: Defaults,
    /// The form of a result line.
    pub format: Option<Format>,
    /// The field that takes the answer.
    pub merge: Option<String>,
    /// How records are read; what the kind of file says, when nothing is said.
    pub form: Option<InputForm>,
}

impl Plan {
    /// The plan for a file of this kind.
    pub fn new(kind: Kind, wishes: Wishes, result_name: Bytes) -> Self {
        let Wishes { defaults, format, merge, form } = wishes;
        let lines_of_text = kind == Kind::Text && form == Some(InputForm::Text);
        let (whole, text) = match kind {
            Kind::Lines => (false, false),
            Kind::One => (true, false),
            Kind::Text => (!lines_of_text, true),
        };
        // The answer to a prompt that is a file is a text, too.
        let format = if kind == Kind::Text && whole { Some(Format::Text) } else { format };
        let params = defaults.params.iter().map(|(name, value)| (name.clone(), value.get().to_owned())).collect();
        Self { model: defaults.model, system: defaults.system, params, format, merge, whole, text, result_name }
    }

    /// Whether the file is one prompt, whose answer alone is the result.
    pub fn is_one_prompt(&self) -> bool {
        self.whole && self.text
    }

    /// How records become requests.
    pub fn understanding(&self, line_bytes_max: usize) -> Understanding {
        let raw = |(name, value): &(String, String)| Some((name.clone(), RawValue::from_string(value.clone()).ok()?));
        Understanding {
            form: if self.text { InputForm::Text } else { InputForm::Json },
            defaults: Defaults {
                model: self.model.clone(),
                system: self.system.clone(),
                params: self.params.iter().filter_map(raw).collect(),
            },
            line_bytes_max,
            keeps_records: self.merge.is_some(),
            hashes: true,
        }
    }

    /// How result lines look.
    pub fn style(&self) -> Style {
        Style { format: self.format, merge: self.merge.clone().filter(|_| !self.is_one_prompt()), terminator: b'\n' }
    }

    /// How the file is split.
    pub fn split(&self, line_bytes_max: usize) -> Split {
        Split { terminator: b'\n', line_bytes_max, hash: true, shard: None }
    }

    /// The settings as a journal records them.
    pub fn settings(&self, base_url: &str) -> Settings {
        Settings {
            base_url: base_url.to_owned(),
            dialect: None,
            model: self.model.clone(),
            system: self.system.clone(),
            params: self.params.clone(),
            input: if self.text { "text" } else { "json" }.to_owned(),
            shard: None,
        }
    }

    /// Makes requests of the contents of a file that is small enough for that.
    pub fn read(&self, contents: &[u8], line_bytes_max: usize) -> Vec<Understood> {
        let understanding = self.understanding(line_bytes_max);
        if self.whole {
            let record = contents.strip_prefix(b"\xef\xbb\xbf").unwrap_or(contents);
            return match record {
                blank if blank.iter().all(u8::is_ascii_whitespace) => Vec::new(),
                long if long.len() > line_bytes_max => vec![understanding.of(1, Found::TooLong(long.len() as u64))],
                record => vec![understanding.of(1, Found::Record(record))],
            };
        }
        let mut splitter = Splitter::new(self.split(line_bytes_max));
        let blocks = [splitter.feed(contents), splitter.finish()];
        blocks.iter().flat_map(|block| block.take(&mut |line, found| understanding.of(line, found))).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn plan(kind: Kind, form: Option<InputForm>) -> Plan {
        let defaults = Defaults { model: Some("m".to_owned()), ..Defaults::default() };
        Plan::new(kind, Wishes { defaults, form, ..Wishes::default() }, Bytes(Vec::new()))
    }

    fn prompts(plan: &Plan, contents: &str) -> Vec<(u64, bool)> {
        plan.read(contents.as_bytes(), 100).iter().map(|read| (read.line, read.request.is_ok())).collect()
    }

    #[test]
    fn the_kind_of_a_file_says_what_a_record_is() {
        let lines = "{\"prompt\":\"a\"}\n\nno json\n\"b\"";
        assert_eq!(prompts(&plan(Kind::Lines, None), lines), [(1, true), (3, false), (4, true)]);
        assert_eq!(prompts(&plan(Kind::One, None), "\u{feff}{\n \"prompt\":\n \"a\"\n}\n"), [(1, true)]);
        assert_eq!(prompts(&plan(Kind::One, None), lines), [(1, false)]);
        assert_eq!(prompts(&plan(Kind::Text, None), "two\nlines\n"), [(1, true)]);
        assert_eq!(prompts(&plan(Kind::Text, Some(InputForm::Text)), "two\n\nlines\n"), [(1, true), (3, true)]);
        assert_eq!(prompts(&plan(Kind::Text, None), &"x".repeat(101)), [(1, false)]);
        for kind in [Kind::Lines, Kind::One, Kind::Text] {
            assert_eq!(prompts(&plan(kind, None), "\n \r\n"), []);
        }
        let only_prompt = plan(Kind::Text, None);
        assert!(only_prompt.is_one_prompt() && only_prompt.style().format == Some(Format::Text));
        assert!(!plan(Kind::Text, Some(InputForm::Text)).is_one_prompt());
    }

    #[test]
    fn a_plan_comes_back_from_the_log_as_it_was() {
        let defaults = Defaults {
            model: Some("m".to_owned()),
            system: Some("s".to_owned()),
            params: vec![("seed".to_owned(), RawValue::from_string("1e400".to_owned()).unwrap())],
        };
        let wishes = Wishes { defaults, merge: Some("answer".to_owned()), ..Wishes::default() };
        let plan = Plan::new(Kind::Lines, wishes, Bytes(b"\xff".to_vec()));
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        assert_eq!(plan.understanding(10).defaults.params[0].1.get(), "1e400");
    }
}
