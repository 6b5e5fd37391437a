//! A view beside the same tree on a disk that is mounted read-only: what can be read is the same, and what fails fails the same way.
//!
//! Invariant: the other tree is a plain export of the view, so that the two differ in nothing but who answers.

use std::ffi::{CStr, CString};

use rustix::fs::{self, Access, AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::mount::{MountFlags, UnmountFlags};

use super::*;
use crate::mount::{Exported, Top, export_tree};

/// A plain export that nobody can write to; its mount goes with it.
struct Twin {
    dir: PathBuf,
}

impl Twin {
    /// `None`, aloud, where only root could make it.
    fn of(fixture: &Fixture) -> Option<Twin> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root mounts a folder read-only");
            return None;
        }
        let dir = fixture._temp.path().join("twin");
        std::fs::create_dir(&dir).expect("a folder");
        exported(fixture, &dir.join("merged"));
        rustix::mount::mount_bind(&dir, &dir).expect("bound");
        let twin = Twin { dir };
        rustix::mount::mount_remount(&twin.dir, MountFlags::BIND | MountFlags::RDONLY, c"").expect("read-only");
        Some(twin)
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.dir, UnmountFlags::DETACH);
    }
}

fn exported(fixture: &Fixture, dir: &Path) -> Exported {
    let top = fixture.view.top(&Top::Merged).expect("a folder");
    export_tree(&*fixture.view, top.id, dir, None, false).expect("written")
}

/// What a call came to: 0, or its errno.
type Call = fn(&CStr) -> i32;

fn outcome<T>(result: rustix::io::Result<T>) -> i32 {
    result.map_or_else(|errno| errno.raw_os_error(), |_| 0)
}

fn opened(path: &CStr, flags: OFlags) -> i32 {
    outcome(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)))
}

fn truncated(path: &CStr) -> i32 {
    // SAFETY: the path ends with NUL and outlives the call.
    let result = unsafe { libc::truncate(path.as_ptr(), 0) };
    if result == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap_or(-1) }
}

/// A name beside a path, for calls that take two.
fn beside(path: &CStr) -> CString {
    let mut bytes = path.to_bytes().to_vec();
    bytes.extend_from_slice(b".new");
    CString::new(bytes).expect("no NUL")
}

const NOW: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW as _ },
    last_modification: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW as _ },
};
const PRIVATE: Mode = Mode::from_raw_mode(0o600);

/// Every way to name a path that a read-only file system answers itself.
const CALLS: [(&str, Call); 28] = [
    ("look", |p| outcome(fs::access(p, Access::EXISTS))),
    ("may read", |p| outcome(fs::access(p, Access::READ_OK))),
    ("may write", |p| outcome(fs::access(p, Access::WRITE_OK))),
    ("read", |p| opened(p, OFlags::RDONLY)),
    ("read a folder", |p| opened(p, OFlags::RDONLY | OFlags::DIRECTORY)),
    ("read no link", |p| opened(p, OFlags::RDONLY | OFlags::NOFOLLOW)),
    ("name", |p| opened(p, OFlags::PATH | OFlags::NOFOLLOW)),
    ("write", |p| opened(p, OFlags::WRONLY)),
    ("read and write", |p| opened(p, OFlags::RDWR)),
    ("append", |p| opened(p, OFlags::WRONLY | OFlags::APPEND)),
    ("empty", |p| opened(p, OFlags::WRONLY | OFlags::TRUNC)),
    ("create", |p| opened(p, OFlags::WRONLY | OFlags::CREATE)),
    ("create anew", |p| opened(p, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)),
    ("create for reading", |p| opened(p, OFlags::RDONLY | OFlags::CREATE)),
    ("truncate", truncated),
    ("make a folder", |p| outcome(fs::mkdir(p, PRIVATE))),
    ("remove a folder", |p| outcome(fs::rmdir(p))),
    ("remove", |p| outcome(fs::unlink(p))),
    ("make a pipe", |p| outcome(fs::mknodat(fs::CWD, p, FileType::Fifo, PRIVATE, 0))),
    ("link by name", |p| outcome(fs::symlink(c"a.md", p))),
    ("link", |p| outcome(fs::link(p, &*beside(p)))),
    ("rename", |p| outcome(fs::rename(p, &*beside(p)))),
    ("rename to it", |p| outcome(fs::rename(&*beside(p), p))),
    ("change the mode", |p| outcome(fs::chmod(p, PRIVATE))),
    ("change the owner", |p| outcome(fs::chownat(fs::CWD, p, None, None, AtFlags::SYMLINK_NOFOLLOW))),
    ("set the time", |p| outcome(fs::utimensat(fs::CWD, p, &NOW, AtFlags::empty()))),
    ("read a link", |p| outcome(fs::readlink(p, Vec::new()))),
    ("sums", |p| outcome(fs::statvfs(p))),
];

#[test]
fn every_call_on_every_kind_of_path_fails_as_on_a_read_only_disk() {
    if !can_mount() {
        return;
    }
    let link = |path: &'static str, target: &'static [u8]| MemoryPut {
        state: Ok((target, ContentKind::Link)),
        ..MemoryPut::file("laptop-abc234", path, b"", WALL_MS)
    };
    let fixture = Fixture::new(&[
        MemoryPut::file("laptop-abc234", "docs/a.md", b"text", WALL_MS),
        MemoryPut {
            state: Ok((b"#!/bin/sh\n", ContentKind::File { exec: true })),
            ..MemoryPut::file("laptop-abc234", "run.sh", b"", WALL_MS)
        },
        link("to-file", b"docs/a.md"),
        link("to-folder", b"docs"),
        link("to-nothing", b"docs/none"),
        link("loop", b"loop"),
        link("there", b"back"),
        link("back", b"there"),
    ]);
    let Some(twin) = Twin::of(&fixture) else { return };
    let (long, deep) = (format!("docs/{}", "n".repeat(256)), "docs/../".repeat(600));
    let paths = [
        "",
        "/",
        "docs",
        "docs/",
        "docs/.",
        "docs/..",
        "docs/a.md",
        "docs/a.md/",
        "docs/a.md/x",
        "docs/none",
        "docs/none/x",
        "run.sh",
        "to-file",
        "to-file/",
        "to-file/x",
        "to-folder",
        "to-folder/",
        "to-folder/a.md",
        "to-nothing",
        "to-nothing/",
        "loop",
        "loop/x",
        "there",
        &long,
        &deep,
    ];

    let mut differences = Vec::new();
    for path in paths {
        for (what, call) in CALLS {
            let in_tree = |top: &Path| CString::new(format!("{}/{path}", top.display())).expect("no NUL");
            let (here, there) = (call(&in_tree(&fixture.path("merged"))), call(&in_tree(&twin.dir.join("merged"))));
            if here != there {
                let shown = &path[..path.len().min(20)];
                differences.push(format!("{what} {shown:?}: the view {here}, the disk {there}"));
            }
        }
    }

    assert!(differences.is_empty(), "{differences:#?}");
}

/// Numbers that only look drawn.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % bound
    }
}

/// Paths of an archive: folders of few names, so that files of one name meet in every depth.
fn drawn_path(dice: &mut Dice) -> String {
    const NAMES: [&str; 8] = ["a", "b.md", "c c", "d\u{fc}", ".e", "f.tar.gz", "g\nh", "long-name-that-goes-on"];
    let depth = 1 + dice.below(4);
    let parts: Vec<&str> = (0..depth).map(|_| NAMES[dice.below(8) as usize]).collect();
    parts.join("/")
}

/// Everything below a folder, by its path there.
fn below(top: &Path) -> BTreeMap<PathBuf, (u64, Vec<u8>)> {
    walk(top).into_iter().map(|(path, found)| (path.strip_prefix(top).expect("below").to_owned(), found)).collect()
}

#[test]
fn random_archives_read_at_random_as_their_plain_export() {
    if !can_mount() {
        return;
    }
    for seed in 1..=4 {
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let fixture = Fixture::new(&[]);
        for step in 0..60 {
            let (path, size) = (drawn_path(&mut dice), [0, 1, 100, 4_096, 131_072, 300_001][dice.below(6) as usize]);
            let bytes: Vec<u8> = (0..size).map(|at: u64| (at * seed + step) as u8).collect();
            let origin = ["desk-abc234", "laptop-abc234", "hall-xyz234"][dice.below(3) as usize];
            let put = match dice.below(8) {
                0 => MemoryPut::tombstone(origin, &path, crate::model::Reason::User, WALL_MS + step),
                1 => MemoryPut { archive: true, ..MemoryPut::file(origin, &path, &bytes, WALL_MS + step) },
                _ => MemoryPut::file(origin, &path, &bytes, WALL_MS + step),
            };
            fixture.publish(&[put]);
        }
        let copy = fixture._temp.path().join("copy");
        assert_eq!(exported(&fixture, &copy).left_out_count, 0, "seed {seed}");

        let merged = fixture.path("merged");
        let (shown, expected) = (below(&merged), below(&copy));
        assert!(shown == expected, "seed {seed}: {:?} {:?}", shown.keys(), expected.keys());
        let files: Vec<&PathBuf> = expected.keys().collect();
        for _ in 0..200 {
            let path = files[dice.below(files.len() as u64) as usize];
            let (offset, len) = (dice.below(310_000), dice.below(140_000) as usize);
            let read = |top: &Path| {
                let file = std::fs::File::open(top.join(path)).expect("a file");
                let metadata = file.metadata().expect("metadata");
                let mut buffer = vec![0; len];
                let got = file.read_at(&mut buffer, offset).expect("bytes");
                buffer.truncate(got);
                (buffer, metadata.len(), metadata.mtime(), metadata.mtime_nsec())
            };
            assert!(read(&merged) == read(&copy), "seed {seed}: {path:?} at {offset}, {len} bytes");
        }
    }
}

#[test]
fn others_see_nothing_unless_they_are_let_in() {
    const NOBODY: u32 = 65_534;
    if !can_mount() || !rustix::process::geteuid().is_root() {
        println!("skipped: only root can look as somebody else");
        return;
    }
    let mut fixture = Fixture::new(&[MemoryPut::file("laptop-abc234", "a.md", b"text", WALL_MS)]);
    std::fs::set_permissions(fixture._temp.path(), PermissionsExt::from_mode(0o755)).expect("opened");
    let as_nobody = |path: &Path| {
        use std::os::unix::process::CommandExt;
        Command::new("cat").arg(path).uid(NOBODY).gid(NOBODY).output().expect("it runs").stdout
    };
    let beside = fixture._temp.path().join("beside");
    std::fs::write(&beside, b"seen").expect("a file");
    let file = fixture.path("merged/a.md");

    assert_eq!((as_nobody(&beside), as_nobody(&file)), (b"seen".to_vec(), Vec::new()));
    fixture.mount_with(&MountOptions { allow_other: true, ..MountOptions::default() });
    assert_eq!(as_nobody(&file), b"text");
}
