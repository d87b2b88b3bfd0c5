//! Disks of a test's own.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{Server, binary, have, run};

/// A server on this data directory.
pub fn start(directory: &Path, options: &[&str]) -> Server {
    let directory = directory.to_str().expect("a path in UTF-8");
    Server::start(&[&["--data-dir", directory], options].concat())
}

/// A server that is expected not to start: its exit status and log.
pub fn refused(options: &[&str]) -> String {
    let mut command = Command::new(binary());
    command.args(["server", "0"]).args(options);
    Server::spawn(command).expect_err("it must not start")
}

/// Names and contents of all files in a directory.
pub fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> =
        entries.map(|path| (path.clone(), fs::read(path).unwrap_or_default())).collect();
    all.sort();
    all
}

/// A small file system of its own, while this exists.
pub struct Tmpfs(TempDir);

impl Tmpfs {
    /// Mounts one of so many MiB; without the right to mount, says so, and the test is skipped.
    pub fn mount(mib: u32) -> Option<Tmpfs> {
        if !have("mount", "mount") {
            return None;
        }
        let directory = TempDir::new().unwrap();
        let mut mount = Command::new("mount");
        let size = format!("size={mib}m");
        mount.args(["-t", "tmpfs", "-o", &size, "none"]).arg(directory.path());
        let output = run(&mut mount, "");
        if output.code == Some(0) {
            return Some(Tmpfs(directory));
        }
        // Not a failure in CI: `a_log_that_cannot_grow_…` shows the same of the log wherever it
        // runs.
        let _ = writeln!(std::io::stderr(), "SKIPPED, no tmpfs can be mounted: {}", output.stderr);
        None
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(self.0.path()).status();
    }
}
