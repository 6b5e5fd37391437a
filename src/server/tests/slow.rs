//! Clients that take their time, and too many of them: they are cut off, and the rest are served.

use super::*;
use crate::transport::http::token::mint;

const SHORT: Duration = Duration::from_millis(50);

fn with(limits: Limits) -> (Scene, Credentials) {
    let options = ServeOptions { limits, ..here() };
    let scene = scene_with(in_memory(), &options);
    let credentials = scene.paired("device");
    (scene, credentials)
}

/// Reads until the server hangs up, which it must.
fn read_to_the_end(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(DEADLINE)).expect("sets it");
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            panic!("the server did not hang up")
        }
        _ => String::from_utf8_lossy(&answer).into_owned(),
    }
}

#[test]
fn who_does_not_say_what_it_wants_is_cut_off() {
    let (scene, credentials) = with(Limits { header: Duration::from_millis(500), ..Limits::default() });
    for head in ["", "GET /v1/app/a HTTP/1.1\r\nhost: x\r\n", "GET"] {
        let mut stream = TcpStream::connect(scene.server.address()).expect("it listens");
        stream.write_all(head.as_bytes()).expect("sent");
        read_to_the_end(stream);
    }
    assert!(scene.visit(&credentials).is_ok());
}

#[test]
fn who_does_not_send_what_it_promised_is_cut_off() {
    let limits = Limits { body: SHORT, slowest_bytes_per_second: 1 << 30, ..Limits::default() };
    let (scene, credentials) = with(limits);
    let body = vec![7; 100_000];
    let token = mint(credentials.identity.signing_key(), &scene.claims(&credentials, "PUT", "/v1/app/a", &body));
    let mut stream = TcpStream::connect(scene.server.address()).expect("it listens");
    let head =
        format!("PUT /v1/app/a HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 100000\r\n\r\n");
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..10])).expect("sent");

    let answer = read_to_the_end(stream);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    let visitor = scene.visit(&credentials).expect("let in");
    assert_eq!(kind(visitor.get("app/a", None, BIG)), Some(TransportErrorKind::NotFound));
}

#[test]
fn who_does_not_take_what_it_asked_for_is_cut_off() {
    let (scene, credentials) = with(Limits { write: SHORT, ..Limits::default() });
    let visitor = scene.visit(&credentials).expect("let in");
    // Far more, together, than the kernel keeps for somebody who does not read.
    let body = vec![7; 8 << 20];
    let mut stream = TcpStream::connect(scene.server.address()).expect("it listens");
    visitor.put_new("app/a", &body).expect("put");
    let mut asked = 0;
    let end = std::time::Instant::now() + DEADLINE;
    // Asked again and again and never read: at some point the server is gone, and the next request with it.
    loop {
        let token = mint(credentials.identity.signing_key(), &scene.claims(&credentials, "GET", "/v1/app/a", b""));
        let head = format!("GET /v1/app/a HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
        if stream.write_all(head.as_bytes()).is_err() {
            break;
        }
        asked += 1;
        assert!(std::time::Instant::now() < end, "asked {asked} times");
    }
    assert!(scene.visit(&credentials).is_ok());
}

#[test]
fn too_many_connections_of_one_are_closed_at_once_and_room_is_made_when_they_end() {
    let (scene, credentials) = with(Limits { connections_of_one: 3, ..Limits::default() });
    let end = std::time::Instant::now() + DEADLINE;
    let mut held = Vec::new();
    while held.len() < 3 {
        let mut stream = TcpStream::connect(scene.server.address()).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("sets it");
        let mut first = [0; 12];
        // Only an answer says that this is one of the three: while a connection of the pairing still ends, it was the one too many.
        let answered =
            stream.write_all(b"GET /v1/pair HTTP/1.1\r\nhost: x\r\n\r\n").and_then(|()| stream.read_exact(&mut first));
        if answered.is_ok() {
            held.push(stream);
        }
        assert!(std::time::Instant::now() < end, "{} of three were answered", held.len());
    }
    assert_eq!(kind(scene.visit(&credentials)), Some(TransportErrorKind::Unavailable));

    drop(held);
    let end = std::time::Instant::now() + DEADLINE;
    while scene.visit(&credentials).is_err() {
        assert!(std::time::Instant::now() < end, "no room is made");
        std::thread::yield_now();
    }
}
