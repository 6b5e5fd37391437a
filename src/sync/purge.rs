//! Purge: contents that a person lets go by name go at once, from everything that this machine may rewrite.
//!
//! Invariants: the word is published before anything is removed, and what it says follows from the ledger alone (`index::purge`), so
//! a stop anywhere is gone on from at the next run. Only own chains are rewritten, by a snapshot that lists what is left; artifacts of
//! others go when their writer's floor says that they do not count. What something else needs is published anew before garbage goes,
//! and stays if a version that nobody purged has it. Working files and rows are never touched.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::displaced::Held;
use super::garbage::{BACKEND, CANNOT, StoreGarbage};
use super::resolve::{Outcome, Resolution};
use super::{Engine, Report, Result, SyncError};
use crate::index::{PurgePlan, Slot, Stored};
use crate::ledger::{ArtifactKind, ArtifactName, LedgerError};
use crate::model::{Chain, Content, ContentHash, Hash, MetaEvent, RelPath, SegmentHash, SegmentRef, Space, VersionId};
use crate::state::{Displaced, Problem};
use crate::transport::{Removing, Transport};

/// Versions of one path that one command looks at.
const MAX_HISTORY: usize = 100_000;
/// Names that keep a content alive, listed for one version.
const MAX_KEEPERS: usize = 20;
/// Lines of one kind in `status`.
const MAX_TOLD: usize = 20;
/// Begins the entries in `state.db` of stores that still have to be emptied, before the chain: the floor, then a store a line.
pub(super) const STORES: &str = "purged in stores ";
/// For which set of purged contents the quarantine was looked through.
const LOOKED: &str = "purged";
/// Who tells of it in `status`.
const SOURCE: &str = "purge";
/// The same of displaced files.
const DISPLACED: &str = "purged displaced";
/// The same of the full text.
const WORDS: &str = "purged words";

/// A version that a purge names.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct PurgedVersion {
    /// Where.
    pub path: String,
    /// Its id.
    pub version: String,
    /// Who made it.
    pub origin: String,
    /// Its bytes.
    pub size: u64,
}

/// A version whose content, or a part of it, stays because something else needs it.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct KeptVersion {
    /// Which.
    pub named: PurgedVersion,
    /// True if all of its bytes stay, false if some parts do.
    pub whole: bool,
    /// What needs them.
    pub by: Vec<PurgedVersion>,
}

/// What a purge did, or would do.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct PurgeReport {
    /// Versions whose contents are gone.
    pub purged: Vec<PurgedVersion>,
    /// Versions whose contents stay, wholly or in part.
    pub kept: Vec<KeptVersion>,
    /// Versions of other owners: they go when a person there agrees.
    pub waits: Vec<PurgedVersion>,
    /// Versions that were purged before.
    pub before: u64,
    /// Artifacts of this machine that held the bytes, and are gone.
    pub artifacts: Vec<String>,
    /// Artifacts of this machine that hold the bytes and stay: they are damaged, and what else stands in them cannot be copied.
    pub damaged: Vec<String>,
    /// Artifacts of other machines here that hold the bytes, until those machines hear of it.
    pub elsewhere: Vec<String>,
    /// Copies beside the ledger that are gone: displaced files, quarantined artifacts, steps of `undo`.
    pub copies: Vec<String>,
    /// What went from stores.
    pub stores: Vec<StoreGarbage>,
    /// Files on this disk that still hold such a content: they are not touched.
    pub on_disk: Vec<String>,
}

/// What a command names, judged.
#[derive(Default)]
struct Named {
    /// Everything to be said, by space.
    say: BTreeMap<Space, Vec<VersionId>>,
    /// What this machine's word counts about.
    own: Vec<(PurgedVersion, VersionId, Content)>,
    waits: Vec<PurgedVersion>,
    before: u64,
}

impl Engine {
    /// Lets the contents of a path's versions go, of all or of one. With `dry_run` says what would go.
    ///
    /// Errors: Refused if there is nothing to let go, Stopped; the ledger's, the index's, the state's.
    pub fn purge(&mut self, path: &RelPath, only: Option<&VersionId>, dry_run: bool) -> Result<PurgeReport> {
        if let Some(stop) = self.stopped() {
            return Err(SyncError::Stopped(stop));
        }
        self.dry_run = dry_run;
        let named = self.named_versions(path, only)?;
        let also: BTreeSet<VersionId> = named.own.iter().map(|(_, id, _)| *id).collect();
        let plan = self.index.purge_plan(&self.ledger, &also)?;
        let rewritable = self.rewritable()?;
        let mut done = self.planned(path, &named, &plan, &rewritable)?;
        if dry_run {
            let stays =
                |name: &ArtifactName| !rewritable.contains(name.chain()) || done.damaged.contains(&name.to_string());
            let held: BTreeSet<ArtifactName> = plan.holders.into_iter().filter(|name| !stays(name)).collect();
            done.stores = self.at_stores(|_| true, |engine, store, place, _| engine.held_in(store, place, &held))?;
            done.stores.retain(says_something);
            return Ok(done);
        }
        for (space, versions) in &named.say {
            let chain = self.own_chain(space)?.chain.to_string();
            let wall_ms = self.now_ms();
            let hlc = self.clock.tick(wall_ms, None);
            self.publish_event(space, MetaEvent::purge(chain, hlc, versions))?;
        }
        self.purges_told = false;
        Ok(done)
    }

    fn named_versions(&self, path: &RelPath, only: Option<&VersionId>) -> Result<Named> {
        let mut named = Named::default();
        let mut any = false;
        for slot in self.index.slots_at(path)? {
            for stored in self.index.history(&slot, MAX_HISTORY)? {
                let is_meant = only.is_none_or(|id| *id == stored.id);
                let Some(content) = stored.version.content().filter(|content| is_meant && content.size > 0) else {
                    continue;
                };
                any = true;
                self.judge(&slot, &stored, content, &mut named)?;
            }
        }
        if any {
            return Ok(named);
        }
        let why = "no version of it that is known here has any content to let go".to_owned();
        Err(SyncError::Refused { path: path.shown(), why })
    }

    fn judge(&self, slot: &Slot, stored: &Stored, content: Content, named: &mut Named) -> Result<()> {
        if self.index.purged(&content.hash)?.is_some() {
            named.before += 1;
            return Ok(());
        }
        let lane = &stored.version.dot.lane;
        let of = Chain { space: slot.space.clone(), origin: lane.origin.clone(), generation: lane.generation };
        let chain = self.identity.chain(slot.space.clone());
        let own = (&chain, self.identity.certificate().key);
        if !slot.space.is_shared() && slot.space != self.private_space {
            named.waits.push(told(stored));
            return Ok(());
        }
        if !self.index.said_purge(&chain, &stored.id)? {
            named.say.entry(slot.space.clone()).or_default().push(stored.id);
        }
        if self.index.purge_counts(&self.ledger, own, &of)? {
            named.own.push((told(stored), stored.id, content));
        } else {
            named.waits.push(told(stored));
        }
        Ok(())
    }

    fn planned(
        &self,
        path: &RelPath,
        named: &Named,
        plan: &PurgePlan,
        rewritable: &BTreeSet<Chain>,
    ) -> Result<PurgeReport> {
        let mut done = PurgeReport { waits: named.waits.clone(), before: named.before, ..PurgeReport::default() };
        for (version, id, content) in &named.own {
            let whole = !plan.contents.contains(&content.hash);
            if !whole {
                done.purged.push(version.clone());
            }
            let by = if whole { self.keepers(id, content)? } else { self.sharers(content, plan)? };
            if whole || !by.is_empty() {
                done.kept.push(KeptVersion { named: version.clone(), whole, by });
            }
        }
        let (own, others): (Vec<&ArtifactName>, Vec<&ArtifactName>) =
            plan.holders.iter().partition(|name| rewritable.contains(name.chain()));
        let stuck = self.stuck(&own, plan)?;
        done.damaged = stuck.iter().map(ArtifactName::to_string).collect();
        done.artifacts = own.into_iter().filter(|name| !stuck.contains(*name)).map(ArtifactName::to_string).collect();
        done.elsewhere = others.into_iter().map(ArtifactName::to_string).collect();
        done.copies = self.copies(&plan.contents)?;
        done.on_disk
            .extend(self.state.base(path)?.filter(|base| plan.contents.contains(&base.hash)).map(|_| path.shown()));
        Ok(done)
    }

    /// Of artifacts that are to be rewritten, those that are damaged so that they cannot be.
    fn stuck(&self, own: &[&ArtifactName], plan: &PurgePlan) -> Result<BTreeSet<ArtifactName>> {
        let noted: Vec<ArtifactName> = self.ledger.noted_damage()?.into_iter().map(|noted| noted.name).collect();
        let mut stuck = BTreeSet::new();
        for name in noted.into_iter().filter(|name| name.kind() == ArtifactKind::Pack && own.contains(&name)) {
            let mut gone = self.segments_gone(&self.let_go_by([name.chain()].into_iter())?)?;
            gone.extend(&plan.segments);
            if !self.ledger.can_do_without(&name, &gone) {
                stuck.insert(name);
            }
        }
        Ok(stuck)
    }

    /// The other versions that have the same content and stay.
    fn keepers(&self, id: &VersionId, content: &Content) -> Result<Vec<PurgedVersion>> {
        let mut by = Vec::new();
        for other in
            self.index.versions_of_content(&content.hash)?.iter().filter(|other| *other != id).take(MAX_KEEPERS)
        {
            by.extend(self.index.version(other)?.as_ref().map(told));
        }
        Ok(by)
    }

    /// The newest versions that have some of the same segments and stay.
    fn sharers(&self, content: &Content, plan: &PurgePlan) -> Result<Vec<PurgedVersion>> {
        let Some(manifest) = self.index.manifest(&content.hash, content.size)? else { return Ok(Vec::new()) };
        let segments = manifest.segments.iter().map(|SegmentRef(segment, _)| *segment);
        let shared: HashSet<SegmentHash> = segments.filter(|segment| !plan.segments.contains(segment)).collect();
        let mut by = Vec::new();
        if shared.is_empty() {
            return Ok(by);
        }
        for other in self.index.contents_with(&shared, &plan.contents, MAX_KEEPERS)? {
            let Some(newest) = self.index.versions_of_content(&other)?.into_iter().next() else { continue };
            by.extend(self.index.version(&newest)?.as_ref().map(told));
        }
        Ok(by)
    }

    /// What a store holds of these artifacts.
    fn held_in(&self, store: &str, place: &dyn Transport, held: &BTreeSet<ArtifactName>) -> StoreGarbage {
        let mut found = StoreGarbage::of(store);
        if place.removing().is_none() {
            found.why = Some(CANNOT.to_owned());
            return found;
        }
        for chain in held.iter().map(ArtifactName::chain).collect::<BTreeSet<_>>() {
            match self.names_there(place, chain) {
                Ok(there) => found.removed.extend(there.intersection(held).map(ArtifactName::to_string)),
                Err(error) => found.why = Some(error.to_string()),
            }
        }
        found
    }
}

impl Engine {
    /// True if a path resolves to bytes that somebody purged: there is nothing to write and nothing to wait for.
    pub(super) fn is_purged(&self, resolution: &Resolution) -> Result<bool> {
        if !self.index.has_purges() {
            return Ok(false);
        }
        let content = match &resolution.outcome {
            Outcome::Content(content) => Some(*content),
            Outcome::Appended(appended) => appended.base,
            Outcome::Unknown | Outcome::Absent | Outcome::Pending(_) => None,
        };
        Ok(content.map(|content| self.index.purged(&content.hash)).transpose()?.flatten().is_some())
    }

    /// Removes what is purged from everything here that this machine may rewrite. Costs nothing if nobody ever purged anything.
    pub fn let_purged_go(&mut self, report: &mut Report) -> Result<()> {
        if !self.index.has_purges() || self.stopped().is_some() {
            return Ok(());
        }
        if self.index.purges_are_due()? {
            self.replay()?;
        }
        self.forget_copies()?;
        // What is lost holds nothing that anybody could read, and goes with the rest.
        if self.index.holding()?.is_empty() && self.ledger.noted_damage()?.is_empty() {
            return Ok(());
        }
        for space in [Space::shared(), self.private_space.clone()] {
            match self.sweep_purged(&space) {
                Ok(bytes) => report.ledger_bytes += bytes,
                // What is damaged is healed by an exchange; then it is swept.
                Err(SyncError::Ledger(error @ (LedgerError::Damaged { .. } | LedgerError::Missing { .. }))) => {
                    self.ledger.note_error(&error);
                }
                Err(error) => return Err(error),
            }
        }
        self.remove_purged(report)?;
        Ok(self.index.forget_holding(&self.ledger)?)
    }

    /// Rewrites an own chain if what stands of it, or of one that it may close, holds anything purged. Returns the bytes written.
    fn sweep_purged(&mut self, space: &Space) -> Result<u64> {
        let chain = self.identity.chain(space.clone());
        let holding: BTreeSet<ArtifactName> = self.index.holding()?.into_iter().collect();
        let earlier = self.earlier(space)?;
        let mut due = Vec::new();
        for one in &earlier {
            if self.holds_standing(one, &holding)? {
                due.push(one.clone());
            }
        }
        let holds = self.holds_standing(&chain, &holding)?;
        if due.is_empty() && !holds && self.lost_packs(&chain)?.is_empty() {
            return Ok(0);
        }
        let looked_at = self.damage_and_purges(&holding)?;
        if due.is_empty() && self.swept_in_vain.get(space) == Some(&looked_at) {
            return Ok(0);
        }
        let dropped = self.let_go_by(earlier.iter().chain([&chain]))?;
        let needless = self.lists_needless(&chain, &dropped)?;
        let holds = needless || (holds && self.can_be_rewritten(&chain, &holding, &dropped)?);
        if due.is_empty() && !holds {
            // What is damaged may stay so for long, and the look passes over everything that is known.
            self.swept_in_vain.insert(space.clone(), looked_at);
            return Ok(0);
        }
        let mut bytes = 0;
        let closed = self.carry_all(space, &due, &dropped, &mut bytes)?;
        if closed.is_empty() && !holds {
            return Ok(bytes);
        }
        let Some(tip) = self.own_chain(space)?.tip else { return Ok(bytes) };
        bytes += self.sweep(space, tip, &dropped, &closed)?;
        if needless {
            // No file here tells of it, but a store may hold what is left of it.
            self.expect_stores(&chain, self.index.floor(&chain)?.seq)?;
        }
        Ok(bytes)
    }

    /// Another one when anything else is purged, holds what is, or is damaged.
    fn damage_and_purges(&self, holding: &BTreeSet<ArtifactName>) -> Result<Hash> {
        let noted = self.ledger.noted_damage()?.into_iter().map(|noted| noted.name.to_string());
        let names: Vec<String> =
            noted.chain(["holding".to_owned()]).chain(holding.iter().map(ToString::to_string)).collect();
        let purged = digest(&self.index.purged_contents()?);
        // Anything that came since may have changed what is needed; and so may time.
        let (row, hour) = (self.index.max_row()?, self.now_ms() / 3_600_000);
        Ok(Hash::of(format!("{purged} {row} {hour} {}", names.join(" ")).as_bytes()))
    }

    /// The contents that these chains let go and no head has again, in order; whatever is purged among them.
    fn let_go_by<'c>(&self, chains: impl Iterator<Item = &'c Chain>) -> Result<Vec<ContentHash>> {
        let heads = self.index.contents_of_heads()?;
        let (mut dropped, mut purged) = (Vec::new(), Vec::new());
        for chain in chains {
            dropped.extend(self.index.dropped_by(chain)?);
            purged.extend(self.index.purged_of(chain)?);
        }
        dropped.retain(|content| !heads.contains(content));
        dropped.extend(purged);
        dropped.sort_unstable();
        dropped.dedup();
        Ok(dropped)
    }

    /// True if a snapshot would list less: of what counts and holds anything purged, something is more than a damaged pack whose other
    /// bytes nobody could copy. That one stays until it is healed, and no run writes a snapshot for it.
    fn can_be_rewritten(
        &self,
        chain: &Chain,
        holding: &BTreeSet<ArtifactName>,
        dropped: &[ContentHash],
    ) -> Result<bool> {
        let standing = self.ledger.standing(chain, self.index.floor(chain)?.seq)?;
        let damaged: BTreeSet<ArtifactName> = self.ledger.noted_damage()?.into_iter().map(|noted| noted.name).collect();
        if damaged.is_empty() {
            return Ok(true);
        }
        let gone = self.segments_gone(dropped)?;
        let is_stuck = |name: &ArtifactName| damaged.contains(name) && !self.ledger.can_do_without(name, &gone);
        Ok(holding.intersection(&standing).any(|name| !is_stuck(name)))
    }

    /// True if what counts of a chain holds anything of what is given.
    fn holds_standing(&self, chain: &Chain, holding: &BTreeSet<ArtifactName>) -> Result<bool> {
        if holding.iter().all(|name| name.chain() != chain) {
            return Ok(false);
        }
        let standing = self.ledger.standing(chain, self.index.floor(chain)?.seq)?;
        Ok(holding.iter().any(|name| standing.contains(name)))
    }

    /// Removes what is below floors and holds anything purged, without the grace of ordinary garbage; the rest of that keeps it.
    fn remove_purged(&mut self, report: &mut Report) -> Result<()> {
        let mut holding: BTreeSet<ArtifactName> = self.index.holding()?.into_iter().collect();
        // One that cannot say what it holds may hold any of it.
        let noted = self.ledger.noted_damage()?;
        for chain in noted.iter().map(|noted| noted.name.chain()).collect::<BTreeSet<_>>() {
            holding.extend(self.lost_packs(chain)?);
        }
        let mut rescued = false;
        for chain in holding.iter().map(ArtifactName::chain).collect::<BTreeSet<_>>() {
            let floor = self.index.floor(chain)?.seq;
            let mut garbage = self.ledger.garbage(chain, floor)?;
            garbage.retain(|name| holding.contains(name));
            if garbage.is_empty() || !self.stands_alone(chain, floor)? {
                continue;
            }
            if !rescued {
                // What somebody went back to while another let it go must not go with it.
                self.rescue(false)?;
                rescued = true;
            }
            self.expect_stores(chain, floor)?;
            self.ledger.remove_garbage(&garbage)?;
            report.purge.get_or_insert_default().artifacts.extend(garbage.iter().map(ArtifactName::to_string));
        }
        Ok(())
    }

    /// Remembers which stores have to be emptied below a floor, before anything else forgets it.
    fn expect_stores(&self, chain: &Chain, floor: u64) -> Result<()> {
        let peers = self.policy.peers.iter().filter(|peer| peer.push).map(|peer| peer.name.as_str());
        let lines: Vec<String> =
            std::iter::once(floor.to_string()).chain(peers.chain([BACKEND]).map(str::to_owned)).collect();
        Ok(self.state.set_meta(&format!("{STORES}{chain}"), Some(lines.join("\n").as_bytes()))?)
    }

    /// Takes what was purged away from the stores that were not emptied yet, after they were given what stands for it; of other
    /// machines' chains it only looks whether they did.
    pub fn empty_stores(&mut self, report: &mut Report) -> Result<()> {
        if !self.index.has_purges() || self.stopped().is_some() {
            return Ok(());
        }
        for (key, text) in self.state.metas_below(STORES)? {
            let text = String::from_utf8_lossy(&text).into_owned();
            let mut lines = text.lines();
            let floor = lines.next().and_then(|floor| floor.parse::<u64>().ok());
            let chain = key.strip_prefix(STORES).and_then(|chain| chain.parse::<Chain>().ok());
            let Some((chain, floor)) = chain.zip(floor) else {
                self.state.set_meta(&key, None)?;
                continue;
            };
            let open: BTreeSet<&str> = lines.collect();
            let floor = floor.max(self.index.floor(&chain)?.seq);
            let own = self.is_ours(&chain)?;
            let done = if own {
                let old = [(chain, floor)];
                let visit = |engine: &Engine, store: &str, place: &dyn Transport, spaces: &[Space]| {
                    let mut done = engine.clean_store(store, place, spaces, &old, false);
                    // What was damaged may have held it, too.
                    let aside = place.removing().map_or(Ok(()), Removing::remove_set_aside);
                    done.waits |= aside.is_err();
                    done.why = done.why.or(aside.err().map(|error| error.to_string()));
                    done
                };
                self.at_stores(|store| open.contains(store), visit)?
            } else {
                self.at_stores(
                    |store| open.contains(store),
                    |engine, store, place, _| engine.left_in(store, place, &chain, floor),
                )?
            };
            let left: Vec<String> = done.iter().filter(|store| store.waits).map(|store| store.store.clone()).collect();
            let rest = std::iter::once(floor.to_string()).chain(left.iter().cloned()).collect::<Vec<_>>().join("\n");
            self.purges_told &= rest == text;
            self.state.set_meta(&key, (!left.is_empty()).then_some(rest.as_bytes()))?;
            if own {
                let worth = done.into_iter().filter(says_something);
                report.purge.get_or_insert_default().stores.extend(worth);
            }
        }
        Ok(())
    }

    /// Whether a store still holds what does not count of another machine's chain: that is its own to take away.
    fn left_in(&self, store: &str, place: &dyn Transport, chain: &Chain, floor: u64) -> StoreGarbage {
        let mut left = StoreGarbage::of(store);
        // A place that cannot be emptied from anywhere is its keeper's; what is away is looked at when it is there.
        left.waits = place.removing().is_some()
            && match self.garbage_there(place, chain, floor) {
                Ok(garbage) => garbage.is_none_or(|names| !names.is_empty()),
                Err(_) => true,
            };
        left
    }

    /// Copies of contents that are neither ledger nor working files; whoever keeps further ones forgets them here.
    fn forget_copies(&mut self) -> Result<()> {
        let contents = self.index.purged_contents()?;
        let mut left = Vec::new();
        for (one, unread) in self.displaced_of_any(&contents)? {
            let gone = match unread {
                Some(why) => Err(why),
                None => self.unlink_displaced(&one)?,
            };
            left.extend(gone.err().map(|why| still_displaced(&one, &why)));
        }
        // Such a change is settled before anything else as soon as it can be looked into, and what it staged or took away goes then.
        for intent in self.state.intents()?.iter().filter(|intent| intent.append_from.is_none()) {
            if [intent.new_hash, intent.old_hash].iter().flatten().any(|hash| contents.contains(hash)) {
                left.push(still_displaced(
                    &self.displaced_of(intent),
                    "its change was interrupted and cannot be looked into",
                ));
            }
        }
        left.truncate(MAX_TOLD);
        self.state.set_problems(DISPLACED, &left, self.now_ms() as i64)?;
        let looked = digest(&contents);
        if self.state.meta_text(LOOKED)?.as_deref() == Some(&*looked) {
            return Ok(());
        }
        let mut versions = Vec::new();
        for content in &contents {
            self.state.remove_undo_to(content)?;
            versions.extend(self.index.versions_of_content(content)?);
        }
        self.ledger.remove_quarantined(&self.ledger.quarantined(&self.chains_with(&contents)?)?)?;
        // While somebody fills it, it is locked: the next run tries again, and all of this once more, which removes nothing then.
        let forgotten = crate::search::wipe(&self.words, &self.index, &versions);
        let what = forgotten.as_ref().err().map(|error| {
            let what = format!(
                "words of what was purged may still stand there; the next `larder sync` takes them out ({error})"
            );
            Problem { path: ".larder/fts.db".to_owned(), what }
        });
        self.state.set_problems(WORDS, what.as_slice(), self.now_ms() as i64)?;
        if forgotten.is_err() {
            return Ok(());
        }
        Ok(self.state.set_meta(LOOKED, Some(looked.as_bytes()))?)
    }

    /// Names what `forget_copies` removes.
    fn copies(&self, contents: &BTreeSet<ContentHash>) -> Result<Vec<String>> {
        let mut copies = Vec::new();
        for (one, unread) in self.displaced_of_any(contents)? {
            let later = if unread.is_some() { ", which cannot be looked at now and goes once it can be" } else { "" };
            copies.push(format!("displaced {} of {}{later}", one.id, one.path.shown()));
        }
        for content in contents {
            let steps = self.state.undo_steps_to(content)?;
            copies.extend((steps > 0).then(|| format!("{steps} of `undo` to {}", content.0.short(10))));
        }
        let quarantined = self.ledger.quarantined(&self.chains_with(contents)?)?;
        let names = quarantined.iter().filter_map(|file| file.file_name());
        copies.extend(names.map(|name| format!("quarantined {}", name.to_string_lossy())));
        Ok(copies)
    }

    /// The displaced files that hold one of these contents, as they are now; with the reason, those that held one and cannot be looked at.
    fn displaced_of_any(&self, contents: &BTreeSet<ContentHash>) -> Result<Vec<(Displaced, Option<String>)>> {
        let mut found = Vec::new();
        if contents.is_empty() {
            return Ok(found);
        }
        for one in self.state.displaced()? {
            // What several versions were merged into has bytes of each, and what was never read most likely is what it stands on.
            let is_it = one.hash.is_some_and(|hash| contents.contains(&hash));
            let may_be = (one.hash.is_none() || one.versions.len() > 1) && self.stands_on(&one.versions, contents)?;
            if !is_it && !may_be && one.hash.is_some() {
                continue;
            }
            match self.held(&one) {
                Held::Is(hash, _) if contents.contains(&hash) || (may_be && one.hash == Some(hash)) => {
                    found.push((one, None));
                }
                Held::Unread(why) if is_it || may_be => found.push((one, Some(why))),
                Held::Is(..) | Held::Unread(_) | Held::Gone => {}
            }
        }
        Ok(found)
    }

    /// The chains whose artifacts may hold these contents.
    fn chains_with(&self, contents: &BTreeSet<ContentHash>) -> Result<BTreeSet<Chain>> {
        let mut chains: BTreeSet<Chain> = self.index.holding()?.iter().map(|name| name.chain().clone()).collect();
        for content in contents {
            for id in self.index.versions_of_content(content)? {
                let Some((slot, stored)) = self.index.version_at(&id)? else { continue };
                let lane = stored.version.dot.lane;
                chains.insert(Chain { space: slot.space, origin: lane.origin, generation: lane.generation });
            }
        }
        Ok(chains)
    }

    /// Tells for `status` what could not be reached, and whose word waits. With `news`, or once a process.
    pub fn tell_purges(&mut self, news: bool) -> Result<()> {
        if !self.index.has_purges() || (self.purges_told && !news) {
            return Ok(());
        }
        self.purges_told = true;
        let mut problems = Vec::new();
        for waiting in self.index.waiting_purges(&self.ledger)?.into_iter().take(MAX_TOLD) {
            let Some(stored) = self.index.version(&waiting.word.version)? else { continue };
            let (by, of, id) = (&waiting.word.by.origin, &waiting.of.origin, stored.id.0.short(10));
            let path = stored.version.path.shown();
            let what = format!(
                "{by} asks that version {id} by {of} be purged; that is for its owner to say: `larder purge {path} --version {id}` on {of}, or another machine of its owner, lets it go"
            );
            problems.push(Problem { path: format!("{path} {id}"), what });
        }
        problems.extend(self.held_back()?);
        for (key, text) in self.state.metas_below(STORES)? {
            let chain = key.strip_prefix(STORES).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            for store in text.lines().skip(1).take(MAX_TOLD) {
                let what = format!(
                    "what was purged from {chain} may still stand there; it goes at the next `larder sync` that reaches it"
                );
                problems.push(Problem { path: store.to_owned(), what });
            }
        }
        Ok(self.state.set_problems(SOURCE, &problems, self.now_ms() as i64)?)
    }

    /// Artifacts here that hold what is purged and that only somebody else may rewrite.
    fn held_back(&self) -> Result<Vec<Problem>> {
        let mut counts: BTreeMap<Chain, u64> = BTreeMap::new();
        for name in self.index.holding()? {
            *counts.entry(name.chain().clone()).or_default() += 1;
        }
        let chains = self.ledger.chains()?;
        let own = self.identity.origin();
        let told = |(chain, count): (&Chain, &u64)| {
            let later = chains.iter().any(|other| other.origin == chain.origin && other.generation > chain.generation);
            let origin = &chain.origin;
            let what = if origin == own && !later {
                format!(
                    "{count} artifacts hold what was purged; nobody can read it, and the bytes go once what else of this machine's is damaged or missing here is whole, or is purged as well: `larder repair` looks for it"
                )
            } else if later {
                format!(
                    "{count} artifacts hold what was purged; {origin} went on as a later generation, which says anew what else stands in them once it heard of it and holds all of this one; until then nobody can read it, and its bytes stay; they stay for good if that generation is another owner's"
                )
            } else {
                format!(
                    "{count} artifacts hold what was purged; nobody can read it, and the bytes go once {origin} has heard of it"
                )
            };
            Problem { path: chain.to_string(), what }
        };
        Ok(counts.iter().take(MAX_TOLD).map(told).collect())
    }
}

/// Another one for each set of contents.
pub(super) fn digest(contents: &BTreeSet<ContentHash>) -> String {
    Hash::of(&contents.iter().flat_map(|content| *content.as_bytes()).collect::<Vec<u8>>()).to_string()
}

fn still_displaced(one: &Displaced, why: &str) -> Problem {
    let what = format!(
        "a copy of what was purged still stands where a sync put it aside, as it cannot be removed ({why}); it goes at the first `larder sync` that reaches it"
    );
    Problem { path: one.path.shown(), what }
}

fn says_something(store: &StoreGarbage) -> bool {
    !store.removed.is_empty() || store.why.is_some() || store.waits
}

fn told(stored: &Stored) -> PurgedVersion {
    PurgedVersion {
        path: stored.version.path.shown(),
        version: stored.id.to_string(),
        origin: stored.version.dot.lane.origin.to_string(),
        size: stored.version.content().map_or(0, |content| content.size),
    }
}
