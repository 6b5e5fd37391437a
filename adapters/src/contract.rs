//! What every backend must keep, as laws that any implementation can run: a backend's tests are one line.
//!
//! `contract_tests!(name, make)` makes a module with one test a law. `make` gives another handle on one and the same store at each call, as
//! another process would have it. Each law keeps to an app of its own name and expects that app to be empty.
//! Invariant: a law waits for channels, never for a clock, and names what it found when it fails.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use crate::{
    AdapterError, Body, Cursor, ErrorKind, Expected, FileSyncAdapter, MirrorEntry, Page, Query, Record, RecordId,
    Revision, Row, RowContent, SHARED_OWNER, Selection, Subscription, Wake, Write,
};

/// Gives another handle on the store under test.
pub type Make<'a> = &'a dyn Fn() -> Arc<dyn FileSyncAdapter>;

/// A program that knows only the table `files`, writing by itself beside Larder.
pub trait ForeignHand {
    /// Inserts a row, or replaces its content.
    fn put(&self, app: &str, path: &str, text: &str);
    /// Deletes a row.
    fn delete(&self, app: &str, path: &str);
}

/// Calls `$callback!` with every law's name after what stands in the brackets.
#[doc(hidden)]
#[macro_export]
macro_rules! with_adapter_laws {
    ($callback:path, [$($extra:tt)*]) => {
        $callback! { [$($extra)*]
            set_then_get_returns_the_same_record
            absent_is_none_and_its_chunks_are_not_found
            creating_twice_is_a_conflict
            stale_revision_is_refused_and_writes_nothing
            of_32_racing_writers_one_wins
            deleting_needs_the_seen_state
            deleted_id_is_created_again
            retry_of_a_lost_answer_conflicts_with_its_own_content
            owners_never_share_a_row
            colons_never_join_two_records
            hostile_paths_come_back_unchanged
            prefix_means_its_own_characters
            empty_binary_and_8_mib_contents_come_back
            text_and_chunks_replace_each_other
            kept_chunks_stay_and_the_tail_is_replaced
            keeping_chunks_that_are_not_there_conflicts
            small_and_large_chunks_follow_each_other
            limits_are_errors_with_the_bound
            feed_tells_each_change_once_with_its_newest_state
            feed_is_complete_over_pages_of_1500_rows
            feed_goes_on_from_a_cursor_kept_as_text
            feed_tells_deletions
            feed_of_a_space_holds_no_other_space
            unknown_cursor_begins_at_the_start
            paths_page_through_1500_rows_in_order
            paths_over_every_owner_split_no_path
            artifacts_are_listed_by_prefix_and_write_once
            own_rows_are_not_foreign
            record_without_mirror_has_no_entry
            batch_applies_the_others_when_one_fails
            batch_sees_its_own_earlier_items
            batch_that_is_synced_later_is_there_at_once
            filling_answers_as_a_batch_does_or_takes_nothing
            another_handles_write_wakes_the_subscriber
            late_subscriber_is_woken_for_what_it_missed
            dropped_subscription_is_never_called_again
            closed_handle_refuses_and_leaves_the_others
            closing_amid_writes_loses_nothing_acknowledged
        }
    };
}

/// Calls `$callback!` with the name of every law about foreign edits.
#[doc(hidden)]
#[macro_export]
macro_rules! with_foreign_laws {
    ($callback:path, [$($extra:tt)*]) => {
        $callback! { [$($extra)*]
            foreign_insert_is_told_and_has_no_entry
            foreign_edit_keeps_the_entry_and_breaks_the_revision
            foreign_edit_and_its_undo_are_one_change
            foreign_delete_leaves_the_entry_until_it_is_acknowledged
            foreign_row_is_taken_in_by_writing_it
            foreign_delete_is_overwritten_only_by_who_saw_it
            foreign_text_over_chunks_is_the_content
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! contract_law_tests {
    ([$make:expr] $($law:ident)*) => {
        $(#[test] fn $law() { let make = $make; $crate::contract::$law(&make); })*
    };
}

/// Makes a module `$name` with one test for each law, for the backend that `$make` (a closure) gives handles of.
#[macro_export]
macro_rules! contract_tests {
    ($name:ident, $make:expr) => {
        mod $name {
            #[allow(unused_imports, reason = "the handle maker may be a path of the outer module")]
            use super::*;
            $crate::with_adapter_laws! { $crate::contract_law_tests, [$make] }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! foreign_law_tests {
    ([$pair:expr] $($law:ident)*) => {
        $(#[test] fn $law() { let (make, hand) = $pair; $crate::contract::$law(&make, &hand); })*
    };
}

/// Makes a module `$name` with one test for each law about foreign edits; `$pair` is `(make, hand)`.
#[macro_export]
macro_rules! foreign_tests {
    ($name:ident, $pair:expr) => {
        mod $name {
            #[allow(unused_imports, reason = "the maker may be a path of the outer module")]
            use super::*;
            $crate::with_foreign_laws! { $crate::foreign_law_tests, [$pair] }
        }
    };
}

macro_rules! law_table {
    ([] $($law:ident)*) => {
        /// Every law by its name.
        pub const LAWS: &[(&str, fn(Make<'_>))] = &[$((stringify!($law), $law)),*];
    };
}
with_adapter_laws! { law_table, [] }

/// Runs every law on a store; panics at the first that is broken. For one test a law use `contract_tests!`.
pub fn run_contract(make: Make<'_>) {
    for (name, law) in LAWS {
        eprintln!("law: {name}");
        law(make);
    }
}

macro_rules! foreign_law_table {
    ([] $($law:ident)*) => {
        /// Every law about foreign edits by its name.
        pub const FOREIGN_LAWS: &[(&str, ForeignLaw)] = &[$((stringify!($law), $law)),*];
    };
}
/// A law about foreign edits.
pub type ForeignLaw = fn(Make<'_>, &dyn ForeignHand);
with_foreign_laws! { foreign_law_table, [] }

/// Runs every law about foreign edits; `hand` writes into the store that `make` opens. Panics at the first that is broken.
pub fn run_foreign_contract(make: Make<'_>, hand: &dyn ForeignHand) {
    for (name, law) in FOREIGN_LAWS {
        eprintln!("law: {name}");
        law(make, hand);
    }
}

// A commit on the slowest backend under test takes far less; a law that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A record as the laws write them: text with a mirror entry of that text.
pub fn text_record(app: &str, path: &str, text: &str) -> Record {
    Record {
        app: app.to_owned(),
        owner: SHARED_OWNER.to_owned(),
        path: path.to_owned(),
        body: Body::Text(text.to_owned()),
        last_updated_ms: 1_700_000_000_123,
        created_at_ms: 1_600_000_000_456,
        mirror: Some(mirror_of(text.as_bytes())),
    }
}

fn chunk_record(app: &str, path: &str, keep: u32, add: &[&[u8]]) -> Record {
    let add = add.iter().map(|chunk| chunk.to_vec()).collect();
    Record { body: Body::Chunks { keep, add }, ..text_record(app, path, "") }
}

// No hash is computed here: the seam only carries it. Different contents have different entries.
fn mirror_of(content: &[u8]) -> MirrorEntry {
    let mut content_hash = [content.len() as u8; 32];
    for (n, byte) in content.iter().enumerate() {
        content_hash[n % 32] = content_hash[n % 32].rotate_left(3) ^ byte;
    }
    MirrorEntry { version: format!("{:02x}{:02x},ab", content_hash[0], content_hash[1]), content_hash }
}

fn row_of(adapter: &dyn FileSyncAdapter, id: &RecordId) -> Row {
    match adapter.get(id) {
        Ok(Some(row)) => row,
        other => panic!("{id} was expected, found {other:?}"),
    }
}

fn written(adapter: &dyn FileSyncAdapter, record: &Record, expected: &Expected) -> Revision {
    adapter.set(record, expected).unwrap_or_else(|error| panic!("{}: {error}", record.id()))
}

fn created(adapter: &dyn FileSyncAdapter, record: &Record) -> Revision {
    written(adapter, record, &Expected::Absent)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, AdapterError>, kind: ErrorKind) {
    match answer {
        Err(error) => assert_eq!(error.kind, kind, "{error}"),
        Ok(answer) => panic!("{kind:?} was expected, found {answer:?}"),
    }
}

fn page(adapter: &dyn FileSyncAdapter, query: &Query) -> Page {
    adapter.query(query).unwrap_or_else(|error| panic!("{query:?}: {error}"))
}

/// Follows the feed to its end. Also checks that no page is longer than asked for and that a page that says `more` is not empty.
fn feed(adapter: &dyn FileSyncAdapter, app: &str, after: Cursor, limit: usize) -> (Vec<Row>, Cursor) {
    let mut rows = Vec::new();
    let mut after = after;
    loop {
        let page = page(adapter, &Query::changes(app, None, after, limit));
        assert!(page.rows.len() <= limit && (!page.more || !page.rows.is_empty()), "{} rows", page.rows.len());
        rows.extend(page.rows);
        after = page.cursor;
        if !page.more {
            return (rows, after);
        }
    }
}

fn listed(adapter: &dyn FileSyncAdapter, app: &str, owner: &str, prefix: &str, limit: usize) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    loop {
        let after = paths.last().cloned();
        let page = page(adapter, &Query::paths(app, owner, prefix, after.as_deref(), limit));
        assert!(page.rows.len() <= limit && (!page.more || !page.rows.is_empty()), "{} rows", page.rows.len());
        paths.extend(page.rows.into_iter().map(|row| row.path));
        if !page.more {
            return paths;
        }
    }
}

fn paths_of(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.path.as_str()).collect()
}

fn listen(adapter: &dyn FileSyncAdapter, app: &str, from: Cursor) -> (Subscription, Receiver<Wake>) {
    let (told, heard) = channel();
    let sink = Box::new(move |wake| {
        // The listening law may have ended already.
        let _ = told.send(wake);
    });
    let query = Query::changes(app, None, Cursor::start(), 1);
    (adapter.subscribe(&query, from, sink).unwrap_or_else(|error| panic!("subscribe: {error}")), heard)
}

/// What is set is what is read, every field of it.
pub fn set_then_get_returns_the_same_record(make: Make<'_>) {
    let adapter = make();
    let record = text_record("set_get", "docs/a.md", "eins\n");

    let revision = created(&*adapter, &record);

    let row = row_of(&*make(), &record.id());
    assert_eq!((row.id, row.app, row.owner, row.path), (record.id(), record.app, record.owner, record.path));
    assert_eq!(row.content, RowContent::Text("eins\n".to_owned()));
    assert_eq!((row.revision.clone(), row.mirrored_revision), (revision.clone(), Some(revision)));
    assert_eq!(
        (row.mirror, row.last_updated_ms, row.created_at_ms),
        (record.mirror, 1_700_000_000_123, 1_600_000_000_456)
    );
}

/// What was never written is no error to read, except for its chunks.
pub fn absent_is_none_and_its_chunks_are_not_found(make: Make<'_>) {
    let adapter = make();
    let record = text_record("absent", "here.md", "text");
    created(&*adapter, &record);

    let nowhere = RecordId::new("absent", SHARED_OWNER, "nowhere.md");
    assert!(matches!(adapter.get(&nowhere), Ok(None)));
    refused(adapter.read_chunks(&nowhere, 0, 1), ErrorKind::NotFound);
    refused(adapter.read_chunks(&record.id(), 0, 1), ErrorKind::NotFound);
    refused(adapter.query(&Query::changes("absent", None, Cursor::start(), 0)), ErrorKind::Unsupported);
}

/// `Expected::Absent` never overwrites.
pub fn creating_twice_is_a_conflict(make: Make<'_>) {
    let adapter = make();
    for first in [text_record("twice", "a", "one"), chunk_record("twice", "b", 0, &[b"one"])] {
        created(&*adapter, &first);
        let before = row_of(&*adapter, &first.id());

        refused(make().set(&text_record("twice", &first.path, "two"), &Expected::Absent), ErrorKind::Conflict);
        refused(make().set(&chunk_record("twice", &first.path, 0, &[b"two"]), &Expected::Absent), ErrorKind::Conflict);

        assert_eq!(row_of(&*adapter, &first.id()), before);
    }
}

/// A writer that saw an older state changes nothing: not the content, not the entry, not the feed.
pub fn stale_revision_is_refused_and_writes_nothing(make: Make<'_>) {
    let adapter = make();
    let stale = created(&*adapter, &text_record("stale", "a", "one"));
    let fresh = written(&*adapter, &text_record("stale", "a", "two"), &Expected::Revision(stale.clone()));
    assert_ne!(stale, fresh);
    let (_, cursor) = feed(&*adapter, "stale", Cursor::start(), 10);

    for expected in [Expected::Revision(stale), Expected::Revision(Revision::new("no such revision"))] {
        refused(adapter.set(&text_record("stale", "a", "three"), &expected), ErrorKind::Conflict);
        refused(adapter.delete(&RecordId::new("stale", SHARED_OWNER, "a"), &expected), ErrorKind::Conflict);
    }

    let row = row_of(&*adapter, &RecordId::new("stale", SHARED_OWNER, "a"));
    assert_eq!((row.content, row.revision), (RowContent::Text("two".to_owned()), fresh));
    assert!(feed(&*adapter, "stale", cursor, 10).0.is_empty());
}

/// Of writers that saw the same state exactly one wins, and its content stands: at creation, at an edit, at a delete.
pub fn of_32_racing_writers_one_wins(make: Make<'_>) {
    const WRITERS: usize = 32;
    let id = RecordId::new("race", SHARED_OWNER, "a");
    let handles: Vec<Arc<dyn FileSyncAdapter>> = (0..WRITERS).map(|_| make()).collect();
    let race = |expected: &Expected| -> Vec<usize> {
        let barrier = Barrier::new(WRITERS);
        let attempt = |n: usize, handle: &Arc<dyn FileSyncAdapter>| {
            barrier.wait();
            let record = text_record("race", "a", &format!("writer {n}"));
            match handle.set(&record, expected) {
                Ok(_) => Some(n),
                Err(error) if error.kind == ErrorKind::Conflict => None,
                Err(error) => panic!("{error}"),
            }
        };
        let attempt = &attempt;
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                handles.iter().enumerate().map(|(n, handle)| scope.spawn(move || attempt(n, handle))).collect();
            threads.into_iter().filter_map(|thread| thread.join().expect("a writer panicked")).collect()
        })
    };

    let mut expected = Expected::Absent;
    for _ in 0..3 {
        let winners = race(&expected);

        let row = row_of(&*handles[0], &id);
        assert_eq!(winners.len(), 1, "winners {winners:?}");
        assert_eq!(row.content, RowContent::Text(format!("writer {}", winners[0])));
        expected = Expected::Revision(row.revision);
    }
}

/// A delete is a compare-and-set too; a repeated one says that nothing is left.
pub fn deleting_needs_the_seen_state(make: Make<'_>) {
    let adapter = make();
    let record = text_record("delete", "a", "one");
    let revision = created(&*adapter, &record);
    let id = record.id();

    refused(adapter.delete(&id, &Expected::Absent), ErrorKind::Conflict);
    adapter.delete(&id, &Expected::Revision(revision.clone())).expect("the state was seen");
    assert!(matches!(make().get(&id), Ok(None)));
    refused(adapter.delete(&id, &Expected::Revision(revision)), ErrorKind::NotFound);
    adapter.delete(&id, &Expected::Absent).expect("nothing is left to delete");
}

/// A deleted id is free; revisions of its earlier life stay stale.
pub fn deleted_id_is_created_again(make: Make<'_>) {
    let adapter = make();
    let record = text_record("again", "a", "one");
    let first = created(&*adapter, &record);
    adapter.delete(&record.id(), &Expected::Revision(first.clone())).expect("the state was seen");
    let (_, cursor) = feed(&*adapter, "again", Cursor::start(), 10);

    let second = created(&*adapter, &record);

    assert_ne!(first, second);
    refused(adapter.set(&record, &Expected::Revision(first)), ErrorKind::Conflict);
    for after in [Cursor::start(), cursor] {
        let (rows, _) = feed(&*adapter, "again", after, 10);
        assert_eq!(paths_of(&rows), ["a"]);
        assert_eq!(rows[0].content, RowContent::Text("one".to_owned()));
    }
}

/// A set whose answer was lost is retried safely: the conflict shows the own content, and the other's if it was one.
pub fn retry_of_a_lost_answer_conflicts_with_its_own_content(make: Make<'_>) {
    let adapter = make();
    let record = text_record("retry", "a", "mine");
    let first = created(&*adapter, &text_record("retry", "a", "before"));
    let lost = written(&*adapter, &record, &Expected::Revision(first.clone()));

    refused(adapter.set(&record, &Expected::Revision(first)), ErrorKind::Conflict);

    let row = row_of(&*adapter, &record.id());
    assert_eq!((row.content.clone(), row.mirror.clone()), (RowContent::Text("mine".to_owned()), record.mirror));
    assert_eq!(row.revision, lost);
    assert!(!row.is_foreign());
}

/// Private rows of two owners and the shared row of one path are three rows.
pub fn owners_never_share_a_row(make: Make<'_>) {
    let adapter = make();
    let owners = [SHARED_OWNER, "u-ann-11111111", "u-bob-22222222"];
    let record = |owner: &str| Record { owner: owner.to_owned(), ..text_record("owners", "a", &format!("of {owner}")) };
    for owner in owners {
        created(&*adapter, &record(owner));
    }

    let gone = row_of(&*adapter, &record(owners[1]).id());
    adapter.delete(&gone.id, &Expected::Revision(gone.revision)).expect("the state was seen");

    for owner in [owners[0], owners[2]] {
        assert_eq!(row_of(&*adapter, &record(owner).id()).content, RowContent::Text(format!("of {owner}")));
        assert_eq!(listed(&*adapter, "owners", owner, "", 10), ["a"]);
    }
    assert!(listed(&*adapter, "owners", owners[1], "", 10).is_empty());
}

/// Colons in app, owner or path never make two records one, nor list one in another's space.
pub fn colons_never_join_two_records(make: Make<'_>) {
    let adapter = make();
    let names = [
        ("colon", SHARED_OWNER, "u-bob-1:a"),
        ("colon", "u-bob-1", "a"),
        ("colon:u-bob-1", SHARED_OWNER, "a"),
        ("colon", SHARED_OWNER, "shared:a"),
        ("colon", SHARED_OWNER, "a"),
        ("colon%3Au-bob-1", SHARED_OWNER, "a"),
    ];
    let record = |(app, owner, path): (&str, &str, &str)| Record {
        owner: owner.to_owned(),
        ..text_record(app, path, &format!("{app} {owner} {path}"))
    };
    for name in names {
        created(&*adapter, &record(name));
    }

    for name in names {
        let row = row_of(&*adapter, &record(name).id());
        assert_eq!((row.app.as_str(), row.owner.as_str(), row.path.as_str()), name);
        assert_eq!(row.content, RowContent::Text(format!("{} {} {}", name.0, name.1, name.2)));
    }
    assert_eq!(listed(&*adapter, "colon", SHARED_OWNER, "", 2), ["a", "shared:a", "u-bob-1:a"]);
    assert_eq!(listed(&*adapter, "colon", "u-bob-1", "", 2), ["a"]);
    assert_eq!(listed(&*adapter, "colon:u-bob-1", SHARED_OWNER, "", 2), ["a"]);
    let query = Query::changes("colon", Some(SHARED_OWNER), Cursor::start(), 10);
    assert_eq!(paths_of(&page(&*adapter, &query).rows), ["u-bob-1:a", "shared:a", "a"]);
}

/// Names and texts that break careless quoting, matching or encoding.
pub fn hostile_paths_come_back_unchanged(make: Make<'_>) {
    let adapter = make();
    let longest = "n".repeat(255);
    let paths = [
        "line\nbreak.md",
        "it's.md",
        "\"quoted\".md",
        "semi;colon--.md",
        "back\\slash.md",
        "100%.md",
        "under_score.md",
        "größe/日本語/🗂.md",
        "e\u{301}.md",
        "\u{e9}.md",
        " blank ",
        "tab\t",
        "\u{1b}[31m.md",
        "../up.md",
        "a//b",
        "$1 ?1 :x @y",
        "\u{10FFFF}",
        "\u{D7FF}",
        "\u{FFFD}",
        &longest,
    ];
    for path in paths {
        created(&*adapter, &text_record("hostile", path, &format!("text of {path}\r\n\t'\"")));
    }

    for path in paths {
        let row = row_of(&*adapter, &RecordId::new("hostile", SHARED_OWNER, path));
        assert_eq!((row.path.as_str(), row.content), (path, RowContent::Text(format!("text of {path}\r\n\t'\""))));
        assert_eq!(listed(&*adapter, "hostile", SHARED_OWNER, path, 10), [path]);
    }
    let mut sorted = paths.map(str::to_owned);
    sorted.sort();
    assert_eq!(listed(&*adapter, "hostile", SHARED_OWNER, "", 3), sorted);
    assert_eq!(feed(&*adapter, "hostile", Cursor::start(), 3).0.len(), paths.len());
}

/// A prefix has no wildcards, and case matters.
pub fn prefix_means_its_own_characters(make: Make<'_>) {
    let adapter = make();
    for path in ["a%b/1", "a_b/1", "axb/1", "a/1", "A/1", "a/1/2", "ab"] {
        created(&*adapter, &text_record("prefix", path, ""));
    }

    for (prefix, paths) in [
        ("a%", &["a%b/1"] as &[&str]),
        ("a_", &["a_b/1"]),
        ("a/", &["a/1", "a/1/2"]),
        ("A", &["A/1"]),
        ("a/1/2/3", &[]),
        ("", &["A/1", "a%b/1", "a/1", "a/1/2", "a_b/1", "ab", "axb/1"]),
    ] {
        assert_eq!(listed(&*adapter, "prefix", SHARED_OWNER, prefix, 2), paths, "prefix {prefix:?}");
    }
}

/// Nothing, everything, and much come back byte for byte.
pub fn empty_binary_and_8_mib_contents_come_back(make: Make<'_>) {
    let adapter = make();
    created(&*adapter, &text_record("contents", "empty.md", ""));
    created(&*adapter, &chunk_record("contents", "empty.bin", 0, &[]));
    let every_byte: Vec<u8> = (0..=255).collect();
    created(&*adapter, &chunk_record("contents", "bytes.bin", 0, &[&every_byte, b"", &every_byte]));
    let large: Vec<Vec<u8>> = (0..64u8).map(|n| vec![n ^ 0xA5; 128 * 1024]).collect();
    let chunks: Vec<&[u8]> = large.iter().map(Vec::as_slice).collect();
    created(&*adapter, &chunk_record("contents", "8mib.bin", 0, &chunks));

    let content = |path: &str| row_of(&*adapter, &RecordId::new("contents", SHARED_OWNER, path)).content;
    let read = |path: &str, first, count| {
        adapter.read_chunks(&RecordId::new("contents", SHARED_OWNER, path), first, count).expect("it is chunked")
    };
    assert_eq!(content("empty.md"), RowContent::Text(String::new()));
    assert_eq!(content("empty.bin"), RowContent::Chunked { chunk_count: 0, size_bytes: 0 });
    assert!(read("empty.bin", 0, 10).is_empty());
    assert_eq!(content("bytes.bin"), RowContent::Chunked { chunk_count: 3, size_bytes: 512 });
    assert_eq!(read("bytes.bin", 0, 3), [every_byte.clone(), Vec::new(), every_byte]);
    assert_eq!(content("8mib.bin"), RowContent::Chunked { chunk_count: 64, size_bytes: 8 << 20 });
    assert_eq!(read("8mib.bin", 0, u32::MAX), large);
    assert_eq!(read("8mib.bin", 63, 10), large[63..]);
    assert!(read("8mib.bin", 64, 1).is_empty());
}

/// A record has one form at a time, whichever way it turns, and the feed tells it once.
pub fn text_and_chunks_replace_each_other(make: Make<'_>) {
    let adapter = make();
    let id = RecordId::new("forms", SHARED_OWNER, "a");
    let mut revision = created(&*adapter, &text_record("forms", "a", "text"));

    for round in 0..2u8 {
        let chunks = chunk_record("forms", "a", 0, &[&[round, 0xFF]]);
        revision = written(&*adapter, &chunks, &Expected::Revision(revision));
        assert_eq!(row_of(&*adapter, &id).content, RowContent::Chunked { chunk_count: 1, size_bytes: 2 });
        assert_eq!(adapter.read_chunks(&id, 0, 9).expect("it is chunked"), [vec![round, 0xFF]]);

        revision = written(&*adapter, &text_record("forms", "a", "text"), &Expected::Revision(revision));
        assert_eq!(row_of(&*adapter, &id).content, RowContent::Text("text".to_owned()));
        refused(adapter.read_chunks(&id, 0, 9), ErrorKind::NotFound);
        assert_eq!(feed(&*adapter, "forms", Cursor::start(), 9).0.len(), 1);
        assert_eq!(listed(&*adapter, "forms", SHARED_OWNER, "", 9), ["a"]);
    }
}

/// An append sends its own length: what is kept is not written again.
pub fn kept_chunks_stay_and_the_tail_is_replaced(make: Make<'_>) {
    let adapter = make();
    let id = RecordId::new("append", SHARED_OWNER, "log.jsonl");
    let revision = created(&*adapter, &chunk_record("append", "log.jsonl", 0, &[b"aaaa", b"bbb", b"c"]));

    let grown = chunk_record("append", "log.jsonl", 2, &[b"cc", b"d"]);
    let revision = written(&*adapter, &grown, &Expected::Revision(revision));
    assert_eq!(row_of(&*adapter, &id).content, RowContent::Chunked { chunk_count: 4, size_bytes: 10 });
    assert_eq!(adapter.read_chunks(&id, 1, 9).expect("it is chunked"), [&b"bbb"[..], b"cc", b"d"]);

    let cut = chunk_record("append", "log.jsonl", 1, &[]);
    written(&*adapter, &cut, &Expected::Revision(revision));
    assert_eq!(row_of(&*adapter, &id).content, RowContent::Chunked { chunk_count: 1, size_bytes: 4 });
    assert_eq!(adapter.read_chunks(&id, 0, 9).expect("it is chunked"), [b"aaaa"]);
}

/// However small or large, single or many, chunks are what was written last after what was kept.
pub fn small_and_large_chunks_follow_each_other(make: Make<'_>) {
    let adapter = make();
    let id = RecordId::new("sizes", SHARED_OWNER, "a");
    let mut revision = None;
    let mut stands: Vec<Vec<u8>> = Vec::new();
    let sizes: [(usize, &[usize]); 12] = [
        (0, &[10]),
        (1, &[20]),
        (1, &[]),
        (0, &[30]),
        (0, &[9_000]),
        (1, &[5]),
        (2, &[8_192, 1]),
        (0, &[8_192]),
        (1, &[8_193]),
        (0, &[1, 1]),
        (0, &[]),
        (0, &[7]),
    ];
    for (round, (keep, add)) in sizes.into_iter().enumerate() {
        let byte = u8::try_from(round).expect("few rounds");
        stands.truncate(keep);
        let add: Vec<Vec<u8>> = add.iter().map(|len| vec![byte; *len]).collect();
        let added: Vec<&[u8]> = add.iter().map(Vec::as_slice).collect();
        stands.extend(add.iter().cloned());
        let expected = revision.map_or(Expected::Absent, Expected::Revision);
        let keep = u32::try_from(keep).expect("few chunks");
        revision = Some(written(&*adapter, &chunk_record("sizes", "a", keep, &added), &expected));

        let chunk_count = u32::try_from(stands.len()).expect("few chunks");
        let size_bytes = stands.iter().map(|chunk| chunk.len() as u64).sum();
        let content = RowContent::Chunked { chunk_count, size_bytes };
        assert_eq!(row_of(&*adapter, &id).content, content, "round {round}");
        for first in 0..=chunk_count {
            let chunks = adapter.read_chunks(&id, first, 9).expect("it is chunked");
            assert!(chunks == stands[first as usize..], "round {round}, from {first}");
        }
        assert!(adapter.read_chunks(&id, 0, 0).expect("it is chunked").is_empty(), "round {round}");
    }
}

/// Keeping what is not there means that another state stands.
pub fn keeping_chunks_that_are_not_there_conflicts(make: Make<'_>) {
    let adapter = make();
    let text = created(&*adapter, &text_record("keep", "a", "text"));
    let chunked = created(&*adapter, &chunk_record("keep", "b", 0, &[b"1"]));

    for (path, keep, expected) in [
        ("none", 1, Expected::Absent),
        ("a", 1, Expected::Revision(text)),
        ("b", 2, Expected::Revision(chunked.clone())),
    ] {
        refused(adapter.set(&chunk_record("keep", path, keep, &[b"2"]), &expected), ErrorKind::Conflict);
    }
    let row = row_of(&*adapter, &RecordId::new("keep", SHARED_OWNER, "b"));
    assert_eq!((row.content, row.revision), (RowContent::Chunked { chunk_count: 1, size_bytes: 1 }, chunked));
    assert!(matches!(adapter.get(&RecordId::new("keep", SHARED_OWNER, "none")), Ok(None)));
}

/// The longest text is taken, one byte more is refused; what no row can hold is refused by name.
pub fn limits_are_errors_with_the_bound(make: Make<'_>) {
    let adapter = make();
    let limit = adapter.capabilities().text_limit_bytes as usize;
    let longest = "é".repeat(limit / 2);
    created(&*adapter, &text_record("limits", "longest", &longest));

    let id = RecordId::new("limits", SHARED_OWNER, "longest");
    assert_eq!(row_of(&*adapter, &id).content, RowContent::Text(longest));
    let error = adapter.set(&text_record("limits", "longer", &"x".repeat(limit + 1)), &Expected::Absent);
    assert!(error.as_ref().is_err_and(|error| error.message.contains(&limit.to_string())), "{error:?}");
    refused(error, ErrorKind::TooLarge);
    let chunk = vec![0; adapter.capabilities().chunk_limit_bytes as usize + 1];
    refused(adapter.set(&chunk_record("limits", "chunk", 0, &[&chunk]), &Expected::Absent), ErrorKind::TooLarge);
    for record in
        [text_record("limits", "nul", "a\0b"), text_record("limits", "nul\0", ""), text_record("limits", "", "")]
    {
        refused(adapter.set(&record, &Expected::Absent), ErrorKind::Unsupported);
    }
    assert_eq!(adapter.capabilities().admits_text(b"a\0b"), None);
    assert_eq!(adapter.capabilities().admits_text(b"\xFF"), None);
    assert_eq!(adapter.capabilities().admits_text(b"text"), Some("text"));
}

/// An id that changed often is told once, at the place of its newest change.
pub fn feed_tells_each_change_once_with_its_newest_state(make: Make<'_>) {
    let adapter = make();
    let first = created(&*adapter, &text_record("feed", "a", "one"));
    created(&*adapter, &text_record("feed", "b", "one"));
    let (_, cursor) = feed(&*adapter, "feed", Cursor::start(), 9);
    let second = written(&*adapter, &text_record("feed", "a", "two"), &Expected::Revision(first));
    let third = written(&*adapter, &text_record("feed", "a", "three"), &Expected::Revision(second));

    let (all, end) = feed(&*adapter, "feed", Cursor::start(), 9);
    let (since, _) = feed(&*adapter, "feed", cursor, 9);

    assert_eq!(paths_of(&all), ["b", "a"]);
    assert_eq!(paths_of(&since), ["a"]);
    assert_eq!((&since[0].content, &since[0].revision), (&RowContent::Text("three".to_owned()), &third));
    assert_eq!(all[1], since[0]);
    assert!(feed(&*adapter, "feed", end, 9).0.is_empty());
}

/// Paging loses nothing and repeats nothing, whatever the page's length.
pub fn feed_is_complete_over_pages_of_1500_rows(make: Make<'_>) {
    let adapter = make();
    fill(&*adapter, "pages", 1500);

    for limit in [1500, 1000, 7] {
        let (rows, _) = feed(&*adapter, "pages", Cursor::start(), limit);
        let expected: Vec<String> = (0..1500).map(numbered_path).collect();
        assert_eq!(paths_of(&rows), expected, "pages of {limit}");
    }
    let mut names = Query::changes("pages", None, Cursor::start(), 2);
    names.with_content = false;
    assert!(page(&*adapter, &names).rows.iter().all(|row| row.content == RowContent::Unread));
}

fn numbered_path(n: usize) -> String {
    format!("dir{:02}/{n:05}.md", n / 100)
}

fn fill(adapter: &dyn FileSyncAdapter, app: &str, count: usize) {
    let write = |n| Write::Set {
        record: text_record(app, &numbered_path(n), &format!("text {n}")),
        expected: Expected::Absent,
    };
    let writes: Vec<Write> = (0..count).map(write).collect();
    for answer in adapter.write_batch(&writes) {
        answer.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// A reader that was away asks another handle from the text of its cursor and hears everything since.
pub fn feed_goes_on_from_a_cursor_kept_as_text(make: Make<'_>) {
    let reader = make();
    let writer = make();
    created(&*writer, &text_record("away", "before", ""));
    let (_, cursor) = feed(&*reader, "away", Cursor::start(), 9);
    let kept = cursor.as_str().to_owned();
    reader.close().expect("it closes");

    created(&*writer, &text_record("away", "meanwhile", ""));
    created(&*writer, &text_record("other", "noise", ""));

    let (rows, _) = feed(&*make(), "away", Cursor::from_text(kept), 9);
    assert_eq!(paths_of(&rows), ["meanwhile"]);
}

/// A deletion is a change like any other: told in its place, with nothing to read.
pub fn feed_tells_deletions(make: Make<'_>) {
    let adapter = make();
    let chunked = chunk_record("gone", "b", 0, &[b"1"]);
    let text = created(&*adapter, &text_record("gone", "a", "one"));
    let chunks = created(&*adapter, &chunked);
    let (_, cursor) = feed(&*adapter, "gone", Cursor::start(), 9);

    for (path, revision) in [("a", text), ("b", chunks)] {
        let id = RecordId::new("gone", SHARED_OWNER, path);
        adapter.delete(&id, &Expected::Revision(revision)).expect("the state was seen");
    }

    for after in [cursor, Cursor::start()] {
        let (rows, _) = feed(&*make(), "gone", after, 1);
        assert_eq!(paths_of(&rows), ["a", "b"]);
        assert!(rows.iter().all(|row| row.content == RowContent::Absent && row.mirror.is_none() && !row.is_foreign()));
    }
    assert!(listed(&*adapter, "gone", SHARED_OWNER, "", 9).is_empty());
}

/// What one space asks for holds no row of another app or owner, and its cursor passes theirs.
pub fn feed_of_a_space_holds_no_other_space(make: Make<'_>) {
    let adapter = make();
    let apps = ["space", "spac", "space-ledger", "spacf", "Space"];
    for app in apps {
        for owner in [SHARED_OWNER, "u-ann-1", "u-ann-12"] {
            created(&*adapter, &Record { owner: owner.to_owned(), ..text_record(app, &format!("{app}/{owner}"), "") });
        }
    }

    for (owner, expected) in [
        (Some(SHARED_OWNER), &["space/shared"] as &[&str]),
        (Some("u-ann-1"), &["space/u-ann-1"]),
        (Some("u-ann"), &[]),
        (None, &["space/shared", "space/u-ann-1", "space/u-ann-12"]),
    ] {
        let found = page(&*adapter, &Query::changes("space", owner, Cursor::start(), 9));
        assert_eq!(paths_of(&found.rows), expected, "owner {owner:?}");
        assert!(page(&*adapter, &Query::changes("space", owner, found.cursor, 9)).rows.is_empty());
    }
}

/// A cursor nobody here gave out tells everything rather than nothing.
pub fn unknown_cursor_begins_at_the_start(make: Make<'_>) {
    let adapter = make();
    created(&*adapter, &text_record("unknown", "a", ""));

    for text in ["another-database.17", "99999999999999", "-1", "nonsense"] {
        let (rows, _) = feed(&*adapter, "unknown", Cursor::from_text(text), 9);
        assert_eq!(paths_of(&rows), ["a"], "cursor {text:?}");
    }
}

/// A listing longer than a page is complete and in order.
pub fn paths_page_through_1500_rows_in_order(make: Make<'_>) {
    let adapter = make();
    fill(&*adapter, "listing", 1500);

    let expected: Vec<String> = (0..1500).map(numbered_path).collect();
    assert_eq!(listed(&*adapter, "listing", SHARED_OWNER, "", 1000), expected);
    assert_eq!(listed(&*adapter, "listing", SHARED_OWNER, "dir07/", 33), expected[700..800]);
}

/// A listing over every owner may be resumed after a path, so one path's rows stand on one page.
pub fn paths_over_every_owner_split_no_path(make: Make<'_>) {
    let adapter = make();
    for path in ["a", "b", "c:d"] {
        for owner in [SHARED_OWNER, "u-ann-1", "u-bob-2"] {
            created(&*adapter, &Record { owner: owner.to_owned(), ..text_record("all", path, "") });
        }
    }

    let (mut found, mut after): (Vec<(String, String)>, _) = (Vec::new(), None);
    loop {
        let select = Selection::Paths { prefix: String::new(), after };
        let query = Query { select, owner: None, ..Query::changes("all", None, Cursor::start(), 2) };
        let page = page(&*adapter, &query);
        found.extend(page.rows.into_iter().map(|row| (row.path, row.owner)));
        after = found.last().map(|(path, _)| path.clone());
        if !page.more {
            break;
        }
    }

    let owners = [SHARED_OWNER, "u-ann-1", "u-bob-2"];
    let expected = ["a", "b", "c:d"].iter().flat_map(|path| owners.map(|owner| ((*path).to_owned(), owner.to_owned())));
    assert_eq!(found, expected.collect::<Vec<_>>());
}

/// Ledger artifacts: chunk records without an entry, written once, listed by prefix, apart from the project's rows.
pub fn artifacts_are_listed_by_prefix_and_write_once(make: Make<'_>) {
    let adapter = make();
    let names: Vec<String> = (1..=5).map(|n| format!("shared/ann~1/checkpoints/cp-{n:016}.json")).collect();
    let artifact =
        |name: &str| Record { mirror: None, ..chunk_record("art-ledger", name, 0, &[b"{}", name.as_bytes()]) };
    for name in &names {
        created(&*adapter, &artifact(name));
    }
    created(&*adapter, &artifact("shared/ann~1/packs/00.pack"));

    refused(make().set(&artifact(&names[0]), &Expected::Absent), ErrorKind::Conflict);
    assert_eq!(listed(&*adapter, "art-ledger", SHARED_OWNER, "shared/ann~1/checkpoints/", 2), names);
    let query = Query::paths("art-ledger", SHARED_OWNER, "shared/ann~1/checkpoints/", Some(&names[3]), 9);
    assert_eq!(paths_of(&page(&*adapter, &query).rows), names[4..]);
    let chunks = adapter.read_chunks(&artifact(&names[2]).id(), 0, 9).expect("it is chunked");
    assert_eq!(chunks, [b"{}".to_vec(), names[2].clone().into_bytes()]);
    assert!(listed(&*adapter, "art", SHARED_OWNER, "", 9).is_empty());
}

/// What Larder wrote last is not foreign, in `get` and in the feed, over edits and both forms.
pub fn own_rows_are_not_foreign(make: Make<'_>) {
    let adapter = make();
    let text = created(&*adapter, &text_record("own", "a", "one"));
    written(&*adapter, &text_record("own", "a", "two"), &Expected::Revision(text));
    let chunks = created(&*adapter, &chunk_record("own", "b", 0, &[b"1"]));
    written(&*adapter, &chunk_record("own", "b", 1, &[b"2"]), &Expected::Revision(chunks));

    let (rows, _) = feed(&*make(), "own", Cursor::start(), 9);

    assert_eq!(paths_of(&rows), ["a", "b"]);
    assert!(rows.iter().all(|row| !row.is_foreign() && row.mirrored_revision.as_ref() == Some(&row.revision)));
    assert_eq!(rows[0].mirror, Some(mirror_of(b"two")));
}

/// Writing without an entry removes the one that stood.
pub fn record_without_mirror_has_no_entry(make: Make<'_>) {
    let adapter = make();
    let plain = Record { mirror: None, ..text_record("plain", "a", "one") };
    let revision = created(&*adapter, &text_record("plain", "a", "one"));

    let revision = written(&*adapter, &plain, &Expected::Revision(revision));

    let row = row_of(&*adapter, &plain.id());
    assert_eq!(
        (row.mirror.clone(), row.mirrored_revision.clone(), row.revision.clone()),
        (None, None, revision.clone())
    );
    assert_eq!(feed(&*adapter, "plain", Cursor::start(), 9).0, [row]);
    let mirrored = written(&*adapter, &text_record("plain", "a", "two"), &Expected::Revision(revision));
    assert_eq!(row_of(&*adapter, &plain.id()).mirrored_revision, Some(mirrored));
    assert_eq!(feed(&*adapter, "plain", Cursor::start(), 9).0.len(), 1);
}

/// One bad item never stops the others, whatever is bad about it.
pub fn batch_applies_the_others_when_one_fails(make: Make<'_>) {
    let adapter = make();
    let taken = created(&*adapter, &text_record("batch", "taken", "old"));
    let set = |path: &str, text: &str, expected| Write::Set { record: text_record("batch", path, text), expected };
    let too_long = "x".repeat(adapter.capabilities().text_limit_bytes as usize + 1);

    let answers = adapter.write_batch(&[
        set("a", "new", Expected::Absent),
        set("taken", "new", Expected::Absent),
        set("b", &too_long, Expected::Absent),
        Write::Delete { id: RecordId::new("batch", SHARED_OWNER, "none"), expected: Expected::Revision(taken.clone()) },
        set("c", "new", Expected::Absent),
        Write::Delete { id: RecordId::new("batch", SHARED_OWNER, "taken"), expected: Expected::Revision(taken) },
    ]);

    let kinds: Vec<Option<ErrorKind>> = answers.iter().map(|answer| answer.as_ref().err().map(|e| e.kind)).collect();
    let expected = [None, Some(ErrorKind::Conflict), Some(ErrorKind::TooLarge), Some(ErrorKind::NotFound), None, None];
    assert_eq!(kinds, expected);
    assert_eq!(listed(&*make(), "batch", SHARED_OWNER, "", 9), ["a", "c"]);
    let row = row_of(&*adapter, &RecordId::new("batch", SHARED_OWNER, "c"));
    assert_eq!(answers[4].as_ref().ok(), Some(&row.revision));
}

/// A sync that is put off is nobody else's business: rows, conflicts and the feed are there at once, and after the sync.
pub fn batch_that_is_synced_later_is_there_at_once(make: Make<'_>) {
    let (adapter, other) = (make(), make());
    let set =
        |path: &str, text: &str| Write::Set { record: text_record("later", path, text), expected: Expected::Absent };

    adapter.sync_writes().expect("nothing to sync is no error");
    let answers = adapter.write_batch_unsynced(&[set("a", "one"), set("b", "one"), set("a", "two")]);
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false]);
    let (rows, cursor) = feed(&*other, "later", Cursor::start(), 9);
    assert_eq!(paths_of(&rows), ["a", "b"]);

    adapter.sync_writes().expect("it syncs");
    adapter.sync_writes().expect("twice is once");
    let (rows, _) = feed(&*other, "later", cursor, 9);
    assert!(rows.is_empty(), "a sync is no change: {rows:?}");
    created(&*adapter, &text_record("later", "c", "after"));
    assert_eq!(listed(&*make(), "later", SHARED_OWNER, "", 9), ["a", "b", "c"]);
}

/// Where a new backend is filled in one go, each item fares as in a batch; where it is not, no item is taken.
pub fn filling_answers_as_a_batch_does_or_takes_nothing(make: Make<'_>) {
    let adapter = make();
    created(&*adapter, &text_record("fill", "taken", "old"));
    let set =
        |path: &str, text: &str| Write::Set { record: text_record("fill", path, text), expected: Expected::Absent };
    let too_long = "x".repeat(adapter.capabilities().text_limit_bytes as usize + 1);
    let delete = Write::Delete { id: RecordId::new("fill", SHARED_OWNER, "none"), expected: Expected::Absent };
    let mut writes =
        vec![set("a", "one"), set("taken", "new"), set("b", &too_long), delete, set("c", "three")].into_iter();

    let Some(answers) = adapter.fill(&mut writes) else {
        assert_eq!(writes.len(), 5, "nothing was taken");
        return;
    };
    assert_eq!(writes.len(), 0);
    let kinds: Vec<Option<ErrorKind>> = answers.iter().map(|answer| answer.as_ref().err().map(|e| e.kind)).collect();
    assert_eq!(kinds, [None, Some(ErrorKind::Conflict), Some(ErrorKind::TooLarge), None, None]);
    let (rows, _) = feed(&*make(), "fill", Cursor::start(), 9);
    assert_eq!(paths_of(&rows), ["taken", "a", "c"]);
    assert_eq!(answers[4].as_ref().ok(), Some(&rows[2].revision));
}

/// Items of one batch act in their order.
pub fn batch_sees_its_own_earlier_items(make: Make<'_>) {
    let adapter = make();
    let set = |text: &str| Write::Set { record: text_record("order", "a", text), expected: Expected::Absent };
    let delete = Write::Delete { id: RecordId::new("order", SHARED_OWNER, "a"), expected: Expected::Absent };

    let answers = adapter.write_batch(&[delete.clone(), set("one"), set("two"), delete]);

    let kinds: Vec<Option<ErrorKind>> = answers.iter().map(|answer| answer.as_ref().err().map(|e| e.kind)).collect();
    assert_eq!(kinds, [None, None, Some(ErrorKind::Conflict), Some(ErrorKind::Conflict)]);
    let row = row_of(&*adapter, &RecordId::new("order", SHARED_OWNER, "a"));
    assert_eq!(row.content, RowContent::Text("one".to_owned()));
    assert!(adapter.write_batch(&[]).is_empty());
}

/// The write of another handle is heard without asking: each of a row of them, one after the other.
pub fn another_handles_write_wakes_the_subscriber(make: Make<'_>) {
    let (reader, writer) = (make(), make());
    let (subscription, heard) = listen(&*reader, "wake", Cursor::start());

    let mut cursor = Cursor::start();
    for n in 0..5 {
        let path = format!("{n}");
        created(&*writer, &text_record("wake", &path, ""));
        // A wake may be left over from the change before: only an answer with the new row ends the wait.
        loop {
            assert_eq!(heard.recv_timeout(PATIENCE).expect("no wake came"), Wake::Changed);
            let (rows, next) = feed(&*reader, "wake", cursor, 9);
            cursor = next;
            if !rows.is_empty() {
                assert_eq!(paths_of(&rows), [path.as_str()]);
                break;
            }
        }
    }
    drop(subscription);
}

/// What changed between the cursor and the subscription is told at once.
pub fn late_subscriber_is_woken_for_what_it_missed(make: Make<'_>) {
    let (reader, writer) = (make(), make());
    let (_, cursor) = feed(&*reader, "missed", Cursor::start(), 9);
    created(&*writer, &text_record("missed", "a", ""));

    let (_subscription, heard) = listen(&*reader, "missed", cursor);

    assert_eq!(heard.recv_timeout(PATIENCE).expect("no wake came"), Wake::Changed);
}

/// After the drop the sink is gone: nothing can call it.
pub fn dropped_subscription_is_never_called_again(make: Make<'_>) {
    let (reader, writer) = (make(), make());
    let (subscription, heard) = listen(&*reader, "dropped", Cursor::start());

    drop(subscription);
    created(&*writer, &text_record("dropped", "a", ""));

    while let Ok(wake) = heard.recv() {
        assert_eq!(wake, Wake::Changed, "told before the drop, if at all");
    }
}

/// Closing is for one handle, and may be repeated.
pub fn closed_handle_refuses_and_leaves_the_others(make: Make<'_>) {
    let (closed, open) = (make(), make());
    closed.close().expect("it closes");
    closed.close().expect("it is closed");

    refused(closed.set(&text_record("closed", "a", ""), &Expected::Absent), ErrorKind::Unavailable);
    refused(closed.get(&RecordId::new("closed", SHARED_OWNER, "a")), ErrorKind::Unavailable);
    created(&*open, &text_record("closed", "a", ""));
}

/// A handle that is closed while others write through it ends their calls: what was acknowledged is there, what was not says so.
pub fn closing_amid_writes_loses_nothing_acknowledged(make: Make<'_>) {
    const WRITERS: usize = 4;
    const MOST: usize = 10_000;
    let shared = make();
    let (told, heard) = channel();
    let write = |writer: usize| {
        let told = told.clone();
        let shared = Arc::clone(&shared);
        move || {
            let mut done = Vec::new();
            for n in 0..MOST {
                let path = format!("{writer}/{n}");
                match shared.set(&text_record("cancel", &path, ""), &Expected::Absent) {
                    Ok(_) => done.push(path),
                    Err(error) => {
                        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
                        break;
                    }
                }
                // The first is waited for, the others are not.
                let _ = told.send(());
            }
            done
        }
    };

    let done: Vec<String> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(write(writer))).collect();
        heard.recv_timeout(PATIENCE).expect("somebody writes");
        shared.close().expect("it closes");
        writers.into_iter().flat_map(|writer| writer.join().expect("a writer panicked")).collect()
    });

    assert!(!done.is_empty() && done.len() < WRITERS * MOST, "{} rows", done.len());
    let there = listed(&*make(), "cancel", SHARED_OWNER, "", 1000);
    assert!(done.iter().all(|path| there.contains(path)), "{} acknowledged, {} there", done.len(), there.len());
}

/// A row somebody else made is told, as foreign and without an entry.
pub fn foreign_insert_is_told_and_has_no_entry(make: Make<'_>, hand: &dyn ForeignHand) {
    let adapter = make();
    let (_, cursor) = feed(&*adapter, "f-insert", Cursor::start(), 9);

    hand.put("f-insert", "a", "theirs");

    let (rows, _) = feed(&*adapter, "f-insert", cursor, 9);
    assert_eq!(paths_of(&rows), ["a"]);
    assert_eq!((&rows[0].content, &rows[0].mirror), (&RowContent::Text("theirs".to_owned()), &None));
    assert!(rows[0].is_foreign());
    refused(adapter.set(&text_record("f-insert", "a", "ours"), &Expected::Absent), ErrorKind::Conflict);
    assert_eq!(row_of(&*adapter, &rows[0].id), rows[0]);
}

/// A row somebody else edited keeps its entry, and nobody who saw the old state can overwrite it.
pub fn foreign_edit_keeps_the_entry_and_breaks_the_revision(make: Make<'_>, hand: &dyn ForeignHand) {
    let adapter = make();
    let ours = text_record("f-edit", "a", "ours");
    let revision = created(&*adapter, &ours);
    let (_, cursor) = feed(&*adapter, "f-edit", Cursor::start(), 9);

    hand.put("f-edit", "a", "theirs");

    let (rows, _) = feed(&*adapter, "f-edit", cursor, 9);
    assert_eq!(rows, [row_of(&*adapter, &ours.id())]);
    assert_eq!(rows[0].content, RowContent::Text("theirs".to_owned()));
    assert_eq!((&rows[0].mirror, &rows[0].mirrored_revision), (&ours.mirror, &Some(revision.clone())));
    assert!(rows[0].is_foreign());
    refused(adapter.set(&ours, &Expected::Revision(revision)), ErrorKind::Conflict);
    assert_eq!(feed(&*adapter, "f-edit", Cursor::start(), 9).0.len(), 1);
}

/// An edit and its undo leave a foreign revision over the mirrored bytes, told once.
pub fn foreign_edit_and_its_undo_are_one_change(make: Make<'_>, hand: &dyn ForeignHand) {
    let adapter = make();
    created(&*adapter, &text_record("f-undo", "a", "ours"));
    let (_, cursor) = feed(&*adapter, "f-undo", Cursor::start(), 9);

    hand.put("f-undo", "a", "theirs");
    hand.put("f-undo", "a", "ours");

    let (rows, _) = feed(&*adapter, "f-undo", cursor, 9);
    assert_eq!(paths_of(&rows), ["a"]);
    assert_eq!((&rows[0].content, rows[0].is_foreign()), (&RowContent::Text("ours".to_owned()), true));
}

/// A row somebody else deleted leaves its entry standing, until the delete is taken in.
pub fn foreign_delete_leaves_the_entry_until_it_is_acknowledged(make: Make<'_>, hand: &dyn ForeignHand) {
    let adapter = make();
    let ours = text_record("f-delete", "a", "ours");
    let revision = created(&*adapter, &ours);
    let (_, cursor) = feed(&*adapter, "f-delete", Cursor::start(), 9);

    hand.delete("f-delete", "a");

    let (rows, cursor) = feed(&*adapter, "f-delete", cursor, 9);
    assert_eq!(rows, [row_of(&*adapter, &ours.id())]);
    assert_eq!((&rows[0].content, &rows[0].mirror), (&RowContent::Absent, &ours.mirror));
    assert!(rows[0].is_foreign());
    refused(adapter.delete(&ours.id(), &Expected::Revision(revision)), ErrorKind::Conflict);
    adapter.delete(&ours.id(), &Expected::Revision(rows[0].revision.clone())).expect("the state was seen");
    assert!(matches!(adapter.get(&ours.id()), Ok(None)));
    let (rows, _) = feed(&*adapter, "f-delete", cursor, 9);
    assert_eq!(rows.len(), 1);
    assert!(rows[0].content == RowContent::Absent && !rows[0].is_foreign());
}

/// Writing over the state that was seen makes a foreign row ours again.
pub fn foreign_row_is_taken_in_by_writing_it(make: Make<'_>, hand: &dyn ForeignHand) {
    let adapter = make();
    hand.put("f-take", "a", "theirs");
    let id = RecordId::new("f-take", SHARED_OWNER, "a");
    let seen = row_of(&*adapter, &id).revision;

    written(&*adapter, &text_record("f-take", "a", "theirs"), &Expected::Revision(seen));

    let (rows, cursor) = feed(&*adapter, "f-take", Cursor::start(), 9);
    assert_eq!(paths_of(&rows), ["a"]);
    assert!(!rows[0].is_foreign());
    hand.put("f-take", "a", "theirs again");
    assert!(row_of(&*adapter, &id).is_foreign());
    assert_eq!(feed(&*adapter, "f-take", cursor, 9).0.len(), 1);
}

/// Who saw the deletion (or nothing at all) may write there; who saw the row may not.
pub fn foreign_delete_is_overwritten_only_by_who_saw_it(make: Make<'_>, hand: &dyn ForeignHand) {
    let adapter = make();
    let ours = text_record("f-over", "a", "ours");
    let revision = created(&*adapter, &ours);
    hand.delete("f-over", "a");

    refused(adapter.set(&ours, &Expected::Revision(revision)), ErrorKind::Conflict);
    let seen = row_of(&*adapter, &ours.id()).revision;
    written(&*adapter, &ours, &Expected::Revision(seen));

    assert!(!row_of(&*adapter, &ours.id()).is_foreign());
    hand.delete("f-over", "a");
    created(&*adapter, &ours);
    assert!(!row_of(&*adapter, &ours.id()).is_foreign());
    assert_eq!(feed(&*adapter, "f-over", Cursor::start(), 9).0.len(), 1);
}

/// A text somebody else put where chunks are is what the record holds now.
pub fn foreign_text_over_chunks_is_the_content(make: Make<'_>, hand: &dyn ForeignHand) {
    let adapter = make();
    let chunks = chunk_record("f-chunks", "a", 0, &[b"1"]);
    let revision = created(&*adapter, &chunks);

    hand.put("f-chunks", "a", "theirs");

    let row = row_of(&*adapter, &chunks.id());
    assert_eq!((&row.content, row.is_foreign()), (&RowContent::Text("theirs".to_owned()), true));
    refused(adapter.set(&chunks, &Expected::Revision(revision)), ErrorKind::Conflict);
    written(&*adapter, &text_record("f-chunks", "a", "theirs"), &Expected::Revision(row.revision));
    assert_eq!(listed(&*adapter, "f-chunks", SHARED_OWNER, "", 9), ["a"]);
    refused(adapter.read_chunks(&chunks.id(), 0, 1), ErrorKind::NotFound);
}
