//! Additional certificates: read whole, and looked at only to tell a certificate file from any other.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use crate::exit::Stop;
use crate::line::escape::shown;

/// The most that is read of a certificate file.
const CERTIFICATES_BYTES_MAX: u64 = 16 << 20;
/// What every PEM certificate begins with.
const CERTIFICATE_MARK: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// The contents of all files, one after another; each must hold a certificate.
pub(super) fn certificates(paths: &[PathBuf]) -> Result<Vec<u8>, Stop> {
    let mut pem = Vec::new();
    for path in paths {
        let wrong = |cause: String| {
            Stop::config(format!("read certificates {}: {cause}", shown(path)))
                .way_out("name a PEM file with the certificates of the authority that signed the service's")
        };
        let start = pem.len();
        let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
        let length = file.take(CERTIFICATES_BYTES_MAX + 1).read_to_end(&mut pem);
        if length.map_err(|error| wrong(error.to_string()))? as u64 > CERTIFICATES_BYTES_MAX {
            return Err(wrong("it is longer than 16 MiB".to_owned()));
        }
        if !pem[start..].windows(CERTIFICATE_MARK.len()).any(|window| window == CERTIFICATE_MARK) {
            return Err(wrong("no PEM certificate in it".to_owned()));
        }
        pem.push(b'\n');
    }
    Ok(pem)
}
