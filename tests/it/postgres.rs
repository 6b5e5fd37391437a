//! Projects mirrored into a real PostgreSQL by the real program: machines that share nothing else, a move from SQLite, other
//! programs beside it, a server that goes away, and what is wrong said in one sentence.
//!
//! Each test starts a server of its own and skips itself aloud where PostgreSQL is not installed.

use crate::postgres_server::{Bouncer, Postgres, Programs};
use crate::support::{CONFIG, DAEMON_DEADLINE, Lab, Project, skip, until};

fn server(test: &str) -> Option<Postgres> {
    let programs = Programs::of_system();
    if programs.is_none() {
        skip(test, "PostgreSQL (Debian: postgresql) is not installed");
    }
    programs.map(|programs| Postgres::start(&programs))
}

/// A machine of its own that knows the database by the usual variable.
fn machine(lab: &Lab, name: &str, url: &str) -> Project {
    let project = lab.project(name, CONFIG).with_home(&lab.path(format!("home-{name}")));
    project.with_var("FILE_SYNC_BACKEND", "postgres").with_var("DATABASE_URL", url)
}

fn text(project: &Project, path: &str) -> Option<String> {
    project.read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn row(server: &Postgres, path: &str) -> String {
    server.sql("lab", &format!("SELECT content FROM files WHERE app = 'lab' AND path = '{path}'"))
}

#[test]
fn machines_that_share_only_postgres_converge() {
    let Some(server) = server("machines_that_share_only_postgres_converge") else { return };
    let url = server.create("lab");
    let lab = Lab::new();
    let (a, b) = (machine(&lab, "a", &url), machine(&lab, "b", &url));
    a.write("shared/notes.md", "one\n");
    a.write("shared/größe x.md", "name\n");
    a.write("shared/empty.md", "");
    a.write("shared/latin.md", [0xE9, b'\n']);
    let noise: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    a.write("shared/big.bin", &noise);
    a.write("logs/x.log", "of a\n");

    for project in [&a, &b, &a, &b] {
        project.sync();
    }
    assert_eq!(b.tree("shared"), a.tree("shared"));
    assert_eq!(row(&server, "shared/notes.md"), "one");
    let all = "SELECT count(*), count(content), max(size_bytes) FROM files_all WHERE app = 'lab'";
    assert_eq!(server.sql("lab", all), "5|3|3000000");

    a.write("shared/notes.md", "two\n");
    b.remove("shared/größe x.md");
    b.write("shared/of-b.md", "b\n");
    for project in [&a, &b, &a, &b] {
        project.sync();
    }
    assert_eq!(b.tree("shared"), a.tree("shared"));
    assert_eq!((text(&b, "shared/notes.md").as_deref(), a.read("shared/größe x.md")), (Some("two\n"), None));
    for project in [&a, &b] {
        project.verify();
        assert_eq!(project.run(["status", "--json"]).expect(0).json()["outbox"], serde_json::json!([]));
    }
}

/// Takes away everything of Larder's but `files`, as the sentence about a part that is missing says.
const DROP: &str = "DROP VIEW IF EXISTS files_all; DROP TABLE IF EXISTS file_mirror, file_chunked, file_chunks, file_store CASCADE;
    DROP SEQUENCE IF EXISTS file_changes_n CASCADE; DROP FUNCTION IF EXISTS larder_file_id, larder_note, larder_files_named,
    larder_files_noted, larder_files_emptied CASCADE";

#[test]
fn daemons_make_anew_what_was_dropped_beneath_them_and_lose_nothing() {
    let Some(server) = server("daemons_make_anew_what_was_dropped_beneath_them_and_lose_nothing") else { return };
    let url = server.create("lab");
    let lab = Lab::new();
    let (a, b) = (machine(&lab, "a", &url), machine(&lab, "b", &url));
    a.write("shared/notes.md", "one\n");
    let daemons = [a.up(), b.up()];
    until("it arrives", DAEMON_DEADLINE, || b.tree("shared") == a.tree("shared"));

    server.sql("lab", DROP);
    a.write("shared/notes.md", "two\n");

    until("the edit arrives", DAEMON_DEADLINE, || text(&b, "shared/notes.md").as_deref() == Some("two\n"));
    until("status is well", DAEMON_DEADLINE, || [&a, &b].iter().all(|one| one.run(["status"]).code == Some(0)));
    for daemon in daemons {
        daemon.stop();
    }
    assert_eq!(row(&server, "shared/notes.md"), "two");
}

#[test]
fn a_server_that_was_away_when_a_daemon_began_is_listened_to_once_it_is_back() {
    let test = "a_server_that_was_away_when_a_daemon_began_is_listened_to_once_it_is_back";
    let Some(mut server) = server(test) else { return };
    let url = server.create("lab");
    let lab = Lab::new();
    let a = machine(&lab, "a", &url).with_var("LARDER_INTERVAL_SECS", "86400");
    a.sync();
    server.stop();
    let daemon = a.up();
    server.start_again();
    // An edit of its own makes it look for the server.
    a.write("shared/mine.md", "mine\n");
    until("the row is there", DAEMON_DEADLINE, || row(&server, "shared/mine.md") == "mine");

    let insert = "INSERT INTO files (app, path, content) VALUES ('lab', 'shared/theirs.md', E'theirs\\n')";
    server.sql("lab", insert);

    until("it is heard of", DAEMON_DEADLINE, || text(&a, "shared/theirs.md").as_deref() == Some("theirs\n"));
    daemon.stop();
}

#[test]
fn other_programs_insert_edit_revert_and_delete() {
    let Some(server) = server("other_programs_insert_edit_revert_and_delete") else { return };
    let url = server.create("lab");
    let lab = Lab::new();
    let (a, b) = (machine(&lab, "a", &url), machine(&lab, "b", &url));
    a.write("shared/notes.md", "last week\n");
    a.write("shared/gone.md", "gone\n");
    a.write("shared/log.jsonl", "{\"n\":1}\n".repeat(40_000));
    for project in [&a, &b, &a, &b] {
        project.sync();
    }
    a.write("shared/notes.md", "today\n");
    for project in [&a, &b] {
        project.sync();
    }
    let write = |text: &str| {
        server.sql("lab", &format!("UPDATE files SET content = E'{text}\\n' WHERE path = 'shared/notes.md'"))
    };

    server.sql("lab", "INSERT INTO files (app, path, content) VALUES ('lab', 'shared/theirs.md', E'theirs\\n')");
    server.sql("lab", "DELETE FROM files WHERE path = 'shared/gone.md'");
    server.sql(
        "lab",
        "INSERT INTO files (app, path, content) VALUES ('lab', '../up.md', 'x'), ('lab', 'shared/.env', 'KEY=1'), \
        ('lab', 'shared/null.md', NULL), ('lab', 'shared/huge.md', repeat('x', 33 * 1024 * 1024))",
    );
    write("edited");
    for project in [&a, &b] {
        project.sync_any();
    }
    assert_eq!(
        (text(&b, "shared/notes.md").as_deref(), text(&b, "shared/theirs.md").as_deref()),
        (Some("edited\n"), Some("theirs\n"))
    );
    assert_eq!((a.read("shared/gone.md"), b.read("shared/gone.md")), (None, None));
    assert!(a.read("shared/.env").is_none() && a.read("shared/huge.md").is_none() && a.read("../up.md").is_none());
    let status = a.run(["status"]).said();
    for named in ["up.md", ".env", "null.md", "huge.md"] {
        assert!(status.contains(named), "{named} is not named: {status}");
    }

    // Two observers of one edit back to an earlier text make one version of it.
    write("last week");
    for project in [&b, &a, &b, &a] {
        project.sync_any();
    }
    assert_eq!(
        (text(&a, "shared/notes.md").as_deref(), text(&b, "shared/notes.md").as_deref()),
        (Some("last week\n"), Some("last week\n"))
    );
    assert_eq!(a.run(["conflicts"]).expect(0).out, b.run(["conflicts"]).expect(0).out);
    assert_eq!(a.tree("shared"), b.tree("shared"));
}

#[test]
fn a_project_moves_to_postgres_and_back_by_one_variable() {
    let Some(server) = server("a_project_moves_to_postgres_and_back_by_one_variable") else { return };
    let url = server.create("lab");
    let lab = Lab::new();
    let here = lab.project("here", CONFIG);
    here.write("shared/a.md", "a\n");
    here.write("shared/b.md", "b\n");
    here.sync();
    let moved = here.clone().with_var("FILE_SYNC_BACKEND", "postgres").with_var("DATABASE_URL", &url);

    moved.sync().says("2");
    assert_eq!((row(&server, "shared/a.md"), row(&server, "shared/b.md")), ("a".to_owned(), "b".to_owned()));
    moved.run(["status"]).expect(0).says("postgres");
    moved.write("shared/a.md", "newer\n");
    moved.sync();
    assert_eq!(row(&server, "shared/a.md"), "newer");
    let old = crate::support::Rows::open(&here.path("sync.db"));
    assert_eq!(old.content("shared/a.md").as_deref(), Some("a\n"), "the old one is left as it is");

    here.sync();
    assert_eq!(old.content("shared/a.md").as_deref(), Some("newer\n"));
    moved.sync().expect(0);
    assert_eq!(server.sql("lab", "SELECT count(*) FROM files"), "2");
}

#[test]
fn daemons_hear_of_each_other_and_survive_a_restart_of_the_server() {
    const TEST: &str = "daemons_hear_of_each_other_and_survive_a_restart_of_the_server";
    let Some(mut server) = server(TEST) else { return };
    let url = server.create("lab");
    let lab = Lab::new();
    // Only what the server tells brings them together: by the clock nothing is exchanged within an hour.
    let quiet = CONFIG.replace("\"intervalSecs\": 1", "\"intervalSecs\": 3600");
    let (a, b) = (machine(&lab, "a", &url), machine(&lab, "b", &url));
    for project in [&a, &b] {
        project.write("sync-config.json", &quiet);
    }
    let (first, second) = (a.up(), b.up());
    a.write("shared/one.md", "one\n");
    until("the other machine has it", DAEMON_DEADLINE, || text(&b, "shared/one.md").as_deref() == Some("one\n"));
    server.sql("lab", "UPDATE files SET content = E'by hand\\n' WHERE path = 'shared/one.md'");
    for project in [&a, &b] {
        until("the edit is on disk", DAEMON_DEADLINE, || {
            text(project, "shared/one.md").as_deref() == Some("by hand\n")
        });
    }

    server.stop();
    a.write("shared/two.md", "two\n");
    until("it is recorded without the server", DAEMON_DEADLINE, || a.run(["log", "shared/two.md"]).code == Some(0));
    server.start_again();
    until("the row came later", DAEMON_DEADLINE, || row(&server, "shared/two.md") == "two");
    until("and the other machine has it", DAEMON_DEADLINE, || text(&b, "shared/two.md").as_deref() == Some("two\n"));
    until("status is well again", DAEMON_DEADLINE, || a.run(["status"]).code == Some(0));
    first.stop();
    second.stop();
}

#[test]
fn a_pooler_costs_a_line_in_status() {
    const TEST: &str = "a_pooler_costs_a_line_in_status";
    let Some(server) = server(TEST) else { return };
    server.create("lab");
    let Some(bouncer) = Bouncer::start(&server) else { return skip(TEST, "pgbouncer is not installed") };
    let lab = Lab::new();
    let a = machine(&lab, "a", &bouncer.url("lab"));
    a.write("shared/one.md", "one\n");
    let daemon = a.up();

    until("status tells it", DAEMON_DEADLINE, || a.run(["status"]).expect(0).said().contains("pooler"));
    server.sql("lab", "UPDATE files SET content = E'by hand\\n' WHERE path = 'shared/one.md'");
    until("it is heard all the same", DAEMON_DEADLINE, || text(&a, "shared/one.md").as_deref() == Some("by hand\n"));
    daemon.stop();
}

#[test]
fn what_is_wrong_is_one_sentence_and_files_are_kept_all_the_same() {
    let Some(server) = server("what_is_wrong_is_one_sentence_and_files_are_kept_all_the_same") else { return };
    let lab = Lab::new();
    let port = server.port;
    for (name, url, code, says) in [
        ("host", "postgres://bo:geheim@127.0.0.1:1/lab".to_owned(), 2, "cannot be reached"),
        ("database", format!("postgres://postgres:geheim@127.0.0.1:{port}/nowhere"), 2, "createdb"),
        ("role", format!("postgres://nobody-here:geheim@127.0.0.1:{port}/postgres"), 2, "refuses user or password"),
        ("mode", format!("postgres://postgres:geheim@127.0.0.1:{port}/postgres?sslmode=maybe"), 1, "`sslmode` must be"),
        ("tls", format!("postgres://postgres:geheim@127.0.0.1:{port}/postgres?sslmode=require"), 2, "TLS"),
    ] {
        let project = machine(&lab, name, &url);
        project.write("shared/a.md", "kept\n");

        let outcome = project.run(["sync"]).expect(code).says(says);

        assert!(!outcome.said().contains("geheim"), "{outcome:#?}");
        if code == 2 {
            let status = project.run(["status"]).expect(2).says(says);
            assert!(!status.said().contains("geheim"), "{status:#?}");
            project.run(["log", "shared/a.md"]).expect(0);
        }
    }
    let nothing = lab.project("nothing", CONFIG).with_var("FILE_SYNC_BACKEND", "postgres");
    nothing.run(["sync"]).expect(1).says("DATABASE_URL");
}

#[test]
fn a_database_that_is_not_as_it_was_is_said_so_and_files_are_recorded_until_it_is() {
    let Some(server) = server("a_database_that_is_not_as_it_was_is_said_so_and_files_are_recorded_until_it_is") else {
        return;
    };
    let lab = Lab::new();
    let a = machine(&lab, "a", &server.create("lab"));
    a.write("shared/first.md", "first\n");
    a.sync();
    server.sql("lab", "CREATE ROLE reader LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader");
    let read_only = "ALTER DATABASE lab SET default_transaction_read_only = on";
    let reader = server.url("lab").replace("postgres@", "reader@");

    for (name, harm, user, code, says) in [
        ("newer", "UPDATE file_store SET value = '99' WHERE key = 'schema'", &*server.url("lab"), 2, "a newer release"),
        ("reader", "SELECT 1", &*reader, 2, "may not read and write the table files"),
        ("read-only", read_only, &*server.url("lab"), 2, "it may only be read"),
    ] {
        server.sql("lab", harm);
        let (project, path) = (a.clone().with_var("DATABASE_URL", user), format!("shared/{name}.md"));
        project.write(&path, name);

        project.run(["sync"]).expect(code).says(says);
        project.run(["status"]).expect(2).says(says);
        project.run(["log", &path]).expect(0);
        server.sql("postgres", "ALTER DATABASE lab RESET default_transaction_read_only");
        server.sql("lab", "UPDATE file_store SET value = '1' WHERE key = 'schema'");
        a.sync();
        assert_eq!(row(&server, &path), name);
    }
}

#[test]
fn a_database_of_which_a_part_was_dropped_tells_the_statement_after_which_it_is_made_anew() {
    let Some(server) = server("a_database_of_which_a_part_was_dropped_tells_the_statement_after_which_it_is_made_anew")
    else {
        return;
    };
    let lab = Lab::new();
    let url = server.create("lab");
    let (a, b) = (machine(&lab, "a", &url), machine(&lab, "b", &url));
    a.write("shared/bytes.bin", [0, 159, 146, 150]);
    for project in [&a, &b, &a, &b] {
        project.sync();
    }

    for harm in [
        "DROP TABLE files CASCADE",
        "DROP TABLE file_mirror CASCADE",
        "DROP TABLE file_store",
        "DROP TABLE file_chunks; DROP TABLE file_store",
        "DROP TABLE files, file_mirror, file_chunked, file_chunks, file_store CASCADE",
        "DROP TRIGGER larder_noted ON files",
    ] {
        a.write("shared/a.md", harm);
        a.sync_any();
        server.sql("lab", harm);
        let said = a.run(["sync"]).expect(2).said();
        let statement = said.split('`').find(|quoted| quoted.starts_with("DROP VIEW")).expect("what to run").to_owned();
        server.sql("lab", &statement);

        for project in [&a, &b, &a, &b] {
            project.sync_any();
        }
        assert_eq!(row(&server, "shared/a.md"), harm);
        assert_eq!(a.tree("shared"), b.tree("shared"), "{harm}");
        assert_eq!(text(&b, "shared/a.md").as_deref(), Some(harm));
        [&a, &b].into_iter().for_each(Project::verify);
    }
    // Nobody is told to drop what another program made.
    let theirs = machine(&lab, "theirs", &server.create("theirs"));
    server.sql("theirs", "CREATE TABLE file_chunks (theirs text)");
    let said = theirs.run(["sync"]).expect(1).said();
    assert!(said.contains("another program uses a name") && !said.contains("DROP"), "{said}");
    server.sql("lab", "ALTER TABLE files DISABLE TRIGGER larder_noted");
    a.run(["sync"]).expect(2).says("ALTER TABLE files ENABLE TRIGGER larder_noted");
}

#[test]
fn rows_of_postgres_with_hostile_names_and_contents_are_named_and_stop_no_other() {
    let Some(server) = server("rows_of_postgres_with_hostile_names_and_contents_are_named_and_stop_no_other") else {
        return;
    };
    let lab = Lab::new();
    let a = machine(&lab, "a", &server.create("lab"));
    a.write("shared/first.md", "first\n");
    a.sync();

    server.sql(
        "lab",
        "INSERT INTO files (app, path, content) SELECT 'lab', path, 'planted' FROM unnest(ARRAY['shared/../../out.md', '/tmp/larder-out.md',
            'shared/.env', repeat('shared/d', 300) || '.md', E'shared/\\x1b[2J.md']) AS path;
        INSERT INTO files (app, path, content) VALUES ('lab', 'shared/huge.md', repeat('x', 40000000)), ('lab', 'shared/fine.md', 'fine')",
    );
    a.run(["sync"]).expect(0);

    assert_eq!(text(&a, "shared/fine.md").as_deref(), Some("fine"));
    assert!(!lab.path("out.md").exists() && !std::path::Path::new("/tmp/larder-out.md").exists());
    assert_eq!((a.read("shared/.env"), a.read("shared/huge.md")), (None, None));
    let status = a.run(["status"]).expect(0).says("shared/huge.md: content of 40000000 bytes, the limit is");
    let status = status.says("shared/.env").says("no file can have");
    assert!(!status.said().contains('\u{1b}'), "{status:#?}");
    assert_eq!(row(&server, "shared/../../out.md"), "planted", "another program's row is left alone");
    a.verify();
}

/// A mirror is a mirror: what one backend holds the other comes to hold.
#[test]
fn two_backends_of_one_project_meet_through_a_folder() {
    let Some(server) = server("two_backends_of_one_project_meet_through_a_folder") else { return };
    let url = server.create("lab");
    let lab = Lab::new();
    std::fs::create_dir(lab.path("share")).expect("make the folder");
    let (a, b) = (machine(&lab, "a", &url), lab.project("b", CONFIG).with_home(&lab.path("home-b")));
    a.write("shared/of-a.md", "a\n");
    b.write("shared/of-b.md", "b\n");
    let share = lab.path("share").to_string_lossy().into_owned();

    for project in [&a, &b] {
        project.run(["peers", "add", "share", &share]).expect(0);
        project.sync();
    }
    a.sync();

    assert_eq!(a.tree("shared"), b.tree("shared"));
    assert_eq!(row(&server, "shared/of-b.md"), "b");
    server.sql("lab", "UPDATE files SET content = E'by hand\\n' WHERE path = 'shared/of-b.md'");
    for project in [&a, &b] {
        project.sync();
    }
    let rows = crate::support::Rows::open(&b.path("sync.db"));
    assert_eq!(rows.content("shared/of-b.md").as_deref(), Some("by hand\n"));
}

#[test]
fn a_backend_is_checked_prepared_and_left_as_it_was() {
    let Some(server) = server("a_backend_is_checked_prepared_and_left_as_it_was") else { return };
    let url = server.create("lab");
    let lab = Lab::new();
    let a = machine(&lab, "a", &url);

    let listed = a.run(["backend", "--json"]).expect(0).json();
    let live = |name: &str| {
        let lines = listed["backends"].as_array().expect("a list");
        lines.iter().any(|line| line["name"] == name && line["live"] == true)
    };
    assert!(live("postgres") && !live("sqlite"));
    a.run(["backend", "migrate", "--dry-run"]).expect(0);
    assert_eq!(server.sql("lab", "SELECT to_regclass('files') IS NULL"), "t");
    let checked = a.run(["backend", "check", "--json"]).expect(0).json();
    assert_eq!((&checked["ok"], checked["steps"].as_array().map(Vec::len)), (&true.into(), Some(8)));
    assert_eq!(server.sql("lab", "SELECT count(*) FROM files_all"), "0");
    a.run(["backend", "check", "sqlite"]).expect(0).says("ok");

    // What `ddl` prints makes the same: a role that may make no tables needs nothing else.
    let ddl = a.run(["backend", "ddl"]).expect(0).out;
    server.create("owned");
    server.sql("owned", &ddl);
    server.sql(
        "owned",
        "CREATE ROLE rows_only LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO rows_only; \
            GRANT USAGE ON SEQUENCE file_changes_n TO rows_only",
    );
    let b = machine(&lab, "b", &server.url("owned").replace("postgres@", "rows_only@"));
    b.run(["backend", "check"]).expect(0);
    b.write("shared/a.md", "a\n");
    b.sync();
    let tables = "SELECT string_agg(table_name || '.' || column_name || ' ' || data_type, ',' ORDER BY table_name, ordinal_position) \
        FROM information_schema.columns WHERE table_schema = 'public'";
    assert_eq!(server.sql("owned", tables), server.sql("lab", tables));

    for (harm, says) in [
        ("DROP TRIGGER larder_noted ON files", "the trigger larder_noted"),
        ("DROP TABLE file_chunks", "the table file_chunks is missing"),
    ] {
        server.sql("owned", harm);
        b.run(["backend", "check"]).expect(2).says(says).says("larder backend ddl postgres");
    }
    a.run(["backend", "check", "postgrse"]).expect(1).says("postgres");
}
