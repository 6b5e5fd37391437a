//! Measures a first mirror of many small rows against a bare loop that inserts the same rows into one table.
//!
//! `cargo run --release -p larder-adapters --example batch_figures [rows] [folder]`. Both use one file, WAL, one transaction, and are
//! durable when the clock stops. Rounds alternate, the medians are compared; the figures of a shared machine move.

use std::path::Path;
use std::time::Instant;

use larder_adapters::{
    Body, Cursor, Expected, FileSyncAdapter, MirrorEntry, OpenContext, Query, Record,
    SqliteAdapter, Write,
};
use rusqlite::{Connection, params};

const ROUNDS: usize = 5;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rows: usize = arguments
        .next()
        .and_then(|rows| rows.parse().ok())
        .unwrap_or(100_000);
    let folder = arguments
        .next()
        .map(std::path::PathBuf::from)
        .unwrap_or_else(std::env::temp_dir);
    let writes: Vec<Write> = (0..rows).map(write).collect();
    let (mut bare, mut batch, mut pages, mut edits) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let dir = folder.join(format!(
            "larder-batch-figures-{}-{round}",
            std::process::id()
        ));
        std::fs::create_dir_all(&dir).expect("the folder can be written");
        bare.push(bare_loop(&dir.join("bare.db"), &writes));
        let figures = adapter(&dir.join("sync.db"), &writes);
        batch.push(figures.0);
        pages.push(figures.1);
        edits.push(figures.2);
        std::fs::remove_dir_all(&dir).expect("it was made above");
    }
    let (bare, batch) = (median(bare), median(batch));
    println!("rows                  {rows}");
    println!("bare loop             {bare:8.1} ms");
    println!(
        "write_batch           {batch:8.1} ms   {:.2} x",
        batch / bare
    );
    println!("read all changes      {:8.1} ms", median(pages));
    println!("one edit, durable     {:8.2} ms", median(edits));
}

fn write(n: usize) -> Write {
    let text = format!(
        "# Note {n}\n\n{}\n",
        "All work and no play makes a dull note. ".repeat(1 + n % 12)
    );
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
    Write::Set {
        record,
        expected: Expected::Absent,
    }
}

fn bare_loop(path: &Path, writes: &[Write]) -> f64 {
    let started = Instant::now();
    let mut connection = Connection::open(path).expect("a new file opens");
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .expect("WAL is to be had");
    connection
        .pragma_update(None, "synchronous", "FULL")
        .expect("a pragma");
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
            let row = params![
                id.as_str(),
                record.path,
                text,
                record.app,
                record.owner,
                stamp,
                stamp
            ];
            insert.execute(row).expect("ids differ");
        }
    }
    transaction.commit().expect("there is room");
    drop(connection);
    started.elapsed().as_secs_f64() * 1000.0
}

fn adapter(path: &Path, writes: &[Write]) -> (f64, f64, f64) {
    let folder = path.parent().expect("the file is in a folder");
    let started = Instant::now();
    let adapter = SqliteAdapter::open(path, &OpenContext::new(folder)).expect("a new file opens");
    assert!(adapter.write_batch(writes).iter().all(Result::is_ok));
    adapter.close().expect("it closes");
    let written = started.elapsed().as_secs_f64() * 1000.0;

    let adapter = SqliteAdapter::open(path, &OpenContext::new(folder)).expect("it is there");
    let started = Instant::now();
    let mut after = Cursor::start();
    let mut read = 0;
    loop {
        let page = adapter
            .query(&Query::changes("figures", None, after, 10_000))
            .expect("a page");
        read += page.rows.len();
        after = page.cursor;
        if !page.more {
            break;
        }
    }
    assert_eq!(read, writes.len());
    let told = started.elapsed().as_secs_f64() * 1000.0;

    let Write::Set { record, .. } = &writes[writes.len() / 2] else {
        unreachable!("all are sets")
    };
    let mut revision = adapter
        .get(&record.id())
        .expect("a row")
        .expect("it is there")
        .revision;
    let started = Instant::now();
    for _ in 0..20 {
        revision = adapter
            .set(record, &Expected::Revision(revision))
            .expect("nobody else writes");
    }
    (
        written,
        told,
        started.elapsed().as_secs_f64() * 1000.0 / 20.0,
    )
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
