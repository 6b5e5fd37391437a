//! Laws of who may write: a stranger's chain waits unread, is told with the command, and arrives whole once its owner is let in;
//! who is removed brings nothing new; what members say of others travels.

use larder_adapters::MemoryAdapter;

use super::skew::{folder, machine};
use super::*;
use crate::model::Space;
use crate::node::Verdict;
use crate::sync::Standing;

/// A machine that takes files of members only.
fn careful(host: &'static str, stores: &[&Path]) -> Machine {
    let machine = machine(host, stores);
    trusts_members(&machine);
    machine
}

fn trusts_members(machine: &Machine) {
    let config = std::fs::read_to_string(machine.path("sync-config.json")).expect("reads");
    let config = config.replacen('{', "{ \"trust\": \"members\",", 1);
    std::fs::write(machine.path("sync-config.json"), config).expect("writes");
}

impl Machine {
    fn key(&mut self) -> String {
        self.meets();
        self.node().engine.known_owners().expect("asked").into_iter().next().expect("its own").key
    }

    fn judges(&mut self, verdict: Verdict, who: &str) -> Report {
        self.meets();
        self.node().judge_owner(verdict, who, false).expect("says it")
    }

    fn standing_of(&mut self, key: &str) -> Option<Standing> {
        let known = self.node().engine.known_owners().expect("asked");
        known.into_iter().find(|known| known.key == key).map(|known| known.standing)
    }

    fn told(&mut self) -> Vec<String> {
        self.glance_status().problems.into_iter().map(|problem| problem.what).collect()
    }
}

#[test]
fn a_strangers_chain_waits_unread_and_arrives_after_accept_without_a_new_transfer() {
    let store = folder();
    let mut stranger = machine("stranger", &[store.path()]);
    // Too large to stand in a checkpoint, so that a pack is kept apart as well.
    let noise: String = (0..60_000u32).map(|n| format!("{:x} ", n.wrapping_mul(0x9e37_79b9))).collect();
    stranger.write("large.md", &noise);
    stranger.meets();
    stranger.write("new.md", "new");
    let key = stranger.key();
    let mut reader = careful("reader", &[store.path()]);

    (0..2).for_each(|_| drop(reader.meets()));

    assert_eq!((reader.read("new.md"), reader.read("large.md")), (None, None));
    assert_eq!(reader.node().engine.index.counts().expect("counts").versions, 0);
    assert!(reader.node().engine.index.origins().expect("origins").is_empty());
    assert_eq!(row(&reader.adapter, "new.md"), None);
    assert_eq!(reader.standing_of(&key), Some(Standing::Waiting));
    let told = reader.told();
    assert!(told.iter().any(|what| what.contains(&format!("`larder peers accept {key}`"))), "{told:?}");

    let away = store.path().with_extension("away");
    std::fs::rename(store.path(), &away).expect("goes away");
    reader.judges_without_a_place(&key);
    assert_eq!(reader.read("new.md").as_deref(), Some("new"));
    assert_eq!(reader.read("large.md").as_deref(), Some(&*noise));
    assert_eq!(row(&reader.adapter, "new.md").as_deref(), Some("new"));

    std::fs::rename(&away, store.path()).expect("comes back");
    assert_eq!(reader.meets().pulled, 0);
    let told = reader.told();
    assert!(!told.iter().any(|what| what.contains("accept")), "{told:?}");
    reader.restart();
    std::fs::remove_file(reader.path(".larder/index.db")).expect("the index can be thrown away");
    reader.meets();
    assert_eq!(reader.standing_of(&key), Some(Standing::Accepted));
}

impl Machine {
    fn judges_without_a_place(&mut self, who: &str) {
        self.node().judge_owner(Verdict::Accept, who, false).expect("says it");
    }
}

#[test]
fn what_is_damaged_apart_is_told_holds_up_nobody_and_comes_from_the_store() {
    let store = folder();
    let mut keys = Vec::new();
    for host in ["one", "two"] {
        let mut stranger = machine(host, &[store.path()]);
        stranger.write(&format!("{host}.md"), host);
        keys.push(stranger.key());
    }
    let mut reader = careful("reader", &[store.path()]);
    reader.meets();
    let apart = reader.path(".larder/apart/ledger/shared");
    let chain = std::fs::read_dir(&apart)
        .expect("lists")
        .flatten()
        .find(|chain| chain.file_name().to_string_lossy().starts_with("one"));
    let folder = chain.expect("one stands apart").path().join("checkpoints");
    let file = std::fs::read_dir(folder).expect("lists").flatten().next().expect("a checkpoint").path();
    let whole = std::fs::read(&file).expect("reads");
    // Its owner can still be read, and what follows it is torn.
    let away = store.path().with_extension("away");
    std::fs::rename(store.path(), &away).expect("goes away");
    reader.judges_without_a_place(&keys[1]);
    std::fs::write(&file, &whole[..whole.len() / 2]).expect("writes");
    reader.judges_without_a_place(&keys[0]);
    assert_eq!((reader.read("one.md"), reader.read("two.md").as_deref()), (None, Some("two")));

    std::fs::rename(&away, store.path()).expect("comes back");
    (0..2).for_each(|_| drop(reader.meets()));

    assert_eq!(reader.read("one.md").as_deref(), Some("one"));
    let told = reader.told();
    assert!(told.iter().all(|what| what.contains("matches nothing")), "{told:?}");
    assert_eq!(std::fs::read_dir(&apart).expect("lists").count(), 0, "nothing is left apart");
}

#[test]
fn a_store_is_trusted_at_first_use_unless_the_config_says_members() {
    let (careful_there, free_there) = (folder(), folder());
    let mut stranger = machine("stranger", &[careful_there.path(), free_there.path()]);
    stranger.write("x.md", "x");
    stranger.meets();
    let mut by_default = machine("reader", &[free_there.path()]);
    let mut by_peer = machine("other", &[careful_there.path()]);
    let config = std::fs::read_to_string(by_peer.path("sync-config.json")).expect("reads");
    let place = serde_json::json!(careful_there.path()).to_string();
    let config = config.replacen(&place, &format!("{{ \"url\": {place}, \"trust\": \"members\" }}"), 1);
    std::fs::write(by_peer.path("sync-config.json"), config).expect("writes");

    by_default.meets();
    by_peer.meets();

    assert_eq!((by_default.read("x.md").as_deref(), by_peer.read("x.md")), (Some("x"), None));
}

#[test]
fn of_a_removed_owner_nothing_new_is_taken_and_what_was_taken_in_stays() {
    let store = folder();
    let mut other = machine("other", &[store.path()]);
    other.write("old.md", "old");
    let key = other.key();
    let mut reader = machine("reader", &[store.path()]);
    reader.meets();
    assert_eq!(reader.read("old.md").as_deref(), Some("old"));

    reader.judges(Verdict::Remove, &key);
    other.write("new.md", "new");
    other.write("old.md", "edited");
    other.meets();
    (0..2).for_each(|_| drop(reader.meets()));

    assert_eq!((reader.read("old.md").as_deref(), reader.read("new.md")), (Some("old"), None));
    assert_eq!(reader.standing_of(&key), Some(Standing::Removed));
    let told = reader.told();
    assert!(told.iter().any(|what| what.contains("was removed") && what.contains(&key)), "{told:?}");
    // The other one learns it, and is none the poorer.
    other.meets();
    assert_eq!(other.read("new.md").as_deref(), Some("new"));

    reader.judges(Verdict::Accept, &key);
    reader.meets();
    assert_eq!((reader.read("old.md").as_deref(), reader.read("new.md").as_deref()), (Some("edited"), Some("new")));
}

#[test]
fn whom_an_accepted_member_lets_in_is_let_in_everywhere_in_whichever_order_lists_meet() {
    for a_first in [true, false] {
        let (store, of_c, of_d) = (folder(), folder(), folder());
        let mut c = machine("c", &[of_c.path()]);
        c.write("c.md", "c");
        let mut d = machine("d", &[of_d.path()]);
        d.write("d.md", "d");
        let (c_key, d_key) = (c.key(), d.key());
        let mut a = careful("a", &[store.path(), of_c.path()]);
        let mut b = careful("b", &[store.path(), of_d.path()]);
        a.write("a.md", "a");
        b.write("b.md", "b");
        let (a_key, b_key) = (a.key(), b.key());
        a.judges(Verdict::Accept, &c_key);
        b.judges(Verdict::Accept, &d_key);
        assert_eq!((b.read("c.md"), a.read("d.md")), (None, None), "neither knows the other");

        if a_first {
            a.judges(Verdict::Accept, &b_key);
            b.judges(Verdict::Accept, &a_key);
        } else {
            b.judges(Verdict::Accept, &a_key);
            a.judges(Verdict::Accept, &b_key);
        }
        for _ in 0..3 {
            a.meets();
            b.meets();
        }

        for machine in [&mut a, &mut b] {
            for key in [&c_key, &d_key] {
                assert_eq!(machine.standing_of(key), Some(Standing::Accepted));
            }
            for file in ["a", "b", "c", "d"] {
                assert_eq!(machine.read(&format!("{file}.md")).as_deref(), Some(file));
            }
        }
    }
}

#[test]
fn a_removal_wins_over_a_concurrent_admission_on_every_machine() {
    let (store, elsewhere) = (folder(), folder());
    let mut c = machine("c", &[elsewhere.path()]);
    c.write("c.md", "c");
    let c_key = c.key();
    let mut a = machine("a", &[store.path()]);
    let mut b = machine("b", &[store.path()]);
    for machine in [&mut a, &mut b] {
        machine.write("own.txt", "own");
    }
    for _ in 0..2 {
        a.meets();
        b.meets();
    }
    let owner = crate::sync::exchange::Owner {
        key: crate::ledger::PublicKey::from_bytes(*c_key.parse::<crate::model::Hash>().expect("a key").as_bytes()),
        name: "c".to_owned(),
    };

    // Neither knows what the other says: both say it before they meet again.
    a.node().engine.say_of_owner(&owner, true).expect("says it");
    b.node().engine.say_of_owner(&owner, false).expect("says it");
    for _ in 0..3 {
        a.meets();
        b.meets();
    }

    for machine in [&mut a, &mut b] {
        assert_eq!(machine.standing_of(&c_key), Some(Standing::Removed));
    }
    a.judges(Verdict::Accept, &c_key);
    b.meets();
    // Whoever knows of a removal may take it back, but not for the one who said it.
    assert_eq!((a.standing_of(&c_key), b.standing_of(&c_key)), (Some(Standing::Accepted), Some(Standing::Removed)));
}

#[test]
fn rows_are_nobodys_edits_while_a_chain_in_the_backend_waits() {
    let memory = Arc::new(MemoryAdapter::new());
    let backend: Arc<dyn FileSyncAdapter> = memory.clone();
    let mut reader = Machine::new("reader", &backend);
    trusts_members(&reader);
    reader.write("own.md", "own");
    reader.run();
    let mut stranger = Machine::new("stranger", &backend);
    stranger.write("x.md", "x");
    (0..2).for_each(|_| drop(stranger.run()));
    let key = stranger.node().engine.known_owners().expect("asked")[0].key.clone();
    memory.foreign_set(&RecordId::new("demo", "shared", "x.md"), "edited by a program");
    memory.foreign_set(&RecordId::new("demo", "shared", "own.md"), "edited too");

    let report = reader.run();

    assert_eq!((reader.read("x.md"), reader.read("own.md").as_deref()), (None, Some("own")));
    assert!(report.waiting.iter().any(|(_, why)| why.contains("larder peers accept")), "{report:?}");
    assert_eq!(reader.node().engine.index.slots(&Space::shared(), None, 10).expect("slots").len(), 1);

    reader.node().judge_owner(Verdict::Accept, &key, false).expect("says it");
    converge(&mut [&mut reader, &mut stranger]);
    for machine in [&reader, &stranger] {
        assert_eq!(machine.read("x.md").as_deref(), Some("edited by a program"));
        assert_eq!(machine.read("own.md").as_deref(), Some("edited too"));
    }
}

#[test]
fn a_name_that_means_several_owners_or_nobody_is_refused_with_what_to_do() {
    let store = folder();
    let mut reader = careful("reader", &[store.path()]);
    reader.write("own.md", "own");
    let mut keys = Vec::new();
    for host in ["one", "two"] {
        let mut stranger = machine(host, &[store.path()]);
        stranger.write(&format!("{host}.md"), host);
        keys.push(stranger.key());
    }
    reader.meets();
    let mut refusal = |who: &str| reader.node().judge_owner(Verdict::Accept, who, false).expect_err("is refused");

    assert!(refusal("nobody").message.contains("nobody"));
    let several = refusal("shared").message;
    assert!(keys.iter().all(|key| several.contains(key)), "{several}");

    assert!(reader.judges(Verdict::Accept, &keys[0][..8]).members[0].contains(&keys[0]));
    assert_eq!((reader.read("one.md").as_deref(), reader.read("two.md")), (Some("one"), None));
}
