//! Only its owner may read a data directory: it has mode 0700, its files have 0600, and it holds no
//! links, which could lead to files elsewhere.
//!
//! Modes exist on Unix. On other systems the directory inherits its permissions.

use std::fs::{self, DirBuilder, Metadata, OpenOptions};
use std::io;
use std::path::Path;

use log::{info, warn};

use super::segment::SegmentName;
use super::snapshot::{ROOM, TEMPORARY};
use crate::error::{Error, Result};

/// Creates a directory and those above it that are missing.
pub fn create_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Options that create files for their owner only.
pub fn file_options() -> OpenOptions {
    #[allow(unused_mut)]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Refuses links and special files. Takes the rights of other users away from a directory that is
/// empty or already a data directory. For a directory with other files in it only warns, since it
/// may be somebody's home.
pub fn check_directory(directory: &Path) -> Result<()> {
    let (mut own, mut is_used, mut has_others) = (Vec::new(), false, false);
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let name = entry.file_name().into_string().unwrap_or_default();
        if !kind.is_file() && (!kind.is_dir() || is_ours(&name)) {
            return Err(Error::Fatal(format!(
                "{} is not a plain file, and a data directory holds only its own files; remove \
                 it, or choose another directory with --data-dir DIR",
                path.display()
            )));
        }
        is_used |= name == "node";
        if is_ours(&name) {
            own.push(path);
        } else {
            has_others = true;
        }
    }
    if is_used || !has_others {
        tighten(directory, 0o700);
    } else if is_open(&fs::metadata(directory)?, 0o700) {
        let directory = directory.display();
        warn!(
            "others may read the data directory {directory}, which holds more than data; say \
             chmod 700 {directory}"
        );
    }
    own.iter().for_each(|path| tighten(path, 0o600));
    Ok(())
}

/// Whether a data directory has a file of this name.
fn is_ours(name: &str) -> bool {
    let whole =
        name.strip_suffix(TEMPORARY).or_else(|| name.strip_suffix(".damaged")).unwrap_or(name);
    matches!(whole, "lock" | "node" | ROOM) || SegmentName::parse(whole).is_some()
}

/// Takes from other users what `mode` does not give them.
fn tighten(path: &Path, mode: u32) {
    let changed = fs::metadata(path).and_then(|metadata| {
        let is_open = is_open(&metadata, mode);
        #[cfg(unix)]
        if is_open {
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(path, permissions)?;
        }
        Ok(is_open)
    });
    match changed {
        Ok(true) => info!("{} is for its owner only now: mode {mode:o}", path.display()),
        Ok(false) => {}
        Err(error) => warn!("others may use {}: {error}; say chmod {mode:o} {0}", path.display()),
    }
}

#[cfg(unix)]
fn is_open(metadata: &Metadata, mode: u32) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777 & !mode != 0
}

#[cfg(not(unix))]
fn is_open(_: &Metadata, _: u32) -> bool {
    false
}
