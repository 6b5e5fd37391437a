//! The view beside other programs that show files through FUSE, warm, on the same tree.
//!
//! Invariant: in turn (theirs, ours), each side read once before. A program that is not installed, or does not mount here, is a line that says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Options;
use crate::place::{Place, has};
use crate::table::Table;
use crate::view::{Files, Sides, cases, in_turn, sides};

const ROUNDS: usize = 3;
/// How long another program may take to mount.
const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "bench";

/// One of them: what it is called, what must be installed, how much faster larder should be, how it is made ready and mounted.
struct Other {
    name: &'static str,
    programs: &'static [&'static str],
    goal: f64,
    /// Lines of shell; `$plain` is the tree, `$store` a place of its own, `$dir` where it mounts.
    prepare: &'static str,
    mount: &'static str,
    /// Below the mount: where the tree begins.
    below: fn(&Path, &Path) -> PathBuf,
}

fn others() -> Vec<Other> {
    vec![
        Other {
            name: "squashfuse",
            programs: &["squashfuse", "mksquashfs"],
            goal: 2.0,
            prepare: "mksquashfs $plain $store/image -quiet -no-progress -comp zstd >/dev/null",
            mount: "exec squashfuse -f $store/image $dir",
            below: |dir, _| dir.to_owned(),
        },
        Other {
            name: "bindfs",
            programs: &["bindfs"],
            goal: 5.0,
            prepare: "true",
            mount: "exec bindfs -f -r $plain $dir",
            below: |dir, _| dir.to_owned(),
        },
        Other {
            name: "borg mount",
            programs: &["borg"],
            goal: 5.0,
            prepare: "borg init -e none $store/repo && cd $plain && borg create $store/repo::all .",
            mount: "exec borg mount -f $store/repo::all $dir",
            below: |dir, _| dir.to_owned(),
        },
        Other {
            name: "restic mount",
            programs: &["restic"],
            goal: 10.0,
            prepare: "restic -q -r $store/repo init && restic -q -r $store/repo backup $plain",
            mount: "exec restic -q -r $store/repo mount $dir",
            below: |dir, plain| dir.join("snapshots/latest").join(plain.strip_prefix("/").unwrap_or(plain)),
        },
        Other {
            name: "rclone mount",
            programs: &["rclone"],
            goal: 10.0,
            prepare: "true",
            mount: "exec rclone mount --read-only $plain $dir",
            below: |dir, _| dir.to_owned(),
        },
    ]
}

/// All that are here.
pub fn beside_others(options: &Options) {
    let place = Place::new(&options.larder);
    let (mine, _view) = sides(&place);
    let files = Files::of(&mine.plain);
    for other in others() {
        let table = Table::beside(&format!("The view beside {}, warm", other.name), other.name);
        if let Some(missing) = other.programs.iter().find(|program| !has(program)) {
            table.absent("everything", &format!("{missing} is not installed"));
            continue;
        }
        let Some(theirs) = Mounted::new(&place, &other, &mine.plain) else {
            table.absent("everything", "it did not mount");
            continue;
        };
        let pair = Sides { plain: theirs.root.clone(), shown: mine.shown.clone() };
        for case in
            cases().iter().filter(|case| ["rg", "open, read, close of each", "find", "ls -lR"].contains(&case.what))
        {
            table.faster(case.what, &in_turn(case, &pair, &files, ROUNDS, None), Some(other.goal));
        }
    }
}

/// What another program mounted; taken down when dropped.
struct Mounted {
    child: Child,
    dir: PathBuf,
    root: PathBuf,
}

impl Mounted {
    fn new(place: &Place, other: &Other, plain: &Path) -> Option<Mounted> {
        let own = |what: &str| place.path(format!("{}-{what}", other.programs[0]));
        let (store, dir) = (own("store"), own("mount"));
        fs::create_dir_all(&store).expect("make a folder");
        fs::create_dir_all(&dir).expect("make a folder");
        let shell = |line: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", line]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.env("plain", plain).env("store", &store).env("dir", &dir);
            command
                .env("RESTIC_PASSWORD", SECRET)
                .env("HOME", &store)
                .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
            command
        };
        if !shell(other.prepare).status().is_ok_and(|status| status.success()) {
            return None;
        }
        let child = shell(other.mount).spawn().ok()?;
        let root = (other.below)(&dir, plain);
        let mounted = Mounted { child, dir, root };
        let begun = Instant::now();
        while !mounted.root.join("small").is_dir() {
            if begun.elapsed() > PATIENCE {
                return None;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Some(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        command.arg("-l").arg(&self.dir).stderr(Stdio::null());
        let _ = command.status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
