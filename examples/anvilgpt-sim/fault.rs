//! Which fault befalls a request. Pure: counts and draws come in as arguments. Knows nothing of sockets.

/// One way to fail; the names on the command line are the kebab-case ones.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// The connection is closed as soon as it is accepted
    RefuseAccept,
    /// Closed after the request, without a byte
    Eof,
    /// The same with a reset
    Reset,
    /// Closed after a proper answer, unannounced
    IdleClose,
    /// Silence
    HangHead,
    /// A head, then silence
    HangFirst,
    /// Half an answer, then silence
    HangMid,
    /// A byte of body each 200 ms
    Drip,
    /// Half of the announced length
    CutLength,
    /// Closed within a chunk
    CutChunk,
    /// A close-delimited answer, closed in the middle
    CutClose,
    /// An answer without end
    Endless,
    /// 200 with `null`
    Null,
    /// 200 with a page
    Html,
    /// 200 with an `error` object
    ErrorJson,
    /// No choices
    EmptyChoices,
    /// An event stream without a byte
    EmptyStream,
    /// No finish_reason
    NoFinish,
    /// A background task's id
    Task,
    /// The server's own form of an error in the middle
    MidError,
    /// The literal model `ollama`, and no text
    ModelOllama,
    /// 200 with JSON that ends early
    BadJson,
    /// 400 around an upstream's status
    Wrapped(u16),
    /// This status with its usual body
    Status(u16),
    /// This status with a `retry-after` header
    RetryAfter {
        /// Status code
        status: u16,
        /// Literal value, `date+S` or `date-S`
        value: String,
    },
    /// This status with `x-ratelimit-*` headers; 200 adds them to an answer
    RateHeaders {
        /// Status code
        status: u16,
        /// Requests left
        remaining: String,
        /// When there are more
        reset: String,
    },
    /// A redirect
    Redirect {
        /// Status code
        status: u16,
        /// Its target
        url: String,
    },
    /// A gzip body that unpacks to 1 GiB
    GzipBomb,
    /// A body of 1 GiB
    HugeBody,
    /// A mebibyte of header fields
    BigHead,
    /// The model is unknown
    ModelNotFound,
    /// The model list is empty
    ModelsEmpty,
    /// The model list answers 503
    ModelsDown,
    /// The version answers 503
    VersionDown,
    /// The version answers a page
    VersionHtml,
    /// An answer that would harm a terminal
    Escape,
    /// An error that would
    EscapeError(u16),
    /// An answer cut by its limit
    Length,
    /// An answer without text
    Empty,
    /// An answer of blanks
    Whitespace,
    /// An answer of another model
    OtherModel,
    /// The token has expired
    Unauthorized,
    /// The account may not
    Forbidden,
}

/// The kinds that take no argument.
const PLAIN: [(&str, Kind); 36] = [
    ("refuse-accept", Kind::RefuseAccept),
    ("eof", Kind::Eof),
    ("reset", Kind::Reset),
    ("idle-close", Kind::IdleClose),
    ("hang-head", Kind::HangHead),
    ("hang-first", Kind::HangFirst),
    ("hang-mid", Kind::HangMid),
    ("drip", Kind::Drip),
    ("cut-length", Kind::CutLength),
    ("cut-chunk", Kind::CutChunk),
    ("cut-close", Kind::CutClose),
    ("endless", Kind::Endless),
    ("null", Kind::Null),
    ("html", Kind::Html),
    ("error-json", Kind::ErrorJson),
    ("empty-choices", Kind::EmptyChoices),
    ("empty-stream", Kind::EmptyStream),
    ("no-finish", Kind::NoFinish),
    ("task", Kind::Task),
    ("mid-error", Kind::MidError),
    ("model-ollama", Kind::ModelOllama),
    ("bad-json", Kind::BadJson),
    ("gzip-bomb", Kind::GzipBomb),
    ("huge-body", Kind::HugeBody),
    ("big-head", Kind::BigHead),
    ("model-not-found", Kind::ModelNotFound),
    ("models-empty", Kind::ModelsEmpty),
    ("models-down", Kind::ModelsDown),
    ("version-down", Kind::VersionDown),
    ("version-html", Kind::VersionHtml),
    ("escape", Kind::Escape),
    ("escape-error", Kind::EscapeError(400)),
    ("length", Kind::Length),
    ("empty", Kind::Empty),
    ("whitespace", Kind::Whitespace),
    ("other-model", Kind::OtherModel),
];

impl Kind {
    /// Reads `KIND[=ARG]`.
    fn parse(text: &str) -> Result<Kind, String> {
        if let Some((_, kind)) = PLAIN.iter().find(|(name, _)| *name == text) {
            return Ok(kind.clone());
        }
        match text.split_once('=') {
            None if text == "unauthorized" => Ok(Kind::Unauthorized),
            None if text == "forbidden" => Ok(Kind::Forbidden),
            Some((name, argument)) => Kind::with_argument(name, argument),
            None => Err(format!("unknown fault `{text}`")),
        }
    }

    fn with_argument(name: &str, argument: &str) -> Result<Kind, String> {
        let (code, rest) = argument.split_once(':').unwrap_or((argument, ""));
        let status: u16 = code
            .parse()
            .ok()
            .filter(|code| (100..1000).contains(code))
            .ok_or_else(|| format!("fault `{name}={argument}`: want a status code first"))?;
        Ok(match name {
            "wrapped" => Kind::Wrapped(status),
            "status" => Kind::Status(status),
            "escape-error" => Kind::EscapeError(status),
            "retry-after" => Kind::RetryAfter { status, value: rest.to_owned() },
            "redirect" => Kind::Redirect { status, url: rest.to_owned() },
            "rate-headers" => {
                let (remaining, reset) = rest.split_once(':').unwrap_or((rest, ""));
                Kind::RateHeaders { status, remaining: remaining.to_owned(), reset: reset.to_owned() }
            }
            _ => return Err(format!("unknown fault `{name}=`")),
        })
    }

    /// True for the kinds that befall a chat request that was read.
    fn is_for_chat(&self) -> bool {
        !matches!(
            self,
            Kind::RefuseAccept | Kind::ModelsEmpty | Kind::ModelsDown | Kind::VersionDown | Kind::VersionHtml
        )
    }
}

/// A fault of the command line: what, how often and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// What happens
    pub kind: Kind,
    rate: f64,
    first: Option<u64>,
    after: Option<u64>,
}

impl Rule {
    /// Reads `KIND[=ARG][@RATE][,first=N][,after=N]`.
    pub fn parse(text: &str) -> Result<Rule, String> {
        let (mut rest, mut first, mut after) = (text, None, None);
        // The options come off the end, since an argument (an HTTP date) may hold commas.
        while let Some((head, option)) = rest.rsplit_once(',') {
            let number = |digits: &str| digits.parse::<u64>().map_err(|e| format!("fault `{text}`: {e}"));
            match option.split_once('=') {
                Some(("first", digits)) => first = Some(number(digits)?),
                Some(("after", digits)) => after = Some(number(digits)?),
                _ => break,
            }
            rest = head;
        }
        let rated = rest.rsplit_once('@').and_then(|(head, rate)| Some((head, rate.parse::<f64>().ok()?)));
        let (kind, rate) = rated.unwrap_or((rest, 1.0));
        if !(0.0..=1.0).contains(&rate) {
            return Err(format!("fault `{text}`: want a rate from 0 to 1"));
        }
        Ok(Rule { kind: Kind::parse(kind)?, rate, first, after })
    }

    /// Whether it befalls request `number` (counted from 1) whose draw in 0..1 is `draw`.
    pub fn applies(&self, number: u64, draw: f64) -> bool {
        self.first.is_none_or(|first| number <= first)
            && self.after.is_none_or(|after| number > after)
            && draw < self.rate
    }
}

/// The first rule for chat requests that applies; `draw` gives the number of the rule at an index.
pub fn of_rules(rules: &[Rule], number: u64, draw: impl Fn(u64) -> f64) -> Option<Kind> {
    let chat = rules.iter().enumerate().filter(|(_, rule)| rule.kind.is_for_chat());
    chat.into_iter().find(|(index, rule)| rule.applies(number, draw(*index as u64))).map(|(_, rule)| rule.kind.clone())
}

/// The first directive `sim:KIND[=ARG][*N]` in a prompt that applies to this attempt (counted from 1).
pub fn of_prompt(text: &str, attempt: u64) -> Option<Kind> {
    let starts = memchr::memmem::find_iter(text.as_bytes(), b"sim:");
    starts.filter_map(|at| directive(&text[at + 4..], attempt)).next()
}

fn directive(text: &str, attempt: u64) -> Option<Kind> {
    let word = text.split(char::is_whitespace).next()?;
    let counted = word.rsplit_once('*').and_then(|(head, digits)| Some((head, digits.parse::<u64>().ok()?)));
    let (kind, attempts) = counted.unwrap_or((word, u64::MAX));
    let kind = Kind::parse(kind).ok().filter(Kind::is_for_chat);
    // A refused connection cannot be told by its prompt: the nearest thing is a close without a byte.
    if word.starts_with("refuse-accept") && attempt <= attempts {
        return Some(Kind::Eof);
    }
    kind.filter(|_| attempt <= attempts)
}
