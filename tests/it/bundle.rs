//! Bundles by hand: carried between machines that no line joins, both ways, damaged, foreign, and beside a daemon.

use std::fs;
use std::path::PathBuf;

use crate::support::{CONFIG, Lab, Project};

/// A machine of its own: another home, another owner.
fn machine(lab: &Lab, name: &str) -> Project {
    lab.project(name, CONFIG).with_home(&lab.path(format!("home-{name}")))
}

fn bundle(lab: &Lab) -> (PathBuf, String) {
    let path = lab.path("x.bundle");
    let text = path.to_string_lossy().into_owned();
    (path, text)
}

fn noise(seed: u32) -> Vec<u8> {
    (0..400_000u32).map(|n| ((n ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn machines_that_no_line_joins_converge_through_a_file_carried_between_them() {
    let lab = Lab::new();
    let (a, b) = (machine(&lab, "a"), machine(&lab, "b"));
    let (path, file) = bundle(&lab);
    a.write("shared/a.md", "a\n");
    a.write("shared/big.bin", noise(1));
    a.write("mine/diary.md", "mine\n");
    a.write("logs/x.log", "a\n");
    b.write("shared/b.md", "b\n");

    a.run(["export", &file, "--dry-run"]).expect(0).says("would record adopted shared/a.md");
    assert!(!path.exists());
    let made = a.run(["export", &file, "--json"]).expect(0).json();
    let size = fs::metadata(&path).expect("is there").len();
    assert_eq!((&made["bundle"]["bytes"], &made["bundle"]["damage"]), (&size.into(), &serde_json::json!([])));
    b.run(["import", &file, "--dry-run"]).expect(0).says("to receive").says("would record adopted shared/b.md");
    a.run(["import", &file, "--dry-run", "--json"]).expect(0).says("\"to_receive\": 0");
    b.sync();
    assert!(b.read("shared/a.md").is_none(), "a dry run leaves nothing for the next run to write");
    b.run(["import", &file]).expect(0).says("wrote new shared/a.md");
    assert_eq!((b.read("shared/a.md"), b.read("shared/big.bin")), (a.read("shared/a.md"), a.read("shared/big.bin")));
    assert_eq!((b.read("mine/diary.md"), b.read("logs/x.log")), (None, None));
    let again = b.run(["import", &file, "--json"]).expect(0).json();
    assert_eq!((&again["pulled"], &again["written"]), (&0.into(), &serde_json::json!([])));

    b.append("shared/a.md", "more\n");
    b.remove("shared/big.bin");
    b.run(["export", &file]).expect(1).says("is there already").says("--replace");
    b.run(["export", &file, "--replace"]).expect(0);
    a.run(["import", &file]).expect(0);
    assert_eq!(a.tree("shared"), b.tree("shared"));
    assert_eq!((a.read("shared/big.bin"), a.read("shared/b.md").as_deref()), (None, Some(&b"b\n"[..])));

    // Both hold the same now, and so do their bundles.
    b.run(["export", &file, "--replace"]).expect(0);
    let one = fs::read(&path).expect("read it");
    b.run(["export", &file, "--replace"]).expect(0);
    assert!(one == fs::read(&path).expect("read it"));
    a.run(["status"]).expect(0);
    a.sync();
    for project in [&a, &b] {
        project.verify();
    }

    // They know each other now wherever they meet.
    fs::create_dir(lab.path("share")).expect("make the folder");
    let share = lab.path("share");
    for project in [&a, &b] {
        project.run(["connect", &share.to_string_lossy()]).expect(0);
    }
}

#[test]
fn private_files_go_into_a_bundle_only_when_asked_and_come_out_only_for_their_owner() {
    let lab = Lab::new();
    let (_, file) = bundle(&lab);
    let a = machine(&lab, "a");
    let (own, stranger) = (machine(&lab, "own").with_home(&lab.path("home-a")), machine(&lab, "stranger"));
    a.write("mine/diary.md", "mine\n");
    a.write("shared/a.md", "a\n");

    a.run(["export", &file]).expect(0);
    own.run(["import", &file]).expect(0);
    assert_eq!((own.read("mine/diary.md"), own.read("shared/a.md").is_some()), (None, true));
    a.run(["export", &file, "--private", "--replace"]).expect(0);
    for project in [&own, &stranger] {
        project.run(["import", &file]).expect(0);
    }

    assert_eq!((own.read("mine/diary.md").as_deref(), stranger.read("mine/diary.md")), (Some(&b"mine\n"[..]), None));
}

#[test]
fn a_damaged_bundle_gives_what_is_whole_says_what_is_not_and_a_whole_one_heals_it() {
    let lab = Lab::new();
    let (path, file) = bundle(&lab);
    let a = machine(&lab, "a");
    a.write("shared/a.md", "a\n");
    a.sync();
    a.write("shared/big.bin", noise(1));
    a.sync();
    a.write("shared/z.md", "z\n");
    a.run(["export", &file]).expect(0);
    let whole = fs::read(&path).expect("read it");

    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let cut = whole[..whole.len() / 2].to_vec();
    for (name, bytes, said) in [("flipped", flipped, "its bytes are damaged"), ("cut", cut, "its end is missing")] {
        let b = machine(&lab, name);
        fs::write(&path, bytes).expect("damage it");

        let outcome = b.run(["import", &file]).expect(4).says(said).says("what is whole in it was taken");
        assert_eq!(b.read("shared/a.md").as_deref(), Some(&b"a\n"[..]), "{outcome:#?}");
        assert_eq!(b.read("shared/big.bin"), None);
        let told = b.run(["import", &file, "--json"]).expect(4).json();
        assert!(told["bundle"]["damage"].as_array().is_some_and(|damage| !damage.is_empty()), "{told}");

        fs::write(&path, &whole).expect("bring it again");
        b.run(["import", &file]).expect(0);
        assert_eq!(b.tree("shared"), a.tree("shared"));
        b.verify();
    }
    assert_eq!(fs::read(&path).expect("read it"), whole, "a bundle is only read");
}

#[test]
fn what_is_no_bundle_of_this_project_is_refused_with_a_sentence_and_changes_nothing() {
    let lab = Lab::new();
    let (path, file) = bundle(&lab);
    let (a, other) = (machine(&lab, "a"), lab.project("other", &CONFIG.replace("\"lab\"", "\"other\"")));
    a.write("shared/a.md", "a\n");
    a.run(["export", &file]).expect(0);

    other.run(["import", &file]).expect(1).says("it holds the project `lab`").says("`appId`");
    let namesake = machine(&lab, "namesake");
    namesake.write("shared/own.md", "own\n");
    namesake.sync();
    namesake.run(["import", &file]).expect(1).says("another project called `lab`").says("--join");
    assert_eq!(namesake.read("shared/a.md"), None);
    namesake.run(["import", &file, "--join"]).expect(0);
    assert_eq!(namesake.read("shared/a.md").as_deref(), Some(&b"a\n"[..]));
    namesake.run(["import", &file]).expect(0);

    fs::write(&path, "a photo").expect("write a file");
    a.run(["import", &file]).expect(1).says("no bundle of larder");
    a.run(["import", &lab.path("nowhere").to_string_lossy()]).expect(1).says("No such file");
    a.run(["import", &lab.path("home").to_string_lossy()]).expect(1).says("it is no file");
    a.run(["export", "shared/x.bundle"]).expect(1).says("one of the project's own files");
    a.run(["export", &lab.path("nowhere/x").to_string_lossy()]).expect(1).says("No such file");
    a.run(["export", "beside.bundle"]).expect(0);
    assert!(a.path("beside.bundle").exists());
    a.verify();
}

#[test]
fn a_daemon_exports_and_imports_for_whoever_asks() {
    let lab = Lab::new();
    let (path, file) = bundle(&lab);
    let (a, b) = (machine(&lab, "a"), machine(&lab, "b"));
    let (up_a, up_b) = (a.up(), b.up());

    a.write("shared/a.md", "a\n");
    a.run(["export", &file, "--json"]).expect(0).says("\"by\": \"daemon\"");
    b.run(["import", &file]).expect(1).says("another project called");
    b.run(["import", &file, "--join", "--json"]).expect(0).says("\"by\": \"daemon\"");
    assert_eq!(b.read("shared/a.md").as_deref(), Some(&b"a\n"[..]));
    fs::write(&path, &fs::read(&path).expect("read it")[..100]).expect("cut it");
    b.run(["import", &file]).expect(4).says("what is whole in it was taken");

    up_a.stop();
    up_b.stop();
}
