//! The token: where it is read from, and the type that cannot be printed.
//!
//! Invariant: no text that leaves this file, `Debug` included, holds any part of a key. Knows nothing of hosts (which
//! source belongs to which host is decided by the configuration) and never verifies a token.

mod command;
#[cfg(test)]
mod tests;

use crate::line::escape::shown;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

pub use command::{CommandFault, KeyCommand, TokenCommand};

/// The most that is read of a token file, or of a command.
const TOKEN_BYTES_MAX: u64 = 64 << 10;
/// Permission bits that would let somebody else use the file.
const MODE_OTHERS: u32 = 0o077;

/// A key. It can be given to the service by [`Secret::expose`], and shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a key as people store it: white space around it is dropped.
    pub fn new(text: &str) -> Result<Secret, SecretFault> {
        let text = text.trim();
        if text.is_empty() {
            Err(SecretFault::Empty)
        } else if !text.is_ascii() {
            Err(SecretFault::NotAscii)
        } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Err(SecretFault::InnerSpace)
        } else {
            Ok(Secret(text.to_owned()))
        }
    }

    /// The key itself, for the `Authorization` header and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("[secret]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("[secret]")
    }
}

/// Why a text cannot be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretFault {
    /// Nothing but white space.
    #[error("it is empty")]
    Empty,
    /// A space, line break or control character inside.
    #[error("it has white space or control characters inside, and a key has none")]
    InnerSpace,
    /// A character outside ASCII, which no header can carry.
    #[error("it has characters outside ASCII, and a key has none")]
    NotAscii,
}

/// When a JSON Web Token expires (`exp`, RFC 7519 section 4.1.4), read without any verification.
///
/// `None` for keys that are no JWT, and for a JWT without a usable `exp`.
pub fn jwt_expiry(secret: &Secret) -> Option<SystemTime> {
    #[derive(serde::Deserialize)]
    struct Claims {
        exp: f64,
    }
    let mut parts = secret.expose().split('.');
    let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(claims.exp).ok()?)
}

/// Whether a text that should name a file looks like a key itself (`sk-…`, or a JWT).
///
/// Such a text must not be echoed. A file that really bears such a name can be written with a folder: `./sk-file`.
pub fn looks_like_key(text: &str) -> bool {
    let is_jwt = text.starts_with("eyJ") && text.matches('.').count() == 2;
    !text.contains('/') && (text.starts_with("sk-") || is_jwt)
}

/// Where the token of this run comes from.
#[derive(Debug)]
pub enum TokenSource {
    /// No token is sent.
    None,
    /// The key that stood in the environment when the program started.
    Environment(Secret),
    /// A file or pipe.
    File(TokenFile),
    /// What a command prints.
    Command(TokenCommand),
}

impl TokenSource {
    /// The token as it is now. Files are read again at each call; opening a pipe may block until somebody writes. A
    /// command is run at the first call, which may take 30 s; later ones give what is known.
    pub fn read(&self) -> Result<Option<Secret>, TokenError> {
        match self {
            TokenSource::None => Ok(None),
            TokenSource::Environment(secret) => Ok(Some(secret.clone())),
            TokenSource::File(file) => file.read().map(Some),
            TokenSource::Command(command) => command.read().map(Some),
        }
    }

    /// The token, after somebody refused the old one: files are read again, a command is started again. Nobody waits for
    /// it: until it has ended, the token is the old one.
    pub fn renew(&self) -> Result<Option<Secret>, TokenError> {
        match self {
            TokenSource::Command(command) => command.renew(),
            TokenSource::None | TokenSource::Environment(_) | TokenSource::File(_) => self.read(),
        }
    }

    /// Whether asking again later may give another token: so for files and commands, not for the environment or a pipe.
    pub fn can_change(&self) -> bool {
        match self {
            TokenSource::None | TokenSource::Environment(_) => false,
            TokenSource::File(file) => file.piped.get().is_none(),
            TokenSource::Command(_) => true,
        }
    }
}

/// Who may read a token file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRule {
    /// Nobody but the owner.
    OwnerOnly,
    /// Whoever the service manager lets: for files under `$CREDENTIALS_DIRECTORY`.
    ServiceManager,
}

/// A token file: a path, its rule, and what a pipe gave.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    rule: FileRule,
    /// A pipe can be read once only, so what it gave is kept.
    piped: OnceLock<Secret>,
}

impl TokenFile {
    /// A token file that has not been read yet.
    pub fn new(path: PathBuf, rule: FileRule) -> TokenFile {
        let piped = OnceLock::new();
        TokenFile { path, rule, piped }
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self) -> Result<Secret, TokenError> {
        if let Some(secret) = self.piped.get() {
            return Ok(secret.clone());
        }
        let file = File::open(&self.path).map_err(|error| self.unreadable(error))?;
        // Of the open file, not of the path: what is judged is what is read.
        let metadata = file.metadata().map_err(|error| self.unreadable(error))?;
        let is_pipe = metadata.file_type().is_fifo();
        if !is_pipe {
            self.check_rule(&metadata)?;
        }
        let secret = self.read_secret(file)?;
        match is_pipe {
            true => Ok(self.piped.get_or_init(|| secret).clone()),
            false => Ok(secret),
        }
    }

    fn check_rule(&self, metadata: &std::fs::Metadata) -> Result<(), TokenError> {
        let path = self.path.clone();
        let mode = metadata.permissions().mode() & 0o7777;
        if !metadata.is_file() {
            Err(TokenError::NotAFile { path })
        } else if self.rule == FileRule::OwnerOnly && mode & MODE_OTHERS != 0 {
            Err(TokenError::Exposed { path, mode })
        } else {
            Ok(())
        }
    }

    fn read_secret(&self, file: File) -> Result<Secret, TokenError> {
        let mut bytes = Vec::new();
        file.take(TOKEN_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| self.unreadable(error))?;
        let path = || self.path.clone();
        if bytes.len() as u64 > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong { path: path() });
        }
        std::str::from_utf8(&bytes)
            .map_err(|_| SecretFault::NotAscii)
            .and_then(Secret::new)
            .map_err(|fault| TokenError::Malformed { path: path(), fault })
    }

    fn unreadable(&self, cause: io::Error) -> TokenError {
        let path = self.path.clone();
        TokenError::Unreadable { path, cause }
    }
}

/// Why a token file, or a command, gave no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be opened or read.
    #[error("read token file {}: {cause}", shown(path))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Group or others have rights on the file.
    #[error("token file {} is open to others (mode {mode:04o})", shown(path))]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A folder or a device.
    #[error("token file {} is neither a file nor a pipe", shown(path))]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// More than a token can have.
    #[error("token file {} is longer than 64 KiB, so it holds no token", shown(path))]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// What the file holds is no token.
    #[error("token file {} holds no usable token: {fault}", shown(path))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: SecretFault,
    },
    /// A command gave none.
    #[error("token command {name}: {fault}")]
    Command {
        /// The command's name, and nothing else of it.
        name: String,
        /// What became of its run.
        fault: CommandFault,
    },
}

impl TokenError {
    /// What the user can do about it.
    pub fn way_out(&self) -> String {
        match self {
            TokenError::Exposed { path, .. } => format!("run: chmod 600 {}", shown(path)),
            TokenError::Unreadable { path, .. } => {
                format!("check the path and who may read it: ls -l {}", shown(path))
            }
            TokenError::NotAFile { .. } | TokenError::TooLong { .. } | TokenError::Malformed { .. } => {
                "write the key, and nothing else, into a file of mode 0600 and name that file".to_owned()
            }
            TokenError::Command { .. } => {
                "run it by hand: it has to print the key, and nothing else, within 30 s, without asking anything"
                    .to_owned()
            }
        }
    }
}
