//! Damage in a folder that three machines share, and at home: named, of no consequence for what does not need it, put right.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::{CONFIG, Lab, Project};

fn lab() -> (Lab, [Project; 3]) {
    let lab = Lab::new();
    fs::create_dir(lab.path("share")).expect("make the folder");
    let members = ["a", "b", "c"].map(|name| {
        let project = lab.project(name, CONFIG);
        project.run(["peers", "add", "share", &lab.path("share").to_string_lossy()]).expect(0);
        project
    });
    (lab, members)
}

fn name_of(project: &Project) -> String {
    project.run(["origin", "show", "--json"]).expect(0).json()["origin"].as_str().expect("a name").to_owned()
}

/// The files of one kind that an origin has below a folder, in order.
fn artifacts(below: &Path, origin: &str, kind: &str) -> Vec<PathBuf> {
    let folder = below.join("shared").join(format!("{origin}~1")).join(kind);
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("list").map(|entry| entry.expect("list").path()).collect();
    files.sort();
    files
}

fn change(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("read");
    edit(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::write(path, bytes).expect("write");
}

fn flip(path: &Path) {
    change(path, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
}

#[track_caller]
fn holds(project: &Project, path: &str, text: &str) {
    assert_eq!(project.read(path).as_deref(), Some(text.as_bytes()), "{path} in {:?}", project.dir);
}

#[test]
fn a_damaged_store_is_named_by_who_needs_it_and_put_right_by_who_holds_it() {
    let (lab, [a, b, c]) = lab();
    a.write("shared/first.md", "first\n");
    a.sync();
    a.write("shared/second.md", "second\n");
    a.sync();
    let origin = name_of(&a);
    let newest = artifacts(&lab.path("share/lab"), &origin, "checkpoints").pop().expect("a checkpoint");
    let good = fs::read(&newest).expect("read");
    change(&newest, |bytes| bytes.truncate(bytes.len() / 2));
    let name = newest.file_name().expect("a name").to_string_lossy().into_owned();

    c.write("shared/by-c.md", "c\n");
    c.run(["sync"]).expect(4);
    for _ in 0..2 {
        b.run(["sync"]).expect(4).says("damaged there");
        holds(&b, "shared/first.md", "first\n");
        holds(&b, "shared/by-c.md", "c\n");
        b.run(["status"]).expect(4).says(&format!("shared/{origin}~1/checkpoints/{name}")).says("larder repair");
    }
    b.verify();
    assert!(b.read("shared/second.md").is_none());

    a.sync().says(&format!("mended shared/{origin}~1/checkpoints/{name}"));
    assert_eq!(fs::read(&newest).expect("read"), good);
    holds(&a, "shared/by-c.md", "c\n");
    for project in [&b, &c] {
        project.sync();
        holds(project, "shared/second.md", "second\n");
        let status = project.run(["status"]).expect(0);
        assert!(!status.said().contains("damage"), "{status:#?}");
    }
    assert!(a.sync().out.contains("up to date"), "nobody asks for it any more");
}

#[test]
fn repair_reads_every_byte_of_every_store_and_puts_right_what_is_whole_on_either_side() {
    let (lab, [a, b, _]) = lab();
    for n in 0..3 {
        a.write(format!("shared/{n}.md"), format!("{n}\n"));
        a.sync();
    }
    b.sync();
    let (origin, share) = (name_of(&a), lab.path("share/lab"));
    let there = artifacts(&share, &origin, "checkpoints");
    let here = artifacts(&b.path(".larder/ledger"), &origin, "checkpoints");
    flip(&there[1]);
    flip(&here[0]);

    b.run(["verify", "--deep"]).expect(4).says("share: ").says("larder repair").says("larder sync");
    let before = fs::read(&there[1]).expect("read");
    b.run(["repair", "--dry-run"]).expect(4).says("would mend").says("! here");
    assert_eq!(fs::read(&there[1]).expect("read"), before);
    b.run(["repair"]).expect(0).says("< healed").says("> mended");
    b.run(["verify", "--deep"]).expect(0).says("artifacts read in stores");
    b.run(["repair"]).expect(0);

    // What nobody has whole is named, with whose it is, and healed as soon as that machine is there.
    flip(&there[1]);
    flip(&here[1]);
    let missing = b.run(["repair"]).expect(4).says(&format!("{origin} wrote it")).says("share");
    assert!(missing.said().contains("here"), "{missing:#?}");
    b.run(["status"]).expect(4);
    a.sync().says("mended");
    b.sync().says("healed");
    b.run(["verify", "--deep"]).expect(0);
    b.run(["status"]).expect(0);
}

#[test]
fn a_store_file_that_is_damaged_or_gone_is_written_again_where_the_project_was() {
    let (lab, [a, b, c]) = lab();
    a.write("shared/a.md", "a\n");
    for project in [&a, &b] {
        project.sync();
    }
    let store = lab.path("share/larder-store.json");
    let good = fs::read(&store).expect("read");

    for harm in [Some(&good[..5]), None] {
        match harm {
            Some(bytes) => fs::write(&store, bytes).expect("written"),
            None => fs::remove_file(&store).expect("removed"),
        }
        a.run(["sync"]).expect(2).says("larder-store.json");
        // Who was never there cannot tell a store from somebody's folder.
        c.run(["repair"]).expect(2).says("larder-store.json");
        b.run(["repair", "--dry-run"]).expect(2);
        b.run(["repair"]).expect(0);
        assert_eq!(fs::read(&store).expect("read"), good);
        a.sync();
    }

    fs::rename(lab.path("share"), lab.path("away")).expect("the disk is not there");
    a.run(["repair"]).expect(2).says("share");
    assert!(!lab.path("share").exists());
}

#[test]
fn a_marker_that_is_damaged_or_lost_stops_nobody_who_was_there() {
    let (lab, [a, b, c]) = lab();
    a.write("shared/a.md", "a\n");
    for project in [&a, &b] {
        project.sync();
    }
    let markers = lab.path("share/lab/markers");
    let marker = fs::read_dir(&markers).expect("list").next().expect("a marker").expect("list").path();
    let good = fs::read(&marker).expect("read");

    for harm in [Some(&good[..10]), Some(&b""[..]), None] {
        match harm {
            Some(bytes) => fs::write(&marker, bytes).expect("written"),
            None => fs::remove_file(&marker).expect("removed"),
        }
        // B wrote nothing yet; what it holds of A is enough to know the place by.
        b.sync();
        a.sync();
        assert!(marker.exists());
    }
    assert_eq!(fs::read(&marker).expect("read"), good);
    c.sync();
    holds(&c, "shared/a.md", "a\n");

    // What it held is gone as well: that is an empty disk, and not filled unasked.
    fs::remove_dir_all(lab.path("share/lab")).expect("removed");
    b.run(["sync"]).expect(2).says("is its disk mounted");
}

#[test]
fn an_index_that_is_not_what_the_ledger_says_is_found_by_a_deep_look() {
    let (_lab, [a, ..]) = lab();
    a.write("shared/a.md", "a\n");
    a.sync();
    a.run(["verify", "--deep"]).expect(0);
    let index = rusqlite::Connection::open(a.path(".larder/index.db")).expect("open");
    let changed = index.execute("UPDATE meta SET value = value + 1 WHERE key = 'versions'", []).expect("update");
    assert_eq!(changed, 1);
    drop(index);

    a.verify();
    a.run(["verify", "--deep"]).expect(4).says("not what the ledger says").says("larder rebuild");
    a.run(["rebuild"]).expect(0);
    a.run(["verify", "--deep"]).expect(0);
}

/// What is done to the bytes of an artifact.
type Harm = fn(&mut Vec<u8>);

#[test]
fn a_pack_that_nobody_has_whole_is_made_anew_from_the_projects_own_files() {
    let lab = Lab::new();
    let a = lab.project("a", CONFIG);
    // Some that compresses and some that does not, in one segment and in several.
    let lines: String = (0..40_000).map(|n| format!("{{\"line\":{n}}}\n")).collect();
    a.write("shared/lines.jsonl", &lines);
    let noise = |seed: u8, len: usize| {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    };
    (0..8).for_each(|n| a.write(format!("shared/{n}.bin"), noise(n, 100_000)));
    a.write("shared/long.bin", noise(9, 3 << 20));
    a.sync();
    let pack = artifacts(&a.path(".larder/ledger"), &name_of(&a), "packs").pop().expect("a pack");
    let good = fs::read(&pack).expect("read");
    let harms: [(&str, Harm); 4] = [
        ("a block", |bytes| {
            let at = bytes.len() / 3;
            bytes[at..at + 4096].fill(0);
        }),
        ("its index", |bytes| {
            let at = bytes.len() - 30;
            bytes[at] ^= 1;
        }),
        ("its end", |bytes| bytes.truncate(bytes.len() / 2)),
        ("all of it", |bytes| bytes.clear()),
    ];
    for (what, harm) in harms {
        change(&pack, harm);
        a.run(["verify", "--deep"]).expect(4).says("larder repair");

        a.run(["repair"]).expect(0).says("< made anew");

        assert_eq!(fs::read(&pack).expect("read"), good, "{what}");
        a.verify();
        a.run(["status"]).expect(0);
    }
    fs::remove_file(&pack).expect("gone");
    a.run(["repair"]).expect(0).says("made anew from the project's files");
    assert_eq!(fs::read(&pack).expect("read"), good);

    // What no file holds any more is not made up.
    a.write("shared/long.bin", noise(10, 3 << 20));
    a.sync();
    change(&pack, |bytes| bytes.truncate(100));
    let harmed = fs::read(&pack).expect("read");
    a.run(["repair"]).expect(4).says("! here");
    assert_eq!(fs::read(&pack).expect("read"), harmed);
    assert_eq!(a.read("shared/long.bin"), Some(noise(10, 3 << 20)));
}
