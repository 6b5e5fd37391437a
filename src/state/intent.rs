//! Intents, displaced files and the undo list: the paper trail of every replace.
//!
//! Invariant: between an intent's commit and its removal the path is either as before or as after; what a replace took
//! away is listed as displaced until it is proven to be a recorded version.

use rusqlite::Row;

use super::base::{channel_of, kind_code, kind_of, pack_ids, path_of, unpack_ids};
use super::{Result, State, StateError, sqlite};
use crate::model::{Channel, ContentHash, ContentKind, RelPath, VersionId};

/// A replace, creation or removal about to happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Intent {
    /// Names the staged and afterwards the displaced file.
    pub id: String,
    /// Where.
    pub path: RelPath,
    /// Which pattern list admitted it.
    pub channel: Channel,
    /// The base before.
    pub old_versions: Vec<VersionId>,
    /// The bytes that must be there now; `None` for nothing.
    pub old_hash: Option<ContentHash>,
    /// The base after.
    pub new_versions: Vec<VersionId>,
    /// The bytes that will be there; `None` for nothing.
    pub new_hash: Option<ContentHash>,
    /// Bytes of the new content.
    pub new_size: u64,
    /// Kind of the new content.
    pub new_kind: ContentKind,
    /// Staged beside its file rather than in `.larder/displaced/`, because of a mount boundary.
    pub beside: bool,
    /// Nothing is staged: what follows this many bytes is appended to the file as it stands.
    pub append_from: Option<u64>,
}

/// A file that a replace took away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Displaced {
    /// Its name in `.larder/displaced/`.
    pub id: String,
    /// Where it stood.
    pub path: RelPath,
    /// Which pattern list admitted it.
    pub channel: Channel,
    /// The base it had.
    pub versions: Vec<VersionId>,
    /// The recorded content it was last seen to hold; `None` until it is known.
    pub hash: Option<ContentHash>,
    /// When, in wall milliseconds.
    pub since_ms: i64,
    /// Stands beside its file as `_tmp-larder-<id>`.
    pub beside: bool,
}

/// What one path held before the last sync changed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UndoStep {
    /// Which sync.
    pub batch: i64,
    /// Where.
    pub path: RelPath,
    /// Which pattern list admitted it.
    pub channel: Channel,
    /// What it held; `None` if it was absent.
    pub old: Option<(ContentHash, u64, ContentKind)>,
}

pub(super) fn hash_of(bytes: Option<Vec<u8>>) -> Result<Option<ContentHash>> {
    let form = StateError::Form { what: "a hash" };
    bytes.map(|bytes| ContentHash::from_slice(&bytes).ok_or(form)).transpose()
}

fn intent_of(row: &Row<'_>) -> rusqlite::Result<Result<Intent>> {
    let id: String = row.get(0)?;
    let path: String = row.get(1)?;
    let channel: String = row.get(2)?;
    let old_versions: Vec<u8> = row.get(3)?;
    let old_hash: Option<Vec<u8>> = row.get(4)?;
    let new_versions: Vec<u8> = row.get(5)?;
    let new_hash: Option<Vec<u8>> = row.get(6)?;
    let new_size: i64 = row.get(7)?;
    let new_kind: i64 = row.get(8)?;
    let beside: bool = row.get(9)?;
    let append_from: Option<i64> = row.get(10)?;
    Ok((|| {
        Ok(Intent {
            id,
            path: path_of(&path)?,
            channel: channel_of(&channel)?,
            old_versions: unpack_ids(&old_versions)?,
            old_hash: hash_of(old_hash)?,
            new_versions: unpack_ids(&new_versions)?,
            new_hash: hash_of(new_hash)?,
            new_size: new_size as u64,
            new_kind: kind_of(new_kind)?,
            beside,
            append_from: append_from.map(i64::cast_unsigned),
        })
    })())
}

fn displaced_of(row: &Row<'_>) -> rusqlite::Result<Result<Displaced>> {
    let id: String = row.get(0)?;
    let path: String = row.get(1)?;
    let channel: String = row.get(2)?;
    let versions: Vec<u8> = row.get(3)?;
    let hash: Option<Vec<u8>> = row.get(4)?;
    let since_ms: i64 = row.get(5)?;
    let beside: bool = row.get(6)?;
    Ok((|| {
        let (path, channel) = (path_of(&path)?, channel_of(&channel)?);
        Ok(Displaced { id, path, channel, versions: unpack_ids(&versions)?, hash: hash_of(hash)?, since_ms, beside })
    })())
}

impl State {
    /// All rows of `sql`, each turned into a value.
    pub(super) fn rows<T>(
        &self,
        doing: &'static str,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<Result<T>>,
    ) -> Result<Vec<T>> {
        let mut statement = self.connection.prepare_cached(sql).map_err(sqlite(doing))?;
        let rows = statement.query_map(params, read).map_err(sqlite(doing))?;
        rows.map(|row| row.map_err(sqlite(doing))?).collect()
    }

    pub(super) fn run(&self, doing: &'static str, sql: &str, params: impl rusqlite::Params) -> Result<usize> {
        self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute(params)).map_err(sqlite(doing))
    }

    /// Opens an intent.
    pub fn add_intent(&self, intent: &Intent) -> Result<()> {
        let sql = "INSERT INTO intents(id, path, channel, old_versions, old_hash, new_versions, new_hash, new_size, new_kind, beside, append_from) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        let params = rusqlite::params![
            intent.id,
            intent.path.as_str(),
            intent.channel.as_str(),
            pack_ids(&intent.old_versions),
            intent.old_hash.map(|hash| *hash.as_bytes()),
            pack_ids(&intent.new_versions),
            intent.new_hash.map(|hash| *hash.as_bytes()),
            intent.new_size as i64,
            kind_code(intent.new_kind),
            intent.beside,
            intent.append_from.map(u64::cast_signed),
        ];
        self.run("open intent", sql, params).map(drop)
    }

    /// Closes an intent.
    pub fn remove_intent(&self, id: &str) -> Result<()> {
        self.run("close intent", "DELETE FROM intents WHERE id = ?1", [id]).map(drop)
    }

    /// Every open intent, by path.
    pub fn intents(&self) -> Result<Vec<Intent>> {
        let sql = "SELECT id, path, channel, old_versions, old_hash, new_versions, new_hash, new_size, new_kind, beside, append_from FROM intents ORDER BY path, id";
        self.rows("list intents", sql, [], intent_of)
    }

    /// Lists a displaced file, or updates what is known of it.
    pub fn set_displaced(&self, displaced: &Displaced) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO displaced(id, path, channel, versions, hash, since_ms, beside) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let params = rusqlite::params![
            displaced.id,
            displaced.path.as_str(),
            displaced.channel.as_str(),
            pack_ids(&displaced.versions),
            displaced.hash.map(|hash| *hash.as_bytes()),
            displaced.since_ms,
            displaced.beside,
        ];
        self.run("list displaced", sql, params).map(drop)
    }

    /// Every displaced file, oldest first.
    pub fn displaced(&self) -> Result<Vec<Displaced>> {
        let sql = "SELECT id, path, channel, versions, hash, since_ms, beside FROM displaced ORDER BY since_ms, id";
        self.rows("list displaced", sql, [], displaced_of)
    }

    /// Forgets a displaced file that was dropped.
    pub fn remove_displaced(&self, id: &str) -> Result<()> {
        self.run("forget displaced", "DELETE FROM displaced WHERE id = ?1", [id]).map(drop)
    }

    /// Remembers what a path held before this sync; the first note of a batch stands.
    pub fn add_undo(&self, step: &UndoStep) -> Result<()> {
        let sql = "INSERT OR IGNORE INTO undo(batch, path, channel, old_hash, old_size, old_kind) VALUES(?1, ?2, ?3, ?4, ?5, ?6)";
        let (hash, size, kind) = match step.old {
            Some((hash, size, kind)) => (Some(*hash.as_bytes()), size as i64, kind_code(kind)),
            None => (None, 0, 0),
        };
        let params = rusqlite::params![step.batch, step.path.as_str(), step.channel.as_str(), hash, size, kind];
        self.run("note undo", sql, params).map(drop)
    }

    /// What the last sync that changed anything on disk replaced.
    pub fn last_undo(&self) -> Result<Vec<UndoStep>> {
        let sql = "SELECT batch, path, channel, old_hash, old_size, old_kind FROM undo WHERE batch = (SELECT max(batch) FROM undo) ORDER BY path";
        self.rows("list undo", sql, [], |row| {
            let (batch, path, channel): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (hash, size, kind): (Option<Vec<u8>>, i64, i64) = (row.get(3)?, row.get(4)?, row.get(5)?);
            Ok((|| {
                let old = match hash_of(hash)? {
                    Some(hash) => Some((hash, size as u64, kind_of(kind)?)),
                    None => None,
                };
                Ok(UndoStep { batch, path: path_of(&path)?, channel: channel_of(&channel)?, old })
            })())
        })
    }

    /// The number of a new undo list; those of more than 20 changing runs before it are dropped.
    pub fn begin_undo(&self) -> Result<i64> {
        const KEPT_BATCHES: i64 = 20;
        let last = self.rows("list undo", "SELECT ifnull(max(batch), 0) FROM undo", [], |row| Ok(Ok(row.get(0)?)))?;
        let batch = last.first().copied().unwrap_or(0) + 1;
        self.run("drop undo", "DELETE FROM undo WHERE batch <= ?1", [batch - KEPT_BATCHES])?;
        Ok(batch)
    }

    /// How many steps go back to a content.
    pub fn undo_steps_to(&self, content: &ContentHash) -> Result<u64> {
        let sql = "SELECT count(*) FROM undo WHERE old_hash = ?1";
        let counts = self.rows("list undo", sql, [content.as_bytes()], |row| Ok(Ok(row.get::<_, i64>(0)?)))?;
        Ok(counts.first().map_or(0, |count| count.unsigned_abs()))
    }

    /// Drops the steps that go back to a content, which nothing can bring back.
    pub fn remove_undo_to(&self, content: &ContentHash) -> Result<()> {
        self.run("drop undo", "DELETE FROM undo WHERE old_hash = ?1", [content.as_bytes()]).map(drop)
    }

    /// Drops the notes of one sync.
    pub fn remove_undo(&self, batch: i64) -> Result<()> {
        self.run("drop undo", "DELETE FROM undo WHERE batch = ?1", [batch]).map(drop)
    }
}
