//! Who is let in: tokens that are good for one request alone, and devices that were revoked.

use super::*;
use crate::transport::http::token::mint;
use crate::transport::{Cancel, Depth, ListRequest, WaitHint, Wake};

const GET: (&str, &str) = ("GET", "/v1/app/a");

fn with_an_artifact() -> (Scene, Credentials) {
    let scene = scene(in_memory());
    let credentials = scene.paired("device");
    scene.visit(&credentials).expect("let in").put_new("app/a", b"hello").expect("put");
    (scene, credentials)
}

fn key(credentials: &Credentials) -> &SigningKey {
    credentials.identity.signing_key()
}

/// An answer without what differs from request to request.
fn plain(answer: &(u16, String)) -> (u16, String) {
    let lines = answer.1.lines().filter(|line| !line.starts_with("date: "));
    (answer.0, lines.collect::<Vec<_>>().join("\n"))
}

#[test]
fn a_token_is_good_once() {
    let (scene, credentials) = with_an_artifact();
    let token = mint(key(&credentials), &scene.claims(&credentials, GET.0, GET.1, b""));

    let (status, answer) = scene.ask_with(GET, &token, b"");
    assert!(status == 200 && answer.ends_with("hello"), "{answer}");
    let (status, answer) = scene.ask_with(GET, &token, b"");
    assert!(status == 401 && !answer.contains("hello"), "{answer}");
}

#[test]
fn a_token_for_anything_else_is_refused_and_the_answer_does_not_tell_why() {
    let (scene, credentials) = with_an_artifact();
    let stranger = device(scene.dir.path(), "stranger");
    let right = || scene.claims(&credentials, GET.0, GET.1, b"");
    let now = START_MS / 1000;
    let mut worthless = vec![
        ("nothing", String::new()),
        ("nonsense", "a.b.c".to_owned()),
        ("signed by another key", mint(stranger.signing_key(), &right())),
        ("of an unknown device", mint(stranger.signing_key(), &Claims { sub: stranger.public_key(), ..right() })),
    ];
    let mut claim = |what, claims: Claims| worthless.push((what, mint(key(&credentials), &claims)));
    claim("for another path", Claims { target: "/v1/app/b".into(), ..right() });
    claim("for another query", Claims { target: "/v1/app/a?x=1".into(), ..right() });
    claim("for another method", Claims { method: "PUT".into(), ..right() });
    claim("for another server", Claims { aud: "other".into(), ..right() });
    claim("of an earlier start", Claims { epoch: "old".into(), ..right() });
    claim("worthless by now", Claims { iat: now - 300, exp: now, ..right() });
    claim("from the future", Claims { iat: now + 61, exp: now + 100, ..right() });
    claim("good for too long", Claims { exp: now + 301, ..right() });
    claim("number 0", Claims { jti: Nonce { number: 0, ..right().jti }, ..right() });

    let first = plain(&scene.ask(&format!("{} {} HTTP/1.1", GET.0, GET.1), b""));
    assert_eq!(first.0, 401);
    for (what, token) in &worthless {
        assert_eq!(plain(&scene.ask_with(GET, token, b"")), first, "{what}");
    }
    let (status, _) = scene.ask_with(GET, &mint(key(&credentials), &right()), b"");
    assert_eq!(status, 200);
}

#[test]
fn a_body_that_the_token_does_not_name_is_not_kept() {
    let (scene, credentials) = with_an_artifact();
    let put = ("PUT", "/v1/app/b");
    let token = mint(key(&credentials), &scene.claims(&credentials, put.0, put.1, b"signed"));

    let (status, answer) = scene.ask_with(put, &token, b"other!");
    assert_eq!(status, 422, "{answer}");
    let visitor = scene.visit(&credentials).expect("let in");
    assert_eq!(kind(visitor.get("app/b", None, BIG)), Some(TransportErrorKind::NotFound));
}

#[test]
fn a_clock_of_ours_that_is_years_off_makes_no_token_worthless() {
    let (scene, credentials) = with_an_artifact();
    let visitor = scene.visit(&credentials).expect("let in");
    // The device has the machine's clock, whatever that says; the server's is elsewhere.
    for later_ms in [0, 299_000, 3_600_000, 10 * 365 * 86_400_000] {
        scene.clock.set(START_MS + later_ms);
        assert_eq!(scene.visit(&credentials).expect("let in").get("app/a", None, BIG).expect("got"), b"hello");
        assert_eq!(visitor.get("app/a", None, BIG).map_err(|error| error.to_string()), Ok(b"hello".to_vec()));
    }
}

#[test]
fn a_revoked_device_is_refused_at_once_and_its_open_waits_end() {
    let (scene, credentials) = with_an_artifact();
    let other = scene.visit(&scene.paired("other")).expect("let in");
    let visitor = Arc::new(scene.visit(&credentials).expect("let in"));
    let waiting = visitor.clone();
    let hint = WaitHint { timeout_ms: 600_000, cancel: Cancel::new() };
    let waiter = std::thread::spawn(move || waiting.wait(&hint));

    // By a command of its own, beside the running server.
    let desk = Desk::open(scene.desk.folder()).expect("the same desk");
    let gone = desk.revoke(&credentials.identity.public_key().to_string()[..12]).expect("revoked");

    assert_eq!(gone.len(), 1);
    let ended = waiter.join().expect("it ends");
    assert!(matches!(kind(ended), Some(TransportErrorKind::Denied | TransportErrorKind::Unavailable)));
    let refused = kind(visitor.get("app/a", None, BIG));
    assert!(matches!(refused, Some(TransportErrorKind::Denied | TransportErrorKind::Unavailable)));
    assert_eq!(kind(scene.visit(&credentials)), Some(TransportErrorKind::Denied));
    assert_eq!(other.get("app/a", None, BIG).expect("got"), b"hello");
    let again = scene.pair(credentials.identity.clone()).expect("the door was opened again");
    assert!(scene.visit(&again).is_ok());
}

#[test]
fn a_list_of_devices_that_is_damaged_lets_nobody_in() {
    let (scene, credentials) = with_an_artifact();
    let visitor = scene.visit(&credentials).expect("let in");
    for bad in ["", "{}", r#"{"devices":[],"kind":"devices","owners":{},"v":2}"#] {
        std::fs::write(scene.desk.folder().join("devices.json"), bad).expect("writes");
        // The open line may be cut before it can say so.
        let refused = kind(visitor.get("app/a", None, BIG));
        assert!(matches!(refused, Some(TransportErrorKind::Denied | TransportErrorKind::Unavailable)), "{bad}");
        assert_eq!(kind(scene.visit(&credentials)), Some(TransportErrorKind::Denied), "{bad}");
    }
}

#[test]
fn a_private_space_is_for_its_owners_devices_alone() {
    let scene = scene(in_memory());
    let stranger_home = tempfile::tempdir().expect("a folder");
    let (a, b) = (scene.paired("a"), scene.paired("b"));
    let stranger = scene.pair(device(stranger_home.path(), "stranger")).expect("the code is right");
    let (own, theirs) = (a.identity.private_space(), stranger.identity.private_space());
    assert_ne!(own, theirs);
    let [a, b, stranger] = [&a, &b, &stranger].map(|credentials| scene.visit(credentials).expect("let in"));
    let name = format!("app/{own}/x");
    a.put_new(&name, b"secret").expect("put");
    a.put_new("app/shared/y", b"shared").expect("put");

    assert_eq!(b.get(&name, None, BIG).expect("got"), b"secret");
    let denied = Some(TransportErrorKind::Denied);
    assert_eq!(kind(stranger.get(&name, None, BIG)), denied);
    assert_eq!(kind(stranger.put_new(&format!("app/{own}/z"), b"x")), denied);
    assert_eq!(kind(stranger.list(&ListRequest::new(format!("app/{own}/"), Depth::All))), denied);
    assert_eq!(kind(stranger.heads(&format!("app/{own}/"))), denied);
    for depth in [Depth::All, Depth::Children] {
        for limit in [1, 2, 10] {
            let request = ListRequest { limit, ..ListRequest::new("app/", depth) };
            let names = stranger.list(&request).expect("listed").names;
            assert!(names.iter().all(|name| name.starts_with("app/shared/")) && names.len() == 1, "{names:?}");
            assert!(a.list(&request).expect("listed").names[0].starts_with("app/shared/"));
        }
    }
    // However much of it there is, it is passed over.
    for n in 0..150 {
        a.put_new(&format!("app/{own}/{n}"), b"secret").expect("put");
    }
    a.put_new("app/zz/y", b"behind").expect("put");
    let one = ListRequest { limit: 1, ..ListRequest::new("app/", Depth::All) };
    assert_eq!(stranger.list(&one.after("app/shared/y")).expect("listed").names, ["app/zz/y"]);
    // Nor is it told that there is news.
    let hint = WaitHint { timeout_ms: 0, cancel: Cancel::new() };
    stranger.wait(&hint).expect("asked");
    a.put_new(&format!("app/{own}/w"), b"x").expect("put");
    assert_eq!(stranger.wait(&hint).expect("asked"), Wake::Timeout);
    assert_eq!(b.wait(&hint).expect("asked"), Wake::Changed);
}
