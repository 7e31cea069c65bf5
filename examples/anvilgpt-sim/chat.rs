//! One chat request from its arrival to the end of its reply: fault, queue, service time, delivery.
//! Invariant: a slot is held exactly as long as the simulated model works or its reply is on its way.

use std::rc::Rc;
use std::time::Instant;

use crate::answer::Ending;
use crate::ask::{Ask, Background};
use crate::deliver::{self, End};
use crate::flood;
use crate::http::{Conn, Request};
use crate::job::{Job, Shape};
use crate::refusal::Reply;
use crate::sim::{Flight, Sim};
use crate::tally::Time;

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It takes the next request
    Keep,
    /// It is closed
    Close,
}

/// Answers a request to the chat endpoint.
pub async fn chat(sim: &Rc<Sim>, conn: &mut Conn, request: &Request) -> Next {
    let token = match sim.authorize(request) {
        Ok(token) => token,
        Err(reply) => return send(sim, conn, &reply).await,
    };
    let ask = match Ask::parse(sim.regime(), request) {
        Ok(ask) => ask,
        Err(reply) => {
            sim.live.borrow_mut().stats.counts.requests += 1;
            return send(sim, conn, &reply).await;
        }
    };
    let visit = sim.arrive(&ask, request, token);
    let fields = match sim.admit(token) {
        Ok(fields) => fields,
        Err(reply) => return send(sim, conn, &reply).await,
    };
    let _flight = Flight::new(sim);
    let fault = sim.fault(&ask, visit);
    if let Some(kind) = &fault
        && let Some(next) = flood::strike(sim, conn, &ask, request, kind).await
    {
        return next;
    }
    if let Some(reply) = ask.objection(sim.regime(), &sim.args.models).or_else(|| background(&ask)) {
        return send(sim, conn, &reply).await;
    }
    serve(sim, conn, &ask, &Shape::of(fault, &ask).with(fields), token).await
}

/// Sends a whole reply.
pub async fn send(sim: &Sim, conn: &mut Conn, reply: &Reply) -> Next {
    match conn.write(&sim.render(reply)).await {
        Ok(()) => Next::Keep,
        Err(_) => Next::Close,
    }
}

/// Counts a client that left before the end.
pub fn cancelled(sim: &Sim) -> Next {
    sim.live.borrow_mut().stats.counts.cancelled += 1;
    Next::Close
}

fn background(ask: &Ask<'_>) -> Option<Reply> {
    match ask.background {
        Background::No => None,
        Background::Task => Some(flood::task()),
        Background::NotFound => Some(Reply::detail(404, "We could not find what you're looking for :/")),
    }
}

async fn serve(sim: &Rc<Sim>, conn: &mut Conn, ask: &Ask<'_>, shape: &Shape<'_>, token: Option<usize>) -> Next {
    let arrived = Instant::now();
    let job = Job::new(sim, ask, shape);
    let Some((slot, times)) = job.wait(conn).await else {
        return Next::Close;
    };
    if shape.ending == Ending::Error && !ask.stream {
        return send(sim, conn, &Reply::broken_upstream(sim.regime())).await;
    }
    let wire = job.wire(&times);
    let end = deliver::deliver(sim, conn, &wire, shape.manner).await;
    drop(slot);
    if end == End::Gone {
        return cancelled(sim);
    }
    if shape.is_good() {
        let time = Time { whole: arrived.elapsed(), queued: times.queued };
        sim.live.borrow_mut().stats.answer(ask, token, time);
    }
    if end == End::Whole { Next::Keep } else { Next::Close }
}
