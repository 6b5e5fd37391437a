//! `kill -9` between any two operations leaves a ledger that reads clean and carries on.

use super::fixture::*;
use crate::ledger::*;

/// Lets the machine die at every operation of `act` in turn, and looks at what is left each time.
fn die_everywhere(prepare: impl Fn(&mut House), act: impl Fn(&mut House) -> Result<Tip, LedgerError>) {
    let mut limit = 0;
    loop {
        let mut house = House::new(31);
        prepare(&mut house);
        let old = house.tip;
        house.ledger.disk().crash.after(limit);
        let result = act(&mut house);
        if result.is_ok() {
            assert!(limit >= house.ledger.disk().crash.steps(), "the machine was to die at step {limit}");
            assert!(limit >= 5, "only {limit} operations");
            return;
        }
        house.ledger = Ledger::open(&house.larder()).expect("a ledger after the crash");
        assert_eq!(house.findings(Depth::Bytes), Vec::<String>::new(), "died at step {limit}");
        let tip = house.checkpoints().last().map(Checkpoint::tip);
        let (old_seq, seq) = (old.map_or(0, |tip| tip.seq), tip.map_or(0, |tip| tip.seq));
        assert!(seq == old_seq || seq == old_seq + 1, "died at step {limit}");
        house.ledger.clean_staging().expect("cleaned");
        house.tip = tip;
        house.publish(&[("after", b"the crash".to_vec())]);
        let retried = act(&mut house).expect("the same again, unharmed");
        assert_eq!(retried.seq, seq + 2);
        assert_eq!(house.findings(Depth::Bytes), Vec::<String>::new(), "retried after step {limit}");
        assert_eq!(house.ledger.clean_staging().expect("cleaned"), 0);
        limit += 1;
    }
}

#[test]
fn a_small_batch_dies_anywhere() {
    let files = [("a", prose(1, 500)), ("b", prose(2, 500))];

    die_everywhere(|_| (), |house| house.try_publish(&files).map(|published| published.tip));
    die_everywhere(
        |house| house.tip = Some(house.publish(&[("first", b"one".to_vec())]).tip),
        |house| house.try_publish(&files).map(|published| published.tip),
    );
}

#[test]
fn a_batch_with_packs_dies_anywhere() {
    let files = [("a", noise(1, 3 << 20)), ("b", noise(2, 1 << 20))];
    let names: Vec<String> = (0..1_200).map(|i| format!("f{i}")).collect();
    let tiny = names.iter().map(|name| (name.as_str(), name.as_bytes().to_vec()));
    let files: Vec<(&str, Vec<u8>)> = files.into_iter().chain(tiny).collect();

    die_everywhere(|_| (), |house| house.try_publish(&files).map(|published| published.tip));
}

#[test]
fn a_snapshot_dies_anywhere() {
    let prepare = |house: &mut House| {
        for i in 0..10 {
            house.publish(&[("a", prose(i, 100))]);
            if i < 9 {
                house.snapshot();
            }
        }
    };

    die_everywhere(prepare, |house| {
        let space = crate::model::Space::shared();
        let writer = Writer { app: "test", identity: &house.identity, space: &space };
        let tip = house.tip.expect("a chain");
        house
            .ledger
            .snapshot(writer, tip, crate::model::Hlc::default(), Default::default())
            .map(|published| published.tip)
    });
}

#[test]
fn an_import_dies_anywhere() {
    let mut other = House::new(32);
    other.publish(&[("a", noise(1, 400_000))]);
    other.publish(&[("b", prose(1, 400))]);
    let names = other.ledger.list("", "", 100).expect("a listing");
    let artifacts: Vec<(ArtifactName, Vec<u8>)> = names
        .iter()
        .map(|name| name.parse().expect("an artifact"))
        .map(|name| (other.ledger.read_whole(&name).expect("bytes"), name))
        .map(|(bytes, name)| (name, bytes))
        .collect();
    for limit in 0.. {
        let house = House::new(33);
        house.ledger.disk().crash.after(limit);
        let died = house.ledger.put_batch(&artifacts).is_err();
        let ledger = Ledger::open(&house.larder()).expect("a ledger after the crash");
        let damaged = shown(ledger.verify(Depth::Bytes).expect("a listing"));
        // Missing parts are awaited; nothing that is here may be wrong.
        assert!(damaged.iter().all(|finding| finding.contains("missing")), "{damaged:?}");
        ledger.put_batch(&artifacts).expect("the same again");
        assert!(ledger.verify(Depth::Bytes).expect("a listing").is_empty(), "died at step {limit}");
        if !died {
            return;
        }
    }
}

#[test]
fn healing_dies_anywhere_and_the_name_is_never_without_a_file() {
    for limit in 0.. {
        let mut house = House::new(34);
        house.publish(&[("a", prose(1, 400))]);
        let name = house.checkpoints().remove(0).name;
        let (path, good) = (house.ledger.path(&name), house.ledger.read_whole(&name).expect("bytes"));
        std::fs::write(&path, b"rotten").expect("damaged");
        house.ledger.disk().crash.after(limit);
        let died = house.ledger.put(&name, &good).is_err();

        assert!(path.exists(), "died at step {limit}");
        let ledger = Ledger::open(&house.larder()).expect("a ledger after the crash");
        ledger.put(&name, &good).expect("the same again");
        assert!(ledger.is_whole(&name), "died at step {limit}");
        let kept =
            std::fs::read_dir(house.larder().join("quarantine")).expect("a listing").map(|e| e.expect("an entry"));
        assert!(kept.into_iter().any(|entry| std::fs::read(entry.path()).expect("bytes") == b"rotten"));
        if !died {
            assert!(limit >= 5, "only {limit} operations");
            return;
        }
    }
}
