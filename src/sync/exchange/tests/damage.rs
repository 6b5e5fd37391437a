//! Missing and damaged artifacts hold up only what needs them, and any holder of the good bytes heals them.

use super::super::{Finding, LocalStore, Need, Problem, Thoroughness};
use super::fleet::*;
use crate::ledger::ArtifactKind;

#[test]
fn metadata_comes_before_bulk_and_a_checkpoint_after_its_records() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (_, spot) = place("spot");
    a.publish_full("one");
    a.publish_full("two");

    let (pushed, pulled) = (a.meets(&spot).pushed, b.meets(&spot).pulled);

    use ArtifactKind::{Checkpoint, Pack, Records};
    assert_eq!(kinds(&pushed), [Pack, Records, Checkpoint, Pack, Records, Checkpoint]);
    assert_eq!(kinds(&pulled), [Records, Checkpoint, Records, Checkpoint, Pack, Pack]);
}

#[test]
fn a_missing_pack_is_a_phantom_that_is_asked_for_each_time_and_heals_from_any_holder() {
    let (mut a, mut b, mut c) = (Machine::new("a-1", 1), Machine::new("b-1", 2), Machine::new("c-1", 3));
    let ((store, spot), (_, other)) = (place("spot"), place("other"));
    a.publish_full("one");
    a.publish_full("two");
    a.meets(&spot);
    a.meets(&other);
    let pack = a.writer.pack_name(b"pack one");
    store.damage(&pack, None);

    let first = b.meets(&spot);
    assert_eq!(first.imported().count(), 2);
    assert_eq!(first.phantoms.iter().collect::<Vec<_>>(), [&pack]);
    let again = b.meets(&spot);
    assert_eq!((again.requests.list, again.requests.get), (2, 1));
    assert_eq!(again.phantoms.len(), 1);

    assert_eq!(b.meets(&other).pulled, std::slice::from_ref(&pack));
    assert_eq!(b.meets(&spot).pushed, std::slice::from_ref(&pack));
    assert!(c.meets(&spot).is_complete());
    assert_eq!(c.store.bytes(), a.store.bytes());
}

#[test]
fn a_holder_heals_a_store_that_somebody_else_filled_with_a_hole() {
    let (mut a, mut b, mut c) = (Machine::new("a-1", 1), Machine::new("b-1", 2), Machine::new("c-1", 3));
    let ((_, first), (shared, second)) = (place("first"), place("second"));
    a.publish(&Load::default());
    a.meets(&first);
    a.meets(&second);
    b.meets(&second);
    c.meets(&second);
    a.publish_full("late");
    a.meets(&first);
    c.meets(&first);
    let pack = a.writer.pack_name(b"pack late");
    // B has the checkpoint and not the pack, and is the first to give it to the second place.
    b.meets(&first);
    b.store.damage(&pack, None);
    b.meets(&second);
    assert!(!shared.names().contains(&pack));

    let report = c.meets(&second);

    assert_eq!(report.pushed, [pack]);
}

#[test]
fn a_damaged_newest_checkpoint_falls_back_to_the_one_before() {
    for bytes in [&b""[..], b"junk", b"{}"] {
        let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
        let (store, spot) = place("spot");
        a.publish_full("one");
        let newest = a.publish_full("two");
        a.meets(&spot);
        store.damage(&newest, Some(bytes));

        let report = b.meets(&spot);

        assert_eq!(report.imported().count(), 1);
        assert!(matches!(&report.problems[..], [Problem::Refused { name, .. }] if *name == newest));
        assert!(!b.store.names().contains(&newest));
        let (_, good) = place("good");
        a.meets(&good);
        assert_eq!(b.meets(&good).imported().collect::<Vec<_>>(), [&newest]);
    }
}

#[test]
fn each_kind_of_damage_to_each_kind_of_artifact_is_named_and_stops_nothing_else() {
    for kind in [ArtifactKind::Checkpoint, ArtifactKind::Records, ArtifactKind::Pack] {
        for harm in ["missing", "truncated", "flipped", "swapped"] {
            let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
            let mut other = Machine::new("o-1", 9);
            let (store, spot) = place("spot");
            for n in 0..3 {
                a.publish_full(&n.to_string());
            }
            other.publish_full("other");
            other.meets(&spot);
            a.meets(&spot);
            let of_kind: Vec<_> = a.store.names().into_iter().filter(|name| name.kind() == kind).collect();
            let (victim, twin) = (&of_kind[1], &of_kind[0]);
            let good = a.store.bytes().0[victim].to_vec();
            let bad = match harm {
                "missing" => None,
                "truncated" => Some(good[..good.len() / 2].to_vec()),
                "flipped" => {
                    Some(good.iter().enumerate().map(|(n, b)| if n == good.len() / 2 { b ^ 1 } else { *b }).collect())
                }
                _ => Some(a.store.bytes().0[twin].to_vec()),
            };
            store.damage(victim, bad.as_deref());

            let report = b.meets(&spot);

            let context = format!("{kind:?} {harm}: {report:?}");
            assert!(!b.store.names().contains(victim), "{context}");
            assert!(is_sound(&b.store, false), "{context}");
            assert!(other.store.names().is_subset(&b.store.names()), "{context}");
            assert!(!report.is_complete(), "{context}");
            let named = format!("{report:?}").contains(&victim.to_string());
            assert!(named || harm == "missing", "{context}");
            let (_, healer) = place("healer");
            a.meets(&healer);
            b.meets(&healer);
            assert!(a.store.names().is_subset(&b.store.names()), "{context}");
        }
    }
}

#[test]
fn a_checkpoint_waits_for_its_records_and_what_follows_waits_with_it() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (store, spot) = place("spot");
    a.publish_full("one");
    let second = a.publish_full("two");
    a.publish_full("three");
    a.meets(&spot);
    let records = a.writer.records_name(b"records two");
    store.damage(&records, None);

    let report = b.meets(&spot);

    assert_eq!(report.imported().count(), 1);
    assert_eq!(report.waiting.len(), 1);
    assert_eq!(report.waiting[0].name, second);
    assert_eq!(report.waiting[0].need, Need::Records { name: records.clone() });
    a.config.thoroughness = Thoroughness::Whole;
    assert_eq!(a.meets(&spot).pushed, [records]);
    assert_eq!(b.meets(&spot).imported().count(), 2);
}

#[test]
fn our_own_damaged_copy_is_never_offered_and_is_healed_when_asked_for() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let ((_, spot), (bad, fresh)) = (place("spot"), place("fresh"));
    a.publish_full("one");
    a.meets(&spot);
    b.meets(&spot);
    let pack = a.writer.pack_name(b"pack one");
    b.store.damage(&pack, Some(b"rotten"));

    b.meets(&fresh);
    assert!(!bad.names().contains(&pack));

    b.config.wanted = vec![pack.clone()];
    assert_eq!(b.meets(&spot).pulled, std::slice::from_ref(&pack));
    b.meets(&fresh);
    assert_eq!(bad.bytes(), a.store.bytes());
}

#[test]
fn a_reader_may_begin_at_a_snapshot_when_what_is_below_is_gone() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (store, spot) = place("spot");
    let early = [a.publish_full("one"), a.publish_full("two")];
    let merged = (vec![b"records one and two".to_vec()], vec![b"pack one and two".to_vec()]);
    let snapshot = a.publish(&Load { snapshot: Some(merged), ..Load::default() });
    let after = a.publish(&Load { hlc: 5, ..Load::default() });
    a.meets(&spot);
    early.iter().for_each(|name| store.damage(name, None));

    let report = b.meets(&spot);

    assert_eq!(report.imported().collect::<Vec<_>>(), [&snapshot, &after]);
    assert!(b.store.names().contains(&a.writer.records_name(b"records one and two")));
    assert!(b.store.names().contains(&a.writer.pack_name(b"pack one and two")));
    assert!(report.waiting.is_empty() && report.problems.is_empty(), "{report:?}");
    let quiet = b.meets(&spot).requests;
    assert_eq!((quiet.list, quiet.get), (2, 0));
}

#[test]
fn a_lost_checkpoint_of_our_own_is_taken_back_and_is_no_second_writer() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (_, spot) = place("spot");
    let names: Vec<_> = ["one", "two", "three", "four"].map(|text| a.publish_full(text)).into();
    a.meets(&spot);
    b.meets(&spot);
    let whole = a.store.bytes();

    for lost in [&names[1..2], &names[0..2], &names[0..3]] {
        lost.iter().for_each(|name| a.store.damage(name, None));
        a.config.thoroughness = Thoroughness::Whole;
        let report = a.meets(&spot);

        assert!(report.findings.is_empty(), "{lost:?}: {report:?}");
        assert_eq!(a.store.bytes(), whole);
    }
}

#[test]
fn a_wanted_checkpoint_brings_the_lost_ones_before_it() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (_, spot) = place("spot");
    let names: Vec<_> = ["one", "two", "three"].map(|text| a.publish_full(text)).into();
    a.meets(&spot);
    b.meets(&spot);
    names.iter().for_each(|name| b.store.damage(name, None));

    b.config.wanted = vec![names[2].clone()];
    let report = b.meets(&spot);

    assert_eq!(report.pulled, [names[2].clone(), names[1].clone(), names[0].clone()]);
    assert!(report.is_complete(), "{report:?}");
}

#[test]
fn what_is_wanted_is_held_to_the_accepted_key_and_the_name() {
    let (mut a, mut b, mut thief) = (Machine::new("a-1", 1), Machine::new("b-1", 2), Machine::new("a-1", 7));
    let ((_, spot), (bad, trap)) = (place("spot"), place("trap"));
    let real = a.publish_full("one");
    let forged = thief.publish_full("one");
    a.meets(&spot);
    b.meets(&spot);
    thief.meets(&trap);
    bad.0.damage(&format!("{APP}/{real}"), Some(&thief.store.read(&forged).expect("there")));
    b.store.damage(&real, None);

    b.config.wanted = vec![real.clone(), forged.clone()];
    let report = b.meets(&trap);

    assert!(!b.store.names().contains(&real) && !b.store.names().contains(&forged), "{report:?}");
    assert!(report.phantoms.contains(&real), "{report:?}");
    assert!(report.findings.iter().any(|finding| matches!(finding, Finding::KeyChanged { .. })), "{report:?}");
    b.meets(&spot);
    assert!(b.store.names().contains(&real));
}

#[test]
fn an_exchange_that_meets_our_own_damage_names_it() {
    let mut a = Machine::new("a-1", 1);
    let (_, spot) = place("spot");
    a.publish_full("one");
    let pack = a.writer.pack_name(b"pack one");
    a.store.damage(&pack, Some(b"rotten"));

    let report = a.meets(&spot);

    assert_eq!(report.damaged.iter().collect::<Vec<_>>(), [&pack]);
}
