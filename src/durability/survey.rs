//! The first step of recovery: list the files, check that they belong together, and choose which of
//! them to read. It reads headers only and changes nothing.
//!
//! Some files need not be read: logs without a frame, and everything below the newest snapshot. The
//! rest must be complete. A segment of another directory, a log without the snapshot that it stands
//! on, and a bad header in front of frames are damage.

use std::io::Read;

use log::warn;

use super::files::FileLayer;
use super::segment::{Header, Kind, SegmentName};
use super::snapshot::TEMPORARY;
use crate::error::{Error, Result};

/// What recovery knows before it looks at a segment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Directory {
    /// Its id, if it has one yet.
    pub id: Option<u64>,
    /// Whether other nodes have its data. They may have dropped tombstones that an old copy of this
    /// directory would need.
    pub is_in_cluster: bool,
    /// Keep what is readable instead of refusing to start.
    pub salvage: bool,
    /// What its logs are.
    pub log_kind: Kind,
}

impl Directory {
    /// Refuses to start because of damage. With `--salvage` only warns, and says what is `lost`.
    pub fn damaged(&self, error: Error, lost: &str) -> Result<()> {
        if !self.salvage || self.is_in_cluster {
            return Err(error);
        }
        warn!("{error}; salvage: {lost}");
        Ok(())
    }

    /// The error for a segment whose bytes are not the ones that were stored.
    pub fn damage(&self, name: SegmentName, offset: u64, reason: &str) -> Error {
        Error::Corrupt(format!(
            "{name} is damaged at offset {offset}: {reason}. This was safely stored once, so the \
             disk or somebody changed it. {}",
            self.way_out()
        ))
    }

    fn way_out(&self) -> String {
        let Some(id) = self.id.filter(|_| self.is_in_cluster) else {
            return "Bring the files back from a copy, or start with --salvage to keep what is \
                readable"
                .into();
        };
        let danger = if self.log_kind.is_raft() {
            "A copy from before has forgotten what this node promised to the others"
        } else {
            "A copy from before and --salvage could bring deleted keys back everywhere"
        };
        format!(
            "The other nodes of the cluster have the data: move this directory away, start with \
             an empty one, and then say PEER FORGET {id:016x} to another node. {danger}"
        )
    }
}

/// Which files to read, and which not.
#[derive(Debug, Default)]
pub struct Survey {
    /// The segments to read, in order.
    pub segments: Vec<SegmentFile>,
    /// Names of files that were replaced or never finished.
    pub obsolete: Vec<String>,
    /// Names of logs without a frame. They are removed once there is a new log.
    pub empty: Vec<String>,
    /// The number for the next segment.
    pub next_number: u64,
    /// The id of the directory, if any file has it.
    pub id: Option<u64>,
    /// The number of the newest snapshot; 0: none.
    pub snapshot: u64,
    /// Segments that `--salvage` gave up.
    pub damaged: Vec<SegmentName>,
    /// Whether `--salvage` passed over a file that is missing.
    pub is_incomplete: bool,
}

/// One segment that is to be read.
#[derive(Debug)]
pub struct SegmentFile {
    /// Its name.
    pub name: SegmentName,
    /// Of the file, in bytes.
    pub len: u64,
    /// What it starts with.
    pub header: Header,
}

/// A segment of which only the header was read.
struct HeaderRead {
    name: SegmentName,
    len: u64,
    header: std::result::Result<Header, String>,
}

impl HeaderRead {
    /// Whether this is a log without a frame.
    fn is_empty(&self) -> bool {
        self.name.kind.is_log() && self.len <= self.name.kind.header_bytes()
    }

    /// Its header, if it is a good one of the directory with this id.
    fn header_of(&self, id: Option<u64>) -> Option<&Header> {
        self.header.as_ref().ok().filter(|header| Some(header.directory) == id)
    }
}

/// Looks at all files.
pub fn survey(files: &dyn FileLayer, directory: &Directory) -> Result<Survey> {
    let all = files.names()?;
    let found = read_headers(files, &all)?;
    let with_frames = || found.iter().filter(|found| !found.is_empty());
    let last = with_frames().map(|found| found.name).max();
    let mut ids = with_frames().filter_map(|found| Some(found.header.as_ref().ok()?.directory));
    let known = Directory { id: directory.id.or(ids.next_back()), ..*directory };
    let own = || found.iter().filter_map(|found| Some((found.header_of(known.id)?, found.name)));
    let snapshots = own().filter(|(_, name)| !name.kind.is_log());
    let mut survey = Survey {
        id: known.id,
        next_number: found.last().map_or(1, |found| found.name.number + 1),
        snapshot: snapshots.map(|(_, name)| name.number).max().unwrap_or(0),
        obsolete: all.iter().filter(|name| name.ends_with(TEMPORARY)).cloned().collect(),
        ..Survey::default()
    };
    survey.check_node_file(directory, &found)?;
    for found in &found {
        survey.place(&known, found, last)?;
    }
    let stands_on = own().map(|(header, name)| (header.stands_on, name)).max();
    if let Some((number, log)) = stands_on
        && number > survey.snapshot
    {
        let snapshot = SegmentName { number, kind: log.kind.snapshot() };
        let reason =
            format!("{snapshot}, which it stands on, is missing, and most of the data with it");
        known.damaged(
            known.damage(log, log.kind.stands_on_offset(), &reason),
            "what was in it is lost",
        )?;
        survey.is_incomplete = true;
    }
    Ok(survey)
}

fn read_headers(files: &dyn FileLayer, names: &[String]) -> Result<Vec<HeaderRead>> {
    let read = |name: SegmentName| {
        let (input, len) = files.read(&name.to_string(), 0)?;
        let mut start = Vec::new();
        input.take(name.kind.header_bytes()).read_to_end(&mut start)?;
        let header = match Header::decode(name.kind, &start) {
            Err(Error::Fatal(message)) => return Err(Error::Fatal(format!("{name} {message}"))),
            header => header.map_err(|error| error.to_string()),
        };
        Ok(HeaderRead { name, len, header })
    };
    SegmentName::all(names).into_iter().map(read).collect()
}

impl Survey {
    /// The file `node` exists if and only if there are segments.
    fn check_node_file(&mut self, directory: &Directory, found: &[HeaderRead]) -> Result<()> {
        let has_data = found.iter().any(|found| !found.is_empty());
        if directory.id.is_none() && has_data {
            let error = super::identity::bad("it is missing, and there are logs or snapshots");
            directory.damaged(
                error,
                "the other nodes of its cluster, if there were any, are not known any more",
            )?;
        }
        if directory.id.is_some() && found.iter().all(|found| found.header.is_err()) && !has_data {
            let error = format!(
                "there is no log and no snapshot that starts as it should, so somebody removed or \
                 changed them. {}",
                directory.way_out()
            );
            directory.damaged(Error::Corrupt(error), "all of it is lost")?;
            self.is_incomplete = true;
        }
        Ok(())
    }

    /// Decides what to do with one segment. `last` is the youngest with frames.
    fn place(
        &mut self,
        directory: &Directory,
        found: &HeaderRead,
        last: Option<SegmentName>,
    ) -> Result<()> {
        let HeaderRead { name, len, ref header } = *found;
        let damage = match header {
            Ok(_) if found.is_empty() => {
                self.empty.push(name.to_string());
                return Ok(());
            }
            Ok(header) if Some(header.directory) != self.id => {
                directory.damage(name, 0, &foreign(header, self.id))
            }
            _ if name.number < self.snapshot => {
                self.obsolete.push(name.to_string());
                return Ok(());
            }
            Ok(header) => {
                self.segments.push(SegmentFile { name, len, header: *header });
                return Ok(());
            }
            Err(_) if found.is_empty() && last.is_none_or(|last| name > last) => {
                warn!("{name} ends within its header, as a crash leaves a new log: removed");
                self.obsolete.push(name.to_string());
                return Ok(());
            }
            Err(_) if found.is_empty() => {
                directory.damage(name, len, "it is cut short, and younger logs have records")
            }
            Err(reason) => directory.damage(name, 0, reason),
        };
        self.damaged.push(name);
        directory.damaged(damage, "all of it is lost")
    }
}

fn foreign(header: &Header, id: Option<u64>) -> String {
    let (other, own) = (header.directory, id.unwrap_or_default());
    format!(
        "it belongs to another data directory, of the node {other:016x}, and this one is of the \
         node {own:016x}"
    )
}
