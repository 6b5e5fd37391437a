//! The laws of every transport, over a line.

use std::sync::mpsc::channel;

use super::*;
use crate::transport::{Cancel, FolderTransport, WaitHint, Wake, contract};

/// Hands out visitors of one server, which lives as long as they may come.
fn visits(shelf: Shelf) -> contract::Visit {
    let scene = scene(shelf);
    let credentials = scene.paired("device");
    Box::new(move || Arc::new(scene.visit(&credentials).expect("it is let in")) as Arc<dyn Transport>)
}

#[test]
fn a_served_place_keeps_the_transport_contract() {
    contract::run(&|| visits(in_memory()));
}

#[test]
fn a_served_folder_keeps_the_transport_contract() {
    contract::run(&|| {
        let dir = tempfile::tempdir().expect("a folder");
        // Kept until the program ends: the server outlives this call.
        let folder = FolderTransport::open(&dir.keep(), "folder:served").expect("an empty folder");
        visits(anything(Arc::new(folder)))
    });
}

#[test]
fn a_body_of_many_slices_comes_whole_and_in_any_part() {
    let scene = scene(in_memory());
    let visitor = scene.visit(&scene.paired("device")).expect("let in");
    let bytes: Vec<u8> = (0..5_300_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    visitor.put_new("app/a", &bytes).expect("put");

    assert!(visitor.get("app/a", None, BIG).expect("got") == bytes);
    for range in [0..1 << 20, 1..(1 << 20) + 1, 1_048_575..1_048_577, 3_000_000..5_299_999, 5_299_999..9_999_999] {
        let expected = &bytes[range.start..range.end.min(bytes.len())];
        let got = visitor.get("app/a", Some(range.start as u64..range.end as u64), BIG).expect("got");
        assert!(got == expected, "{range:?}");
    }
    assert_eq!(kind(visitor.get("app/a", None, bytes.len() as u64 - 1)), Some(TransportErrorKind::TooLarge));
}

#[test]
fn of_two_waiters_each_hears_the_others_put_and_not_its_own() {
    let scene = scene(in_memory());
    let credentials = scene.paired("device");
    let (a, b) = (Arc::new(scene.visit(&credentials).expect("in")), Arc::new(scene.visit(&credentials).expect("in")));
    let long = || WaitHint { timeout_ms: 60_000, cancel: Cancel::new() };
    let (woken, wakes) = channel();
    let waiter = {
        let (b, hint) = (b.clone(), long());
        std::thread::spawn(move || woken.send(b.wait(&hint).map_err(|error| error.to_string())))
    };

    a.put_new("app/x", b"x").expect("put");
    assert_eq!(wakes.recv_timeout(DEADLINE).expect("in time"), Ok(Wake::Changed));
    waiter.join().expect("it ends").expect("sent");
    assert_eq!(a.wait(&WaitHint { timeout_ms: 0, ..long() }).expect("asked"), Wake::Timeout);
}

#[test]
fn a_waiter_is_called_off_at_once_and_may_wait_again() {
    let scene = scene(in_memory());
    let credentials = scene.paired("device");
    let visitor = Arc::new(scene.visit(&credentials).expect("let in"));
    let hint = WaitHint { timeout_ms: 600_000, cancel: Cancel::new() };
    let (cancel, waiting) = (hint.cancel.clone(), visitor.clone());
    let waiter = std::thread::spawn(move || waiting.wait(&hint));

    cancel.cancel();
    assert_eq!(waiter.join().expect("it ends").expect("asked"), Wake::Cancelled);

    scene.visit(&credentials).expect("let in").put_new("app/x", b"x").expect("put");
    let again = WaitHint { timeout_ms: 60_000, cancel: Cancel::new() };
    assert_eq!(visitor.wait(&again).expect("asked"), Wake::Changed);
}

#[test]
fn a_server_that_was_started_anew_is_gone_on_with_and_tells_of_news() {
    let place = MemoryPlace::new();
    let first = scene(anything(Arc::new(place.visit("memory:served"))));
    let credentials = first.paired("device");
    let visitor = first.visit(&credentials).expect("let in");
    let address = first.server.address();
    visitor.put_new("app/a", b"a").expect("put");
    let Scene { dir: _dir, env, server, desk, .. } = first;
    drop(server);
    let hint = WaitHint { timeout_ms: 0, cancel: Cancel::new() };
    assert_eq!(kind(visitor.get("app/a", None, BIG)), Some(TransportErrorKind::Unavailable));
    assert_eq!(kind(visitor.wait(&hint)), Some(TransportErrorKind::Unavailable));

    let id = desk.server_id(&env).expect("the same");
    let shelf = anything(Arc::new(place.visit("memory:served")));
    let again = Server::start(&env, (shelf, desk, id), &ServeOptions::at(address), Arc::new(|| ())).expect("serves");
    assert_eq!(visitor.put_new("app/b", b"b").map_err(|error| error.to_string()), Ok(crate::transport::Put::Written));
    assert_eq!(visitor.get("app/a", None, BIG).expect("got"), b"a");
    assert_eq!(visitor.wait(&hint).expect("asked"), Wake::Changed);
    drop(again);
}
