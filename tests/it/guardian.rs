//! A view whose process is killed is gone by itself: what its guardian does, and what it leaves alone.
//!
//! Invariant: every guardian is the real program's, found among the processes by whose child it is; what it does is waited for.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::support::{DAEMON_DEADLINE, Lab, NOBODY, Project, finish, has_program, is_root, skip, until};
use crate::view::can_mount;

/// Signals a process.
#[track_caller]
pub fn send(process: u32, signal: Signal) {
    let process = Pid::from_raw(process.cast_signed()).expect("a process id");
    kill_process(process, signal).unwrap_or_else(|errno| panic!("signal {process:?}: {errno}"));
}

/// State, parent, group and session of a process; `None` if it is gone, or only waits to be asked how it ended.
fn facts(process: u32) -> Option<[i64; 3]> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut words = stat[stat.rfind(')')? + 2..].split(' ');
    let is_alive = !matches!(words.next(), Some("Z" | "X"));
    let mut number = || words.next()?.parse().ok();
    let facts = [number()?, number()?, number()?];
    is_alive.then_some(facts)
}

fn is_there(process: u32) -> bool {
    facts(process).is_some()
}

/// The guardians of a process.
fn guardians_of(process: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").expect("processes").map_while(Result::ok);
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let name = |process: u32| fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    let is_its = |other: &u32| facts(*other).is_some_and(|[parent, ..]| parent == i64::from(process));
    all.filter(is_its).filter(|other| name(*other) == "view-guardian\n").collect()
}

/// The one guardian of a view's process; it has that name once it would hear of that one's death.
#[track_caller]
pub fn guardian_of(process: u32) -> u32 {
    until("the view is guarded", DAEMON_DEADLINE, || !guardians_of(process).is_empty());
    match guardians_of(process)[..] {
        [one] => one,
        ref other => panic!("{} guardians of {process}", other.len()),
    }
}

fn one_file(lab: &Lab) -> Project {
    let (a, _) = lab.fresh_pair();
    a.write("shared/one.md", "one\n");
    a.sync();
    a
}

/// A project with one file, and a place for its views; `None`, said, where nothing can be mounted.
fn scene(test: &str) -> Option<(Lab, Project, PathBuf)> {
    if !can_mount(test) {
        return None;
    }
    let lab = Lab::new();
    let a = one_file(&lab);
    let dir = lab.path("a view");
    Some((lab, a, dir))
}

/// A view in the background; its process.
#[track_caller]
fn mount(project: &Project, dir: &Path, options: &[&str]) -> u32 {
    let dir = dir.to_str().expect("UTF-8");
    let mounted = project.run([&["mount", "-d", "--json"], options, &[dir]].concat()).expect(0).json();
    u32::try_from(mounted["pid"].as_u64().expect("a number")).expect("a process id")
}

fn shows(dir: &Path) -> bool {
    fs::read(dir.join("merged/shared/one.md")).is_ok_and(|text| text == b"one\n")
}

fn is_plain_and_empty(dir: &Path) -> bool {
    let is_plain = fs::metadata(dir).is_ok_and(|facts| {
        facts.dev() == fs::metadata(dir.parent().expect("a folder around it")).expect("facts").dev()
    });
    is_plain && fs::read_dir(dir).is_ok_and(|mut names| names.next().is_none())
}

#[test]
fn a_killed_view_is_gone_by_itself() {
    const TEST: &str = "a_killed_view_is_gone_by_itself";
    let Some((_lab, a, dir)) = scene(TEST) else { return };
    let all: &[&[&str]] = if is_root() { &[&[], &["--inotify"], &["--passthrough"], &["--io-uring"]] } else { &[&[]] };
    for options in all {
        let view = mount(&a, &dir, options);
        let guardian = guardian_of(view);
        assert!(shows(&dir));
        let open = fs::File::open(dir.join("merged/shared/one.md")).expect("opens");

        send(view, Signal::KILL);

        until("the folder is as before", DAEMON_DEADLINE, || is_plain_and_empty(&dir));
        until("nobody is left", DAEMON_DEADLINE, || !is_there(view) && !is_there(guardian));
        let said = a.run(["doctor"]).expect(0).said();
        assert!(!said.contains(dir.to_str().expect("UTF-8")), "{options:?}: {said}");
        drop(open);
    }
}

/// As a thread does that waits in the kernel for an answer of its own process.
#[test]
fn a_killed_view_ends_also_where_its_connection_is_held() {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    const TEST: &str = "a_killed_view_ends_also_where_its_connection_is_held";
    let Some((_lab, a, dir)) = scene(TEST) else { return };
    let view = mount(&a, &dir, &[]);
    // It keeps what is unmounted, and with it the connection. Before the handle of that, which is to be closed first if this law does not
    // hold: to close a file asks the view, and a process that holds the view's connection then waits for itself.
    let open = fs::File::open(dir.join("merged/shared/one.md")).expect("opens");
    let handles = fs::read_dir(format!("/proc/{view}/fd")).expect("its handles").map_while(Result::ok);
    let is_device = |handle: &fs::DirEntry| fs::read_link(handle.path()).is_ok_and(|to| to == Path::new("/dev/fuse"));
    let device = handles.filter(is_device).find_map(|handle| handle.file_name().to_str()?.parse().ok());
    let process = Pid::from_raw(view.cast_signed()).expect("a process id");
    let process = pidfd_open(process, PidfdFlags::empty()).expect("its handle");
    let device = pidfd_getfd(process, device.expect("a connection"), PidfdGetfdFlags::empty());
    let Ok(device) = device else { return skip(TEST, "this system lets nobody hold another process's handle") };
    let is_over = || {
        let mut asked = [PollFd::new(&device, PollFlags::empty())];
        poll(&mut asked, Some(&rustix::event::Timespec::default()))
            .is_ok_and(|_| asked[0].revents().contains(PollFlags::ERR))
    };
    assert!(!is_over());
    if !is_root() && !Path::new("/sys/fs/fuse/connections").read_dir().is_ok_and(|mut list| list.next().is_some()) {
        return skip(TEST, "there is no list of connections, by which a user could end one");
    }

    send(view, Signal::KILL);

    until("the connection is over", DAEMON_DEADLINE, is_over);
    until("the folder is as before", DAEMON_DEADLINE, || is_plain_and_empty(&dir));
    drop(open);
}

#[test]
fn a_killed_daemons_view_is_gone_by_itself_and_the_next_one_has_its_place() {
    const TEST: &str = "a_killed_daemons_view_is_gone_by_itself_and_the_next_one_has_its_place";
    let Some((_lab, a, dir)) = scene(TEST) else { return };
    let up = || a.up_with(["--mount", dir.to_str().expect("UTF-8")]);
    let daemon = up();
    let guardian = guardian_of(daemon.pid());
    assert!(shows(&dir));

    daemon.kill();

    // Whoever of the two comes first.
    let daemon = up();
    until("the view is there", DAEMON_DEADLINE, || shows(&dir));
    until("the first guardian is gone", DAEMON_DEADLINE, || !is_there(guardian));
    assert!(shows(&dir));
    let guardian = guardian_of(daemon.pid());
    daemon.stop();
    assert!(!is_there(guardian));
    assert!(is_plain_and_empty(&dir));
}

#[test]
fn an_orderly_end_leaves_no_guardian_however_it_comes() {
    const TEST: &str = "an_orderly_end_leaves_no_guardian_however_it_comes";
    let Some((_lab, a, dir)) = scene(TEST) else { return };
    let text = dir.to_str().expect("UTF-8");
    // What a terminal does at Ctrl-C, a service manager, and a person.
    type Ways<'a> = [&'a dyn Fn(u32); 3];
    let ways: Ways<'_> = [
        &|view| kill_process_group(Pid::from_raw(view.cast_signed()).expect("an id"), Signal::INT).expect("signalled"),
        &|view| {
            for process in [guardian_of(view), view] {
                send(process, Signal::TERM);
            }
        },
        &|_| drop(a.run(["umount", text]).expect(0)),
    ];
    for end in ways {
        let mut command = a.command(["mount", text]);
        let mut process = command.process_group(0).spawn().expect("begins");
        let mut said = BufReader::new(process.stdout.take().expect("piped"));
        said.read_line(&mut String::new()).expect("it is mounted");
        let guardian = guardian_of(process.id());

        end(process.id());

        assert!(process.wait().expect("it ends").success());
        assert!(!is_there(guardian), "it is gone before the view's process is");
        assert!(is_plain_and_empty(&dir));
    }
}

#[test]
fn a_guardian_holds_nothing_hears_nothing_but_a_kill_and_sleeps() {
    const TEST: &str = "a_guardian_holds_nothing_hears_nothing_but_a_kill_and_sleeps";
    let Some((lab, a, dir)) = scene(TEST) else { return };
    let view = mount(&a, &dir, &[]);
    let guardian = guardian_of(view);
    let about = |what: &str| PathBuf::from(format!("/proc/{guardian}/{what}"));
    let wakeups = || {
        let status = fs::read_to_string(about("status")).expect("it is there");
        status.lines().filter(|line| line.contains("ctxt_switches")).map(str::to_owned).collect::<Vec<_>>()
    };

    let of_itself = i64::from(guardian);
    assert_eq!(facts(guardian), Some([i64::from(view), of_itself, of_itself]), "a session of its own");
    let handles = fs::read_dir(about("fd")).expect("its handles").map_while(Result::ok);
    let held: Vec<PathBuf> = handles.filter_map(|handle| fs::read_link(handle.path()).ok()).collect();
    let is_abort = |held: &Path| held.starts_with("/sys/fs/fuse/connections") && held.ends_with("abort");
    assert!(held.iter().all(|held| held == Path::new("/dev/null") || is_abort(held)), "{held:?}");
    assert_eq!(fs::read_link(about("cwd")).expect("a folder"), Path::new("/"));
    let said = [about("cmdline"), about("environ")].map(|path| fs::read(path).expect("it is there"));
    let secret = lab.path("");
    let secret = secret.to_str().expect("UTF-8").trim_end_matches('/');
    assert!(!said.iter().any(|said| String::from_utf8_lossy(said).contains(secret)), "{said:?}");

    until("it sleeps", DAEMON_DEADLINE, || fs::read_to_string(about("stat")).is_ok_and(|stat| stat.contains(") S ")));
    let before = wakeups();
    assert!(shows(&dir));
    a.sync();
    assert_eq!(wakeups(), before);
    // The last is what it waits for, from somebody else.
    for signal in [Signal::INT, Signal::HUP, Signal::TERM, Signal::QUIT, Signal::PIPE, Signal::USR1] {
        send(guardian, signal);
    }
    let has_heard = |status: &str| status.contains("State:\tS") && status.contains("ShdPnd:\t0000000000000000");
    until("it has heard them all", DAEMON_DEADLINE, || {
        has_heard(&fs::read_to_string(about("status")).expect("it is there"))
    });
    assert!(is_there(guardian));
    fs::read_dir(dir.join("merged/shared")).expect("the view is there");
    send(view, Signal::KILL);
    until("the folder is as before", DAEMON_DEADLINE, || is_plain_and_empty(&dir));
}

#[test]
fn a_view_lives_on_without_its_guardian() {
    const TEST: &str = "a_view_lives_on_without_its_guardian";
    let Some((_lab, a, dir)) = scene(TEST) else { return };
    let view = mount(&a, &dir, &[]);
    let guardian = guardian_of(view);

    send(guardian, Signal::KILL);

    until("it is gone", DAEMON_DEADLINE, || !is_there(guardian));
    assert!(shows(&dir));
    a.write("shared/two.md", "two\n");
    a.sync();
    until("the view follows", DAEMON_DEADLINE, || dir.join("merged/shared/two.md").exists());
    a.run(["umount", dir.to_str().expect("UTF-8")]).expect(0);
    until("its process ends", DAEMON_DEADLINE, || !is_there(view));
}

#[test]
fn a_guardian_leaves_another_view_that_has_its_place() {
    const TEST: &str = "a_guardian_leaves_another_view_that_has_its_place";
    let Some((_lab, a, dir)) = scene(TEST) else { return };
    let first = mount(&a, &dir, &[]);
    let number = || fs::metadata(&dir).expect("facts").dev();
    let of_first = number();
    let guardian = guardian_of(first);
    // It comes late.
    send(guardian, Signal::STOP);
    send(first, Signal::KILL);
    until("the view is dead", DAEMON_DEADLINE, || a.run(["doctor"]).expect(0).said().contains("has lost its process"));
    let second = mount(&a, &dir, &[]);
    if number() != of_first {
        println!("{TEST}: the kernel did not give the number again, which makes this easier");
    }

    send(guardian, Signal::CONT);

    until("the first guardian is gone", DAEMON_DEADLINE, || !is_there(guardian));
    assert!(is_there(second) && shows(&dir));
    a.run(["umount", dir.to_str().expect("UTF-8")]).expect(0);
}

/// A guardian that was told of a connection or a mount that is another's by now, as this kernel numbers them and as older ones do.
#[test]
fn a_guardian_does_nothing_to_what_it_was_not_told_of() {
    const TEST: &str = "a_guardian_does_nothing_to_what_it_was_not_told_of";
    let Some((lab, a, dir)) = scene(TEST) else { return };
    let view = mount(&a, &dir, &[]);
    let device = rustix::fs::minor(fs::metadata(&dir).expect("facts").dev());
    let place = dir.to_str().expect("UTF-8");
    // Another mount; another connection; one that can only be told by whether it is dead; a piece.
    let told = [
        format!("$$ {} 1 {place}\\0", device),
        format!("$$ {} - {place}\\0", device + 1000),
        format!("$$ {device} - {place}\\0"),
        format!("$$ {device} - {place}"),
        "nonsense\\0".to_owned(),
    ];
    for told in told {
        // A process that begins one, tells it, hears its answer, and is killed.
        let script = format!("printf \"{told}\" >$1; $0 view-guardian <$1 >$2 & echo $!; read -r _ <$2; kill -9 $$");
        let fifo = lab.path("answer");
        let _ = fs::remove_file(&fifo);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
        let mut process = Command::new("sh");
        process.args(["-c", &script, env!("CARGO_BIN_EXE_larder")]).args([lab.path("told"), fifo]);
        let said = finish({
            process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            process
        });
        let guardian: u32 = said.out.trim().parse().unwrap_or_else(|error| panic!("{error}: {said:#?}"));

        until("it ends by itself", DAEMON_DEADLINE, || !is_there(guardian));
        assert!(is_there(view) && shows(&dir), "{told}");
    }
    a.run(["umount", place]).expect(0);
}

/// In a room with mounts of its own: the device open to everybody, as distributions have it, and the kernel's list of connections, or none.
fn a_killed_view_of_a_user(test: &str, has_list: bool) {
    if !can_mount(test) {
        return;
    }
    if !is_root() || ["unshare", "setpriv", "fusermount3", "mknod"].iter().any(|needed| !has_program(needed)) {
        return skip(test, "only root, with util-linux and fuse3, can be somebody else in a room of his own");
    }
    let lab = Lab::new();
    let a = one_file(&lab);
    let dir = lab.path("view");
    fs::create_dir(&dir).expect("a folder");
    fs::set_permissions(lab.path(""), fs::Permissions::from_mode(0o755)).expect("chmod");
    give_away(&lab.path(""));
    let list =
        if has_list { "mount -t fusectl list /sys/fs/fuse/connections" } else { "mount -t tmpfs none /sys/fs/fuse" };
    let script = format!(
        "set -e; mknod \"$0\" c 10 229; chmod 666 \"$0\"; mount --bind \"$0\" /dev/fuse; umount /sys/fs/fuse/connections 2>/dev/null || true; \
         {list}; setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups \"$@\" & echo $!; wait $! || true; echo over; read line"
    );
    let view = a.command([Path::new("mount"), &dir]);
    let mut room = Command::new("unshare");
    room.env_clear().envs(view.get_envs().filter_map(|(name, value)| Some((name, value?))));
    room.args(["-m", "--propagation", "private", "sh", "-c", &script]).arg(lab.path("fuse"));
    room.arg(view.get_program()).args(view.get_args());
    let mut room = room.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("begins");
    let mut said = BufReader::new(room.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let view: u32 = said.next().expect("a line").parse().expect("a process id");
    let mounted = said.next().unwrap_or_default();
    if !mounted.starts_with("mounted at") {
        drop(room.stdin.take());
        room.wait().expect("it ends");
        return skip(test, "a user cannot mount here");
    }
    let guardian = guardian_of(view);
    let table = || fs::read_to_string(format!("/proc/{}/mountinfo", room.id())).expect("the room's mounts");
    assert!(table().contains("fuse.larder"));
    let handles = fs::read_dir(format!("/proc/{guardian}/fd")).expect("its handles").count();
    assert_eq!(handles, if has_list { 4 } else { 3 }, "one to end the connection by, where there is a list of them");

    send(view, Signal::KILL);

    assert_eq!(said.next().as_deref(), Some("over"));
    until("nothing is mounted", DAEMON_DEADLINE, || !table().contains("fuse.larder"));
    until("nobody is left", DAEMON_DEADLINE, || !is_there(guardian));
    assert!(is_plain_and_empty(&dir));
    drop(room.stdin.take());
    assert!(room.wait().is_ok());
}

fn give_away(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).expect("chown");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("list") {
            give_away(&entry.expect("an entry").path());
        }
    }
}

#[test]
fn a_killed_view_of_a_user_is_gone_by_itself() {
    a_killed_view_of_a_user("a_killed_view_of_a_user_is_gone_by_itself", true);
}

#[test]
fn a_killed_view_of_a_user_is_gone_by_itself_where_no_connection_can_be_ended() {
    a_killed_view_of_a_user("a_killed_view_of_a_user_is_gone_by_itself_where_no_connection_can_be_ended", false);
}
