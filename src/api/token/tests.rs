//! What files give, and what no text shows.
#![allow(clippy::unwrap_used)]

use super::*;
use std::fs;

const KEY: &str = "sk-0123456789abcdef";

fn file(folder: &tempfile::TempDir, contents: &[u8], mode: u32) -> PathBuf {
    let path = folder.path().join("api-key");
    fs::write(&path, contents).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn source(path: PathBuf, rule: FileRule) -> TokenSource {
    TokenSource::File(TokenFile::new(path, rule))
}

fn jwt(claims: &str) -> Secret {
    let middle = URL_SAFE_NO_PAD.encode(claims);
    Secret::new(&format!("eyJhbGciOiJIUzI1NiJ9.{middle}.c2ln")).unwrap()
}

#[test]
fn a_secret_is_never_printed() {
    let secret = Secret::new(KEY).unwrap();
    let shown = format!("{secret} {secret:?} {:?}", TokenSource::Environment(secret.clone()));
    assert_eq!(shown, "[secret] [secret] Environment([secret])");
    assert_eq!(secret.expose(), KEY);
}

#[test]
fn a_secret_is_trimmed_and_what_cannot_be_one_is_refused() {
    assert_eq!(Secret::new(" \t key\r\n").unwrap().expose(), "key");
    assert_eq!(Secret::new(" \n"), Err(SecretFault::Empty));
    assert_eq!(Secret::new("a b"), Err(SecretFault::InnerSpace));
    assert_eq!(Secret::new("a\nb"), Err(SecretFault::InnerSpace));
    assert_eq!(Secret::new("a\u{7f}b"), Err(SecretFault::InnerSpace));
    assert_eq!(Secret::new("schlüssel"), Err(SecretFault::NotAscii));
}

#[test]
fn a_jwt_tells_when_it_expires() {
    let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs_f64(seconds));
    assert_eq!(jwt_expiry(&jwt(r#"{"id":"x","exp":1700000000}"#)), at(1.7e9));
    assert_eq!(jwt_expiry(&jwt(r#"{"exp":1700000000.5}"#)), at(1_700_000_000.5));
    for claims in [r#"{"id":"x"}"#, r#"{"exp":"soon"}"#, r#"{"exp":-5}"#, r#"{"exp":1e300}"#, "x"] {
        assert_eq!(jwt_expiry(&jwt(claims)), None, "{claims}");
    }
    for key in [KEY, "a.b", "a.b.c", "a.eyJleHAiOjF9.c.d"] {
        assert_eq!(jwt_expiry(&Secret::new(key).unwrap()), None, "{key}");
    }
}

#[test]
fn keys_are_told_from_paths() {
    assert!(looks_like_key("sk-abc"));
    assert!(looks_like_key("eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2ln"));
    for path in ["./sk-abc", "api-key", "/run/eyJ.a.b", "eyJ.key", "-"] {
        assert!(!looks_like_key(path), "{path}");
    }
}

#[test]
fn a_file_is_read_again_at_each_call() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, b"first\n", 0o600);
    let source = source(path.clone(), FileRule::OwnerOnly);
    assert_eq!(source.read().unwrap().unwrap().expose(), "first");
    fs::write(&path, "second").unwrap();
    assert_eq!(source.read().unwrap().unwrap().expose(), "second");
    assert!(source.can_change());
}

#[test]
fn a_file_that_others_may_read_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    for mode in [0o640, 0o604, 0o660] {
        let path = file(&folder, KEY.as_bytes(), mode);
        let error = source(path.clone(), FileRule::OwnerOnly).read().unwrap_err();
        assert!(matches!(error, TokenError::Exposed { .. }), "{mode:o}: {error}");
        assert_eq!(error.way_out(), format!("run: chmod 600 {}", path.display()));
        assert!(source(path, FileRule::ServiceManager).read().is_ok());
    }
}

#[test]
fn bad_contents_are_refused_without_showing_them() {
    let folder = tempfile::tempdir().unwrap();
    let long = vec![b'x'; (TOKEN_BYTES_MAX + 1) as usize];
    for contents in [&b""[..], b"sk-one sk-two", b"sk-\xff", &long] {
        let path = file(&folder, contents, 0o600);
        let error = source(path, FileRule::OwnerOnly).read().unwrap_err();
        let shown = format!("{error} {error:?} {}", error.way_out());
        assert!(!shown.contains("sk-") && !shown.contains("xxx"), "{shown}");
    }
    let error = source(folder.path().into(), FileRule::OwnerOnly).read().unwrap_err();
    assert!(matches!(error, TokenError::NotAFile { .. }), "{error}");
    let error = source(folder.path().join("none"), FileRule::OwnerOnly).read().unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
}

#[test]
fn a_pipe_is_read_once_and_remembered_whatever_its_mode() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
    let writer = path.clone();
    let writer = std::thread::spawn(move || fs::write(writer, KEY).unwrap());
    let source = source(path, FileRule::OwnerOnly);
    assert_eq!(source.read().unwrap().unwrap().expose(), KEY);
    writer.join().unwrap();
    assert_eq!(source.read().unwrap().unwrap().expose(), KEY);
    assert!(!source.can_change());
}
