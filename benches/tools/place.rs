//! Where a comparison works: trees of small text files, projects over them, and daemons that end with their owner.
//!
//! Invariant: the same count gives the same files, and everything is removed at the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take before the comparison gives up.
const PATIENCE: Duration = Duration::from_secs(900);
/// Files of one folder.
const FOLDER_FILES: usize = 20;

/// A temporary place.
pub struct Place {
    dir: TempDir,
    larder: PathBuf,
}

impl Place {
    /// Makes one; `larder` is the program to measure.
    pub fn new(larder: &Path) -> Place {
        let dir = tempfile::Builder::new().prefix("larder-compare-").tempdir().expect("make a temporary folder");
        Place { dir, larder: larder.to_owned() }
    }

    /// A path in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A project folder with a config that keeps everything below `files/`.
    pub fn project(&self, name: &str) -> PathBuf {
        let project = self.path(name);
        fs::create_dir_all(project.join("files")).expect("make the project");
        let config = r#"{ "appId": "bench", "syncFilePatterns": ["files/**"], "intervalSecs": 30 }"#;
        fs::write(project.join("sync-config.json"), config).expect("write the config");
        project
    }

    /// `larder --project PROJECT ARGS`, mirrored into `database` if one is named.
    pub fn larder(&self, project: &Path, database: Option<&Path>, args: &[&str]) -> Command {
        let mut command = Command::new(&self.larder);
        command.env("XDG_STATE_HOME", self.path("state")).env_remove("FILE_SYNC_BACKEND");
        if let Some(database) = database {
            command.env("FILE_SYNC_BACKEND", format!("sqlite:{}", database.display()));
        }
        command.arg("--project").arg(project).args(args);
        command
    }

    /// Starts `larder up` and waits until it is ready.
    pub fn up(&self, project: &Path, database: Option<&Path>) -> Running {
        self.up_with(project, database, &[])
    }

    /// The same with more arguments.
    pub fn up_with(&self, project: &Path, database: Option<&Path>, args: &[&str]) -> Running {
        let running = self.launch(project, database, args);
        let log = project.join("up.log");
        until("larder up is ready", || fs::read_to_string(&log).is_ok_and(|text| text.contains("ready")));
        running
    }

    /// Starts `larder up` and does not wait.
    pub fn launch(&self, project: &Path, database: Option<&Path>, args: &[&str]) -> Running {
        let mut command = self.larder(project, database, &["up"]);
        command.args(args);
        Place::start(command, project)
    }

    /// Starts `larder up` with these variables and waits until it is ready.
    pub fn up_among(&self, project: &Path, variables: &[(&str, String)]) -> Running {
        let mut command = self.larder(project, None, &["up"]);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let running = Place::start(command, project);
        let log = project.join("up.log");
        until("larder up is ready", || fs::read_to_string(&log).is_ok_and(|text| text.contains("ready")));
        running
    }

    /// Mounts the view of a project and waits until it is there.
    pub fn mount(&self, project: &Path, dir: &Path) -> Running {
        let running = self.begin_mount(project, dir);
        until("the view is there", || fs::read_dir(dir.join("merged")).is_ok());
        running
    }

    /// Mounts with more options and waits until it is there. Errors: what the program says against them.
    pub fn mount_with(&self, project: &Path, dir: &Path, args: &[&str]) -> Result<Running, String> {
        let mut command = self.larder(project, None, &["mount"]);
        command.args(args).arg(dir);
        let running = Place::start(command, project);
        until("the view is there", || fs::read_dir(dir.join("merged")).is_ok());
        let said = fs::read_to_string(project.join("up.log")).unwrap_or_default();
        match said.lines().find(|line| line.starts_with("! ")) {
            Some(why) => Err(why.to_owned()),
            None => Ok(running),
        }
    }

    /// Mounts and does not wait.
    pub fn begin_mount(&self, project: &Path, dir: &Path) -> Running {
        let mut command = self.larder(project, None, &["mount"]);
        command.arg(dir);
        Place::start(command, project)
    }

    fn start(mut command: Command, project: &Path) -> Running {
        let said = fs::File::create(project.join("up.log")).expect("make the log");
        command.stdin(Stdio::null()).stdout(said.try_clone().expect("share")).stderr(said);
        Running(command.spawn().expect("start larder up"))
    }
}

/// A daemon; ended when dropped.
pub struct Running(Child);

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// True if a program can be found.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Waits, looking twice a millisecond.
pub fn until(what: &str, done: impl FnMut() -> bool) {
    look_every(Duration::from_micros(500), what, done);
}

/// Waits for what another program has to be asked for: more often would keep that one from its work.
pub fn until_asked(what: &str, done: impl FnMut() -> bool) {
    look_every(Duration::from_millis(5), what, done);
}

/// Waits for what is long in coming and dear to look at, with rests between the looks: they must not take a core from what is waited for.
pub fn until_at_last(what: &str, done: impl FnMut() -> bool) {
    look_every(Duration::from_millis(100), what, done);
}

fn look_every(rest: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(rest);
    }
}

/// Fills a folder with `count` text files of 200 bytes to 8 KiB, 20 a folder, the same ones each time.
pub fn fill(folder: &Path, count: usize) {
    for n in 0..count {
        let parent = folder.join(format!("{:03}/{:03}", n / FOLDER_FILES / 100, n / FOLDER_FILES % 100));
        if n % FOLDER_FILES == 0 {
            fs::create_dir_all(&parent).expect("make a folder");
        }
        let (extension, text) = content(n);
        fs::write(parent.join(format!("note-{n:06}.{extension}")), text).expect("write a file");
    }
}

// Like what agents write: some JSON, some prose, no two alike.
fn content(n: usize) -> (&'static str, String) {
    const WORDS: [&str; 12] = [
        "customer", "decided", "valve", "report", "because", "figure", "unknown", "weekly", "agent", "summary", "ask",
        "source",
    ];
    let mut state = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).expect("31 bits")
    };
    // Most are small: the square of a uniform share.
    let share = (next() % 1000) as f64 / 1000.0;
    let size_bytes = 200 + (share * share * 8000.0) as usize;
    let mut text = String::with_capacity(size_bytes + 16);
    let is_json = n.is_multiple_of(3);
    while text.len() < size_bytes {
        let word = WORDS[next() % WORDS.len()];
        if is_json {
            text.push_str(&format!("{{\"{word}\": {}}}\n", next()));
        } else {
            text.push_str(word);
            text.push(if next() % 12 == 0 { '\n' } else { ' ' });
        }
    }
    (if is_json { "jsonl" } else { "md" }, text)
}

/// The bytes of all files below a folder.
pub fn size_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
