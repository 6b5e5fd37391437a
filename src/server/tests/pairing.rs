//! Codes: good once, for minutes, with few tries, and only for whoever is really spoken to.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::server::desk::{CODE_LIFETIME_MS, CODE_TRIES};
use crate::transport::http::pairing::Code;

const DENIED: Option<TransportErrorKind> = Some(TransportErrorKind::Denied);

fn wrong() -> Code {
    Code::typed("aaaa-bbbb-cccc").expect("a code")
}

fn try_code(scene: &Scene, identity: &Identity, code: &Code) -> Option<TransportErrorKind> {
    kind(pair(&scene.url(), "app", identity, code, Plain::Refused))
}

#[test]
fn a_code_is_good_once() {
    let scene = scene(in_memory());
    let (first, second) = (device(scene.dir.path(), "first"), device(scene.dir.path(), "second"));
    assert_eq!(try_code(&scene, &first, &wrong()), DENIED, "none is open");

    let code = scene.desk.invite(&scene.env).expect("a code");
    assert_eq!(try_code(&scene, &first, &wrong()), DENIED);
    assert_eq!(try_code(&scene, &first, &code), None);
    assert_eq!(try_code(&scene, &second, &code), DENIED);
    assert_eq!(scene.desk.devices().expect("read").devices.len(), 1);
}

#[test]
fn after_a_few_wrong_ones_the_right_one_is_worth_nothing() {
    let scene = scene(in_memory());
    let identity = device(scene.dir.path(), "device");
    let code = scene.desk.invite(&scene.env).expect("a code");
    for _ in 0..CODE_TRIES {
        assert_eq!(try_code(&scene, &identity, &wrong()), DENIED);
    }
    assert_eq!(try_code(&scene, &identity, &code), DENIED);

    let fresh = scene.desk.invite(&scene.env).expect("a new one");
    assert_eq!(try_code(&scene, &identity, &fresh), None);
}

#[test]
fn a_code_is_good_for_minutes_and_a_newer_one_takes_its_place() {
    let scene = scene(in_memory());
    let identity = device(scene.dir.path(), "device");
    let is_open = || scene.desk.is_open(scene.env.clock.wall_ms()).expect("read");
    let was_open = is_open();
    let code = scene.desk.invite(&scene.env).expect("a code");
    assert_eq!((was_open, is_open()), (false, true), "one that is replaced would be worth a word");
    scene.clock.advance(CODE_LIFETIME_MS);
    assert!(!is_open());
    assert_eq!(try_code(&scene, &identity, &code), DENIED, "expired");

    let code = scene.desk.invite(&scene.env).expect("a code");
    scene.clock.set(START_MS);
    assert_eq!(try_code(&scene, &identity, &code), DENIED, "the clock was set back");

    let (old, new) = (scene.desk.invite(&scene.env).expect("one"), scene.desk.invite(&scene.env).expect("two"));
    assert_eq!((try_code(&scene, &identity, &old), try_code(&scene, &identity, &new)), (DENIED, None));
}

#[test]
fn many_tries_have_to_wait_whoever_makes_them_and_whatever_code_is_open() {
    let scene = scene(in_memory());
    let identity = device(scene.dir.path(), "device");
    let mut outcomes = Vec::new();
    for _ in 0..12 {
        scene.desk.invite(&scene.env).expect("a code");
        outcomes.push(try_code(&scene, &identity, &wrong()));
    }
    let throttled = Some(TransportErrorKind::Throttled { retry_after_ms: 60_000 });
    assert_eq!((outcomes[9], outcomes[10], outcomes[11]), (DENIED, throttled, throttled));

    scene.clock.advance(60_000);
    let code = scene.desk.invite(&scene.env).expect("a code");
    assert_eq!(try_code(&scene, &identity, &code), None);
}

#[test]
fn what_the_desk_keeps_is_private_and_holds_no_code() {
    let scene = scene(in_memory());
    let code = scene.desk.invite(&scene.env).expect("a code").shown();
    scene.paired("device");
    scene.desk.invite(&scene.env).expect("a code");

    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(scene.desk.folder()), 0o700);
    for file in ["devices.json", "invite.json", "server.json"] {
        let path = scene.desk.folder().join(file);
        assert_eq!(mode(&path), 0o600, "{file}");
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(!text.contains(&code) && !text.contains(&code.replace('-', "")), "{file}");
    }
}

#[test]
fn a_private_space_belongs_to_the_owner_who_came_first() {
    let scene = scene(in_memory());
    let elsewhere = tempfile::tempdir().expect("a folder");
    let stranger = device(elsewhere.path(), "stranger");
    // As if the stranger had found a key with the same fingerprint.
    let owner = device(scene.dir.path(), "own").owner_key();
    scene.desk.set_owner(stranger.private_space().as_str(), owner).expect("set");

    assert_eq!(kind(scene.pair(stranger)), DENIED);
}

#[test]
fn without_tls_only_this_machine_is_spoken_to_unless_a_person_says_otherwise() {
    let dir = tempfile::tempdir().expect("a folder");
    let identity = device(dir.path(), "device");
    for address in
        ["http://192.0.2.1:7171", "http://example.com", "http://[2001:db8::1]:7171", "http://127.0.0.1.nip.io"]
    {
        let error = pair(address, "app", &identity, &wrong(), Plain::Refused).expect_err(address);
        assert!(error.to_string().contains("--allow-plain-http"), "{error}");
        let pin = crate::transport::http::Pin::new(address, "server", None, false);
        let credentials = Credentials { identity: identity.clone(), pin };
        let visited = HttpTransport::connect(address, "app", credentials, Patience::default());
        assert_eq!(kind(visited), DENIED, "{address}");
    }
    for address in
        ["http://user:pw@127.0.0.1", "http://127.0.0.1/x", "ftp://127.0.0.1", "http://", "http://127.0.0.1?x"]
    {
        let refused = kind(pair(address, "app", &identity, &wrong(), Plain::Refused));
        assert_eq!(refused, Some(TransportErrorKind::Unsupported), "{address}");
    }

    let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let (env, _) = Env::fixed(START_MS, 7, "server", dir.path().join("state"));
    let start = |plain| {
        let desk = Desk::open(&dir.path().join("desk")).expect("a desk");
        let options = ServeOptions { plain, ..ServeOptions::at(anywhere) };
        Server::start(&env, (in_memory(), desk, "id".to_owned()), &options, Arc::new(|| ()))
    };
    assert!(matches!(start(Plain::Refused), Err(ServeError::Plain { .. })));
    assert!(start(Plain::Allowed).is_ok());
}

#[test]
fn who_only_poses_as_the_server_is_not_believed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let posing = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for stream in listener.incoming().take(2) {
            let mut stream = stream.expect("a connection");
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).expect("a request");
            asked.push(String::from_utf8_lossy(&head[..read]).into_owned());
            let body = format!(r#"{{"proof":"{}","server":"mine","v":1}}"#, "00".repeat(32));
            let head = format!(
                "HTTP/1.1 200 OK\r\nlarder-speaks: 1\r\nconnection: close\r\ncontent-length: {}\r\n",
                body.len()
            );
            stream.write_all(format!("{head}\r\n{body}").as_bytes()).expect("answered");
        }
        asked
    });
    let dir = tempfile::tempdir().expect("a folder");
    let identity = device(dir.path(), "device");
    let code = wrong();

    let error = pair(&format!("http://{address}"), "app", &identity, &code, Plain::Refused).expect_err("refused");
    assert!(
        error.kind == TransportErrorKind::Denied && error.to_string().contains("does not know the code"),
        "{error}"
    );
    let heard = posing.join().expect("it ends").concat();
    assert!(!heard.contains("aaaabbbbcccc") && !heard.contains(&code.shown()), "{heard}");
}
