//! The operations on files that this chapter needs, as traits, so that tests can use a disk that
//! loses power.
//!
//! **What we assume about a disk.** Bytes that a successful `fsync` of a file covers survive a
//! power loss. New, renamed and removed names survive it once the directory was fsynced. Everything
//! else may survive or not, page by page, in any combination. After a failed `fsync` the content of
//! the file is unknown, and a second `fsync` may succeed without writing anything, because Linux
//! marks the pages clean (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).
//! So a failed `fsync` is never retried.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

use super::private;

/// One directory of files.
pub trait FileLayer: Debug + Send + Sync {
    /// The names of all files.
    fn names(&self) -> io::Result<Vec<String>>;
    /// A reader from `offset` on, and the length of the whole file in bytes.
    fn read(&self, name: &str, offset: u64) -> io::Result<(Box<dyn Read + Send>, u64)>;
    /// A new, empty file; an old one of that name is emptied.
    fn create(&self, name: &str) -> io::Result<Arc<dyn AppendFile>>;
    /// A new file that is written over the file `room` and so uses the space that `room` has. A
    /// plain new file if there is no `room`.
    fn create_over(&self, room: &str, name: &str) -> io::Result<Arc<dyn AppendFile>>;
    /// Appends this many zeros to a file. They are really written, so that they take space. After
    /// an error some may have been written.
    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()>;
    /// Cuts a file to `len` bytes if it is longer, writes the bytes behind `synced` again, and
    /// fsyncs it.
    fn settle(&self, name: &str, synced: u64, len: u64) -> io::Result<()>;
    /// Renames a file; a file that has the new name is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns when new, changed and removed names are on the disk.
    fn fsync_directory(&self) -> io::Result<()>;
}

/// A file that is only ever appended to.
pub trait AppendFile: Debug + Send + Sync {
    /// Hands bytes to the operating system. After an error any part of them may have been written.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when all that was appended is on the disk.
    fn fsync(&self) -> io::Result<()>;
    /// Cuts the file to the `len` bytes that were appended, if it is longer, and fsyncs it.
    fn finish(&self, len: u64) -> io::Result<()>;
}

/// A directory of the operating system.
#[derive(Debug)]
pub struct DiskFiles {
    /// Where the files are.
    pub directory: PathBuf,
}

/// How many bytes are written again at a time.
const SETTLE_BYTES: u64 = 1024 * 1024;

impl FileLayer for DiskFiles {
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.directory)?;
        // A name that is not UTF-8 is not one of ours.
        let names = entries.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
        names.collect()
    }

    fn read(&self, name: &str, offset: u64) -> io::Result<(Box<dyn Read + Send>, u64)> {
        let mut file = File::open(self.directory.join(name))?;
        file.seek(SeekFrom::Start(offset))?;
        let len = file.metadata()?.len();
        Ok((Box::new(file), len))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn AppendFile>> {
        let mut options = private::file_options();
        options.write(true).create(true).truncate(true);
        Ok(Arc::new(options.open(self.directory.join(name))?))
    }

    fn create_over(&self, room: &str, name: &str) -> io::Result<Arc<dyn AppendFile>> {
        match self.rename(room, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(name),
            Err(error) => Err(error),
            Ok(()) => Ok(Arc::new(OpenOptions::new().write(true).open(self.directory.join(name))?)),
        }
    }

    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()> {
        let mut options = private::file_options();
        let mut file = options.append(true).create(true).open(self.directory.join(name))?;
        io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
        Ok(())
    }

    fn settle(&self, name: &str, synced: u64, len: u64) -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).write(true).open(self.directory.join(name))?;
        if file.metadata()?.len() > len {
            file.set_len(len)?;
        }
        let (mut at, mut bytes) = (synced, Vec::new());
        while at < len {
            bytes.clear();
            file.seek(SeekFrom::Start(at))?;
            (&file).take(SETTLE_BYTES.min(len - at)).read_to_end(&mut bytes)?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&bytes)?;
            at += bytes.len() as u64;
        }
        file.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }

    fn fsync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

impl AppendFile for File {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = self;
        file.write_all(bytes)
    }

    fn fsync(&self) -> io::Result<()> {
        // Covers the length too. Only the times of access and change may be left out.
        self.sync_data()
    }

    fn finish(&self, len: u64) -> io::Result<()> {
        if self.metadata()?.len() > len {
            self.set_len(len)?;
        }
        self.sync_all()
    }
}
