//! What the SQLite backend does on a disk that is full, and where it may only read: real disks, real rights.
//!
//! Invariant of every test: what was acknowledged is there afterwards, and the same calls work again once there is room
//! or the right. What this machine cannot provoke is skipped aloud.

#[path = "servers/skip.rs"]
mod skip;

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;

use larder_adapters::contract::text_record;
use larder_adapters::{
    AdapterError, ErrorKind, Expected, FileSyncAdapter, OpenContext, RecordId, Row, RowContent, SHARED_OWNER,
    SqliteAdapter,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use rustix::thread::Uid;
use skip::skip;

const NOBODY: u32 = 65534;

/// A file system of one mebibyte in memory; unmounted when dropped.
struct SmallDisk {
    at: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, said aloud, where mounting is not permitted.
    fn mount(test: &str) -> Option<SmallDisk> {
        let at = tempfile::tempdir().expect("a temporary folder");
        match mount("none", at.path(), "tmpfs", MountFlags::empty(), c"size=1m") {
            Ok(()) => Some(SmallDisk { at }),
            Err(error) => {
                skip(test, &format!("a small disk cannot be mounted here ({error})"));
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.at.path()
    }

    /// Writes a file until no byte fits any more.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::create(&path).expect("there is room for a name");
        while file.write(&[7; 4096]).is_ok_and(|written| written > 0) {}
        path
    }

    fn remount(&self, flags: MountFlags) {
        mount_remount(self.path(), flags, c"size=1m").expect("it was mounted here");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a failed test may still have files open on it.
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

fn open(folder: &Path) -> Result<SqliteAdapter, AdapterError> {
    let context = OpenContext { wait_ms: 50, ..OpenContext::new(folder) };
    SqliteAdapter::open("sync.db".as_ref(), &context)
}

fn put(adapter: &SqliteAdapter, path: &str, text: &str) -> Result<(), AdapterError> {
    adapter.set(&text_record("app", path, text), &Expected::Absent).map(drop)
}

fn id(path: &str) -> RecordId {
    RecordId::new("app", SHARED_OWNER, path)
}

fn text(adapter: &SqliteAdapter, path: &str) -> Option<String> {
    let row: Row = adapter.get(&id(path)).expect("reading needs no room")?;
    match row.content {
        RowContent::Text(text) => Some(text),
        other => panic!("a text was written: {other:?}"),
    }
}

fn refusal<T>(outcome: Result<T, AdapterError>) -> AdapterError {
    match outcome {
        Ok(_) => panic!("a refusal was expected"),
        Err(error) => error,
    }
}

#[test]
fn a_full_disk_loses_nothing_and_the_same_write_works_when_there_is_room() {
    let Some(disk) = SmallDisk::mount("a_full_disk_loses_nothing_and_the_same_write_works_when_there_is_room") else {
        return;
    };
    let adapter = open(disk.path()).expect("there is room for an empty database");
    put(&adapter, "kept", "kept").expect("there is room");
    let filler = disk.fill();
    let large = "0123456789abcdef".repeat(8_000);

    let error = refusal(put(&adapter, "large", &large));
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.message.contains("disk"), "{error}");
    let gone = adapter
        .delete(&id("kept"), &Expected::Revision(adapter.get(&id("kept")).expect("reads").expect("is there").revision));
    assert!(gone.is_err() || text(&adapter, "kept").is_none());
    if gone.is_err() {
        assert_eq!(text(&adapter, "kept").as_deref(), Some("kept"));
    }
    assert_eq!(text(&adapter, "large"), None);

    fs::remove_file(filler).expect("removes");
    put(&adapter, "large", &large).expect("there is room again");
    adapter.close().expect("closes");
    let again = open(disk.path()).expect("it is whole");
    assert_eq!(text(&again, "large"), Some(large));
    assert_eq!(text(&again, "kept").is_some(), gone.is_err());
}

#[test]
fn a_full_disk_refuses_a_new_database_and_leaves_none_that_is_half_made() {
    let Some(disk) = SmallDisk::mount("a_full_disk_refuses_a_new_database_and_leaves_none_that_is_half_made") else {
        return;
    };
    let filler = disk.fill();

    let error = refusal(open(disk.path()));

    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    fs::remove_file(filler).expect("removes");
    put(&open(disk.path()).expect("there is room"), "a", "text").expect("there is room");
}

#[test]
fn a_disk_mounted_for_reading_only_is_denied_and_works_again_when_it_may_be_written() {
    let Some(disk) = SmallDisk::mount("a_disk_mounted_for_reading_only_is_denied_and_works_again") else { return };
    let adapter = open(disk.path()).expect("there is room");
    put(&adapter, "kept", "kept").expect("there is room");
    adapter.close().expect("closes");
    drop(adapter);
    disk.remount(MountFlags::RDONLY);

    let error = refusal(open(disk.path()).and_then(|adapter| put(&adapter, "new", "new")));
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");

    disk.remount(MountFlags::empty());
    let adapter = open(disk.path()).expect("it may be written");
    put(&adapter, "new", "new").expect("it may be written");
    assert_eq!((text(&adapter, "kept").as_deref(), text(&adapter, "new").as_deref()), (Some("kept"), Some("new")));
}

/// Runs `act` as somebody without root's rights; root's own thread gives them up for good.
fn without_root(act: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                let nobody = Uid::from_raw(NOBODY);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may become anybody");
            }
            act();
        });
        worker.join().expect("the assertions hold");
    });
}

#[test]
fn a_file_or_folder_that_may_only_be_read_is_denied_and_works_again_when_it_may_be_written() {
    for (file_mode, folder_mode) in [(0o444, 0o777), (0o666, 0o555), (0o444, 0o555)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let adapter = open(folder.path()).expect("it opens");
        put(&adapter, "kept", "kept").expect("it may be written");
        adapter.close().expect("closes");
        drop(adapter);
        let database = folder.path().join("sync.db");
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
        if rustix::process::geteuid().is_root() {
            chown(&database, Some(NOBODY), None).expect("chown");
            chown(folder.path(), Some(NOBODY), None).expect("chown");
        }
        set(&database, file_mode);
        set(folder.path(), folder_mode);

        without_root(|| {
            let error = refusal(open(folder.path()).and_then(|adapter| put(&adapter, "new", "new")));
            assert_eq!(error.kind, ErrorKind::Denied, "{file_mode:o} in {folder_mode:o}: {error}");
        });

        set(&database, 0o666);
        set(folder.path(), 0o777);
        without_root(|| {
            let adapter = open(folder.path()).expect("it may be written");
            put(&adapter, "new", "new").expect("it may be written");
            assert_eq!(text(&adapter, "kept").as_deref(), Some("kept"));
        });
    }
}
