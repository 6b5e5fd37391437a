//! Encrypted lines: a certificate of one's own making, known again by what pairing saw.

use super::*;

/// A certificate for this machine and its key, as files.
fn certificate(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("made");
    let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key.pem")));
    std::fs::write(&cert, made.cert.pem()).expect("writes");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("writes");
    (cert, key)
}

#[test]
fn a_certificate_of_its_own_is_learnt_by_pairing_and_known_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = ServeOptions { tls: Some(certificate(dir.path(), "one")), ..here() };
    let scene = scene_with(in_memory(), &options);
    assert!(scene.url().starts_with("https://"));
    let credentials = scene.paired("device");

    assert!(credentials.pin.certificate.is_some());
    let visitor = scene.visit(&credentials).expect("let in");
    visitor.put_new("app/a", &[7; 3_000_000]).expect("put");
    assert!(visitor.get("app/a", None, BIG).expect("got") == [7; 3_000_000]);

    // Another certificate at the same address, with everything else the same.
    let address = scene.server.address();
    let Scene { dir: _dir, env, server, desk, .. } = scene;
    drop(server);
    let id = desk.server_id(&env).expect("the same");
    let options = ServeOptions { tls: Some(certificate(dir.path(), "two")), ..ServeOptions::at(address) };
    let posing = Server::start(&env, (in_memory(), desk, id), &options, Arc::new(|| ())).expect("serves");
    let visited = HttpTransport::connect(&posing.url(), "app", credentials, Patience::default());
    let error = visited.err().expect("refused");
    assert_eq!(error.kind, TransportErrorKind::Unavailable);
    for said in ["another certificate than when this device was paired", "`larder peers pair NAME`"] {
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn a_code_is_worth_nothing_to_a_server_that_is_seen_by_another_certificate() {
    use crate::transport::http::pairing::{Code, PairRequest};
    let scene = scene(in_memory());
    let identity = device(scene.dir.path(), "device");
    let code: Code = scene.desk.invite(&scene.env).expect("a code");
    // What somebody in between gets to see, who shows a certificate of its own and passes everything on.
    let line = server_line(Some(b"a certificate of somebody else"));
    let device = (identity.public_key(), identity.origin(), identity.certificate());
    let request = PairRequest::make(&code.key(), "app", device, &line);

    let body = serde_json::to_vec(&request).expect("json");
    let (status, answer) = scene.ask("POST /v1/pair HTTP/1.1", &body);
    assert_eq!(status, 403, "{answer}");
    assert!(scene.desk.devices().expect("read").devices.is_empty());
}

#[test]
fn a_line_that_should_be_encrypted_answers_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = ServeOptions { tls: Some(certificate(dir.path(), "one")), ..here() };
    let scene = scene_with(in_memory(), &options);
    let (status, answer) = scene.ask("GET /v1/pair HTTP/1.1", b"");
    assert!(status == 0 && !answer.contains("larder"), "{answer}");
}

#[test]
fn files_that_are_no_certificate_and_key_are_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let ((cert, key), (_, other_key)) = (certificate(dir.path(), "one"), certificate(dir.path(), "two"));
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").expect("writes");
    let missing = dir.path().join("missing.pem");
    let (env, _) = Env::fixed(START_MS, 7, "server", dir.path().join("state"));
    for (cert, key, named) in [
        (&missing, &key, &missing),
        (&empty, &key, &empty),
        (&cert, &missing, &missing),
        (&cert, &empty, &empty),
        (&cert, &other_key, &other_key),
        (&key, &cert, &key),
    ] {
        let desk = Desk::open(&dir.path().join("desk")).expect("a desk");
        let options = ServeOptions { tls: Some((cert.clone(), key.clone())), ..here() };
        let started = Server::start(&env, (in_memory(), desk, "id".to_owned()), &options, Arc::new(|| ()));
        let error = started.err().expect("refused").to_string();
        assert!(error.contains(&*named.to_string_lossy()), "{error}");
    }
}
