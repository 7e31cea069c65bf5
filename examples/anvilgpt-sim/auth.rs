//! Who may ask. Pure: the accepted tokens come in as an argument.

use crate::args::Regime;
use crate::http::Request;
use crate::refusal::Reply;

/// Which tokens are accepted.
#[derive(Debug)]
pub struct Policy<'a> {
    /// The tokens; none means any
    pub tokens: &'a [String],
    /// Whether a request without a token is accepted, too
    pub open: bool,
}

impl Policy<'_> {
    /// The index of the token that was presented, if there is a list of them; else the refusal.
    pub fn admit(&self, regime: Regime, request: &Request) -> Result<Option<usize>, Reply> {
        match presented(regime, request) {
            Ok(token) => self.index(token).ok_or_else(|| unknown(regime, token)),
            Err(_) if self.open => Ok(None),
            Err(reply) => Err(reply),
        }
    }

    fn index(&self, token: &str) -> Option<Option<usize>> {
        if self.tokens.is_empty() {
            return (token.trim() == token).then_some(None);
        }
        self.tokens.iter().position(|known| known == token).map(Some)
    }
}

/// The token that the request carries, as the regime reads it.
fn presented(regime: Regime, request: &Request) -> Result<&str, Reply> {
    let (scheme, token) = match &request.authorization {
        Some(value) => value.split_once(' ').unwrap_or((value, "")),
        None => ("", ""),
    };
    let is_bearer = scheme.eq_ignore_ascii_case("bearer");
    match regime {
        Regime::Webui06 if is_bearer && !token.trim().is_empty() => Ok(token),
        Regime::Webui06 => Err(Reply::detail(403, "Not authenticated")),
        Regime::Webui12 => match (request.api_key.as_deref(), token.trim()) {
            (_, token) if is_bearer && !token.is_empty() => Ok(token),
            (Some(key), _) => Ok(key),
            _ if is_bearer || !token.is_empty() => Err(Reply::detail(401, "401 Unauthorized")),
            _ => Err(Reply::detail(401, "Not authenticated")),
        },
        Regime::Openai if is_bearer && !token.trim().is_empty() => Ok(token.trim()),
        Regime::Openai => Err(Reply::openai(401, "You didn't provide an API key.", None)),
    }
}

fn unknown(regime: Regime, token: &str) -> Reply {
    if regime.is_webui() && !token.starts_with("sk-") {
        return Reply::detail(401, "401 Unauthorized");
    }
    Reply::expired(regime)
}
