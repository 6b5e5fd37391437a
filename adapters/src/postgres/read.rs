//! Pages, rows and chunks, each page from one moment.
//!
//! A place in the feed is not a number: of two transactions the one that began first may commit last. It is the snapshot that the
//! last page was read with; what comes next is what that snapshot did not see. So nothing is missed and a transaction that
//! stays open holds up nobody's changes but its own.
//! Invariant: a page's rows are visible to the snapshot that becomes its cursor.

use tokio_postgres::Client;
use tokio_postgres::Row as SqlRow;
use tokio_postgres::types::{ToSql, Type};

use super::connect::Session;
use super::failure::Failure;
use super::schema::{Facts, MAX_ID_BYTES};
use crate::record::{Named, after_prefix, escaped};
use crate::{
    Cursor, ErrorKind, MirrorEntry, Page, Query, RecordId, Revision, Row, RowContent, SHARED_OWNER, Selection, stamp,
};

// A row that another program wrote may be longer than our limit; beyond this it is no file of a project, and memory is bounded.
const FOREIGN_TEXT_LIMIT_BYTES: i64 = 32 * 1024 * 1024;
/// Ids asked for in one statement.
const IDS_PER_QUERY: usize = 2_000;

type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Where a reader is in the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before everything.
    Start,
    /// After all that this snapshot saw.
    After(String),
    /// Amid what came between two snapshots (the earlier may be the start): after this transaction's change of this number.
    Amid { since: Option<String>, until: String, xid: u64, n: i64 },
}

impl Place {
    /// A cursor of another database, or one that nobody here gave out, is the start.
    pub fn of(cursor: &Cursor, instance: &str) -> Place {
        let read = || {
            let mut parts = cursor.as_str().split(';');
            if parts.next()? != instance {
                return None;
            }
            let since = parts.next()?;
            if !(since.is_empty() || is_snapshot(since)) {
                return None;
            }
            let Some(until) = parts.next() else {
                return (!since.is_empty()).then(|| Place::After(since.to_owned()));
            };
            let (xid, n) = parts.next()?.split_once('.')?;
            let since = (!since.is_empty()).then(|| since.to_owned());
            let place = Place::Amid { since, until: until.to_owned(), xid: xid.parse().ok()?, n: n.parse().ok()? };
            (is_snapshot(until) && parts.next().is_none()).then_some(place)
        };
        read().unwrap_or(Place::Start)
    }

    pub fn cursor(&self, instance: &str) -> Cursor {
        Cursor::from_text(match self {
            Place::Start => String::new(),
            Place::After(since) => format!("{instance};{since}"),
            Place::Amid { since, until, xid, n } => {
                format!("{instance};{};{until};{xid}.{n}", since.as_deref().unwrap_or_default())
            }
        })
    }

    pub fn since(&self) -> Option<&str> {
        match self {
            Place::Start => None,
            Place::After(since) => Some(since),
            Place::Amid { since, .. } => since.as_deref(),
        }
    }
}

/// `xmin:xmax:xip,xip`, so that nothing else reaches the server as one.
fn is_snapshot(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let number = |part: &&str| part.parse::<u64>().is_ok_and(|number| 0 < number);
    match parts.as_slice() {
        [xmin, xmax, running] => {
            number(xmin) && number(xmax) && (running.is_empty() || running.split(',').all(|one| number(&one)))
        }
        _ => false,
    }
}

fn xmin(snapshot: &str) -> &str {
    snapshot.split(':').next().unwrap_or("1")
}

pub(crate) fn revision(instance: &str, change: i64) -> Revision {
    Revision::new(format!("{instance}.{change}"))
}

/// The number in `<instance>.<number>`, if it is of this database.
pub(crate) fn numbered(revision: &Revision, instance: &str) -> Option<i64> {
    let (of, number) = revision.as_str().split_once('.')?;
    if of == instance { number.parse().ok() } else { None }
}

impl Session {
    pub(super) async fn query(&self, query: &Query, limit: usize) -> Result<Page, Failure> {
        match &query.select {
            Selection::Changes { after } => {
                let place = Place::of(after, &self.facts.instance);
                self.changes(query, place, limit).await
            }
            Selection::Paths { prefix, after } => self.paths(query, prefix, after.as_deref(), limit).await,
        }
    }

    async fn changes(&self, query: &Query, place: Place, limit: usize) -> Result<Page, Failure> {
        let place = self.known(place).await?;
        let space = Space::of(query);
        let asked = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let mut parameters: Vec<Parameter<'_>> = vec![
            (&query.with_content, Type::BOOL),
            (&FOREIGN_TEXT_LIMIT_BYTES, Type::INT8),
            (&space.low, Type::TEXT),
            (&space.high, Type::TEXT),
            (&space.nested, Type::TEXT),
            (&asked, Type::INT8),
        ];
        let mut conditions = String::new();
        let least = place.since().map(|since| xmin(since).to_owned());
        let since = place.since().map(str::to_owned);
        if let (Some(since), Some(least)) = (&since, &least) {
            parameters.extend([(since as &(dyn ToSql + Sync), Type::TEXT), (least, Type::TEXT)]);
            conditions
                .push_str(" AND m.xid >= $8::text::xid8 AND NOT pg_visible_in_snapshot(m.xid, $7::text::pg_snapshot)");
        }
        let amid = match &place {
            Place::Amid { until, xid, n, .. } => Some((until.clone(), xid.to_string(), *n)),
            _ => None,
        };
        if let Some((until, xid, n)) = &amid {
            let at = parameters.len();
            parameters.extend([(until as &(dyn ToSql + Sync), Type::TEXT), (xid, Type::TEXT), (n, Type::INT8)]);
            conditions.push_str(&format!(
                " AND pg_visible_in_snapshot(m.xid, ${}::text::pg_snapshot) AND (m.xid, m.n) > (${}::text::xid8, ${})",
                at + 1,
                at + 2,
                at + 3
            ));
        }
        let columns = columns(&self.facts);
        let of_space = space.condition;
        let sql = format!(
            "SELECT now.seen, found.* FROM (SELECT pg_current_snapshot()::text AS seen) AS now LEFT JOIN LATERAL (
                SELECT m.id, m.xid::text, {columns}
                FROM (SELECT * FROM file_mirror AS m WHERE ({of_space}) {conditions} ORDER BY m.xid, m.n LIMIT $6) AS m
                LEFT JOIN files AS f ON f.id = m.id COLLATE \"default\"
                LEFT JOIN file_chunked AS k ON k.id = m.id
                ORDER BY m.xid, m.n) AS found ON true"
        );
        let found = self.client.query_typed(&sql, &parameters).await?;
        self.page_of(&place, &found, limit, query.with_content)
    }

    fn page_of(&self, place: &Place, found: &[SqlRow], limit: usize, with_content: bool) -> Result<Page, Failure> {
        let missing = || Failure::new(ErrorKind::Corrupt, "it answered a page without its moment");
        let seen: String = found.first().ok_or_else(missing)?.try_get(0)?;
        let until = match place {
            Place::Amid { until, .. } => until.clone(),
            _ => seen,
        };
        let changed: Vec<&SqlRow> =
            found.iter().filter(|row| row.try_get::<_, Option<&str>>(1).is_ok_and(|id| id.is_some())).collect();
        let more = changed.len() > limit;
        let mut rows = Vec::with_capacity(changed.len().min(limit));
        let mut last = None;
        for row in changed.into_iter().take(limit) {
            let xid: &str = row.try_get(2)?;
            last = Some((xid.parse().unwrap_or(0), row.try_get::<_, i64>(3)?));
            // A name that no record can have is none of ours.
            if let Some(id) = RecordId::parse(row.try_get(1)?) {
                rows.extend(load(row, 3, id, &self.facts.instance, with_content)?);
            }
        }
        let next = match last.filter(|_| more) {
            Some((xid, n)) => Place::Amid { since: place.since().map(str::to_owned), until, xid, n },
            None => Place::After(until),
        };
        Ok(Page { rows, cursor: next.cursor(&self.facts.instance), more })
    }

    /// A place that a restored database has not reached yet is the start.
    async fn known(&self, place: Place) -> Result<Place, Failure> {
        let newest = match &place {
            Place::Start => return Ok(place),
            Place::After(since) => since,
            Place::Amid { until, .. } => until,
        };
        let asked = "SELECT pg_snapshot_xmax($1::text::pg_snapshot) > pg_snapshot_xmax(pg_current_snapshot())";
        match self.client.query_typed_one(asked, &[(newest, Type::TEXT)]).await {
            Ok(row) => Ok(if row.try_get(0)? { Place::Start } else { place }),
            Err(error) if error.as_db_error().is_some_and(|said| said.code().code().starts_with("22")) => {
                Ok(Place::Start)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn paths(&self, query: &Query, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Failure> {
        self.client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let page = self.paths_of_moment(query, prefix, after, limit).await;
        // Nothing was written: whether it ends well or not tells nothing.
        let ended = self.client.batch_execute("COMMIT").await;
        let page = page?;
        ended?;
        Ok(page)
    }

    async fn paths_of_moment(
        &self,
        query: &Query,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, Failure> {
        let seen: String = self.client.query_typed_one("SELECT pg_current_snapshot()::text", &[]).await?.try_get(0)?;
        let limit_each = if query.owner.is_none() { usize::MAX } else { limit + 1 };
        let mut named = Vec::new();
        for span in Span::all(query, prefix, after) {
            named.extend(self.ids(&span, limit_each).await?);
        }
        named.retain(|name| name.path.starts_with(prefix) && after.is_none_or(|after| after < name.path.as_str()));
        named.sort_by(|a, b| (&a.path, &a.owner).cmp(&(&b.path, &b.owner)));
        let mut end = limit.min(named.len());
        while end < named.len() && named[end].path == named[end - 1].path {
            end += 1;
        }
        let more = end < named.len();
        named.truncate(end);
        let ids: Vec<RecordId> = named.into_iter().map(|name| name.id).collect();
        let rows = self.rows(&ids, query.with_content).await?.into_iter().flatten().collect();
        Ok(Page { rows, cursor: Place::After(seen).cursor(&self.facts.instance), more })
    }

    /// The ids of present records in a span, in order.
    async fn ids(&self, span: &Span, limit: usize) -> Result<Vec<Named>, Failure> {
        let colon = if span.no_colon { "AND strpos(substr(m.id, $3), ':') = 0" } else { "AND $3 = $3" };
        // Asked row by row: of `EXISTS` the planner may make a table of every file there is, for a page of one.
        let sql = format!(
            "SELECT m.id FROM file_mirror AS m WHERE m.id >= $1 AND m.id < $2 {colon}
                AND coalesce((SELECT true FROM files AS f WHERE f.id = m.id COLLATE \"default\"),
                    (SELECT true FROM file_chunked AS k WHERE k.id = m.id), false)
            ORDER BY m.id LIMIT $4"
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let parameters: [Parameter<'_>; 4] =
            [(&span.from, Type::TEXT), (&span.until, Type::TEXT), (&span.path_at, Type::INT4), (&limit, Type::INT8)];
        let found = self.client.query_typed(&sql, &parameters).await?;
        let mut named = Vec::with_capacity(found.len());
        for row in found {
            named.extend(Named::parse(row.try_get(0)?));
        }
        Ok(named)
    }

    /// The rows of some ids, in their order; `None` where nothing ever was.
    pub(super) async fn rows(&self, ids: &[RecordId], with_content: bool) -> Result<Vec<Option<Row>>, Failure> {
        let mut rows = Vec::with_capacity(ids.len());
        for group in ids.chunks(IDS_PER_QUERY) {
            let names: Vec<&str> = group.iter().map(RecordId::as_str).collect();
            let sql = format!(
                "SELECT {} FROM unnest($3::text[]) WITH ORDINALITY AS x (id, at)
                LEFT JOIN files AS f ON f.id = x.id
                LEFT JOIN file_chunked AS k ON k.id = x.id
                LEFT JOIN file_mirror AS m ON m.id = x.id
                ORDER BY x.at",
                columns(&self.facts)
            );
            let parameters: [Parameter<'_>; 3] =
                [(&with_content, Type::BOOL), (&FOREIGN_TEXT_LIMIT_BYTES, Type::INT8), (&names, Type::TEXT_ARRAY)];
            let found = self.client.query_typed(&sql, &parameters).await?;
            if found.len() != group.len() {
                return Err(Failure::new(ErrorKind::Corrupt, "it answered another number of rows than asked for"));
            }
            for (row, id) in found.iter().zip(group) {
                rows.push(load(row, 0, id.clone(), &self.facts.instance, with_content)?);
            }
        }
        Ok(rows)
    }

    /// `None` if the record has no chunks.
    pub(super) async fn chunks(&self, id: &RecordId, first: u32, count: u32) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        let (first, end) = (i64::from(first), i64::from(first) + i64::from(count));
        let asked = "SELECT bytes FROM file_chunks WHERE id = $1 AND n >= $2 AND n < $3 ORDER BY n";
        let name = id.as_str();
        let parameters: [Parameter<'_>; 3] = [(&name, Type::TEXT), (&first, Type::INT8), (&end, Type::INT8)];
        let mut chunks = Vec::new();
        for row in self.client.query_typed(asked, &parameters).await? {
            chunks.push(row.try_get(0)?);
        }
        if chunks.is_empty() {
            let chunked = "SELECT EXISTS (SELECT 1 FROM file_chunked WHERE id = $1)";
            let found: bool = self.client.query_typed_one(chunked, &[(&name, Type::TEXT)]).await?.try_get(0)?;
            return Ok(found.then_some(chunks));
        }
        Ok(Some(chunks))
    }
}

/// Which apps have changes after a snapshot, and the snapshot to ask with next time.
pub(super) async fn changed_apps(client: &Client, since: Option<&str>) -> Result<(Vec<String>, String), Failure> {
    let Some(since) = since else {
        let now = client.query_typed_one("SELECT pg_current_snapshot()::text", &[]).await?;
        return Ok((Vec::new(), now.try_get(0)?));
    };
    let asked = "SELECT pg_current_snapshot()::text, coalesce((SELECT array_agg(DISTINCT split_part(m.id, ':', 1)) FROM file_mirror AS m
        WHERE m.xid >= $2::text::xid8 AND NOT pg_visible_in_snapshot(m.xid, $1::text::pg_snapshot)), '{}'::text[])";
    let least = xmin(since);
    let row = client.query_typed_one(asked, &[(&since, Type::TEXT), (&least, Type::TEXT)]).await?;
    Ok((row.try_get(1)?, row.try_get(0)?))
}

fn columns(facts: &Facts) -> String {
    let updated = facts.moments.last_updated.read("f.last_updated");
    let created = facts.moments.created_at.read("f.created_at");
    let zoned = super::schema::Moment::Zoned;
    let (chunked_updated, chunked_created) = (zoned.read("k.last_updated"), zoned.read("k.created_at"));
    format!(
        "coalesce(m.n, 0) AS n, f.id IS NOT NULL AS is_text, octet_length(f.content)::bigint AS size,
        CASE WHEN $1::bool AND octet_length(f.content) <= $2::bigint THEN f.content::text END AS content,
        {updated} AS updated, {created} AS created,
        k.chunk_count, k.size_bytes, {chunked_updated} AS chunked_updated, {chunked_created} AS chunked_created,
        m.version, m.content_hash, m.revision"
    )
}

/// Reads the columns of [`columns`] from `at` on. `None` if there is nothing at all.
fn load(row: &SqlRow, at: usize, id: RecordId, instance: &str, with_content: bool) -> Result<Option<Row>, Failure> {
    let Some((app, owner, path)) = id.parts() else {
        return Ok(None);
    };
    let change: i64 = row.try_get(at)?;
    let is_text: bool = row.try_get(at + 1)?;
    let chunk_count: Option<i64> = row.try_get(at + 6)?;
    // Our own writes leave one form only, so a text row beside chunks was written later, by somebody else.
    let (content, stamps) = match chunk_count {
        _ if is_text => (text(row, at, with_content)?, at + 4),
        Some(count) => {
            let size: i64 = row.try_get(at + 7)?;
            let chunk_count = u32::try_from(count).unwrap_or(u32::MAX);
            (RowContent::Chunked { chunk_count, size_bytes: size.unsigned_abs() }, at + 8)
        }
        None => (RowContent::Absent, at + 8),
    };
    let stamp =
        |column: usize| -> Result<u64, Failure> { Ok(row.try_get::<_, Option<&str>>(column)?.map_or(0, stamp::parse)) };
    let mirrored: Option<i64> = row.try_get(at + 12)?;
    let version: Option<String> = row.try_get(at + 10)?;
    let hash: Option<&[u8]> = row.try_get(at + 11)?;
    let entry = |version| MirrorEntry {
        version,
        // A hash of another length was not written by us and matches nothing.
        content_hash: hash.and_then(|hash| hash.try_into().ok()).unwrap_or([0; 32]),
    };
    let mirror = mirrored.and(version).map(entry);
    Ok(Some(Row {
        app,
        owner,
        path,
        content,
        revision: revision(instance, change),
        mirrored_revision: mirror.as_ref().and(mirrored).map(|change| revision(instance, change)),
        mirror,
        last_updated_ms: stamp(stamps)?,
        created_at_ms: stamp(stamps + 1)?,
        id,
    }))
}

fn text(row: &SqlRow, at: usize, with_content: bool) -> Result<RowContent, Failure> {
    if !with_content {
        return Ok(RowContent::Unread);
    }
    let size: Option<i64> = row.try_get(at + 2)?;
    let content: Option<String> = row.try_get(at + 3)?;
    Ok(match (size, content) {
        (None, _) => RowContent::Invalid("content is null, not text".to_owned()),
        (Some(size), _) if size > FOREIGN_TEXT_LIMIT_BYTES => {
            RowContent::Invalid(format!("content of {size} bytes, the limit is {FOREIGN_TEXT_LIMIT_BYTES}"))
        }
        (_, Some(content)) => RowContent::Text(content),
        (_, None) => RowContent::Invalid("content was not answered".to_owned()),
    })
}

/// Whether a name is short enough for the server's indexes.
pub(super) fn fits(id: &RecordId) -> bool {
    id.as_str().len() <= MAX_ID_BYTES
}

/// Which ids belong to a query, as a condition over $3 (lower bound), $4 (upper bound), $5 (begin of names with an owner).
pub(crate) struct Space {
    condition: &'static str,
    pub low: String,
    pub high: String,
    pub nested: String,
}

impl Space {
    pub fn of(query: &Query) -> Self {
        let app = escaped(&query.app);
        // The empty text keeps the planner on the index of changes, which is what the order and the limit are about.
        let within = "(m.id || '') >= $3 AND (m.id || '') < $4 AND $5 = $5";
        let (low, condition) = match query.owner.as_deref() {
            None => (format!("{app}:"), within),
            Some("" | SHARED_OWNER) => (
                format!("{app}:"),
                "(m.id || '') >= $3 AND (m.id || '') < $4
                    AND (strpos(substr(m.id, length($3) + 1), ':') = 0 OR left(m.id, length($5)) = $5)",
            ),
            Some(owner) => (format!("{app}:{}:", escaped(owner)), within),
        };
        let nested = format!("{app}:{SHARED_OWNER}:");
        Self { high: after_prefix(&low), condition, low, nested }
    }
}

/// A range of ids.
pub(crate) struct Span {
    pub from: String,
    pub until: String,
    /// 1-based character at which the path begins.
    pub path_at: i32,
    /// Only ids whose rest is a shared path rather than an owner and a path.
    pub no_colon: bool,
}

impl Span {
    /// Where the names of a path listing stand.
    pub fn all(query: &Query, prefix: &str, after: Option<&str>) -> Vec<Span> {
        let app = escaped(&query.app);
        match query.owner.as_deref() {
            // Owners interleave with paths in the order of ids, so every name of the app is looked at, but no content.
            None => vec![Span::below(&format!("{app}:"), "", None)],
            Some("" | SHARED_OWNER) => {
                let plain = Span { no_colon: true, ..Span::below(&format!("{app}:"), prefix, after) };
                vec![plain, Span::below(&format!("{app}:shared:"), prefix, after)]
            }
            Some(owner) => vec![Span::below(&format!("{app}:{}:", escaped(owner)), prefix, after)],
        }
    }

    fn below(lead: &str, prefix: &str, after: Option<&str>) -> Self {
        let least = format!("{lead}{prefix}");
        let from = match after {
            // The least text above another that the server can hold: no path begins with a control character after it.
            Some(after) => least.clone().max(format!("{lead}{after}\u{1}")),
            None => least.clone(),
        };
        let path_at = i32::try_from(lead.chars().count() + 1).unwrap_or(i32::MAX);
        Self { from, until: after_prefix(&least), path_at, no_colon: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_from_its_text_and_from_no_other() {
        for place in [
            Place::Start,
            Place::After("10:20:11,12".to_owned()),
            Place::After("10:10:".to_owned()),
            Place::Amid { since: None, until: "3:9:".to_owned(), xid: 7, n: 8 },
            Place::Amid { since: Some("3:4:".to_owned()), until: "3:9:".to_owned(), xid: 7, n: 8 },
        ] {
            assert_eq!(Place::of(&place.cursor("ab"), "ab"), place);
            assert_eq!(Place::of(&place.cursor("ab"), "cd"), Place::Start);
        }
        for odd in ["ab", "ab;", "ab;x", "ab;1:2", "ab;1:2:'", "ab;;1:2:;3", "ab;1:2:;1:2:;3.4;5", "ab;0:1:"] {
            assert_eq!(Place::of(&Cursor::from_text(odd), "ab"), Place::Start, "{odd}");
        }
    }
}
