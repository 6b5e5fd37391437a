//! The laws of a transport, as a table. Every transport runs all of them; so can a check against a live service.
//!
//! Invariant: a law uses nothing but the trait, never sleeps, and gets a fresh, empty place.

use std::sync::Arc;

use super::{Cancel, Depth, ListRequest, Listing, Put, Transport, TransportErrorKind, WaitHint, Wake};

/// Opens one more handle on a place.
pub type Visit = Box<dyn Fn() -> Arc<dyn Transport>>;
/// What a law says when it is broken.
pub type Verdict = Result<(), String>;
/// One law.
pub type Law = fn(&dyn Fn() -> Arc<dyn Transport>) -> Verdict;

/// Every law with its name. Names used are below `app/`.
pub const LAWS: &[(&str, Law)] = &[
    ("what_was_put_is_got_byte_for_byte", what_was_put_is_got_byte_for_byte),
    ("the_same_bytes_again_change_nothing", the_same_bytes_again_change_nothing),
    ("other_bytes_under_a_name_are_a_conflict", other_bytes_under_a_name_are_a_conflict),
    ("what_was_put_later_is_there_once_it_is_settled", what_was_put_later_is_there_once_it_is_settled),
    ("settling_says_if_other_bytes_came_first", settling_says_if_other_bytes_came_first),
    ("a_missing_name_is_not_found", a_missing_name_is_not_found),
    ("a_range_gives_what_exists_of_it", a_range_gives_what_exists_of_it),
    ("more_than_the_bound_is_too_large", more_than_the_bound_is_too_large),
    ("names_come_in_byte_order", names_come_in_byte_order),
    ("pages_join_to_the_whole_listing", pages_join_to_the_whole_listing),
    ("children_name_each_folder_once", children_name_each_folder_once),
    ("a_listing_goes_on_after_a_text_that_is_no_name", a_listing_goes_on_after_a_text_that_is_no_name),
    ("a_prefix_is_a_folder_not_a_beginning", a_prefix_is_a_folder_not_a_beginning),
    ("nothing_below_a_prefix_is_an_empty_page", nothing_below_a_prefix_is_an_empty_page),
    ("hostile_names_are_not_stored", hostile_names_are_not_stored),
    ("of_racing_writers_one_writes", of_racing_writers_one_writes),
    ("a_put_elsewhere_wakes_and_an_own_one_does_not", a_put_elsewhere_wakes_and_an_own_one_does_not),
    ("a_sleeping_waiter_is_woken", a_sleeping_waiter_is_woken),
    ("a_cancelled_wait_ends", a_cancelled_wait_ends),
    ("a_label_is_there", a_label_is_there),
    ("what_is_taken_away_is_gone_and_may_come_back", what_is_taken_away_is_gone_and_may_come_back),
];

/// Runs every law, each on a place of its own, and names all that are broken.
///
/// Panics: if any is; for tests.
pub fn run(fresh: &dyn Fn() -> Visit) {
    let broken: Vec<String> =
        LAWS.iter().filter_map(|(name, law)| law(&*fresh()).err().map(|why| format!("{name}: {why}"))).collect();
    assert!(broken.is_empty(), "broken laws:\n{}", broken.join("\n"));
}

const BIG: u64 = 1 << 30;

macro_rules! same {
    ($left:expr, $right:expr) => {{
        let (left, right) = (&$left, &$right);
        if left != right {
            return Err(format!("{} is {left:?}, not {right:?}", stringify!($left)));
        }
    }};
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn fill(place: &Arc<dyn Transport>, names: &[&str]) -> Verdict {
    names.iter().try_for_each(|name| place.put_new(name, name.as_bytes()).map(|_| ()).map_err(text))
}

fn whole(names: &[&str]) -> Listing {
    Listing { names: names.iter().map(|&name| name.to_owned()).collect(), more: false }
}

fn what_was_put_is_got_byte_for_byte(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let (ours, theirs) = (visit(), visit());
    let big: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let bodies: [(&str, &[u8]); 4] =
        [("app/empty", b""), ("app/zero", b"\0"), ("app/d/e/text", b"caf\xe9"), ("app/big", &big)];
    for (name, bytes) in bodies {
        same!(ours.put_new(name, bytes).map_err(text)?, Put::Written);
        if theirs.get(name, None, BIG).map_err(text)? != bytes {
            return Err(format!("{name} came back with other bytes"));
        }
    }
    Ok(())
}

fn the_same_bytes_again_change_nothing(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let (ours, theirs) = (visit(), visit());
    same!(ours.put_new("app/a", b"1").map_err(text)?, Put::Written);
    same!(ours.put_new("app/a", b"1").map_err(text)?, Put::AlreadyThere);
    same!(theirs.put_new("app/a", b"1").map_err(text)?, Put::AlreadyThere);
    same!(ours.get("app/a", None, BIG).map_err(text)?, b"1".to_vec());
    Ok(())
}

fn other_bytes_under_a_name_are_a_conflict(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let (ours, theirs) = (visit(), visit());
    ours.put_new("app/a", b"first").map_err(text)?;
    for bytes in [&b"other"[..], b"", b"first and more", b"firs"] {
        same!(theirs.put_new("app/a", bytes).map_err(|e| e.kind), Err(TransportErrorKind::Conflict));
    }
    same!(theirs.get("app/a", None, BIG).map_err(text)?, b"first".to_vec());
    Ok(())
}

fn what_was_put_later_is_there_once_it_is_settled(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let (ours, theirs) = (visit(), visit());
    ours.put_new("app/d/before", b"0").map_err(text)?;
    ours.settle_puts().map_err(text)?;
    let names: Vec<String> = (0..40).map(|n| format!("app/d{}/e/{n:02}", n % 3)).collect();
    for name in &names {
        same!(ours.put_later(name, name.as_bytes()).map_err(text)?, Put::Written);
    }
    same!(ours.put_later("app/d/before", b"0").map_err(text)?, Put::AlreadyThere);
    same!(ours.put_later("app/d/before", b"1").map_err(|e| e.kind), Err(TransportErrorKind::Conflict));

    ours.settle_puts().map_err(text)?;

    for name in &names {
        same!(theirs.get(name, None, BIG).map_err(text)?, name.as_bytes().to_vec());
        same!(theirs.put_later(name, name.as_bytes()).map_err(text)?, Put::AlreadyThere);
    }
    theirs.settle_puts().map_err(text)?;
    same!(theirs.get("app/d/before", None, BIG).map_err(text)?, b"0".to_vec());
    // Nothing is left to be put.
    ours.settle_puts().map_err(text)
}

fn settling_says_if_other_bytes_came_first(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let (ours, theirs) = (visit(), visit());
    let later = ours.put_later("app/d/a", b"ours").map_err(text)?;
    same!(later, Put::Written);
    let first = theirs.put_new("app/d/a", b"theirs");
    match (first, ours.settle_puts()) {
        // It was put at once.
        (Err(error), Ok(())) => same!(error.kind, TransportErrorKind::Conflict),
        (Ok(Put::Written), Err(error)) => same!(error.kind, TransportErrorKind::Conflict),
        other => return Err(format!("both or none were told that they came first: {other:?}")),
    }
    let stands = theirs.get("app/d/a", None, BIG).map_err(text)?;
    same!(ours.get("app/d/a", None, BIG).map_err(text)?, stands);
    same!(stands == b"ours" || stands == b"theirs", true);
    theirs.put_later("app/d/b", b"same").and_then(|_| ours.put_new("app/d/b", b"same")).map_err(text)?;
    theirs.settle_puts().map_err(text)?;
    same!(ours.get("app/d/b", None, BIG).map_err(text)?, b"same".to_vec());
    Ok(())
}

fn a_missing_name_is_not_found(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let place = visit();
    fill(&place, &["app/d/a"])?;
    for name in ["app/none", "app/d", "app/d/", "app/d/a/b", "app", "other/d/a", ""] {
        same!(place.get(name, None, BIG).map_err(|e| e.kind), Err(TransportErrorKind::NotFound));
    }
    Ok(())
}

fn a_range_gives_what_exists_of_it(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let place = visit();
    let bytes: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    place.put_new("app/a", &bytes).map_err(text)?;
    for (range, expected) in [
        (0..0, 0..0),
        (0..10, 0..10),
        (100_000..150_000, 100_000..150_000),
        (199_990..300_000, 199_990..200_000),
        (200_000..200_010, 0..0),
        (u64::MAX - 1..u64::MAX, 0..0),
    ] {
        let got = place.get("app/a", Some(range.clone()), 100_000).map_err(text)?;
        if got != bytes[expected] {
            return Err(format!("{range:?} gave {} bytes that are not those", got.len()));
        }
    }
    Ok(())
}

fn more_than_the_bound_is_too_large(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let place = visit();
    place.put_new("app/a", &[7; 100_000]).map_err(text)?;
    same!(place.get("app/a", None, 99_999).map_err(|e| e.kind), Err(TransportErrorKind::TooLarge));
    same!(place.get("app/a", Some(0..50), 49).map_err(|e| e.kind), Err(TransportErrorKind::TooLarge));
    same!(place.get("app/a", None, 100_000).map_err(text)?.len(), 100_000);
    Ok(())
}

fn names_come_in_byte_order(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let place = visit();
    fill(&place, &["app/b", "app/a/z", "app/a-b/c", "app/a~1/x", "app/B", "app/a.b", "app/10", "app/9"])?;
    let listing = place.list(&ListRequest::new("app/", Depth::All)).map_err(text)?;
    same!(listing, whole(&["app/10", "app/9", "app/B", "app/a-b/c", "app/a.b", "app/a/z", "app/a~1/x", "app/b"]));
    let children = place.list(&ListRequest::new("app/", Depth::Children)).map_err(text)?;
    same!(children, whole(&["app/10", "app/9", "app/B", "app/a-b/", "app/a.b", "app/a/", "app/a~1/", "app/b"]));
    Ok(())
}

fn pages_join_to_the_whole_listing(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let place = visit();
    let names: Vec<String> = (0..23).map(|n| format!("app/d{}/f{n:02}", n % 7)).collect();
    fill(&place, &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    for depth in [Depth::All, Depth::Children] {
        let all = place.list(&ListRequest::new("app/", depth)).map_err(text)?.names;
        same!(all.len(), if depth == Depth::All { 23 } else { 7 });
        for limit in [1, 2, 7, 22, 23, 24] {
            let mut request = ListRequest { limit, ..ListRequest::new("app/", depth) };
            let mut joined = Vec::new();
            // One page more than there can be: a listing that never ends is broken.
            for _ in 0..25 {
                let page = place.list(&request).map_err(text)?;
                let count = page.names.len();
                joined.extend(page.names);
                if count > limit || (page.more && count == 0) {
                    return Err(format!("a page of {limit} had {count} names"));
                }
                if !page.more {
                    break;
                }
                request.after = joined.last().cloned();
            }
            same!(joined, all);
        }
    }
    Ok(())
}

fn children_name_each_folder_once(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let place = visit();
    fill(&place, &["app/s/c~1/packs/1", "app/s/c~1/packs/2", "app/s/c~2/packs/1", "app/s/f", "app/t/x"])?;
    let listing = place.list(&ListRequest::new("app/s/", Depth::Children)).map_err(text)?;
    same!(listing, whole(&["app/s/c~1/", "app/s/c~2/", "app/s/f"]));
    let request = ListRequest::new("app/s/", Depth::Children);
    for (after, expected) in [
        ("app/s/c~1/", &["app/s/c~2/", "app/s/f"][..]),
        ("app/s/c~1/packs/1", &["app/s/c~2/", "app/s/f"]),
        ("app/s/f", &[]),
    ] {
        same!(place.list(&request.clone().after(after)).map_err(text)?, whole(expected));
    }
    Ok(())
}

fn a_listing_goes_on_after_a_text_that_is_no_name(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let place = visit();
    fill(&place, &["app/c/cp-1-a", "app/c/cp-2-a", "app/c/cp-2-b", "app/c/cp-3-a"])?;
    let request = ListRequest::new("app/c/", Depth::All);
    let from_two = place.list(&request.clone().after("app/c/cp-2-")).map_err(text)?;
    same!(from_two, whole(&["app/c/cp-2-a", "app/c/cp-2-b", "app/c/cp-3-a"]));
    same!(place.list(&request.clone().after("app/a")).map_err(text)?.names.len(), 4);
    same!(place.list(&request.after("app/d")).map_err(text)?, Listing::default());
    Ok(())
}

fn a_prefix_is_a_folder_not_a_beginning(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let place = visit();
    fill(&place, &["app/ab/x", "app/a/x", "app/a%/x", "app/a_/x"])?;
    for folder in ["app/a/", "app/a%/", "app/a_/"] {
        let listing = place.list(&ListRequest::new(folder, Depth::All)).map_err(text)?;
        same!(listing.names, vec![format!("{folder}x")]);
    }
    Ok(())
}

fn nothing_below_a_prefix_is_an_empty_page(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let place = visit();
    same!(place.list(&ListRequest::new("app/", Depth::All)).map_err(text)?, Listing::default());
    fill(&place, &["app/a"])?;
    for prefix in ["app/none/", "app/a/", "other/", "app/../"] {
        for depth in [Depth::All, Depth::Children] {
            same!(place.list(&ListRequest::new(prefix, depth)).map_err(text)?, Listing::default());
        }
    }
    same!(place.list(&ListRequest::new("", Depth::Children)).map_err(text)?, whole(&["app/"]));
    Ok(())
}

fn hostile_names_are_not_stored(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let place = visit();
    let long = format!("app/{}", "x".repeat(256));
    let names =
        ["", "/app/a", "app/", "app//a", "app/../a", "../app/a", "app/./a", "app/a\\b", "app/\n", "app/\0", &long];
    for name in names {
        same!(place.put_new(name, b"x").map_err(|e| e.kind), Err(TransportErrorKind::Unsupported));
    }
    same!(place.list(&ListRequest::new("", Depth::All)).map_err(text)?, Listing::default());
    Ok(())
}

fn of_racing_writers_one_writes(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let writers: Vec<Arc<dyn Transport>> = (0..4).map(|_| visit()).collect();
    let outcomes: Vec<Result<Put, TransportErrorKind>> = std::thread::scope(|scope| {
        let race = |writer: &Arc<dyn Transport>, body: u8| {
            let writer = writer.clone();
            scope.spawn(move || writer.put_new("app/a", &[body]).map_err(|e| e.kind))
        };
        let running: Vec<_> = writers.iter().zip([1, 1, 2, 2]).map(|(writer, body)| race(writer, body)).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    same!(count(Ok(Put::Written)), 1);
    same!(count(Ok(Put::AlreadyThere)), 1);
    same!(count(Err(TransportErrorKind::Conflict)), 2);
    Ok(())
}

fn hint(timeout_ms: u64) -> WaitHint {
    WaitHint { timeout_ms, cancel: Cancel::new() }
}

/// False for a place that says it cannot tell of news; then nobody waits there.
fn tells(place: &Arc<dyn Transport>) -> bool {
    !matches!(place.wait(&hint(0)), Err(error) if error.kind == TransportErrorKind::Unsupported)
}

fn a_put_elsewhere_wakes_and_an_own_one_does_not(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let (ours, theirs) = (visit(), visit());
    if !tells(&ours) {
        return Ok(());
    }
    same!(ours.wait(&hint(0)).map_err(text)?, Wake::Timeout);
    ours.put_new("app/own", b"1").map_err(text)?;
    same!(ours.wait(&hint(0)).map_err(text)?, Wake::Timeout);
    theirs.put_new("app/theirs", b"1").map_err(text)?;
    // A place may tell with a delay, so this one really waits; the bound is for a broken transport.
    same!(ours.wait(&hint(30_000)).map_err(text)?, Wake::Changed);
    same!(ours.wait(&hint(0)).map_err(text)?, Wake::Timeout);
    Ok(())
}

fn a_sleeping_waiter_is_woken(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let (ours, theirs) = (visit(), visit());
    if !tells(&ours) {
        return Ok(());
    }
    let waiter = std::thread::spawn(move || ours.wait(&hint(30_000)));
    theirs.put_new("app/a", b"1").map_err(text)?;
    let wake = waiter.join().map_err(|_| "the waiter panicked".to_owned())?;
    same!(wake.map_err(text)?, Wake::Changed);
    Ok(())
}

fn a_cancelled_wait_ends(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let place = visit();
    if !tells(&place) {
        return Ok(());
    }
    let sleeping = hint(600_000);
    let cancel = sleeping.cancel.clone();
    let waiter = std::thread::spawn(move || place.wait(&sleeping));
    cancel.cancel();
    let wake = waiter.join().map_err(|_| "the waiter panicked".to_owned())?;
    same!(wake.map_err(text)?, Wake::Cancelled);
    Ok(())
}

fn a_label_is_there(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    if visit().label().is_empty() { Err("it is empty".to_owned()) } else { Ok(()) }
}

/// Where nothing can be taken away the law holds.
fn what_is_taken_away_is_gone_and_may_come_back(visit: &dyn Fn() -> Arc<dyn Transport>) -> Verdict {
    let (place, other) = (visit(), visit());
    let Some(removing) = place.removing() else { return Ok(()) };
    fill(&place, &["app/a/x", "app/a/y"])?;

    removing.remove("app/a/x").map_err(text)?;
    removing.remove("app/a/x").map_err(|error| format!("what is not there is done: {error}"))?;

    same!(other.get("app/a/x", None, BIG).map_err(|error| error.kind), Err(TransportErrorKind::NotFound));
    same!(other.list(&ListRequest::new("app/a/", Depth::All)).map_err(text)?, whole(&["app/a/y"]));
    same!(other.put_new("app/a/x", b"again").map_err(text)?, Put::Written);
    same!(place.get("app/a/x", None, BIG).map_err(text)?, b"again".to_vec());
    Ok(())
}
