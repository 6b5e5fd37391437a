//! Laws of a real mount, over the catalog in memory. Skipped, aloud, where the system cannot mount.

mod given;
mod resemble;
mod ringed;
mod through;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::*;
use crate::model::{ContentKind, Reason};

/// A generous bound for what takes milliseconds.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);
const WALL_MS: u64 = 1_784_034_732_045;

pub(super) fn can_mount() -> bool {
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    match device {
        Err(error) => println!("skipped: /dev/fuse: {error}"),
        Ok(_)
            if !rustix::process::geteuid().is_root()
                && Command::new("fusermount3").arg("--version").output().is_err() =>
        {
            println!("skipped: not root, and no fusermount3");
        }
        Ok(_) => return true,
    }
    false
}

/// Polls until `holds`, which something else brings about.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not happen within {DEADLINE:?}");
        std::thread::yield_now();
    }
}

struct Fixture {
    // First, so that it is taken down before its folder is removed.
    mounted: Option<Mounted>,
    view: Arc<View<MemoryCatalog>>,
    dir: PathBuf,
    _temp: tempfile::TempDir,
}

impl Fixture {
    fn new(puts: &[MemoryPut<'_>]) -> Fixture {
        let temp = tempfile::tempdir().expect("a folder");
        let dir = temp.path().join("view");
        let view = Arc::new(View::new(MemoryCatalog::new()));
        for put in puts {
            view.catalog().put(put);
        }
        let mut fixture = Fixture { mounted: None, view, dir, _temp: temp };
        fixture.mount();
        fixture
    }

    fn mount(&mut self) {
        self.mount_with(&MountOptions::default());
    }

    /// As `new`; `None`, aloud, where this is refused.
    fn for_watchers(puts: &[MemoryPut<'_>]) -> Option<Fixture> {
        let mut fixture = Fixture::new(puts);
        let options = MountOptions { inotify: true, ..MountOptions::default() };
        if !rustix::process::geteuid().is_root() {
            fixture.mounted = None;
            let refused = mount(Arc::clone(&fixture.view), &fixture.dir, &options);
            assert!(matches!(refused, Err(MountError::OnlyRoot { .. })));
            println!("skipped: only root's views tell watchers");
            return None;
        }
        fixture.mount_with(&options);
        Some(fixture)
    }

    fn mount_with(&mut self, options: &MountOptions) {
        self.mounted = None;
        let (rings, guardian) = (options.rings || ringed::are_wanted(), Some(Guardian::assumed()));
        let options = MountOptions { rings, guardian, ..options.clone() };
        let mounted = mount(Arc::clone(&self.view), &self.dir, &options).expect("a mount");
        assert!(mounted.has_rings() || !ringed::are_wanted());
        self.mounted = Some(mounted);
    }

    fn mounted(&self) -> &Mounted {
        self.mounted.as_ref().expect("it is mounted")
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.join(below)
    }

    /// Publishes and tells the kernel, as a running daemon does.
    fn publish(&self, puts: &[MemoryPut<'_>]) {
        let changes: Vec<Change> = puts.iter().map(|put| self.view.catalog().put(put)).collect();
        self.mounted().notify(self.view.refresh(&changes).expect("known paths"));
        assert!(self.mounted().settle(DEADLINE));
    }

    /// The same, and whoever watches is told.
    fn publish_to_watchers(&self, puts: &[MemoryPut<'_>]) {
        let changes: Vec<Change> = puts.iter().map(|put| self.view.catalog().put(put)).collect();
        self.mounted().changed(&self.view, &changes).expect("known paths");
        assert!(self.mounted().settle(DEADLINE));
    }

    fn names(&self, below: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(below)).expect("a folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }
}

fn error_of<T: std::fmt::Debug>(outcome: std::io::Result<T>) -> Option<Errno> {
    outcome.expect_err("it must fail").raw_os_error().map(Errno::from_raw_os_error)
}

/// Everything below a folder: path -> (size, first bytes or link target).
fn walk(dir: &Path) -> BTreeMap<PathBuf, (u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("metadata");
            if metadata.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).expect("bytes");
                found.insert(path, (metadata.len(), bytes));
            }
        }
    }
    found
}

#[test]
fn a_second_pass_asks_nothing_and_the_first_little() {
    if !can_mount() {
        return;
    }
    let (folders, files) = (12, 25);
    let contents: Vec<(String, String)> = (0..folders * files)
        .map(|i| (format!("notes/{}/{}.md", i / files, i % files), format!("note {i}\n").repeat(i + 1)))
        .collect();
    let puts: Vec<MemoryPut<'_>> =
        contents.iter().map(|(path, text)| MemoryPut::file("laptop-abc234", path, text.as_bytes(), WALL_MS)).collect();
    let fixture = Fixture::new(&puts);

    let before = fixture.mounted().counters();
    let first_walk = walk(&fixture.path("merged"));
    let after_first = fixture.mounted().counters();
    let mut second_walk = BTreeMap::new();
    let second = asked_by(fixture.mounted(), || second_walk = walk(&fixture.path("merged")));

    let first = after_first.since(&before);
    let folders = u64::try_from(folders).expect("small") + 2;
    assert_eq!(first_walk.len(), contents.len());
    assert!(first.readdir + first.readdirplus <= 2 * folders, "{first:?}");
    assert!(first.read <= contents.len() as u64, "{first:?}");
    assert!(first.lookup < 10, "{first:?}");
    assert!(first.open <= 1 && first.opendir <= 1 && first.getattr <= 1 && first.other <= 2, "{first:?}");
    assert_eq!(first_walk, second_walk);
    assert_eq!(second.asked(), 0, "{second:?}");
}

/// What somebody asks of a view who looks at what the kernel has read before. If the kernel let go of some of it meanwhile, for whatever
/// other program, what was asked says nothing of the view: they look again.
pub(in crate::mount) fn asked_by(mounted: &Mounted, mut look: impl FnMut()) -> RequestCounts {
    for _ in 0..20 {
        let (lost, before) = (lost_by_the_kernel(), mounted.counters());
        look();
        let asked = mounted.counters().since(&before);
        if asked.asked() == 0 || lost == lost_by_the_kernel() {
            return asked;
        }
    }
    panic!("the kernel lets go of pages all the time: this machine has too little memory for this law");
}

/// Pages of files that the kernel read again after it had let go of them, and how often it was told to let go of all. Each processor
/// counts some dozens of pages by itself before the sum has them: they are added up first, where this is allowed.
fn lost_by_the_kernel() -> Vec<String> {
    let _only_root_may = fs::read("/proc/sys/vm/stat_refresh");
    let counted = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let is_of_it = |line: &&str| line.starts_with("workingset_refault_file ") || line.starts_with("drop_");
    counted.lines().filter(is_of_it).map(str::to_owned).collect()
}

#[test]
fn the_mount_shows_names_metadata_and_bytes_as_recorded() {
    if !can_mount() {
        return;
    }
    let long = "n".repeat(255);
    let big: Vec<u8> = (0..3_000_000u32).flat_map(|i| (i % 251).to_le_bytes()).collect();
    let script = ("laptop-abc234", "run.sh");
    let exec = MemoryPut {
        state: Ok((b"#!/bin/sh\necho ran\n", ContentKind::File { exec: true })),
        ..MemoryPut::file(script.0, script.1, b"", WALL_MS)
    };
    let link = MemoryPut {
        state: Ok((b"docs/two\nlines.md", ContentKind::Link)),
        ..MemoryPut::file("laptop-abc234", "link", b"", WALL_MS)
    };
    let fixture = Fixture::new(&[
        MemoryPut::file("laptop-abc234", "docs/two\nlines.md", b"text", WALL_MS),
        MemoryPut::file("laptop-abc234", &long, b"long", WALL_MS),
        MemoryPut::file("laptop-abc234", "gr\u{fc}n \u{1b}[31m.md", b"green", WALL_MS),
        MemoryPut::file("laptop-abc234", "empty", b"", WALL_MS),
        MemoryPut::file("laptop-abc234", "big.bin", &big, WALL_MS),
        exec,
        link,
    ]);
    let merged = |name: &str| fixture.path("merged").join(name);

    let trees = ["README.txt", "at", "conflicts", "history", "merged", "origins", "search", "starred", "trash"];
    assert_eq!(fixture.names(""), trees);
    assert_eq!(fs::read(merged("docs/two\nlines.md")).expect("bytes"), b"text");
    assert_eq!(fs::read(merged(&long)).expect("bytes"), b"long");
    assert_eq!(fs::read(merged("gr\u{fc}n \u{1b}[31m.md")).expect("bytes"), b"green");
    assert_eq!(fs::read(merged("empty")).expect("bytes"), b"");
    assert_eq!(fs::read(merged("link")).expect("through the link"), b"text");
    assert_eq!(fs::read_link(merged("link")).expect("a link"), Path::new("docs/two\nlines.md"));
    assert!(fs::read_to_string(fixture.path("README.txt")).expect("the readme").contains("read-only"));
    let ran = Command::new(merged("run.sh")).output().expect("it runs");
    assert_eq!(ran.stdout, b"ran\n");

    let metadata = fs::metadata(merged("big.bin")).expect("metadata");
    assert_eq!(
        (metadata.len(), metadata.mtime(), metadata.mtime_nsec()),
        (big.len() as u64, 1_784_034_732, 45_000_000)
    );
    assert_eq!((metadata.permissions().mode() & 0o7777, metadata.nlink()), (0o444, 1));
    assert_eq!(
        (metadata.uid(), metadata.gid()),
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    );
    assert_eq!(fs::metadata(merged("run.sh")).expect("metadata").permissions().mode() & 0o7777, 0o555);
    assert_eq!(fs::metadata(merged("docs")).expect("metadata").permissions().mode() & 0o7777, 0o555);
    assert_eq!(error_of(fs::metadata(merged(&"n".repeat(256)))), Some(Errno::NAMETOOLONG));
    assert_eq!(error_of(fs::metadata(merged(&"m".repeat(255)))), Some(Errno::NOENT));

    let sums = rustix::fs::statvfs(&fixture.dir).expect("sums");
    assert_eq!((sums.f_namemax, sums.f_bavail, sums.f_files), (255, 0, 7));
    assert!(sums.f_blocks >= big.len() as u64 / sums.f_bsize);
}

#[test]
fn reads_at_any_place_and_maps_give_the_recorded_bytes() {
    if !can_mount() {
        return;
    }
    let big: Vec<u8> = (0..700_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let fixture = Fixture::new(&[MemoryPut::file("laptop-abc234", "big.bin", &big, WALL_MS)]);
    let file = fs::File::open(fixture.path("merged/big.bin")).expect("a file");

    for (offset, len) in [(2_799_999, 10), (2_800_000, 10), (1_234_567, 200_000), (0, 1), (131_071, 2)] {
        let mut buffer = vec![0u8; len];
        let got = file.read_at(&mut buffer, offset as u64).expect("bytes");
        let expected = &big[offset.min(big.len())..(offset + len).min(big.len())];
        assert_eq!(&buffer[..got], expected, "{offset} {len}");
    }
    let len = big.len();
    // As `cp` does it (copy_file_range, then sendfile), and past the kernel's cache.
    let copy = fixture._temp.path().join("copy");
    fs::copy(fixture.path("merged/big.bin"), &copy).expect("copied");
    assert!(fs::read(&copy).expect("bytes") == big);
    let direct = {
        use std::os::unix::fs::OpenOptionsExt;
        fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(fixture.path("merged/big.bin"))
            .expect("a file")
    };
    let mut aligned = vec![0u8; 8192 + 4096];
    let skew = aligned.as_ptr().align_offset(4096);
    let got = direct.read_at(&mut aligned[skew..skew + 8192], 4096).expect("bytes");
    assert_eq!((got, &aligned[skew..skew + 8192]), (8192, &big[4096..4096 + 8192]));
    // SAFETY: a private read-only map of a whole open file; the view never truncates, and the map is unmapped below.
    let map = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
    assert_ne!(map, libc::MAP_FAILED);
    // SAFETY: the map above has `len` bytes that nobody writes.
    assert!(unsafe { std::slice::from_raw_parts(map.cast::<u8>(), len) } == big);
    // SAFETY: the same map, no longer borrowed.
    unsafe { libc::munmap(map, len) };
}

#[test]
fn every_change_is_refused_as_on_a_read_only_file_system() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new(&[MemoryPut::file("laptop-abc234", "docs/a.md", b"text", WALL_MS)]);
    let (file, new) = (fixture.path("merged/docs/a.md"), fixture.path("merged/docs/new"));
    let set_attribute = || {
        let name: &[u8] = b"user.x";
        rustix::fs::setxattr(&file, name, b"1", rustix::fs::XattrFlags::empty()).map_err(std::io::Error::from)
    };
    let truncate = || {
        let path = std::ffi::CString::new(file.as_os_str().as_encoded_bytes()).expect("no NUL");
        // SAFETY: a path that ends with NUL and outlives the call.
        if unsafe { libc::truncate(path.as_ptr(), 0) } == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    let make_pipe = || {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &new, rustix::fs::FileType::Fifo, mode, 0).map_err(std::io::Error::from)
    };
    let remove_attribute = || rustix::fs::removexattr(&file, "user.x").map_err(std::io::Error::from);
    let attempts: [(&str, std::io::Result<()>); 17] = [
        ("truncate", truncate()),
        ("truncate while opening", fs::OpenOptions::new().write(true).truncate(true).open(&file).map(drop)),
        ("make a pipe", make_pipe()),
        ("change the owner", std::os::unix::fs::chown(&file, Some(0), Some(0))),
        ("remove an attribute", remove_attribute()),
        ("create", fs::write(&new, b"x")),
        ("open for writing", fs::OpenOptions::new().write(true).open(&file).map(drop)),
        ("append", fs::OpenOptions::new().append(true).open(&file).map(drop)),
        ("set the time", fs::File::open(&file).and_then(|open| open.set_modified(std::time::UNIX_EPOCH))),
        ("make a folder", fs::create_dir(&new)),
        ("remove", fs::remove_file(&file)),
        ("remove a folder", fs::remove_dir(fixture.path("merged/docs"))),
        ("rename", fs::rename(&file, &new)),
        ("change the mode", fs::set_permissions(&file, fs::Permissions::from_mode(0o600))),
        ("link", fs::hard_link(&file, &new)),
        ("link by name", symlink("a.md", &new)),
        ("set an attribute", set_attribute()),
    ];

    for (what, outcome) in attempts {
        assert_eq!(error_of(outcome), Some(Errno::ROFS), "{what}");
    }
    assert_eq!(fs::read(&file).expect("bytes"), b"text");
}

#[test]
fn a_new_version_is_seen_at_once_and_an_open_file_keeps_the_old_one() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new(&[MemoryPut::file("laptop-abc234", "docs/a.md", b"old", WALL_MS)]);
    let path = fixture.path("merged/docs/a.md");
    let open = fs::File::open(&path).expect("a file");
    let read_open = || {
        let mut buffer = [0u8; 16];
        let got = open.read_at(&mut buffer, 0).expect("bytes");
        buffer[..got].to_vec()
    };
    let untouched = fixture.path("merged/docs/b.md");
    assert_eq!(fs::read(&path).expect("bytes"), b"old");
    assert_eq!(error_of(fs::metadata(&untouched)), Some(Errno::NOENT));
    assert_eq!(error_of(fs::metadata(fixture.path("merged/new/deep/c.md"))), Some(Errno::NOENT));
    assert_eq!(fixture.names("merged/docs"), ["a.md"]);
    assert_eq!(fixture.names("origins"), ["laptop-abc234"]);
    assert!(fixture.names("trash").is_empty());
    assert_eq!(fixture.names("history/docs/a.md").len(), 1);

    fixture.publish(&[
        MemoryPut::file("server-xyz567", "docs/a.md", b"newer", WALL_MS + 1000),
        MemoryPut::file("server-xyz567", "docs/b.md", b"b", WALL_MS + 1000),
        MemoryPut::file("server-xyz567", "new/deep/c.md", b"c", WALL_MS + 1000),
    ]);

    assert_eq!(fs::read(&path).expect("bytes"), b"newer");
    assert_eq!(fs::metadata(&path).expect("metadata").len(), 5);
    assert_eq!(read_open(), b"old");
    assert_eq!(fs::read(&untouched).expect("bytes"), b"b");
    assert_eq!(fs::read(fixture.path("merged/new/deep/c.md")).expect("bytes"), b"c");
    assert_eq!(fixture.names("merged"), ["docs", "new"]);
    assert_eq!(fixture.names("merged/docs"), ["a.md", "b.md"]);
    assert_eq!(fixture.names("origins"), ["laptop-abc234", "server-xyz567"]);
    assert_eq!(fs::read(fixture.path("origins/laptop-abc234/docs/a.md")).expect("bytes"), b"old");
    assert_eq!(fixture.names("history/docs/a.md").len(), 2);

    fixture.publish(&[MemoryPut::tombstone("laptop-abc234", "docs/a.md", Reason::User, WALL_MS + 2000)]);

    assert_eq!(error_of(fs::metadata(&path)), Some(Errno::NOENT));
    assert_eq!(fixture.names("merged/docs"), ["b.md"]);
    assert_eq!(fs::read(fixture.path("trash/docs/a.md")).expect("bytes"), b"newer");
    assert_eq!(read_open(), b"old");
}

#[test]
fn a_moment_is_a_folder_that_later_versions_leave_alone() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new(&[MemoryPut::file("laptop-abc234", "docs/a.md", b"old", WALL_MS)]);
    // The end of that second, and a spelling of it.
    let (then, spelled) =
        (fixture.path("at/2026-07-14T13-12-12.999Z/docs"), fixture.path("at/2026-07-14T13:12:12Z/docs"));
    let later = fixture.path("at/2030-01-01/docs");
    assert_eq!(fs::read(then.join("a.md")).expect("bytes"), b"old");
    assert_eq!(fs::read(spelled.join("a.md")).expect("through the link"), b"old");
    assert_eq!(fs::read(later.join("a.md")).expect("bytes"), b"old");
    assert_eq!(fixture.names("at/2030-01-01/docs"), ["a.md"]);
    assert_eq!(error_of(fs::metadata(fixture.path("at/soon"))), Some(Errno::NOENT));
    assert!(fixture.names("at/2020-01-01").is_empty());

    fixture.publish(&[
        MemoryPut::file("server-xyz567", "docs/a.md", b"newer", WALL_MS + 10_000),
        MemoryPut::file("server-xyz567", "docs/b.md", b"b", WALL_MS + 10_000),
    ]);

    assert_eq!(fs::read(then.join("a.md")).expect("bytes"), b"old");
    assert_eq!(error_of(fs::metadata(then.join("b.md"))), Some(Errno::NOENT));
    assert_eq!(fs::read(later.join("a.md")).expect("bytes"), b"newer");
    assert_eq!(fixture.names("at/2030-01-01/docs"), ["a.md", "b.md"]);

    fixture.view.catalog().let_go_before(crate::model::Hlc::new(WALL_MS + 5_000, 0));
    assert_eq!(error_of(fs::metadata(fixture.path("at/2026-07-01"))), Some(Errno::IO));
}

#[test]
fn a_conflict_appears_and_goes() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new(&[MemoryPut::file("laptop-abc234", "a.md", b"ours", WALL_MS)]);
    assert!(fixture.names("conflicts").is_empty());

    let theirs = MemoryPut { concurrent: true, ..MemoryPut::file("server-xyz567", "a.md", b"theirs", WALL_MS + 1) };
    fixture.publish(&[theirs]);

    assert_eq!(fixture.names("conflicts/a.md"), ["laptop-abc234", "server-xyz567"]);
    assert_eq!(fs::read(fixture.path("conflicts/a.md/laptop-abc234")).expect("bytes"), b"ours");

    fixture.publish(&[MemoryPut::file("laptop-abc234", "a.md", b"both", WALL_MS + 2)]);

    assert!(fixture.names("conflicts").is_empty());
    assert_eq!(error_of(fs::metadata(fixture.path("conflicts/a.md/laptop-abc234"))), Some(Errno::NOENT));
    assert_eq!(fs::read(fixture.path("merged/a.md")).expect("bytes"), b"both");
}

#[test]
fn bytes_that_are_not_here_fail_alone_and_heal() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new(&[
        MemoryPut::file("laptop-abc234", "here.md", b"here", WALL_MS),
        MemoryPut::file("laptop-abc234", "away.md", b"away", WALL_MS),
    ]);
    fixture.view.catalog().lose_content(b"away");

    assert_eq!(fixture.names("merged"), ["away.md", "here.md"]);
    assert_eq!(error_of(fs::read(fixture.path("merged/away.md"))), Some(Errno::IO));
    assert_eq!(fs::read(fixture.path("merged/here.md")).expect("bytes"), b"here");

    fixture.view.catalog().bring_content(b"away");
    assert_eq!(fs::read(fixture.path("merged/away.md")).expect("bytes"), b"away");
}

/// What inotify tells of some folders of the mount until all of `expected` was told.
fn told_of(watcher: &std::os::fd::OwnedFd, expected: usize) -> Vec<(i32, String, String)> {
    use rustix::fs::inotify::{ReadFlags, Reader};
    let mut told = Vec::new();
    eventually("inotify to tell of it", || {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(watcher, &mut buffer);
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let kinds = [(ReadFlags::CREATE, "create"), (ReadFlags::DELETE, "delete"), (ReadFlags::MODIFY, "modify")];
            let kind = kinds.iter().find(|(flag, _)| event.events().contains(*flag)).map_or("", |(_, kind)| kind);
            told.push((event.wd(), kind.to_owned(), name));
        }
        told.len() >= expected
    });
    told.sort();
    told
}

#[test]
fn watchers_are_told_of_changes_from_elsewhere() {
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    if !can_mount() {
        return;
    }
    let fixture = Fixture::for_watchers(&[
        MemoryPut::file("laptop-abc234", "docs/a.md", b"old", WALL_MS),
        MemoryPut::file("laptop-abc234", "docs/b.md", b"b", WALL_MS),
        MemoryPut::file("laptop-abc234", "docs/same.md", b"same", WALL_MS),
    ]);
    let Some(fixture) = fixture else { return };
    let watcher = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("inotify");
    let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MODIFY;
    let docs = add_watch(&watcher, fixture.path("merged/docs"), flags).expect("watched");
    let merged = add_watch(&watcher, fixture.path("merged"), flags).expect("watched");
    // One name is known to the kernel, the others are not.
    assert_eq!(fs::read(fixture.path("merged/docs/a.md")).expect("bytes"), b"old");

    fixture.publish_to_watchers(&[
        MemoryPut::file("server-xyz567", "docs/a.md", b"newer", WALL_MS + 1000),
        MemoryPut::tombstone("server-xyz567", "docs/b.md", Reason::User, WALL_MS + 1000),
        MemoryPut::file("server-xyz567", "docs/c.md", b"c", WALL_MS + 1000),
        MemoryPut::file("server-xyz567", "new/deep/d.md", b"d", WALL_MS + 1000),
    ]);

    let event = |watch: i32, kind: &str, name: &str| (watch, kind.to_owned(), name.to_owned());
    let mut expected = vec![
        event(docs, "create", "c.md"),
        event(docs, "delete", "b.md"),
        event(docs, "modify", "a.md"),
        event(merged, "create", "new"),
    ];
    expected.sort();
    assert_eq!(told_of(&watcher, expected.len()), expected);
    assert_eq!(fs::read(fixture.path("merged/docs/a.md")).expect("bytes"), b"newer");
    assert_eq!(fixture.names("merged/docs"), ["a.md", "c.md", "same.md"]);
    assert_eq!(fs::read(fixture.path("merged/docs/c.md")).expect("bytes"), b"c");
    assert_eq!(fs::read(fixture.path("merged/new/deep/d.md")).expect("bytes"), b"d");
    assert_eq!(error_of(fs::metadata(fixture.path("merged/docs/b.md"))), Some(Errno::NOENT));
    assert_eq!(fs::read(fixture.path("trash/docs/b.md")).expect("bytes"), b"b");
    assert_eq!(fs::metadata(fixture.path("trash/docs/b.md")).expect("metadata").nlink(), 1);
}

#[test]
fn a_writable_copy_of_the_mount_writes_nothing() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::for_watchers(&[MemoryPut::file("laptop-abc234", "docs/a.md", b"text", WALL_MS)]);
    let Some(fixture) = fixture else { return };
    // What root can always make; the view takes it for anybody's.
    let stranger = replay::Replayer::default();
    let device = fs::metadata(&fixture.dir).expect("metadata").dev();
    let stage = replay::Stage::open(&stranger, &fixture.dir, device).expect("a copy");
    let (file, new) = (stage.path("merged/docs/a.md"), stage.path("merged/docs/new"));

    let attempts: [(&str, std::io::Result<()>); 7] = [
        ("create", fs::write(&new, b"x")),
        ("overwrite", fs::write(&file, b"x")),
        ("remove", fs::remove_file(&file)),
        ("make a folder", fs::create_dir(&new)),
        ("remove a folder", fs::remove_dir(stage.path("merged/docs"))),
        ("change the mode", fs::set_permissions(&file, fs::Permissions::from_mode(0o600))),
        ("link by name", symlink("a.md", &new)),
    ];
    for (what, outcome) in attempts {
        assert_eq!(error_of(outcome), Some(Errno::ROFS), "{what}");
    }
    assert_eq!(fs::read(fixture.path("merged/docs/a.md")).expect("bytes"), b"text");
    assert_eq!(fixture.names("merged/docs"), ["a.md"]);
}

#[test]
fn tail_follows_a_file_by_its_name() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new(&[MemoryPut::file("laptop-abc234", "run.log", b"one\n", WALL_MS)]);
    let mut tail = Command::new("tail")
        .args(["-n", "+1", "-s", "0.05", "--max-unchanged-stats=1", "-F"])
        .arg(fixture.path("merged/run.log"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tail runs");
    let mut lines = BufReader::new(tail.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "one");

    fixture.publish(&[MemoryPut::file("laptop-abc234", "run.log", b"one\ntwo\n", WALL_MS + 1000)]);

    // A new version is a new file to it, which it reads from the beginning.
    let rest: Vec<String> = lines.by_ref().map_while(Result::ok).take(2).collect();
    tail.kill().expect("killed");
    tail.wait().expect("gone");
    assert_eq!(rest, ["one", "two"]);
}

#[test]
fn a_link_that_would_leave_the_view_leads_nowhere() {
    if !can_mount() {
        return;
    }
    let link = |path, target| MemoryPut {
        state: Ok((target, ContentKind::Link)),
        ..MemoryPut::file("laptop-abc234", path, b"", WALL_MS)
    };
    let fixture = Fixture::new(&[
        MemoryPut::file("laptop-abc234", "a.md", b"a", WALL_MS),
        link("docs/up", b"../a.md"),
        link("docs/out", b"../../../secret"),
        link("root", b"/etc/passwd"),
    ]);

    assert_eq!(fs::read(fixture.path("merged/docs/up")).expect("through the link"), b"a");
    for path in ["merged/docs/out", "merged/root", "origins/laptop-abc234/root"] {
        assert_eq!(error_of(fs::read_link(fixture.path(path))), Some(Errno::PERM), "{path}");
        assert_eq!(error_of(fs::read(fixture.path(path))), Some(Errno::PERM), "{path}");
    }
    assert_eq!(fixture.names("merged/docs"), ["out", "up"]);
}

#[test]
fn who_wrote_what_is_a_text_in_each_folder_that_no_listing_shows() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new(&[
        MemoryPut::file("laptop-abc234", "docs/a.md", b"old", WALL_MS),
        MemoryPut::file("laptop-abc234", "docs/tab\there.md", b"x", WALL_MS),
        MemoryPut::file("laptop-abc234", "own/.provenance", b"the project's own", WALL_MS),
    ]);
    let text = || fs::read_to_string(fixture.path("merged/docs/.provenance")).expect("a text");
    let lines: Vec<String> = text().lines().map(str::to_owned).collect();

    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[1].starts_with("a.md\tlaptop-abc234\t2026-07-14T13-12-12.045Z\t"), "{lines:?}");
    assert!(lines[2].starts_with("tab\\there.md\t"), "{lines:?}");
    assert_eq!(fixture.names("merged/docs"), ["a.md", "tab\there.md"]);
    assert_eq!(fs::read(fixture.path("merged/own/.provenance")).expect("bytes"), b"the project's own");
    let size = fs::metadata(fixture.path("merged/docs/.provenance")).expect("metadata").len();
    assert_eq!(size, text().len() as u64);

    // The same length, so that only the kernel's memory of the bytes could hide it.
    fixture.publish(&[MemoryPut::file("server-abc567", "docs/a.md", b"new", WALL_MS)]);

    assert!(text().contains("a.md\tserver-abc567\t"), "{}", text());
}

#[test]
fn attributes_tell_who_wrote_a_file_if_they_are_asked_for() {
    if !can_mount() {
        return;
    }
    let mut fixture = Fixture::new(&[MemoryPut::file("laptop-abc234", "docs/a.md", b"a", WALL_MS)]);
    let get = |path: PathBuf, name: &str| {
        let mut buffer = [0u8; 256];
        let len = rustix::fs::getxattr(path, name, &mut buffer)?;
        Ok::<_, Errno>(String::from_utf8_lossy(&buffer[..len]).into_owned())
    };
    let file = fixture.path("merged/docs/a.md");
    assert_eq!(get(file.clone(), "user.larder.origin"), Err(Errno::OPNOTSUPP));

    fixture.mount_with(&MountOptions { xattrs: true, ..MountOptions::default() });

    assert_eq!(get(file.clone(), "user.larder.origin").as_deref(), Ok("laptop-abc234"));
    assert_eq!(get(file.clone(), "user.larder.hash").map(|hash| hash.len()), Ok(64));
    assert_eq!(get(file.clone(), "user.larder.other"), Err(Errno::NODATA));
    assert_eq!(get(fixture.path("merged/docs"), "user.larder.origin"), Err(Errno::NODATA));
    let mut names = [0u8; 256];
    let len = rustix::fs::listxattr(&file, &mut names).expect("names");
    assert_eq!(names[..len].iter().filter(|byte| **byte == 0).count(), 4);
    assert_eq!(rustix::fs::listxattr(&file, &mut [0u8; 3]), Err(Errno::RANGE));
}

#[test]
fn why_something_could_not_be_shown_is_told_once() {
    if !can_mount() {
        return;
    }
    let mut fixture = Fixture::new(&[MemoryPut::file("laptop-abc234", "away.md", b"away", WALL_MS)]);
    fixture.view.catalog().lose_content(b"away");
    fixture.view.catalog().let_go_before(crate::model::Hlc::new(WALL_MS, 0));
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let teller = Teller::by(move |sentence| {
        tell.lock().expect("nobody panics with it").send(sentence.to_owned()).unwrap_or_default();
    });
    fixture.mount_with(&MountOptions { teller, ..MountOptions::default() });

    for _ in 0..3 {
        assert_eq!(error_of(fs::read(fixture.path("merged/away.md"))), Some(Errno::IO));
        assert_eq!(error_of(fs::metadata(fixture.path("at/2020-01-01"))), Some(Errno::IO));
    }
    fixture.mounted.take().expect("it is mounted").unmount().expect("unmounted");

    let sentences: Vec<String> = told.try_iter().collect();
    assert_eq!(sentences.len(), 2, "{sentences:?}");
    assert!(sentences[0].contains("not here yet") && sentences[1].contains("let go since"), "{sentences:?}");
}

#[test]
fn numbers_are_the_same_after_a_remount() {
    if !can_mount() {
        return;
    }
    let mut fixture = Fixture::new(&[
        MemoryPut::file("laptop-abc234", "docs/a.md", b"a", WALL_MS),
        MemoryPut::file("laptop-abc234", "docs/b.md", b"b", WALL_MS),
    ]);
    let numbers = |fixture: &Fixture| {
        [
            "",
            "merged",
            "merged/docs",
            "merged/docs/a.md",
            "merged/docs/b.md",
            "origins/laptop-abc234",
            "history/docs/a.md",
        ]
        .map(|below| fs::metadata(fixture.path(below)).expect("metadata").ino())
    };

    let before = numbers(&fixture);
    fixture.mounted.take().expect("it is mounted").unmount().expect("unmounted");
    fixture.mount();

    assert_eq!(numbers(&fixture), before);
}

#[test]
fn a_second_mount_at_one_place_is_refused_and_unmounting_is_final() {
    if !can_mount() {
        return;
    }
    let mut fixture = Fixture::new(&[]);

    let second = mount(Arc::clone(&fixture.view), &fixture.dir, &MountOptions::default());
    assert!(matches!(second, Err(MountError::Place(PlaceError::AlreadyMounted { .. }))));
    assert!(!is_stale(&fixture.dir));
    assert_eq!(standing(&fixture.dir).expect("a view"), Standing::Live);

    let mounted = fixture.mounted.take().expect("it is mounted");
    let (tell, told) = std::sync::mpsc::channel();
    mounted.when_ended(move || tell.send(()).unwrap_or_default()).expect("a thread");
    unmount_path(&fixture.dir).expect("unmounted from outside");
    assert!(mounted.wait_ended(DEADLINE));
    assert_eq!(told.recv_timeout(DEADLINE), Ok(()));
    mounted.unmount().expect("nothing is left to do");
    assert_eq!(standing(&fixture.dir).expect("a folder"), Standing::Folder);
    assert!(matches!(unmount_path(&fixture.dir), Err(PlaceError::NotMounted { .. })));
}

#[test]
fn unmounting_waits_for_nobody_and_whoever_reads_goes_on_reading() {
    if !can_mount() {
        return;
    }
    let mut fixture = Fixture::new(&[MemoryPut::file("laptop-abc234", "a.md", b"still here", WALL_MS)]);
    let open = fs::File::open(fixture.path("merged/a.md")).expect("a file");

    fixture.mounted.take().expect("it is mounted").unmount().expect("unmounted");

    assert_eq!(standing(&fixture.dir).expect("a folder"), Standing::Folder);
    let mut buffer = [0u8; 10];
    open.read_exact_at(&mut buffer, 0).expect("bytes");
    assert_eq!(&buffer, b"still here");
}

const HOLD: &str = "LARDER_TEST_HOLD_MOUNT";

/// What a child process of the tests below runs: mounts, says so, and serves until it is told to stop.
#[test]
fn child_holds_a_mount() {
    let Some(dir) = std::env::var_os(HOLD) else { return };
    let view = Arc::new(View::new(MemoryCatalog::new()));
    view.catalog().put(&MemoryPut::file("laptop-abc234", "a.md", b"from the child", WALL_MS));
    let stop = StopSignals::register().expect("signals");
    let options = MountOptions { rings: ringed::are_wanted(), ..MountOptions::default() };
    let mounted = mount(view, Path::new(&dir), &options).expect("a mount");
    println!("mounted");

    let ended = mounted.serve(stop).expect("served");
    assert!(matches!(ended, Ended::Signal(_)));
}

/// A child that holds a mount; whatever becomes of it, nothing is left mounted.
struct Holder {
    process: Process,
    // Kept open: the child's test harness goes on writing.
    _output: BufReader<std::process::ChildStdout>,
    dir: PathBuf,
    _temp: tempfile::TempDir,
}

impl Holder {
    fn spawn() -> Holder {
        let temp = tempfile::tempdir().expect("a folder");
        let dir = temp.path().join("view");
        let mut process = Command::new(std::env::current_exe().expect("the test binary"))
            .args(["--exact", "mount::mount_tests::child_holds_a_mount", "--nocapture"])
            .env(HOLD, &dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut output = BufReader::new(process.stdout.take().expect("piped"));
        let is_ready = output.by_ref().lines().map_while(Result::ok).any(|line| line.ends_with("mounted"));
        assert!(is_ready, "the child ended without mounting");
        Holder { process, _output: output, dir, _temp: temp }
    }

    fn kill(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("gone");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = unmount_path(&self.dir);
    }
}

#[test]
fn a_view_whose_process_was_killed_is_replaced() {
    if !can_mount() {
        return;
    }
    let mut holder = Holder::spawn();
    let dir = holder.dir.clone();
    assert_eq!(fs::read(dir.join("merged/a.md")).expect("bytes"), b"from the child");

    holder.kill();
    eventually("the view to be dead", || is_stale(&dir));
    assert_eq!(error_of(fs::metadata(dir.join("merged/other.md"))), Some(Errno::NOTCONN));

    let view = Arc::new(View::new(MemoryCatalog::new()));
    view.catalog().put(&MemoryPut::file("laptop-abc234", "a.md", b"from the heir", WALL_MS));
    let mounted = mount(view, &dir, &MountOptions::default()).expect("the dead one is replaced");
    assert_eq!(fs::read(dir.join("merged/a.md")).expect("bytes"), b"from the heir");
    mounted.unmount().expect("unmounted");
    assert_eq!(standing(&dir).expect("a folder"), Standing::Folder, "nothing lies beneath");
}

#[test]
fn a_dead_view_can_be_unmounted() {
    if !can_mount() {
        return;
    }
    let mut holder = Holder::spawn();
    holder.kill();

    unmount_path(&holder.dir).expect("unmounted");

    assert_eq!(standing(&holder.dir).expect("a folder"), Standing::Folder);
}

#[test]
fn a_signal_takes_the_view_down() {
    if !can_mount() {
        return;
    }
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut holder = Holder::spawn();

        let id = rustix::process::Pid::from_child(&holder.process);
        rustix::process::kill_process(id, signal).expect("signalled");
        let status = holder.process.wait().expect("it ends");

        assert!(status.success(), "{signal:?}: {status}");
        assert_eq!(standing(&holder.dir).expect("a folder"), Standing::Folder, "{signal:?}");
    }
}

#[test]
fn a_watched_project_a_filled_folder_and_a_file_are_no_place() {
    if !can_mount() {
        return;
    }
    let temp = tempfile::tempdir().expect("a folder");
    fs::write(temp.path().join("kept.md"), b"mine").expect("a file");
    let view = Arc::new(View::new(MemoryCatalog::new()));
    let inside = MountOptions { project_roots: vec![temp.path().to_owned()], ..MountOptions::default() };
    let refusal = |dir: &Path, options: &MountOptions| match mount(Arc::clone(&view), dir, options) {
        Err(MountError::Place(error)) => error,
        other => panic!("it must be refused: {:?}", other.map(|mounted| mounted.dir().to_owned())),
    };

    assert!(matches!(refusal(&temp.path().join("new"), &inside), PlaceError::InsideProject { .. }));
    assert!(matches!(refusal(temp.path(), &MountOptions::default()), PlaceError::NotEmpty { .. }));
    assert!(matches!(refusal(&temp.path().join("kept.md"), &MountOptions::default()), PlaceError::NotFolder { .. }));
    assert!(!temp.path().join("new").exists(), "a refused place is not even created");
}
