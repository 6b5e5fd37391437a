//! Who an install is, and what copies of its folder are.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::fixture::*;
use crate::env::Env;
use crate::ledger::*;
use crate::model::Space;

fn standing(larder: &std::path::Path, env: &Env) -> Standing {
    Identity::open(larder, env, "anna").expect("an identity").standing
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir(to).expect("a folder");
    for file in ["origin.json", "device.key"] {
        fs::copy(from.join(file), to.join(file)).expect("copied");
    }
}

#[test]
fn an_identity_is_made_once_and_keeps_its_keys_private() {
    let house = House::new(61);

    let opened = Identity::open(&house.larder(), &house.env, "other").expect("an identity");

    assert!(!opened.created);
    assert_eq!(opened.standing, Standing::Same);
    assert_eq!(opened.identity.public_key(), house.identity.public_key());
    assert_eq!(opened.identity.certificate(), house.identity.certificate());
    for key in [house.larder().join("device.key"), house.env.state_home.join("owner.key")] {
        assert_eq!(fs::metadata(&key).expect("a key").permissions().mode() & 0o777, 0o600, "{key:?}");
    }
    assert_eq!(fs::metadata(house.larder()).expect("a folder").permissions().mode() & 0o777, 0o700);
    assert!(house.identity.origin().as_str().starts_with("house-"));
}

#[test]
fn two_projects_of_one_person_share_the_owner_and_the_private_space() {
    let house = House::new(62);

    let other = Identity::open(&house.folder.path().join("other/.larder"), &house.env, "anna").expect("an identity");

    assert_eq!(other.identity.owner_key(), house.identity.owner_key());
    assert_eq!(other.identity.private_space(), house.identity.private_space());
    assert_ne!(other.identity.public_key(), house.identity.public_key());
    assert_ne!(other.identity.origin(), house.identity.origin());
}

#[test]
fn copies_moves_and_other_machines_are_told_apart() {
    let mut house = House::new(63);
    let at = |name: &str| house.folder.path().join(name);
    copy(&house.larder(), &at("copy"));
    assert_eq!(standing(&at("copy"), &house.env), Standing::Copied);

    fs::rename(house.larder(), at("moved")).expect("moved");
    assert_eq!(standing(&at("moved"), &house.env), Standing::Moved);
    house.identity.settle(&at("moved"), &house.env).expect("settled");
    assert_eq!(standing(&at("moved"), &house.env), Standing::Same);

    let aside = at("aside");
    fs::rename(at("moved"), &aside).expect("moved");
    copy(&aside, &at("moved"));
    assert_eq!(standing(&at("moved"), &house.env), Standing::Restored);

    let mut elsewhere = house.env.clone();
    elsewhere.vars.insert("LARDER_MACHINE_ID".to_owned(), "other".to_owned());
    assert_eq!(standing(&aside, &elsewhere), Standing::OtherMachine);

    let stranger = House::new(64);
    assert_eq!(standing(&at("copy"), &stranger.env), Standing::Unknown);
}

#[test]
fn a_folder_that_stands_where_it_was_made_is_its_users_own_whatever_the_state_folder() {
    let house = House::new(68);
    let mut elsewhere = House::new(69).env.clone();
    elsewhere.vars.insert("LARDER_MACHINE_ID".to_owned(), "other".to_owned());
    let mut nowhere = House::new(70).env.clone();
    nowhere.vars.insert("LARDER_MACHINE_ID".to_owned(), " ".to_owned());
    let other_home = tempfile::tempdir().expect("a folder");
    let other = Env { state_home: other_home.path().to_owned(), ..house.env.clone() };

    assert_eq!(standing(&house.larder(), &other), Standing::Moved);
    let mut identity = Identity::load(&house.larder()).expect("an identity");
    identity.settle(&house.larder(), &other).expect("settled");
    assert_eq!(standing(&house.larder(), &other), Standing::Same);
    assert_eq!(standing(&house.larder(), &house.env), Standing::Same);
    let seen = [&elsewhere, &nowhere].map(|env| standing(&house.larder(), env));
    assert_eq!(seen, [Standing::OtherMachine; 2], "the very folder, as a container sees it, never came from elsewhere");
    identity.settle(&house.larder(), &nowhere).expect("settled");
    let unnamed = Env { vars: nowhere.vars.clone(), ..House::new(71).env.clone() };
    assert_eq!(standing(&house.larder(), &unnamed), Standing::Unknown, "a machine without a name is no proof");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(house.larder(), Some(65534), None).expect("chown");
        let third_home = tempfile::tempdir().expect("a folder");
        let third = Env { state_home: third_home.path().to_owned(), ..house.env.clone() };
        identity.settle(&house.larder(), &house.env).expect("settled");
        assert_eq!(standing(&house.larder(), &third), Standing::Unknown, "another user's");
    }
}

#[test]
fn a_folder_that_others_may_look_into_is_not_known_by_where_it_stands() {
    use std::os::unix::fs::PermissionsExt;
    let house = House::new(72);
    let other_home = tempfile::tempdir().expect("a folder");
    let other = Env { state_home: other_home.path().to_owned(), ..house.env.clone() };
    assert_eq!(standing(&house.larder(), &other), Standing::Moved);

    for (name, mode) in [("device.key", 0o644), ("", 0o755)] {
        let path = house.larder().join(name);
        let before = std::fs::metadata(&path).expect("metadata").permissions();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        assert_eq!(
            standing(&house.larder(), &other),
            Standing::Unknown,
            "whoever has it checked out could look that up"
        );
        std::fs::set_permissions(&path, before).expect("chmod");
    }
    assert_eq!(standing(&house.larder(), &other), Standing::Moved);
}

#[test]
fn the_next_generation_is_another_chain() {
    let mut house = House::new(65);
    let before = house.chain();

    house.identity.next_generation(&house.larder(), &house.env).expect("saved");

    let loaded = Identity::load(&house.larder()).expect("an identity");
    assert_eq!(loaded.chain(Space::shared()).generation, before.generation + 1);
    assert_eq!(loaded.origin(), &before.origin);
}

#[test]
fn an_identity_that_takes_anothers_place_is_never_without_its_key() {
    let mut house = House::new(67);
    let (origin, larder) = (house.identity.origin().clone(), house.larder());
    let key_before = fs::read(larder.join("device.key")).expect("a key");
    let origin_before = fs::read(larder.join("origin.json")).expect("an origin");

    house.identity = Identity::adopt(&larder, &house.env, "anna", origin.clone(), 7).expect("adopted");

    let (key, adopted) = (house.identity.public_key(), Identity::load(&larder).expect("an identity"));
    assert_eq!((adopted.origin(), adopted.generation(), adopted.public_key()), (&origin, 7, key));
    assert!(!larder.join("device.key.next").exists());
    // Cut off before the last rename: both keys are there, and `origin.json` says which one counts.
    fs::rename(larder.join("device.key"), larder.join("device.key.next")).expect("renamed");
    fs::write(larder.join("device.key"), &key_before).expect("written");
    assert_eq!(Identity::load(&larder).expect("the new one").public_key(), key);
    let next_before = fs::read(larder.join("device.key.next")).expect("a key");
    Identity::adopt(&larder, &house.env, "anna", origin.clone(), 8).expect("adopted again");
    assert_eq!(Identity::load(&larder).expect("the newest").generation(), 8);
    fs::write(larder.join("device.key"), &key_before).expect("written");
    fs::write(larder.join("device.key.next"), &next_before).expect("written");
    fs::write(larder.join("origin.json"), &origin_before).expect("written");
    assert_eq!(Identity::load(&larder).expect("the old one").generation(), 1);
}

#[test]
fn damaged_identities_are_refused_with_the_file() {
    type Change = fn(&str) -> String;
    let table: [(&str, &str, Change); 6] = [
        ("origin.json", "origin.json", |_| "{}".to_owned()),
        ("origin.json", "certificate", |text| text.replace("\"owner\":\"anna\"", "\"owner\":\"eve\"")),
        ("origin.json", "upgrade", |text| text.replace("\"v\":1", "\"v\":2")),
        ("origin.json", "generation", |text| text.replace("\"generation\":1", "\"generation\":0")),
        ("device.key", "64 hex digits", |text| text[1..].to_owned()),
        ("device.key", "not the key", |text| {
            let first = if text.starts_with('0') { "1" } else { "0" };
            format!("{first}{}", &text[1..])
        }),
    ];

    for (file, expected, change) in table {
        let house = House::new(66);
        let path = house.larder().join(file);
        fs::write(&path, change(&fs::read_to_string(&path).expect("text"))).expect("written");
        let error = Identity::open(&house.larder(), &house.env, "anna").expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_cannot_be_looked_for_is_not_taken_for_absent() {
    for what in ["origin.json", "devices"] {
        let house = House::new(75);
        let looked_for = if what == "devices" { house.env.state_home.join(what) } else { house.larder().join(what) };
        let kept = house.folder.path().join("kept");
        fs::rename(&looked_for, &kept).expect("moved");
        // A link to itself can be looked through by nobody, root included.
        std::os::unix::fs::symlink(&looked_for, &looked_for).expect("linked");

        assert!(matches!(Identity::open(&house.larder(), &house.env, "anna"), Err(IdentityError::Io { .. })), "{what}");

        fs::remove_file(&looked_for).expect("removed");
        fs::rename(&kept, &looked_for).expect("moved");
        let opened = Identity::open(&house.larder(), &house.env, "anna").expect("an identity");
        assert_eq!(opened.identity.public_key(), house.identity.public_key(), "{what}");
    }
}
