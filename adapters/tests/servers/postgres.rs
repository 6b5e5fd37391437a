//! Real PostgreSQL servers for tests, and a pooler in front of one: each in a folder of its own, on this machine alone, gone with its handle.
//!
//! Where programs are comes from the environment (`LARDER_PG18_BIN`) or from where Debian puts them; what is not there is the caller's to
//! skip. Nothing is synced to disk, and nothing runs as root: the servers refuse to.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const NOBODY: u32 = 65534;
const DEADLINE: Duration = Duration::from_secs(60);

/// The folder of a server's programs, and what to call it.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `15`, `18`.
    pub version: String,
    bin: PathBuf,
}

impl Programs {
    /// Debian's newest.
    pub fn of_system() -> Option<Programs> {
        let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
            .ok()?
            .filter_map(|entry| {
                let entry = entry.ok()?;
                Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
            })
            .filter(|(_, bin)| bin.join("postgres").is_file())
            .collect();
        found.sort();
        found.pop().map(|(version, bin)| Programs { version: version.to_string(), bin })
    }

    /// The folder that `LARDER_PG18_BIN` names.
    pub fn newest() -> Option<Programs> {
        let bin = PathBuf::from(std::env::var_os("LARDER_PG18_BIN")?);
        bin.join("postgres").is_file().then(|| Programs { version: "18".to_owned(), bin })
    }

    /// One of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
}

/// A command that runs as somebody who owns nothing, if we are root.
fn unprivileged(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env("HOME", folder).stdin(Stdio::null());
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn give_away(path: &Path) {
    if is_root() {
        let given = Command::new("chown").arg("-R").arg(format!("{NOBODY}:{NOBODY}")).arg(path).status();
        assert!(given.is_ok_and(|status| status.success()), "chown {path:?}");
    }
}

fn succeed(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn open_folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("larder-pg-").tempdir().expect("make a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("open it");
    if is_root() {
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("give it away");
    }
    folder
}

/// A port that nobody listens at.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr()).expect("some port is free").port()
}

/// Waits, looking fifty times a second.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A new cluster's files, made once and copied ever after: making takes seconds.
fn template(programs: &Programs) -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("postgres-{}", programs.version));
    if kept.join("PG_VERSION").is_file() {
        return kept;
    }
    let folder = open_folder();
    let data = folder.path().join("data");
    let mut initdb = unprivileged(&programs.program("initdb"), folder.path());
    initdb.arg("-D").arg(&data).args(["-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"]);
    succeed(&mut initdb);
    let fresh = kept.with_extension(format!("{}", std::process::id()));
    fs::create_dir_all(env!("CARGO_TARGET_TMPDIR")).expect("a folder for what tests keep");
    succeed(Command::new("cp").arg("-a").arg(&data).arg(&fresh));
    if fs::rename(&fresh, &kept).is_err() {
        // Another test was first.
        let _ = fs::remove_dir_all(&fresh);
    }
    kept
}

/// A running server; its user is `postgres`, who needs no password.
pub struct Postgres {
    /// What it was started from.
    pub programs: Programs,
    /// Where it listens.
    pub port: u16,
    folder: TempDir,
    options: Vec<String>,
    child: Option<Child>,
}

impl Postgres {
    /// Starts one.
    pub fn start(programs: &Programs) -> Postgres {
        Postgres::start_with(programs, &[], |_| {})
    }

    /// Starts one with these `-c` options, after `prepare` has seen to the files in its folder.
    pub fn start_with(programs: &Programs, options: &[&str], prepare: impl FnOnce(&Path)) -> Postgres {
        let folder = open_folder();
        succeed(Command::new("cp").arg("-a").arg(template(programs)).arg(folder.path().join("data")));
        prepare(&folder.path().join("data"));
        give_away(folder.path());
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Postgres { programs: programs.clone(), port: 0, folder, options, child: None };
        for _ in 0..5 {
            server.port = free_port();
            if server.try_start() {
                return server;
            }
        }
        let log = fs::read_to_string(server.folder.path().join("log")).unwrap_or_default();
        panic!("the server does not start: {log}");
    }

    fn try_start(&mut self) -> bool {
        let log = fs::File::create(self.folder.path().join("log")).expect("make a log");
        let mut command = unprivileged(&self.programs.program("postgres"), self.folder.path());
        command.arg("-D").arg(self.folder.path().join("data")).arg("-k").arg(self.folder.path());
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        let plain =
            ["fsync=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=400", "wal_level=logical"];
        for option in plain.iter().map(|option| (*option).to_owned()).chain(self.options.iter().cloned()) {
            command.args(["-c", &option]);
        }
        command.stdout(log.try_clone().expect("the same log")).stderr(log);
        let mut child = command.spawn().expect("start the server");
        let mut ended = false;
        until("the server answers", || {
            ended = child.try_wait().expect("wait for a child of our own").is_some();
            ended || self.is_ready()
        });
        self.child = (!ended).then_some(child);
        !ended
    }

    fn is_ready(&self) -> bool {
        let mut asked = Command::new(self.programs.program("pg_isready"));
        asked.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        asked.status().is_ok_and(|status| status.success())
    }

    /// Ends it at once, as a crash would; what was committed stays.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // It may have ended by itself.
        let _ = Command::new("kill").args(["-QUIT", &child.id().to_string()]).status();
        let _ = child.wait();
    }

    /// Starts it again where it was.
    pub fn start_again(&mut self) {
        assert!(self.try_start(), "the server does not start again");
    }

    /// The folder of its socket.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A database of this name as a URL.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes an empty database and returns its URL.
    pub fn create(&self, database: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE \"{database}\""));
        self.url(database)
    }

    /// What plain SQL answers, without headings, one row a line.
    #[track_caller]
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let mut command = Command::new(self.programs.program("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database), "-c", sql]);
        succeed(&mut command).trim_end().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A pooler in transaction mode: it takes LISTEN and delivers nothing.
pub struct Bouncer {
    /// Where it listens.
    pub port: u16,
    child: Child,
    _folder: TempDir,
}

impl Bouncer {
    /// Starts one in front of a server. `None` if the program is not there.
    pub fn start(server: &Postgres) -> Option<Bouncer> {
        let program =
            ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].iter().map(Path::new).find(|path| path.is_file())?;
        let folder = open_folder();
        let port = free_port();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
            auth_type = any\npool_mode = transaction\nmax_client_conn = 500\ndefault_pool_size = 20\nlogfile = {}\n\
            ignore_startup_parameters = extra_float_digits\n",
            server.port,
            folder.path().join("log").display()
        );
        // Whoever comes is this user.
        let settings =
            settings.replace(&format!("port={}\n", server.port), &format!("port={} user=postgres\n", server.port));
        let file = folder.path().join("pgbouncer.ini");
        fs::write(&file, settings).expect("write its settings");
        give_away(folder.path());
        let mut command = unprivileged(program, folder.path());
        let child = command.arg("-q").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start it");
        until("the pooler answers", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(Bouncer { port, child, _folder: folder })
    }

    /// A database of this name as a URL.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
