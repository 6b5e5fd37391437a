//! Purged: contents that a person let go by name, and the segments that nothing else needs.
//!
//! Invariant: which versions are purged is a function of the words and of who owns which chain; a content is purged if every version
//! that has it is, in whatever space; a purged segment has no place, whatever artifact of whichever age still holds it, so that what can
//! be read depends on the accepted set alone. Whatever may change the answer is only noted when it comes; the answer is found anew
//! at the end of a replay. Removes nothing from a disk: `holding` says which artifacts here have bytes of that kind.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use rusqlite::Connection;

use super::batch::Batch;
use super::reader::{content_hash, find_versions};
use super::rebuild::ReplayError;
use super::{Index, IndexError, Reader};
use crate::ledger::{ArtifactName, Ledger, LedgerError, Place, PublicKey};
use crate::model::{Chain, ContentHash, Hash, Hlc, MetaEvent, OriginName, SegmentHash, SegmentRef, VersionId};

/// In `meta`: the answer may be another one by now.
const DUE: &str = "purge_due";

/// Who let a content go, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Purged {
    /// In whose chain the word stands.
    pub origin: OriginName,
    /// When it was said.
    pub told: Hlc,
}

/// One word about one version.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PurgeWord {
    /// Whose content is to go.
    pub version: VersionId,
    /// Where the word stands.
    pub by: Chain,
    /// When it was said.
    pub hlc: Hlc,
}

/// A word that does not count: neither the version's origin nor its owner said it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WaitingPurge {
    /// The word.
    pub word: PurgeWord,
    /// The chain of the version.
    pub of: Chain,
}

/// What some words would do.
#[derive(Clone, Debug)]
pub struct PurgePlan {
    /// Contents that are purged then, those that are so already too.
    pub contents: BTreeSet<ContentHash>,
    /// Segments that nothing else needs.
    pub segments: HashSet<SegmentHash>,
    /// The artifacts here that hold them.
    pub holders: BTreeSet<ArtifactName>,
}

/// What the writer keeps in memory of it.
#[derive(Default)]
pub(super) struct Purging {
    /// Somebody said such a word.
    pub said: bool,
    /// Segments without a place.
    pub segments: Arc<HashSet<[u8; 32]>>,
}

impl Purging {
    pub fn load(conn: &Connection) -> Result<Purging, IndexError> {
        let said = conn.prepare("SELECT 1 FROM purges")?.exists([])?;
        let mut statement = conn.prepare("SELECT hash FROM purged_segments")?;
        let segments = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(Purging { said, segments: Arc::new(segments) })
    }
}

impl Batch<'_> {
    /// Keeps the words of an event.
    pub(super) fn note_purge(&mut self, cid: i64, event: &MetaEvent) -> Result<(), IndexError> {
        let versions = event.purged_versions();
        if versions.is_empty() {
            return Ok(());
        }
        let insert = "INSERT OR IGNORE INTO purges(id, cid, hlc) VALUES(?1, ?2, ?3)";
        let mut insert = self.conn.prepare_cached(insert)?;
        for id in versions {
            insert.execute((id.as_bytes(), cid, event.hlc.as_u64().cast_signed()))?;
        }
        self.known.purging.said = true;
        self.doubt_purges()
    }

    /// A version came: a word may be about it, or it may have what another one was to lose.
    pub(super) fn meet_purges(&mut self, id: &VersionId, content: Option<ContentHash>) -> Result<(), IndexError> {
        if !self.known.purging.said {
            return Ok(());
        }
        let named = self.conn.prepare_cached("SELECT 1 FROM purges WHERE id = ?1")?.exists([id.as_bytes()])?;
        let mut shares = self.conn.prepare_cached("SELECT 1 FROM purged WHERE hash = ?1")?;
        let shared = content.map(|content| shares.exists([content.as_bytes()])).transpose()?.unwrap_or(false);
        if named || shared { self.doubt_purges() } else { Ok(()) }
    }

    /// A version waits for something: for a segment that was taken away, it may be that nobody knew of that version.
    pub(super) fn miss_purged(&mut self, missing: &Hash) -> Result<(), IndexError> {
        if self.known.purging.segments.contains(missing.as_bytes()) { self.doubt_purges() } else { Ok(()) }
    }

    /// The next replay finds the answer anew, if anybody ever said such a word.
    pub(super) fn doubt_purges(&mut self) -> Result<(), IndexError> {
        if self.known.purging.said {
            self.conn.prepare_cached("INSERT OR REPLACE INTO meta(key, value) VALUES(?1, 1)")?.execute([DUE])?;
        }
        Ok(())
    }

    /// Notes which of the artifacts that came have bytes that nobody may read.
    pub(super) fn note_holding<'p>(
        &self,
        places: impl Iterator<Item = &'p (SegmentHash, Place)>,
        gone: &HashSet<[u8; 32]>,
    ) -> Result<(), IndexError> {
        if gone.is_empty() {
            return Ok(());
        }
        let names = places.filter(|(segment, _)| gone.contains(segment.as_bytes())).map(|(_, place)| &place.artifact);
        note_holding(self.conn, &names.collect())
    }
}

fn note_holding(conn: &Connection, names: &BTreeSet<&ArtifactName>) -> Result<(), IndexError> {
    let mut insert = conn.prepare_cached("INSERT OR IGNORE INTO holding(name) VALUES(?1)")?;
    for name in names {
        insert.execute([name.to_string()])?;
    }
    Ok(())
}

/// What is purged by the words that count.
struct Answer {
    contents: BTreeMap<ContentHash, (i64, Hlc)>,
    segments: HashSet<SegmentHash>,
}

impl Index {
    /// True if anybody ever said such a word.
    pub fn has_purges(&self) -> bool {
        self.known.purging.said
    }

    /// True if what is purged has to be found out anew.
    pub fn purges_are_due(&self) -> Result<bool, IndexError> {
        if !self.known.purging.said {
            return Ok(false);
        }
        Ok(self.conn.prepare_cached("SELECT 1 FROM meta WHERE key = ?1")?.exists([DUE])?)
    }

    /// Finds out what is purged, if anything came that may matter: places of it go, and of what is needed again are looked for.
    ///
    /// Costs a pass over all versions, and one over the ledger.
    pub(super) fn settle_purges(&mut self, ledger: &Ledger) -> Result<(), ReplayError> {
        if !self.purges_are_due()? {
            return Ok(());
        }
        let answer = self.purge_answer(ledger, &BTreeSet::new())?;
        let holding = holders(ledger, &answer.segments)?;
        let conn = &self.reader.conn;
        let transaction = rusqlite::Transaction::new_unchecked(conn, rusqlite::TransactionBehavior::Immediate)
            .map_err(IndexError::from)?;
        write_answer(conn, &answer, &holding)?;
        transaction.commit().map_err(IndexError::from)?;
        self.known.purging = Purging::load(&self.reader.conn)?;
        Ok(())
    }
}

fn write_answer(conn: &Connection, answer: &Answer, holding: &BTreeSet<ArtifactName>) -> Result<(), IndexError> {
    // Whatever stood or stands here loses its place, and is looked for: what is purged is not found.
    conn.execute_batch(
        "INSERT OR IGNORE INTO orphans(hash) SELECT hash FROM purged_segments;
         DELETE FROM purged; DELETE FROM purged_segments; DELETE FROM holding",
    )?;
    let mut insert = conn.prepare_cached("INSERT INTO purged(hash, cid, hlc) VALUES(?1, ?2, ?3)")?;
    for (content, (cid, hlc)) in &answer.contents {
        insert.execute((content.as_bytes(), cid, hlc.as_u64().cast_signed()))?;
    }
    let mut insert = conn.prepare_cached("INSERT INTO purged_segments(hash) VALUES(?1)")?;
    for segment in &answer.segments {
        insert.execute([segment.as_bytes()])?;
    }
    conn.execute_batch(
        "INSERT OR IGNORE INTO orphans(hash) SELECT hash FROM purged_segments;
         DELETE FROM segments WHERE hash IN (SELECT hash FROM purged_segments)",
    )?;
    note_holding(conn, &holding.iter().collect())?;
    conn.execute("DELETE FROM meta WHERE key = ?1", [DUE])?;
    Ok(())
}

/// The artifacts here that have any of these segments.
fn holders(ledger: &Ledger, segments: &HashSet<SegmentHash>) -> Result<BTreeSet<ArtifactName>, LedgerError> {
    let mut holders = BTreeSet::new();
    if segments.is_empty() {
        return Ok(holders);
    }
    for chain in ledger.chains()? {
        for name in ledger.artifact_names(&chain)? {
            // What is damaged is told of elsewhere; nobody reads it.
            let places = ledger.places_in(&name).unwrap_or_default();
            if places.iter().any(|(segment, _)| segments.contains(segment)) {
                holders.insert(name);
            }
        }
    }
    Ok(holders)
}

/// Judges whose word counts about whose versions.
struct Judge<'a> {
    reader: &'a Reader,
    ledger: &'a Ledger,
    owners: HashMap<Chain, Option<PublicKey>>,
}

impl Judge<'_> {
    fn owner(&mut self, chain: &Chain) -> Result<Option<PublicKey>, ReplayError> {
        if let Some(owner) = self.owners.get(chain) {
            return Ok(*owner);
        }
        let mut owner = self.ledger.newest_sound(chain)?.map(|newest| newest.body.cert.key);
        if owner.is_none() {
            // Of a closed chain nothing need be here; whoever closed it is of the same owner, and of a later generation.
            let by = self.reader.closed_ends(chain)?.into_iter().map(|end| end.by).max_by_key(|by| by.generation);
            owner = by.map(|by| self.owner(&by)).transpose()?.flatten();
        }
        self.owners.insert(chain.clone(), owner);
        Ok(owner)
    }

    /// True if `by` speaks for the versions of `of`: the same origin in any generation, or the same owner.
    fn counts(&mut self, by: &Chain, of: &Chain) -> Result<bool, ReplayError> {
        if by.space != of.space {
            return Ok(false);
        }
        if by.origin == of.origin {
            return Ok(true);
        }
        let (ours, theirs) = (self.owner(by)?, self.owner(of)?);
        Ok(ours.is_some() && ours == theirs)
    }
}

impl Reader {
    /// Who purged a content; `None` if nobody did, or something else needs it.
    pub fn purged(&self, content: &ContentHash) -> Result<Option<Purged>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT cid, hlc FROM purged WHERE hash = ?1")?;
        let mut rows = statement.query([content.as_bytes()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let (cid, told): (i64, i64) = (row.get(0)?, row.get(1)?);
        let origin = self.names.chain(&self.conn, cid)?.chain.origin;
        Ok(Some(Purged { origin, told: Hlc::from_u64(told.cast_unsigned()) }))
    }

    /// Every content that is purged.
    pub fn purged_contents(&self) -> Result<BTreeSet<ContentHash>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT hash FROM purged")?;
        let hashes = statement.query_map([], |row| row.get::<_, [u8; 32]>(0))?;
        hashes.map(|hash| Ok(ContentHash(Hash::from_bytes(hash?)))).collect()
    }

    /// The numbers of all versions whose content is purged. Looks at every version.
    pub fn purged_numbers(&self) -> Result<Vec<i64>, IndexError> {
        let mut statement = self
            .conn
            .prepare_cached("SELECT vid FROM versions WHERE content IN (SELECT hash FROM purged) ORDER BY vid")?;
        let numbers = statement.query_map([], |row| row.get(0))?;
        Ok(numbers.collect::<Result<_, _>>()?)
    }

    /// Every segment that is purged.
    pub fn purged_segments(&self) -> Result<HashSet<SegmentHash>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT hash FROM purged_segments")?;
        let hashes = statement.query_map([], |row| row.get::<_, [u8; 32]>(0))?;
        hashes.map(|hash| Ok(SegmentHash(Hash::from_bytes(hash?)))).collect()
    }

    /// The artifacts here that have bytes of what is purged, in order.
    pub fn holding(&self) -> Result<Vec<ArtifactName>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT name FROM holding ORDER BY name")?;
        let names = statement.query_map([], |row| row.get::<_, String>(0))?;
        let parse = |name: String| name.parse().map_err(|_| IndexError::damaged("an artifact's name does not parse"));
        names.map(|name| parse(name?)).collect()
    }

    /// The words that do not count, in order, without those about versions that are purged by somebody whose word does.
    pub fn waiting_purges(&self, ledger: &Ledger) -> Result<Vec<WaitingPurge>, ReplayError> {
        let words = self.purge_words()?;
        let mut judge = Judge { reader: self, ledger, owners: HashMap::new() };
        let (mut waiting, mut settled) = (BTreeSet::new(), HashSet::new());
        for (word, of) in words {
            if judge.counts(&word.by, &of)? {
                settled.insert(word.version);
            } else if word.by.space == of.space {
                waiting.insert(WaitingPurge { word, of });
            }
        }
        Ok(waiting.into_iter().filter(|one| !settled.contains(&one.word.version)).collect())
    }

    /// What would be purged if the word of these versions' own origins were said too: contents and segments, and which artifacts hold them.
    pub fn purge_plan(&self, ledger: &Ledger, also: &BTreeSet<VersionId>) -> Result<PurgePlan, ReplayError> {
        let Answer { contents, segments } = self.purge_answer(ledger, also)?;
        let holders = holders(ledger, &segments)?;
        Ok(PurgePlan { contents: contents.into_keys().collect(), segments, holders })
    }

    /// Contents that stay and need one of these segments, at most `limit`.
    pub fn contents_with(
        &self,
        segments: &HashSet<SegmentHash>,
        gone: &BTreeSet<ContentHash>,
        limit: usize,
    ) -> Result<Vec<ContentHash>, IndexError> {
        let mut found = Vec::new();
        self.each_content(|content, size| {
            if found.len() < limit
                && !gone.contains(&content)
                && let Some(manifest) = self.manifest(&content, size)?
                && manifest.segments.iter().any(|SegmentRef(segment, _)| segments.contains(segment))
            {
                found.push(content);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// True if a word in the chain `by`, of this owner, counts about the versions of `of`.
    pub fn purge_counts(&self, ledger: &Ledger, by: (&Chain, PublicKey), of: &Chain) -> Result<bool, ReplayError> {
        let owners = HashMap::from([(by.0.clone(), Some(by.1))]);
        Judge { reader: self, ledger, owners }.counts(by.0, of)
    }

    /// True if a word about a version stands in a chain already.
    pub fn said_purge(&self, by: &Chain, version: &VersionId) -> Result<bool, IndexError> {
        let Some(cid) = self.names.chain_id(&self.conn, by)? else { return Ok(false) };
        let mut statement = self.conn.prepare_cached("SELECT 1 FROM purges WHERE id = ?1 AND cid = ?2")?;
        Ok(statement.exists((version.as_bytes(), cid))?)
    }

    /// The purged contents that versions of a chain have, in order.
    pub fn purged_of(&self, chain: &Chain) -> Result<Vec<ContentHash>, IndexError> {
        let Some(cid) = self.names.chain_id(&self.conn, chain)? else { return Ok(Vec::new()) };
        let mut statement = self.conn.prepare_cached(
            "SELECT DISTINCT content FROM versions WHERE cid = ?1 AND content IN (SELECT hash FROM purged) ORDER BY content",
        )?;
        let hashes = statement.query_map([cid], |row| row.get::<_, [u8; 32]>(0))?;
        hashes.map(|hash| Ok(ContentHash(Hash::from_bytes(hash?)))).collect()
    }

    /// Every word about a version that is here, with that version's chain.
    fn purge_words(&self) -> Result<Vec<(PurgeWord, Chain)>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT id, cid, hlc FROM purges")?;
        let mut rows = statement.query([])?;
        let mut words = Vec::new();
        while let Some(row) = rows.next()? {
            let version = VersionId(Hash::from_bytes(row.get(0)?));
            let by = self.names.chain(&self.conn, row.get(1)?)?.chain;
            let hlc = Hlc::from_u64(row.get::<_, i64>(2)?.cast_unsigned());
            for (_, cid) in find_versions(&self.conn, &version)? {
                let of = self.names.chain(&self.conn, cid)?.chain;
                words.push((PurgeWord { version, by: by.clone(), hlc }, of));
            }
        }
        Ok(words)
    }

    fn purge_answer(&self, ledger: &Ledger, also: &BTreeSet<VersionId>) -> Result<Answer, ReplayError> {
        let mut judge = Judge { reader: self, ledger, owners: HashMap::new() };
        let mut purged: HashMap<VersionId, (Hlc, Chain)> = HashMap::new();
        for (word, of) in self.purge_words()? {
            if judge.counts(&word.by, &of)? {
                let said = (word.hlc, word.by);
                let first = purged.entry(word.version).or_insert_with(|| said.clone());
                *first = said.min(first.clone());
            }
        }
        let mut contents: BTreeMap<ContentHash, Option<(Hlc, Chain)>> = BTreeMap::new();
        self.each_version_content(|id, cid, content| {
            let said = match purged.get(&id) {
                Some(said) => Some(said.clone()),
                None if also.contains(&id) => Some((Hlc::from_u64(0), self.names.chain(&self.conn, cid)?.chain)),
                None => None,
            };
            // One version that keeps it keeps it for all.
            let known = contents.entry(content).or_insert_with(|| said.clone());
            *known = known.take().zip(said).map(|(known, said)| known.max(said));
            Ok(())
        })?;
        let contents: BTreeMap<ContentHash, (Hlc, Chain)> =
            contents.into_iter().filter_map(|(content, said)| Some((content, said?))).collect();
        let segments = self.segments_of_none(&contents.keys().copied().collect())?;
        let mut found = BTreeMap::new();
        for (content, (hlc, chain)) in contents {
            let cid = self.names.chain_id(&self.conn, &chain)?;
            let cid = cid.ok_or_else(|| IndexError::damaged("a chain that spoke has no row"))?;
            found.insert(content, (cid, hlc));
        }
        Ok(Answer { contents: found, segments })
    }

    fn each_version_content(
        &self,
        mut visit: impl FnMut(VersionId, i64, ContentHash) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let mut statement =
            self.conn.prepare("SELECT id, cid, content FROM versions WHERE content IS NOT NULL AND size > 0")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id = VersionId(Hash::from_bytes(row.get(0)?));
            visit(id, row.get(1)?, content_hash(row.get_ref(2)?.as_blob()?)?)?;
        }
        Ok(())
    }

    /// The versions that have a content, of every path and space, newest first.
    pub fn versions_of_content(&self, content: &ContentHash) -> Result<Vec<VersionId>, IndexError> {
        let mut statement =
            self.conn.prepare_cached("SELECT id FROM versions WHERE content = ?1 ORDER BY hlc DESC, id DESC")?;
        let ids = statement.query_map([content.as_bytes()], |row| row.get::<_, [u8; 32]>(0))?;
        ids.map(|id| Ok(VersionId(Hash::from_bytes(id?)))).collect()
    }
}

impl Index {
    /// Artifacts are whole again: those of them that have bytes of what is purged are noted, as when they came first.
    pub fn note_whole_again(&self, ledger: &Ledger, names: &[ArtifactName]) -> Result<(), IndexError> {
        let gone = &self.known.purging.segments;
        if gone.is_empty() {
            return Ok(());
        }
        let places = |name: &&ArtifactName| ledger.places_in(name).unwrap_or_default();
        let holds = |name: &&ArtifactName| places(name).iter().any(|(segment, _)| gone.contains(segment.as_bytes()));
        note_holding(&self.conn, &names.iter().filter(holds).collect())
    }

    /// Forgets artifacts that are not here any more.
    pub fn forget_holding(&self, ledger: &Ledger) -> Result<(), IndexError> {
        for name in self.holding()?.iter().filter(|name| ledger.is_gone(name)) {
            self.conn.prepare_cached("DELETE FROM holding WHERE name = ?1")?.execute([name.to_string()])?;
        }
        Ok(())
    }
}
