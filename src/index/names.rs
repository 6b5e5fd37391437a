//! Interned names: which row stands for which space, origin, chain and directory.
//!
//! Invariant: rows are only added, so what a cache holds stays true as long as its transaction was not undone; after an
//! undone one the writer empties its caches. Caches are bounded and forgotten whole.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::IndexError;
use super::schema::ROOT_DIR;
use crate::ledger::ArtifactName;
use crate::model::{Chain, OriginName, RelPath, Space};

/// Directories remembered by row; at 100 bytes each, 2 MB.
const MAX_CACHED_DIRS: usize = 20_000;
/// Deeper than any path may be: a cycle in a damaged table ends here.
const MAX_DEPTH: usize = 256;

/// A chain as its row tells it.
#[derive(Clone, Debug)]
pub(super) struct ChainRow {
    pub cid: i64,
    pub spid: i64,
    pub oid: i64,
    pub chain: Chain,
}

/// The caches of one connection.
#[derive(Default)]
pub(super) struct Names {
    spaces: RefCell<HashMap<i64, Space>>,
    origins: RefCell<HashMap<i64, OriginName>>,
    chains: RefCell<HashMap<i64, ChainRow>>,
    chain_ids: RefCell<HashMap<Chain, i64>>,
    space_ids: RefCell<HashMap<Space, i64>>,
    /// The artifact asked for last: contents are read in the order in which they were packed.
    artifact: RefCell<Option<(i64, ArtifactName)>>,
    dir_paths: RefCell<HashMap<i64, Arc<str>>>,
    dir_ids: RefCell<HashMap<Arc<str>, i64>>,
}

impl Names {
    pub fn forget(&self) {
        self.spaces.borrow_mut().clear();
        self.origins.borrow_mut().clear();
        self.chains.borrow_mut().clear();
        self.chain_ids.borrow_mut().clear();
        self.space_ids.borrow_mut().clear();
        *self.artifact.borrow_mut() = None;
        self.dir_paths.borrow_mut().clear();
        self.dir_ids.borrow_mut().clear();
    }

    pub fn space(&self, conn: &Connection, spid: i64) -> Result<Space, IndexError> {
        cached(&self.spaces, spid, || named(conn, "SELECT name FROM spaces WHERE spid = ?1", spid))
    }

    pub fn origin(&self, conn: &Connection, oid: i64) -> Result<OriginName, IndexError> {
        cached(&self.origins, oid, || named(conn, "SELECT name FROM origins WHERE oid = ?1", oid))
    }

    pub fn chain(&self, conn: &Connection, cid: i64) -> Result<ChainRow, IndexError> {
        cached(&self.chains, cid, || {
            let mut statement = conn.prepare_cached("SELECT spid, oid, generation FROM chains WHERE cid = ?1")?;
            let (spid, oid, generation) =
                statement.query_row([cid], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            let chain = Chain { space: self.space(conn, spid)?, origin: self.origin(conn, oid)?, generation };
            Ok(ChainRow { cid, spid, oid, chain })
        })
    }

    pub fn chain_id(&self, conn: &Connection, chain: &Chain) -> Result<Option<i64>, IndexError> {
        if let Some(cid) = self.chain_ids.borrow().get(chain) {
            return Ok(Some(*cid));
        }
        let mut statement = conn.prepare_cached(
            "SELECT cid FROM chains WHERE generation = ?3 AND spid = (SELECT spid FROM spaces WHERE name = ?1)
               AND oid = (SELECT oid FROM origins WHERE name = ?2)",
        )?;
        let found: Option<i64> = statement
            .query_row((chain.space.as_str(), chain.origin.as_str(), chain.generation), |row| row.get(0))
            .optional()?;
        if let Some(cid) = found {
            self.chain_ids.borrow_mut().insert(chain.clone(), cid);
        }
        Ok(found)
    }

    pub fn space_id(&self, conn: &Connection, space: &Space) -> Result<Option<i64>, IndexError> {
        if let Some(spid) = self.space_ids.borrow().get(space) {
            return Ok(Some(*spid));
        }
        let mut statement = conn.prepare_cached("SELECT spid FROM spaces WHERE name = ?1")?;
        let found: Option<i64> = statement.query_row([space.as_str()], |row| row.get(0)).optional()?;
        if let Some(spid) = found {
            self.space_ids.borrow_mut().insert(space.clone(), spid);
        }
        Ok(found)
    }

    pub fn origin_id(&self, conn: &Connection, origin: &OriginName) -> Result<Option<i64>, IndexError> {
        let mut statement = conn.prepare_cached("SELECT oid FROM origins WHERE name = ?1")?;
        Ok(statement.query_row([origin.as_str()], |row| row.get(0)).optional()?)
    }

    /// The name of an artifact.
    pub fn artifact(&self, conn: &Connection, aid: i64) -> Result<ArtifactName, IndexError> {
        let mut last = self.artifact.borrow_mut();
        if let Some((_, name)) = last.as_ref().filter(|(known, _)| *known == aid) {
            return Ok(name.clone());
        }
        let name: ArtifactName = named(conn, "SELECT name FROM artifacts WHERE aid = ?1", aid)?;
        *last = Some((aid, name.clone()));
        Ok(name)
    }

    /// The directory at `path` (empty for the root), if any version ever stood below it.
    pub fn dir_id(&self, conn: &Connection, path: &str) -> Result<Option<i64>, IndexError> {
        if path.is_empty() {
            return Ok(Some(ROOT_DIR));
        }
        if let Some(did) = self.dir_ids.borrow().get(path) {
            return Ok(Some(*did));
        }
        let mut did = ROOT_DIR;
        for component in path.split('/') {
            match child_dir(conn, did, component)? {
                Some(child) => did = child,
                None => return Ok(None),
            }
        }
        self.remember_dir(path, did);
        Ok(Some(did))
    }

    /// The path of a directory, without a separator at its end; empty for the root.
    pub fn dir_path(&self, conn: &Connection, did: i64) -> Result<Arc<str>, IndexError> {
        if did == ROOT_DIR {
            return Ok(Arc::from(""));
        }
        if let Some(path) = self.dir_paths.borrow().get(&did) {
            return Ok(path.clone());
        }
        let path = Arc::<str>::from(read_dir_path(conn, did)?);
        self.remember_dir(&path, did);
        Ok(path)
    }

    /// The path of an entry.
    pub fn path(&self, conn: &Connection, did: i64, name: &str) -> Result<RelPath, IndexError> {
        let dir = self.dir_path(conn, did)?;
        let text = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
        RelPath::parse(&text).map_err(|error| IndexError::damaged(error.to_string()))
    }

    fn remember_dir(&self, path: &str, did: i64) {
        let (mut paths, mut ids) = (self.dir_paths.borrow_mut(), self.dir_ids.borrow_mut());
        if paths.len() >= MAX_CACHED_DIRS {
            paths.clear();
            ids.clear();
        }
        let path: Arc<str> = path.into();
        paths.insert(did, path.clone());
        ids.insert(path, did);
    }
}

/// The directory called `name` in `parent`.
pub(super) fn child_dir(conn: &Connection, parent: i64, name: &str) -> Result<Option<i64>, IndexError> {
    let mut statement = conn.prepare_cached("SELECT did FROM dirs WHERE parent = ?1 AND name = ?2")?;
    Ok(statement.query_row((parent, name), |row| row.get(0)).optional()?)
}

fn read_dir_path(conn: &Connection, mut did: i64) -> Result<String, IndexError> {
    let mut statement = conn.prepare_cached("SELECT parent, name FROM dirs WHERE did = ?1")?;
    let mut components: Vec<String> = Vec::new();
    while did != ROOT_DIR {
        if components.len() >= MAX_DEPTH {
            return Err(IndexError::damaged("directories form a cycle"));
        }
        let (parent, name) = statement.query_row([did], |row| Ok((row.get(0)?, row.get(1)?)))?;
        components.push(name);
        did = parent;
    }
    components.reverse();
    Ok(components.join("/"))
}

fn named<T: std::str::FromStr<Err: std::fmt::Display>>(
    conn: &Connection,
    sql: &str,
    row: i64,
) -> Result<T, IndexError> {
    let name: String = conn.prepare_cached(sql)?.query_row([row], |row| row.get(0))?;
    name.parse().map_err(|error: T::Err| IndexError::damaged(error.to_string()))
}

fn cached<T: Clone>(
    cache: &RefCell<HashMap<i64, T>>,
    key: i64,
    load: impl FnOnce() -> Result<T, IndexError>,
) -> Result<T, IndexError> {
    if let Some(value) = cache.borrow().get(&key) {
        return Ok(value.clone());
    }
    let value = load()?;
    cache.borrow_mut().insert(key, value.clone());
    Ok(value)
}
