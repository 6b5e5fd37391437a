//! Stores that lie: names, sizes, listings without end, refusals.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::{Cause, LocalStore, Need, Problem};
use super::fleet::*;
use crate::transport::{ListRequest, Listing, Put, Transport, TransportError, TransportErrorKind, WaitHint, Wake};

type Answer<T> = Result<T, TransportError>;
type Get = dyn Fn(&str, u64) -> Answer<Vec<u8>> + Send + Sync;
type List = dyn Fn(&ListRequest) -> Answer<Listing> + Send + Sync;
type PutNew = dyn Fn(&str) -> Answer<Put> + Send + Sync;

/// A place whose verbs are closures, counting what is asked.
struct Liar {
    list: Box<List>,
    get: Box<Get>,
    put: Box<PutNew>,
    calls: AtomicU64,
}

fn error(kind: TransportErrorKind) -> TransportError {
    TransportError::new(kind, "get", "x", "because")
}

impl Default for Liar {
    fn default() -> Liar {
        Liar {
            list: Box::new(|_| Ok(Listing::default())),
            get: Box::new(|_, _| Err(error(TransportErrorKind::NotFound))),
            put: Box::new(|_| Ok(Put::Written)),
            calls: AtomicU64::new(0),
        }
    }
}

impl Transport for Liar {
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        (self.list)(request)
    }

    fn get(&self, name: &str, _: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        (self.get)(name, max_bytes)
    }

    fn put_new(&self, name: &str, _: &[u8]) -> Result<Put, TransportError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        (self.put)(name)
    }

    fn wait(&self, _: &WaitHint) -> Result<Wake, TransportError> {
        Ok(Wake::Timeout)
    }

    fn label(&self) -> &str {
        "liar"
    }
}

const CHAIN: &str = "app/shared/a-1~1/";

#[test]
fn hostile_names_in_listings_are_ignored_and_counted() {
    let hash = "a".repeat(64);
    let chains = [
        "app/shared/../",
        "../",
        "/",
        "app/shared//",
        "app/shared/a-1~01/",
        "app/other/a-1~1/",
        "app/shared/A~1/",
        "app/shared/a-1~1",
        "",
    ];
    let names = [
        "../x".to_owned(),
        "/etc/passwd".to_owned(),
        format!("{CHAIN}../b-1~1/packs/{hash}.pack"),
        format!("app/shared/b-1~1/packs/{hash}.pack"),
        format!("other/shared/a-1~1/packs/{hash}.pack"),
        format!("{CHAIN}packs/{hash}.PACK"),
        format!("{CHAIN}packs/{}.pack", "a".repeat(5000)),
        format!("{CHAIN}checkpoints/cp-1-0123456789abcdef.json"),
        format!("{CHAIN}checkpoints/cp-0000000000000000-0123456789abcdef.json"),
        format!("{CHAIN}checkpoints/cp-+000000000000001-0123456789abcdef.json"),
        format!("{CHAIN}checkpoints/cp-0000000000000001-0123456789ABCDEF.json"),
        "\u{202e}\0\n".to_owned(),
    ];
    let (chain_count, name_count) = (chains.len(), names.len());
    let liar = Liar {
        list: Box::new(move |request| {
            let mut listed: Vec<String> = match request.prefix.as_str() {
                "app/shared/" => chains.iter().map(|&name| name.to_owned()).collect(),
                _ => names.to_vec(),
            };
            if request.prefix == "app/shared/" {
                listed.push(CHAIN.to_owned());
            }
            Ok(Listing { names: listed, more: false })
        }),
        ..Liar::default()
    };
    let mut a = Machine::new("z-1", 1);

    let report = a.meets(&liar);

    assert_eq!(report.ignored_names, (chain_count + name_count) as u64, "{report:?}");
    assert_eq!((report.requests.list, report.requests.get), (2, 0));
    assert!(a.store.names().is_empty());
}

#[test]
fn listings_without_end_and_listings_that_do_not_go_forward_are_bounded() {
    let endless = Liar {
        list: Box::new(|request| {
            let from =
                request.after.as_deref().and_then(|after| after.rsplit('-').nth(1)?.parse::<u64>().ok()).unwrap_or(0);
            let name = |n: u64| format!("{}cp-{:016}-0123456789abcdef.json", request.prefix, from + n + 1);
            Ok(Listing { names: (0..50).map(name).collect(), more: true })
        }),
        ..Liar::default()
    };
    let stuck = Liar {
        list: Box::new(|request| Ok(Listing { names: vec![format!("{}x", request.prefix)], more: true })),
        ..Liar::default()
    };
    let hollow = Liar { list: Box::new(|_| Ok(Listing { names: Vec::new(), more: true })), ..Liar::default() };
    for (liar, most) in [(endless, 50), (stuck, 10), (hollow, 10)] {
        let report = Machine::new("z-1", 1).meets(&liar);

        assert!(report.requests.total() <= most, "{:?}", report.requests);
        assert!(report.pulled.is_empty());
    }
}

#[test]
fn a_flood_of_artifacts_that_are_not_there_is_left_after_a_bound() {
    let liar = Liar {
        list: Box::new(|request| match request.prefix.as_str() {
            "app/shared/" => Ok(Listing { names: vec![CHAIN.to_owned()], more: false }),
            _ => {
                let name = |n: u64| format!("{CHAIN}checkpoints/cp-{:016}-{n:016x}.json", 1);
                Ok(Listing { names: (0..5000).map(name).collect(), more: false })
            }
        }),
        get: Box::new(|_, max_bytes| Ok(vec![b'{'; (max_bytes + 1).min(1000) as usize])),
        ..Liar::default()
    };

    let report = Machine::new("z-1", 1).meets(&liar);

    assert!(report.requests.get < 300, "{:?}", report.requests);
    assert!(!report.problems.is_empty());
}

#[test]
fn a_place_that_is_gone_ends_the_exchange_with_what_was_done_and_one_bad_answer_does_not() {
    let gone = Liar { list: Box::new(|_| Err(error(TransportErrorKind::Unavailable))), ..Liar::default() };
    let throttled = Liar {
        list: Box::new(|_| Err(error(TransportErrorKind::Throttled { retry_after_ms: 700 }))),
        ..Liar::default()
    };
    let mut a = Machine::new("a-1", 1);
    a.publish_full("one");

    let first = a.meets(&gone);
    assert_eq!(first.problems.len(), 1);
    assert!(!first.is_complete());

    let failed = a.meet(&throttled).expect_err("it ends");
    assert!(
        matches!(&failed.cause, Cause::Remote(e) if e.kind == TransportErrorKind::Throttled { retry_after_ms: 700 })
    );

    // One chain after the other fails: three in a row say that the place itself is gone.
    let broken = Liar { put: Box::new(|_| Err(error(TransportErrorKind::Unavailable))), ..Liar::default() };
    let (_, spot) = place("spot");
    for (origin, key) in [("b-1", 2), ("c-1", 3), ("d-1", 4), ("e-1", 5)] {
        let mut other = Machine::new(origin, key);
        other.publish_full(origin);
        other.meets(&spot);
    }
    a.meets(&spot);
    let failed = a.meet(&broken).expect_err("it ends");
    assert_eq!(failed.done.requests.put, 3);
    assert_eq!(failed.done.problems.len(), 2);
}

#[test]
fn a_place_that_takes_nothing_is_still_read() {
    let mut a = Machine::new("a-1", 1);
    a.publish_full("one");
    let (_, spot) = place("spot");
    a.meets(&spot);
    let spot = std::sync::Arc::new(spot);
    let (lists, gets) = (spot.clone(), spot);
    let read_only = Liar {
        list: Box::new(move |request| lists.list(request)),
        get: Box::new(move |name, max_bytes| gets.get(name, None, max_bytes)),
        put: Box::new(|_| Err(error(TransportErrorKind::Denied))),
        ..Liar::default()
    };
    let mut b = Machine::new("b-1", 2);
    (0..5).for_each(|n| drop(b.publish_full(&n.to_string())));

    let report = b.meets(&read_only);

    assert_eq!(report.requests.put, 1, "one refusal is enough");
    assert_eq!(report.problems.len(), 1);
    assert_eq!(report.refused, Some(report.problems[0].to_string()), "whoever asked is told that nothing got there");
    assert!(a.store.names().is_subset(&b.store.names()));
}

#[test]
fn other_bytes_under_our_name_are_named_and_do_not_stop_other_chains() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (_, spot) = place("spot");
    b.publish_full("b");
    b.meets(&spot);
    a.meets(&spot);
    a.publish_full("one");
    let (store, other) = place("other");
    let conflicts = Liar {
        put: Box::new(move |name| match name.contains("a-1~1") {
            true => Err(error(TransportErrorKind::Conflict)),
            false => other.put_new(name, b"bytes"),
        }),
        ..Liar::default()
    };

    let report = a.meets(&conflicts);

    assert_eq!(report.problems.len(), 2, "the pack, then the records without which no checkpoint goes: {report:?}");
    assert_eq!(store.names(), b.store.names());
}

#[test]
fn an_artifact_of_a_newer_release_waits_for_an_upgrade() {
    use crate::ledger::{ArtifactName, ShortHash};
    use crate::model::ArtifactHash;
    let bytes = br#"{"v":2}"#;
    let chain = Writer::new("a-1", 1).chain;
    let name = ArtifactName::Checkpoint { chain, seq: 1, hash: ShortHash::of(&ArtifactHash::of(bytes)) };
    let (store, spot) = place("spot");
    store.damage(&name, Some(bytes));

    let report = Machine::new("b-1", 2).meets(&spot);

    assert!(matches!(&report.waiting[..], [w] if w.need == Need::Upgrade), "{report:?}");
}

#[test]
fn an_origin_that_fills_its_share_is_named_and_nobody_else_waits() {
    let (mut glutton, mut a, mut b) = (Machine::new("g-1", 9), Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (_, spot) = place("spot");
    for n in 0..20 {
        let packs = vec![vec![n; 10_000]];
        glutton.publish(&Load { packs, hlc: u64::from(n), ..Load::default() });
    }
    a.publish_full("one");
    a.meets(&spot);
    glutton.meets(&spot);
    let origin = glutton.writer.chain.origin.clone();
    let held = |b: &Machine| b.store.held_bytes(&origin).expect("sums");
    b.config.max_origin_bytes = 50_000;

    for _ in 0..3 {
        let report = b.meets(&spot);

        assert!(a.store.names().is_subset(&b.store.names()), "{report:?}");
        assert!(held(&b) < 50_000 + 10_100, "at most one artifact beyond: {}", held(&b));
        let named = |problem: &&Problem| matches!(problem, Problem::OriginFull { origin: full, .. } if *full == origin);
        assert_eq!(report.problems.iter().filter(named).count(), 1, "{report:?}");
        assert!(report.requests.get < 30, "what is not taken is not asked for: {:?}", report.requests);
        assert!(is_sound(&b.store, false));
        b.config.held_bytes = report.held_bytes;
    }
    // What is damaged here may always be healed.
    let lost = glutton.writer.pack_name(&[0; 10_000]);
    b.store.damage(&lost, Some(b"rotten"));
    b.config.wanted = vec![lost.clone()];
    assert_eq!(b.meets(&spot).pulled, [lost]);

    b.config.max_origin_bytes = 1 << 30;
    assert!(b.meets(&spot).is_complete());
    assert!(glutton.store.names().is_subset(&b.store.names()));
}
