//! The parts of the comparison that speak to a database server: PostgreSQL itself, and PostgREST with Realtime before it.
//!
//! Servers are made for a part and sync to the disk as they come. What is not installed is said in the table's place.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use larder_adapters::{FileSyncAdapter, OpenContext, RecordId, RowContent};

use crate::Options;
use crate::measure::{Cost, median, percentile, run};
use crate::place::{Place, fill, until, until_asked};
use crate::postgres_server::{Postgres, Programs};
use crate::supabase_server::{KEY, Service};
use crate::table::{Goal, Table};

const COUNT: usize = 10_000;
const ROUNDS: usize = 5;
const EDITS: usize = 200;
const QUIET_MS: f64 = larder::sync::QUIET_MS as f64;
/// What tests leave out for the sake of speed.
const DURABLE: [&str; 3] = ["fsync=on", "full_page_writes=on", "shared_buffers=128MB"];

type Variables = Vec<(&'static str, String)>;

/// A first mirror and edits, into PostgreSQL.
pub fn postgres(options: &Options) {
    let Some(programs) = Programs::of_system() else {
        let table = Table::begin("PostgreSQL");
        return table.absent("first mirror", "PostgreSQL is not installed");
    };
    let server = Postgres::start_with(&programs, &DURABLE, |_| {});
    let mut rounds = Rounds::begin(options, &server);
    let (mut ours, mut copies) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        ours.push(rounds.mirror(&of_postgres(&server.create(&format!("round{round}")))));
        copies.push(rounds.copy(&server, &format!("round{round}")));
    }
    let table = Table::begin(&format!("First mirror of {COUNT} small files into PostgreSQL {}", programs.version));
    let wall = |costs: &[Cost]| median(costs, |cost| cost.wall_ms);
    table.ratio("wall / COPY of the same rows by psql", wall(&ours), wall(&copies), "ms", Goal::AtMost(2.5));
    table.figure("CPU of larder alone", median(&ours, |cost| cost.cpu_ms), "ms", Goal::None);

    let table = Table::begin(&format!("Running daemons on one PostgreSQL, {EDITS} edits one after the other"));
    edits(&table, options, &of_postgres(&server.create("edits")), 60.0);
}

/// The same into PostgREST, beside PostgreSQL.
pub fn supabase(options: &Options) {
    let service = match Service::start_with(&DURABLE) {
        Ok(service) => service,
        Err(why) => return Table::begin("PostgREST").absent("first mirror", why),
    };
    service.prepare();
    let variables = vec![
        ("FILE_SYNC_BACKEND", "supabase".to_owned()),
        ("SUPABASE_URL", service.url()),
        ("SUPABASE_PUBLISHABLE_KEY", KEY.to_owned()),
    ];
    let mut rounds = Rounds::begin(options, &service.server);
    let (mut ours, mut direct) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        ours.push(rounds.mirror(&variables));
        direct.push(rounds.mirror(&of_postgres(&service.server.create(&format!("round{round}")))));
    }
    let table = Table::begin(&format!("First mirror of {COUNT} small files into PostgREST"));
    let wall = |costs: &[Cost]| median(costs, |cost| cost.wall_ms);
    table.ratio("wall / larder into the same PostgreSQL", wall(&ours), wall(&direct), "ms", Goal::AtMost(3.0));

    let table = Table::begin(&format!("Running daemons on one Realtime, {EDITS} edits one after the other"));
    edits(&table, options, &variables, 150.0);
}

fn of_postgres(url: &str) -> Variables {
    vec![("FILE_SYNC_BACKEND", "postgres".to_owned()), ("DATABASE_URL", url.to_owned())]
}

/// One tree of files that each round mirrors as if for the first time.
struct Rounds {
    place: Place,
    source: PathBuf,
    count: usize,
}

impl Rounds {
    fn begin(options: &Options, server: &Postgres) -> Rounds {
        let place = Place::new(&options.larder);
        let source = place.path("source");
        fs::create_dir(&source).expect("make the tree's folder");
        fill(&source, COUNT);
        server.create("plain");
        Rounds { place, source, count: 0 }
    }

    /// One first mirror, one-shot.
    fn mirror(&mut self, variables: &Variables) -> Cost {
        self.count += 1;
        let project = project(&self.place, &format!("project-{}", self.count), &format!("bench{}", self.count));
        fs::rename(&self.source, project.join("files")).expect("move the tree in");
        let mut command = self.place.larder(&project, None, &["sync", "--trust"]);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let cost = run(command);
        fs::rename(project.join("files"), &self.source).expect("move the tree out");
        fs::remove_dir_all(&project).expect("remove");
        cost
    }

    /// The rows of a database into an empty table of the same columns and key, by one COPY.
    fn copy(&self, server: &Postgres, database: &str) -> Cost {
        let rows = self.place.path("rows.copy");
        let mut told = psql(server, database, "COPY files TO STDOUT");
        let out = fs::File::create(&rows).expect("make a file");
        assert!(told.stdout(out).status().is_ok_and(|status| status.success()), "psql tells the rows");
        let table =
            "id text PRIMARY KEY, path text, content text, app text, owner_id text, last_updated text, created_at text";
        server.sql("plain", &format!("DROP TABLE IF EXISTS files; CREATE TABLE files ({table}); CHECKPOINT"));
        let cost = run(psql(server, "plain", &format!("\\copy files FROM '{}'", rows.display())));
        assert_eq!(server.sql("plain", "SELECT count(*) FROM files"), COUNT.to_string());
        cost
    }
}

fn psql(server: &Postgres, database: &str, sql: &str) -> Command {
    let mut command = Command::new(server.programs.program("psql"));
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &server.url(database), "-c", sql]);
    command
}

fn project(place: &Place, name: &str, app: &str) -> PathBuf {
    let project = place.path(name);
    fs::create_dir_all(&project).expect("make the project");
    let config = format!(r#"{{ "appId": "{app}", "syncFilePatterns": ["files/**"], "intervalSecs": 3600 }}"#);
    fs::write(project.join("sync-config.json"), config).expect("write the config");
    project
}

/// From a write in one machine to its row, and to the other machine's disk; each figure from when the file is stable.
fn edits(table: &Table, options: &Options, variables: &Variables, goal_ms: f64) {
    let place = Place::new(&options.larder);
    let machines = ["a", "b"].map(|name| {
        let project = project(&place, name, "edits");
        fs::create_dir(project.join("files")).expect("make a folder");
        project
    });
    fs::write(machines[0].join("files/note.md"), "first\n").expect("write");
    for project in machines.iter().chain([&machines[0]]) {
        let mut command = place.larder(project, None, &["sync", "--trust"]);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        run(command);
    }
    let _running = [place.up_among(&machines[0], variables), place.up_among(&machines[1], variables)];
    let observer = observer(variables, &place.path("."));
    let (mut rows, mut files, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for edit in 0..EDITS {
        let wanted = format!("edit {edit}\n");
        let (row_ms, file_ms) = one_edit(&machines, &*observer, &wanted);
        rows.push(row_ms);
        files.push(file_ms);
        back.push(file_ms - row_ms);
    }
    for (share, name, goal) in [(0.5, "p50", goal_ms), (0.99, "p99", 250.0)] {
        let row = percentile(rows.clone(), share) - QUIET_MS;
        table.figure(&format!("edit to row, {name} after the file is stable"), row, "ms", Goal::AtMost(goal));
        let file = percentile(back.clone(), share);
        table.figure(&format!("row to the other machine's disk, {name}"), file, "ms", Goal::AtMost(goal));
        let whole = percentile(files.clone(), share) - QUIET_MS;
        table.figure(&format!("edit in A to bytes in B, {name} after the file is stable"), whole, "ms", Goal::None);
    }
}

/// When the row showed the edit, and when the other machine's file did, in milliseconds after the write.
fn one_edit(machines: &[PathBuf; 2], observer: &dyn FileSyncAdapter, wanted: &str) -> (f64, f64) {
    let id = RecordId::new("edits", "shared", "files/note.md");
    let mut file = fs::File::create(machines[0].join("files/note.md")).expect("open the file");
    file.write_all(wanted.as_bytes()).expect("write");
    drop(file);
    let start = Instant::now();
    let elapsed_ms = || start.elapsed().as_secs_f64() * 1000.0;
    std::thread::scope(|scope| {
        let row = scope.spawn(|| {
            until_asked("the row shows the edit", || {
                let row = observer.get(&id).expect("the server answers");
                row.is_some_and(|row| row.content == RowContent::Text(wanted.to_owned()))
            });
            elapsed_ms()
        });
        let bytes = || fs::read(machines[1].join("files/note.md"));
        until("the edit arrives", || bytes().is_ok_and(|bytes| bytes == wanted.as_bytes()));
        let file_ms = elapsed_ms();
        (row.join().expect("it ends"), file_ms)
    })
}

/// A handle of our own on the backend, to look at rows.
fn observer(variables: &Variables, folder: &Path) -> Arc<dyn FileSyncAdapter> {
    let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    let backend = variable("FILE_SYNC_BACKEND").expect("it is among them");
    larder_adapters::open(&backend, &OpenContext { env: &variable, ..OpenContext::new(folder) }).expect("it opens")
}
