//! How answers read, with fixed values, and what can be typed.

use clap::{CommandFactory, Parser};
use serde_json::{Value, json};

use super::args::Args;
use super::commands::{status, verify};
use super::out::{error_object, error_text};
use super::{report, text};
use crate::node::{
    BackendStatus, ContactStatus, CountStatus, Found, Kind, NodeError, OutboxStatus, PendingStatus, ProblemStatus,
    Status, Verified,
};
use crate::sync::{Change, Report};

fn busy_report() -> Report {
    Report {
        recorded: vec![("a.md".to_owned(), Change::Created)],
        recorded_rows: vec![("row.md".to_owned(), Change::Edited)],
        written: vec![("c.md".to_owned(), Change::Renamed { from: "b.md".to_owned() })],
        rows_written: 1,
        pushed: 2,
        waiting: vec![("d.md".to_owned(), "being written".to_owned())],
        problems: vec![("pipe".to_owned(), "is no file".to_owned())],
        ..Report::default()
    }
}

fn healthy_status() -> Status {
    let line = ContactStatus {
        store: "sqlite".to_owned(),
        direction: "pull".to_owned(),
        success_ms: Some(1_000),
        ..ContactStatus::default()
    };
    Status {
        root: "/p".to_owned(),
        app: "p".to_owned(),
        owner: "shared".to_owned(),
        origin: Some("laptop-abc234".to_owned()),
        backend: BackendStatus { address: "sqlite:sync.db".to_owned(), ok: true, lines: vec![line] },
        counts: CountStatus { files: 1, bytes: 2_048, versions: 3, ..CountStatus::default() },
        ..Status::default()
    }
}

#[test]
fn what_can_be_typed_is_consistent() {
    Args::command().debug_assert();
}

#[test]
fn global_flags_may_stand_before_and_after_the_command() {
    for typed in [["larder", "--json", "-C", "/p", "sync"], ["larder", "sync", "--json", "-C", "/p"]] {
        let args = Args::try_parse_from(typed).expect("both orders are understood");
        assert!(args.global.json);
        assert_eq!(args.global.project.as_deref(), Some(std::path::Path::new("/p")));
    }
}

#[test]
fn settings_reach_the_config_as_typed() {
    let typed =
        ["larder", "up", "--backend", "sqlite:x", "--interval-secs", "0", "--peer", "a=/b", "--respect-gitignore"];

    let flags = Args::try_parse_from(typed).expect("it is understood").global.settings.to_flags();

    assert_eq!(flags.backend.as_deref(), Some("sqlite:x"));
    assert_eq!(flags.interval_secs.as_deref(), Some("0"));
    assert_eq!(flags.respect_gitignore.as_deref(), Some("true"));
    assert_eq!(flags.peers, ["a=/b"]);
}

#[test]
fn a_run_names_every_path_once_and_sums_up() {
    let lines = report::lines(&busy_report(), false, None);

    assert_eq!(
        lines,
        [
            "+ recorded new a.md",
            "+ recorded from the backend edited row.md",
            "< wrote renamed c.md (was b.md)",
            "~ waits: d.md: being written",
            "! pipe: is no file",
            "2 recorded, 1 written, 1 row mirrored, 2 artifacts sent, 1 waiting, 1 problem",
        ]
    );
}

#[test]
fn a_dry_run_speaks_of_what_would_be() {
    let lines = report::lines(&busy_report(), true, None);

    assert_eq!(lines[0], "+ would record new a.md");
    assert_eq!(lines[2], "< would write renamed c.md (was b.md)");
    assert!(lines[5].starts_with("2 to record, 1 to write, 1 row to mirror"), "{}", lines[5]);
    assert_eq!(report::lines(&Report::default(), true, None), ["nothing to do"]);
    assert_eq!(report::lines(&Report::default(), false, None), ["everything is up to date"]);
}

#[test]
fn a_run_after_which_something_remains_does_not_say_that_everything_is_up_to_date() {
    for kind in [Kind::Damage, Kind::Unavailable, Kind::Conflicts] {
        let remains = NodeError::new(kind, "it is so");

        assert_eq!(report::lines(&Report::default(), false, Some(&remains)), ["nothing changed"]);
        assert_eq!(report::lines(&Report::default(), true, Some(&remains)), ["nothing to do"]);
    }
}

#[test]
fn the_object_of_a_run_keeps_its_shape() {
    let object = report::object(&busy_report(), false);

    assert_eq!(
        object,
        json!({
            "dry_run": false,
            "recorded": [{ "path": "a.md", "what": "created" }],
            "recorded_rows": [{ "path": "row.md", "what": "edited" }],
            "written": [{ "path": "c.md", "what": "renamed", "from": "b.md" }],
            "rows_written": 1, "rows_deleted": 0, "pulled": 0, "pushed": 2, "to_receive": 0, "healed": [], "mended": [],
            "waiting": [{ "path": "d.md", "why": "being written" }],
            "problems": [{ "path": "pipe", "what": "is no file" }],
            "ledger_bytes": 0, "row_bytes": 0, "backend_error": null, "peer_errors": [], "stopped": null,
        })
    );
}

#[test]
fn a_bundle_is_told_with_everything_that_is_damaged_in_it() {
    let damage = vec!["app/a: its bytes are damaged".to_owned(), "its end is missing".to_owned()];
    let bundle = crate::sync::BundleReport { file: "/x".to_owned(), artifacts: 2, bytes: 90, damage };
    let report = Report { bundle: Some(bundle), to_receive: 2, ..Report::default() };

    assert_eq!(
        report::lines(&report, true, None),
        [
            "! bundle: app/a: its bytes are damaged",
            "! bundle: its end is missing",
            "bundle /x: 2 artifacts, 90 bytes",
            "2 artifacts to receive",
        ]
    );
    assert_eq!(
        report::object(&report, true)["bundle"],
        json!({ "file": "/x", "artifacts": 2, "bytes": 90, "damage": ["app/a: its bytes are damaged", "its end is missing"] })
    );
}

#[test]
fn a_long_run_is_counted_not_scrolled() {
    let recorded = (0..1_500).map(|n| (format!("{n}.md"), Change::Created)).collect();
    let report = Report { recorded, ..Report::default() };

    let lines = report::lines(&report, false, None);

    assert_eq!(lines.len(), 1_002);
    assert_eq!(lines[1_000], "  and 500 more");
}

#[test]
fn a_healthy_status_is_short_and_ends_with_0() {
    let status = healthy_status();

    let lines = status::lines(&status, &Value::Null, 61_000);

    assert_eq!(
        lines,
        [
            "project   /p (app p, owner shared)",
            "origin    laptop-abc234",
            "running   no",
            "backend   sqlite:sync.db (ok)",
            "          sqlite pull: last success 1 min ago",
            "kept      1 file, 2.0 KiB, 3 versions",
        ]
    );
    assert!(status.remains().is_none());
}

#[test]
fn status_names_what_waits_and_what_is_wrong() {
    let mut status = healthy_status();
    status.running_pid = Some(7);
    status.pending = vec![PendingStatus {
        path: "a.md".to_owned(),
        what: "write".to_owned(),
        why: "open for writing".to_owned(),
        since_ms: 1_000,
    }];
    status.outbox = vec![OutboxStatus { path: "b.md".to_owned(), attempts: 1, next_ms: 0, error: "locked".to_owned() }];
    status.problems =
        vec![ProblemStatus { source: "scan".to_owned(), path: "pipe".to_owned(), what: "is no file".to_owned() }];
    status.conflicts = vec!["c.md".to_owned()];
    status.held_deletions = vec!["d.md".to_owned()];
    let daemon = json!({ "lines": ["watching 3 folders"] });

    let lines = status::lines(&status, &daemon, 61_000);

    assert_eq!(lines[2..4], ["running   yes, process 7", "          watching 3 folders"]);
    assert_eq!(
        lines[7..],
        [
            "waits     a.md (write): open for writing, since 1 min ago",
            "outbox    b.md: locked (1 try)",
            "conflict  c.md",
            "held      deletion of d.md",
            "problem   pipe: is no file (scan)",
        ]
    );
}

#[test]
fn the_exit_code_of_status_tells_the_worst() {
    let mut status = healthy_status();
    let code = |status: &Status| status.remains().map(|error| error.kind.exit_code());

    (status.conflicts, status.counts.conflicts) = (vec!["c.md".to_owned()], 1);
    assert_eq!(code(&status), Some(3));
    status.backend.ok = false;
    assert_eq!(code(&status), Some(2));
    status.problems.push(ProblemStatus { source: "ledger".to_owned(), ..ProblemStatus::default() });
    assert_eq!(code(&status), Some(4));
    assert_eq!(code(&Status::default()), Some(2));
}

#[test]
fn verify_says_what_repairs_and_a_stray_file_is_no_damage() {
    let found = |damage| Found {
        part: "ledger",
        what: "cp-1".to_owned(),
        problem: "is missing".to_owned(),
        repair: "`larder sync` fetches it".to_owned(),
        damage,
    };
    let damaged = Verified { chains: 1, versions: 2, contents_read: 0, artifacts_read: 0, findings: vec![found(true)] };
    let stray = Verified { findings: vec![found(false)], ..damaged.clone() };

    assert_eq!(
        verify::lines(&damaged),
        [
            "damage: ledger cp-1: is missing",
            "  repair: `larder sync` fetches it",
            "1 thing damaged or missing: 1 chain, 2 versions"
        ]
    );
    assert_eq!(damaged.remains().map(|error| error.kind), Some(Kind::Damage));
    assert_eq!(verify::lines(&stray)[2], "sound: 1 chain, 2 versions");
    assert!(stray.remains().is_none());
}

#[test]
fn an_error_is_a_sentence_a_hint_and_a_code() {
    let error = NodeError::user("name a file", "see `larder ls`");

    assert_eq!(error_text(&error), "error: name a file\nhelp: see `larder ls`");
    assert_eq!(
        error_object(&error),
        json!({ "kind": "user", "message": "name a file", "hint": "see `larder ls`", "exit_code": 1 })
    );
    assert_eq!(error_text(&NodeError::new(Kind::Conflicts, "2 wait")), "note: 2 wait");
}

#[test]
fn sizes_times_and_counts_read_well() {
    for (bytes, expected) in
        [(0, "0 bytes"), (1, "1 byte"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB")]
    {
        assert_eq!(text::size(bytes), expected);
    }
    assert_eq!(text::size(u64::MAX), "16384.0 PiB");
    for (then_ms, expected) in [(99_000, "just now"), (70_000, "30 s ago"), (0, "1 min ago")] {
        assert_eq!(text::ago(100_000, then_ms), expected);
    }
    assert_eq!(text::ago(0, 120_000), "in the future, 1970-01-01 00:02:00Z");
    assert_eq!(text::time(1_700_000_000_123), "2023-11-14 22:13:20Z");
    assert_eq!(text::rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    assert_eq!(text::count(2, "entry"), "2 entries");
}

#[test]
fn what_waits_for_an_upgrade_is_one_line() {
    for (upgrade, said) in [(1, "1 item waits for an upgrade"), (3, "3 items wait for an upgrade")] {
        let counts = CountStatus { upgrade, ..Default::default() };
        let known = Status { counts, ..Default::default() };
        let lines = status::lines(&known, &Value::Null, 0);
        assert!(lines.iter().any(|line| line.contains(said)), "{lines:#?}");
    }
}
