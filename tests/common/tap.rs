//! A forwarder in front of a service, which keeps every byte that clients send: heads, keys and all.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::Sim;

/// What clients of one service have sent.
pub struct Tap {
    port: u16,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    /// Listens in front of a simulator, until this process ends.
    pub fn before(sim: &Sim) -> Tap {
        let (listener, target) = (TcpListener::bind("127.0.0.1:0").unwrap(), sim.address().to_owned());
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all_seen = Arc::clone(&seen);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (target, seen) = (target.clone(), Arc::clone(&all_seen));
                std::thread::spawn(move || forward(client, &target, &seen));
            }
        });
        Tap { port, seen }
    }

    /// The base URL that a client is given.
    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}/api", self.port)
    }

    /// All that was sent so far, as text.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }
}

fn forward(mut client: TcpStream, target: &str, seen: &Mutex<Vec<u8>>) {
    let Ok(mut server) = TcpStream::connect(target) else { return };
    let (mut replies, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut replies, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        seen.lock().unwrap().extend_from_slice(&buffer[..length]);
        if server.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
}
