//! Versions that cannot become rows now: those whose parents are not here, and those that never will.
//!
//! Invariant: a line waits exactly until its last parent is a row; then it is judged as if it had just come. What was
//! left out is named for `status`, and what descends from it waits for ever.

use super::IndexError;
use super::apply::Rejected;
use super::names::ChainRow;
use super::writer::Writer;
use crate::model::{Version, VersionId};

impl Writer<'_, '_> {
    pub(super) fn reject(
        &mut self,
        chain: &ChainRow,
        id: VersionId,
        version: &Version,
        why: &'static str,
    ) -> Result<(), IndexError> {
        let path = version.path.shown();
        let insert = "INSERT OR REPLACE INTO rejected(id, cid, path, why) VALUES(?1, ?2, ?3, ?4)";
        self.batch.conn.prepare_cached(insert)?.execute((id.as_bytes(), chain.cid, &path, why))?;
        self.batch.applied.rejected.push(Rejected { id, chain: chain.chain.clone(), path, why });
        Ok(())
    }

    pub(super) fn wait(
        &mut self,
        chain: &ChainRow,
        id: VersionId,
        version: &Version,
        missing: &[VersionId],
    ) -> Result<(), IndexError> {
        self.batch.known.waiting = true;
        let conn = self.batch.conn;
        let insert = "INSERT INTO waiting(id, cid, line) VALUES(?1, ?2, ?3) ON CONFLICT DO NOTHING";
        if conn.prepare_cached(insert)?.execute((id.as_bytes(), chain.cid, version.to_line().1))? == 0 {
            return Ok(());
        }
        let wid = conn.last_insert_rowid();
        let mut want = conn.prepare_cached("INSERT INTO wants(parent, wid) VALUES(?1, ?2) ON CONFLICT DO NOTHING")?;
        for parent in missing {
            want.execute((parent.as_bytes(), wid))?;
        }
        Ok(())
    }

    /// Tries again what waits for the versions that just became rows, and so on.
    pub(super) fn release(&mut self) -> Result<(), IndexError> {
        let conn = self.batch.conn;
        while let Some((parent, spid)) = self.fresh.pop() {
            let mut statement = conn.prepare_cached(
                "SELECT w.wid, w.cid, w.id, w.line FROM wants JOIN waiting w ON w.wid = wants.wid WHERE wants.parent = ?1",
            )?;
            let rows = statement.query_map([parent.as_bytes()], |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, [u8; 32]>(2)?,
                    row.get::<_, Vec<u8>>(3)?,
                ))
            })?;
            let rows: Vec<(i64, i64, [u8; 32], Vec<u8>)> = rows.collect::<Result<_, _>>()?;
            for (wid, cid, id, line) in rows {
                let chain = self.batch.reader.names.chain(conn, cid)?;
                if chain.spid != spid {
                    continue;
                }
                conn.prepare_cached("DELETE FROM wants WHERE parent = ?1 AND wid = ?2")?
                    .execute((parent.as_bytes(), wid))?;
                let id = VersionId(crate::model::Hash::from_bytes(id));
                self.retry(&chain, wid, id, &line)?;
            }
        }
        Ok(())
    }

    fn retry(&mut self, chain: &ChainRow, wid: i64, id: VersionId, line: &[u8]) -> Result<(), IndexError> {
        let (_, version) = Version::parse(line).map_err(|error| IndexError::damaged(error.to_string()))?;
        for parent in &version.parents {
            if self.is_known(chain.spid, parent)?.is_none() {
                return Ok(());
            }
        }
        self.batch.conn.prepare_cached("DELETE FROM waiting WHERE wid = ?1")?.execute([wid])?;
        self.successor(chain, id, &version)
    }
}
