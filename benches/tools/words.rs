//! Full text over 100,000 documents: how long a question takes, and what taking words in costs a sync.
//!
//! Invariant: one-shot runs of the program, warm, each for other words; two daemons get the same files in turn, one of which takes words in.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Options;
use crate::measure::{percentile, run};
use crate::place::{Place, Running, fill, until};
use crate::table::{Goal, Table};

const DOCUMENTS: usize = 100_000;
const SMALL: usize = 5_000;
/// Files that come at once.
const BATCH: usize = 2_000;
const ROUNDS: usize = 7;

/// All of it.
pub fn search(options: &Options) {
    let place = Place::new(&options.larder);
    let project = place.project("project");
    fill(&project.join("files"), DOCUMENTS);
    // Words that few documents hold stand among words that all do.
    for n in 0..200 {
        let text = format!("A note about heliotrope number{n} and the customer of week {n}.\n");
        fs::write(project.join(format!("files/rare-{n}.md")), text).expect("write");
    }
    run(place.larder(&project, None, &["sync"]));
    let table = Table::begin(&format!("Full text over {DOCUMENTS} documents"));
    let first = run(place.larder(&project, None, &["search", "heliotrope"]));
    table.figure("the first search, which takes all words in", first.wall_ms, "ms", Goal::None);
    let asked = |what: &str, words: &dyn Fn(usize) -> String, goal| {
        let ms = (0..25).map(|n| run(place.larder(&project, None, &["search", &words(n)])).wall_ms).collect();
        table.figure(what, percentile(ms, 0.5), "ms", goal);
    };
    asked("a word of one document, p50", &|n| format!("number{n}"), Goal::AtMost(50.0));
    asked("two words of 200, p50", &|n| format!("heliotrope week path:{n}"), Goal::AtMost(50.0));
    let common = ["customer", "valve", "summary", "report", "weekly"];
    asked("a word of nearly all, p50", &|n| common[n % common.len()].to_owned(), Goal::AtMost(50.0));
    asked("a phrase, p50", &|n| format!("\"{} {}\"", common[n % 5], common[(n + 1) % 5]), Goal::AtMost(50.0));
    drop(place);
    beside_filling(options);
}

/// Files that come to two running projects, of which one was searched before, so that it takes words in.
fn beside_filling(options: &Options) {
    let place = Place::new(&options.larder);
    let quiet = Side::new(&place, "quiet");
    let filling = Side::new(&place, "filling");
    run(place.larder(&filling.project, None, &["search", "customer"]));
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        without.push(quiet.take_in(round));
        with.push(filling.take_in(round));
    }
    let table = Table::begin(&format!("{BATCH} new files in a running project, to their rows"));
    let (with, without) = (percentile(with, 0.5), percentile(without, 0.5));
    table.ratio("words are taken in / are not", with, without, "ms", Goal::AtMost(1.1));
}

struct Side {
    project: PathBuf,
    rows: rusqlite::Connection,
    _up: Running,
}

impl Side {
    fn new(place: &Place, name: &str) -> Side {
        let project = place.project(name);
        fill(&project.join("files"), SMALL);
        run(place.larder(&project, None, &["sync"]));
        let up = place.up(&project, None);
        let rows = rusqlite::Connection::open(project.join("sync.db")).expect("open the database");
        rows.busy_timeout(Duration::from_secs(60)).expect("set the time to wait");
        Side { project, rows, _up: up }
    }

    fn count(&self) -> usize {
        self.rows.query_row("SELECT count(*) FROM files", [], |row| row.get::<_, i64>(0)).expect("count") as usize
    }

    /// Milliseconds from the last write to the last row. What was begun before goes on meanwhile.
    fn take_in(&self, round: usize) -> f64 {
        let before = self.count();
        let folder = self.project.join("files").join(format!("round-{round}"));
        let apart = self.project.join(format!("round-{round}"));
        fill(&apart, BATCH);
        stir(&apart, round);
        let begun = Instant::now();
        fs::rename(&apart, &folder).expect("move in");
        until("the rows are there", || self.count() >= before + BATCH);
        begun.elapsed().as_secs_f64() * 1000.0
    }
}

/// Makes contents that were not seen before.
fn stir(folder: &Path, round: usize) {
    for file in crate::tree::files_of(folder) {
        let mut text = fs::read_to_string(&file).expect("read");
        text.push_str(&format!("round {round}\n"));
        fs::write(file, text).expect("write");
    }
}
