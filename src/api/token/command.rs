//! A command that prints the key: `pass show anvilgpt`, or whatever asks a vault.
//!
//! Invariant: what the command prints goes into a [`Secret`] and nowhere else, what it says on stderr is thrown away, and
//! no text tells more of the command than its name, for a key may stand in it. Every run is bounded in time and size.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use super::{Secret, SecretFault, TOKEN_BYTES_MAX, TokenError, looks_like_key};

/// How long a command may take.
const RUN_MAX: Duration = Duration::from_secs(30);
/// How long after one start of the command there is no other one.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a command that has closed its output is left alone between two looks at whether it has ended.
const EXIT_LOOK: Duration = Duration::from_millis(5);
/// The longest name of a command that is shown.
const NAME_BYTES_MAX: usize = 40;

/// A line for `/bin/sh` that prints the key. It is shown by its first word alone.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyCommand(String);

impl KeyCommand {
    /// Takes a command as people write it. The error does not repeat it.
    pub fn new(text: &str) -> Result<KeyCommand, String> {
        let separates = |character: char| character.is_whitespace() || "'\"=;|&()".contains(character);
        if text.trim().is_empty() {
            Err("must not be empty".to_owned())
        } else if text.contains('\0') {
            Err("must not hold a NUL byte".to_owned())
        } else if text.split(separates).any(looks_like_key) {
            Err("a key seems to stand in it; write the key into a file of mode 0600, and name that file".to_owned())
        } else {
            Ok(KeyCommand(text.to_owned()))
        }
    }

    /// The first word without its folder, where that is a plain name.
    fn name(&self) -> &str {
        let word = self.0.split_whitespace().next().unwrap_or_default();
        let name = Path::new(word).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
        let shows = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_plain);
        if shows && !word.contains('=') { name } else { "/bin/sh" }
    }
}

impl fmt::Debug for KeyCommand {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}…", self.name())
    }
}

impl fmt::Display for KeyCommand {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// A source of tokens that is a command, and what it gave last.
#[derive(Debug)]
pub struct TokenCommand {
    command: KeyCommand,
    bounds: Bounds,
    last: Arc<Mutex<Last>>,
}

/// How long, and how often.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    run_max: Duration,
    pause: Duration,
}

/// What is known of the command's runs.
#[derive(Debug, Default)]
struct Last {
    secret: Option<Secret>,
    /// Why the last run gave none, until somebody was told.
    fault: Option<CommandFault>,
    is_running: bool,
    started_at: Option<Instant>,
}

impl TokenCommand {
    /// A command that has not been run yet.
    pub fn new(command: KeyCommand) -> TokenCommand {
        TokenCommand { command, bounds: Bounds { run_max: RUN_MAX, pause: PAUSE }, last: Arc::default() }
    }

    /// The key as it is known. Runs the command when it was never run with success, which may take 30 s.
    pub(super) fn read(&self) -> Result<Secret, TokenError> {
        if let Some(secret) = &self.last().secret {
            return Ok(secret.clone());
        }
        self.last().started_at = Some(Instant::now());
        let secret = run(&self.command, self.bounds.run_max).map_err(|fault| self.error(fault))?;
        self.last().secret = Some(secret.clone());
        Ok(secret)
    }

    /// The key as the latest run that has ended gave it; has the command run again on a thread of its own, unless one
    /// runs, or was started less than five seconds ago. Never waits. The fault of such a run is told once.
    pub(super) fn renew(&self) -> Result<Option<Secret>, TokenError> {
        let mut last = self.last();
        let (secret, fault) = (last.secret.clone(), last.fault.take());
        let is_early = last.started_at.is_some_and(|at| at.elapsed() < self.bounds.pause);
        if !last.is_running && !is_early {
            (last.is_running, last.started_at) = (true, Some(Instant::now()));
            drop(last);
            self.start();
        }
        fault.map_or(Ok(secret), |fault| Err(self.error(fault)))
    }

    fn start(&self) {
        let (command, bounds, last) = (self.command.clone(), self.bounds, Arc::clone(&self.last));
        let work = move || finish(&last, run(&command, bounds.run_max));
        if let Err(error) = std::thread::Builder::new().name("key-command".to_owned()).spawn(work) {
            finish(&self.last, Err(CommandFault::NotStarted(error)));
        }
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        lock(&self.last)
    }

    fn error(&self, fault: CommandFault) -> TokenError {
        TokenError::Command { name: self.command.to_string(), fault }
    }
}

/// Nothing that holds the lock can leave half a change behind.
fn lock(last: &Mutex<Last>) -> MutexGuard<'_, Last> {
    last.lock().unwrap_or_else(PoisonError::into_inner)
}

fn finish(last: &Mutex<Last>, outcome: Result<Secret, CommandFault>) {
    let mut last = lock(last);
    last.is_running = false;
    match outcome {
        Ok(secret) => (last.secret, last.fault) = (Some(secret), None),
        Err(fault) => last.fault = Some(fault),
    }
}

/// Why a command gave no key. Holds nothing of what the command printed.
#[derive(Debug, thiserror::Error)]
pub enum CommandFault {
    /// There is no shell, or no process or thread to be had.
    #[error("it cannot be started: {0}")]
    NotStarted(io::Error),
    /// Its output cannot be read.
    #[error("its output cannot be read: {0}")]
    Unreadable(io::Error),
    /// It did not end, or something that it started keeps its output open.
    #[error("it did not end within {}, and was killed", humantime::format_duration(*.0))]
    TooSlow(Duration),
    /// It printed more than a token can have.
    #[error("it printed more than 64 KiB, which is no token, and was killed")]
    TooLong,
    /// It says itself that it failed.
    #[error("it failed ({0})")]
    Failed(ExitStatus),
    /// What it printed is no token.
    #[error("what it printed is no usable token: {0}")]
    Malformed(SecretFault),
}

/// Runs the command to its end. Blocks for as long as `run_max`.
fn run(command: &KeyCommand, run_max: Duration) -> Result<Secret, CommandFault> {
    let began = Instant::now();
    let mut child = Command::new("/bin/sh")
        .args(["-c", &command.0])
        // The command finds a key; it need not be handed another one.
        .env_remove("ANVILGPT_API_KEY")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // What it says there may be anything, the key included.
        .stderr(Stdio::null())
        // A group of its own, so that all that it started can be killed with it.
        .process_group(0)
        .spawn()
        .map_err(CommandFault::NotStarted)?;
    let left = || run_max.saturating_sub(began.elapsed());
    let ended = read(&mut child, left).and_then(|bytes| Ok((bytes, wait(&mut child, left)?)));
    let (bytes, status) = ended.map_err(|fault| {
        kill(&mut child);
        match fault {
            CommandFault::TooSlow(_) => CommandFault::TooSlow(run_max),
            other => other,
        }
    })?;
    if !status.success() {
        return Err(CommandFault::Failed(status));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| SecretFault::NotAscii);
    text.and_then(Secret::new).map_err(CommandFault::Malformed)
}

/// All that the command prints.
fn read(child: &mut Child, left: impl Fn() -> Duration) -> Result<Vec<u8>, CommandFault> {
    let mut bytes = Vec::new();
    let Some(mut stdout) = child.stdout.take() else { return Ok(bytes) };
    let mut block = [0; 4096];
    loop {
        let timeout = Timespec::try_from(left()).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        match poll(&mut [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(CommandFault::TooSlow(left())),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(CommandFault::Unreadable(error.into())),
        }
        match stdout.read(&mut block) {
            Ok(0) => return Ok(bytes),
            Ok(length) => bytes.extend_from_slice(&block[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CommandFault::Unreadable(error)),
        }
        if bytes.len() as u64 > TOKEN_BYTES_MAX {
            return Err(CommandFault::TooLong);
        }
    }
}

fn wait(child: &mut Child, left: impl Fn() -> Duration) -> Result<ExitStatus, CommandFault> {
    loop {
        match child.try_wait().map_err(CommandFault::Unreadable)? {
            Some(status) => return Ok(status),
            None if left().is_zero() => return Err(CommandFault::TooSlow(left())),
            None => std::thread::sleep(EXIT_LOOK.min(left())),
        }
    }
}

/// Kills the command and all of its group, and takes its status, so that no process is left over.
fn kill(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // Whoever has ended already cannot be killed, which is as good.
    let _ = group.map(|group| kill_process_group(group, Signal::KILL));
    let _ = child.kill();
    let _ = child.wait();
}
