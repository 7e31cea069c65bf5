//! What is taken of a folder in which others put, swap and change what they like.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::PathBuf;

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::writers::{Writers, writers_of};
use super::*;

const NOBODY: u32 = 65534;

struct Place {
    folder: tempfile::TempDir,
    open: File,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let open = File::open(folder.path()).unwrap();
        Place { folder, open }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn take(&self, name: impl AsRef<OsStr>) -> Result<Taken, Refused> {
        take(self.open.as_fd(), name.as_ref(), &rules(&|owner| owner == own()))
    }

    fn look(&self, name: &str, stamp: &Stamp) -> Look {
        look(self.open.as_fd(), OsStr::new(name), stamp).unwrap()
    }
}

fn rules(owner_allowed: &dyn Fn(u32) -> bool) -> Rules<'_> {
    Rules { owner_allowed, file_bytes_max: 4 << 20, small_bytes_max: 1000, small_lines_max: 3 }
}

fn own() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn rejected(result: Result<Taken, Refused>) -> (&'static str, String, String) {
    match result {
        Err(Refused::Reject { code, message, way_out }) => {
            assert!(!message.is_empty() && !way_out.is_empty());
            (code, message, way_out)
        }
        other => panic!("not rejected: {other:?}"),
    }
}

fn large(result: Result<Taken, Refused>) -> (File, Stamp) {
    match result {
        Ok(Taken::Large { file, stamp }) => (file, stamp),
        other => panic!("not large: {other:?}"),
    }
}

fn stamp_at(path: &Path) -> Stamp {
    Stamp::of(&fs::metadata(path).unwrap())
}

#[test]
fn a_small_file_is_taken_whole() {
    let place = Place::new();
    let path = place.write("a.jsonl", "abc");
    let Ok(Taken::Small { bytes, stamp, sha256 }) = place.take("a.jsonl") else { panic!("not small") };
    assert_eq!((bytes.as_slice(), stamp), (&b"abc"[..], stamp_at(&path)));
    assert_eq!(hex(&sha256), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    place.write("empty", "");
    assert!(matches!(place.take("empty"), Ok(Taken::Small { bytes, .. }) if bytes.is_empty()));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn many_lines_or_many_bytes_make_a_file_large() {
    let place = Place::new();
    for (contents, is_small) in [
        ("1\n2\n3\n".to_owned(), true),
        ("1\n2\n3".to_owned(), true),
        ("1\n2\n3\n4".to_owned(), false),
        ("x".repeat(1000), true),
        ("x".repeat(1001), false),
    ] {
        place.write("a", &contents);
        if is_small {
            assert!(matches!(place.take("a"), Ok(Taken::Small { .. })), "{contents}");
        } else {
            let (mut file, _) = large(place.take("a"));
            let mut read = String::new();
            file.read_to_string(&mut read).unwrap();
            assert_eq!(read, contents, "it is not at its beginning");
        }
    }
}

#[test]
fn whatever_is_no_regular_file_is_rejected_and_never_waited_for() {
    let place = Place::new();
    let secret = place.write("secret", "secret");
    symlink(&secret, place.path("link")).unwrap();
    symlink(place.path("nowhere"), place.path("dangling")).unwrap();
    fs::create_dir(place.path("folder")).unwrap();
    mknodat(CWD, place.path("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.path("socket")).unwrap();
    let mut expected = vec![
        ("link", "a symbolic link"),
        ("dangling", "a symbolic link"),
        ("folder", "a folder"),
        ("..", "a folder"),
        ("pipe", "a pipe"),
        ("socket", "a socket"),
    ];
    // The numbers of /dev/null; only root can make one.
    let null = rustix::fs::makedev(1, 3);
    if mknodat(CWD, place.path("device"), FileType::CharacterDevice, Mode::RUSR, null).is_ok() {
        expected.push(("device", "a device"));
    }
    for (name, what) in expected {
        let (code, message, _) = rejected(place.take(name));
        assert_eq!(code, "not_regular", "{name}");
        assert!(message.contains(what), "{name}: {message}");
    }
}

#[test]
fn a_file_of_somebody_else_is_rejected_under_every_name() {
    let place = Place::new();
    let path = place.write("a", "foreign");
    let (code, message, _) = rejected(take(place.open.as_fd(), OsStr::new("a"), &rules(&|_| false)));
    assert!(code == "wrong_owner" && message.contains(&own().to_string()), "{message}");
    if chown(&path, Some(NOBODY), None).is_err() {
        return;
    }
    fs::hard_link(&path, place.path("b")).unwrap();
    for name in ["a", "b"] {
        let (code, message, _) = rejected(place.take(name));
        assert!(code == "wrong_owner" && message.contains("65534"), "{message}");
    }
}

#[test]
fn an_owners_own_link_is_taken_where_links_are_protected() {
    let place = Place::new();
    fs::hard_link(place.write("a", "x"), place.path("b")).unwrap();
    let is_protected = fs::read("/proc/sys/fs/protected_hardlinks").is_ok_and(|bytes| bytes.starts_with(b"1"));
    match is_protected {
        true => assert!(matches!(place.take("b"), Ok(Taken::Small { .. }))),
        false => assert_eq!(rejected(place.take("b")).0, "hard_linked"),
    }
}

#[test]
fn a_file_that_is_too_large_is_told_the_way_out() {
    let place = Place::new();
    File::create(place.path("a")).unwrap().set_len((4 << 20) + 1).unwrap();
    let (code, message, way_out) = rejected(place.take("a"));
    assert_eq!(code, "too_large");
    assert!(message.contains("4194305") && way_out.contains("--max-file-bytes 4194305"), "{message} {way_out}");
    File::options().write(true).open(place.path("a")).unwrap().set_len(4 << 20).unwrap();
    large(place.take("a"));
}

#[test]
fn every_reason_has_its_code_and_its_way_out() {
    let rule = Rule { owner_allowed: &|_| true, bytes_max: 1 };
    for (fault, expected) in [
        (Fault::Unreadable(Errno::ACCESS), "unreadable"),
        (Fault::HardLinked, "hard_linked"),
        (Fault::TooLarge(2), "too_large"),
    ] {
        let (code, _, way_out) = rejected(Err(refusal(fault, OsStr::new("a"), &rule)));
        assert!(code == expected && way_out.len() > 10, "{code}: {way_out}");
    }
    let place = Place::new();
    fs::set_permissions(place.write("a", "x"), fs::Permissions::from_mode(0o000)).unwrap();
    if own() != 0 {
        assert_eq!(rejected(place.take("a")).0, "unreadable");
    }
}

#[test]
fn odd_names_are_taken_and_shown_harmless() {
    let place = Place::new();
    for bytes in [&b"a\nb.jsonl"[..], b"an\xff.jsonl", b"\x1b[31m.jsonl", b"-rf", &[b'x'; 255]] {
        let name = OsString::from_vec(bytes.to_vec());
        fs::write(place.folder.path().join(&name), "x").unwrap();
        assert!(matches!(place.take(&name), Ok(Taken::Small { .. })), "{name:?}");
        let (_, message, way_out) = rejected(take(place.open.as_fd(), &name, &rules(&|_| false)));
        assert!(!format!("{message}{way_out}").contains(|letter: char| letter.is_control()), "{message:?}");
    }
    assert!(matches!(place.take(OsStr::from_bytes(b"folder/a")), Err(Refused::Io(_))));
    assert!(matches!(place.take("nothing"), Err(Refused::Gone)));
}

#[test]
fn a_file_that_is_being_written_is_not_taken_yet() {
    let place = Place::new();
    let mut writer = File::create(place.path("a")).unwrap();
    writer.write_all(b"half").unwrap();
    if writers_of(&File::open(place.path("a")).unwrap()) == Writers::Unknown {
        return;
    }
    assert!(matches!(place.take("a"), Err(Refused::NotYet)));
    writer.write_all(b"whole").unwrap();
    drop(writer);
    assert!(matches!(place.take("a"), Ok(Taken::Small { bytes, .. }) if bytes == b"halfwhole"));
}

#[test]
fn a_file_that_changed_since_it_was_opened_is_not_taken_yet() {
    let place = Place::new();
    let path = place.write("a", "0123456789");
    let stamp = stamp_at(&path);
    let file = File::open(&path).unwrap();
    copy::read_whole(&file, &stamp).unwrap();
    for change in [Stamp { bytes: 11, ..stamp }, Stamp { bytes: 9, ..stamp }, Stamp { modified_ns: 1, ..stamp }] {
        assert!(matches!(copy::read_whole(&file, &change), Err(Refused::NotYet)), "{change:?}");
        let into = Place::new();
        assert!(matches!(copy(&file, &change, into.folder.path(), &mut || true), Err(Refused::NotYet)));
        assert_eq!(fs::read_dir(into.folder.path()).unwrap().count(), 0, "something is left behind");
    }
}

#[test]
fn a_file_that_grows_while_it_is_copied_is_not_taken_yet() {
    let place = Place::new();
    let path = place.write("a", vec![b'x'; 3 << 20]);
    let (file, stamp) = large(place.take("a"));
    let into = Place::new();
    let mut asked = 0;
    let mut grow = || {
        asked += 1;
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        true
    };
    assert!(matches!(copy(&file, &stamp, into.folder.path(), &mut grow), Err(Refused::NotYet)));
    assert_eq!(asked, 3, "once a MiB");
    assert_eq!(fs::read_dir(into.folder.path()).unwrap().count(), 0);
}

#[test]
fn a_large_file_is_copied_whole_and_in_private() {
    let place = Place::new();
    let contents = [vec![b'\n'; 2], vec![b'x'; (2 << 20) + 17]].concat();
    place.write("a", &contents);
    let (file, stamp) = large(place.take("a"));
    let into = Place::new();
    // What a killed copy and an older one have left.
    into.write("input.tmp", "rest");
    into.write(COPY_NAME, "old");
    let copied = copy(&file, &stamp, into.folder.path(), &mut || true).unwrap();
    assert_eq!(fs::read(into.path(COPY_NAME)).unwrap(), contents);
    let sha256 = Sha256::digest(&contents).into();
    assert_eq!(copied, Copied { bytes: contents.len() as u64, sha256, lines: 3 });
    assert_eq!(fs::metadata(into.path(COPY_NAME)).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(into.folder.path()).unwrap().count(), 1);
    place.write("empty", "");
    let (file, stamp) = (File::open(place.path("empty")).unwrap(), stamp_at(&place.path("empty")));
    assert_eq!(copy(&file, &stamp, into.folder.path(), &mut || false).unwrap().lines, 0);
}

#[test]
fn a_copy_that_is_called_off_leaves_nothing_and_keeps_the_old_one() {
    let place = Place::new();
    place.write("a", vec![b'x'; 2 << 20]);
    let (file, stamp) = large(place.take("a"));
    let into = Place::new();
    into.write(COPY_NAME, "old");
    let mut left = 1;
    let mut go_on = || std::mem::replace(&mut left, 0) == 1;
    assert!(matches!(copy(&file, &stamp, into.folder.path(), &mut go_on), Err(Refused::NotYet)));
    assert_eq!(fs::read(into.path(COPY_NAME)).unwrap(), b"old");
    assert_eq!(fs::read_dir(into.folder.path()).unwrap().count(), 1);
    let nowhere = into.path("nowhere");
    assert!(matches!(copy(&file, &stamp, &nowhere, &mut || true), Err(Refused::Io(_))));
}

#[test]
fn a_look_tells_what_became_of_a_file() {
    let place = Place::new();
    let path = place.write("a", "x");
    let stamp = stamp_at(&path);
    assert_eq!(place.look("a", &stamp), Look::Same);
    // Written to, and the time of that set back: its bytes and the time of its last write are as before.
    fs::write(&path, "y").unwrap();
    let modified = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(stamp.modified_ns.unsigned_abs());
    File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    let now = stamp_at(&path);
    assert!(now.same_contents(&stamp));
    assert_eq!(place.look("a", &stamp), Look::Changed(now));
    fs::remove_file(&path).unwrap();
    assert_eq!(place.look("a", &stamp), Look::Gone);
    symlink("b", &path).unwrap();
    assert!(matches!(place.look("a", &stamp), Look::Changed(_)));
}

/// Somebody swaps one name between a file that is theirs, links to files that are not (one of them the daemon's own), and
/// a pipe, as fast as it goes.
#[test]
fn no_swap_of_names_gives_out_what_is_foreign() {
    const SWAPS: usize = 8000;
    let place = Place::new();
    let secret = place.write("secret", "secret");
    let is_root = chown(&secret, Some(NOBODY), None).is_ok();
    symlink(place.write("key", "key"), place.path("link")).unwrap();
    mknodat(CWD, place.path("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let mut sources = vec!["mine", "link", "pipe"];
    if is_root {
        fs::hard_link(&secret, place.path("hard")).unwrap();
        sources.push("hard");
    }
    let (mut taken, mut refusals) = (0, BTreeMap::new());
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            for name in sources.iter().cycle().take(SWAPS) {
                // A file of their own is a new one each time, for a further link would change the old one.
                match *name {
                    "mine" => fs::write(place.path("swap"), "mine").unwrap(),
                    name => fs::hard_link(place.path(name), place.path("swap")).unwrap(),
                }
                fs::rename(place.path("swap"), place.path("a")).unwrap();
            }
        });
        while !swapper.is_finished() {
            match place.take("a") {
                Ok(Taken::Small { bytes, .. }) => {
                    assert_eq!(bytes, b"mine");
                    taken += 1;
                }
                Ok(other) => panic!("{other:?}"),
                Err(Refused::Io(error)) => panic!("{error}"),
                Err(refused) => *refusals.entry(code(&refused)).or_insert(0_u32) += 1,
            }
        }
    });
    assert!(taken > 0 && refusals.contains_key("not_regular"), "{taken} and {refusals:?}");
}

fn code(refused: &Refused) -> &'static str {
    match refused {
        Refused::Reject { code, .. } => code,
        _ => "none",
    }
}

proptest! {
    #[test]
    fn lines_are_what_ends_with_a_line_feed_and_what_is_left(text in "[a\n]{0,40}") {
        let counted = text.split_inclusive('\n').count();
        prop_assert_eq!(lines_in(text.as_bytes()), counted);
    }

    #[test]
    fn what_is_taken_is_what_was_written(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
        let place = Place::new();
        let path = place.write("a", &bytes);
        let (contents, sha256) = match place.take("a").unwrap() {
            Taken::Small { bytes, sha256, .. } => (bytes, sha256),
            Taken::Large { file, stamp } => {
                let into = Place::new();
                let copied = copy(&file, &stamp, into.folder.path(), &mut || true).unwrap();
                prop_assert_eq!(copied.lines, lines_in(&bytes) as u64);
                (fs::read(into.path(COPY_NAME)).unwrap(), copied.sha256)
            }
        };
        let expected: [u8; 32] = Sha256::digest(&bytes).into();
        prop_assert!(contents == bytes && sha256 == expected, "{path:?}");
    }
}
