//! Disks of a test's own.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{have, run};

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
