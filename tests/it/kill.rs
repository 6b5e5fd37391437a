//! `kill -9` of the real program at every call that changes the disk, and at random moments: no loss, no torn file, no duplicate.
//!
//! Invariant after every kill: the next `sync` succeeds by itself, `larder verify` is clean, every file of both machines
//! is exactly what one of its writers wrote last, and no version was recorded twice.
//!
//! Every call is tried if there are at most [`MAX_KILLS`]; of more, every k-th, beginning where the seed says, so that
//! repeated runs cover all of them. `LARDER_FULL=1` tries at least [`FULL_KILLS`] of every scenario.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Daemon, Dice, Lab, Leaf, Outcome, Project, restore, seed, skip};
use crate::tracer::{self, Ended};

/// Kills of one scenario in an ordinary run.
const MAX_KILLS: u64 = 400;
/// The same with `LARDER_FULL=1`, for scenarios of which an ordinary run tries fewer: a sync has some 250 calls, a purge a thousand.
const FULL_KILLS: u64 = 300;
/// Kills at random moments, all workers together.
const RANDOM_KILLS: u64 = 500;
const WORKERS: usize = 2;
/// The exit code of a program that panicked.
const PANICKED: i32 = 101;
const MANY_FILES: usize = 1_100;
/// What a purge is to take away; at the beginning of its file, so that it stands in one segment.
const SECRET: &str = "the password is 7c1f9e30b2d84a65 and is nobody's business\n";

fn is_full() -> bool {
    std::env::var("LARDER_FULL").is_ok_and(|value| value == "1")
}

/// A pair of machines in the middle of their work: `a` has unsent changes of every kind, and unseen ones of `b` wait for it.
struct Scene {
    _lab: Lab,
    template: PathBuf,
    live: PathBuf,
    a: Project,
    b: Project,
}

impl Scene {
    /// The two meet in a database.
    fn set() -> Scene {
        Scene::meeting(|project, live| project.with_backend(&live.join("shared.db")))
    }

    /// The two meet in a folder alone.
    fn set_with_folder() -> Scene {
        Scene::meeting(|project, live| {
            fs::create_dir_all(live.join("share")).expect("make the folder");
            project.with_var("LARDER_PEERS", &format!("share={}", live.join("share").display()))
        })
    }

    /// What `b` gives arrives in the inbox of `a`, as a server leaves it there; what `a` gives goes through a folder.
    fn set_with_inbox() -> Scene {
        Scene::meeting(|project, live| {
            let (share, inbox) = (live.join("share"), live.join("a/.larder/inbox"));
            for folder in [&share, &inbox] {
                fs::create_dir_all(folder).expect("make the folder");
            }
            let (share, inbox) = (share.display(), inbox.display());
            if project.dir.ends_with("a") {
                return project.with_var("LARDER_PEERS", &format!("share={share}"));
            }
            let ways =
                r#"{ "peers": { "share": { "url": "/", "push": false }, "inbox": { "url": "/", "pull": false } },"#;
            project.write("sync-config.json", crate::support::CONFIG.replacen('{', ways, 1));
            project.with_var("LARDER_PEERS", &format!("share={share};inbox={inbox}"))
        })
    }

    /// The same, and what `b` did is in a bundle too.
    fn set_with_bundle() -> Scene {
        let scene = Scene::set_with_folder();
        scene.b.run(["export", "../b.bundle"]).expect(0);
        restore(&scene.live, &scene.template);
        scene
    }

    fn meeting(meet: fn(Project, &Path) -> Project) -> Scene {
        let lab = Lab::new();
        let live = lab.path("live");
        let [a, b] = ["a", "b"].map(|name| meet(lab.project(&format!("live/{name}"), crate::support::CONFIG), &live));
        for name in ["edited", "deleted", "renamed", "theirs", "their-deleted", "both"] {
            a.write(format!("shared/{name}.md"), format!("{name}\n"));
        }
        a.write("shared/log.jsonl", "{\"n\":0}\n");
        for project in [&a, &b, &a, &b] {
            project.sync();
        }
        b.write("shared/theirs.md", "theirs, edited by b\n");
        b.write("shared/their-new.md", "new by b\n");
        b.remove("shared/their-deleted.md");
        b.append("shared/log.jsonl", "{\"by\":\"b\"}\n");
        b.sync();
        a.write("shared/edited.md", "edited by a\n");
        a.write("shared/new/deep.md", "new by a\n");
        a.remove("shared/deleted.md");
        fs::rename(a.path("shared/renamed.md"), a.path("shared/renamed-to.md")).expect("rename");
        let template = lab.path("template");
        restore(&live, &template);
        Scene { _lab: lab, template, live, a, b }
    }

    /// The two meet in a folder; what was replaced long ago is still here, and so is what was let go weeks ago.
    fn set_with_garbage() -> Scene {
        const DAY_MS: u64 = 24 * 3600 * 1000;
        let lab = Lab::new();
        let live = lab.path("live");
        fs::create_dir_all(live.join("share")).expect("make the folder");
        let peer = format!("share={}", live.join("share").display());
        let [a, b] = ["a", "b"].map(|name| {
            let project = lab.project(&format!("live/{name}"), crate::support::CONFIG);
            project.with_var("LARDER_PEERS", &peer).with_var("LARDER_RETENTION", "30d")
        });
        for text in ["one\n", "two\n", "three\n"] {
            a.write("shared/old.md", text);
            a.write("shared/large.txt", format!("{text} and more of it\n").repeat(20_000));
            a.sync_ago(90 * DAY_MS);
        }
        b.write("shared/b.md", "b\n");
        [&b, &a, &b, &a].into_iter().for_each(|project| project.sync_ago(89 * DAY_MS));
        b.write("shared/b.md", "b has heard\n");
        [&b, &a].into_iter().for_each(|project| project.sync_ago(50 * DAY_MS));
        a.ago(50 * DAY_MS, |node| assert!(!node.collect(false).expect("collect").dropped.is_empty()));
        for text in ["four\n", "five\n"] {
            a.write("shared/old.md", text);
            a.sync_ago(49 * DAY_MS);
        }
        [&b, &a].into_iter().for_each(|project| project.sync_ago(48 * DAY_MS));
        b.write("shared/b.md", "b has heard that too\n");
        for project in [&b, &a] {
            project.sync();
        }
        let template = lab.path("template");
        restore(&live, &template);
        Scene { _lab: lab, template, live, a, b }
    }

    /// The two meet in a folder; a secret stood in a checkpoint and in a pack, beside what stays.
    fn set_with_secret() -> Scene {
        let lab = Lab::new();
        let live = lab.path("live");
        fs::create_dir_all(live.join("share")).expect("make the folder");
        let peer = format!("share={}", live.join("share").display());
        let [a, b] = ["a", "b"]
            .map(|name| lab.project(&format!("live/{name}"), crate::support::CONFIG).with_var("LARDER_PEERS", &peer));
        a.write("shared/secret.md", SECRET);
        a.write("shared/kept.md", "kept\n");
        a.sync();
        let large = Scene::large_text();
        a.write("shared/secret.md", format!("{SECRET}{large}"));
        a.write("shared/large.md", &large);
        [&a, &b].into_iter().for_each(|project| drop(project.sync()));
        a.write("shared/secret.md", "clean\n");
        [&a, &b, &a].into_iter().for_each(|project| drop(project.sync()));
        a.remove("shared/secret.md");
        a.sync();
        let template = lab.path("template");
        restore(&live, &template);
        Scene { _lab: lab, template, live, a, b }
    }

    /// The same, and who wrote it went on as a later generation of herself: what holds the secret is a chain that nobody writes any more.
    fn set_with_secret_of_an_earlier_generation() -> Scene {
        let scene = Scene::set_with_secret();
        let identity = fs::read(scene.a.path(".larder/origin.json")).expect("is there");
        let identity: serde_json::Value = serde_json::from_slice(&identity).expect("JSON");
        let name = identity["origin"].as_str().expect("a name");
        let adopted = scene.a.run(["origin", "adopt", name]);
        assert_eq!(adopted.code, Some(0), "{adopted:#?}");
        [&scene.a, &scene.b, &scene.a].into_iter().for_each(|project| drop(project.sync()));
        fs::remove_dir_all(&scene.template).expect("removes");
        restore(&scene.live, &scene.template);
        scene
    }

    /// More than a checkpoint holds, and nothing that compresses well.
    fn large_text() -> String {
        let mut dice = Dice::new(7);
        (0..25_000).map(|_| format!("{:016x}\n", dice.roll())).collect()
    }

    /// What must hold after a kill of a purge: said again it ends what was begun, the bytes are nowhere, and nothing else went.
    fn check_purge(&self, moment: &str) {
        let text = |text: &str| Leaf::File { exec: false, bytes: text.as_bytes().to_vec() };
        let wanted: BTreeMap<Vec<u8>, Leaf> = [("kept.md", text("kept\n")), ("large.md", text(&Scene::large_text()))]
            .map(|(name, leaf)| (name.as_bytes().to_vec(), leaf))
            .into();
        self.expect_both(&wanted, moment);
        let again = self.a.run(["purge", "shared/secret.md", "--yes"]);
        assert_eq!(again.code, Some(0), "{moment}: {again:#?}");
        self.expect_both(&wanted, moment);
        let store = tempfile::tempdir().expect("a folder");
        std::os::unix::fs::symlink(self.live.join("share/lab"), store.path().join("ledger")).expect("link");
        for larder in [&self.a.path(".larder"), &self.b.path(".larder"), store.path()] {
            assert_eq!(holders(larder), [] as [String; 0], "{moment}: {larder:?}");
        }
        let status = self.a.run(["status"]);
        assert!(!status.said().contains("purged"), "{moment}: {status:#?}");
    }

    /// What must hold after a kill of a collection: all is sound, the next one ends what was begun, and nothing that is current went.
    fn check_garbage(&self, moment: &str) {
        let text = |text: &str| Leaf::File { exec: false, bytes: text.as_bytes().to_vec() };
        let large = "three\n and more of it\n".repeat(20_000);
        let wanted: BTreeMap<Vec<u8>, Leaf> =
            [("b.md", text("b has heard that too\n")), ("large.txt", text(&large)), ("old.md", text("five\n"))]
                .map(|(name, leaf)| (name.as_bytes().to_vec(), leaf))
                .into();
        self.expect_both(&wanted, moment);
        let again = self.a.run(["gc"]);
        assert_eq!(again.code, Some(0), "{moment}: {again:#?}");
        self.expect_both(&wanted, moment);
        for path in ["shared/old.md", "shared/large.txt"] {
            self.a.run(["cat", path]).expect(0);
        }
        let third = self.a.run(["gc", "--json"]).expect(0).json();
        assert_eq!(third["dropped"].as_array().map(Vec::len), Some(0), "{moment}: {third}");
    }

    fn reset(&self) {
        restore(&self.template, &self.live);
    }

    fn wanted() -> BTreeMap<Vec<u8>, Leaf> {
        let files = [
            ("both.md", "both\n"),
            ("edited.md", "edited by a\n"),
            ("log.jsonl", "{\"n\":0}\n{\"by\":\"b\"}\n"),
            ("new/deep.md", "new by a\n"),
            ("renamed-to.md", "renamed\n"),
            ("their-new.md", "new by b\n"),
            ("theirs.md", "theirs, edited by b\n"),
        ];
        files
            .map(|(name, text)| (name.as_bytes().to_vec(), Leaf::File { exec: false, bytes: text.as_bytes().to_vec() }))
            .into()
    }

    /// What must hold after a kill of `a`, whatever the moment.
    fn check(&self, moment: &str) {
        // Between the kill and the next start: every file is whole. Absent is only what a rename or removal was under way for.
        let wanted = Scene::wanted();
        for (name, leaf) in self.a.tree("shared") {
            let old = [&b"theirs\n"[..], b"their-deleted\n", b"{\"n\":0}\n"];
            let is_whole = wanted.get(&name) == Some(&leaf)
                || matches!(&leaf, Leaf::File { bytes, .. } if old.contains(&bytes.as_slice()))
                || name.windows(5).any(|part| part == b"_tmp-");
            // An append on its way may be there in part; it is finished at the next start.
            let is_tail = name == b"log.jsonl";
            assert!(is_whole || is_tail, "{moment}: torn {}: {leaf:?}", String::from_utf8_lossy(&name));
        }

        self.expect_both(&wanted, moment);
        for project in [&self.a, &self.b] {
            let conflicts = project.run(["conflicts"]);
            assert!(!conflicts.said().contains(".md"), "{moment}: {conflicts:#?}");
        }
        // Three versions of the log at most, one of each edit: nothing was recorded twice.
        let log = self.a.run(["log", "shared/edited.md", "--json"]).expect(0);
        assert_eq!(count_versions(&log), 2, "{moment}: {log:#?}");
    }

    /// The same, and what an export was killed at is not there, or is whole.
    fn check_export(&self, moment: &str) {
        let file = self.live.join("x.bundle");
        if file.exists() {
            let bundle = larder::transport::Bundle::open(&file).unwrap_or_else(|error| panic!("{moment}: {error}"));
            assert_eq!(bundle.damage(), [""; 0], "{moment}");
        }
        self.check(moment);
    }

    /// What must hold if the user goes on working between the kill and the next start: an edit of what was just being
    /// recorded descends from it, so that one person alone never meets a conflict with herself.
    fn check_after_further_edits(&self, moment: &str) {
        self.a.write("shared/edited.md", "edited by a, again\n");
        self.a.write("shared/renamed-to.md", "renamed, then edited\n");
        self.a.remove("shared/new/deep.md");
        let mut wanted = Scene::wanted();
        wanted.remove(b"new/deep.md".as_slice());
        for (name, text) in [("edited.md", "edited by a, again\n"), ("renamed-to.md", "renamed, then edited\n")] {
            wanted.insert(name.as_bytes().to_vec(), Leaf::File { exec: false, bytes: text.as_bytes().to_vec() });
        }

        self.expect_both(&wanted, moment);
    }

    /// Both sync, hold what is wanted, and are sound.
    fn expect_both(&self, wanted: &BTreeMap<Vec<u8>, Leaf>, moment: &str) {
        for project in [&self.a, &self.b, &self.a] {
            expect_sync(project, moment);
        }
        for project in [&self.a, &self.b] {
            assert_eq!(project.tree("shared"), *wanted, "{moment}: {:?}", project.dir);
            let verified = project.run(["verify"]);
            assert_eq!(verified.code, Some(0), "{moment}: {verified:#?}");
        }
    }
}

/// The artifacts below a `.larder` that hold the secret, whatever they are packed in, and the files that do.
fn holders(larder: &Path) -> Vec<String> {
    let holds = |bytes: &[u8]| bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
    let ledger = larder::ledger::Ledger::open(larder).expect("open the ledger");
    let mut found = Vec::new();
    for chain in ledger.chains().expect("list the chains") {
        for name in ledger.artifact_names(&chain).expect("list a chain") {
            for (segment, place) in ledger.places_in(&name).expect("read an artifact") {
                let bytes = ledger.read_segment(segment, &place).expect("read a segment");
                found.extend(holds(&bytes).then(|| name.to_string()));
            }
        }
    }
    for folder in ["displaced", "quarantine", "inbox"] {
        for file in fs::read_dir(larder.join(folder)).into_iter().flatten().flatten() {
            let bytes = fs::read(file.path()).unwrap_or_default();
            found.extend(holds(&bytes).then(|| file.path().display().to_string()));
        }
    }
    found
}

/// The number of versions that `log --json` shows; each has one content or is a deletion.
fn count_versions(log: &Outcome) -> usize {
    let json = log.json();
    let versions = json.get("versions").unwrap_or(&json);
    versions.as_array().unwrap_or_else(|| panic!("a list of versions: {log:#?}")).len()
}

#[track_caller]
fn expect_sync(project: &Project, moment: &str) {
    let outcome = project.run(["sync"]);
    assert_eq!(outcome.code, Some(0), "{moment}: {:?}: {outcome:#?}", project.dir);
}

/// Tries `kill_at` = first, first + stride, .. until a run ends by itself, on several scenes beside each other; `check`
/// says what has to hold afterwards.
fn kill_everywhere(test: &str, args: &[&str], max_kills: u64, check: fn(&Scene, &str)) -> io::Result<()> {
    kill_everywhere_in(Scene::set, test, args, max_kills, check)
}

fn kill_everywhere_in(
    set: fn() -> Scene,
    test: &str,
    args: &[&str],
    max_kills: u64,
    check: fn(&Scene, &str),
) -> io::Result<()> {
    strike_everywhere(&tracer::run, set, test, args, max_kills, check)
}

/// `strike` runs a command and does something to it at its n-th call; it is tried until a run ends by itself that had fewer.
fn strike_everywhere(
    strike: &(dyn Fn(Command, u64) -> io::Result<Ended> + Sync),
    set: fn() -> Scene,
    test: &str,
    args: &[&str],
    max_kills: u64,
    check: fn(&Scene, &str),
) -> io::Result<()> {
    let scenes: Vec<Scene> = (0..WORKERS).map(|_| set()).collect();
    let total = match strike(scenes[0].a.command(args), 0)? {
        Ended::ByItself { code: 0, calls } => calls,
        other => panic!("{args:?} without a kill: {other:?}"),
    };
    check(&scenes[0], "without a kill");
    let stride = total.div_ceil(if is_full() { max_kills.max(FULL_KILLS) } else { max_kills });
    let first = 1 + Dice::new(seed(test)).below(stride);
    println!("{test}: {total} calls, every {stride} from {first}");

    let next = AtomicU64::new(first);
    thread::scope(|scope| {
        for scene in &scenes {
            scope.spawn(|| {
                loop {
                    let kill_at = next.fetch_add(stride, Ordering::SeqCst);
                    scene.reset();
                    let ended = strike(scene.a.command(args), kill_at).expect("ptrace worked before");
                    match ended {
                        Ended::Killed => check(scene, &format!("killed before call {kill_at} of {total} of {args:?}")),
                        Ended::ByItself { code, calls } if calls >= kill_at => {
                            let moment = format!("call {kill_at} of {total} of {args:?} failed");
                            assert!(code < PANICKED, "{moment}: exit code {code}");
                            check(scene, &moment);
                        }
                        // Threads make the count differ a little between runs; beyond it there is nothing to strike.
                        Ended::ByItself { .. } => {
                            assert!(kill_at + stride + 50 > total, "ended by itself: {ended:?} of {total}");
                            return;
                        }
                    }
                }
            });
        }
    });
    Ok(())
}

/// Where nothing can be traced the test did not run.
fn or_skip(test: &str, ended: std::io::Result<()>) {
    if let Err(error) = ended {
        skip(test, &format!("ptrace or seccomp is not permitted here ({error}); the random kills remain"));
    }
}

#[test]
fn killed_at_every_call_of_a_sync_nothing_is_lost_torn_or_doubled() {
    const TEST: &str = "killed_at_every_call_of_a_sync_nothing_is_lost_torn_or_doubled";
    or_skip(TEST, kill_everywhere(TEST, &["sync"], MAX_KILLS, Scene::check));
}

#[test]
fn killed_at_every_call_of_a_sync_with_a_folder_nothing_is_lost_torn_or_doubled() {
    const TEST: &str = "killed_at_every_call_of_a_sync_with_a_folder_nothing_is_lost_torn_or_doubled";
    let ended = kill_everywhere_in(Scene::set_with_folder, TEST, &["sync"], MAX_KILLS / 4, Scene::check);
    or_skip(TEST, ended);
}

#[test]
fn killed_at_every_call_of_a_sync_where_renames_know_no_flags_nothing_is_lost_torn_or_doubled() {
    const TEST: &str = "killed_at_every_call_of_a_sync_where_renames_know_no_flags_nothing_is_lost_torn_or_doubled";
    let strike = &tracer::run_without_flags;
    or_skip(TEST, strike_everywhere(strike, Scene::set, TEST, &["sync"], MAX_KILLS / 8, Scene::check));
}

#[test]
fn whichever_call_of_a_sync_the_disk_refuses_nothing_is_lost_torn_or_doubled_and_the_next_one_ends_it() {
    const TEST: &str =
        "whichever_call_of_a_sync_the_disk_refuses_nothing_is_lost_torn_or_doubled_and_the_next_one_ends_it";
    for errno in [libc::EIO, libc::ENOSPC] {
        let strike = move |command, fail_at| tracer::run_failing(command, fail_at, errno);
        or_skip(TEST, strike_everywhere(&strike, Scene::set, TEST, &["sync"], MAX_KILLS / 8, Scene::check));
    }
}

#[test]
fn a_change_of_the_executable_bit_that_was_stopped_is_on_the_disk_before_it_is_settled() {
    const TEST: &str = "a_change_of_the_executable_bit_that_was_stopped_is_on_the_disk_before_it_is_settled";
    let is_exec =
        |project: &Project| fs::metadata(project.path("shared/run.md")).expect("look").permissions().mode() & 0o100;
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/run.md", "run\n");
    a.sync();
    b.sync();
    fs::set_permissions(a.path("shared/run.md"), fs::Permissions::from_mode(0o755)).expect("set");
    a.sync();
    let folder = b.path("shared").canonicalize().expect("a folder");
    let stopped = match tracer::run_until_synced(b.command(["sync"]), Some(&folder)) {
        Ok((stopped, _)) => stopped,
        Err(error) => return skip(TEST, &format!("ptrace or seccomp is not permitted here ({error})")),
    };
    assert_eq!((stopped, is_exec(&b)), (Ended::Killed, 0o100), "it took its place, maybe in memory alone");

    let (_, synced) = tracer::run_until_synced(b.command(["sync"]), None).expect("traced before");

    assert!(synced.contains(&folder), "{synced:?}");
    a.sync();
    assert_eq!((is_exec(&a), is_exec(&b)), (0o100, 0o100));
}

#[test]
fn killed_at_every_call_of_a_change_of_identity_it_is_the_old_one_or_the_new_one() {
    const TEST: &str = "killed_at_every_call_of_a_change_of_identity_it_is_the_old_one_or_the_new_one";
    let ended = kill_everywhere(TEST, &["origin", "new"], MAX_KILLS / 8, Scene::check);
    or_skip(TEST, ended);
}

#[test]
fn killed_at_every_call_of_an_import_nothing_is_lost_torn_or_doubled() {
    const TEST: &str = "killed_at_every_call_of_an_import_nothing_is_lost_torn_or_doubled";
    let args = ["import", "../b.bundle"];
    let ended = kill_everywhere_in(Scene::set_with_bundle, TEST, &args, MAX_KILLS / 8, Scene::check);
    or_skip(TEST, ended);
}

#[test]
fn killed_at_every_call_of_a_sync_that_empties_the_inbox_nothing_is_lost_torn_or_doubled() {
    const TEST: &str = "killed_at_every_call_of_a_sync_that_empties_the_inbox_nothing_is_lost_torn_or_doubled";
    let ended = kill_everywhere_in(Scene::set_with_inbox, TEST, &["sync"], MAX_KILLS / 4, Scene::check);
    or_skip(TEST, ended);
}

#[test]
fn killed_at_every_call_of_a_collection_nothing_current_is_lost_and_the_next_one_ends_it() {
    const TEST: &str = "killed_at_every_call_of_a_collection_nothing_current_is_lost_and_the_next_one_ends_it";
    let ended = kill_everywhere_in(Scene::set_with_garbage, TEST, &["gc"], MAX_KILLS / 8, Scene::check_garbage);
    or_skip(TEST, ended);
}

#[test]
fn killed_at_every_call_of_an_export_there_is_no_part_of_a_bundle() {
    const TEST: &str = "killed_at_every_call_of_an_export_there_is_no_part_of_a_bundle";
    let args = ["export", "../x.bundle", "--replace"];
    let ended = kill_everywhere_in(Scene::set_with_folder, TEST, &args, MAX_KILLS / 8, Scene::check_export);
    or_skip(TEST, ended);
}

#[test]
fn killed_at_any_call_and_edited_before_the_next_sync_nobody_conflicts_with_herself() {
    const TEST: &str = "killed_at_any_call_and_edited_before_the_next_sync_nobody_conflicts_with_herself";
    or_skip(TEST, kill_everywhere(TEST, &["sync"], MAX_KILLS / 2, Scene::check_after_further_edits));
}

#[test]
fn killed_at_every_call_of_a_receiving_append_no_line_is_lost_torn_or_doubled() {
    const TEST: &str = "killed_at_every_call_of_a_receiving_append_no_line_is_lost_torn_or_doubled";
    const LOG: &str = "shared/log.jsonl";
    let lab = Lab::new();
    let [a, b] = ["a", "b"].map(|name| lab.project(name, crate::support::CONFIG).with_backend(&lab.path("shared.db")));
    // Several segments and units of hashing, so that the end alone is read and written.
    let mut wanted: Vec<u8> =
        (0..3000).flat_map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}\n", "x".repeat(90)).into_bytes()).collect();
    b.write(LOG, &wanted);
    for project in [&b, &a, &b, &a] {
        project.sync();
    }
    let inode = || fs::metadata(a.path(LOG)).map(|metadata| metadata.ino()).expect("look");
    let before = inode();

    // Calls are counted first, in a run that receives an append and is left alone.
    let (mut total, mut stride, mut kill_at, mut appended_and_killed) = (0, 1, 0, 0);
    loop {
        let line = format!("{{\"killed_at\":{kill_at}}}\n");
        b.append(LOG, &line);
        b.sync();
        let ended = match tracer::run(a.command(["sync"]), kill_at) {
            Ok(ended) => ended,
            Err(error) => return skip(TEST, &format!("ptrace or seccomp is not permitted here ({error})")),
        };
        let moment = format!("killed before call {kill_at} of a receiving sync");
        let left = a.read(LOG).expect("the log is never gone");
        let tail = left.strip_prefix(wanted.as_slice()).unwrap_or_else(|| panic!("{moment}: the beginning changed"));
        assert!(line.as_bytes().starts_with(tail), "{moment}: {:?}", String::from_utf8_lossy(tail));
        appended_and_killed += u64::from(!tail.is_empty() && ended == Ended::Killed);

        wanted.extend_from_slice(line.as_bytes());
        expect_sync(&a, &moment);
        assert!(a.read(LOG).as_ref() == Some(&wanted), "{moment}: not what the other machine wrote");
        let verified = a.run(["verify"]);
        assert_eq!(verified.code, Some(0), "{moment}: {verified:#?}");
        match ended {
            Ended::ByItself { calls, .. } if kill_at == 0 => {
                total = calls;
                stride = if is_full() { 1 } else { total.div_ceil(MAX_KILLS / 4) };
                kill_at = 1 + Dice::new(seed(TEST)).below(stride);
                println!("{TEST}: {total} calls, every {stride} from {kill_at}");
            }
            // The count differs a little between runs; beyond it there is nothing to kill.
            Ended::ByItself { .. } if kill_at + stride + 50 > total => break,
            Ended::ByItself { .. } => panic!("{moment}: ended by itself: {ended:?} of {total}"),
            Ended::Killed => kill_at += stride,
        }
    }
    expect_sync(&b, "at the end");
    assert!(b.read(LOG).as_ref() == Some(&wanted), "at the end: nothing came back");
    // Kills between the append and the end of the run were among them, and the file was the same one throughout.
    assert!(appended_and_killed > 0);
    assert_eq!(inode(), before);
}

#[test]
fn killed_at_every_call_of_the_first_sync_it_starts_over() {
    const TEST: &str = "killed_at_every_call_of_the_first_sync_it_starts_over";
    kill_first_sync(TEST, 0, if is_full() { u64::MAX } else { MAX_KILLS / 2 });
}

/// Each kill costs seconds here: not all calls are tried in one run, not even in a full one.
#[test]
fn killed_while_rows_are_written_beside_recording_it_starts_over() {
    const TEST: &str = "killed_while_rows_are_written_beside_recording_it_starts_over";
    kill_first_sync(TEST, MANY_FILES, if is_full() { MAX_KILLS / 8 } else { MAX_KILLS / 40 });
}

/// Kills the first sync of `2 + more` files at most `max_kills` times, spread over all its calls.
fn kill_first_sync(test: &'static str, more: usize, max_kills: u64) {
    let place = |lab: &Lab, number: u64| {
        let (a, b) = lab.fresh_pair();
        let (a, b) = (a.at(&lab.path(format!("{number}/a"))), b.at(&lab.path(format!("{number}/b"))));
        let database = lab.path(format!("{number}/shared.db"));
        for project in [&a, &b] {
            project.write("sync-config.json", crate::support::CONFIG);
        }
        a.write("shared/one.md", "one\n");
        a.write("shared/two.bin", [0, 159, 146, 150]);
        // So many that their rows are written, and their batch waits for the disk, while the rest is recorded.
        for n in 0..more {
            a.write(format!("shared/many/{n}.md"), format!("{n}\n"));
        }
        (a.with_backend(&database), b.with_backend(&database))
    };
    let lab = Lab::new();
    let total = match tracer::run(place(&lab, 0).0.command(["sync"]), 0) {
        Ok(Ended::ByItself { code: 0, calls }) => calls,
        Ok(other) => panic!("without a kill: {other:?}"),
        Err(error) => {
            return skip(test, &format!("ptrace or seccomp is not permitted here ({error})"));
        }
    };
    let stride = total.div_ceil(max_kills);
    let first = 1 + Dice::new(seed(test)).below(stride);
    println!("{test}: {total} calls, every {stride} from {first}");

    let next = AtomicU64::new(first);
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let kill_at = next.fetch_add(stride, Ordering::SeqCst);
                    let (a, b) = place(&lab, kill_at);
                    let Ended::Killed = tracer::run(a.command(["sync"]), kill_at).expect("ptrace worked before") else {
                        return;
                    };
                    let moment = format!("killed before call {kill_at} of {total} of the first sync");
                    for project in [&a, &b, &a, &b] {
                        expect_sync(project, &moment);
                        let verified = project.run(["verify"]);
                        assert_eq!(verified.code, Some(0), "{moment}: {verified:#?}");
                    }
                    assert_eq!(a.tree("shared").len(), 2 + more, "{moment}");
                    assert_eq!(b.tree("shared"), a.tree("shared"), "{moment}");
                    fs::remove_dir_all(lab.path(kill_at.to_string())).expect("clear away");
                }
            });
        }
    });
}

/// One machine whose daemon is killed again and again while its files change, and one that only receives.
struct Victim {
    a: Project,
    b: Project,
    dice: Dice,
    /// What the user wrote last, by file number; `None`: removed.
    last: BTreeMap<u64, Option<String>>,
}

impl Victim {
    const FILES: u64 = 8;

    fn set(lab: &Lab, number: usize, seed: u64) -> Victim {
        let database = lab.path(format!("{number}.db"));
        let [a, b] = ["a", "b"]
            .map(|name| lab.project(&format!("{number}-{name}"), crate::support::CONFIG).with_backend(&database));
        a.write("shared/marker.md", "marker\n");
        for project in [&a, &b, &a, &b] {
            project.sync();
        }
        Victim { a, b, dice: Dice::new(seed), last: BTreeMap::new() }
    }

    /// One life: start, change files for a random while, die.
    fn live_and_die(&mut self, life: u64) {
        let daemon = Daemon::start(self.a.command(["up"]));
        // Some die while starting, some long after it.
        let end = Instant::now() + Duration::from_micros(self.dice.below(250_000));
        let mut edit = 0;
        while Instant::now() < end {
            self.change(life, edit);
            edit += 1;
            thread::park_timeout(Duration::from_micros(self.dice.below(20_000)));
        }
        daemon.kill();
    }

    fn change(&mut self, life: u64, edit: u64) {
        let number = self.dice.below(Victim::FILES);
        let path = format!("shared/{number}.md");
        let exists = matches!(self.last.get(&number), Some(Some(_)));
        match self.dice.below(6) {
            0 if exists => {
                self.a.remove(&path);
                self.last.insert(number, None);
            }
            1 if exists => {
                let line = format!("{life} {edit} more\n");
                self.a.append(&path, &line);
                self.last.entry(number).and_modify(|text| text.as_mut().expect("it exists").push_str(&line));
            }
            2 => {
                // As an editor saves: a new file over the old name.
                let text = format!("{life} {edit} saved\n");
                self.a.write("shared/_tmp-save", &text);
                fs::rename(self.a.path("shared/_tmp-save"), self.a.path(&path)).expect("rename");
                self.last.insert(number, Some(text));
            }
            _ => {
                let text =
                    format!("{life} {edit} written\n").repeat(1 + usize::try_from(self.dice.below(40)).expect("small"));
                self.a.write(&path, &text);
                self.last.insert(number, Some(text));
            }
        }
    }

    fn check(&self, moment: &str) {
        for (number, text) in &self.last {
            let found =
                self.a.read(format!("shared/{number}.md")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            assert_eq!(found, *text, "{moment}: file {number}");
        }
        let verified = self.a.run(["verify"]);
        assert_eq!(verified.code, Some(0), "{moment}: {verified:#?}");
    }

    fn check_both(&self, moment: &str) {
        expect_sync(&self.a, moment);
        expect_sync(&self.b, moment);
        self.check(moment);
        assert_eq!(self.a.tree("shared"), self.b.tree("shared"), "{moment}");
        let verified = self.b.run(["verify"]);
        assert_eq!(verified.code, Some(0), "{moment}: {verified:#?}");
        // No file differs, so a further sync must record nothing.
        let before = self.a.tree(".larder/ledger").len();
        expect_sync(&self.a, moment);
        assert_eq!(self.a.tree(".larder/ledger").len(), before, "{moment}: something was recorded again");
    }
}

#[test]
fn killed_at_random_moments_a_daemon_loses_nothing() {
    const TEST: &str = "killed_at_random_moments_a_daemon_loses_nothing";
    const BOTH_EVERY: u64 = 25;
    let seed = seed(TEST);
    let lab = Lab::new();
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let lab = &lab;
            scope.spawn(move || {
                let mut victim = Victim::set(lab, worker, seed.wrapping_add(worker as u64));
                for life in 1..=RANDOM_KILLS / WORKERS as u64 {
                    let moment = format!("seed {seed}, worker {worker}, life {life}");
                    victim.live_and_die(life);
                    victim.check(&moment);
                    if life % BOTH_EVERY == 0 {
                        victim.check_both(&moment);
                    }
                }
                victim.check_both("at the end");
            });
        }
    });
}

#[test]
fn killed_at_every_call_of_a_purge_nothing_else_is_lost_and_the_next_one_ends_it() {
    const TEST: &str = "killed_at_every_call_of_a_purge_nothing_else_is_lost_and_the_next_one_ends_it";
    let args = ["purge", "shared/secret.md", "--yes"];
    let ended = kill_everywhere_in(Scene::set_with_secret, TEST, &args, MAX_KILLS / 8, Scene::check_purge);
    or_skip(TEST, ended);
}

#[test]
fn killed_at_every_call_of_a_purge_that_closes_a_chain_nothing_else_is_lost_and_the_next_one_ends_it() {
    const TEST: &str =
        "killed_at_every_call_of_a_purge_that_closes_a_chain_nothing_else_is_lost_and_the_next_one_ends_it";
    let args = ["purge", "shared/secret.md", "--yes"];
    let set = Scene::set_with_secret_of_an_earlier_generation;
    or_skip(TEST, kill_everywhere_in(set, TEST, &args, MAX_KILLS / 8, Scene::check_purge));
}
