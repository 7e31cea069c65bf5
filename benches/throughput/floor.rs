//! The floor: the least that a client of the same requests could do. Sends ready-made bytes, finds the end of each
//! reply by its content-length, parses nothing else.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn request(address: &str, body: &str) -> Vec<u8> {
    format!("POST /api/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Length of the whole reply at the start of `bytes`, once its head is there.
fn reply_length(bytes: &[u8]) -> Option<usize> {
    let head_end = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let at = memchr::memmem::find(&bytes[..head_end], b"ontent-length: ")? + 15;
    let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(head_end + digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0')))
}

/// Seconds that `requests` take over `connections` connections at once.
pub fn throughput(address: &str, body: &str, requests: usize, connections: usize) -> f64 {
    let request = request(address, body);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let began = Instant::now();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for share in 0..connections {
            let (address, request) = (address.to_owned(), request.clone());
            let count = requests / connections + usize::from(share < requests % connections);
            tasks.spawn(async move {
                let mut stream = tokio::net::TcpStream::connect(address).await.expect("the simulator listens");
                stream.set_nodelay(true).expect("a socket has options");
                for _ in 0..count {
                    stream.write_all(&request).await.expect("a request can be sent");
                    let mut buffer = Vec::with_capacity(8192);
                    while reply_length(&buffer).is_none_or(|length| buffer.len() < length) {
                        stream.read_buf(&mut buffer).await.expect("a reply comes");
                    }
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    });
    began.elapsed().as_secs_f64()
}

/// Seconds of each of `count` requests, one after another on one connection, with a `pause` between them.
pub fn latencies(address: &str, body: &str, count: usize, pause: Duration) -> Vec<f64> {
    let request = request(address, body);
    let mut stream = TcpStream::connect(address).expect("the simulator listens");
    stream.set_nodelay(true).expect("a socket has options");
    let mut buffer = vec![0; 65536];
    let once = |_| {
        let (began, mut length) = (Instant::now(), 0);
        stream.write_all(&request).expect("a request can be sent");
        while reply_length(&buffer[..length]).is_none_or(|whole| length < whole) {
            length += stream.read(&mut buffer[length..]).expect("a reply comes");
        }
        let seconds = began.elapsed().as_secs_f64();
        std::thread::sleep(pause);
        seconds
    };
    (0..count).map(once).collect()
}
