//! A disk that forgets what was not fsynced: the second [`FileLayer`].
//!
//! Unsynced pages survive a power loss in any combination, and the end of a file lies anywhere
//! between what was synced and what was written. Names that were created, changed or removed since
//! the directory was synced are as they were or as they are, each on its own.

use std::collections::BTreeMap;
use std::io::{self, Cursor, ErrorKind, Read};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::files::{AppendFile, FileLayer};
use crate::random::Random;

/// Small, so that a frame has several.
const PAGE_BYTES: usize = 32;

#[derive(Clone, Debug, Default)]
pub struct ModelDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changing operations so far.
    operations: u64,
    /// The power goes during this one.
    power_until: Option<u64>,
    faults: Faults,
}

#[derive(Clone, Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// An fsync failed, so the pages count as clean and are never written.
    forgotten: bool,
    /// Bytes that may be appended without new space.
    reserved: usize,
}

/// What is wrong with the disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// `fsync` of a file returns without doing anything.
    pub fsync_skipped: bool,
    /// The same of the directory.
    pub directory_fsync_skipped: bool,
    /// `fsync` of a file fails.
    pub fsync_fails: bool,
    /// `fsync` of a file returns some time after it is done.
    pub fsync_slow: bool,
    /// Recovery trusts what it reads.
    pub nothing_written_again: bool,
    /// So many bytes may still be written.
    pub space: Option<usize>,
}

impl ModelDisk {
    /// A disk with these files, all of them safe.
    pub fn with(files: &[(&str, &[u8])]) -> Self {
        let disk = ModelDisk::default();
        for (name, bytes) in files {
            let file = disk.create(name).unwrap();
            file.append(bytes).unwrap();
            file.fsync().unwrap();
        }
        disk.fsync_directory().unwrap();
        disk.state().operations = 0;
        disk
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Lets the power go during the operation after so many.
    pub fn cut_power_after(&self, operations: u64) {
        self.state().power_until = Some(operations);
    }

    /// What a file holds for a running process.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.files[state.names[name]].now.clone()
    }

    /// The disk after a power loss.
    pub fn after_power_loss(&self, random: &mut Random) -> ModelDisk {
        let state = self.state();
        let survivors: Vec<Vec<u8>> = state.files.iter().map(|file| file.survive(random)).collect();
        let mut names = BTreeMap::new();
        for name in state.names.keys().chain(state.durable_names.keys()) {
            let (now, durable) = (state.names.get(name), state.durable_names.get(name));
            if let Some(id) = if random.one_in(2) { now } else { durable } {
                names.insert(name.clone(), *id);
            }
        }
        let files: Vec<(&str, &[u8])> =
            names.iter().map(|(name, id)| (name.as_str(), survivors[*id].as_slice())).collect();
        ModelDisk::with(&files)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl Content {
    fn survive(&self, random: &mut Random) -> Vec<u8> {
        let (short, long) = (self.durable.len(), self.now.len());
        assert!(short <= long, "files only grow between two fsyncs");
        // Often at one of its ends, otherwise anywhere.
        let len = match random.below(4) {
            0 => short,
            1 => long,
            _ => short + random.below((long - short + 1) as u64) as usize,
        };
        let mut bytes = self.durable.clone();
        bytes.resize(len, 0);
        let all = random.below(4) == 0;
        for start in (0..len).step_by(PAGE_BYTES) {
            if all || random.one_in(2) {
                let end = len.min(start + PAGE_BYTES);
                bytes[start..end].copy_from_slice(&self.now[start..end]);
            }
        }
        bytes
    }
}

impl State {
    /// Counts an operation; an error once the power is gone.
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.power_until {
            Some(until) if self.operations > until => Err(io::Error::other("the power is gone")),
            _ => Ok(()),
        }
    }

    fn has_power(&self) -> bool {
        self.power_until.is_none_or(|until| self.operations <= until)
    }

    fn id(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or(ErrorKind::NotFound.into())
    }
}

impl FileLayer for ModelDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn read(&self, name: &str, offset: u64) -> io::Result<(Box<dyn Read + Send>, u64)> {
        let id = self.state().id(name)?;
        let bytes = self.state().files[id].now.clone();
        let len = bytes.len() as u64;
        let mut input = Cursor::new(bytes);
        input.set_position(offset);
        Ok((Box::new(input), len))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn AppendFile>> {
        let mut state = self.state();
        let had_power = state.has_power();
        let result = state.operate();
        if had_power {
            state.files.push(Content::default());
            let id = state.files.len() - 1;
            state.names.insert(name.into(), id);
        }
        result?;
        let (disk, id) = (self.clone(), state.files.len() - 1);
        Ok(Arc::new(ModelFile { disk, id }))
    }

    fn create_over(&self, room: &str, name: &str) -> io::Result<Arc<dyn AppendFile>> {
        let reserved = {
            let state = self.state();
            state.id(room).map_or(0, |id| state.files[id].now.len())
        };
        if reserved > 0 {
            self.rename(room, name)?;
        }
        let file = self.create(name)?;
        let mut state = self.state();
        let id = state.id(name)?;
        state.files[id].reserved = reserved;
        Ok(file)
    }

    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()> {
        if self.state().id(name).is_err() {
            self.create(name)?;
        }
        let id = self.state().id(name)?;
        ModelFile { disk: self.clone(), id }.append(&vec![0; bytes as usize])
    }

    fn settle(&self, name: &str, synced: u64, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let faults = state.faults;
        if faults.fsync_fails {
            return Err(io::Error::other("the disk does not answer"));
        }
        let id = state.id(name)?;
        let content = &mut state.files[id];
        let (synced, len) = (synced as usize, len as usize);
        content.now.truncate(len);
        content.durable.resize(len, 0);
        // Of a file whose pages count as clean only those that were written again reach the disk.
        let start = match (content.forgotten, faults.nothing_written_again) {
            (false, _) => 0,
            (true, false) => synced,
            (true, true) => len,
        };
        content.durable[start..].copy_from_slice(&content.now[start..]);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let had_power = state.has_power();
        let result = state.operate();
        if had_power {
            let id = state.id(from)?;
            state.names.remove(from);
            state.names.insert(to.into(), id);
        }
        result
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let had_power = state.has_power();
        let result = state.operate();
        if had_power {
            let id = state.id(name)?;
            state.names.remove(name);
            let freed = state.files[id].now.len();
            state.faults.space = state.faults.space.map(|space| space + freed);
        }
        result
    }

    fn fsync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        if !state.faults.directory_fsync_skipped {
            state.durable_names = state.names.clone();
        }
        Ok(())
    }
}

#[derive(Debug)]
struct ModelFile {
    disk: ModelDisk,
    id: usize,
}

impl AppendFile for ModelFile {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let had_power = state.has_power();
        let result = state.operate();
        let space = state.faults.space.unwrap_or(usize::MAX);
        let reserved = state.files[self.id].reserved.min(bytes.len());
        let fitting = bytes.len().min(space.saturating_add(reserved));
        if had_power {
            let content = &mut state.files[self.id];
            content.now.extend_from_slice(&bytes[..fitting]);
            content.reserved -= reserved;
            state.faults.space = state.faults.space.map(|space| space - (fitting - reserved));
        }
        result?;
        if fitting < bytes.len() {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn finish(&self, len: u64) -> io::Result<()> {
        assert_eq!(self.disk.state().files[self.id].now.len() as u64, len);
        self.fsync()
    }

    fn fsync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operate()?;
        let faults = state.faults;
        let content = &mut state.files[self.id];
        if faults.fsync_fails {
            content.forgotten = true;
            return Err(io::Error::other("the disk does not answer"));
        }
        if !faults.fsync_skipped && !content.forgotten {
            content.durable = content.now.clone();
        }
        drop(state);
        if faults.fsync_slow {
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}
