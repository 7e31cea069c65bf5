//! What a folder holds after each way to publish.
#![allow(clippy::unwrap_used)]

use super::*;

use std::os::unix::fs::symlink;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn sealed(&self, text: &str) -> Sealed {
        let mut draft = Draft::create(&self.at("out")).unwrap();
        draft.write_all(text.as_bytes()).unwrap();
        draft.seal().unwrap()
    }

    /// Publishes `text` as `out`.
    fn published(&self, text: &str) -> Fingerprint {
        let sealed = self.sealed(text);
        let fingerprint = sealed.fingerprint().clone();
        sealed.publish(Exclusive::Link).unwrap();
        fingerprint
    }

    /// Every name, with its text.
    fn content(&self) -> Vec<(String, String)> {
        let entries = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap());
        let mut files: Vec<_> = entries
            .map(|entry| {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                (entry.file_name().into_string().unwrap(), text)
            })
            .collect();
        files.sort();
        files
    }

    fn assert_holds(&self, files: &[(&str, &str)]) {
        let files: Vec<_> = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        assert_eq!(self.content(), files);
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o777
}

#[test]
fn a_result_appears_whole_and_alone() {
    for how in [Exclusive::Link, Exclusive::Rename] {
        let folder = Folder::new();
        let text = "line\n".repeat(200_000);
        let sealed = folder.sealed(&text);
        assert!(!folder.at("out").exists());
        let known = sealed.fingerprint().clone();
        sealed.publish(how).unwrap();
        folder.assert_holds(&[("out", &text)]);
        assert_eq!(fingerprint(&folder.at("out")).unwrap().unwrap(), known);
        assert!(is_still(&folder.at("out"), &known).unwrap());
    }
}

#[test]
fn a_draft_is_closed_to_others_until_it_is_sealed() {
    let folder = Folder::new();
    fs::write(folder.at("usual"), "").unwrap();
    let draft = Draft::create(&folder.at("out")).unwrap();
    assert_eq!(mode(&folder.at(".out.anvil-draft")), 0o600);
    draft.seal().unwrap().publish(Exclusive::Link).unwrap();
    assert_eq!(mode(&folder.at("out")), mode(&folder.at("usual")));
}

#[test]
fn what_is_not_published_goes_away() {
    let folder = Folder::new();
    let mut draft = Draft::create(&folder.at("out")).unwrap();
    draft.write_all(b"half").unwrap();
    drop(draft);
    folder.assert_holds(&[]);
    drop(folder.sealed("whole"));
    folder.assert_holds(&[]);
}

#[test]
fn a_name_that_is_taken_stays_as_it_is() {
    for how in [Exclusive::Link, Exclusive::Rename] {
        let folder = Folder::new();
        fs::write(folder.at("out"), "theirs").unwrap();
        let error = folder.sealed("ours").publish(how).unwrap_err();
        assert!(matches!(error, PublishError::Taken { .. }), "{error}");
        folder.assert_holds(&[("out", "theirs")]);
        fs::remove_file(folder.at("out")).unwrap();
        symlink("nowhere", folder.at("out")).unwrap();
        assert!(matches!(folder.sealed("ours").publish(how), Err(PublishError::Taken { .. })));
        assert!(folder.at("out").is_symlink());
    }
}

#[test]
fn a_draft_that_a_crash_has_left_is_no_obstacle() {
    let folder = Folder::new();
    fs::write(folder.at(".out.anvil-draft"), "torn").unwrap();
    folder.published("whole");
    folder.assert_holds(&[("out", "whole")]);
}

#[test]
fn a_reply_that_was_lost_does_not_make_our_own_result_a_strangers() {
    let folder = Folder::new();
    let sealed = folder.sealed("whole");
    fs::hard_link(folder.at(".out.anvil-draft"), folder.at("out")).unwrap();
    sealed.publish(Exclusive::Link).unwrap();
    folder.assert_holds(&[("out", "whole")]);
    fs::remove_file(folder.at("out")).unwrap();
    let sealed = folder.sealed("whole");
    fs::rename(folder.at(".out.anvil-draft"), folder.at("out")).unwrap();
    // The draft is not in its place, which is no harm as the result is.
    sealed.publish(Exclusive::Rename).unwrap();
    folder.assert_holds(&[("out", "whole")]);
}

#[test]
fn who_lost_the_lock_neither_publishes_nor_removes_the_successors_draft() {
    type Way = fn(Sealed, &Fingerprint) -> Result<(), PublishError>;
    let ways: [Way; 4] = [
        |sealed, _| sealed.publish(Exclusive::Link),
        |sealed, _| sealed.publish(Exclusive::Rename),
        |sealed, old| sealed.replace(old),
        |sealed, _| sealed.replace_anything(),
    ];
    for (number, way) in ways.into_iter().enumerate() {
        let folder = Folder::new();
        let old = folder.published("old");
        if number < 2 {
            fs::remove_file(folder.at("out")).unwrap();
        }
        let late = folder.sealed("late");
        let mut successor = Draft::create(&folder.at("out")).unwrap();
        successor.write_all(b"half").unwrap();
        successor.flush().unwrap();
        assert!(matches!(way(late, &old), Err(PublishError::Io { .. })), "way {number}");
        let mut left = vec![(".out.anvil-draft", "half")];
        left.extend((number >= 2).then_some(("out", "old")));
        folder.assert_holds(&left);
        drop(successor);
    }
}

#[test]
fn what_we_published_is_replaced_and_keeps_its_permissions() {
    let folder = Folder::new();
    let old = folder.published("old");
    fs::set_permissions(folder.at("out"), Permissions::from_mode(0o640)).unwrap();
    folder.sealed("new").replace(&old).unwrap();
    folder.assert_holds(&[("out", "new")]);
    assert_eq!(mode(&folder.at("out")), 0o640);
}

#[test]
fn what_is_not_ours_any_more_is_not_replaced() {
    let folder = Folder::new();
    let old = folder.published("old");
    fs::write(folder.at("out"), "odd").unwrap();
    assert!(matches!(folder.sealed("new").replace(&old), Err(PublishError::Taken { .. })));
    folder.assert_holds(&[("out", "odd")]);
    fs::remove_file(folder.at("out")).unwrap();
    let error = folder.sealed("new").replace(&old).unwrap_err();
    assert!(matches!(&error, PublishError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound), "{error}");
    symlink("nowhere", folder.at("out")).unwrap();
    assert!(matches!(folder.sealed("new").replace(&old), Err(PublishError::Taken { .. })));
}

#[test]
fn an_exchange_that_met_a_change_is_undone() {
    let folder = Folder::new();
    folder.published("old");
    let sealed = folder.sealed("new");
    let read = Inspected::open(&folder.at("out")).unwrap().unwrap();
    // An editor replaces the file between our look and our exchange.
    fs::write(folder.at("edited"), "old").unwrap();
    fs::rename(folder.at("edited"), folder.at("out")).unwrap();
    let edited = fs::metadata(folder.at("out")).unwrap().ino();
    sealed.exchange().unwrap();
    assert!(matches!(sealed.keep_or_undo_exchange(&read), Err(PublishError::Taken { .. })));
    drop(sealed);
    folder.assert_holds(&[("out", "old")]);
    assert_eq!(fs::metadata(folder.at("out")).unwrap().ino(), edited);
}

#[test]
fn by_force_a_file_or_a_link_is_replaced_itself_but_never_anything_else() {
    let folder = Folder::new();
    folder.sealed("new").replace_anything().unwrap();
    fs::write(folder.at("other"), "kept").unwrap();
    fs::remove_file(folder.at("out")).unwrap();
    symlink("other", folder.at("out")).unwrap();
    folder.sealed("new").replace_anything().unwrap();
    folder.sealed("newer").replace_anything().unwrap();
    folder.assert_holds(&[("other", "kept"), ("out", "newer")]);
    fs::remove_file(folder.at("out")).unwrap();
    fs::create_dir(folder.at("out")).unwrap();
    assert!(matches!(folder.sealed("new").replace_anything(), Err(PublishError::Taken { .. })));
    fs::remove_dir(folder.at("out")).unwrap();
    rustix::fs::mknodat(CWD, folder.at("out"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    assert!(matches!(folder.sealed("new").replace_anything(), Err(PublishError::Taken { .. })));
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    let folder = Folder::new();
    let mut draft = Draft::create(&folder.at("out")).unwrap();
    // Stands for a file on a full disk: whatever is written to it fails with ENOSPC.
    draft.out.get_mut().scratch.file = File::options().write(true).open("/dev/full").unwrap();
    draft.write_all(b"fits into the buffer").unwrap();
    assert_eq!(draft.seal().unwrap_err().raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    let mut draft = Draft::create(&folder.at("out")).unwrap();
    draft.out.get_mut().scratch.file = File::options().write(true).open("/dev/full").unwrap();
    assert!(draft.write_all(&vec![b'x'; BUFFER_BYTES + 1]).is_err());
}

#[test]
fn bytes_that_are_missing_after_the_sync_are_found() {
    let folder = Folder::new();
    let mut draft = Draft::create(&folder.at("out")).unwrap();
    draft.write_all(b"five.").unwrap();
    draft.flush().unwrap();
    File::options().write(true).open(folder.at(".out.anvil-draft")).unwrap().set_len(4).unwrap();
    assert_eq!(draft.seal().unwrap_err().to_string(), "5 bytes were written, 4 are there");
    folder.assert_holds(&[]);
}
