//! What the tests stand on: a lab with folders of its own, projects in it, the real program, and waiting with a deadline.
//!
//! Invariant: nothing outside the lab is read or written, no process outlives its test, and nothing waits longer than
//! its deadline. Knows nothing of formats: it sees what a person sees, files, rows and output.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use larder::transport::{Opening, Transport, contract};
use tempfile::TempDir;

pub use crate::skipping::skip;

/// No single command of these tests may take longer; far above what any needs, so that a busy machine does not matter.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(120);
/// How long something that a daemon does by itself may take.
pub const DAEMON_DEADLINE: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(10);
/// The user and group that owns nothing.
pub const NOBODY: u32 = 65534;

/// The config that tests use unless they say otherwise.
pub const CONFIG: &str = r#"{
  "appId": "lab",
  "syncFilePatterns": ["shared/**"],
  "privateSyncFilePatterns": ["mine/**"],
  "archiveFilePatterns": ["logs/**"],
  "intervalSecs": 1
}"#;

/// True if the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// True if a program is on the path.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Waits until `done` holds; panics with `what` when the deadline is over.
pub fn until(what: &str, deadline: Duration, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !done() {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        thread::park_timeout(POLL_EVERY);
    }
}

/// A reproducible source of choices.
pub struct Dice(u64);

impl Dice {
    /// Starts from a seed; splitmix64.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }
}

/// The seed of this run: `LARDER_SEED`, or a new one; printed either way.
pub fn seed(test: &str) -> u64 {
    let named = std::env::var("LARDER_SEED").ok().and_then(|text| text.parse().ok());
    let seed = named.unwrap_or_else(|| {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the kernel hands out randomness once it has booted");
        u64::from_le_bytes(bytes) >> 16
    });
    println!("{test}: LARDER_SEED={seed}");
    seed
}

/// A temporary place with a home of its own, in which projects stand.
pub struct Lab {
    dir: TempDir,
}

impl Drop for Lab {
    /// A test that failed leaves its views mounted, and their processes with them: they end with their mounts.
    fn drop(&mut self) {
        let below = self.dir.path().as_os_str().to_string_lossy().into_owned() + "/";
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|place| place.starts_with(&below));
        #[cfg(target_os = "linux")]
        for place in places.collect::<Vec<_>>().into_iter().rev() {
            // Refused to whoever is not root: `fusermount3` may.
            if rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH).is_err() {
                let _ = Command::new("fusermount3").args(["-u", "-z", place]).status();
            }
        }
    }
}

impl Lab {
    /// Makes an empty one.
    pub fn new() -> Lab {
        let dir = tempfile::Builder::new().prefix("larder-it-").tempdir().expect("make a temporary folder");
        let lab = Lab { dir };
        fs::create_dir(lab.path("home")).expect("make a home");
        lab
    }

    /// A path in the lab.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// A project with a config, mirrored into its own `sync.db`.
    pub fn project(&self, name: &str, config: &str) -> Project {
        let project = Project { dir: self.path(name), home: self.path("home"), vars: BTreeMap::new(), user: None };
        fs::create_dir_all(&project.dir).expect("make the project's folder");
        fs::write(project.dir.join("sync-config.json"), config).expect("write the config");
        project
    }

    /// Two projects with [`CONFIG`] that share the database `shared.db` of the lab and know of each other: a backend
    /// begins to carry artifacts with its second writer.
    pub fn pair(&self) -> (Project, Project) {
        let (a, b) = self.fresh_pair();
        for project in [&a, &b, &a] {
            project.sync();
        }
        (a, b)
    }

    /// The same, neither of which has ever run.
    pub fn fresh_pair(&self) -> (Project, Project) {
        let both = ["a", "b"].map(|name| self.project(name, CONFIG).with_backend(&self.path("shared.db")));
        both.into()
    }

    /// The shared database of [`Lab::pair`], by a connection of the test's own.
    pub fn rows(&self) -> Rows {
        Rows::open(&self.path("shared.db"))
    }
}

/// One project folder and how `larder` is run in it.
#[derive(Clone)]
pub struct Project {
    /// The folder.
    pub dir: PathBuf,
    home: PathBuf,
    vars: BTreeMap<String, String>,
    user: Option<u32>,
}

/// What a command left.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Outcome {
    /// Asserts the exit code, and shows everything if it is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Outcome {
        assert_eq!(self.code, Some(code), "exit code; {self:#?}");
        self
    }

    /// Standard output and error together, for what may stand in either.
    pub fn said(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// Asserts that the output names something.
    #[track_caller]
    pub fn says(self, part: &str) -> Outcome {
        assert!(self.said().contains(part), "does not say {part:?}: {self:#?}");
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("no JSON ({error}): {self:#?}"))
    }
}

impl Project {
    /// Mirrors into another database, named by the environment as a user would.
    pub fn with_backend(self, database: &Path) -> Project {
        self.with_var("FILE_SYNC_BACKEND", &format!("sqlite:{}", database.display()))
    }

    /// Sets an environment variable for every command.
    pub fn with_var(mut self, name: &str, value: &str) -> Project {
        self.vars.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Uses a home of its own, as on another machine or for another person.
    pub fn with_home(mut self, home: &Path) -> Project {
        fs::create_dir_all(home).expect("make a home");
        self.home = home.to_owned();
        self
    }

    /// Runs every command as this user.
    pub fn with_user(mut self, user: u32) -> Project {
        self.user = Some(user);
        self
    }

    /// The same project under another folder.
    pub fn at(&self, dir: &Path) -> Project {
        Project { dir: dir.to_owned(), ..self.clone() }
    }

    /// A path in the project.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.dir.join(relative)
    }

    /// Writes a file, its folders too.
    pub fn write(&self, relative: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().expect("below the project")).expect("make folders");
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("write {path:?}: {error}"));
    }

    /// Appends to a file.
    pub fn append(&self, relative: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        let mut file =
            fs::OpenOptions::new().append(true).create(true).open(self.path(relative)).expect("open for appending");
        file.write_all(bytes.as_ref()).expect("append");
    }

    /// The bytes of a file, `None` if there is none.
    pub fn read(&self, relative: impl AsRef<Path>) -> Option<Vec<u8>> {
        fs::read(self.path(relative)).ok()
    }

    /// Removes a file.
    pub fn remove(&self, relative: impl AsRef<Path>) {
        fs::remove_file(self.path(relative)).expect("remove");
    }

    /// Everything below a folder: path -> what it is. Empty if the folder is not there.
    pub fn tree(&self, below: &str) -> BTreeMap<Vec<u8>, Leaf> {
        let mut leaves = BTreeMap::new();
        let top = self.path(below);
        if top.is_dir() {
            walk(&top, &top, &mut leaves);
        }
        leaves
    }

    /// `larder --project DIR ARGS`, not yet started; nothing of the surrounding environment reaches it.
    pub fn command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.env_clear();
        for kept in ["PATH", "TMPDIR", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
            command.envs(std::env::var_os(kept).map(|value| (kept, value)));
        }
        command.env("HOME", &self.home).env("XDG_STATE_HOME", self.home.join(".local/state"));
        command.envs(&self.vars).arg("--project").arg(&self.dir).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(user) = self.user {
            use std::os::unix::process::CommandExt;
            command.uid(user).gid(user);
        }
        command
    }

    /// Runs a command to its end.
    pub fn run<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Outcome {
        finish(self.command(args))
    }

    /// `larder sync`, which must succeed.
    #[track_caller]
    pub fn sync(&self) -> Outcome {
        self.run(["sync"]).expect(0)
    }

    /// What the project's node does in this process, as it would have been done so many milliseconds ago.
    pub fn ago(&self, ago_ms: u64, work: impl FnOnce(&mut larder::node::Node)) {
        let mut env = larder::env::Env::system();
        env.clock = std::sync::Arc::new(larder::env::ManualClock::new(env.clock.wall_ms() - ago_ms));
        env.state_home = self.home.join(".local/state/larder");
        env.vars = self.vars.clone();
        let options = larder::node::OpenOptions {
            start_dir: self.dir.clone(),
            trust: true,
            ..larder::node::OpenOptions::default()
        };
        let progress = std::sync::Arc::new(larder::sync::NoProgress);
        let mut node = larder::node::Node::open(&env, &options, progress).expect("open the project");
        work(&mut node);
    }

    /// `larder sync`, so many milliseconds ago.
    pub fn sync_ago(&self, ago_ms: u64) {
        self.ago(ago_ms, |node| drop(node.run(&larder::node::RunOptions::default()).expect("sync")));
    }

    /// `larder sync`, after which conflicts or held deletions may remain.
    #[track_caller]
    pub fn sync_any(&self) -> Outcome {
        let outcome = self.run(["sync"]);
        assert!(matches!(outcome.code, Some(0 | 3)), "{outcome:#?}");
        outcome
    }

    /// `larder verify`, which must find nothing.
    #[track_caller]
    pub fn verify(&self) {
        self.run(["verify"]).expect(0);
    }

    /// Starts `larder up` and waits until it says that it is ready.
    #[track_caller]
    pub fn up(&self) -> Daemon {
        self.up_with::<&str>([])
    }

    /// The same with more arguments.
    #[track_caller]
    pub fn up_with<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Daemon {
        let mut command = self.command(["up"]);
        command.args(args);
        let mut daemon = Daemon::start(command);
        daemon.wait_ready();
        daemon
    }
}

/// What stands at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Leaf {
    /// A file: whether it is executable, and its bytes.
    File {
        /// The owner's executable bit.
        exec: bool,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A symbolic link and where it points.
    Link(Vec<u8>),
    /// A folder with nothing in it, or something else.
    Other,
}

fn walk(top: &Path, folder: &Path, leaves: &mut BTreeMap<Vec<u8>, Leaf>) {
    for entry in fs::read_dir(folder).expect("list").map(|entry| entry.expect("list")) {
        let path = entry.path();
        let kind = entry.file_type().expect("look");
        let leaf = if kind.is_dir() {
            walk(top, &path, leaves);
            continue;
        } else if kind.is_symlink() {
            Leaf::Link(fs::read_link(&path).expect("read the link").as_os_str().as_bytes().to_vec())
        } else if kind.is_file() {
            // It may go away or be unreadable between the listing and the read; then it is as if it were not there.
            let (Ok(bytes), Ok(metadata)) = (fs::read(&path), fs::metadata(&path)) else {
                continue;
            };
            Leaf::File { exec: metadata.permissions().mode() & 0o100 != 0, bytes }
        } else {
            Leaf::Other
        };
        let name = path.strip_prefix(top).expect("below the top").as_os_str().as_bytes().to_vec();
        leaves.insert(name, leaf);
    }
}

/// Runs a prepared command to its end; kills it when [`COMMAND_DEADLINE`] is over.
#[track_caller]
pub fn finish(mut command: Command) -> Outcome {
    let mut child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let out = read_all(child.stdout.take().expect("piped"));
    let err = read_all(child.stderr.take().expect("piped"));
    let end = Instant::now() + COMMAND_DEADLINE;
    let left = || end.saturating_duration_since(Instant::now());
    let (Ok(out), Ok(err)) = (out.recv_timeout(left()), err.recv_timeout(left())) else {
        // The kill cannot fail: the child was not waited for.
        let _ = child.kill();
        let _ = child.wait();
        panic!("not within {COMMAND_DEADLINE:?}: {command:?}");
    };
    let status = child.wait().expect("wait for a child of our own");
    Outcome { code: status.code(), out, err }
}

fn read_all(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        // Nobody may be waiting any more; then the text is of no use.
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

/// The same command, started by another program that is given these words before it.
pub fn started_by(words: &[&str], command: &Command) -> Command {
    let mut outer = Command::new(words[0]);
    outer.env_clear().args(&words[1..]).arg(command.get_program()).args(command.get_args());
    outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    outer.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    outer
}

/// A running `larder up`; killed when dropped.
pub struct Daemon {
    child: Child,
    lines: Receiver<String>,
    heard: Vec<String>,
}

impl Daemon {
    /// Starts the command; see [`Project::up`].
    pub fn start(mut command: Command) -> Daemon {
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let (sender, lines) = mpsc::channel();
        for pipe in [Pipe::Out(child.stdout.take().expect("piped")), Pipe::Err(child.stderr.take().expect("piped"))] {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                    if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                        return;
                    }
                }
            });
        }
        Daemon { child, lines, heard: Vec::new() }
    }

    /// Waits for the line that says it is ready.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        self.wait_for("ready");
    }

    /// Waits for a line that holds `part`.
    #[track_caller]
    pub fn wait_for(&mut self, part: &str) {
        let end = Instant::now() + DAEMON_DEADLINE;
        while !self.heard.iter().any(|line| line.contains(part)) {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.heard.push(line),
                Err(error) => panic!("`larder up` never said {part:?} ({error}); it said {:#?}", self.heard),
            }
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and expects it to do so by itself with code 0.
    #[track_caller]
    pub fn stop(self) {
        self.stop_telling();
    }

    /// The same; all that it said.
    #[track_caller]
    pub fn stop_telling(mut self) -> Vec<String> {
        self.signal(rustix::process::Signal::TERM);
        let mut code = None;
        until("`larder up` ends after SIGTERM", DAEMON_DEADLINE, || {
            code = self.child.try_wait().expect("wait for a child of our own");
            code.is_some()
        });
        self.heard.extend(self.lines.try_iter());
        let code = code.expect("waited for it");
        assert!(code.success(), "`larder up` ended with {code}; it said {:#?}", self.heard);
        std::mem::take(&mut self.heard)
    }

    /// Waits until it ends by itself; its exit code.
    #[track_caller]
    pub fn code(mut self) -> Option<i32> {
        let mut status = None;
        until("`larder up` ends by itself", DAEMON_DEADLINE, || {
            status = self.child.try_wait().expect("wait for a child of our own");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// Asks it to end, and waits until it does, with whatever code.
    #[track_caller]
    pub fn end(self) {
        self.signal(rustix::process::Signal::TERM);
        self.code();
    }

    /// Kills it as a power cut would, and waits until it is gone.
    pub fn kill(mut self) {
        self.signal(rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // It may have ended by itself; what it left is looked at by the caller.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

enum Pipe {
    Out(std::process::ChildStdout),
    Err(std::process::ChildStderr),
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Pipe::Out(pipe) => pipe.read(buffer),
            Pipe::Err(pipe) => pipe.read(buffer),
        }
    }
}

/// The rows of a backend, as any other program sees them.
pub struct Rows {
    connection: rusqlite::Connection,
}

impl Rows {
    /// Opens the database with a plain connection.
    pub fn open(database: &Path) -> Rows {
        let connection = rusqlite::Connection::open(database).expect("open the database");
        connection.busy_timeout(COMMAND_DEADLINE).expect("set the time to wait for a lock");
        Rows { connection }
    }

    /// The text of a path, `None` if it has no row.
    pub fn content(&self, path: &str) -> Option<String> {
        use rusqlite::OptionalExtension;
        self.connection
            .query_row("SELECT content FROM files WHERE path = ?1", [path], |row| row.get(0))
            .optional()
            .expect("read a row")
    }

    /// Runs one statement of plain SQL; the number of rows it touched.
    #[track_caller]
    pub fn execute(&self, sql: &str, values: impl rusqlite::Params) -> usize {
        self.connection.execute(sql, values).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The number of rows in `files`.
    pub fn count(&self) -> u64 {
        self.connection
            .query_row("SELECT count(*) FROM files", [], |row| row.get::<_, i64>(0))
            .map(|count| count.unsigned_abs())
            .expect("count rows")
    }

    /// Asserts that SQLite finds the database whole.
    #[track_caller]
    pub fn check(&self) {
        let verdict: String =
            self.connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("check the database");
        assert_eq!(verdict, "ok");
    }
}

/// Makes `to` hold exactly what `from` holds, `to` itself staying the folder it is, with times and modes.
///
/// A `.larder` folder is known by its inode; so the folder is emptied and filled rather than replaced.
pub fn restore(from: &Path, to: &Path) {
    let metadata = fs::metadata(from).expect("look at the folder");
    if !to.is_dir() {
        fs::DirBuilder::new().mode(metadata.permissions().mode()).create(to).expect("make the folder");
    }
    for entry in fs::read_dir(to).expect("list").map(|entry| entry.expect("list")) {
        let is_kept = entry.file_type().expect("look").is_dir() && from.join(entry.file_name()).is_dir();
        match entry.file_type().expect("look").is_dir() {
            _ if is_kept => {}
            true => fs::remove_dir_all(entry.path()).expect("remove"),
            false => fs::remove_file(entry.path()).expect("remove"),
        }
    }
    for entry in fs::read_dir(from).expect("list").map(|entry| entry.expect("list")) {
        let (kind, target) = (entry.file_type().expect("look"), to.join(entry.file_name()));
        if kind.is_dir() {
            restore(&entry.path(), &target);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).expect("read the link"), &target).expect("link");
        } else if kind.is_file() {
            fs::copy(entry.path(), &target).expect("copy");
            let modified = entry.metadata().and_then(|metadata| metadata.modified()).expect("look");
            let file = fs::File::options().append(true).open(&target).expect("open the copy");
            file.set_modified(modified).expect("set the time");
        }
    }
    fs::set_permissions(to, metadata.permissions()).expect("set the mode");
}

/// Runs the laws of a transport over a bucket, each in a place of its own there.
#[track_caller]
pub fn keeps_the_contract(lab: &Lab, bucket: &str, vars: impl IntoIterator<Item = (&'static str, String)>) {
    let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let opening = Opening { vars: Arc::new(vars), ..Opening::new("app", &lab.path(".")) };
    let places = Cell::new(0);
    contract::run(&|| {
        places.set(places.get() + 1);
        let (address, opening) = (format!("{bucket}/place-{}", places.get()), opening.clone());
        Box::new(move || -> Arc<dyn Transport> { larder::transport::open(&address, &opening).expect("opens") })
    });
}
