//! The damage matrix: each kind of artifact in a folder that machines share x each way to go bad. In every cell the others
//! are unaffected, the damage is named, and any holder of the good bytes heals it.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::{LocalStore, Thoroughness};
use super::fleet::*;
use crate::ledger::ArtifactName;
use crate::transport::{FolderTransport, Mending};

/// What happens to an artifact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Harm {
    Missing,
    Empty,
    Truncated,
    Flipped,
    /// The bytes of an older one of its kind.
    Stale,
    /// The good bytes stand under other names as well: one that a file syncer makes, and one of another artifact.
    Duplicated,
    /// It comes after everything else.
    Late,
}

const HARMS: [Harm; 7] =
    [Harm::Missing, Harm::Empty, Harm::Truncated, Harm::Flipped, Harm::Stale, Harm::Duplicated, Harm::Late];

/// Which artifact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    NewestCheckpoint,
    MiddleCheckpoint,
    Records,
    Pack,
}

const VICTIMS: [Victim; 4] = [Victim::NewestCheckpoint, Victim::MiddleCheckpoint, Victim::Records, Victim::Pack];

struct Share(tempfile::TempDir);

impl Share {
    fn visit(&self) -> FolderTransport {
        FolderTransport::open(self.0.path(), "share").expect("a folder")
    }

    fn path(&self, name: &ArtifactName) -> PathBuf {
        self.0.path().join(APP).join(name.to_string())
    }

    fn words(&self) -> usize {
        fs::read_dir(self.0.path().join(APP).join("asked")).map_or(0, Iterator::count)
    }
}

/// Of three full checkpoints, the artifact to harm and an older one of its kind.
fn victim(victim: Victim, a: &Machine, names: &[ArtifactName]) -> (ArtifactName, ArtifactName) {
    match victim {
        Victim::NewestCheckpoint => (names[2].clone(), names[1].clone()),
        Victim::MiddleCheckpoint => (names[1].clone(), names[0].clone()),
        Victim::Records => (a.writer.records_name(b"records two"), a.writer.records_name(b"records one")),
        Victim::Pack => (a.writer.pack_name(b"pack two"), a.writer.pack_name(b"pack one")),
    }
}

fn harm(share: &Share, harm: Harm, name: &ArtifactName, older: &ArtifactName) {
    let path = share.path(name);
    let good = fs::read(&path).expect("it was pushed");
    let put = |path: &Path, bytes: &[u8]| fs::write(path, bytes).expect("written");
    match harm {
        Harm::Missing | Harm::Late => fs::remove_file(&path).expect("removed"),
        Harm::Empty => put(&path, b""),
        Harm::Truncated => put(&path, &good[..good.len() / 2]),
        Harm::Flipped => {
            let mut bytes = good;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            put(&path, &bytes);
        }
        Harm::Stale => put(&path, &fs::read(share.path(older)).expect("it was pushed")),
        Harm::Duplicated => {
            let file = name.file();
            put(&path.with_file_name(file.replacen('.', ".sync-conflict-20260101-000000-ABCDEFG.", 1)), &good);
            // The name of an artifact that nobody wrote.
            put(&path.with_file_name(file.replace(&hash_in(name)[..8], "01234567")), &good);
        }
    }
}

fn hash_in(name: &ArtifactName) -> String {
    let file = name.file();
    let stem = file.split('.').next().unwrap_or_default();
    stem.rsplit('-').next().unwrap_or_default().to_owned()
}

#[test]
fn in_every_cell_of_the_matrix_others_go_on_and_any_holder_heals() {
    for kind in VICTIMS {
        for how in HARMS {
            let cell = format!("{kind:?} {how:?}");
            let share = Share(tempfile::tempdir().expect("a folder"));
            let (mut a, mut b, mut c) = (Machine::new("a-1", 1), Machine::new("b-1", 2), Machine::new("c-1", 3));
            let mut holder = Machine::new("d-1", 4);
            let names: Vec<ArtifactName> = ["one", "two", "three"].map(|text| a.publish_full(text)).into();
            let early = c.publish_full("early");
            // C comes before A: it holds nothing of A's, and so heals nothing.
            for machine in [&mut c, &mut a, &mut holder] {
                machine.meets(&share.visit());
            }
            let (name, older) = victim(kind, &a, &names);
            let good = fs::read(share.path(&name)).expect("it was pushed");

            harm(&share, how, &name, &older);
            let late = c.publish_full("late");
            c.meets(&share.visit());
            let report = b.meets(&share.visit());

            // C published and B reads it; of A everything that does not need the victim.
            assert!(b.store.names().contains(&early) && b.store.names().contains(&late), "{cell}: {report:?}");
            assert!(b.store.names().contains(&names[0]), "{cell}: {report:?}");
            assert!(is_sound(&b.store, false), "{cell}");
            let whole = how == Harm::Duplicated;
            assert_eq!(b.store.names().contains(&name), whole, "{cell}: {report:?}");
            if kind == Victim::NewestCheckpoint {
                assert!(b.store.names().contains(&names[1]), "{cell}: the one before is what it falls back to");
            }
            let wrong = matches!(how, Harm::Empty | Harm::Truncated | Harm::Flipped | Harm::Stale);
            assert_eq!(report.wrong_there.contains(&name), wrong, "{cell}: {report:?}");
            let told = format!("{report:?}").contains(&name.to_string());
            let newest_is_gone = kind == Victim::NewestCheckpoint && !wrong && !whole;
            assert!(told || whole || newest_is_gone || kind == Victim::MiddleCheckpoint, "{cell}: {report:?}");
            // A checkpoint under a number and a hash that nobody wrote is tried, and refused by name.
            let is_checkpoint = matches!(kind, Victim::NewestCheckpoint | Victim::MiddleCheckpoint);
            let forged = whole && is_checkpoint;
            assert_eq!(report.is_complete(), (whole && !forged) || newest_is_gone, "{cell}: {report:?}");
            assert_eq!(share.words() > 0, wrong || forged, "{cell}");

            if how == Harm::Late {
                fs::write(share.path(&name), &good).expect("it arrives");
            } else {
                // Not its writer: anybody who holds the good bytes.
                holder.config.thoroughness = if wrong { Thoroughness::News } else { Thoroughness::Whole };
                let healed = holder.meets(&share.visit());
                assert_eq!(healed.mended.contains(&name), wrong, "{cell}: {healed:?}");
                assert_eq!(fs::read(share.path(&name)).expect("it is back"), good, "{cell}");
            }
            let report = b.meets(&share.visit());
            assert!(a.store.names().is_subset(&b.store.names()), "{cell}: {report:?}");
            assert_eq!(report.is_complete(), !forged, "{cell}: {report:?}");
            assert!(
                !share.visit().asked(APP).expect("listed").expect("a folder's").contains(&format!("{APP}/{name}")),
                "{cell}"
            );
            assert_eq!(b.meets(&share.visit()).pulled.len(), 0, "{cell}: nothing is left to take");
        }
    }
}

#[test]
fn a_word_that_nobody_can_answer_costs_no_second_look_and_moves_nothing() {
    let share = Share(tempfile::tempdir().expect("a folder"));
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let name = a.publish_full("one");
    a.meets(&share.visit());
    // As where something carries the folder: wrong at the one who asks, right here.
    share.visit().ask(&format!("{APP}/{name}")).expect("asked");
    let before = fs::read(share.path(&name)).expect("is there");

    let report = a.meets(&share.visit());
    assert_eq!((report.mended.len(), report.checked.len()), (0, 1), "{report:?}");
    a.config.checked = report.checked;
    let again = a.meets(&share.visit());

    assert!(again.requests.get < report.requests.get, "{again:?}");
    assert_eq!(fs::read(share.path(&name)).expect("is there"), before);
    // Who took it whole, after having asked, takes the word back.
    b.meets(&share.visit());
    assert_eq!(share.words(), 0);
}

#[test]
fn what_is_not_proven_wrong_is_never_replaced() {
    let share = Share(tempfile::tempdir().expect("a folder"));
    let mut a = Machine::new("a-1", 1);
    a.publish_full("one");
    let records = a.writer.records_name(b"records one");
    // The same lines, pressed by another hand.
    let other = zstd::stream::encode_all(&b"records one"[..], 3).expect("compresses");
    let path = share.path(&records);
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(&path, &other).expect("written");
    fs::write(share.0.path().join("larder-store.json"), br#"{"kind":"store","v":1}"#).expect("written");
    assert_ne!(a.store.read(&records).expect("ours"), other);

    let report = a.meets(&share.visit());

    assert!(report.is_complete() && report.mended.is_empty(), "{report:?}");
    assert_eq!(fs::read(&path).expect("is there"), other);
}

#[test]
fn wrong_bytes_that_stood_there_before_a_push_are_replaced_and_kept() {
    let share = Share(tempfile::tempdir().expect("a folder"));
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    a.publish_full("one");
    a.meets(&share.visit());
    a.publish_full("two");
    let pack = a.writer.pack_name(b"pack two");
    fs::write(share.path(&pack), b"half").expect("a copy by hand that was cut off");

    a.meets(&share.visit());
    let found = b.meets(&share.visit());
    assert!(found.wrong_there.contains(&pack), "{found:?}");
    let report = a.meets(&share.visit());

    assert_eq!(report.mended, [pack], "{report:?}");
    assert!(b.meets(&share.visit()).is_complete());
    let kept: Vec<Vec<u8>> = fs::read_dir(share.0.path().join(".larder-tmp"))
        .expect("listed")
        .map(|entry| fs::read(entry.expect("listed").path()).expect("read"))
        .collect();
    assert_eq!(kept, [b"half".to_vec()]);
}
