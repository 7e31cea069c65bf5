//! The listening socket: accepts, refuses, and goes away for a while when told to.
//! Invariant: while down, connects are refused and no connection lives.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::draw;
use crate::fault::Kind;
use crate::route;
use crate::sim::Sim;

const BACKLOG: u32 = 4096;
/// Pause after an accept that failed, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A socket on 127.0.0.1.
pub struct Listener {
    socket: Option<TcpListener>,
    port: u16,
}

impl Listener {
    /// Listens on this port, or on a free one.
    pub fn bind(port: u16) -> anyhow::Result<Listener> {
        let socket = listen(port).with_context(|| format!("listen on 127.0.0.1:{port}"))?;
        let port = socket.local_addr().context("read the listening address")?.port();
        Ok(Listener { socket: Some(socket), port })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Accepts for ever.
    pub async fn serve(&mut self, sim: &Rc<Sim>) -> anyhow::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            let Some(socket) = &self.socket else {
                self.socket = Some(revive(self.port).await);
                continue;
            };
            tokio::select! {
                accepted = socket.accept() => match accepted {
                    Ok((stream, _)) => admit(sim, stream, &mut connections),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                },
                Some(_) = connections.join_next() => {}
                () = sim.doorbell.notified() => {}
            }
            let down_for = sim.live.borrow_mut().down_for.take();
            if let Some(time) = down_for {
                self.socket = None;
                connections.shutdown().await;
                tokio::time::sleep(time).await;
            }
        }
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into())?;
    socket.listen(BACKLOG)
}

/// Listens again; another process may hold the port for a moment.
async fn revive(port: u16) -> TcpListener {
    loop {
        match listen(port) {
            Ok(socket) => return socket,
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Serves a connection, unless a fault refuses it.
fn admit(sim: &Rc<Sim>, stream: TcpStream, connections: &mut JoinSet<()>) {
    let number = {
        let mut live = sim.live.borrow_mut();
        live.stats.counts.connections_total += 1;
        live.stats.counts.connections_total
    };
    if !sim.is_struck(&Kind::RefuseAccept, number, draw::identity(&number.to_string())) {
        connections.spawn_local(route::connection(Rc::clone(sim), stream));
    }
}
