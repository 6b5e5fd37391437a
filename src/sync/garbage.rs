//! Garbage: which superseded contents go, by name, in a snapshot of the own chain; and which artifacts go after them.
//!
//! Invariants: a content goes only if everything that has it was succeeded, longer ago than `retention`, by what every member is
//! known to hold, and nothing here holds it (bases, intents, undo, displaced files, open heads). Artifacts go from this ledger a
//! week after the floor above them was accepted, and from stores below the own prefix alone, where all that counts is seen to stand.
//! Before anything goes, segments that something needs and that stand nowhere else are published anew in the own chain.
//! Every step can be stopped and run again; a dry run takes the same decisions and writes nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::exchange::Direction;
use super::{Engine, Result, SyncError};
use crate::index::{Succession, Superseded};
use crate::ledger::{ArtifactName, Closed, LedgerError, ShortHash, Sweep, Tip, Writer};
use crate::model::{Chain, ContentHash, MetaEvent, OriginName, SegmentHash, Space, VersionId};
use crate::state::Problem;
use crate::transport::{Depth, ListRequest, Transport, TransportError};

/// Artifacts below a floor stay this long after it was accepted here, in milliseconds.
pub const GRACE_MS: u64 = 7 * 24 * 3600 * 1000;
/// A snapshot names at most this many contents as gone: some 10 MB of its 16 MiB.
const MAX_DROPPED: usize = 150_000;
/// A chain of this many checkpoints is begun anew although nothing in it is gone: few large artifacts stand for many small ones.
const MANY_CHECKPOINTS: usize = 512;
/// Snapshots that one collection writes in one space; each copies a bounded part.
const MAX_SWEEPS: usize = 1000;
/// Pages of one chain's names that are read in a store.
const MAX_PAGES: usize = 1000;
/// Floors remembered of one chain, with when each was accepted: one a day for longer than the grace.
const MAX_FLOORS: usize = 16;
/// Segments published anew at once, in bytes.
const RESCUED_BYTES: usize = 64 << 20;
/// Begins the entries in `state.db` of when floors were accepted, before the chain: `floor:ms,..`.
const ACCEPTED: &str = "floors of ";
/// What the backend is called among stores.
pub(super) const BACKEND: &str = "the backend";
/// What is said of a store from which nothing can be taken away.
pub(super) const CANNOT: &str = "nothing can be taken away there from here; a machine that serves its project lets it go itself, of anything else whoever keeps it may";
/// Who tells of members in `status`.
const SOURCE: &str = "members";

/// A content that a collection lets go.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct DroppedContent {
    /// Where a version had it.
    pub path: String,
    /// The newest such version.
    pub version: String,
    /// The content.
    pub content: String,
    /// Its bytes; segments that others have too are not freed.
    pub size: u64,
}

/// What was taken away from a store.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct StoreGarbage {
    /// What the user calls it.
    pub store: String,
    /// The artifacts, by name.
    pub removed: Vec<String>,
    /// Why nothing could be taken away, if it could not.
    pub why: Option<String>,
    /// There is more to take away, once it was reached or what stands for that has arrived there.
    pub waits: bool,
}

impl StoreGarbage {
    /// Nothing yet.
    pub(super) fn of(store: &str) -> StoreGarbage {
        StoreGarbage { store: store.to_owned(), ..StoreGarbage::default() }
    }

    fn away(store: &str, why: &SyncError) -> StoreGarbage {
        StoreGarbage { why: Some(why.to_string()), waits: true, ..StoreGarbage::of(store) }
    }
}

/// What a collection did, or would do.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Collected {
    /// Contents that are gone for good from now on.
    pub dropped: Vec<DroppedContent>,
    /// Chains whose newest state was written into few artifacts.
    pub swept: Vec<String>,
    /// Artifacts removed here.
    pub removed: Vec<String>,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Segments that were published anew, because something needs them and only garbage held them.
    pub rescued: u64,
    /// What went from stores.
    pub stores: Vec<StoreGarbage>,
    /// Members who do not hold back any more: they said nothing for longer than `retention`.
    pub silent: Vec<String>,
    /// Why nothing was dropped, if something stood in the way.
    pub held_back: Vec<String>,
}

/// What every member that counts is known to hold.
struct Members {
    /// Of each chain, the number of the last version that all of them hold; what is not named nobody waits for.
    held: BTreeMap<Chain, u64>,
    silent: Vec<OriginName>,
}

impl Engine {
    /// Drops what nothing needs, and removes what was dropped a week ago. With `dry_run` only says so.
    ///
    /// Errors: somebody else writes as this machine; the ledger's, the index's, the state's. A store that is away is in the report.
    pub fn collect(&mut self, retention_ms: u64, dry_run: bool) -> Result<Collected> {
        // What a dry run opens it does not claim.
        self.dry_run = dry_run;
        if let Some(stop) = self.stopped() {
            return Err(SyncError::Stopped(stop));
        }
        let mut done = Collected::default();
        let old = self.old_floors(&mut done)?;
        // What is written below has not reached the stores yet: they are judged as they were.
        done.stores = self.clean_stores(&old, |_| true, dry_run)?;
        done.rescued = self.rescue(dry_run)?;
        for (chain, floor) in &old {
            let garbage = self.ledger.garbage(chain, *floor)?;
            done.removed.extend(garbage.iter().map(ArtifactName::to_string));
            done.freed_bytes += if dry_run {
                garbage.iter().map(|name| self.ledger.size(name).unwrap_or(0)).sum()
            } else {
                self.ledger.remove_garbage(&garbage)?
            };
        }
        for space in [Space::shared(), self.private_space.clone()] {
            self.sweep_space(&space, retention_ms, dry_run, &mut done)?;
        }
        if !dry_run {
            let told: Vec<Problem> = done.silent.iter().map(|origin| silent_problem(origin)).collect();
            self.state.set_problems(SOURCE, &told, self.now_ms() as i64)?;
            self.note_floors()?;
            self.forget_dropped_words()?;
        }
        Ok(done)
    }

    /// Takes words of what cannot be read any more out of the full text. While somebody fills it, it is locked: the next collection does it.
    fn forget_dropped_words(&self) -> Result<()> {
        if !self.words.exists() {
            return Ok(());
        }
        let mut gone = Vec::new();
        for space in [Space::shared(), self.private_space.clone()] {
            for chain in self.index.chains_of(&space)? {
                for content in self.index.dropped_by(&chain)? {
                    gone.extend(self.unreadable_versions(&content)?);
                }
            }
        }
        if let Err(error) = crate::search::forget(&self.words, &self.index, &gone) {
            tracing::info!(%error, "words of dropped contents stay until the next collection");
        }
        Ok(())
    }

    /// The versions of a content; none while its bytes are here, because another chain keeps them.
    fn unreadable_versions(&self, content: &ContentHash) -> Result<Vec<VersionId>> {
        let versions = self.index.versions_of_content(content)?;
        let Some(newest) = versions.first() else { return Ok(Vec::new()) };
        let size =
            self.index.version(newest)?.and_then(|stored| stored.version.content()).map_or(0, |content| content.size);
        let is_here = self.index.missing_segments(content, size, 1)?.is_empty();
        Ok(if is_here { Vec::new() } else { versions })
    }

    fn sweep_space(&mut self, space: &Space, retention_ms: u64, dry_run: bool, done: &mut Collected) -> Result<()> {
        let chain = self.identity.chain(space.clone());
        let Some(tip) = self.own_chain(space)?.tip else { return Ok(()) };
        let members = self.holders(space, retention_ms)?;
        done.silent.extend(members.silent.iter().map(OriginName::to_string));
        let counts = self.index.counts()?;
        let blocked = counts.waiting + counts.unknown > 0;
        if blocked {
            let why = "records wait for others before them, or for an upgrade, and may need anything";
            done.held_back.push(format!("{space}: {why}"));
        }
        let earlier = self.collectable(space, retention_ms, &members.held)?;
        let mut before = Vec::new();
        for chain in earlier.iter().chain([&chain]) {
            before.extend(self.index.dropped_by(chain)?);
        }
        before.sort_unstable();
        before.dedup();
        let (mut fresh, mut due) = (Vec::new(), Vec::new());
        for one in earlier.iter().chain([&chain]).filter(|_| !blocked) {
            let of_it = self.droppable(one, &members, retention_ms, &before)?;
            if *one != chain && !of_it.is_empty() && self.stands_for_itself(one)? {
                due.push(one.clone());
            }
            fresh.extend(of_it);
        }
        fresh.sort_by_key(|superseded| (superseded.hlc, superseded.id));
        let mut known = HashSet::new();
        fresh.retain(|superseded| known.insert(superseded.content));
        // What came back to life is no more gone than anything else.
        let heads = self.index.contents_of_heads()?;
        let purged = self.index.purged_contents()?;
        let is_gone = |content: &ContentHash| !heads.contains(content) || purged.contains(content);
        let mut dropped: Vec<ContentHash> = before.into_iter().filter(is_gone).collect();
        let room = MAX_DROPPED.saturating_sub(dropped.len());
        if fresh.len() > room {
            done.held_back.push(format!("{space}: a snapshot names at most {MAX_DROPPED} contents as gone"));
        }
        let fresh = &fresh[..fresh.len().min(room)];
        dropped.extend(fresh.iter().map(|superseded| superseded.content));
        dropped.sort_unstable();
        let floor = self.index.floor(&chain)?.seq;
        let many = self.ledger.checkpoint_names(&chain, floor - 1)?.len() > MANY_CHECKPOINTS;
        if fresh.is_empty() && !many {
            return Ok(());
        }
        done.dropped.extend(fresh.iter().map(told));
        done.swept.extend(due.iter().chain([&chain]).map(Chain::to_string));
        if dry_run {
            return Ok(());
        }
        let closed = self.carry_all(space, &due, &dropped, &mut 0)?;
        let tip = self.own_chain(space)?.tip.unwrap_or(tip);
        self.sweep(space, tip, &dropped, &closed).map(drop)
    }

    /// Writes snapshots that list what is left, until no pack holds mostly what is gone, or any of what is purged. Returns the bytes.
    pub(super) fn sweep(
        &mut self,
        space: &Space,
        mut tip: Tip,
        dropped: &[ContentHash],
        closed: &[Closed],
    ) -> Result<u64> {
        let purged = self.index.purged_segments()?;
        let gone = self.segments_gone(dropped)?;
        let lost = self.needless_packs(&self.identity.chain(space.clone()), &gone)?;
        let mut bytes = 0;
        let (ledger, pen) = (self.ledger.clone(), self.pen());
        for _ in 0..MAX_SWEEPS {
            let seen = self.seen_of(space)?;
            let hlc = self.clock.tick(self.env.clock.wall_ms(), None);
            let writer = Writer { app: pen.app(), identity: pen.identity(), space };
            let swept = ledger.sweep(
                writer,
                tip,
                hlc,
                seen.clone(),
                Sweep { dropped, gone: &gone, purged: &purged, lost: &lost, closed },
            )?;
            tip = swept.published.tip;
            bytes += swept.published.bytes_written;
            self.note_told(space, &seen)?;
            self.save_told()?;
            self.replay()?;
            if !swept.left {
                break;
            }
        }
        Ok(bytes)
    }

    /// The contents of the own chain that may go now and did not before.
    fn droppable(
        &self,
        chain: &Chain,
        members: &Members,
        retention_ms: u64,
        before: &[ContentHash],
    ) -> Result<Vec<Superseded>> {
        let now = self.now_ms();
        let settled = |successor: &Succession<'_>| {
            let old = successor.hlc.wall_ms().saturating_add(retention_ms) <= now;
            // Who has seen what is asked space by space: of the others everything is needed here.
            successor.chain.space == chain.space
                && old
                && members.held.get(successor.chain).is_none_or(|n| successor.n <= *n)
        };
        let held = self.state.held_contents()?;
        let mut superseded = self.index.superseded(chain, &held, settled)?;
        let before: HashSet<&ContentHash> = before.iter().collect();
        superseded.retain(|superseded| !before.contains(&superseded.content));
        Ok(superseded)
    }

    /// What everybody else in a space is known to hold.
    fn holders(&self, space: &Space, retention_ms: u64) -> Result<Members> {
        let (now, own) = (self.now_ms(), self.identity.origin());
        let chains = self.index.chains_of(space)?;
        let retired: BTreeMap<OriginName, _> = self.index.retired()?.into_iter().collect();
        let mut said: BTreeMap<OriginName, Said> = BTreeMap::new();
        for chain in chains.iter().filter(|chain| chain.origin != *own) {
            let said = said.entry(chain.origin.clone()).or_default();
            self.read_seen(chain, said)?;
        }
        let gone = |origin: &OriginName, said: &Said| retired.get(origin).is_some_and(|at| said.last <= at.as_u64());
        said.retain(|origin, said| !gone(origin, said));
        let is_silent = |said: &Said| (said.last >> 16).saturating_add(retention_ms) < now;
        let silent: Vec<OriginName> =
            said.iter().filter(|(_, said)| is_silent(said)).map(|(origin, _)| origin.clone()).collect();
        said.retain(|_, said| !is_silent(said));
        let mut held = BTreeMap::new();
        for chain in &chains {
            let others = said.iter().filter(|(origin, _)| **origin != chain.origin);
            let mut lowest = u64::MAX;
            for (_, said) in others {
                let n = said.seen.get(chain).map_or(Ok(0), |(seq, hash)| self.versions_up_to(chain, *seq, hash))?;
                lowest = lowest.min(n);
            }
            held.insert(chain.clone(), lowest);
        }
        Ok(Members { held, silent })
    }

    /// Adds what the checkpoints of one chain say, from the newest back to a snapshot that says all.
    fn read_seen(&self, chain: &Chain, said: &mut Said) -> Result<()> {
        let floor = self.index.floor(chain)?.seq;
        for name in self.ledger.checkpoint_names(chain, floor - 1)?.iter().rev() {
            let checkpoint = match self.ledger.read_checkpoint(name) {
                Ok(checkpoint) => checkpoint,
                // What it says is not known: it holds back as far as others of its chain do not say more.
                Err(LedgerError::Damaged { .. } | LedgerError::Missing { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            said.last = said.last.max(checkpoint.body.hlc.as_u64());
            for (of, seen) in &checkpoint.body.seen {
                let known = said.seen.entry(of.clone()).or_insert((seen.0, seen.1));
                if known.0 < seen.0 {
                    *known = (seen.0, seen.1);
                }
            }
            if checkpoint.body.snapshot.is_some() && !checkpoint.body.seen.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// The number of the last version that came with a checkpoint or before it; 0 if that checkpoint is not here.
    fn versions_up_to(&self, chain: &Chain, seq: u64, hash: &ShortHash) -> Result<u64> {
        let name = ArtifactName::Checkpoint { chain: chain.clone(), seq, hash: *hash };
        let ends = self.index.closed_ends(chain)?;
        if let Some(end) = ends.iter().find(|end| end.tip.seq == seq && ShortHash::of(&end.tip.hash) == *hash) {
            return Ok(end.tip.last_n);
        }
        match self.ledger.read_checkpoint(&name) {
            Ok(checkpoint) => Ok(checkpoint.body.last_n),
            Err(LedgerError::Missing { .. } | LedgerError::Damaged { .. }) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Publishes segments anew that something needs and that only garbage here holds. Returns how many.
    pub(super) fn rescue(&mut self, dry_run: bool) -> Result<u64> {
        self.rescue_due = false;
        let floors = self.index.floors()?;
        if floors.is_empty() {
            return Ok(0);
        }
        // A file whose deletion waits for a person may have to come back from what is recorded of it.
        let mut wanted = self.index.unplaced(&self.state.base_contents()?)?;
        let mut rescued = 0;
        for (chain, floor) in floors {
            let own = chain.space.is_shared() || chain.space == self.private_space;
            if wanted.is_empty() || !own {
                continue;
            }
            for artifact in self.ledger.garbage(&chain, floor.seq)? {
                // What is damaged is no loss that this could mend.
                let mut places = self.ledger.places_in(&artifact).unwrap_or_default();
                places.retain(|(segment, _)| wanted.remove(segment));
                rescued += places.len() as u64;
                if !dry_run {
                    self.publish_segments(&chain.space, &places, RESCUED_BYTES)?;
                }
            }
        }
        Ok(rescued)
    }

    /// Publishes segments in the own chain, so many bytes in one checkpoint. Returns the bytes written.
    pub(super) fn publish_segments(
        &mut self,
        space: &Space,
        places: &[(SegmentHash, crate::ledger::Place)],
        most_bytes: usize,
    ) -> Result<u64> {
        let pen = self.pen();
        let mut written = 0;
        let mut rest = places;
        while !rest.is_empty() {
            let mut open = self.open_batch(&pen, space)?;
            let mut bytes = 0;
            while let Some(((segment, place), after)) = rest.split_first().filter(|_| bytes < most_bytes) {
                let read = self.ledger.read_segment(*segment, place)?;
                bytes += read.len();
                open.batch.segment(*segment, &read)?;
                rest = after;
            }
            let hlc = self.clock.tick(self.env.clock.wall_ms(), None);
            let Some(published) = open.batch.finish(hlc, BTreeMap::new())? else { break };
            written += published.bytes_written;
            self.take_in_own(space, published.tip, published.places, Vec::new())?;
        }
        Ok(written)
    }

    /// Places went with a floor before this program began.
    pub fn expect_rescue(&mut self) {
        self.rescue_due = true;
    }

    /// What a floor let go here may be needed all the same: then it is published anew, while it is still here.
    pub fn rescue_if_due(&mut self) -> Result<u64> {
        if self.rescue_due && self.stopped().is_none() { self.rescue(false) } else { Ok(0) }
    }

    /// Of each chain the highest floor that was accepted a week ago, if all that counts with it is here.
    fn old_floors(&self, done: &mut Collected) -> Result<Vec<(Chain, u64)>> {
        let now = self.now_ms();
        let mut old = Vec::new();
        for (chain, _) in self.index.floors()? {
            let accepted = self.accepted_floors(&chain)?;
            let due = accepted.iter().rev().find(|(_, at)| at.saturating_add(GRACE_MS) <= now);
            let Some((due, _)) = due else { continue };
            if self.stands_alone(&chain, *due)? {
                old.push((chain, *due));
            } else {
                let why = "what stands for its garbage is not all here; `larder sync` fetches it";
                done.held_back.push(format!("{chain}: {why}"));
            }
        }
        Ok(old)
    }

    /// Remembers since when each floor is accepted.
    fn note_floors(&self) -> Result<()> {
        let now = self.now_ms();
        for (chain, floor) in self.index.floors()? {
            let mut accepted = self.accepted_floors(&chain)?;
            if let Some((due, _)) = accepted.iter().rev().find(|(_, at)| at.saturating_add(GRACE_MS) <= now).copied() {
                accepted.retain(|(floor, _)| *floor >= due);
            }
            if accepted.last().is_none_or(|(last, _)| *last < floor.seq) && accepted.len() < MAX_FLOORS {
                accepted.push((floor.seq, now));
            }
            let parts: Vec<String> = accepted.iter().map(|(floor, at)| format!("{floor}:{at}")).collect();
            self.state.set_meta(&format!("{ACCEPTED}{chain}"), Some(parts.join(",").as_bytes()))?;
        }
        Ok(())
    }

    /// The floors of a chain that were noted, each with when, rising.
    fn accepted_floors(&self, chain: &Chain) -> Result<Vec<(u64, u64)>> {
        let text = self.state.meta_text(&format!("{ACCEPTED}{chain}"))?.unwrap_or_default();
        let pair = |part: &str| {
            let (floor, at) = part.split_once(':')?;
            Some((floor.parse().ok()?, at.parse().ok()?))
        };
        Ok(text.split(',').filter_map(pair).collect())
    }

    /// Takes what is below old floors of the own chains away from every store that is `meant`.
    pub(super) fn clean_stores(
        &mut self,
        old: &[(Chain, u64)],
        meant: impl Fn(&str) -> bool,
        dry_run: bool,
    ) -> Result<Vec<StoreGarbage>> {
        let mut own = Vec::new();
        for (chain, floor) in old {
            if self.is_ours(chain)? {
                own.push((chain.clone(), *floor));
            }
        }
        let old = own;
        if old.is_empty() {
            return Ok(Vec::new());
        }
        self.at_stores(meant, |engine, store, place, spaces| engine.clean_store(store, place, spaces, &old, dry_run))
    }

    /// Visits every store that is `meant` and takes what is given; one that is away is told of.
    pub(super) fn at_stores(
        &mut self,
        meant: impl Fn(&str) -> bool,
        visit: impl Fn(&Engine, &str, &dyn Transport, &[Space]) -> StoreGarbage,
    ) -> Result<Vec<StoreGarbage>> {
        let mut stores = Vec::new();
        for peer in self.policy.peers.clone().into_iter().filter(|peer| peer.push && meant(&peer.name)) {
            let spaces =
                if peer.private { vec![Space::shared(), self.private_space.clone()] } else { vec![Space::shared()] };
            let place = self
                .peer_place(&peer)
                .and_then(|place| Ok(self.belongs_there(&peer, &*place, Direction::Pull)?.then_some(place)));
            stores.push(match place {
                Ok(Some(place)) => visit(self, &peer.name, &*place, &spaces),
                Ok(None) => continue,
                Err(error @ (SyncError::Transport(_) | SyncError::Marker(_))) => StoreGarbage::away(&peer.name, &error),
                Err(error) => return Err(error),
            });
        }
        let Some(adapter) = self.adapter.clone().filter(|_| meant(BACKEND)) else { return Ok(stores) };
        if let Some(why) = self.backend_rests() {
            stores.push(StoreGarbage { why: Some(why.to_owned()), waits: true, ..StoreGarbage::of(BACKEND) });
            return Ok(stores);
        }
        let mut spaces = vec![Space::shared()];
        if adapter.capabilities().own {
            spaces.push(self.private_space.clone());
        }
        stores.push(match self.backend_transport() {
            Ok(Some(place)) => visit(self, BACKEND, &*place, &spaces),
            Ok(None) => return Ok(stores),
            Err(error @ (SyncError::Adapter(_) | SyncError::Transport(_) | SyncError::Marker(_))) => {
                StoreGarbage::away(BACKEND, &error)
            }
            Err(error) => return Err(error),
        });
        Ok(stores)
    }

    /// Takes what is below floors of own chains away from one store.
    pub(super) fn clean_store(
        &self,
        store: &str,
        place: &dyn Transport,
        spaces: &[Space],
        old: &[(Chain, u64)],
        dry_run: bool,
    ) -> StoreGarbage {
        let mut garbage = StoreGarbage::of(store);
        let Some(removing) = place.removing() else {
            garbage.why = Some(CANNOT.to_owned());
            return garbage;
        };
        for (chain, floor) in old.iter().filter(|(chain, _)| spaces.contains(&chain.space)) {
            let outcome = self.garbage_there(place, chain, *floor).and_then(|names| {
                garbage.waits |= names.is_none();
                for name in names.into_iter().flatten() {
                    if !dry_run {
                        removing.remove(&format!("{}/{name}", self.policy.app))?;
                    }
                    garbage.removed.push(name.to_string());
                }
                Ok(())
            });
            if let Err(error) = outcome {
                garbage.why = Some(error.to_string());
                garbage.waits = true;
                break;
            }
        }
        garbage
    }

    /// What a store holds of an own chain and does not count. `None` unless all that counts, and is here, stands there too.
    pub(super) fn garbage_there(
        &self,
        place: &dyn Transport,
        chain: &Chain,
        floor: u64,
    ) -> std::result::Result<Option<Vec<ArtifactName>>, TransportError> {
        let there = self.names_there(place, chain)?;
        if there.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let Ok(standing) = self.ledger.standing(chain, floor) else { return Ok(None) };
        let lacks = |name: &ArtifactName| self.ledger.has(name) && !there.contains(name);
        if standing.iter().any(lacks) {
            return Ok(None);
        }
        // Of a chain that another one stands for nothing may be left; then that one is what has to stand there.
        let is_told = match self.stand_in(chain, floor) {
            Ok(Some((by, its_floor))) => {
                let there = self.names_there(place, &by)?;
                let Ok(standing) = self.ledger.standing(&by, its_floor) else { return Ok(None) };
                !standing.is_empty() && standing.iter().all(|name| there.contains(name))
            }
            Ok(None) => !standing.is_empty(),
            Err(_) => false,
        };
        if !is_told {
            return Ok(None);
        }
        let is_garbage = |name: &ArtifactName| name.chain() == chain && !standing.contains(name);
        Ok(Some(there.into_iter().filter(is_garbage).collect()))
    }

    /// The artifacts of a chain that a store holds.
    pub(super) fn names_there(
        &self,
        place: &dyn Transport,
        chain: &Chain,
    ) -> std::result::Result<BTreeSet<ArtifactName>, TransportError> {
        let mut request = ListRequest::new(format!("{}/{chain}/", self.policy.app), Depth::All);
        let mut there = BTreeSet::new();
        for _ in 0..MAX_PAGES {
            let page = place.list(&request)?;
            let rest = |name: &String| name.strip_prefix(&self.policy.app)?.strip_prefix('/')?.parse().ok();
            there.extend(page.names.iter().filter_map(rest));
            match page.names.last().filter(|_| page.more) {
                Some(last) => request.after = Some(last.clone()),
                None => break,
            }
        }
        Ok(there)
    }

    /// A number that this machine remembers under a name.
    pub fn note_i64(&self, name: &str) -> Result<Option<i64>> {
        Ok(self.state.meta_i64(name)?)
    }

    /// Remembers a number.
    pub fn set_note_i64(&self, name: &str, value: i64) -> Result<()> {
        Ok(self.state.set_meta_i64(name, value)?)
    }

    /// Who this machine is.
    pub fn origin(&self) -> &OriginName {
        self.identity.origin()
    }

    /// True if the origin published something that is known here.
    pub fn knows_origin(&self, origin: &OriginName) -> Result<bool> {
        Ok(self.index.origins()?.contains(origin))
    }

    /// Says, for every machine, that an origin is gone for good: what it has not seen holds nothing back.
    pub fn retire(&mut self, origin: &OriginName) -> Result<()> {
        let hlc = self.clock.tick(self.env.clock.wall_ms(), None);
        self.publish_event(&Space::shared(), MetaEvent::retire(origin, hlc))
    }
}

/// What one member said.
#[derive(Default)]
struct Said {
    /// When it spoke last, as a clock value.
    last: u64,
    /// How far it holds each chain.
    seen: BTreeMap<Chain, (u64, ShortHash)>,
}

fn told(superseded: &Superseded) -> DroppedContent {
    DroppedContent {
        path: superseded.path.shown(),
        version: superseded.id.to_string(),
        content: superseded.content.to_string(),
        size: superseded.size,
    }
}

fn silent_problem(origin: &str) -> Problem {
    let what = "it said nothing for longer than `retention`, so that what it has not seen holds nothing back any more; `larder origin retire` says that it is gone for good";
    Problem { path: origin.to_owned(), what: what.to_owned() }
}
