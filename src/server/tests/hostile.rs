//! What is sent by whoever means harm: to the server, and by a server.

use std::net::TcpListener;
use std::thread::JoinHandle;

use super::*;
use crate::transport::http::Pin;
use crate::transport::http::token::mint;
use crate::transport::{Cancel, Depth, ListRequest, Put, WaitHint};

#[test]
fn hostile_targets_reach_nothing_with_a_token_or_without() {
    let store = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(store.path().join("store")).expect("creates");
    std::fs::write(store.path().join("secret"), "secret").expect("writes");
    let scene = scene(Shelf::of_store(&store.path().join("store")).expect("a shelf"));
    let credentials = scene.paired("device");
    let hostile = [
        "/v1/../secret",
        "/v1/app/../../secret",
        "/v1/app/%2e%2e/%2e%2e/secret",
        "/v1/app/..%2f..%2fsecret",
        "/v1/app/..%2F..%2Fsecret",
        "/v1/app%2F..%2F..%2Fsecret",
        "/v1/app/..%5C..%5Csecret",
        "/v1/app/%252e%252e/secret",
        "/v1/app/x%00.json",
        "/v1/app/%FF%FE",
        "/v1//secret",
        "/v1/app/./../secret",
        "/secret",
        "/",
        "/v1/larder-store.json",
        "/v1/.larder-tmp/x",
    ];
    for target in hostile {
        let (status, answer) = scene.ask(&format!("GET {target} HTTP/1.1"), b"");
        assert!(status == 401 && !answer.contains("secret\n"), "{target}: {answer}");
        for (method, body) in [("GET", &b""[..]), ("PUT", b"evil"), ("DELETE", b""), ("POST", b"evil")] {
            let token = mint(credentials.identity.signing_key(), &scene.claims(&credentials, method, target, body));
            let (status, answer) = scene.ask_with((method, target), &token, body);
            assert!(matches!(status, 404 | 405 | 422), "{method} {target}: {answer}");
            assert!(answer.ends_with('}') && !answer.contains("evil"), "{method} {target}: {answer}");
        }
    }
    assert_eq!(std::fs::read(store.path().join("secret")).expect("there"), b"secret");
    let left: Vec<_> = std::fs::read_dir(store.path().join("store")).expect("lists").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_is_too_large_or_has_no_end_is_refused_before_it_is_read() {
    let scene = scene(in_memory());
    let credentials = scene.paired("device");
    let target = "/v1/app/a";
    let token = || mint(credentials.identity.signing_key(), &scene.claims(&credentials, "PUT", target, b"x"));
    let put = |length: &str| {
        let head = format!("PUT {target} HTTP/1.1\r\nauthorization: Bearer {}\r\n{length}", token());
        scene.ask(head.trim_end(), b"").0
    };

    assert_eq!(put("content-length: 8388609"), 413);
    assert_eq!(put("content-length: 9223372036854775807"), 413);
    assert!(matches!(put("content-length: 18446744073709551615"), 400 | 413 | 431));
    assert!(matches!(put("content-length: 18446744073709551616"), 400 | 411));
    assert!(matches!(put("content-length: -1"), 400 | 411));
    assert_eq!(put(""), 411);
    assert_eq!(put("transfer-encoding: chunked"), 411);
    let long = format!("GET /v1/app/{} HTTP/1.1", "x".repeat(100_000));
    assert!(matches!(scene.ask(&long, b"").0, 0 | 400 | 414 | 431));
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    assert!(matches!(scene.ask(format!("GET / HTTP/1.1\r\n{many}").trim_end(), b"").0, 0 | 400 | 431));
    let visitor = scene.visit(&credentials).expect("let in");
    assert!(visitor.list(&ListRequest::new("app/", Depth::All)).expect("listed").names.is_empty());
}

#[test]
fn a_body_that_breaks_off_leaves_nothing() {
    let scene = scene(in_memory());
    let credentials = scene.paired("device");
    let whole = b"0123456789";
    let token = mint(credentials.identity.signing_key(), &scene.claims(&credentials, "PUT", "/v1/app/a", whole));
    let mut stream = TcpStream::connect(scene.server.address()).expect("it listens");
    let head =
        format!("PUT /v1/app/a HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 10\r\n\r\n");
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&whole[..5])).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("half closed");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);

    let visitor = scene.visit(&credentials).expect("let in");
    assert_eq!(kind(visitor.get("app/a", None, BIG)), Some(TransportErrorKind::NotFound));
}

/// What a server of a test's own says to a request's head.
type Answer = Box<dyn Fn(&str) -> Vec<u8> + Send>;

/// A server of the test's own: each connection is answered once and closed.
fn fake(answers: Vec<Answer>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let thread = std::thread::spawn(move || {
        let mut heard = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece).expect("a request");
                head.extend_from_slice(&piece[..read]);
                assert!(read > 0, "the request broke off");
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            // It may hang up as soon as it has seen enough.
            let _ = stream.write_all(&answer(&head));
            heard.push(head);
        }
        heard
    });
    (url, thread)
}

/// An answer whose length is as said, whatever follows.
fn says(status: &str, headers: &str, length: usize, body: &[u8]) -> Answer {
    let head = format!(
        "HTTP/1.1 {status}\r\nlarder-speaks: 1\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    let answer = [head.as_bytes(), body].concat();
    Box::new(move |_| answer.clone())
}

/// What every visit begins with.
fn welcome() -> Vec<Answer> {
    let news = br#"{"changed":false,"cursor":"e-0"}"#;
    vec![
        says("401 No", "larder-epoch: e\r\nlarder-now: 1900000000000\r\n", 0, b""),
        says("200 OK", "", news.len(), news),
    ]
}

fn visit_fake(answers: Vec<Answer>) -> (Result<HttpTransport, TransportError>, JoinHandle<Vec<String>>) {
    let dir = tempfile::tempdir().expect("a folder");
    let (url, thread) = fake(answers);
    let credentials =
        Credentials { identity: device(dir.path(), "device"), pin: Pin::new(&url, "server", None, false) };
    (HttpTransport::connect(&url, "app", credentials, Patience::default()), thread)
}

/// The same by somebody who waits this long for answers, in milliseconds, and this long for each byte that is sent.
fn visit_in_haste(read_ms: u64, byte_ms: u64, answers: Vec<Answer>) -> (HttpTransport, JoinHandle<Vec<String>>) {
    let dir = tempfile::tempdir().expect("a folder");
    let (url, thread) = fake(answers);
    let credentials =
        Credentials { identity: device(dir.path(), "device"), pin: Pin::new(&url, "server", None, false) };
    let patience = Patience { connect_ms: 5_000, read_ms, slowest_bytes_per_second: 1000 / byte_ms };
    (HttpTransport::connect(&url, "app", credentials, patience).expect("let in"), thread)
}

/// Says nothing until nobody can wait any more who waits for so long.
fn late(wait_ms: u64, answer: Answer) -> Answer {
    Box::new(move |head| {
        let began = std::time::Instant::now();
        while began.elapsed().as_millis() < u128::from(wait_ms) {
            std::thread::yield_now();
        }
        answer(head)
    })
}

#[test]
fn a_long_body_has_the_time_that_it_takes_and_is_not_sent_twice_because_it_took_longer() {
    const READ_MS: u64 = 500;
    let written = || says("201 Created", "", 0, b"");

    // A line that takes ten bytes a second.
    let answers = welcome().into_iter().chain([late(2 * READ_MS, written())]).collect();
    let (visitor, thread) = visit_in_haste(READ_MS, 100, answers);
    assert_eq!(visitor.put_new("app/a", b"0123456789").expect("there is time"), Put::Written);
    assert_eq!(thread.join().expect("it ends").len(), 3);

    // Nobody waits for what brings nothing.
    let answers = welcome().into_iter().chain([late(2 * READ_MS, says("200 OK", "", 1, b"x"))]).collect();
    let (visitor, thread) = visit_in_haste(READ_MS, 100, answers);
    assert_eq!(kind(visitor.get("app/a", None, 10)), Some(TransportErrorKind::Unavailable));
    thread.join().expect("it ends");

    let answers = welcome().into_iter().chain([late(3 * READ_MS, written())]).collect();
    let (visitor, thread) = visit_in_haste(READ_MS, 1, answers);
    assert_eq!(kind(visitor.put_new("app/a", b"0123456789")), Some(TransportErrorKind::Unavailable));
    let heard = thread.join().expect("it ends");
    assert_eq!(heard.iter().filter(|head| head.starts_with("PUT")).count(), 1);
}

#[test]
fn an_answer_that_breaks_off_is_gone_on_with_from_there() {
    let mut answers = welcome();
    answers.push(says("200 OK", "", 10, b"01234"));
    answers.push(says("206 Part", "content-range: bytes 5-9/10\r\n", 5, b"56"));
    answers.push(says("206 Part", "content-range: bytes 7-9/10\r\n", 3, b"789"));
    let (visitor, thread) = visit_fake(answers);

    assert_eq!(visitor.expect("let in").get("app/a", None, 10).expect("got"), b"0123456789");
    let heard = thread.join().expect("it ends");
    assert!(!heard[2].contains("range:"), "{}", heard[2]);
    assert!(heard[3].contains("range: bytes=5-"), "{}", heard[3]);
    assert!(heard[4].contains("range: bytes=7-"), "{}", heard[4]);
}

#[test]
fn a_server_that_lies_costs_no_memory_and_is_named() {
    let redirect = "location: http://192.0.2.1/\r\n";
    let endless = || -> Answer {
        let head = b"HTTP/1.1 200 OK\r\nlarder-speaks: 1\r\nconnection: close\r\n\r\n";
        Box::new(move |_| [&head[..], &[b'x'; 100_000]].concat())
    };
    let stranger =
        || -> Answer { Box::new(|_| b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi".to_vec()) };
    // A proxy that takes no request of some size.
    let narrow = || -> Answer {
        Box::new(|_| b"HTTP/1.1 413 Large\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi".to_vec())
    };
    let garbage = || -> Answer { Box::new(|_| b"\0\x01\x02 no http at all\r\n\r\n".to_vec()) };
    for (answer, expected) in [
        (says("200 OK", "", 1 << 40, b"x"), TransportErrorKind::TooLarge),
        (endless(), TransportErrorKind::TooLarge),
        (stranger(), TransportErrorKind::Unsupported),
        (narrow(), TransportErrorKind::TooLarge),
        (garbage(), TransportErrorKind::Unavailable),
        (says("302 Found", redirect, 0, b""), TransportErrorKind::Unsupported),
        (says("429 Slow", "retry-after: 7\r\n", 0, b""), TransportErrorKind::Throttled { retry_after_ms: 7_000 }),
        (
            says("503 Busy", "retry-after: 99999999\r\n", 0, b""),
            TransportErrorKind::Throttled { retry_after_ms: 3_600_000 },
        ),
        (says("503 Gone", "", 0, b""), TransportErrorKind::Unavailable),
        (says("500 Bad", "", 0, b""), TransportErrorKind::Corrupt),
        (says("403 No", "", 1 << 40, b"x"), TransportErrorKind::TooLarge),
    ] {
        let (visitor, thread) = visit_fake(welcome().into_iter().chain([answer]).collect());
        assert_eq!(kind(visitor.expect("let in").get("app/a", None, 1000)), Some(expected));
        thread.join().expect("it ends");
    }
    let reason = br#"{"reason":"bad \u001b[31m news"}"#;
    let (visitor, thread) =
        visit_fake(welcome().into_iter().chain([says("403 No", "", reason.len(), reason)]).collect());
    let error = visitor.expect("let in").get("app/a", None, 1000).expect_err("refused").to_string();
    assert!(error.contains("bad \\u{1b}[31m news"), "{error}");
    thread.join().expect("it ends");
}

#[test]
fn a_token_stands_in_the_header_alone_and_is_for_this_request() {
    let mut answers = welcome();
    answers.push(says("200 OK", "", 1, b"x"));
    let (visitor, thread) = visit_fake(answers);
    visitor.expect("let in").get("app/shared/a%/b", None, 10).expect("got");

    let heard = thread.join().expect("it ends");
    assert!(!heard[0].contains("authorization"), "nothing is signed before the server said what for");
    let line = heard[2].lines().next().expect("a request line");
    assert_eq!(line, "GET /v1/app/shared/a%25/b HTTP/1.1");
    let token = heard[2].lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).expect("a token");
    let claims = crate::transport::http::token::verify(token).expect("signed");
    assert_eq!((&*claims.target, &*claims.method, &*claims.epoch), ("/v1/app/shared/a%25/b", "GET", "e"));
    assert_eq!((&*claims.aud, claims.exp - claims.iat, claims.iat), ("server", 300, START_MS / 1000));
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let dir = tempfile::tempdir().expect("a folder");
    let credentials =
        Credentials { identity: device(dir.path(), "device"), pin: Pin::new(&url, "server", None, false) };
    let patience = Patience { connect_ms: 100, read_ms: 100, ..Patience::default() };

    let visited = HttpTransport::connect(&url, "app", credentials, patience);
    assert_eq!(kind(visited), Some(TransportErrorKind::Unavailable));
    drop(listener);
}

#[test]
fn a_server_that_goes_while_somebody_waits_is_noticed() {
    let mut scene = scene(in_memory());
    let visitor = scene.visit(&scene.paired("device")).expect("let in");
    let hint = WaitHint { timeout_ms: 600_000, cancel: Cancel::new() };
    let waiter = std::thread::spawn(move || visitor.wait(&hint));

    let Scene { server, .. } = &mut scene;
    let elsewhere = std::mem::replace(server, idle_server());
    drop(elsewhere);
    assert_eq!(kind(waiter.join().expect("it ends")), Some(TransportErrorKind::Unavailable));
}

/// A server that nobody visits.
fn idle_server() -> Server {
    let dir = tempfile::tempdir().expect("a folder");
    let (env, _) = Env::fixed(START_MS, 1, "idle", dir.path().join("state"));
    let desk = Desk::open(&dir.keep().join("desk")).expect("a desk");
    Server::start(&env, (in_memory(), desk, "idle".to_owned()), &here(), Arc::new(|| ())).expect("serves")
}
