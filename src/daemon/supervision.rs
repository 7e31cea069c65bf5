//! What the daemon tells the service manager: ready, how it stands, reloading, stopping, and that it is alive.
//!
//! Invariant: the watchdog is fed with progress, never with time: a ping says that everybody counted has moved since the
//! last one. Has no thread and no timer of its own, and knows nothing of what its counters count. Nothing said here can
//! end or stall the daemon: a message that cannot be sent is told once in the log.
//!
//! The protocol is that of sd_notify(3): one datagram with `NAME=value` lines, to the socket that `NOTIFY_SOCKET` names.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;

use crate::line::escape::{for_people, shown};

/// The least time between two status texts that nothing but counts has changed.
const STATUS_PAUSE: Duration = Duration::from_secs(1);
/// A status text is one line in `systemctl status`.
const STATUS_CHARS_MAX: usize = 300;
/// How long a change of state may wait for a service manager that is busy.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The service manager as this process sees it; without one, everything said is said to nobody.
#[derive(Debug)]
pub struct Supervision {
    line: Option<Arc<Line>>,
    watchdog_timeout: Option<Duration>,
    /// The status text that was sent last, and when.
    told: Option<(String, Instant)>,
}

impl Supervision {
    /// The service manager that the environment names: `NOTIFY_SOCKET` (a path, or an abstract name after `@`),
    /// `WATCHDOG_USEC` and `WATCHDOG_PID`. A socket that cannot be used is told in the log, and counts as none.
    pub fn from_environment() -> Supervision {
        let timeout = sd_notify::watchdog_enabled();
        Supervision::new(std::env::var_os("NOTIFY_SOCKET").as_deref(), timeout)
    }

    /// A service manager that listens on `socket`, named as in `NOTIFY_SOCKET`, and that expects a sign of life at least
    /// once in `watchdog_timeout`.
    pub fn new(socket: Option<&OsStr>, watchdog_timeout: Option<Duration>) -> Supervision {
        let line = socket.filter(|name| !name.is_empty()).and_then(|name| match Line::to(name) {
            Ok(line) => Some(Arc::new(line)),
            Err(error) => {
                let name = shown(Path::new(name));
                tracing::warn!("NOTIFY_SOCKET {name}: {error}; the service manager hears nothing of this daemon");
                None
            }
        });
        let watchdog_timeout = watchdog_timeout.filter(|timeout| line.is_some() && !timeout.is_zero());
        Supervision { line, watchdog_timeout, told: None }
    }

    /// Says that the daemon does its work, at the start or after [`Supervision::reloading`], and how it stands.
    pub fn ready(&mut self, status: &str) {
        let status = for_people(status, STATUS_CHARS_MAX);
        self.announce(&[NotifyState::Ready, NotifyState::Status(&status)]);
        self.told = Some((status, Instant::now()));
    }

    /// Says how the daemon stands, in one line for people. What is the same as before is not sent, nor what comes within
    /// a second after it: call again, it is not remembered.
    pub fn status(&mut self, status: &str) {
        let (Some(line), now) = (&self.line, Instant::now()) else { return };
        let status = for_people(status, STATUS_CHARS_MAX);
        let is_due = |(told, at): &(String, Instant)| *told != status && now.duration_since(*at) >= STATUS_PAUSE;
        if self.told.as_ref().is_none_or(is_due) && line.send(&[NotifyState::Status(&status)]) {
            self.told = Some((status, now));
        }
    }

    /// Says that the configuration is read again; [`Supervision::ready`] ends that, however it went.
    pub fn reloading(&mut self) {
        // `Type=notify-reload` takes RELOADING=1 for an answer to its signal only with the time beside it.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.announce(&[NotifyState::Reloading, now]),
            Err(_) => self.announce(&[NotifyState::Reloading]),
        }
    }

    /// Says that the daemon takes nothing new and will end.
    pub fn stopping(&mut self) {
        self.announce(&[NotifyState::Stopping]);
    }

    /// The watchdog of this service manager; one that never pings, when none is expected.
    pub fn watchdog(&self) -> Watchdog {
        let line = self.line.clone().filter(|_| self.watchdog_timeout.is_some());
        Watchdog { line, interval: self.watchdog_timeout.map(|timeout| timeout / 2), vouched: Vec::new() }
    }

    /// Sends a change of state, which the service manager waits for: worth a short wait here, too.
    fn announce(&self, message: &[NotifyState<'_>]) {
        if let Some(line) = &self.line {
            line.send_patiently(message);
        }
    }
}

/// Tells the service manager that the daemon is alive, when it is.
///
/// A service manager that hears nothing for twice [`Watchdog::interval`] ends the daemon and starts it again.
#[derive(Debug)]
pub struct Watchdog {
    line: Option<Arc<Line>>,
    interval: Option<Duration>,
    /// The counters at the last ping.
    vouched: Vec<u64>,
}

impl Watchdog {
    /// How often [`Watchdog::beat`] must be called at least; `None` when no sign of life is expected. More often does no
    /// harm, and helps when one of the counters is late.
    pub fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// Pings when every counter has moved since the last ping (they begin at 0), and says whether it did.
    ///
    /// Each counter is one of those without whom the daemon is dead: its own loop, the thread that writes. Who is idle
    /// must count as well: let it answer an empty errand once an interval.
    pub fn beat(&mut self, counters: &[u64]) -> bool {
        let Some(line) = &self.line else { return false };
        let before = self.vouched.iter().copied().chain(std::iter::repeat(0));
        // Other than before, not more: the successor of a thread that was replaced begins at 0.
        let all_moved = !counters.is_empty() && counters.iter().zip(before).all(|(now, before)| *now != before);
        let pinged = all_moved && line.send(&[NotifyState::Watchdog]);
        if pinged {
            self.vouched = counters.to_vec();
        }
        pinged
    }
}

/// The way to the service manager's socket. Addressed anew by each message, so that it may be replaced meanwhile.
#[derive(Debug)]
struct Line {
    socket: UnixDatagram,
    address: SocketAddr,
    has_complained: AtomicBool,
}

impl Line {
    fn to(name: &OsStr) -> io::Result<Line> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither an absolute path nor a name after @"));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        socket.set_nonblocking(true)?;
        Ok(Line { socket, address, has_complained: AtomicBool::new(false) })
    }

    /// Sends one message if that needs no waiting, and says whether it went out.
    fn send(&self, message: &[NotifyState<'_>]) -> bool {
        self.told(self.dispatch(message))
    }

    /// Sends one message, and waits for [`SEND_TIMEOUT`] when the socket is full.
    fn send_patiently(&self, message: &[NotifyState<'_>]) -> bool {
        let sent = self.socket.set_nonblocking(false).and_then(|()| self.dispatch(message));
        self.told(sent.and(self.socket.set_nonblocking(true)))
    }

    fn dispatch(&self, message: &[NotifyState<'_>]) -> io::Result<()> {
        let text: String = message.iter().map(|state| format!("{state}\n")).collect();
        // A datagram goes whole or not at all.
        self.socket.send_to_addr(text.as_bytes(), &self.address).map(drop)
    }

    fn told(&self, sent: io::Result<()>) -> bool {
        if let Err(error) = &sent
            && !self.has_complained.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("the service manager cannot be told how this daemon stands: {error}");
        }
        sent.is_ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A service manager that listens.
    struct Manager {
        socket: UnixDatagram,
        path: std::path::PathBuf,
        _folder: tempfile::TempDir,
    }

    impl Manager {
        fn new() -> Manager {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("notify");
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_nonblocking(true).unwrap();
            Manager { socket, path, _folder: folder }
        }

        fn supervision(&self) -> Supervision {
            Supervision::new(Some(self.path.as_os_str()), Some(Duration::from_secs(30)))
        }

        /// What was said since the last call.
        fn heard(&self) -> Vec<String> {
            heard(&self.socket)
        }
    }

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 4096];
        let next = || {
            let bytes = socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8(buffer[..bytes].to_vec()).unwrap())
        };
        std::iter::from_fn(next).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn every_state_is_said_once_and_in_order() {
        let manager = Manager::new();
        let mut supervision = manager.supervision();
        supervision.ready("2 files queued");
        assert_eq!(manager.heard(), ["READY=1\nSTATUS=2 files queued\n"]);
        supervision.reloading();
        let reloading = manager.heard().concat();
        let usec = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().strip_suffix('\n').unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0, "{reloading}");
        supervision.ready("2 files queued");
        supervision.stopping();
        assert_eq!(manager.heard(), ["READY=1\nSTATUS=2 files queued\n", "STOPPING=1\n"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_is_sent_when_it_is_new_and_not_more_than_once_a_second() {
        let manager = Manager::new();
        let mut supervision = manager.supervision();
        supervision.status("one");
        supervision.status("two");
        assert_eq!(manager.heard(), ["STATUS=one\n"]);
        tokio::time::advance(Duration::from_millis(999)).await;
        supervision.status("two");
        assert_eq!(manager.heard(), Vec::<String>::new());
        tokio::time::advance(Duration::from_millis(1)).await;
        supervision.status("two");
        tokio::time::advance(Duration::from_secs(5)).await;
        supervision.status("two");
        assert_eq!(manager.heard(), ["STATUS=two\n"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_cannot_say_anything_else() {
        let manager = Manager::new();
        manager.supervision().ready("a\nSTOPPING=1\u{1b}[2J");
        assert_eq!(manager.heard(), ["READY=1\nSTATUS=a\\u{a}STOPPING=1\\u{1b}[2J\n"]);
        manager.supervision().status(&"x".repeat(10_000));
        assert!(manager.heard().concat().len() < 400);
    }

    #[test]
    fn the_watchdog_pings_only_when_everybody_moved() {
        let manager = Manager::new();
        let mut watchdog = manager.supervision().watchdog();
        assert_eq!(watchdog.interval(), Some(Duration::from_secs(15)));
        assert!(!watchdog.beat(&[]), "nobody counted vouches for nobody");
        assert!(!watchdog.beat(&[1, 0]), "the second has not begun");
        assert!(watchdog.beat(&[1, 1]));
        assert!(!watchdog.beat(&[2, 1]), "the second stands");
        assert!(!watchdog.beat(&[1, 2]), "the first stands");
        assert!(watchdog.beat(&[9, 2]), "late is not dead");
        assert!(watchdog.beat(&[10, 0]), "a successor begins at 0");
        assert!(!watchdog.beat(&[11, 1, 0]), "a third must begin, too");
        assert_eq!(manager.heard(), ["WATCHDOG=1\n"; 3]);
    }

    #[test]
    fn a_ping_that_was_not_sent_does_not_count() {
        let manager = Manager::new();
        let mut watchdog = manager.supervision().watchdog();
        // Nobody reads: the queue fills, and the daemon must not wait for that.
        let sent = (1..100_000).take_while(|count| watchdog.beat(&[*count])).count() as u64;
        assert!(sent < 99_999, "the queue has no end");
        manager.heard();
        assert!(watchdog.beat(&[sent + 1]), "the same counters, tried again");
    }

    #[test]
    fn an_abstract_socket_is_a_name_after_an_at_sign() {
        let name = format!("anvil-filter-test-{}-{:x}", std::process::id(), fastrand::u64(..));
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        Supervision::new(Some(OsStr::new(&format!("@{name}"))), None).stopping();
        assert_eq!(heard(&socket), ["STOPPING=1\n"]);
    }

    #[test]
    fn without_a_service_manager_nothing_is_expected_and_nothing_fails() {
        let second = Some(Duration::from_secs(1));
        for socket in [None, Some(""), Some("relative/notify"), Some("vsock:2:1234")] {
            let mut supervision = Supervision::new(socket.map(OsStr::new), second);
            supervision.ready("there");
            supervision.status("there, too");
            let mut watchdog = supervision.watchdog();
            assert_eq!((watchdog.interval(), watchdog.beat(&[1])), (None, false), "{socket:?}");
        }
        let manager = Manager::new();
        let without = Supervision::new(Some(manager.path.as_os_str()), None);
        assert_eq!((without.watchdog().interval(), without.watchdog().beat(&[1])), (None, false));
        assert_eq!(manager.heard(), Vec::<String>::new());
    }

    #[test]
    fn a_service_manager_that_went_away_is_no_reason_to_end() {
        let manager = Manager::new();
        let mut supervision = manager.supervision();
        let mut watchdog = supervision.watchdog();
        std::fs::remove_file(&manager.path).unwrap();
        supervision.ready("there");
        supervision.status("still there");
        assert!(!watchdog.beat(&[1]));
        let successor = UnixDatagram::bind(&manager.path).unwrap();
        successor.set_nonblocking(true).unwrap();
        assert!(watchdog.beat(&[1]), "one that came back is heard");
        assert_eq!(heard(&successor), ["WATCHDOG=1\n"]);
    }
}
