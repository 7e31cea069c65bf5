//! One answer in the making: what the fault makes of it, the wait for a slot and the model, the rendering.
//! Invariant: the usage that is told is the time that was simulated. Knows nothing of framing.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::answer::{Answer, Ending, THOUGHTS};
use crate::args::Regime;
use crate::ask::Ask;
use crate::deliver::{Manner, Wire};
use crate::fault::Kind;
use crate::flood;
use crate::gate::Slot;
use crate::head::Field;
use crate::http::Conn;
use crate::sim::Sim;
use crate::stream;
use crate::usage::Usage;

/// What a fault makes of an answer.
pub struct Shape<'a> {
    /// How it is delivered
    pub manner: Manner,
    /// How it ends
    pub ending: Ending,
    bare: bool,
    truncate: bool,
    content: Cow<'a, str>,
    other_model: bool,
    extra: Vec<Field>,
}

/// Text that would harm a terminal which shows it raw.
pub const HOSTILE: &str = "\u{1b}[31mred\u{1b}[0m \u{202e}desrever\u{202c} \u{9b}31m \nsecond line";

impl<'a> Shape<'a> {
    /// What this fault makes of the answer to this request.
    pub fn of(fault: Option<Kind>, ask: &'a Ask<'a>) -> Shape<'a> {
        let mut shape = Shape {
            manner: Manner::Proper,
            ending: Ending::Proper,
            bare: false,
            truncate: false,
            content: Cow::Owned(["Echo: ", &ask.text].concat()),
            other_model: false,
            extra: Vec::new(),
        };
        match fault {
            Some(Kind::IdleClose) => shape.manner = Manner::IdleClose,
            Some(Kind::HangFirst) => shape.manner = Manner::HangFirst,
            Some(Kind::HangMid) => shape.manner = Manner::HangMid,
            Some(Kind::Drip) => shape.manner = Manner::Drip,
            Some(Kind::CutLength) => shape.manner = Manner::CutLength,
            Some(Kind::CutChunk) => shape.manner = Manner::CutChunk,
            Some(Kind::CutClose) => shape.manner = Manner::CutClose,
            Some(Kind::EmptyChoices) => shape.bare = true,
            Some(Kind::NoFinish) => shape.ending = Ending::NoFinish,
            Some(Kind::MidError) => shape.ending = Ending::Error,
            Some(Kind::ModelOllama) => shape.ending = Ending::Ollama,
            Some(Kind::Length) => shape.truncate = true,
            Some(Kind::Escape) => shape.content = Cow::Borrowed(HOSTILE),
            Some(Kind::Empty) => shape.content = Cow::Borrowed(""),
            Some(Kind::Whitespace) => shape.content = Cow::Borrowed(" \n\t "),
            Some(Kind::OtherModel) => shape.other_model = true,
            Some(Kind::BigHead) => shape.extra = flood::big_fields(),
            Some(Kind::RateHeaders { remaining, reset, .. }) => shape.extra = flood::rate_fields(&remaining, &reset),
            _ => {}
        }
        shape
    }

    /// The same with more header fields.
    pub fn with(mut self, fields: Vec<Field>) -> Shape<'a> {
        self.extra.extend(fields);
        self
    }

    /// True if what arrives is a completion.
    pub fn is_good(&self) -> bool {
        let whole = matches!(self.manner, Manner::Proper | Manner::IdleClose | Manner::Drip);
        whole && self.ending == Ending::Proper && !self.bare
    }
}

/// The simulated model's times for one request.
pub struct Times {
    first: Duration,
    rest: Duration,
    /// Time in the queue
    pub queued: Duration,
    load: Duration,
}

/// A request that is waiting or being worked on.
pub struct Job<'a> {
    sim: &'a Rc<Sim>,
    ask: &'a Ask<'a>,
    shape: &'a Shape<'a>,
    /// Offsets of the words that the model gives, and of the chunks that they come in
    words: Vec<usize>,
    chunks: Vec<usize>,
    truncated: bool,
}

impl<'a> Job<'a> {
    /// Decides what the model will say.
    pub fn new(sim: &'a Rc<Sim>, ask: &'a Ask<'a>, shape: &'a Shape<'a>) -> Job<'a> {
        let mut words = stream::word_ends(&shape.content);
        let half = if shape.truncate { words.len() / 2 } else { usize::MAX };
        let limit = ask.limit.unwrap_or(usize::MAX).min(half);
        let truncated = words.len() > limit || shape.truncate;
        words.truncate(limit);
        let chunks = stream::grouped(&words, sim.args.chunks.map(std::num::NonZeroUsize::get));
        Job { sim, ask, shape, words, chunks, truncated }
    }

    /// Waits for a slot and for the model; `None` if the client left meanwhile, which it counts.
    pub async fn wait(&self, conn: &mut Conn) -> Option<(Slot, Times)> {
        let mut work = std::pin::pin!(self.work());
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            () = conn.left() => {}
        };
        self.sim.live.borrow_mut().stats.counts.cancelled += 1;
        // The front end does not tell the model server that its client left before the first byte.
        if self.sim.regime().outlives_client() {
            let (slot, times) = work.await;
            if self.ask.stream {
                pause(times.rest).await;
            }
            drop(slot);
        }
        None
    }

    async fn work(&self) -> (Slot, Times) {
        let arrived = Instant::now();
        let slot = self.sim.gate.enter().await;
        let queued = arrived.elapsed();
        let load = self.sim.load(&self.ask.model);
        let (first, rest) = self.service_time();
        pause(load + first + if self.ask.stream { Duration::ZERO } else { rest }).await;
        (slot, Times { first, rest, queued, load })
    }

    /// The time before the first chunk and the time after it.
    fn service_time(&self) -> (Duration, Duration) {
        let args = &self.sim.args;
        let latency = args.latency.of(args.seed, self.ask.identity);
        let (first, rest) = match args.first_token {
            Some(fixed) => (Duration::from_millis(fixed) + self.reading_time(), latency),
            None => {
                let first = latency.mul_f64(args.first_token_share);
                (first, latency - first)
            }
        };
        let paced = args.chunk_delay.map(|delay| Duration::from_millis(delay) * self.paced());
        (first, paced.unwrap_or(rest))
    }

    /// What the prompt's length adds to the time before the first chunk.
    fn reading_time(&self) -> Duration {
        let per_kib = Duration::from_millis(self.sim.args.first_token_per_kib);
        per_kib.mul_f64(self.ask.prompt_bytes as f64 / 1024.0)
    }

    /// How many events of a stream carry content.
    fn paced(&self) -> u32 {
        let model = self.served_model();
        let role = usize::from(self.sim.regime() == Regime::Openai);
        let thoughts = if model.starts_with("think") { THOUGHTS.len() } else { 0 };
        let calls = usize::from(model.starts_with("tool"));
        u32::try_from((self.chunks.len() + role + thoughts + calls) * self.ask.choices).unwrap_or(u32::MAX)
    }

    fn served_model(&self) -> &str {
        match &*self.ask.model {
            _ if self.shape.other_model => "other:latest",
            "alias:latest" => "llama3.1:latest",
            model => model,
        }
    }

    /// Renders the reply.
    pub fn wire(&self, times: &Times) -> Wire<'_> {
        let usage = Usage {
            prompt_tokens: self.ask.prompt_words,
            completion_tokens: self.words.len(),
            queued: times.queued,
            load: times.load,
            prompt_eval: times.first,
            eval: times.rest,
        };
        let answer = Answer {
            regime: self.sim.regime(),
            model: self.served_model(),
            content: &self.shape.content[..self.words.last().copied().unwrap_or(0)],
            truncated: self.truncated,
            ending: self.shape.ending,
            bare: self.shape.bare,
            choices: self.ask.choices,
            usage: (!self.sim.args.no_usage).then_some(usage),
            created: self.sim.created(),
        };
        let extra = &self.shape.extra;
        if self.ask.stream {
            let script = stream::script(&answer, &self.chunks, self.ask.include_usage);
            let gap = times.rest / u32::try_from(script.paced.max(1)).unwrap_or(u32::MAX);
            return Wire { script, stream: true, gap, extra };
        }
        let mut script =
            stream::Script { bytes: Vec::with_capacity(answer.content.len() + 1024), ..Default::default() };
        answer.write_whole(&mut script.bytes);
        script.ends.push(script.bytes.len());
        Wire { script, stream: false, gap: Duration::ZERO, extra }
    }
}

/// Sleeps, unless there is nothing to sleep.
async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
