//! Bases: what each file on disk agrees with. Also the stat cache: an unchanged file is not opened.
//!
//! Invariant: a base is a *set* of versions and the hash of their resolved bytes; the loser of a conflict never enters it.
//! A path without a row has no base, so its absence means nothing.

use std::collections::HashSet;

use rusqlite::{OptionalExtension, Row};

use super::{Result, State, StateError, sqlite};
use crate::model::{Channel, ContentHash, ContentKind, RelPath, VersionId};

/// What the file system said about a file when its base was set. Times in nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BaseStat {
    /// Bytes.
    pub size: u64,
    /// Last modification.
    pub mtime_ns: i64,
    /// Last change of the inode; cannot be set by programs.
    pub ctime_ns: i64,
    /// Inode number.
    pub inode: u64,
    /// Device number.
    pub device: u64,
}

/// What the file at one path agrees with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Base {
    /// Where.
    pub path: RelPath,
    /// Which pattern list admitted it.
    pub channel: Channel,
    /// The versions that were resolved into it, sorted.
    pub versions: Vec<VersionId>,
    /// The hash of its bytes.
    pub hash: ContentHash,
    /// File or link.
    pub kind: ContentKind,
    /// As it was when the base was set.
    pub stat: BaseStat,
    /// Where hashing can go on when the file grows (`chunk::ResumeState`), for line files.
    pub resume: Option<Vec<u8>>,
}

/// The span of all paths below a folder, or of all: `0` follows `/`, and no end is none.
fn span_below(dir: Option<&str>) -> (String, Option<String>) {
    dir.map_or((String::new(), None), |dir| (format!("{dir}/"), Some(format!("{dir}0"))))
}

pub(super) fn kind_code(kind: ContentKind) -> i64 {
    match kind {
        ContentKind::File { exec: false } => 0,
        ContentKind::File { exec: true } => 1,
        ContentKind::Link => 2,
    }
}

pub(super) fn kind_of(code: i64) -> Result<ContentKind> {
    match code {
        0 => Ok(ContentKind::File { exec: false }),
        1 => Ok(ContentKind::File { exec: true }),
        2 => Ok(ContentKind::Link),
        _ => Err(StateError::Form { what: "a file kind" }),
    }
}

pub(super) fn pack_ids(ids: &[VersionId]) -> Vec<u8> {
    ids.iter().flat_map(|id| *id.as_bytes()).collect()
}

pub(super) fn unpack_ids(bytes: &[u8]) -> Result<Vec<VersionId>> {
    let form = || StateError::Form { what: "version ids" };
    if !bytes.len().is_multiple_of(32) {
        return Err(form());
    }
    bytes.chunks_exact(32).map(|id| VersionId::from_slice(id).ok_or_else(form)).collect()
}

pub(super) fn path_of(text: &str) -> Result<RelPath> {
    RelPath::parse(text).map_err(|_| StateError::Form { what: "a path" })
}

pub(super) fn channel_of(text: &str) -> Result<Channel> {
    text.parse().map_err(|_| StateError::Form { what: "a channel" })
}

const COLUMNS: &str = "path, channel, versions, hash, kind, size, mtime_ns, ctime_ns, inode, device, resume";

fn base_of(row: &Row<'_>) -> rusqlite::Result<Result<Base>> {
    let path: String = row.get(0)?;
    let channel: String = row.get(1)?;
    let versions: Vec<u8> = row.get(2)?;
    let hash: Option<Vec<u8>> = row.get(3)?;
    let kind: i64 = row.get(4)?;
    let stat = BaseStat {
        size: row.get::<_, i64>(5)? as u64,
        mtime_ns: row.get(6)?,
        ctime_ns: row.get(7)?,
        inode: row.get::<_, i64>(8)? as u64,
        device: row.get::<_, i64>(9)? as u64,
    };
    let resume = row.get(10)?;
    Ok((|| {
        let hash = hash.as_deref().and_then(ContentHash::from_slice);
        Ok(Base {
            path: path_of(&path)?,
            channel: channel_of(&channel)?,
            versions: unpack_ids(&versions)?,
            hash: hash.ok_or(StateError::Form { what: "a base's hash" })?,
            kind: kind_of(kind)?,
            stat,
            resume,
        })
    })())
}

impl State {
    /// The base of one path.
    pub fn base(&self, path: &RelPath) -> Result<Option<Base>> {
        self.connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM bases WHERE path = ?1"))
            .and_then(|mut statement| statement.query_row([path.as_str()], base_of).optional())
            .map_err(sqlite("read base"))?
            .transpose()
    }

    /// Sets the base of a path.
    pub fn set_base(&self, base: &Base) -> Result<()> {
        self.put_base("bases", base, Some(base.hash))
    }

    /// The contents of files as they were recorded or written here last.
    pub fn base_contents(&self) -> Result<HashSet<ContentHash>> {
        let sql = "SELECT hash FROM bases WHERE hash IS NOT NULL";
        let bases = self.rows("read contents of bases", sql, [], |row| Ok(super::intent::hash_of(row.get(0)?)))?;
        Ok(bases.into_iter().flatten().collect())
    }

    /// Contents that this machine may need whatever others know: of files as they stand, of what is being replaced, displaced or
    /// recorded, and of what may be taken back.
    pub fn held_contents(&self) -> Result<HashSet<ContentHash>> {
        const SQL: &str = "SELECT hash FROM bases WHERE hash IS NOT NULL UNION SELECT hash FROM recording WHERE hash IS NOT NULL
            UNION SELECT old_hash FROM intents WHERE old_hash IS NOT NULL UNION SELECT new_hash FROM intents WHERE new_hash IS NOT NULL
            UNION SELECT hash FROM displaced WHERE hash IS NOT NULL UNION SELECT old_hash FROM undo WHERE old_hash IS NOT NULL";
        let held = self.rows("read held contents", SQL, [], |row| Ok(super::intent::hash_of(row.get(0)?)))?;
        Ok(held.into_iter().flatten().collect())
    }

    /// Forgets the bases of all files of a channel: they are found anew, and nothing is deleted because of it.
    pub fn remove_bases_of(&self, channel: Channel) -> Result<()> {
        for table in ["bases", "recording"] {
            self.run("remove bases", &format!("DELETE FROM {table} WHERE channel = ?1"), [channel.as_str()])?;
        }
        Ok(())
    }

    /// Notes the base that a path will have once its version is in the ledger.
    pub fn set_recording(&self, base: &Base) -> Result<()> {
        self.put_base("recording", base, Some(base.hash))
    }

    /// Notes that a path will have no base once this tombstone is in the ledger.
    pub fn set_recording_gone(&self, path: &RelPath, channel: Channel, tombstone: VersionId) -> Result<()> {
        let base = Base {
            path: path.clone(),
            channel,
            versions: vec![tombstone],
            hash: ContentHash::of(b""),
            kind: ContentKind::File { exec: false },
            stat: BaseStat::default(),
            resume: None,
        };
        self.put_base("recording", &base, None)
    }

    /// What a killed run was recording: the versions, and the base to come (`None`: the path was gone).
    pub fn recordings(&self) -> Result<Vec<(RelPath, Vec<VersionId>, Option<Base>)>> {
        let sql = format!("SELECT {COLUMNS} FROM recording ORDER BY path");
        self.rows("list recordings", &sql, [], |row| {
            let (path, versions): (String, Vec<u8>) = (row.get(0)?, row.get(2)?);
            let gone = row.get::<_, Option<Vec<u8>>>(3)?.is_none();
            let base = if gone { None } else { Some(base_of(row)?) };
            Ok((|| Ok((path_of(&path)?, unpack_ids(&versions)?, base.transpose()?)))())
        })
    }

    /// Everything that was being recorded is settled. Where nothing was, nothing is written: SQLite clears an empty table too.
    pub fn clear_recordings(&self) -> Result<()> {
        if !self.exists("SELECT 1 FROM recording LIMIT 1", [])? {
            return Ok(());
        }
        self.run("clear recordings", "DELETE FROM recording", []).map(drop)
    }

    fn put_base(&self, table: &str, base: &Base, hash: Option<ContentHash>) -> Result<()> {
        let sql =
            format!("INSERT OR REPLACE INTO {table}({COLUMNS}) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)");
        let params = rusqlite::params![
            base.path.as_str(),
            base.channel.as_str(),
            pack_ids(&base.versions),
            hash.map(|hash| *hash.as_bytes()),
            kind_code(base.kind),
            base.stat.size as i64,
            base.stat.mtime_ns,
            base.stat.ctime_ns,
            base.stat.inode as i64,
            base.stat.device as i64,
            base.resume,
        ];
        self.run("write base", &sql, params).map(drop)
    }

    /// Forgets the base of a path: its absence means nothing from here on.
    pub fn remove_base(&self, path: &RelPath) -> Result<()> {
        self.connection
            .prepare_cached("DELETE FROM bases WHERE path = ?1")
            .and_then(|mut statement| statement.execute([path.as_str()]))
            .map(drop)
            .map_err(sqlite("remove base"))
    }

    /// Hands every (path, channel, kind, stat) to `visit`, in byte order of the paths; the cheap half of a base.
    ///
    /// Stops at the first error of `visit`.
    pub fn for_each_stat<E: From<StateError>>(
        &self,
        below: Option<&RelPath>,
        mut visit: impl FnMut(&str, Channel, ContentKind, &BaseStat) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let (from, to) = span_below(below.map(RelPath::as_str));
        let mut statement = self
            .connection
            .prepare_cached("SELECT path, kind, size, mtime_ns, ctime_ns, inode, device, channel FROM bases WHERE path >= ?1 AND (?2 IS NULL OR path < ?2) ORDER BY path")
            .map_err(sqlite("list bases"))?;
        let mut rows = statement.query((from, to)).map_err(sqlite("list bases"))?;
        while let Some(row) = rows.next().map_err(sqlite("list bases"))? {
            let read = || -> rusqlite::Result<(i64, BaseStat)> {
                let stat = BaseStat {
                    size: row.get::<_, i64>(2)? as u64,
                    mtime_ns: row.get(3)?,
                    ctime_ns: row.get(4)?,
                    inode: row.get::<_, i64>(5)? as u64,
                    device: row.get::<_, i64>(6)? as u64,
                };
                Ok((row.get(1)?, stat))
            };
            let (kind, stat) = read().map_err(sqlite("list bases"))?;
            let path = row.get_ref(0).and_then(|value| Ok(value.as_str()?)).map_err(sqlite("list bases"))?;
            let channel = row.get_ref(7).and_then(|value| Ok(value.as_str()?)).map_err(sqlite("list bases"))?;
            visit(path, channel_of(channel)?, kind_of(kind)?, &stat)?;
        }
        Ok(())
    }

    /// True if a file below the folder `dir` has a base.
    pub fn has_bases_below(&self, dir: &RelPath) -> Result<bool> {
        let (from, to) = span_below(Some(dir.as_str()));
        self.exists("SELECT 1 FROM bases WHERE path >= ?1 AND path < ?2", (from, to))
    }

    /// True if any file has a base.
    pub fn has_bases(&self) -> Result<bool> {
        self.exists("SELECT 1 FROM bases", [])
    }

    /// How many files of one space have a base: private ones or all others; below a top folder, or in all.
    pub fn count_live(&self, private: bool, folder: Option<&str>) -> Result<u64> {
        let (from, to) = span_below(folder);
        let sql = "SELECT count(*) FROM bases WHERE path >= ?1 AND (?2 IS NULL OR path < ?2) AND (channel = ?3) = ?4";
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| {
                let private_name = crate::model::Channel::Private.as_str();
                statement.query_row((from, to, private_name, private), |row| row.get::<_, i64>(0))
            })
            .map(|count| count as u64)
            .map_err(sqlite("count bases"))
    }
}
