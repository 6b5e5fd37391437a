//! Proves a live service: that it does what the engine stands on, step by step, with rows of an app of its own.
//!
//! Invariant: what it wrote is gone afterwards, whatever failed; rows of other apps are neither read nor written.
//! Deliberately absent: what a contract test does, which wants an empty store and hours of a service.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::{
    AdapterError, Body, Cursor, ErrorKind, Expected, FileSyncAdapter, MirrorEntry, Page, Query, Record, RecordId,
    Revision, RowContent, SHARED_OWNER, Wake,
};

/// Longer than any backend's own pace.
const HEARD_WITHIN: Duration = Duration::from_secs(30);
const CHUNK_BYTES: usize = 1 << 20;
const MAX_PAGES: usize = 1_000;

/// One step and how it went.
#[derive(Debug)]
pub struct Checked {
    /// What was tried, in a word.
    pub name: &'static str,
    /// What was found, or why not.
    pub outcome: Result<String, AdapterError>,
}

type Step = Result<String, AdapterError>;
/// Opens one more handle on the service.
pub type Opener<'a> = &'a dyn Fn() -> Result<Arc<dyn FileSyncAdapter>, AdapterError>;

/// Tries everything with rows of `app`, which nobody else uses. Steps after one that cannot be done without are left out.
pub fn check(open: Opener<'_>, app: &str) -> Vec<Checked> {
    let mut done = Vec::new();
    let adapter = match open() {
        Ok(adapter) => adapter,
        Err(error) => {
            done.push(Checked { name: step_of(error.kind), outcome: Err(error) });
            return done;
        }
    };
    done.push(Checked { name: "open", outcome: Ok(opened(&*adapter)) });
    let checking = Checking { open, adapter, app };
    // What an earlier check that was stopped left there.
    let swept = checking.sweep();
    let is_swept = swept.is_ok();
    if !is_swept {
        done.push(Checked { name: "read", outcome: swept });
        return done;
    }
    let steps: [(&'static str, fn(&Checking<'_>) -> Step); 6] = [
        ("write", |checking| checking.write_and_read()),
        ("race", |checking| checking.race()),
        ("subscribe", |checking| checking.subscribe()),
        ("cursor", |checking| checking.cursor()),
        ("limits", |checking| checking.limits()),
        ("delete", |checking| checking.delete()),
    ];
    for (name, step) in steps {
        let outcome = step(&checking);
        let is_down =
            outcome.as_ref().is_err_and(|error| matches!(error.kind, ErrorKind::Denied | ErrorKind::Unavailable));
        done.push(Checked { name, outcome });
        if is_down {
            break;
        }
    }
    done.push(Checked { name: "clean", outcome: checking.sweep() });
    done
}

fn step_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Denied => "rights",
        ErrorKind::Unsupported | ErrorKind::Corrupt | ErrorKind::NotFound => "schema",
        _ => "reach",
    }
}

fn opened(adapter: &dyn FileSyncAdapter) -> String {
    let name = &adapter.capabilities().name;
    let degraded = adapter.status();
    if degraded.is_empty() {
        return format!("{name} answers, and its tables are as they should be");
    }
    format!("{name} answers, but {}", degraded.join("; "))
}

struct Checking<'a> {
    open: Opener<'a>,
    adapter: Arc<dyn FileSyncAdapter>,
    app: &'a str,
}

fn wrong(why: impl Into<String>) -> AdapterError {
    AdapterError::new(ErrorKind::Corrupt, format!("trust the backend: {}", why.into()))
}

impl Checking<'_> {
    fn text(&self, path: &str, text: &str) -> Record {
        Record {
            app: self.app.to_owned(),
            owner: SHARED_OWNER.to_owned(),
            path: path.to_owned(),
            body: Body::Text(text.to_owned()),
            last_updated_ms: 1_700_000_000_000,
            created_at_ms: 1_600_000_000_000,
            mirror: Some(MirrorEntry { version: "00".repeat(32), content_hash: [7; 32] }),
        }
    }

    fn create(&self, path: &str, text: &str) -> Result<Revision, AdapterError> {
        self.adapter.set(&self.text(path, text), &Expected::Absent)
    }

    fn pages(&self, after: Cursor) -> Result<(Vec<String>, Cursor), AdapterError> {
        let (mut paths, mut after) = (Vec::new(), after);
        for _ in 0..MAX_PAGES {
            let page: Page = self.adapter.query(&Query::changes(self.app, None, after, 2))?;
            paths.extend(page.rows.into_iter().map(|row| row.path));
            after = page.cursor;
            if !page.more {
                return Ok((paths, after));
            }
        }
        Err(wrong("its list of changes has no end"))
    }

    fn write_and_read(&self) -> Step {
        let text = "größe 日本語\t'\"\\%_\r\n";
        let record = self.text("check/ü 'x'.md", text);
        let revision = self.adapter.set(&record, &Expected::Absent)?;
        let row = self.adapter.get(&record.id())?.ok_or_else(|| wrong("a row that was written is not there"))?;
        if row.content != RowContent::Text(text.to_owned()) || row.path != record.path || row.revision != revision {
            return Err(wrong("a text comes back as another one"));
        }
        if row.mirror != record.mirror || row.is_foreign() {
            return Err(wrong("a row does not remember who wrote it"));
        }
        let bytes: Vec<u8> = (0..=255).cycle().take(CHUNK_BYTES.min(self.chunk_bytes())).collect();
        let body = Body::Chunks { keep: 0, add: vec![bytes.clone(), b"end".to_vec()] };
        let chunked = Record { body, ..self.text("check/bytes.bin", "") };
        self.adapter.set(&chunked, &Expected::Absent)?;
        if self.adapter.read_chunks(&chunked.id(), 0, 9)? != [bytes, b"end".to_vec()] {
            return Err(wrong("bytes come back as others"));
        }
        Ok("text and bytes come back as they were written".to_owned())
    }

    fn chunk_bytes(&self) -> usize {
        usize::try_from(self.adapter.capabilities().chunk_limit_bytes).unwrap_or(usize::MAX)
    }

    fn race(&self) -> Step {
        let first = self.create("check/race.md", "one")?;
        let second = self.adapter.set(&self.text("check/race.md", "two"), &Expected::Revision(first.clone()))?;
        for (expected, who) in [(Expected::Revision(first), "of a stale state"), (Expected::Absent, "over a row")] {
            match self.adapter.set(&self.text("check/race.md", "lost"), &expected) {
                Err(error) if error.kind == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
                Ok(_) => return Err(wrong(format!("a write {who} went through"))),
            }
        }
        let row = self.adapter.get(&self.id("check/race.md"))?;
        match row.map(|row| (row.content, row.revision)) {
            Some((RowContent::Text(text), revision)) if text == "two" && revision == second => {
                Ok("whoever saw an older state is refused".to_owned())
            }
            _ => Err(wrong("a refused write changed the row")),
        }
    }

    fn id(&self, path: &str) -> RecordId {
        RecordId::new(self.app, SHARED_OWNER, path)
    }

    fn subscribe(&self) -> Step {
        let (told, heard) = channel();
        let sink = Box::new(move |wake| {
            // Nobody may listen any more.
            let _ = told.send(wake);
        });
        let (_, cursor) = self.pages(Cursor::start())?;
        let query = Query::changes(self.app, None, Cursor::start(), 1);
        let subscription = self.adapter.subscribe(&query, cursor.clone(), sink)?;
        let other = (self.open)()?;
        let started = Instant::now();
        other.set(&self.text("check/heard.md", ""), &Expected::Absent)?;
        let mut after = cursor;
        loop {
            let left = HEARD_WITHIN.saturating_sub(started.elapsed());
            let wake = heard.recv_timeout(left);
            let Ok(wake) = wake else {
                let seconds = HEARD_WITHIN.as_secs();
                return Err(wrong(format!("another handle's write was not heard of within {seconds} s")));
            };
            let (paths, next) = self.pages(after)?;
            after = next;
            if wake == Wake::Changed && paths.iter().any(|path| path == "check/heard.md") {
                break;
            }
        }
        let ms = started.elapsed().as_millis();
        drop(subscription);
        let lines = self.adapter.status();
        let how = if self.adapter.capabilities().live && lines.is_empty() { "told" } else { "asked for" };
        Ok(format!("a change is {how}: heard of after {ms} ms"))
    }

    /// A reader that was away hears of everything that came meanwhile, once.
    fn cursor(&self) -> Step {
        let (_, cursor) = self.pages(Cursor::start())?;
        let other = (self.open)()?;
        let mut expected = Vec::new();
        for n in 0..5 {
            let path = format!("check/away-{n}.md");
            other.set(&self.text(&path, ""), &Expected::Absent)?;
            expected.push(path);
        }
        other.delete(&self.id("check/race.md"), &self.standing("check/race.md")?)?;
        expected.push("check/race.md".to_owned());
        other.close()?;
        let (mut paths, _) = self.pages(Cursor::from_text(cursor.as_str()))?;
        paths.sort();
        expected.sort();
        if paths == expected {
            return Ok("what came while nobody listened is told, deletions too".to_owned());
        }
        Err(wrong(format!("of {} changes {} were told to who was away", expected.len(), paths.len())))
    }

    fn standing(&self, path: &str) -> Result<Expected, AdapterError> {
        let row = self.adapter.get(&self.id(path))?;
        Ok(row.map_or(Expected::Absent, |row| Expected::Revision(row.revision)))
    }

    fn limits(&self) -> Step {
        let limit = self.adapter.capabilities().text_limit_bytes;
        let longest = usize::try_from(limit).map_err(|_| wrong("its limit is beyond this machine"))?;
        self.create("check/longest.md", &"x".repeat(longest))?;
        match self.create("check/longer.md", &"x".repeat(longest + 1)) {
            Err(error) if error.kind == ErrorKind::TooLarge => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(wrong("a text beyond its limit was taken")),
        }
        Ok(format!("texts of {} KiB are taken; longer contents go into chunks", limit / 1024))
    }

    fn delete(&self) -> Step {
        let stale = self.create("check/gone.md", "one")?;
        let fresh = self.adapter.set(&self.text("check/gone.md", "two"), &Expected::Revision(stale.clone()))?;
        let id = self.id("check/gone.md");
        match self.adapter.delete(&id, &Expected::Revision(stale)) {
            Err(error) if error.kind == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
            Ok(()) => return Err(wrong("a deletion of a stale state went through")),
        }
        self.adapter.delete(&id, &Expected::Revision(fresh))?;
        match self.adapter.get(&id)? {
            None => Ok("whoever saw the newest state may delete it".to_owned()),
            Some(_) => Err(wrong("a deleted row is still there")),
        }
    }

    /// Removes every row of the app.
    fn sweep(&self) -> Step {
        let mut swept = 0;
        for _ in 0..MAX_PAGES {
            let page = self.adapter.query(&Query::paths(self.app, SHARED_OWNER, "", None, 100))?;
            if page.rows.is_empty() {
                return Ok(format!("{swept} rows of the check were removed"));
            }
            for row in page.rows {
                match self.adapter.delete(&row.id, &Expected::Revision(row.revision)) {
                    Err(error) if !matches!(error.kind, ErrorKind::Conflict | ErrorKind::NotFound) => {
                        return Err(error);
                    }
                    _ => swept += 1,
                }
            }
        }
        Err(wrong("rows of the check keep coming back"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fault, FaultRates, FaultyAdapter, MemoryAdapter};

    #[test]
    fn a_sound_backend_passes_and_is_left_as_it_was() {
        let store = MemoryAdapter::new();
        let open = || Ok(Arc::new(store.clone()) as Arc<dyn FileSyncAdapter>);

        let done = check(&open, "larder-check");

        let names: Vec<&str> = done.iter().map(|step| step.name).collect();
        assert_eq!(names, ["open", "write", "race", "subscribe", "cursor", "limits", "delete", "clean"]);
        assert!(done.iter().all(|step| step.outcome.is_ok()), "{done:?}");
        let left = store.query(&Query::paths("larder-check", SHARED_OWNER, "", None, 9)).expect("memory answers");
        assert!(left.rows.is_empty());
    }

    #[test]
    fn a_backend_that_refuses_is_named_by_its_step_and_left_clean() {
        let store = MemoryAdapter::new();
        let open = || {
            let faulty = FaultyAdapter::new(Arc::new(store.clone()), 1, FaultRates::default());
            // The sweep asks once; then the first row is written, and the second is refused.
            faulty.fail_nth(4, Fault::Refused(ErrorKind::Denied));
            Ok(Arc::new(faulty) as Arc<dyn FileSyncAdapter>)
        };

        let done = check(&open, "larder-check");

        let failed: Vec<&str> = done.iter().filter(|step| step.outcome.is_err()).map(|step| step.name).collect();
        assert_eq!(failed, ["write"]);
        assert_eq!(done.last().map(|step| step.name), Some("clean"));
        let left = store.query(&Query::paths("larder-check", SHARED_OWNER, "", None, 9)).expect("memory answers");
        assert!(left.rows.is_empty());
    }

    #[test]
    fn a_backend_that_cannot_be_opened_says_what_is_missing() {
        for (kind, name) in
            [(ErrorKind::Unavailable, "reach"), (ErrorKind::Denied, "rights"), (ErrorKind::Corrupt, "schema")]
        {
            let done = check(&|| Err(AdapterError::new(kind, "open it: no")), "larder-check");
            assert_eq!(done.iter().map(|step| step.name).collect::<Vec<_>>(), [name]);
        }
    }
}
