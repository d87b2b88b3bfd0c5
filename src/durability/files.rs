//! The few things done to files, so that tests can put a disk that loses power in the place of the
//! real one.
//!
//! **What is assumed about the disk.** What a successful `fsync` of a file covers is there after a
//! power loss; new, renamed and removed names are there once the directory was fsynced; everything
//! else may be there or not, page by page, in any combination. After a failed `fsync` nobody knows
//! what is there, and a second one may succeed without having written anything (Linux marks the
//! pages clean: Rebello et al., "Can Applications Recover from fsync Failures?", 2020), so none is
//! ever retried.

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
    /// A new file that is written over the file `room`, so that it cannot lack the bytes which that
    /// takes; without such a file, just a new one.
    fn create_over(&self, room: &str, name: &str) -> io::Result<Arc<dyn AppendFile>>;
    /// Makes a file longer by so many zeros that are really there, and so take room. After an error
    /// some may be there.
    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()>;
    /// Cuts a file down to `len` bytes, if it is longer, writes what is behind `synced` once more,
    /// and fsyncs it.
    fn settle(&self, name: &str, synced: u64, len: u64) -> io::Result<()>;
    /// Gives a file another name, in place of a file that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes new, changed and removed names safe.
    fn fsync_directory(&self) -> io::Result<()>;
}

/// A file that is only ever appended to.
pub trait AppendFile: Debug + Send + Sync {
    /// Hands bytes to the operating system. After an error any part of them may be in the file.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when all that was appended is on the disk.
    fn fsync(&self) -> io::Result<()>;
    /// Cuts the file down to the `len` bytes that were appended, if it is longer, and syncs it.
    fn finish(&self, len: u64) -> io::Result<()>;
}

/// A directory of the operating system.
#[derive(Debug)]
pub struct DiskFiles {
    /// Where the files are.
    pub directory: PathBuf,
}

/// Written once more at a time.
const SETTLE_BYTES: u64 = 1024 * 1024;

impl FileLayer for DiskFiles {
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.directory)?;
        // A name that is no text is not one of ours.
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
        // The length is synced too where it changed; only times of access and change may be left
        // out.
        self.sync_data()
    }

    fn finish(&self, len: u64) -> io::Result<()> {
        if self.metadata()?.len() > len {
            self.set_len(len)?;
        }
        self.sync_all()
    }
}
