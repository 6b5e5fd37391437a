//! Laws of who may write.

use proptest::prelude::*;

use super::*;

fn key(n: u8) -> PublicKey {
    PublicKey::from_bytes([n; 32])
}

fn word(n: u8, by: u8, about: u8, admits: bool, prev: &[&Word]) -> Word {
    let said = Membership { key: Hash::from_bytes([about; 32]), owner: format!("owner {about}"), admits };
    Word { hash: Hash::from_bytes([n; 32]), by: key(by), said, prev: prev.iter().map(|word| word.hash).collect() }
}

fn members(own: u8, present: &[u8], words: &[&Word]) -> Members {
    let words: Vec<Word> = words.iter().map(|word| (*word).clone()).collect();
    Members::of(key(own), &present.iter().map(|n| key(*n)).collect(), &words)
}

fn accepted(members: &Members) -> Vec<u8> {
    members.accepted.iter().map(|key| key.as_bytes()[0]).collect()
}

#[test]
fn when_two_lists_meet_their_union_is_accepted_in_either_order() {
    let (a_admits_c, b_admits_d) = (word(1, 1, 3, true, &[]), word(2, 2, 4, true, &[]));

    for own in [1, 2] {
        for words in [[&a_admits_c, &b_admits_d], [&b_admits_d, &a_admits_c]] {
            assert_eq!(accepted(&members(own, &[1, 2], &words)), [1, 2, 3, 4]);
        }
    }
}

#[test]
fn a_removal_wins_over_a_concurrent_admission_and_loses_to_one_that_knew_of_it() {
    let (admits, removes) = (word(1, 1, 3, true, &[]), word(2, 2, 3, false, &[]));
    let knowing = word(3, 1, 3, true, &[&removes]);

    for own in [1, 2, 4] {
        assert_eq!(members(own, &[1, 2], &[&admits, &removes]).removed, [key(3)].into());
        assert_eq!(members(own, &[1, 2], &[&removes, &admits]).removed, [key(3)].into());
    }
    assert_eq!(accepted(&members(4, &[1, 2], &[&admits, &knowing, &removes])), [1, 2, 3, 4]);
}

#[test]
fn what_the_own_owner_removed_only_that_owner_lets_in_again() {
    let removes = word(1, 1, 3, false, &[]);
    let by_another = word(2, 2, 3, true, &[&removes]);
    let by_own = word(3, 1, 3, true, &[&removes, &by_another]);

    assert_eq!(accepted(&members(1, &[1, 2, 3], &[&removes, &by_another])), [1, 2]);
    assert_eq!(accepted(&members(1, &[1, 2, 3], &[&removes, &by_another, &by_own])), [1, 2, 3]);
    // Elsewhere both are members like any other.
    assert_eq!(accepted(&members(4, &[1, 2, 3], &[&removes, &by_another])), [1, 2, 3, 4]);
}

#[test]
fn who_was_removed_by_the_own_owner_removes_nobody_and_lets_nobody_off() {
    let removed = word(1, 1, 2, false, &[]);
    let revenge = [word(2, 2, 1, false, &[]), word(3, 2, 3, false, &[]), word(4, 2, 2, true, &[&removed])];
    let mut words: Vec<&Word> = revenge.iter().collect();
    words.push(&removed);

    let members = members(1, &[1, 2, 3], &words);

    assert_eq!((accepted(&members), members.removed), (vec![1, 3], [key(2)].into()));
}

#[test]
fn nobody_removes_or_admits_himself_or_the_machines_own_owner() {
    let about_own = word(1, 2, 1, false, &[]);
    let about_himself = word(2, 5, 5, true, &[]);
    let removal = word(3, 3, 2, false, &[]);
    let himself_again = word(4, 2, 2, true, &[&removal]);

    assert_eq!(accepted(&members(1, &[2, 3], &[&about_own, &about_himself, &removal, &himself_again])), [1, 3]);
}

#[test]
fn an_event_supersedes_what_nothing_superseded_before() {
    let (first, other) = (word(1, 1, 3, true, &[]), word(2, 2, 4, true, &[]));
    let second = word(3, 2, 3, false, &[&first]);
    let words = [first.clone(), other.clone(), second.clone()];

    assert_eq!(heads_about(key(3), &words), [second.hash]);
    assert_eq!(heads_about(key(4), &words), [other.hash]);
    assert_eq!(heads_about(key(5), &words), []);
}

proptest! {
    #[test]
    fn any_order_and_repetition_of_the_events_gives_the_same_members(
        said in proptest::collection::vec((1u8..6, 1u8..6, any::<bool>(), any::<u16>()), 0..12), order: u64,
    ) {
        let mut words: Vec<Word> = Vec::new();
        for (n, (by, about, admits, knows)) in said.into_iter().enumerate() {
            let prev: Vec<&Word> = words.iter().enumerate().filter(|(i, _)| knows >> i & 1 == 1).map(|(_, word)| word).collect();
            words.push(word(100 + n as u8, by, about, admits, &prev));
        }
        let present: BTreeSet<PublicKey> = [key(2), key(3)].into();
        let straight = Members::of(key(1), &present, &words);

        let mut shuffled = words.clone();
        shuffled.extend(words.iter().take(3).cloned());
        shuffled.sort_by_key(|word| order.rotate_left(u32::from(word.hash.as_bytes()[0]) * 7) ^ u64::from(word.hash.as_bytes()[0]));

        prop_assert_eq!(&Members::of(key(1), &present, &shuffled), &straight);
        prop_assert!(straight.accepted.contains(&key(1)) && straight.accepted.is_disjoint(&straight.removed));
    }
}
