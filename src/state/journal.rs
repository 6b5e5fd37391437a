//! The journal that `status` is computed from: per peer and direction the last success and the last error, what waits and
//! why, what is wrong with single paths, and what the backend has not acknowledged.
//!
//! Invariant: only what happened is written here; a success clears the error of its own line and of nothing else.

use std::collections::BTreeMap;

use rusqlite::OptionalExtension;

use super::base::{channel_of, path_of};
use super::{Result, State, StateError, sqlite};
use crate::model::{Channel, RelPath, VersionId};

/// Which way artifacts or rows went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// To the other side.
    Push,
    /// From the other side.
    Pull,
}

impl Direction {
    fn as_str(self) -> &'static str {
        match self {
            Direction::Push => "push",
            Direction::Pull => "pull",
        }
    }
}

/// Begins the entries of lines that were put aside.
const ASIDE: &str = "contacts of ";
/// So many names may have lines put aside.
const MAX_ASIDE: usize = 16;

/// One line of `status`: a peer or backend in one direction. Times in wall milliseconds.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct PeerLine {
    /// Which store.
    pub store: String,
    /// `push` or `pull`.
    pub direction: String,
    /// The last success.
    pub success_ms: Option<i64>,
    /// The last failure, if it came after the last success.
    pub failure_ms: Option<i64>,
    /// What it said.
    pub error: Option<String>,
}

/// A path that waits, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pending {
    /// Where.
    pub path: String,
    /// What waits: `write`, `record`, `row`, `unplaced`.
    pub what: String,
    /// For what.
    pub why: String,
    /// Since when, in wall milliseconds.
    pub since_ms: i64,
}

/// Something wrong with one path that does not stop the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where, as shown to people.
    pub path: String,
    /// What is wrong and what to do.
    pub what: String,
}

impl State {
    /// Notes a success; clears the line's error.
    ///
    /// A line that is green already is not written again within a minute: an idle daemon writes nothing.
    pub fn note_success(&self, store: &str, direction: Direction, now_ms: i64) -> Result<()> {
        const FRESH_MS: i64 = 60_000;
        let green = "SELECT 1 FROM peers WHERE store = ?1 AND direction = ?2 AND error IS NULL AND success_ms BETWEEN ?3 AND ?4";
        if self.exists(green, (store, direction.as_str(), now_ms - FRESH_MS, now_ms))? {
            return Ok(());
        }
        let sql = "INSERT INTO peers(store, direction, success_ms) VALUES(?1, ?2, ?3) ON CONFLICT(store, direction) DO UPDATE SET success_ms = ?3, failure_ms = NULL, error = NULL";
        self.quickly(|| self.run("note success", sql, (store, direction.as_str(), now_ms)).map(drop))
    }

    /// Notes a failure.
    pub fn note_failure(&self, store: &str, direction: Direction, now_ms: i64, error: &str) -> Result<()> {
        let sql = "INSERT INTO peers(store, direction, failure_ms, error) VALUES(?1, ?2, ?3, ?4) ON CONFLICT(store, direction) DO UPDATE SET failure_ms = ?3, error = ?4";
        self.quickly(|| self.run("note failure", sql, (store, direction.as_str(), now_ms, error)).map(drop))
    }

    /// Every line, by store.
    pub fn peer_lines(&self) -> Result<Vec<PeerLine>> {
        let sql = "SELECT store, direction, success_ms, failure_ms, error FROM peers ORDER BY store, direction";
        self.rows("list peers", sql, [], |row| {
            let (store, direction) = (row.get(0)?, row.get(1)?);
            let (success_ms, failure_ms, error) = (row.get(2)?, row.get(3)?, row.get(4)?);
            Ok(Ok(PeerLine { store, direction, success_ms, failure_ms, error }))
        })
    }

    /// Forgets the lines and problems of stores whose name begins with `prefix`, but for those to keep.
    pub fn forget_stores(&self, prefix: &str, keep: &[String]) -> Result<()> {
        let lines = self.peer_lines()?.into_iter().map(|line| line.store);
        let problems = self.problems()?.into_iter().map(|(source, _)| source);
        let mut gone: Vec<String> = lines.chain(problems).collect();
        gone.retain(|store| store.starts_with(prefix) && !keep.contains(store));
        gone.sort();
        gone.dedup();
        for store in gone {
            self.run("forget a store", "DELETE FROM peers WHERE store = ?1", [&store])?;
            self.run("forget a store", "DELETE FROM problems WHERE source = ?1", [&store])?;
        }
        Ok(())
    }

    /// Puts the lines of these stores aside under one name, and those in their place that were put aside under another.
    pub fn put_lines_aside(&self, name: &str, other: &str, which: impl Fn(&str) -> bool) -> Result<()> {
        let lines: Vec<PeerLine> = self.peer_lines()?.into_iter().filter(|line| which(&line.store)).collect();
        let aside = self.metas_below(ASIDE)?;
        let key = format!("{ASIDE}{name}");
        // Whoever tries many keeps what the first ones said, and their next run says it again.
        if aside.len() < MAX_ASIDE || aside.iter().any(|(known, _)| *known == key) {
            let text = serde_json::to_vec(&lines).expect("texts and numbers always serialise");
            self.set_meta(&key, Some(&text))?;
        }
        for line in &lines {
            self.run("forget a store", "DELETE FROM peers WHERE store = ?1", [&line.store])?;
        }
        for PeerLine { store, direction, success_ms, failure_ms, error } in self.lines_aside(other)? {
            let sql = "INSERT OR REPLACE INTO peers(store, direction, success_ms, failure_ms, error) VALUES(?1, ?2, ?3, ?4, ?5)";
            self.run("list a store again", sql, (store, direction, success_ms, failure_ms, error))?;
        }
        self.set_meta(&format!("{ASIDE}{other}"), None)
    }

    /// The lines that were put aside under a name; none if there are none, or if nobody can read them.
    pub fn lines_aside(&self, name: &str) -> Result<Vec<PeerLine>> {
        let text = self.meta(&format!("{ASIDE}{name}"))?;
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default())
    }

    /// Notes that a path waits; keeps the time of the first note while the reason stays.
    pub fn set_pending(&self, path: &RelPath, what: &str, why: &str, now_ms: i64) -> Result<()> {
        let sql = "INSERT INTO pending(path, what, why, since_ms) VALUES(?1, ?2, ?3, ?4) ON CONFLICT(path, what) DO UPDATE SET why = ?3, since_ms = ?4 WHERE why IS NOT ?3";
        self.run("note pending", sql, (path.as_str(), what, why, now_ms)).map(drop)
    }

    /// The path does not wait for this any more.
    pub fn clear_pending(&self, path: &RelPath, what: &str) -> Result<()> {
        self.run("clear pending", "DELETE FROM pending WHERE path = ?1 AND what = ?2", (path.as_str(), what)).map(drop)
    }

    /// All that waits, by path.
    pub fn pending(&self) -> Result<Vec<Pending>> {
        self.rows("list pending", "SELECT path, what, why, since_ms FROM pending ORDER BY path, what", [], |row| {
            let (path, what, why, since_ms) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            Ok(Ok(Pending { path, what, why, since_ms }))
        })
    }

    /// How many paths wait for this.
    pub fn count_pending(&self, what: &str) -> Result<u64> {
        let counts = self.rows("count pending", "SELECT count(*) FROM pending WHERE what = ?1", [what], |row| {
            Ok(Ok(row.get::<_, i64>(0)?))
        })?;
        Ok(counts.first().map_or(0, |count| count.unsigned_abs()))
    }

    /// Replaces all problems of one source (`scan`, `ledger`, `backend`, ..) by today's.
    pub fn set_problems(&self, source: &str, problems: &[Problem], now_ms: i64) -> Result<()> {
        let kept = self.rows(
            "list problems",
            "SELECT path, what, since_ms FROM problems WHERE source = ?1",
            [source],
            |row| Ok(Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))),
        )?;
        let kept: BTreeMap<String, (String, i64)> = kept.into_iter().collect();
        let is_kept = |problem: &Problem| kept.get(&problem.path).is_some_and(|(what, _)| *what == problem.what);
        if kept.len() == problems.len() && problems.iter().all(is_kept) {
            return Ok(());
        }
        self.run("write problems", "DELETE FROM problems WHERE source = ?1", [source])?;
        for problem in problems {
            let since = kept.get(&problem.path).map_or(now_ms, |(_, since)| *since);
            let sql = "INSERT OR REPLACE INTO problems(path, what, source, since_ms) VALUES(?1, ?2, ?3, ?4)";
            self.run("write problems", sql, (&problem.path, &problem.what, source, since))?;
        }
        Ok(())
    }

    /// Every problem with its source.
    pub fn problems(&self) -> Result<Vec<(String, Problem)>> {
        self.rows("list problems", "SELECT source, path, what FROM problems ORDER BY source, path", [], |row| {
            Ok(Ok((row.get(0)?, Problem { path: row.get(1)?, what: row.get(2)? })))
        })
    }

    /// Puts a path into the outbox after a failed write of its row.
    pub fn set_outbox(&self, channel: Channel, path: &RelPath, attempts: u32, next_ms: i64, error: &str) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO outbox(path, channel, attempts, next_ms, error) VALUES(?1, ?2, ?3, ?4, ?5)";
        self.run("write outbox", sql, (path.as_str(), channel.as_str(), attempts, next_ms, error)).map(drop)
    }

    /// No row is tried again before `next_ms` (wall milliseconds): the backend itself is away.
    pub fn hold_outbox(&self, next_ms: i64) -> Result<()> {
        self.run("hold outbox", "UPDATE outbox SET next_ms = ?1 WHERE next_ms < ?1", [next_ms]).map(drop)
    }

    /// The backend acknowledged the path's row.
    pub fn clear_outbox(&self, path: &RelPath) -> Result<()> {
        self.run("clear outbox", "DELETE FROM outbox WHERE path = ?1", [path.as_str()]).map(drop)
    }

    /// The paths whose rows failed: (channel, path, attempts, due at wall milliseconds, error).
    pub fn outbox(&self) -> Result<Vec<(Channel, RelPath, u32, i64, String)>> {
        let sql = "SELECT channel, path, attempts, next_ms, error FROM outbox ORDER BY next_ms, path";
        self.rows("list outbox", sql, [], |row| {
            let (channel, path): (String, String) = (row.get(0)?, row.get(1)?);
            let (attempts, next_ms, error) = (row.get(2)?, row.get(3)?, row.get(4)?);
            Ok((|| Ok((channel_of(&channel)?, path_of(&path)?, attempts, next_ms, error)))())
        })
    }

    /// True if any row waits to be written again.
    pub fn any_outbox(&self) -> Result<bool> {
        self.exists("SELECT 1 FROM outbox LIMIT 1", [])
    }

    /// How often a path's row failed.
    pub fn outbox_attempts(&self, path: &RelPath) -> Result<u32> {
        self.connection
            .prepare_cached("SELECT attempts FROM outbox WHERE path = ?1")
            .and_then(|mut statement| statement.query_row([path.as_str()], |row| row.get(0)).optional())
            .map(Option::unwrap_or_default)
            .map_err(sqlite("read outbox"))
    }

    /// When the next failed row is due, in wall milliseconds.
    pub fn next_outbox_ms(&self) -> Result<Option<i64>> {
        self.connection
            .prepare_cached("SELECT min(next_ms) FROM outbox")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .map_err(sqlite("read outbox"))
    }

    /// Holds a deletion back (the brake).
    pub fn hold(&self, version: &VersionId, path: &RelPath, origin: &str, now_ms: i64) -> Result<()> {
        let sql = "INSERT OR IGNORE INTO held(version, path, origin, since_ms) VALUES(?1, ?2, ?3, ?4)";
        self.run("hold deletion", sql, rusqlite::params![version.as_bytes(), path.as_str(), origin, now_ms]).map(drop)
    }

    /// Lets a deletion go.
    pub fn release(&self, version: &VersionId) -> Result<()> {
        self.run("release deletion", "DELETE FROM held WHERE version = ?1", [version.as_bytes()]).map(drop)
    }

    /// True if a tombstone is held back.
    pub fn is_held(&self, version: &VersionId) -> Result<bool> {
        self.exists("SELECT 1 FROM held WHERE version = ?1", [version.as_bytes()])
    }

    pub(super) fn exists(&self, sql: &str, params: impl rusqlite::Params) -> Result<bool> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row(params, |_| Ok(())).optional())
            .map(|found| found.is_some())
            .map_err(sqlite("look up"))
    }

    /// True if any path waits for anything.
    pub fn any_pending(&self) -> Result<bool> {
        self.exists("SELECT 1 FROM pending LIMIT 1", [])
    }

    /// These paths were recorded; they wait for it no more.
    pub fn clear_record_waits<'a>(&self, paths: impl Iterator<Item = &'a RelPath>) -> Result<()> {
        if self.any_pending()? {
            for path in paths {
                self.clear_pending(path, "record")?;
            }
        }
        Ok(())
    }

    /// Every held deletion: (version, path, origin).
    pub fn held(&self) -> Result<Vec<(VersionId, RelPath, String)>> {
        self.rows("list held", "SELECT version, path, origin FROM held ORDER BY path", [], |row| {
            let (version, path, origin): (Vec<u8>, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok((|| {
                let version = VersionId::from_slice(&version).ok_or(StateError::Form { what: "a version id" })?;
                Ok((version, path_of(&path)?, origin))
            })())
        })
    }

    /// The key a chain was first seen with.
    pub fn key(&self, chain: &str) -> Result<Option<[u8; 32]>> {
        let found: Option<Vec<u8>> = self
            .connection
            .prepare_cached("SELECT key FROM keys WHERE chain = ?1")
            .and_then(|mut statement| statement.query_row([chain], |row| row.get(0)).optional())
            .map_err(sqlite("read key"))?;
        found.map(|bytes| bytes.try_into().map_err(|_| StateError::Form { what: "a key" })).transpose()
    }

    /// Pins the key of a chain; the first one stands.
    pub fn pin_key(&self, chain: &str, key: &[u8; 32]) -> Result<()> {
        self.run("pin key", "INSERT OR IGNORE INTO keys(chain, key) VALUES(?1, ?2)", (chain, key)).map(drop)
    }

    /// How far a chain agrees with a store, and the names of the holes below it, one a line.
    pub fn watermark(&self, store: &str, chain: &str) -> Result<Option<(u64, String)>> {
        self.connection
            .prepare_cached("SELECT seq, holes FROM watermarks WHERE store = ?1 AND chain = ?2")
            .and_then(|mut statement| {
                statement.query_row((store, chain), |row| Ok((row.get::<_, i64>(0)?, row.get(1)?))).optional()
            })
            .map(|found| found.map(|(seq, holes)| (seq as u64, holes)))
            .map_err(sqlite("read watermark"))
    }

    /// Sets a watermark.
    pub fn set_watermark(&self, store: &str, chain: &str, seq: u64, holes: &str) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO watermarks(store, chain, seq, holes) VALUES(?1, ?2, ?3, ?4)";
        self.run("write watermark", sql, (store, chain, seq as i64, holes)).map(drop)
    }
}
