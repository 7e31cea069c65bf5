//! The folder of a prompt file, held open: whoever owns it may move it away and put a link in its place, and still
//! nothing that is done for the file reaches another folder.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::retry_on_intr;

use crate::line::escape::shown;

/// An open folder of a spool.
#[derive(Debug)]
pub struct Folder {
    folder: OwnedFd,
    /// What to call it.
    path: PathBuf,
    /// A path that leads to this very folder, whatever has its name.
    lasting: PathBuf,
}

impl Folder {
    /// Opens the folder of the file `path`, which is seen from the spool's folder `root`. Links in `root` itself are the
    /// administrator's and are followed, those below it are not; nothing waits for a pipe.
    pub fn of(root: &Path, path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder = retry_on_intr(|| openat(CWD, root, flags, Mode::empty()))?;
        let below = path.parent().unwrap_or(Path::new(""));
        for component in below.components() {
            let Component::Normal(name) = component else {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path leaves the spool"));
            };
            folder = retry_on_intr(|| openat(&folder, name, flags | OFlags::NOFOLLOW, Mode::empty()))?;
        }
        let is_root = below.as_os_str().is_empty();
        let lasting = if is_root { root.to_owned() } else { format!("/proc/self/fd/{}", folder.as_raw_fd()).into() };
        Ok(Self { folder, path: root.join(below), lasting })
    }

    /// Whether an error of [`Folder::of`] says that the folder is not there, or not any more what it was.
    pub fn is_gone(error: &io::Error) -> bool {
        let link = Some(rustix::io::Errno::LOOP);
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
            || rustix::io::Errno::from_io_error(error) == link
    }

    /// A path of a file in it, good for as long as this is held.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.lasting.join(name)
    }

    /// What a file in it is called.
    pub fn named(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// The folder as what it is called.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A message about files in it, with the names that people know.
    pub fn told(&self, message: &str) -> String {
        message.replace(&shown(&self.lasting), &shown(&self.path))
    }

    /// What is known of the folder itself.
    pub fn metadata(&self) -> io::Result<std::fs::Metadata> {
        File::from(self.folder.try_clone()?).metadata()
    }

    /// Whether nothing has this name here.
    pub fn is_free(&self, name: &OsStr) -> bool {
        self.join(name).symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}
