//! The view beside other programs that show files through FUSE, warm, on the same tree.
//!
//! Invariant: in turn (theirs, ours), each side read once before. A program that is not installed, does not mount here or gives up on the
//! way is a line that says so, in the program's own last words, and the run goes on with the next one.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
    /// What must be installed; the first one mounts.
    programs: &'static [&'static str],
    /// Names the program that mounts, if it is to be another one than the one in `PATH`.
    variable: Option<&'static str>,
    goal: f64,
    /// Lines of shell; `$program` is what mounts, `$plain` the tree, `$store` a place of its own, `$dir` where it mounts.
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
            variable: None,
            goal: 2.0,
            prepare: "mksquashfs $plain $store/image -quiet -no-progress -comp zstd >/dev/null",
            mount: "exec $program -f $store/image $dir",
            below: |dir, _| dir.to_owned(),
        },
        // The faster one of the same package.
        Other {
            name: "squashfuse_ll",
            programs: &["squashfuse_ll", "mksquashfs"],
            variable: None,
            goal: 2.0,
            prepare: "mksquashfs $plain $store/image -quiet -no-progress -comp zstd >/dev/null",
            mount: "exec $program -f $store/image $dir",
            below: |dir, _| dir.to_owned(),
        },
        Other {
            name: "bindfs",
            programs: &["bindfs"],
            variable: None,
            goal: 5.0,
            prepare: "true",
            mount: "exec $program -f -r $plain $dir",
            below: |dir, _| dir.to_owned(),
        },
        Other {
            name: "borg mount",
            programs: &["borg"],
            variable: None,
            goal: 5.0,
            prepare: "$program init -e none $store/repo && cd $plain && $program create $store/repo::all .",
            mount: "exec $program mount -f $store/repo::all $dir",
            below: |dir, _| dir.to_owned(),
        },
        Other {
            name: "restic mount",
            programs: &["restic"],
            variable: None,
            goal: 10.0,
            prepare: "$program -q -r $store/repo init && $program -q -r $store/repo backup $plain",
            mount: "exec $program -q -r $store/repo mount $dir",
            below: |dir, plain| dir.join("snapshots/latest").join(plain.strip_prefix("/").unwrap_or(plain)),
        },
        Other {
            name: "rclone mount",
            programs: &["rclone"],
            variable: Some("LARDER_RCLONE"),
            goal: 10.0,
            prepare: "true",
            mount: "exec $program mount --read-only $plain $dir",
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
        let theirs = match other.program().and_then(|program| Mounted::new(&place, &other, &program, &mine.plain)) {
            Ok(theirs) => theirs,
            Err(why) => {
                table.absent("everything", &why);
                continue;
            }
        };
        let pair = Sides { plain: theirs.root.clone(), shown: mine.shown.clone() };
        for case in
            cases().iter().filter(|case| ["rg", "open, read, close of each", "find", "ls -lR"].contains(&case.what))
        {
            // A peer may give up over a read, which ends a case by a panic, and nothing of ours is left half done by that.
            match catch_unwind(AssertUnwindSafe(|| in_turn(case, &pair, &files, ROUNDS, None))) {
                Ok(pairs) => table.faster(case.what, &pairs, Some(other.goal)),
                Err(_) => table.absent(case.what, &format!("it gave up: {}", last_words(&theirs.said))),
            }
        }
    }
}

impl Other {
    /// The program that mounts. Errors: what is not installed.
    fn program(&self) -> Result<PathBuf, String> {
        let named = self.variable.and_then(std::env::var_os).map(PathBuf::from).filter(|path| path.is_file());
        let needed = &self.programs[usize::from(named.is_some())..];
        match needed.iter().find(|program| !has(program)) {
            Some(missing) => Err(format!("{missing} is not installed")),
            None => Ok(named.unwrap_or_else(|| PathBuf::from(self.programs[0]))),
        }
    }
}

/// What another program mounted; taken down when dropped.
struct Mounted {
    child: Child,
    dir: PathBuf,
    root: PathBuf,
    /// What it writes to its standard error.
    said: PathBuf,
}

impl Mounted {
    /// Errors: what the program said last, if it cannot be made ready or does not mount.
    fn new(place: &Place, other: &Other, program: &Path, plain: &Path) -> Result<Mounted, String> {
        let own = |what: &str| place.path(format!("{}-{what}", other.programs[0]));
        let (store, dir, said) = (own("store"), own("mount"), own("said"));
        fs::create_dir_all(&store).expect("make a folder");
        fs::create_dir_all(&dir).expect("make a folder");
        let shell = |line: &str| {
            let words = fs::File::create(&said).expect("make a file");
            let mut command = Command::new("sh");
            command.args(["-c", line]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(words);
            command.env("program", program).env("plain", plain).env("store", &store).env("dir", &dir);
            command
                .env("RESTIC_PASSWORD", SECRET)
                .env("HOME", &store)
                .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
            command
        };
        if !shell(other.prepare).status().is_ok_and(|status| status.success()) {
            return Err(format!("it could not be made ready: {}", last_words(&said)));
        }
        let child = shell(other.mount).spawn().map_err(|error| error.to_string())?;
        let root = (other.below)(&dir, plain);
        let mut mounted = Mounted { child, dir, root, said };
        let begun = Instant::now();
        while !mounted.root.join("small").is_dir() {
            let has_ended = mounted.child.try_wait().is_ok_and(|status| status.is_some());
            if has_ended || begun.elapsed() > PATIENCE {
                return Err(format!("it did not mount: {}", last_words(&mounted.said)));
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(mounted)
    }
}

/// The last line that a program wrote.
fn last_words(said: &Path) -> String {
    let text = fs::read_to_string(said).unwrap_or_default();
    let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    last.map_or("it said nothing".to_owned(), |line| line.replace('|', "/"))
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
