//! Replies that are no completion: errors in each server's form, pages of a proxy. Pure.

use crate::args::Regime;
use crate::head::{self, Field};
use crate::json;

/// A whole reply.
#[derive(Debug)]
pub struct Reply {
    /// Status code
    pub status: u16,
    /// Media type
    pub content_type: &'static str,
    /// More header fields
    pub extra: Vec<Field>,
    /// The body
    pub body: Vec<u8>,
}

/// The page that the real server gives for every GET it does not know.
const APP_PAGE: &str = "<!doctype html>\n<html lang=\"en\">\n\t<head>\n\t\t<meta charset=\"utf-8\" />\n\t\t\
    <link rel=\"icon\" type=\"image/png\" href=\"/static/favicon.png\" />\n\t\t<title>Open WebUI</title>\n\t</head>\n\t\
    <body><div id=\"splash-screen\"></div></body>\n</html>\n";

impl Reply {
    /// A JSON reply.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, content_type: "application/json", extra: Vec::new(), body: body.into() }
    }

    /// An HTML page.
    pub fn html(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { content_type: "text/html; charset=utf-8", ..Reply::json(status, body) }
    }

    /// The page of Open WebUI's browser application.
    pub fn app_page() -> Reply {
        Reply::html(200, APP_PAGE)
    }

    /// The page of a reverse proxy.
    pub fn proxy_page(status: u16) -> Reply {
        let title = format!("{status} {}", head::reason(status));
        let body = format!(
            "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
             <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
        );
        Reply { content_type: "text/html", ..Reply::json(status, body) }
    }

    /// A page with status 200 in a gateway's place.
    pub fn maintenance_page() -> Reply {
        Reply::html(
            200,
            "<!doctype html>\n<html><head><title>Maintenance</title></head><body>Back soon.</body></html>\n",
        )
    }

    /// `{"detail": "…"}`
    pub fn detail(status: u16, text: &str) -> Reply {
        let mut body = br#"{"detail":"#.to_vec();
        body.extend_from_slice(&json::quoted(text));
        body.push(b'}');
        Reply::json(status, body)
    }

    /// `{"error": {…}}`, with a code or null.
    pub fn openai(status: u16, message: &str, code: Option<&str>) -> Reply {
        let kind = match status {
            401 | 403 => "authentication_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let code = code.map_or("null".to_owned(), |code| format!("\"{code}\""));
        let mut body = br#"{"error":{"message":"#.to_vec();
        body.extend_from_slice(&json::quoted(message));
        body.extend_from_slice(format!(r#","type":"{kind}","param":null,"code":{code}}}}}"#).as_bytes());
        Reply::json(status, body)
    }

    /// An error in the regime's form.
    pub fn error(regime: Regime, status: u16, text: &str) -> Reply {
        match regime {
            Regime::Openai => Reply::openai(status, text, None),
            _ => Reply::detail(status, text),
        }
    }

    /// The same with one more header field.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.extra.push((name, value.into()));
        self
    }

    /// The usual reply of this status; a 422 echoes the request's body.
    pub fn of_status(regime: Regime, status: u16, request: &[u8]) -> Reply {
        match status {
            502 | 504 | 520..=530 => Reply::proxy_page(status),
            401 => Reply::expired(regime),
            403 => Reply::forbidden(regime),
            422 if regime.is_webui() => {
                Reply::invalid("dict_type", "Input should be a valid dictionary", &lossy_quoted(request))
            }
            _ => Reply::error(regime, status, usual_text(status)),
        }
    }

    /// An upstream's failure as 0.6 wraps it.
    pub fn wrapped(status: u16) -> Reply {
        let text = match status {
            200 => "200: Ollama: Expecting value: line 1 column 1 (char 0)".to_owned(),
            _ => {
                let reason = head::reason(status);
                format!("{status}: Ollama: {status}, message='{reason}', url='http://127.0.0.1:11434/api/chat'")
            }
        };
        Reply::detail(400, &text)
    }

    /// One validation error; `input` is JSON.
    pub fn invalid(kind: &str, message: &str, input: &[u8]) -> Reply {
        let mut body =
            format!(r#"{{"detail":[{{"type":"{kind}","loc":["body"],"msg":"{message}","input":"#).into_bytes();
        body.extend_from_slice(input);
        body.extend_from_slice(b"}]}");
        Reply::json(422, body)
    }

    /// The model is unknown.
    pub fn model_not_found(regime: Regime, model: &str) -> Reply {
        match regime {
            Regime::Openai => {
                let text = format!("The model `{model}` does not exist or you do not have access to it.");
                Reply::openai(404, &text, Some("model_not_found"))
            }
            _ => Reply::detail(400, "Model not found"),
        }
    }

    /// The token is expired or unknown.
    pub fn expired(regime: Regime) -> Reply {
        match regime {
            Regime::Openai => Reply::openai(401, "Incorrect API key provided.", Some("invalid_api_key")),
            _ => Reply::detail(401, "Your session has expired or the token is invalid. Please sign in again."),
        }
    }

    /// The account may not do this.
    pub fn forbidden(regime: Regime) -> Reply {
        Reply::error(regime, 403, "Use of API key is not enabled in the environment.")
    }

    /// The upstream broke in the middle of a whole reply.
    pub fn broken_upstream(regime: Regime) -> Reply {
        let text = match regime {
            Regime::Webui06 => {
                "200: Ollama: Response payload is not completed: <TransferEncodingError: 400, \
                 message='Not enough data for satisfy transfer length header.'>"
            }
            Regime::Webui12 => "'NoneType' object has no attribute 'get'",
            Regime::Openai => {
                return Reply::openai(500, "The server had an error while processing your request.", None);
            }
        };
        Reply::detail(400, text)
    }
}

/// Bytes as a JSON string, whatever they are.
pub fn lossy_quoted(bytes: &[u8]) -> Vec<u8> {
    json::quoted(&String::from_utf8_lossy(bytes))
}

fn usual_text(status: u16) -> &'static str {
    match status {
        404 => "model not found, try pulling it first",
        405 => "Method Not Allowed",
        429 => "too many requests",
        500 => "llama runner process has terminated: exit status 2",
        503 => "server busy, please try again.  maximum pending requests exceeded",
        _ => head::reason(status),
    }
}
