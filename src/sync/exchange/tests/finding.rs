//! Two writers behind one chain, restored backups, changed keys: found, named, and nothing thrown away.

use super::super::{Finding, Need, Problem, Trust};
use super::fleet::*;
use crate::ledger::ArtifactName;

/// Publishes and returns a machine as it was before: a backup, or a clone.
fn copy_of(machine: &Machine) -> Machine {
    let mut copy = Machine::new("x-1", 99);
    for (name, bytes) in machine.store.bytes().0 {
        copy.store.damage(&name, Some(&bytes));
    }
    copy.writer = machine.writer.clone();
    copy.config = machine.config.clone();
    copy.journal = machine.journal.clone();
    copy
}

#[test]
fn a_restored_backup_finds_its_own_chain_ahead_and_must_not_publish() {
    let mut a = Machine::new("a-1", 1);
    let (store, spot) = place("spot");
    a.publish_full("one");
    a.meets(&spot);
    let mut restored = copy_of(&a);
    let next = a.publish_full("two");
    a.publish_full("three");
    a.meets(&spot);
    let there = store.bytes();

    let report = restored.meets(&spot);

    let expected = Finding::OwnChainAhead { chain: a.writer.chain.clone(), here: 1, there: next };
    assert_eq!(report.findings, [expected]);
    assert!(report.stops_publishing());
    assert!(report.pulled.is_empty() && report.pushed.is_empty());
    assert_eq!(store.bytes(), there);
}

#[test]
fn a_backup_whose_ledger_is_older_than_its_journal_is_found_too() {
    let mut a = Machine::new("a-1", 1);
    let (_, spot) = place("spot");
    a.publish_full("one");
    let mut restored = copy_of(&a);
    (0..4).for_each(|n| drop(a.publish_full(&n.to_string())));
    a.meets(&spot);
    restored.journal = a.journal.clone();

    let report = restored.meets(&spot);

    assert!(matches!(report.findings[..], [Finding::OwnChainAhead { here: 1, .. }]), "{report:?}");
}

#[test]
fn a_cloned_disk_that_published_is_a_fork_of_our_own_chain() {
    let mut a = Machine::new("a-1", 1);
    let (store, spot) = place("spot");
    a.publish_full("one");
    a.meets(&spot);
    let mut clone = copy_of(&a);
    let ours = clone.publish_full("mine");
    let theirs = a.publish_full("theirs");
    a.meets(&spot);
    let there = store.bytes();

    let report = clone.meets(&spot);

    let chain = a.writer.chain.clone();
    assert_eq!(report.findings, [Finding::OwnChainForked { chain, here: Some(ours), there: theirs }]);
    assert!(report.stops_publishing());
    assert_eq!(store.bytes(), there);
}

#[test]
fn a_machine_that_lost_everything_finds_its_chain_instead_of_starting_it_again() {
    let mut a = Machine::new("a-1", 1);
    let (_, spot) = place("spot");
    a.publish_full("one");
    a.meets(&spot);
    let mut anew = Machine::new("a-1", 1);

    let report = anew.meets(&spot);

    assert!(matches!(report.findings[..], [Finding::OwnChainAhead { here: 0, .. }]), "{report:?}");
}

#[test]
fn junk_under_our_own_names_does_not_stop_us() {
    let mut a = Machine::new("a-1", 1);
    let (store, spot) = place("spot");
    a.publish_full("one");
    let mut forger = Writer::new("a-1", 66);
    forger.next(&Load::default());
    let (forged, bytes) = forger.next(&Load::default()).remove(0);
    store.damage(&forged, Some(&bytes));
    let fake = ArtifactName::Checkpoint {
        chain: a.writer.chain.clone(),
        seq: 9,
        hash: "0123456789abcdef".parse().expect("hex"),
    };
    store.damage(&fake, Some(b"junk"));
    use super::super::Journal;
    let key = a.writer.public_key();
    a.journal.pin_key(&a.writer.chain.clone(), key).expect("memory");

    let report = a.meets(&spot);

    assert!(!report.stops_publishing(), "{report:?}");
    assert_eq!(report.problems.len(), 2);
    assert_eq!(report.pushed.len(), 3);
}

#[test]
fn a_third_partys_fork_is_kept_on_both_branches_everywhere_and_reported_at_each_exchange() {
    let mut a = Machine::new("a-1", 1);
    let ((north, to_north), (_, to_south)) = (place("north"), place("south"));
    a.publish_full("one");
    let mut clone = copy_of(&a);
    let ours = a.publish_full("ours");
    a.publish_full("ours again");
    let theirs = clone.publish_full("theirs");
    a.meets(&to_north);
    clone.meets(&to_south);
    let mut b = Machine::new("b-1", 2);

    b.meets(&to_north);
    let report = b.meets(&to_south);
    b.meets(&to_north);

    let mut names = vec![ours, theirs.clone()];
    names.sort();
    let fork = Finding::Forked { chain: a.writer.chain.clone(), seq: 2, names };
    assert_eq!(report.findings, std::slice::from_ref(&fork));
    assert!(!report.stops_publishing());
    assert!(north.names().contains(&theirs));
    let mut c = Machine::new("c-1", 3);
    assert_eq!(c.meets(&to_north).findings, std::slice::from_ref(&fork));
    assert_eq!(c.store.bytes(), b.store.bytes());
    assert_eq!(c.meets(&to_north).findings, [fork]);
    // The writer himself, whose watermark is above the fork, learns of it when he looks at everything.
    a.config.thoroughness = super::super::Thoroughness::Whole;
    assert!(a.meets(&to_north).stops_publishing());
}

#[test]
fn a_changed_key_is_refused_and_named_and_the_honest_chain_goes_on() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (store, spot) = place("spot");
    a.publish_full("one");
    a.meets(&spot);
    b.meets(&spot);
    let mut forger = Writer::new("a-1", 66);
    let forged: Vec<_> = (0..2).map(|_| forger.next(&Load::default()).remove(0)).collect();
    forged.iter().for_each(|(name, bytes)| store.damage(name, Some(bytes)));
    let honest = a.publish_full("two");
    for (name, bytes) in a.store.bytes().0 {
        store.damage(&name, Some(&bytes));
    }

    let report = b.meets(&spot);

    let refused: Vec<_> = report
        .findings
        .iter()
        .filter_map(|finding| match finding {
            Finding::KeyChanged { name, .. } => Some(name),
            _ => None,
        })
        .collect();
    assert_eq!(refused, forged.iter().map(|(name, _)| name).collect::<Vec<_>>());
    assert!(b.store.names().contains(&honest));
    assert_eq!(b.store.names(), a.store.names());
}

#[test]
fn a_chain_of_an_unknown_owner_waits_until_the_owner_is_accepted() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (_, spot) = place("spot");
    a.publish_full("one");
    a.publish_full("two");
    a.meets(&spot);
    b.config.trust = Trust::Members;

    let report = b.meets(&spot);
    assert!(report.pulled.is_empty());
    assert!(matches!(report.waiting[..], [ref w] if matches!(w.need, Need::Owner(_))), "{report:?}");

    let Need::Owner(owner) = &report.waiting[0].need else { panic!("{report:?}") };
    b.config.members.accepted.insert(owner.key);
    assert_eq!(b.meets(&spot).imported().count(), 2);
}

#[test]
fn a_checkpoint_of_another_app_or_out_of_count_is_refused() {
    let mut b = Machine::new("b-1", 2);
    let (store, spot) = place("spot");
    let mut stranger = Writer::new("s-1", 7);
    stranger.app = "other".to_owned();
    let (name, bytes) = stranger.next(&Load::default()).remove(0);
    store.damage(&name, Some(&bytes));

    let report = b.meets(&spot);

    assert!(matches!(&report.problems[..], [Problem::Refused { why, .. }] if why.contains("app")));
    assert!(report.pulled.is_empty());
}
