//! Measures a first mirror of many small rows against a bare loop that inserts the same rows into one table.
//!
//! `cargo run --release -p larder-adapters --example batch_figures [rows] [folder]`. Both use one file, WAL, one transaction, and are
//! durable when the clock stops. Rounds alternate, the medians are compared; the figures of a shared machine move.

use std::path::Path;
use std::time::Instant;

use larder_adapters::{
    Body, Cursor, Expected, FileSyncAdapter, MirrorEntry, OpenContext, Query, Record, SqliteAdapter, Write,
};
use rusqlite::{Connection, params};

const ROUNDS: usize = 5;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rows: usize = arguments.next().and_then(|rows| rows.parse().ok()).unwrap_or(100_000);
    let folder = arguments.next().map(std::path::PathBuf::from).unwrap_or_else(std::env::temp_dir);
    let writes: Vec<Write> = (0..rows).map(write).collect();
    let (mut bare, mut batch, mut pages, mut edits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut bare_cpu, mut batch_cpu) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let dir = folder.join(format!("larder-batch-figures-{}-{round}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("the folder can be written");
        let (wall, cpu) = bare_loop(&dir.join("bare.db"), &writes);
        bare.push(wall);
        bare_cpu.push(cpu);
        let figures = adapter(&dir.join("sync.db"), &writes);
        batch.push(figures.0.0);
        batch_cpu.push(figures.0.1);
        pages.push(figures.1);
        edits.push(figures.2);
        std::fs::remove_dir_all(&dir).expect("it was made above");
    }
    let (bare, batch) = (median(bare), median(batch));
    let (bare_cpu, batch_cpu) = (median(bare_cpu), median(batch_cpu));
    println!("rows                  {rows}");
    println!("bare loop             {bare:8.1} ms wall, {bare_cpu:8.1} ms CPU");
    println!("write_batch           {batch:8.1} ms wall, {batch_cpu:8.1} ms CPU");
    println!("ratio                 {:8.2} x wall, {:8.2} x CPU", batch / bare, batch_cpu / bare_cpu);
    println!("read all changes      {:8.1} ms", median(pages));
    println!("one edit, durable     {:8.2} ms", median(edits));
    let (half, most) = wakes(&folder.join(format!("larder-batch-figures-{}", std::process::id())));
    println!("commit to wake        {half:8.2} ms p50, {most:.2} ms p99");
}

/// From the return of another handle's durable write to the sink's call, over 200 writes; 0 if the sink was quicker.
fn wakes(dir: &Path) -> (f64, f64) {
    std::fs::create_dir_all(dir).expect("the folder can be written");
    let open = || SqliteAdapter::open("sync.db".as_ref(), &OpenContext::new(dir)).expect("it opens");
    let (reader, writer) = (open(), open());
    let (told, heard) = std::sync::mpsc::channel();
    let sink = Box::new(move |_| told.send(Instant::now()).expect("the figures are read"));
    let query = Query::changes("figures", None, Cursor::start(), 1);
    let subscription = reader.subscribe(&query, Cursor::start(), sink).expect("it can be watched");
    let mut waits: Vec<f64> = (0..200)
        .map(|n| {
            let Write::Set { record, expected } = write(n) else { unreachable!("it makes sets") };
            writer.set(&record, &expected).expect("nothing stands there");
            let written = Instant::now();
            let woken = heard.recv().expect("the listener lives");
            woken.saturating_duration_since(written).as_secs_f64() * 1000.0
        })
        .collect();
    drop(subscription);
    std::fs::remove_dir_all(dir).expect("it was made above");
    waits.sort_by(f64::total_cmp);
    (waits[100], waits[198])
}

fn write(n: usize) -> Write {
    let text = format!("# Note {n}\n\n{}\n", "All work and no play makes a dull note. ".repeat(1 + n % 12));
    let mirror = MirrorEntry {
        version: blake3::hash(&n.to_le_bytes()).to_hex().to_string(),
        content_hash: *blake3::hash(text.as_bytes()).as_bytes(),
    };
    let record = Record {
        app: "figures".to_owned(),
        owner: "shared".to_owned(),
        path: format!("notes/{:03}/{:06}.md", n / 500, n),
        body: Body::Text(text),
        last_updated_ms: 1_700_000_000_000 + n as u64,
        created_at_ms: 1_700_000_000_000 + n as u64,
        mirror: Some(mirror),
    };
    Write::Set { record, expected: Expected::Absent }
}

fn bare_loop(path: &Path, writes: &[Write]) -> (f64, f64) {
    let (started, before) = (Instant::now(), cpu_ms());
    let mut connection = Connection::open(path).expect("a new file opens");
    connection.pragma_update(None, "journal_mode", "WAL").expect("WAL is to be had");
    connection.pragma_update(None, "synchronous", "FULL").expect("a pragma");
    let table = "CREATE TABLE files (id TEXT PRIMARY KEY, path, content, app, owner_id, last_updated, created_at)";
    connection.execute_batch(table).expect("a new table");
    let transaction = connection.transaction().expect("nobody else is there");
    {
        let insert = "INSERT INTO files VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let mut insert = transaction.prepare(insert).expect("the statement is right");
        for write in writes {
            let Write::Set { record, .. } = write else {
                continue;
            };
            let Body::Text(text) = &record.body else {
                continue;
            };
            let id = record.id();
            let stamp = "2023-11-14T22:13:20.000Z";
            let row = params![id.as_str(), record.path, text, record.app, record.owner, stamp, stamp];
            insert.execute(row).expect("ids differ");
        }
    }
    transaction.commit().expect("there is room");
    drop(connection);
    (started.elapsed().as_secs_f64() * 1000.0, cpu_ms() - before)
}

/// CPU time of this process, user and system, in milliseconds; 0 where there is no /proc. Ticks are 10 ms.
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
    ticks.sum::<f64>() * 10.0
}

fn adapter(path: &Path, writes: &[Write]) -> ((f64, f64), f64, f64) {
    let folder = path.parent().expect("the file is in a folder");
    let (started, before) = (Instant::now(), cpu_ms());
    let adapter = SqliteAdapter::open(path, &OpenContext::new(folder)).expect("a new file opens");
    assert!(adapter.write_batch(writes).iter().all(Result::is_ok));
    adapter.close().expect("it closes");
    let written = (started.elapsed().as_secs_f64() * 1000.0, cpu_ms() - before);

    let adapter = SqliteAdapter::open(path, &OpenContext::new(folder)).expect("it is there");
    let started = Instant::now();
    let mut after = Cursor::start();
    let mut read = 0;
    loop {
        let page = adapter.query(&Query::changes("figures", None, after, 10_000)).expect("a page");
        read += page.rows.len();
        after = page.cursor;
        if !page.more {
            break;
        }
    }
    assert_eq!(read, writes.len());
    let told = started.elapsed().as_secs_f64() * 1000.0;

    let Write::Set { record, .. } = &writes[writes.len() / 2] else { unreachable!("all are sets") };
    let mut revision = adapter.get(&record.id()).expect("a row").expect("it is there").revision;
    let started = Instant::now();
    for _ in 0..20 {
        revision = adapter.set(record, &Expected::Revision(revision)).expect("nobody else writes");
    }
    (written, told, started.elapsed().as_secs_f64() * 1000.0 / 20.0)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
