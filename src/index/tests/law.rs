//! Law 3 and law 12, on random histories.

use proptest::prelude::*;

use super::fleet::{Fleet, Step};
use super::model::Model;
use super::{apply_split, dump, fresh};
use crate::index::{Index, Item};
use crate::model::{Space, VersionId};

fn step() -> impl Strategy<Value = Step> {
    let edit = (0usize..4, 0usize..6, 0usize..5, any::<bool>(), any::<bool>()).prop_map(
        |(writer, path, content, all_heads, bytes_come)| Step::Edit { writer, path, content, all_heads, bytes_come },
    );
    prop_oneof![
        8 => edit,
        1 => (0usize..4, 0usize..6, 0usize..5).prop_map(|(writer, path, content)| Step::Archive { writer, path, content }),
        2 => (0usize..4, 0usize..6).prop_map(|(writer, path)| Step::Delete { writer, path }),
        2 => (0usize..4, 0usize..6, 0usize..6).prop_map(|(writer, from, to)| Step::Move { writer, from, to }),
        4 => (0usize..4, 0usize..4).prop_map(|(to, from)| Step::Exchange { to, from }),
    ]
}

/// Steps; the third writer is cloned at some of them.
pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let clone = prop_oneof![2 => Just(false), 1 => Just(true)];
    (proptest::collection::vec(step(), 1..40), clone, 0usize..20).prop_map(|(mut steps, clone, at)| {
        if clone {
            steps.insert(at.min(steps.len()), Step::Clone);
        }
        steps
    })
}

/// The items in another order, some twice, and the sizes of the transactions.
fn disorder(items: &[Item], seed: u64) -> (Vec<Item>, Vec<usize>) {
    let mut state = seed | 1;
    let mut random = |below: usize| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as usize % below.max(1)
    };
    let mut order: Vec<Item> = items.to_vec();
    for item in items {
        if random(4) == 0 {
            order.push(item.clone());
        }
    }
    for i in (1..order.len()).rev() {
        order.swap(i, random(i + 1));
    }
    let sizes = (0..random(6)).map(|_| random(8)).collect();
    (order, sizes)
}

pub(super) fn check_model(index: &Index, model: &Model) {
    let space = Space::shared();
    let slots = index.slots(&space, None, usize::MAX).expect("slots");
    assert_eq!(slots.iter().cloned().collect::<std::collections::BTreeSet<_>>(), model.slots());
    for slot in &slots {
        let heads = index.heads(slot).expect("heads");
        let ids: Vec<VersionId> = heads.iter().map(|head| head.id).collect();
        assert_eq!(
            ids.iter().copied().collect::<std::collections::BTreeSet<_>>(),
            model.heads(slot),
            "heads of {slot:?}"
        );
        let common = index.common_ancestor(&ids).expect("common").map(|stored| stored.id);
        assert_eq!(common, model.common_ancestor(slot, &ids), "common ancestor in {slot:?}");
        let history = index.history(slot, usize::MAX).expect("history");
        for (i, newer) in history.iter().enumerate() {
            assert_eq!(Some(&newer.version), model.versions.get(&newer.id));
            for older in &history[i + 1..] {
                assert!(!model.is_ancestor(&newer.id, &older.id), "an ancestor stands before its descendant");
                let told = index.descends_from(&newer.id, &older.id).expect("lineage");
                assert_eq!(told, model.is_ancestor(&older.id, &newer.id));
            }
        }
    }
    let live = slots.iter().filter(|slot| model.heads(slot).iter().any(|id| model.versions[id].content().is_some()));
    let counts = index.counts().expect("counts");
    assert_eq!(counts.live_files, live.count() as u64);
    assert_eq!((counts.versions, counts.slots), (model.versions.len() as u64, slots.len() as u64));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_checkpoints_gives_the_same_answers(steps in steps(), seed: u64) {
        let fleet = Fleet::run(&steps);
        let model = Model::new(&Space::shared(), fleet.all.clone());
        let (_folder, mut straight) = fresh();
        let (_other, mut shuffled) = fresh();

        apply_split(&mut straight, &fleet.items, &[]);
        let (items, sizes) = disorder(&fleet.items, seed);
        apply_split(&mut shuffled, &items, &sizes);

        check_model(&straight, &model);
        check_model(&shuffled, &model);
        prop_assert_eq!(dump(&straight, &fleet.chains()), dump(&shuffled, &fleet.chains()));
        shuffled.verify().expect("a sound file");
    }

    #[test]
    fn half_the_checkpoints_wait_and_then_agree(steps in steps(), keep: u64) {
        let fleet = Fleet::run(&steps);
        let kept: Vec<Item> = fleet.items.iter().enumerate().filter(|(i, _)| keep >> (i % 64) & 1 == 1).map(|(_, item)| item.clone()).collect();
        let (_folder, mut index) = fresh();

        index.apply(&kept).expect("applied");
        let some = kept.iter().flat_map(|item| &item.records).filter_map(|record| match record {
            crate::model::Record::Version(id, version) => Some((*id, (**version).clone())),
            _ => None,
        });
        check_model(&index, &Model::new(&Space::shared(), some.collect()));
        index.apply(&fleet.items).expect("applied");

        check_model(&index, &Model::new(&Space::shared(), fleet.all.clone()));
        prop_assert_eq!(index.counts().expect("counts").waiting, waiting_for_ever(&fleet));
    }
}

/// Versions that descend from one that was left out.
fn waiting_for_ever(fleet: &Fleet) -> u64 {
    let model = Model::new(&Space::shared(), fleet.all.clone());
    let left = fleet.all.iter().filter(|(id, _)| !model.versions.contains_key(id));
    left.filter(|(_, v)| v.parents.iter().any(|p| !model.versions.contains_key(p))).count() as u64
}
