//! The second step of recovery: reads the frames of the segments in order, and judges where each
//! segment ends. It does not know what the records in a frame say.
//!
//! **Torn or damaged?** A power loss may leave the end of the log in any state. That must not keep
//! a node from starting. Damage to bytes that were once safely on the disk must, since acknowledged
//! writes are lost. A bad frame is a *torn write* if nothing shows that its place was ever fsynced:
//! it is in the last log that has frames, and no good frame behind it names a `synced` beyond it.
//! Then the log ends before it. Otherwise it is *damage*: the node refuses to start, and names the
//! place and the way out.
//!
//! **Readable is not safe.** After a failed fsync the system takes the pages of a file for written.
//! Reading returns them from memory, but they may not be on the disk. So all bytes behind the last
//! known `synced` are written again before they are fsynced.

use std::io::{self, BufReader, Read};
use std::time::{Duration, Instant};

use log::{info, warn};

use super::crc32::crc32;
use super::files::FileLayer;
use super::segment::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES, SegmentName};
use super::survey::{Directory, SegmentFile, Survey};
use crate::error::Result;
use crate::store::record::{u32_at, u64_at};

/// The records of some frames of one segment, in order.
#[derive(Debug)]
pub struct Batch {
    /// The segment.
    pub name: SegmentName,
    /// Where the first of the frames starts.
    pub offset: u64,
    /// The records, encoded, one after the other.
    pub records: Vec<u8>,
}

impl Batch {
    /// How many records there are.
    pub fn count(&self) -> u64 {
        let (mut count, mut at) = (0, 0);
        while let Some(len) = self.name.kind.record_len(&self.records[at..]) {
            (count, at) = (count + 1, at + len);
        }
        count
    }
}

/// A segment that stays.
#[derive(Debug)]
pub struct Kept {
    /// Its name.
    pub name: SegmentName,
    /// How many bytes were certainly on the disk.
    pub synced: u64,
    /// How many bytes of it are good.
    pub len: u64,
}

/// A batch ends with the frame that makes it so long, in bytes.
pub const BATCH_BYTES: usize = 256 * 1024;
/// Bytes read from a file at a time.
const READ_BYTES: usize = 256 * 1024;

/// Reads all segments of a survey in order, and passes their records to `take`. Changes no file.
pub fn read_segments(
    files: &dyn FileLayer,
    directory: &Directory,
    survey: &mut Survey,
    mut take: impl FnMut(Batch) -> Result<()>,
) -> Result<Vec<Kept>> {
    let directory = Directory { id: survey.id, ..*directory };
    // Only the last log with frames may be torn: a log gets frames when all lower segments are on
    // the disk.
    let logs = survey.segments.iter().filter(|segment| segment.name.kind.is_log());
    let last = logs.map(|segment| segment.name).max();
    let mut kept = Vec::new();
    for segment in &survey.segments {
        let (name, mut len) = (segment.name, segment.len);
        let is_last = Some(name) == last;
        let mut reader = SegmentReader::open(files, segment)?;
        if let Some(reason) = reader.read_all(&mut take)? {
            let offset = reader.offset;
            let mut rest = Vec::new();
            files.read(&name.to_string(), offset)?.0.read_to_end(&mut rest)?;
            let later = find_frames(&rest, segment);
            let was_synced = |later: &[FoundFrame]| later.iter().any(|frame| frame.synced > offset);
            match &later {
                Some(later) if is_last && !was_synced(later) => {
                    warn!(
                        "{name}: a torn write at offset {offset} ({reason}), as a power loss or a \
                         crash leaves it: {} bytes cut away",
                        rest.len()
                    );
                    len = offset;
                }
                _ => {
                    let reason =
                        if is_last && later.is_none() { SEARCHED_TOO_LONG } else { reason };
                    let damage = directory.damage(name, offset, reason);
                    directory.damaged(damage, "what can be read behind it is kept")?;
                    let later = later.unwrap_or_default();
                    let records: Vec<&[u8]> = later.iter().map(|frame| frame.records).collect();
                    let (records, all) = (records.concat(), rest.len());
                    let lost = all - records.len() - later.len() * FRAME_HEADER_BYTES;
                    warn!(
                        "{name}: salvage: {lost} bytes are lost; {} bytes behind the damage are \
                         kept",
                        all - lost
                    );
                    take(Batch { name, offset, records })?;
                    survey.damaged.push(name);
                }
            }
        }
        // All lower segments were on the disk before the last log got a frame.
        let synced = if is_last { reader.synced } else { len };
        kept.push(Kept { name, synced, len });
    }
    Ok(kept)
}

const SEARCHED_TOO_LONG: &str = "too much of what follows looks like frames to tell what happened";

/// Cuts the files to what was read from them and fsyncs them. Removes replaced files first, since
/// the disk may be full.
pub fn settle(files: &dyn FileLayer, kept: &[Kept], obsolete: &[String]) -> io::Result<()> {
    for name in obsolete {
        files.remove(name)?;
    }
    for kept in kept {
        files.settle(&kept.name.to_string(), kept.synced, kept.len)?;
    }
    files.fsync_directory()
}

/// What [`SegmentReader::next`] found.
enum Found {
    /// A frame with records, which were appended.
    Frame,
    /// The end of the segment, as it should be.
    End,
    /// No good frame, for this reason.
    Bad(&'static str),
}

/// Reads a segment from its first frame on.
struct SegmentReader<'s> {
    input: BufReader<Box<dyn Read + Send>>,
    segment: &'s SegmentFile,
    /// Where the next frame starts in the file, in bytes.
    offset: u64,
    /// How many bytes of the segment were on the disk, according to the frames read so far.
    synced: u64,
}

impl<'s> SegmentReader<'s> {
    fn open(files: &dyn FileLayer, segment: &'s SegmentFile) -> io::Result<Self> {
        let offset = segment.name.kind.header_bytes();
        let (input, _) = files.read(&segment.name.to_string(), offset)?;
        let input = BufReader::with_capacity(READ_BYTES, input);
        Ok(SegmentReader { input, segment, offset, synced: offset })
    }

    /// Reads up to the end or the first bad frame; why that is bad.
    fn read_all(
        &mut self,
        take: &mut impl FnMut(Batch) -> Result<()>,
    ) -> Result<Option<&'static str>> {
        let (name, len) = (self.segment.name, self.segment.len);
        let mut reported = Instant::now();
        loop {
            if reported.elapsed() >= Duration::from_secs(1) {
                let percent = self.offset * 100 / len;
                info!("loading {name}: {percent} % of {} MiB", len >> 20);
                reported = Instant::now();
            }
            let (offset, mut records, mut found) = (self.offset, Vec::new(), Found::Frame);
            while records.len() < BATCH_BYTES && matches!(found, Found::Frame) {
                found = self.next(&mut records)?;
            }
            if !records.is_empty() {
                take(Batch { name, offset, records })?;
            }
            match found {
                Found::Frame => {}
                Found::End => return Ok(None),
                Found::Bad(reason) => return Ok(Some(reason)),
            }
        }
    }

    /// Reads a frame and appends its records to `records`. Lengths are checked against the file's
    /// before anything is allocated for them.
    fn next(&mut self, records: &mut Vec<u8>) -> io::Result<Found> {
        let SegmentFile { name, len: segment_len, header: segment_header } = self.segment;
        let is_log = name.kind.is_log();
        let left = segment_len - self.offset;
        if left == 0 && is_log {
            return Ok(Found::End);
        }
        if left < FRAME_HEADER_BYTES as u64 {
            return Ok(Found::Bad("cut short"));
        }
        let mut header = [0; FRAME_HEADER_BYTES];
        self.input.read_exact(&mut header)?;
        let len = u32_at(&header, 4) as usize;
        if len > FRAME_BYTES_MAX {
            return Ok(Found::Bad("length out of range"));
        }
        let left = left - FRAME_HEADER_BYTES as u64;
        if len as u64 > left {
            return Ok(Found::Bad("cut short"));
        }
        let start = records.len();
        records.resize(start + len, 0);
        self.input.read_exact(&mut records[start..])?;
        if !is_good(&header, &records[start..], segment_header.salt) {
            records.truncate(start);
            return Ok(Found::Bad("checksum does not match"));
        }
        if len == 0 {
            return Ok(match (is_log, left) {
                (true, _) => Found::Bad("an empty frame"),
                (false, 0) => Found::End,
                (false, _) => Found::Bad("goes on behind its end"),
            });
        }
        // A frame that claims more than the bytes before it was not written by this program.
        self.synced = self.synced.max(u64_at(&header, 8).min(self.offset));
        self.offset += (FRAME_HEADER_BYTES + len) as u64;
        Ok(Found::Frame)
    }
}

fn is_good(header: &[u8], records: &[u8], salt: u32) -> bool {
    u32_at(header, 0) == crc32(crc32(salt, &header[4..]), records)
}

/// A good frame found by [`find_frames`].
#[derive(Debug, PartialEq, Eq)]
struct FoundFrame<'a> {
    /// What it says was on the disk.
    synced: u64,
    records: &'a [u8],
}

/// Finds the good frames with records in `bytes`, wherever they start. `None` if that takes too
/// much work, 64 times the bytes there are: values that were made to look like frames can cause it.
fn find_frames<'a>(bytes: &'a [u8], segment: &SegmentFile) -> Option<Vec<FoundFrame<'a>>> {
    let (mut found, mut start, mut checked) = (Vec::new(), 0, 0);
    while let Some(header) = bytes.get(start..start + FRAME_HEADER_BYTES) {
        let len = u32_at(header, 4) as usize;
        let rest = &bytes[start + FRAME_HEADER_BYTES..];
        start += 1;
        let Some(records) = rest.get(..len) else {
            continue;
        };
        // Whether it has the form of records is much cheaper to find out than its checksum.
        let mut walked = 0;
        while let Some(len) = segment.name.kind.record_len(&records[walked..]) {
            walked += len;
        }
        checked += walked;
        if walked == len && len > 0 && is_good(header, records, segment.header.salt) {
            found.push(FoundFrame { synced: u64_at(header, 8), records });
            start += FRAME_HEADER_BYTES + len - 1;
        } else if checked > bytes.len().saturating_mul(SEARCH_FACTOR) {
            return None;
        }
    }
    Some(found)
}

/// See [`find_frames`].
const SEARCH_FACTOR: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durability::segment::{Header, Kind};

    #[test]
    fn values_made_to_look_like_frames_do_not_make_the_search_endless() {
        // Each 40 bytes: a frame header and a record whose value goes on to the end.
        let mut bytes = Vec::new();
        let total = 200_000;
        while bytes.len() < total {
            let left = (total - bytes.len()) as u32;
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&left.saturating_sub(16).to_le_bytes());
            bytes.extend_from_slice(&[0; 8 + 16]);
            bytes.extend_from_slice(&1u32.to_le_bytes());
            bytes.extend_from_slice(&left.saturating_sub(41).to_le_bytes());
        }
        let name = SegmentName { number: 1, kind: Kind::Log };
        let header = Header { salt: 1, directory: 1, stands_on: 0 };
        let segment = SegmentFile { name, len: 0, header };
        assert_eq!(find_frames(&bytes, &segment), None);
    }
}
