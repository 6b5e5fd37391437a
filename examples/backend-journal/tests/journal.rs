//! The journal under Larder's own laws, and in a `larder` of its own.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use backend_journal::{BACKEND, Journal};
use larder_adapters::contract::ForeignHand;
use larder_adapters::{BackendUrl, FileSyncAdapter, OpenContext, RecordId, SHARED_OWNER};
use tempfile::TempDir;

fn folder() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir().expect("a temporary folder"))
}

fn file_in(folder: &Path) -> String {
    folder.join("rows.journal").to_string_lossy().into_owned()
}

fn journal_in(folder: Arc<TempDir>) -> impl Fn() -> Arc<dyn FileSyncAdapter> {
    let url = BackendUrl { scheme: BACKEND.scheme, address: file_in(folder.path()) };
    move || Arc::new(Journal::open(&url, &OpenContext::new(folder.path())).expect("it opens"))
}

/// A program that knows only how a line looks.
struct LineHand(Arc<TempDir>);

impl LineHand {
    fn append(&self, line: &serde_json::Value) {
        let mut file = std::fs::OpenOptions::new().append(true).open(file_in(self.0.path())).expect("it is there");
        file.lock().expect("locks");
        file.write_all(format!("{line}\n").as_bytes()).expect("writes");
    }
}

impl ForeignHand for LineHand {
    fn put(&self, app: &str, path: &str, text: &str) {
        let id = RecordId::new(app, SHARED_OWNER, path);
        self.append(&serde_json::json!({ "id": id.as_str(), "text": text }));
    }

    fn delete(&self, app: &str, path: &str) {
        self.append(&serde_json::json!({ "id": RecordId::new(app, SHARED_OWNER, path).as_str() }));
    }
}

fn journal_and_hand() -> (impl Fn() -> Arc<dyn FileSyncAdapter>, LineHand) {
    let folder = folder();
    (journal_in(Arc::clone(&folder)), LineHand(folder))
}

larder_adapters::contract_tests!(journal_keeps, journal_in(folder()));
larder_adapters::foreign_tests!(journal_keeps_foreign, journal_and_hand());

fn larder(project: &Path, journal: &str, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder-journal"));
    command.args(args).current_dir(project).env("FILE_SYNC_BACKEND", format!("journal:{journal}"));
    let done = command.env("XDG_STATE_HOME", project.join("home")).output().expect("it starts");
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "larder {args:?}: {said}");
    said
}

#[test]
fn two_machines_and_a_program_that_share_only_a_journal_converge() {
    let place = folder();
    let journal = file_in(place.path());
    let (a, b) = (place.path().join("a"), place.path().join("b"));
    for project in [&a, &b] {
        std::fs::create_dir_all(project).expect("creates");
        let config = r#"{ "appId": "demo", "syncFilePatterns": ["**/*.md"] }"#;
        std::fs::write(project.join("sync-config.json"), config).expect("writes");
    }
    std::fs::write(a.join("plan.md"), "of a\n").expect("writes");
    larder(&a, &journal, &["sync"]);
    LineHand(Arc::clone(&place)).put("demo", "idea.md", "of a program\n");
    // A machine that was alone sends its history once another one is there.
    for project in [&b, &a, &b] {
        larder(project, &journal, &["sync"]);
    }

    assert_eq!(std::fs::read_to_string(b.join("plan.md")).expect("came"), "of a\n");
    for project in [&a, &b] {
        assert_eq!(std::fs::read_to_string(project.join("idea.md")).expect("came"), "of a program\n");
    }
    assert!(larder(&a, &journal, &["backend", "list"]).contains("journal"));
    larder(&a, &journal, &["backend", "check"]);
}
