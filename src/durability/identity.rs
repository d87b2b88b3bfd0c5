//! The files `lock` and `node` of a data directory: who uses it, and which node it belongs to.
//!
//! `node` is text, so that a person can read it. It is written to a temporary file, fsynced and
//! renamed. So after a crash it is either the old file or the new one.
//!
//! ```text
//! kvstore node 1                            format version
//! id 00c0ffee00c0ffee                       16 hex digits
//! member 0123456789abcdef 192.0.2.7:8080    another node and its address; any number of lines
//! banned fedcba9876543210                   a node forgotten for good; any number of lines
//! crc32 159ae83f                            of all bytes before this line
//! ```
//!
//! Behind the address stands ` memory` if that node keeps nothing on disk, and ` introduced` or
//! ` unmet` if it never answered on a link of this node.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::path::{self, Path};
use std::thread;
use std::time::{Duration, Instant};

use super::crc32::crc32;
use super::files::FileLayer;
use super::private;
use super::snapshot::{publish, temporary};
use crate::config::BANS_MAX;
use crate::error::{Error, Result};

const NODE: &str = "node";
const FIRST_LINE: &str = "kvstore node 1";
/// Longest `node` file, in bytes: enough for ten thousand members and all bans. A longer one is
/// neither read nor written.
const NODE_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a node remembers of itself and its cluster besides the data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFile {
    /// This node's id, for as long as its data directory exists.
    pub node_id: u64,
    /// Other nodes of the cluster: id and address.
    pub members: Vec<(u64, String)>,
    /// Ids of nodes that were forgotten for good.
    pub bans: Vec<u64>,
}

impl NodeFile {
    /// Reads the file; `None` when there is none yet.
    pub fn load(files: &dyn FileLayer) -> Result<Option<NodeFile>> {
        let mut text = String::new();
        match files.read(NODE, 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
            Ok((_, len)) if len > NODE_FILE_BYTES_MAX => {
                return Err(bad(&format!("it has {len} bytes")));
            }
            Ok((input, _)) => input.take(NODE_FILE_BYTES_MAX).read_to_string(&mut text),
        }
        .map_err(|error| bad(&error.to_string()))?;
        NodeFile::decode(&text).map(Some)
    }

    /// Replaces the file by this.
    pub fn save(&self, files: &dyn FileLayer) -> io::Result<()> {
        let text = self.encode();
        if self.bans.len() > BANS_MAX || text.len() as u64 > NODE_FILE_BYTES_MAX {
            let message = format!(
                "{} members and {} bans are too many to be stored",
                self.members.len(),
                self.bans.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let file = files.create(&temporary(NODE))?;
        file.append(text.as_bytes())?;
        file.fsync()?;
        publish(files, NODE)
    }

    fn encode(&self) -> String {
        let mut text = format!("{FIRST_LINE}\nid {:016x}\n", self.node_id);
        for (id, address) in &self.members {
            text += &format!("member {id:016x} {address}\n");
        }
        for id in &self.bans {
            text += &format!("banned {id:016x}\n");
        }
        let crc = crc32(0, text.as_bytes());
        text + &format!("crc32 {crc:08x}\n")
    }

    fn decode(text: &str) -> Result<NodeFile> {
        let first = text.lines().next().unwrap_or_default();
        if first != FIRST_LINE {
            return Err(match first.strip_prefix("kvstore node ") {
                Some(version) => Error::Fatal(format!(
                    "the file {NODE} has format version {version}, and this program knows version \
                     1; start the program that wrote it, or a newer one"
                )),
                None => bad("does not start as it should"),
            });
        }
        let mut file = NodeFile::default();
        for line in text.lines().skip(1) {
            let mut words = line.splitn(3, ' ');
            let (key, id) = (words.next().unwrap_or_default(), words.next());
            let number = id.and_then(|id| u64::from_str_radix(id, 16).ok());
            match (key, number, words.next()) {
                ("id", Some(id), None) => file.node_id = id,
                ("member", Some(id), Some(address)) => file.members.push((id, address.into())),
                ("banned", Some(id), None) => file.bans.push(id),
                ("crc32", Some(_), None) => {}
                _ => return Err(bad(&format!("line '{line}' says nothing"))),
            }
        }
        if file.bans.len() > BANS_MAX {
            return Err(bad(&format!("it has more than {BANS_MAX} bans")));
        }
        // Encoding it again must give the same bytes: this checks the CRC and everything else.
        if file.encode() == text { Ok(file) } else { Err(bad("its checksum does not match")) }
    }
}

/// The error for a `node` file that cannot be used. Without it, nobody knows whether the node is in
/// a cluster.
pub fn bad(reason: &str) -> Error {
    Error::Corrupt(format!(
        "the file {NODE} cannot be used: {reason}. If this node is one of a cluster, the others \
         have its data: move this directory away and start with an empty one, since with this one \
         deleted keys could come back everywhere. If it is alone and runs without --raft, move the \
         file away and start with --salvage"
    ))
}

/// Creates the directory if it is missing and locks it for this process. Waits a while for another
/// process to end. The system releases the lock when the returned file is closed, also when the
/// process is killed.
pub fn take_directory(directory: &Path) -> Result<File> {
    if directory.is_file() {
        let shown = directory.display();
        return Err(Error::Fatal(format!(
            "{shown} is a file, not a directory; choose a directory with --data-dir DIR"
        )));
    }
    let failed = |error: io::Error| {
        Error::Fatal(format!(
            "cannot use the data directory {}: {error}; choose another with --data-dir DIR, or \
             make it writable",
            directory.display()
        ))
    };
    let absolute = path::absolute(directory).map_err(failed)?;
    let missing = absolute.ancestors().take_while(|path| !path.exists());
    let parents: Vec<&Path> = missing.filter_map(Path::parent).collect();
    private::create_directory(directory).map_err(failed)?;
    for parent in parents {
        // The names of new directories must survive a power loss, too.
        let synced = File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(failed)?;
    }
    private::check_directory(directory).map_err(|error| match error {
        Error::Io(error) => failed(error),
        other => other,
    })?;
    let mut options = private::file_options();
    options.read(true).write(true).create(true).truncate(false);
    let lock = options.open(directory.join("lock")).map_err(failed)?;
    let start = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_TIMEOUT => {
                thread::sleep(LOCK_PAUSE)
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Fatal(format!(
                    "the data directory {} is used by another server; stop that, or choose \
                     another with --data-dir DIR",
                    directory.display()
                )));
            }
        }
    }
}

/// Longest wait for a server that is ending to let go of the data directory, as after `kill -9`
/// and an immediate restart. Then: refused.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two attempts to take the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durability::disk_model::ModelDisk;

    fn example() -> NodeFile {
        NodeFile {
            node_id: 0x00C0_FFEE_00C0_FFEE,
            members: vec![(0x0123_4567_89AB_CDEF, "192.0.2.7:8080".into())],
            bans: vec![0xFEDC_BA98_7654_3210],
        }
    }

    #[test]
    fn the_worked_example_is_true() {
        let text = "kvstore node 1\nid 00c0ffee00c0ffee\nmember 0123456789abcdef 192.0.2.7:8080\n\
                    banned fedcba9876543210\ncrc32 159ae83f\n";
        assert_eq!(example().encode(), text);
        assert_eq!(NodeFile::decode(text).expect("decodes"), example());
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let text = example().encode();
        for at in 0..text.len() {
            for bit in 0..7 {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let changed = String::from_utf8(bytes).expect("still ASCII");
                assert!(NodeFile::decode(&changed).is_err(), "{changed}");
            }
            assert!(NodeFile::decode(&text[..at]).is_err());
        }
    }

    #[test]
    fn what_is_written_can_be_read_up_to_the_limit_and_no_more_is_written() {
        let disk = ModelDisk::default();
        let mut file = NodeFile { bans: (0..BANS_MAX as u64).collect(), ..example() };
        file.save(&disk).expect("the limit fits");
        assert_eq!(NodeFile::load(&disk).expect("readable"), Some(file.clone()));
        file.bans.push(BANS_MAX as u64);
        file.save(&disk).expect_err("one too many");
        file.bans.truncate(1);
        file.members = (0..100_000).map(|id| (id, "x".repeat(100))).collect();
        file.save(&disk).expect_err("too long");
        let stored = NodeFile::load(&disk).expect("the old file stands").expect("a file");
        assert_eq!(stored.bans.len(), BANS_MAX);
        let text = NodeFile { bans: (0..BANS_MAX as u64 + 1).collect(), ..example() }.encode();
        assert!(NodeFile::decode(&text).is_err());
    }

    #[test]
    fn a_newer_format_is_refused_as_such() {
        let error = NodeFile::decode("kvstore node 2\n").expect_err("newer");
        assert!(matches!(error, Error::Fatal(_)), "{error}");
    }
}
