//! A project that runs beside a place that answers nobody: what is edited is recorded as if there were none, and it ends when it is told to.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::support::{CONFIG, DAEMON_DEADLINE, Daemon, Lab, Project, Rows, skip, until};

/// A folder has thirty seconds to answer, a server sixty: who waited for either took longer.
const NOBODY_WAITED: Duration = Duration::from_secs(20);

/// A disk of which no question is ever answered, until it is dropped.
struct SilentDisk {
    at: PathBuf,
    _device: File,
}

impl SilentDisk {
    /// `None`, said aloud, where none can be made.
    fn over(test: &str, at: &Path) -> Option<SilentDisk> {
        let Ok(device) = File::options().read(true).write(true).open("/dev/fuse") else {
            skip(test, "there is no /dev/fuse");
            return None;
        };
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = std::ffi::CString::new(options).expect("no NUL");
        if mount("silent", at, "fuse", MountFlags::empty(), Some(options.as_c_str())).is_err() {
            skip(test, "mounting is not permitted here");
            return None;
        }
        Some(SilentDisk { at: at.to_owned(), _device: device })
    }
}

impl Drop for SilentDisk {
    fn drop(&mut self) {
        // Nobody waits any more once the device is closed as well.
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}

/// A project with one peer.
fn beside(lab: &Lab, address: &str) -> Project {
    let project = lab.project("a", &CONFIG.replacen('{', &format!("{{ \"peers\": {{ \"nas\": \"{address}\" }},"), 1));
    project.write("shared/plan.md", "1\n");
    project
}

fn share(lab: &Lab) -> PathBuf {
    let at = lab.path("nas");
    std::fs::create_dir(&at).expect("a folder");
    at
}

#[track_caller]
fn in_time<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    assert!(began.elapsed() < NOBODY_WAITED, "{what}: {:?}", began.elapsed());
    done
}

#[track_caller]
fn edits_are_recorded(project: &Project, daemon: &mut Daemon, names: &[&str]) {
    for name in names {
        project.write(format!("shared/{name}"), "text\n");
        in_time(name, || daemon.wait_for(&format!("recorded shared/{name}")));
    }
}

/// Also in the midst of a run that an edit began.
#[track_caller]
fn ends(project: &Project, daemon: Daemon) {
    project.write("shared/last.md", "text\n");
    in_time("the end", || daemon.stop());
}

#[test]
fn beside_a_disk_that_hangs_from_the_start_edits_are_recorded_and_the_daemon_ends() {
    const TEST: &str = "beside_a_disk_that_hangs_from_the_start_edits_are_recorded_and_the_daemon_ends";
    let lab = Lab::new();
    let at = share(&lab);
    let project = beside(&lab, &at.to_string_lossy());
    let Some(disk) = SilentDisk::over(TEST, &at) else { return };

    let mut daemon = in_time("the start", || project.up_with(["--trust"]));
    edits_are_recorded(&project, &mut daemon, &["one.md", "two.md"]);

    project.run(["status"]).expect(2).says("does not answer");
    daemon.wait_for("the peer nas is away");
    drop(disk);
    daemon.wait_for("the peer nas is there again");
    ends(&project, daemon);
}

#[test]
fn beside_a_disk_that_begins_to_hang_edits_are_recorded_and_the_daemon_ends() {
    const TEST: &str = "beside_a_disk_that_begins_to_hang_edits_are_recorded_and_the_daemon_ends";
    let lab = Lab::new();
    let at = share(&lab);
    let project = beside(&lab, &at.to_string_lossy());
    let mut daemon = project.up_with(["--trust"]);
    edits_are_recorded(&project, &mut daemon, &["before.md"]);
    let Some(_disk) = SilentDisk::over(TEST, &at) else { return daemon.stop() };

    edits_are_recorded(&project, &mut daemon, &["one.md", "two.md", "three.md"]);

    ends(&project, daemon);
}

#[test]
fn a_database_file_on_a_disk_that_hangs_holds_up_no_edit() {
    const TEST: &str = "a_database_file_on_a_disk_that_hangs_holds_up_no_edit";
    let lab = Lab::new();
    let at = share(&lab);
    let project = lab.project("a", CONFIG).with_backend(&at.join("sync.db"));
    project.write("shared/plan.md", "1\n");
    let Some(disk) = SilentDisk::over(TEST, &at) else { return };

    let mut daemon = in_time("the start", || project.up_with(["--trust"]));
    edits_are_recorded(&project, &mut daemon, &["one.md", "two.md", "three.md"]);

    let told = in_time("status asks the disk nothing", || project.run(["status"]).expect(2).says("does not answer"));
    told.says("on a network file system (fuse)");
    drop(disk);
    until("rows are written once it answers", DAEMON_DEADLINE, || project.run(["status"]).code == Some(0));
    assert_eq!(Rows::open(&at.join("sync.db")).content("shared/three.md").as_deref(), Some("text\n"));
    ends(&project, daemon);
}

#[test]
fn beside_a_server_that_says_nothing_edits_are_recorded_and_the_daemon_ends() {
    let lab = Lab::new();
    // The kernel takes the connections, and nobody reads from them.
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", server.local_addr().expect("bound"));
    let vars = [("AWS_ENDPOINT_URL", &*url), ("AWS_ALLOW_HTTP", "true"), ("AWS_ACCESS_KEY_ID", "key")];
    let project = beside(&lab, "s3://bucket/x").with_var("AWS_SECRET_ACCESS_KEY", "secret");
    let project = vars.into_iter().fold(project, |project, (name, value)| project.with_var(name, value));

    let mut daemon = in_time("the start", || project.up_with(["--trust"]));
    edits_are_recorded(&project, &mut daemon, &["one.md", "two.md", "three.md"]);

    in_time("who asks for it is told", || project.run(["sync"]).expect(2).says("does not answer"));
    ends(&project, daemon);
}

#[test]
fn beside_a_database_that_says_nothing_edits_are_recorded_and_the_daemon_ends() {
    let lab = Lab::new();
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", server.local_addr().expect("bound"));
    let project = lab.project("a", &CONFIG.replacen('{', "{ \"backend\": \"convex\",", 1));
    project.write("shared/plan.md", "1\n");
    let vars = [("CONVEX_URL", &*url), ("CONVEX_LARDER_SECRET", "secret")];
    let project = vars.into_iter().fold(project, |project, (name, value)| project.with_var(name, value));

    // By its own limits it has two minutes to answer.
    let mut daemon = in_time("the start", || project.up_with(["--trust"]));
    let _line = server.accept().expect("somebody asks");
    edits_are_recorded(&project, &mut daemon, &["one.md", "two.md", "three.md"]);
    project.run(["status"]).expect(2).says("does not answer");
    ends(&project, daemon);

    project.run(["log", "shared/plan.md"]).expect(0);
}
