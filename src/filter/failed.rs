//! `--failed FILE`: the input lines that failed or were not settled, verbatim, ready to be piped in again.
//!
//! Invariant: FILE appears whole or not at all; it is written beside its place and renamed at the end.

use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// The file under construction.
#[derive(Debug)]
pub struct FailedLines {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
    terminator: u8,
    error: Option<io::Error>,
}

impl FailedLines {
    /// Creates the temporary file in FILE's own folder.
    pub fn create(path: &Path, terminator: u8) -> io::Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let as_usual = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        let file =
            tempfile::Builder::new().permissions(as_usual).prefix(".anvil-filter-failed-").tempfile_in(folder)?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file), terminator, error: None })
    }

    /// Adds one input record.
    pub fn push(&mut self, record: &[u8]) {
        if self.error.is_none() {
            let written = self.file.write_all(record).and_then(|()| self.file.write_all(&[self.terminator]));
            self.error = written.err();
        }
    }

    /// Publishes the file; the error is the first that occurred.
    pub fn finish(mut self) -> io::Result<()> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The rename is durable only when its folder is.
        std::fs::File::open(folder)?.sync_all()
    }
}
