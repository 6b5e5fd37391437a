//! Projects mirrored into Supabase by the real program: a real PostgREST on a real PostgreSQL, reached with the publishable key.
//!
//! Each test starts a service of its own and skips itself aloud where the programs are not installed.

use crate::supabase_server::{KEY, Service};
use crate::support::{CONFIG, DAEMON_DEADLINE, Lab, Project, skip, until};

fn service(test: &str) -> Option<Service> {
    Service::start().map_err(|reason| skip(test, reason)).ok()
}

fn machine(lab: &Lab, name: &str, service: &Service) -> Project {
    let project = lab.project(name, CONFIG).with_home(&lab.path(format!("home-{name}")));
    let project = project.with_var("FILE_SYNC_BACKEND", "supabase").with_var("SUPABASE_URL", &service.url());
    project.with_var("SUPABASE_PUBLISHABLE_KEY", KEY)
}

fn text(project: &Project, path: &str) -> Option<String> {
    project.read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[test]
fn a_project_is_prepared_by_its_ddl_and_machines_that_share_only_supabase_converge() {
    const TEST: &str = "a_project_is_prepared_by_its_ddl_and_machines_that_share_only_supabase_converge";
    let Some(service) = service(TEST) else { return };
    let lab = Lab::new();
    let (a, b) = (machine(&lab, "a", &service), machine(&lab, "b", &service));
    a.run(["backend", "check"]).expect(2).says("larder backend ddl supabase");
    service.prepare();
    a.run(["backend", "check"]).expect(0);
    assert_eq!(service.server.sql("lab", "SELECT count(*) FROM files_all"), "0");
    a.write("shared/notes.md", "one\n");
    a.write("shared/größe x.md", "name\n");
    let noise: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    a.write("shared/big.bin", &noise);
    a.write("mine/diary.md", "mine\n");

    for project in [&a, &b, &a, &b] {
        project.sync();
    }
    assert_eq!(b.tree("shared"), a.tree("shared"));
    assert_eq!(service.server.sql("lab", "SELECT count(*) FROM files_all WHERE path LIKE 'mine/%'"), "0");

    a.write("shared/notes.md", "two\n");
    b.remove("shared/größe x.md");
    service.server.sql(
        "lab",
        "SET ROLE anon; INSERT INTO files (app, path, content) VALUES ('lab', 'shared/theirs.md', E'theirs\\n')",
    );
    for project in [&a, &b, &a, &b] {
        project.sync();
    }
    assert_eq!(b.tree("shared"), a.tree("shared"));
    assert_eq!(
        (text(&b, "shared/notes.md").as_deref(), text(&b, "shared/theirs.md").as_deref()),
        (Some("two\n"), Some("theirs\n"))
    );
    assert_eq!(a.read("shared/größe x.md"), None);
    for project in [&a, &b] {
        project.verify();
    }
}

#[test]
fn private_files_go_there_with_a_token_of_ones_own() {
    let Some(service) = service("private_files_go_there_with_a_token_of_ones_own") else { return };
    service.prepare();
    let lab = Lab::new();
    let config = CONFIG.replacen('{', "{ \"ownerId\": \"ann\",", 1);
    let project =
        lab.project("a", &config).with_var("FILE_SYNC_BACKEND", "supabase").with_var("SUPABASE_URL", &service.url());
    let ann = project.with_var("SUPABASE_ANON_KEY", KEY).with_var("SUPABASE_ACCESS_TOKEN", &service.token("ann"));
    ann.write("mine/diary.md", "mine\n");
    ann.write("shared/notes.md", "one\n");

    ann.sync();

    let rows = "SELECT string_agg(owner_id || ' ' || path, ',' ORDER BY path) FROM files";
    assert_eq!(service.server.sql("lab", rows), "ann mine/diary.md,shared shared/notes.md");
    assert_eq!(service.server.sql("lab", "SET ROLE anon; SELECT count(*) FROM files"), "1");
}

#[test]
fn daemons_hear_of_rows_and_a_service_that_is_away_is_waited_for() {
    const TEST: &str = "daemons_hear_of_rows_and_a_service_that_is_away_is_waited_for";
    let Some(mut service) = service(TEST) else { return };
    service.prepare();
    let lab = Lab::new();
    let a = machine(&lab, "a", &service);
    let daemon = a.up();
    service.server.sql(
        "lab",
        "SET ROLE anon; INSERT INTO files (app, path, content) VALUES ('lab', 'shared/theirs.md', E'theirs\\n')",
    );
    until("the row is on disk", DAEMON_DEADLINE, || text(&a, "shared/theirs.md").as_deref() == Some("theirs\n"));

    service.server.stop();
    a.write("shared/mine.md", "mine\n");
    until("it is recorded without the service", DAEMON_DEADLINE, || a.run(["log", "shared/mine.md"]).code == Some(0));
    until("status says so", DAEMON_DEADLINE, || a.run(["status"]).code == Some(2));
    service.server.start_again();
    let row = "SELECT content FROM files WHERE path = 'shared/mine.md'";
    until("the row came later", DAEMON_DEADLINE, || service.server.sql("lab", row) == "mine");
    daemon.stop();
}

#[test]
fn tables_that_were_dropped_and_made_again_delete_no_file_and_are_filled_beneath_a_daemon() {
    const TEST: &str = "tables_that_were_dropped_and_made_again_delete_no_file_and_are_filled_beneath_a_daemon";
    let Some(service) = service(TEST) else { return };
    service.prepare();
    let lab = Lab::new();
    let (a, b) = (machine(&lab, "a", &service), machine(&lab, "b", &service));
    let noise: Vec<u8> = (0..600_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    a.write("shared/notes.md", "one\n");
    a.write("shared/big.bin", &noise);
    for project in [&a, &b, &a, &b] {
        project.sync();
    }
    let daemon = b.up();

    for (round, table) in ["files", "file_mirror", "file_chunked", "file_chunks", "file_store"].into_iter().enumerate()
    {
        service.server.sql("lab", &format!("DROP TABLE {table} CASCADE"));
        a.write(format!("shared/of-round-{round}.md"), table);
        // Whether it is met when the service is opened or later.
        a.run(["sync"]).expect(2).says("larder backend ddl supabase");
        service.prepare();
        until("the service is used again", DAEMON_DEADLINE, || a.run(["sync"]).code == Some(0));
        let rows = "SELECT count(*) FROM files_all WHERE app = 'lab'";
        until("all rows are back", DAEMON_DEADLINE, || service.server.sql("lab", rows) == (round + 3).to_string());
        // It is sent once somebody else writes there, and who does may have been lost with a table.
        let arrives = || a.run(["sync"]).code == Some(0) && b.tree("shared") == a.tree("shared");
        until("it arrives", DAEMON_DEADLINE, arrives);
        assert_eq!((a.read("shared/big.bin").as_ref(), b.tree("shared").len()), (Some(&noise), round + 3), "{table}");
    }
    daemon.stop();
    for project in [&a, &b] {
        project.sync();
        project.verify();
    }
}

#[test]
fn rows_of_supabase_with_hostile_names_are_named_and_a_role_that_may_only_read_stops_no_recording() {
    const TEST: &str = "rows_of_supabase_with_hostile_names_are_named_and_a_role_that_may_only_read_stops_no_recording";
    let Some(service) = service(TEST) else { return };
    let lab = Lab::new();
    let a = machine(&lab, "a", &service);
    service.prepare();
    a.write("shared/first.md", "first\n");
    a.sync();

    service.server.sql(
        "lab",
        "SET ROLE anon; INSERT INTO files (app, path, content) SELECT 'lab', path, 'planted' FROM unnest(ARRAY['shared/../../out.md',
            '/tmp/larder-out.md', 'shared/.env', repeat('shared/d', 300) || '.md', E'shared/\\x1b[2J.md']) AS path;
        INSERT INTO files (app, path, content) VALUES ('lab', 'shared/huge.md', repeat('x', 40000000)), ('lab', 'shared/fine.md', 'fine')",
    );
    a.run(["sync"]).expect(0);

    assert_eq!(text(&a, "shared/fine.md").as_deref(), Some("fine"));
    assert!(!lab.path("out.md").exists() && !std::path::Path::new("/tmp/larder-out.md").exists());
    assert_eq!((a.read("shared/.env"), a.read("shared/huge.md")), (None, None));
    let status = a.run(["status"]).expect(0).says("shared/huge.md").says("shared/.env").says("no file can have");
    assert!(!status.said().contains('\u{1b}') && !status.said().contains(KEY), "{status:#?}");

    service.server.sql("lab", "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM anon, public");
    a.write("shared/later.md", "later\n");
    let refused = a.run(["sync"]).expect(2);
    assert!(!refused.said().contains(KEY), "{refused:#?}");
    a.run(["log", "shared/later.md"]).expect(0);
    a.run(["status"]).expect(2);
    service.server.sql("lab", "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO anon");
    a.sync();
    assert_eq!(service.server.sql("lab", "SELECT content FROM files_all WHERE path = 'shared/later.md'"), "later");
    a.verify();
}
