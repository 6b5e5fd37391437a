//! Laws of hostile peers: well-signed chains whose lines lie. Each is refused or kept apart by name, everybody else's files arrive,
//! and nothing outside the root, nor anything of our own, is touched.

use serde_json::{Value, json};

use super::skew::{configure, folder, line, machine, put, sign};
use super::*;
use crate::ledger::Identity;
use crate::model::{Chain, ContentHash, Hlc, Space, canonical_bytes};

/// An origin that signs whatever it likes.
struct Forger {
    _home: tempfile::TempDir,
    identity: Identity,
}

impl Forger {
    fn new(host: &str) -> Forger {
        let home = folder();
        let mut env = Env::system();
        (env.host, env.state_home) = (host.to_owned(), home.path().join("state"));
        let identity = Identity::create(&home.path().join("larder"), &env, "anna").expect("made");
        Forger { _home: home, identity }
    }

    fn chain(&self) -> Chain {
        self.identity.chain(Space::shared())
    }

    fn dot(&self, n: u64) -> Value {
        json!([self.identity.origin(), 1, n, n])
    }

    fn version(&self, n: u64, path: &str, content: &[u8]) -> Value {
        json!({
            "born": "0000000000010000", "channel": "shared", "content": ContentHash::of(content), "dot": self.dot(n),
            "hlc": "0000000000010000", "kind": "version", "parents": [], "path": path, "size": content.len(), "v": 1, "vector": {},
        })
    }

    /// Puts the first checkpoint of its chain into a store.
    fn publish(&self, store: &Path, versions: u64, records: &str, blocks: &[&[u8]]) {
        let block = |bytes: &&[u8]| json!({ "data": data_encoding::BASE64.encode(bytes), "segments": [[ContentHash::of(bytes), bytes.len()]] });
        let blocks: Vec<Value> = blocks.iter().map(block).collect();
        let mut body = json!({
            "app": "demo", "cert": self.identity.certificate(), "chain": self.chain(), "hlc": "0000000000010000",
            "inline": { "blocks": blocks, "records": records }, "key": self.identity.public_key(),
            "kind": "checkpoint", "last_n": versions, "seq": 1, "v": 1, "versions": versions,
        });
        sign(&mut body, &self.identity);
        put(store, &self.chain(), 1, &canonical_bytes(&body).expect("canonical"));
    }
}

/// What a line of lies is expected to come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// Its chain is named as damaged.
    Refused,
    /// It is kept and does nothing, or waits for bytes that never come.
    Idle,
}

#[test]
fn lies_in_well_signed_chains_are_named_and_everybody_elses_files_arrive() {
    let store = folder();
    let forger = Forger::new("forger");
    let text = ContentHash::of(b"lie");
    let other = ContentHash::of(b"other");
    let with = |edit: &dyn Fn(&mut Value)| {
        let mut version = forger.version(1, "lie.md", b"lie");
        edit(&mut version);
        line(&version)
    };
    let manifest = |fields: Value| {
        let mut manifest = json!({ "add": [], "content": text, "kind": "manifest", "size": 3, "v": 1 });
        for (key, value) in fields.as_object().expect("an object") {
            manifest[key] = value.clone();
        }
        line(&manifest)
    };
    let big = with(&|version| version["size"] = 10_000.into());
    let endless: Vec<Value> = (0..10_000).map(|_| json!([other, 1])).collect();
    let wide: serde_json::Map<String, Value> = (0..20_000).map(|n| (format!("k{n:06}"), n.into())).collect();
    let deep = format!("{{\"a\":{}{},\"kind\":\"deep\",\"v\":1}}\n", "[".repeat(100_000), "]".repeat(100_000));
    let size_text = with(&|_| {}).replace("\"size\":3", "\"size\":9223372036854775808");
    let table: Vec<(&str, String, End)> = vec![
        ("a size of 2^63", size_text, End::Refused),
        ("a negative size", with(&|version| version["size"] = (-1).into()), End::Refused),
        ("a path above the root", with(&|version| version["path"] = "../lie.md".into()), End::Refused),
        ("an absolute path", with(&|version| version["path"] = "/tmp/lie.md".into()), End::Refused),
        ("a path with a way up", with(&|version| version["path"] = "a/../../lie.md".into()), End::Refused),
        ("a path of another system", with(&|version| version["path"] = "a\\..\\lie.md".into()), End::Refused),
        ("an empty path", with(&|version| version["path"] = "".into()), End::Refused),
        ("somebody else's dot", with(&|version| version["dot"] = json!(["good-aaaaaa", 1, 1, 1])), End::Idle),
        ("itself for a parent", with(&|version| version["parents"] = json!(["0".repeat(64)])), End::Idle),
        (
            "a vector from nowhere",
            with(&|version| version["vector"] = json!({"good-aaaaaa~1/1": 9_007_199_254_740_991u64})),
            End::Idle,
        ),
        (
            "segments that do not add up",
            big.clone() + &manifest(json!({"add": [[other, 5]], "size": 10_000})),
            End::Idle,
        ),
        ("an endless list of segments", big.clone() + &manifest(json!({"add": endless, "size": 10_000})), End::Idle),
        ("a segment of no bytes", big.clone() + &manifest(json!({"add": [[other, 0]], "size": 10_000})), End::Refused),
        (
            "a segment of 4 GiB",
            big.clone() + &manifest(json!({"add": [[other, 4_294_967_295u64]], "size": 10_000})),
            End::Refused,
        ),
        (
            "a manifest on itself",
            big.clone() + &manifest(json!({"extends": text, "keep": 1, "size": 10_000})),
            End::Refused,
        ),
        (
            "manifests in a circle",
            big.clone()
                + &manifest(json!({"extends": other, "keep": 1, "size": 10_000}))
                + &manifest(json!({"content": other, "extends": text, "keep": 1, "size": 10_000})),
            End::Idle,
        ),
        (
            "a count of kept segments of 2^53",
            big + &manifest(json!({"extends": other, "keep": 9_007_199_254_740_991u64})),
            End::Refused,
        ),
        ("a line as deep as it is long", deep.clone(), End::Idle),
        ("a version as deep as it is long", with(&|_| {}).replacen('{', &deep[..deep.len() - 21], 1), End::Refused),
        (
            "a line of twenty thousand keys",
            line(&{
                let mut wide = Value::Object(wide);
                (wide["kind"], wide["v"]) = ("wide".into(), 1.into());
                wide
            }),
            End::Idle,
        ),
        ("no line", "\0\n".to_owned(), End::Refused),
        ("a line without end", "{}".to_owned(), End::Refused),
    ];
    let mut good = machine("good", &[store.path()]);
    good.write("good.md", "good");
    good.meets();
    let before = artifacts_count(store.path());

    for (what, records, end) in table {
        let inner = folder();
        let store_of = inner.path().join("store");
        copy_tree(store.path(), &store_of);
        // Each lie by an origin of its own, in a store of its own beside the good one.
        let versions = records.lines().filter(|line| line.contains("\"kind\":\"version\"")).count() as u64;
        forger.publish(&store_of, versions, &records, &[]);
        let mut reader = machine("reader", &[]);
        std::fs::create_dir(inner.path().join("reader")).expect("creates");
        configure(&reader, &[&store_of]);
        reader.write("own.md", "own");

        for _ in 0..2 {
            let report = reader.meets();
            assert_eq!(reader.read("good.md").as_deref(), Some("good"), "{what}: {report:?}");
            reader.write("own.md", "own, edited");
        }
        reader.meets();

        let files: Vec<String> = tree(reader.dir.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(files, ["good.md", "own.md", "sync-config.json"], "{what}");
        let status = reader.glance_status();
        let chain = forger.chain().to_string();
        let named =
            status.problems.iter().any(|problem| problem.path.contains(&chain) || problem.what.contains(&chain));
        let damage = status.remains().is_some_and(|error| error.kind == super::super::Kind::Damage);
        assert_eq!((named, damage), (end == End::Refused, end == End::Refused), "{what}: {status:?}");
        assert!(artifacts_count(&store_of) > before, "{what}: what is our own goes out all the same");
        // A second index, made from the same ledger, comes to the same.
        reader.restart();
        super::super::rebuild(&reader.env(), &reader.options(), false).expect("rebuilds");
        reader.meets();
        assert_eq!(reader.read("good.md").as_deref(), Some("good"), "{what}");
    }
}

#[test]
fn a_clock_of_the_year_9999_is_kept_and_shown_and_moves_nobody_elses() {
    let store = folder();
    let forger = Forger::new("forger");
    let year_9999_ms = 253_402_300_799_000;
    let mut version = forger.version(1, "late.md", b"late");
    version["hlc"] = json!(Hlc::new(year_9999_ms, 0));
    forger.publish(store.path(), 1, &line(&version), &[b"late"]);
    let mut reader = machine("reader", &[store.path()]);

    reader.meets();
    reader.write("own.md", "own");
    reader.meets();

    assert_eq!(reader.read("late.md").as_deref(), Some("late"));
    let status = reader.glance_status();
    assert!(
        status.problems.iter().any(|problem| problem.source == "clocks" && problem.path == "late.md"),
        "{status:?}"
    );
    let own = newest(&mut reader, "own.md");
    assert!(own.wall_ms() < year_9999_ms / 2, "{own:?}");
    // An edit of that very file stands above it all the same.
    reader.write("late.md", "later");
    reader.meets();
    assert!(newest(&mut reader, "late.md") > Hlc::new(year_9999_ms, 0));
}

#[test]
fn a_flood_of_tombstones_deletes_nothing_that_it_does_not_descend_from() {
    const FLOOD: u64 = 3_000;
    let store = folder();
    let forger = Forger::new("forger");
    let mut records = String::new();
    for n in 1..=FLOOD {
        // The first hundred at paths that there are.
        let path = if n <= 100 { format!("{}.md", n - 1) } else { format!("never/{n}.md") };
        let mut tombstone = forger.version(n, &path, b"");
        let fields = tombstone.as_object_mut().expect("an object");
        for absent in ["content", "size"] {
            fields.remove(absent);
        }
        fields.insert("reason".to_owned(), "user".into());
        records += &line(&tombstone);
    }
    forger.publish(store.path(), FLOOD, &records, &[]);
    let mut reader = machine("reader", &[store.path()]);
    for n in 0..100 {
        reader.write(&format!("{n}.md"), &format!("{n}"));
    }

    (0..3).for_each(|_| drop(reader.meets()));

    for n in 0..100 {
        assert_eq!(reader.read(&format!("{n}.md")), Some(n.to_string()));
    }
    let status = reader.glance_status();
    assert!(status.held_deletions.is_empty() && status.conflicts.is_empty(), "{status:?}");
    assert_eq!(status.counts.files, 100);
    // One row for each, whatever was there; and a run without news has nothing more to do.
    assert!(reader.node().engine.index.max_row().expect("rows").unsigned_abs() <= FLOOD + 300);
    assert!(reader.meets().is_empty());
}

#[test]
fn what_is_refused_is_told_by_status_and_exit_code_until_it_is_settled() {
    let store = folder();
    let mut good = machine("good", &[store.path()]);
    good.write("good.md", "good");
    good.meets();
    let mut reader = machine("reader", &[store.path()]);
    let config = std::fs::read_to_string(reader.path("sync-config.json")).expect("reads");
    let small = config.replacen('{', "{ \"maxOriginBytes\": 1,", 1);
    std::fs::write(reader.path("sync-config.json"), small).expect("writes");
    reader.write("own.md", "own");
    (0..2).for_each(|_| drop(reader.meets()));
    reader.restart();
    // The first artifact is what it takes to know that there is too much of it.
    good.write("more.md", "more");
    good.meets();

    let report = reader.meets();
    assert!(reader.read("more.md").is_none(), "{report:?}");
    let remains = reader.node().remains(&report).expect("looks").expect("something remains");
    assert_eq!(remains.kind, super::super::Kind::Damage);
    let status = reader.glance_status();
    assert_eq!(status.remains().map(|error| error.kind), Some(super::super::Kind::Damage));
    assert!(status.problems.iter().any(|problem| problem.what.contains("maxOriginBytes")), "{status:?}");

    std::fs::write(reader.path("sync-config.json"), config).expect("writes");
    reader.restart();
    reader.meets();
    assert_eq!(reader.read("more.md").as_deref(), Some("more"));
    assert!(reader.glance_status().remains().is_none(), "{:?}", reader.glance_status());
}

#[test]
fn a_flood_of_concurrent_versions_of_one_path_costs_each_what_one_costs() {
    const FLOOD: u64 = 1_000;
    const MAX_ROWS_EACH: u64 = 40;
    for path in ["note.md", "log.jsonl"] {
        let store = folder();
        let forger = Forger::new("forger");
        let texts: Vec<String> = (1..=FLOOD).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        let versions = texts.iter().zip(1..).map(|(text, n)| line(&forger.version(n, path, text.as_bytes())));
        let records: String = versions.collect();
        let blocks: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
        forger.publish(store.path(), FLOOD, &records, &blocks);
        let mut reader = machine("reader", &[store.path()]);
        reader.write("own.md", "own");
        reader.meets();
        crate::index::LOADED.with(|count| count.set(0));

        let report = reader.meets();

        let rows = crate::index::LOADED.with(|count| count.get()) / FLOOD;
        assert!(rows <= MAX_ROWS_EACH, "{rows} rows read for each version");
        assert!(reader.read(path).is_some_and(|text| texts.contains(&text)), "{report:?}");
        assert_eq!(reader.glance_status().conflicts.len(), 1);
    }
}

fn newest(machine: &mut Machine, path: &str) -> Hlc {
    let path = RelPath::parse(path).expect("a path");
    let slot = machine.node().engine.slot_of(crate::model::Channel::Shared, &path);
    let heads = machine.node().engine.index.heads(&slot).expect("heads");
    heads.iter().map(|head| head.version.hlc).max().expect("a head")
}

fn artifacts_count(store: &Path) -> usize {
    tree(&store.join("demo")).len()
}

fn copy_tree(from: &Path, to: &Path) {
    for (name, bytes) in tree(from) {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("creates");
        std::fs::write(path, bytes).expect("writes");
    }
}
