//! What the failing backend promises to those who test with it.

use std::sync::Arc;
use std::sync::mpsc::channel;

use larder_adapters::contract::text_record;
use larder_adapters::{
    Cursor, ErrorKind, Expected, Fault, FaultRates, FaultyAdapter, FileSyncAdapter, MemoryAdapter, Query, RowContent,
    Wake, Write,
};

fn faulty(seed: u64, rates: FaultRates) -> (FaultyAdapter, MemoryAdapter) {
    let store = MemoryAdapter::new();
    (FaultyAdapter::new(Arc::new(store.clone()), seed, rates), store)
}

fn kind<T>(answer: Result<T, larder_adapters::AdapterError>) -> Option<ErrorKind> {
    answer.err().map(|error| error.kind)
}

#[test]
fn scripted_fault_meets_the_nth_call_only() {
    let (adapter, store) = faulty(1, FaultRates::default());
    let record = text_record("app", "a", "one");
    adapter.fail_nth(2, Fault::ErrorBefore);
    adapter.fail_nth(3, Fault::Throttled(70));
    adapter.fail_nth(4, Fault::Refused(ErrorKind::Denied));

    assert!(adapter.get(&record.id()).is_ok());
    assert_eq!(kind(adapter.set(&record, &Expected::Absent)), Some(ErrorKind::Unavailable));
    assert_eq!(kind(adapter.set(&record, &Expected::Absent)), Some(ErrorKind::Throttled { retry_after_ms: 70 }));
    assert_eq!(kind(adapter.set(&record, &Expected::Absent)), Some(ErrorKind::Denied));
    assert!(matches!(store.get(&record.id()), Ok(None)));
    assert!(adapter.set(&record, &Expected::Absent).is_ok());
    assert_eq!(adapter.call_count(), 5);
}

#[test]
fn lost_answer_means_written_and_its_retry_conflicts() {
    let (adapter, _) = faulty(1, FaultRates::default());
    let record = text_record("app", "a", "mine");
    adapter.fail_nth(1, Fault::ErrorAfter);

    assert_eq!(kind(adapter.set(&record, &Expected::Absent)), Some(ErrorKind::Unavailable));
    assert_eq!(kind(adapter.set(&record, &Expected::Absent)), Some(ErrorKind::Conflict));

    let row = adapter.get(&record.id()).expect("no fault is left").expect("it was written");
    assert_eq!((row.content, row.mirror), (RowContent::Text("mine".to_owned()), record.mirror));
}

#[test]
fn delayed_write_arrives_before_a_later_call_and_loses_to_who_came_first() {
    let (adapter, store) = faulty(1, FaultRates::default());
    let (late, first) = (text_record("app", "a", "late"), text_record("app", "a", "first"));
    adapter.fail_nth(1, Fault::Delayed(3));
    adapter.fail_nth(5, Fault::Delayed(1_000));

    assert_eq!(kind(adapter.set(&late, &Expected::Absent)), Some(ErrorKind::Unavailable));
    assert!(matches!(adapter.get(&late.id()), Ok(None)));
    assert!(adapter.set(&first, &Expected::Absent).is_ok());
    let row = adapter.get(&late.id()).expect("no fault is left").expect("it was written");
    assert_eq!(row.content, RowContent::Text("first".to_owned()));

    let other = text_record("app", "b", "late");
    assert!(adapter.set(&other, &Expected::Absent).is_err());
    assert!(matches!(store.get(&other.id()), Ok(None)));
    adapter.release_writes();
    assert!(matches!(store.get(&other.id()), Ok(Some(_))));
}

#[test]
fn repeated_write_happens_once_and_conflicts_with_itself() {
    let (adapter, store) = faulty(1, FaultRates::default());
    let record = text_record("app", "a", "mine");
    adapter.fail_nth(1, Fault::Repeated);

    assert_eq!(kind(adapter.set(&record, &Expected::Absent)), Some(ErrorKind::Conflict));

    let page = store.query(&Query::changes("app", None, Cursor::start(), 9)).expect("memory does not fail");
    assert_eq!(page.cursor.as_str(), "1");
}

#[test]
fn backend_that_goes_away_after_some_calls_answers_none_until_it_comes_back() {
    let (adapter, store) = faulty(1, FaultRates::default());
    let record = text_record("app", "a", "one");
    adapter.go_away_after(1);

    assert!(adapter.set(&record, &Expected::Absent).is_ok());
    assert_eq!(kind(adapter.delete(&record.id(), &Expected::Absent)), Some(ErrorKind::Unavailable));
    assert_eq!(kind(adapter.get(&record.id())), Some(ErrorKind::Unavailable));
    adapter.come_back();

    assert!(matches!(adapter.get(&record.id()), Ok(Some(_))));
    assert!(matches!(store.get(&record.id()), Ok(Some(_))));
}

#[test]
fn each_item_of_a_batch_is_a_call() {
    let (adapter, store) = faulty(1, FaultRates::default());
    adapter.fail_nth(2, Fault::ErrorBefore);
    let set = |path| Write::Set { record: text_record("app", path, ""), expected: Expected::Absent };

    let answers = adapter.write_batch(&[set("a"), set("b"), set("c")]);

    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    let page = store.query(&Query::paths("app", "shared", "", None, 9)).expect("memory does not fail");
    assert_eq!(page.rows.len(), 2);
}

#[test]
fn one_seed_tells_one_story() {
    let story = |seed| {
        let (adapter, _) = faulty(seed, FaultRates::rough());
        let set = |n: u32| kind(adapter.set(&text_record("app", &n.to_string(), ""), &Expected::Absent));
        (0..300).map(set).collect::<Vec<_>>()
    };

    assert_eq!(story(7), story(7));
    assert_ne!(story(7), story(8));
    assert!(story(7).contains(&None) && story(7).contains(&Some(ErrorKind::Unavailable)));
}

#[test]
fn retrying_by_compare_and_set_gets_everything_through_once() {
    for seed in 0..20 {
        let (adapter, store) = faulty(seed, FaultRates::rough());

        for n in 0..100 {
            let record = text_record("app", &n.to_string(), &format!("text {n}"));
            let done = (0..50).any(|_| match adapter.set(&record, &Expected::Absent) {
                Ok(_) => true,
                Err(error) => error.kind == ErrorKind::Conflict,
            });
            assert!(done, "seed {seed}: row {n} never came through");
        }

        let page = store.query(&Query::changes("app", None, Cursor::start(), 1000)).expect("memory does not fail");
        assert_eq!(page.rows.len(), 100, "seed {seed}");
        assert_eq!(page.cursor.as_str(), "100", "seed {seed}: something was written twice");
    }
}

#[test]
fn wakes_are_repeated_delayed_and_dropped_as_told() {
    let wakes_of = |rates: FaultRates| {
        let (adapter, store) = faulty(1, rates);
        let (told, heard) = channel();
        let sink = Box::new(move |wake| told.send(wake).expect("the test listens"));
        let query = Query::changes("app", None, Cursor::start(), 1);
        let subscription = adapter.subscribe(&query, Cursor::start(), sink).expect("memory can");
        store.set(&text_record("app", "a", ""), &Expected::Absent).expect("memory does not fail");
        let at_once = heard.try_iter().count();
        adapter.call_count();
        adapter.get(&text_record("app", "a", "").id()).expect("no call fails");
        let later = heard.try_iter().filter(|wake| *wake == Wake::Changed).count();
        drop(subscription);
        (at_once, later)
    };

    assert_eq!(wakes_of(FaultRates::default()), (1, 0));
    assert_eq!(wakes_of(FaultRates { wake_repeated: 1000, ..FaultRates::default() }), (2, 0));
    assert_eq!(wakes_of(FaultRates { wake_delayed: 1000, ..FaultRates::default() }), (0, 1));
    assert_eq!(wakes_of(FaultRates { wake_dropped: 1000, ..FaultRates::default() }), (0, 0));
}
