//! Where passwords come from: a file, or `KVSTORE_PASSWORD`; never the command line, which every
//! user of the machine can read.
//!
//! A file may hold two passwords, one to a line. Both are valid, and the first is the one that is
//! given to peers. So a password is changed node by node, without a moment at which two nodes do
//! not know each other's:
//!
//! 1. every node is restarted with `old` and `new` in its file, in this order: all take both, and
//!    give the old one;
//! 2. every node is restarted with `new` and `old`: all give the new one;
//! 3. clients change to the new one, and every node is restarted with `new` alone.

use std::ffi::OsString;
use std::path::Path;

use log::warn;

use crate::error::{Error, Result};

/// The valid passwords; none lets everybody in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passwords {
    /// The one that is given to others.
    pub first: Option<Vec<u8>>,
    /// Another that is valid.
    pub second: Option<Vec<u8>>,
}

impl Passwords {
    /// Whether clients must give a password.
    pub fn is_set(&self) -> bool {
        self.first.is_some()
    }

    /// Those of this file, or else of `KVSTORE_PASSWORD`, which holds one.
    pub fn read(file: Option<&Path>) -> Result<Passwords> {
        let Some(file) = file else {
            let password = std::env::var_os("KVSTORE_PASSWORD").map(OsString::into_encoded_bytes);
            return Ok(Passwords {
                first: password.filter(|password| !password.is_empty()),
                second: None,
            });
        };
        let name = file.display();
        let text = std::fs::read(file).map_err(|error| {
            Error::Usage(format!("cannot read the password file {name}: {error}"))
        })?;
        let mut lines = text
            .split(|&byte| byte == b'\n')
            .map(<[u8]>::trim_ascii_end)
            .filter(|line| !line.is_empty());
        let (first, second) = (lines.next().map(<[u8]>::to_vec), lines.next().map(<[u8]>::to_vec));
        if first.is_none() {
            return Err(Error::Usage(format!("the password file {name} is empty")));
        }
        if lines.next().is_some() {
            return Err(Error::Usage(format!(
                "the password file {name} has more than two lines; it holds one password, or two \
                 while it is changed"
            )));
        }
        Ok(Passwords { first, second })
    }
}

/// Warns when others can read a password file.
pub fn warn_if_readable(file: &Path) {
    if let Some(mode) = mode_of(file).filter(|mode| mode & 0o077 != 0) {
        warn!(
            "others can read the password file {} (mode {mode:04o}); run: chmod 600 {0}",
            file.display()
        );
    }
}

/// The permission bits, where there are any.
#[cfg(unix)]
fn mode_of(file: &Path) -> Option<u32> {
    let metadata = std::fs::metadata(file).ok()?;
    Some(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777)
}

#[cfg(not(unix))]
fn mode_of(_: &Path) -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_holds_one_or_two_without_their_line_ends() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let read = |text: &str| {
            std::fs::write(file.path(), text).expect("written");
            Passwords::read(Some(file.path())).map_err(|error| error.to_string())
        };
        let some = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(read("secret\n"), Ok(Passwords { first: some("secret"), second: None }));
        assert_eq!(read("old\r\nnew"), Ok(Passwords { first: some("old"), second: some("new") }));
        assert_eq!(read(" a b\n\n"), Ok(Passwords { first: some(" a b"), second: None }));
        assert!(read("\n").is_err_and(|why| why.ends_with("is empty")));
        assert!(read("a\nb\nc\n").is_err_and(|why| why.contains("more than two lines")));
        assert!(Passwords::read(Some(Path::new("/nonexistent"))).is_err());
    }
}
