//! A transport that plays a script: for tests of the engine, under a paused clock.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::headers::{ContentKind, Head};
use super::transport::{Page, Reply, ReplyBody, Transport, TransportError};

/// One thing that happens to a request.
#[derive(Clone, Debug)]
pub enum Play {
    /// This long, nothing.
    Wait(Duration),
    /// The head arrives.
    Head(u16, ContentKind),
    /// The head arrives and asks to wait.
    HeadWait(u16, Duration),
    /// A piece of the body arrives.
    Piece(&'static str),
    /// It breaks off.
    Break(TransportError),
    /// The reply never goes on.
    Hang,
}

/// What each request shall see.
pub type Script = Vec<Play>;

/// A transport that plays one script a request, in order; the last one for all that follow.
#[derive(Debug, Default)]
pub struct Scripted {
    /// Scripts of chat requests.
    pub chats: RefCell<VecDeque<Script>>,
    /// What every chat request sees that does not hold this text.
    pub only: Option<(&'static str, Script)>,
    /// What every chat request sees that holds this text.
    pub never: Option<(&'static str, Script)>,
    /// Scripts of `GET models`.
    pub models: RefCell<VecDeque<Script>>,
    /// Scripts of `GET version`.
    pub versions: RefCell<VecDeque<Script>>,
    /// Whether the next look at the token finds another one.
    pub new_token: RefCell<bool>,
    /// Whether the token can change at all.
    pub renewable: bool,
    /// How many pages were asked for.
    pub pages: RefCell<u32>,
    /// When each chat request was sent, since the first look at the clock.
    pub sent: RefCell<Vec<(tokio::time::Instant, String)>>,
}

/// The rest of a script.
#[derive(Debug)]
pub struct Rest(VecDeque<Play>);

fn next(scripts: &RefCell<VecDeque<Script>>) -> Script {
    let mut scripts = scripts.borrow_mut();
    if scripts.len() > 1 {
        scripts.pop_front().unwrap_or_default()
    } else {
        scripts.front().cloned().unwrap_or_default()
    }
}

async fn play(script: Script) -> Result<Reply<Rest>, TransportError> {
    let mut rest: VecDeque<Play> = script.into();
    while let Some(play) = rest.pop_front() {
        let (status, kind, wait) = match play {
            Play::Wait(time) => {
                tokio::time::sleep(time).await;
                continue;
            }
            Play::Head(status, kind) => (status, kind, None),
            Play::HeadWait(status, wait) => (status, ContentKind::Other, Some(wait)),
            Play::Break(error) => return Err(error),
            Play::Piece(_) | Play::Hang => std::future::pending().await,
        };
        let head = Head { status, kind, location: None, wait, quota: None, encoded: false };
        return Ok(Reply { head, body: Rest(rest) });
    }
    std::future::pending().await
}

impl ReplyBody for Rest {
    async fn chunk(&mut self) -> Result<Option<Bytes>, TransportError> {
        loop {
            match self.0.pop_front() {
                None => return Ok(None),
                Some(Play::Wait(time)) => tokio::time::sleep(time).await,
                Some(Play::Piece(text)) => return Ok(Some(Bytes::from_static(text.as_bytes()))),
                Some(Play::Break(error)) => return Err(error),
                Some(Play::Hang | Play::Head(..) | Play::HeadWait(..)) => std::future::pending().await,
            }
        }
    }
}

impl Transport for Scripted {
    type Body = Rest;

    async fn post_chat(&self, body: Bytes) -> Result<Reply<Rest>, TransportError> {
        self.sent.borrow_mut().push((tokio::time::Instant::now(), String::from_utf8_lossy(&body).into_owned()));
        let text = String::from_utf8_lossy(&body);
        let without = self.only.as_ref().filter(|(own, _)| !text.contains(own));
        let with = self.never.as_ref().filter(|(own, _)| text.contains(own));
        match without.or(with) {
            Some((_, script)) => play(script.clone()).await,
            None => play(next(&self.chats)).await,
        }
    }

    async fn get(&self, page: Page) -> Result<Reply<Rest>, TransportError> {
        *self.pages.borrow_mut() += 1;
        match page {
            Page::Models => play(next(&self.models)).await,
            Page::Version => play(next(&self.versions)).await,
        }
    }

    fn renew_token(&self) -> Result<bool, String> {
        Ok(self.new_token.replace(false))
    }

    fn can_renew_token(&self) -> bool {
        self.renewable
    }

    fn redact(&self, text: String) -> String {
        text
    }
}
