//! Damaged, missing and foreign files, full disks, and who may read a data directory: real server
//! processes.

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::disk::{Tmpfs, contents, start};
use common::{Server, cluster, have, http, poll, run};
use tempfile::TempDir;

/// What a server says that does not start.
fn refused(directory: &Path, options: &[&str]) -> String {
    let directory = directory.to_str().expect("a path in UTF-8");
    let said = common::disk::refused(&[&["--data-dir", directory], options].concat());
    assert!(said.contains("exit status: 1"), "{said}");
    said
}

/// A node that has stored some keys, and was killed.
fn stored(directory: &Path) {
    let mut server = start(directory, &["--fsync", "always"]);
    for key in 0..50 {
        server.connect().ask(format!("PUT key{key} value{key}\n"), "OK\n");
    }
    server.kill();
}

/// The only file with this ending.
fn file(directory: &Path, ending: &str) -> PathBuf {
    let mut paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.find(|path| path.to_str().is_some_and(|path| path.ends_with(ending))).expect("a file")
}

#[test]
fn damage_to_the_start_of_a_log_is_not_taken_for_emptiness() {
    let directory = TempDir::new().unwrap();
    stored(directory.path());
    let log = file(directory.path(), ".log");
    let good = fs::read(&log).unwrap();
    let mut damaged = good.clone();
    damaged[11..31].iter_mut().enumerate().for_each(|(at, byte)| *byte ^= 0x5A + at as u8);
    for (bad, offset) in [(vec![0; good.len()], 0), (damaged, 0), (good[..20].to_vec(), 0)] {
        fs::write(&log, &bad).unwrap();
        let before = contents(directory.path());
        let said = refused(directory.path(), &[]);
        let is_named = said.contains(&format!("0000000001.log is damaged at offset {offset}"));
        assert!(is_named || said.contains("there is no log and no snapshot"), "{said}");
        assert!(said.contains("--salvage"), "{said}");
        assert_eq!(contents(directory.path()), before, "nothing touched");
    }
    fs::write(&log, good).unwrap();
    start(directory.path(), &[]).connect().ask("GET key49\n", "value49\n");
}

#[test]
fn a_removed_or_foreign_snapshot_is_noticed() {
    let (directory, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for path in [directory.path(), other.path()] {
        stored(path);
        // Salvage brings what is readable into a snapshot.
        let log = file(path, ".log");
        let mut bytes = fs::read(&log).unwrap();
        bytes[60] ^= 1;
        fs::write(&log, bytes).unwrap();
        start(path, &["--salvage"]).connect().ask("GET key49\n", "value49\n");
    }
    let (snapshot, foreign) =
        (file(directory.path(), ".snapshot"), file(other.path(), ".snapshot"));
    let own = fs::read(&snapshot).unwrap();
    let name = snapshot.file_name().unwrap().to_str().unwrap();

    fs::remove_file(&snapshot).unwrap();
    let before = contents(directory.path());
    let said = refused(directory.path(), &[]);
    assert!(said.contains(&format!("{name}, which it stands on, is missing")), "{said}");
    assert_eq!(contents(directory.path()), before, "nothing touched");

    fs::copy(foreign, &snapshot).unwrap();
    let said = refused(directory.path(), &[]);
    assert!(said.contains(name) && said.contains("belongs to another data directory"), "{said}");

    fs::write(&snapshot, own).unwrap();
    start(directory.path(), &[]).connect().ask("GET key49\n", "value49\n");
}

#[test]
fn in_a_cluster_the_advice_is_an_empty_directory() {
    let directory = TempDir::new().unwrap();
    let other = Server::start(&[]);
    let seed = format!("localhost:{}", other.port);
    let mut server = start(directory.path(), &["--fsync", "always", "--peer", &seed]);
    // Two frames: damage to the last one looks like a torn write.
    server.connect().ask("PUT first a\n", "OK\n");
    server.connect().ask("PUT second b\n", "OK\n");
    cluster::wait_for_value(&other, "second", Some("b"));
    let path = directory.path().join("node");
    poll("the member is stored", || {
        fs::read_to_string(&path).ok()?.contains("member").then_some(())
    });
    server.kill();
    let node = fs::read_to_string(&path).unwrap();
    let id = node.lines().find_map(|line| line.strip_prefix("id ")).expect("an id");

    let log = file(directory.path(), ".log");
    let good = fs::read(&log).unwrap();
    let mut bytes = good.clone();
    bytes[60] ^= 1;
    fs::write(&log, &bytes).unwrap();
    for options in [&[][..], &["--salvage"], &["--peer", &seed]] {
        let said = refused(directory.path(), options);
        assert!(
            said.contains("start with an empty one") && said.contains(&format!("PEER FORGET {id}")),
            "{said}"
        );
        assert!(!said.contains("Bring the files back"), "{said}");
    }
    fs::write(&log, good).unwrap();
    fs::remove_file(&path).unwrap();
    for options in [&[][..], &["--peer", &seed], &["--salvage", "--peer", &seed]] {
        let said = refused(directory.path(), options);
        assert!(
            said.contains("the file node cannot be used") && said.contains("an empty one"),
            "{said}"
        );
    }
    // The way out.
    let empty = TempDir::new().unwrap();
    let server = start(empty.path(), &["--peer", &seed]);
    cluster::wait_for_value(&server, "second", Some("b"));
}

#[cfg(unix)]
mod modes {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_data_directory_is_for_its_owner_only() {
        let parent = TempDir::new().unwrap();
        let directory = parent.path().join("made by the server");
        stored(&directory);
        let check = || {
            assert_eq!(mode(&directory), 0o700);
            for (path, _) in contents(&directory) {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
            }
        };
        check();
        // As older versions left it, or somebody changed it.
        set_mode(&directory, 0o755);
        contents(&directory).iter().for_each(|(path, _)| set_mode(path, 0o644));
        start(&directory, &[]).wait_for_log("mode 700");
        check();
    }

    #[test]
    fn a_directory_with_other_things_in_it_is_left_as_it_is_with_a_warning() {
        let directory = TempDir::new().unwrap();
        set_mode(directory.path(), 0o755);
        fs::write(directory.path().join("letter"), "Dear Dylan").unwrap();
        let server = start(directory.path(), &[]);
        server.wait_for_log("others may read the data directory");
        assert_eq!(mode(directory.path()), 0o755);
        assert_eq!(mode(&directory.path().join("node")), 0o600);
    }

    #[test]
    fn links_and_special_files_are_refused() {
        let directory = TempDir::new().unwrap();
        stored(directory.path());
        let target = TempDir::new().unwrap();
        let victim = target.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        for name in ["lock", "0000000009.log", "node.tmp", "anything"] {
            let link = directory.path().join(name);
            let _ = fs::remove_file(&link);
            symlink(&victim, &link).unwrap();
            let said = refused(directory.path(), &[]);
            assert!(said.contains(&format!("{name} is not a plain file")), "{said}");
            fs::remove_file(&link).unwrap();
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        let pipe = directory.path().join("0000000009.snapshot");
        if have("mkfifo", "coreutils") {
            assert_eq!(run(Command::new("mkfifo").arg(&pipe), "").code, Some(0));
            assert!(refused(directory.path(), &[]).contains("is not a plain file"));
            fs::remove_file(&pipe).unwrap();
        }
        fs::create_dir(&pipe).unwrap();
        assert!(refused(directory.path(), &[]).contains("is not a plain file"));
        fs::remove_dir(&pipe).unwrap();
        // A directory that is nobody's, as a file system of its own has one.
        fs::create_dir(directory.path().join("lost+found")).unwrap();
        start(directory.path(), &[]).connect().ask("GET key49\n", "value49\n");
    }
}

#[test]
fn a_start_on_a_full_disk_serves_reads_and_heals_when_there_is_room() {
    let Some(disk) = Tmpfs::mount(8) else {
        return;
    };
    let (data, filler) = (disk.path().join("data"), disk.path().join("filler"));
    stored(&data);
    let full = fs::File::create(&filler).unwrap();
    while (&full).write_all(&[1; 4096]).is_ok() {}
    // An open file keeps its room after it was removed.
    drop(full);
    let server = start(&data, &[]);
    server.connect().ask("GET key49\n", "value49\n");
    let mut wire = server.connect();
    wire.send("PUT k v\n");
    let reply = wire.line();
    assert!(
        reply.starts_with("ERROR read-only: cannot write at the start: ")
            && reply.ends_with("(not stored)"),
        "{reply}"
    );
    assert_eq!(http::get(&server, "/readyz").status, 503);
    assert_eq!(http::get(&server, "/livez").status, 200);
    server.wait_for_log("it needs 2 MiB of room in the data directory");
    fs::remove_file(&filler).unwrap();
    poll("it heals", || {
        let mut wire = server.connect();
        wire.send("PUT k v\n");
        (wire.line() == "OK").then_some(())
    });
    assert_eq!(http::get(&server, "/readyz").status, 200);
    drop(server);
    start(&data, &[]).connect().ask("GET k\nGET key49\n", "v\nvalue49\n");
}

/// Writes `mib` MiB over the same `live` MiB on a disk of `size` MiB; all of it must be taken in
/// the end.
fn small_disk(size: u32, live: usize, mib: usize) {
    let Some(disk) = Tmpfs::mount(size) else {
        return;
    };
    let data = disk.path().join("data");
    let mut server = start(&data, &["--fsync", "never"]);
    let mut wire = server.connect();
    for number in 0..mib {
        let value = format!("{number}:{}", "x".repeat(1 << 20));
        poll("the node takes writes again", || {
            wire.send(format!("PUT key{} {value}\n", number % live));
            let reply = wire.line();
            assert!(reply == "OK" || reply.starts_with("ERROR read-only"), "{reply}");
            let is_taken = reply == "OK";
            if !is_taken {
                std::thread::sleep(Duration::from_millis(20));
            }
            is_taken.then_some(())
        });
    }
    server.kill();
    let server = start(&data, &[]);
    for key in 0..live {
        let number =
            (mib - live..mib).find(|number| number % live == key).expect("one of the last");
        server.connect().ask(
            format!("STRLEN key{key}\n"),
            format!("{}\n", (1 << 20) + 1 + number.to_string().len()),
        );
    }
}

#[test]
fn a_disk_of_three_times_the_live_data_is_enough() {
    small_disk(112, 30, 300);
}

#[test]
#[ignore = "full size: two gigabytes are written"]
fn a_disk_of_three_times_the_live_data_is_enough_full_size() {
    small_disk(400, 120, 2_000);
}
