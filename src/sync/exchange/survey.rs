//! What the store has of each chain, from its listings; and whether our own chains are still ours alone.
//!
//! Invariant: names from outside are parsed before anything is done with them; a listing is bounded in pages, must go
//! forward, and is never taken for complete or for true.

use std::collections::{BTreeMap, BTreeSet};

use super::Thoroughness;
use super::journal::Watermark;
use super::local::CheckpointFacts;
use super::report::{Finding, Problem};
use super::run::{Fetched, Run, Stop, View};
use crate::ledger::{ArtifactKind, ArtifactName};
use crate::model::{Chain, Space};
use crate::transport::{Depth, ListRequest, MAX_PAGE_NAMES};

/// Chains of one space that are looked at.
const MAX_CHAINS: usize = 100_000;
/// Pages that a space is listed in at once; one with more names is listed chain by chain.
const MAX_SPACE_PAGES: usize = 10;
/// Names of one chain that are looked at in one exchange; the next goes on from the watermark.
const MAX_NAMES_PER_CHAIN: usize = 100_000;
/// Checkpoints of our own chain that are fetched to find out whether they are real.
const MAX_OWN_CHECKS: usize = 64;

impl Run<'_> {
    /// Looks at every chain that either side has.
    pub fn survey(&mut self, views: &mut Vec<View>) -> Result<(), Stop> {
        let config = self.config;
        config.spaces.iter().try_for_each(|space| self.survey_space(space, views))
    }

    fn survey_space(&mut self, space: &Space, views: &mut Vec<View>) -> Result<(), Stop> {
        let Some(there) = self.ask_space(space)? else {
            self.report.unheard = true;
            return Ok(());
        };
        let here = self.local.chains(space)?;
        let all: BTreeSet<Chain> = here.into_iter().chain(there.chains().cloned()).collect();
        let meant = |chain: &Chain| self.config.only.as_ref().is_none_or(|only| only.contains(chain));
        let all: Vec<Chain> = all.into_iter().filter(meant).collect();
        for chain in all {
            if self.is_even(&chain)? {
                continue;
            }
            self.doubt_words(&chain)?;
            let mark = self.journal.watermark(self.remote.label(), &chain)?;
            let mut view = View::new(chain, mark);
            view.holes = view.mark.holes.clone();
            if self.config.thoroughness == Thoroughness::Whole {
                view.mark = Watermark::default();
            }
            view.rise(self.floor(&view.chain));
            self.read_here(&mut view)?;
            view.quiet = matches!(&there, There::Heads(heads) if is_quiet(&view, heads));
            if let There::Names(names) = &there {
                self.take_names(&mut view, names);
            } else if there.may_have(&view.chain) && !view.quiet {
                self.list_chain(&mut view)?;
            } else if !view.quiet {
                if self.check_rolled_back(&mut view) {
                    self.read_here(&mut view)?;
                }
                // A head is a checkpoint: what was sent before a chain's first one is not told.
                view.remote_parts = Some(BTreeSet::new()).filter(|_| !matches!(there, There::Heads(_)));
            }
            views.push(view);
        }
        Ok(())
    }

    /// Which chains of a space the store has; `None` if it could not be asked at all.
    fn ask_space(&mut self, space: &Space) -> Result<Option<There>, Stop> {
        let prefix = format!("{}/{space}/", self.config.app);
        if !self.config.pulls() && !self.config.even.is_empty() {
            return Ok(Some(There::Unasked));
        }
        match self.config.thoroughness {
            Thoroughness::News => {
                if let Some(heads) = self.heads(&prefix)? {
                    return Ok(Some(There::Heads(self.chains_of_heads(space, &heads))));
                }
            }
            Thoroughness::Whole if self.config.only.is_none() => {
                if let Some(names) = self.list_space(space, &prefix)? {
                    return Ok(Some(There::Names(names)));
                }
            }
            Thoroughness::Whole => {}
        }
        Ok(self.chains_there(space, &prefix)?.map(There::Chains))
    }

    /// True if an earlier look found both sides to hold the same of this chain, and nothing came to it here since.
    fn is_even(&self, chain: &Chain) -> Result<bool, Stop> {
        if self.config.pulls() || self.config.own.contains(chain) {
            return Ok(false);
        }
        let Some(tip) = self.config.even.get(chain) else { return Ok(false) };
        Ok(self.local.checkpoints(chain, tip.seq())?.as_slice() == std::slice::from_ref(tip))
    }

    /// All names of a space, by chain; `None` if they are too many, or could not be had, to be listed at once.
    fn list_space(&mut self, space: &Space, prefix: &str) -> Result<Option<Names>, Stop> {
        let ignored = self.report.ignored_names;
        let mut request = ListRequest::new(prefix, Depth::All);
        let mut names = Names::new();
        for _ in 0..MAX_SPACE_PAGES {
            let Some(listing) = self.list(&request)? else { break };
            for name in listing.names.iter().take(MAX_PAGE_NAMES) {
                match self.parse(name).filter(|parsed| parsed.chain().space == *space) {
                    Some(parsed) => drop(names.entry(parsed.chain().clone()).or_default().insert(parsed)),
                    None => self.report.ignored_names += 1,
                }
            }
            if !advance(&mut request, &listing.names, listing.more) {
                if listing.more {
                    break;
                }
                return Ok(Some(names));
            }
        }
        self.report.ignored_names = ignored;
        Ok(None)
    }

    /// What the listing of the whole space says of one chain; what is here was read after it.
    fn take_names(&self, view: &mut View, names: &Names) {
        let floor = self.floor(&view.chain);
        let listed = names.get(&view.chain).cloned().unwrap_or_default();
        let (checkpoints, parts): (BTreeSet<_>, BTreeSet<_>) =
            listed.into_iter().partition(|name| name.kind() == ArtifactKind::Checkpoint);
        // Whoever still holds what is below: it does not come back.
        view.remote = checkpoints.into_iter().filter(|name| name.seq() >= floor).collect();
        view.remote_parts = Some(parts);
    }

    fn parse(&self, name: &str) -> Option<ArtifactName> {
        let rest = name.strip_prefix(&self.config.app)?.strip_prefix('/')?;
        // Printing and parsing are inverse, so no second spelling gets through.
        rest.parse::<ArtifactName>().ok().filter(|parsed| parsed.to_string() == rest)
    }

    fn chains_of_heads(&mut self, space: &Space, heads: &[String]) -> Names {
        let mut chains = Names::new();
        for head in heads.iter().take(MAX_CHAINS) {
            match self.parse(head).filter(|name| name.chain().space == *space) {
                Some(name) => drop(chains.entry(name.chain().clone()).or_default().insert(name)),
                None => self.report.ignored_names += 1,
            }
        }
        chains
    }

    /// The chains of a space in the store; `None` if it could not be listed at all.
    fn chains_there(&mut self, space: &Space, prefix: &str) -> Result<Option<BTreeSet<Chain>>, Stop> {
        let mut request = ListRequest::new(prefix, Depth::Children);
        let mut chains = BTreeSet::new();
        let mut pages = 0;
        while pages * MAX_PAGE_NAMES < MAX_CHAINS {
            let Some(listing) = self.list(&request)? else {
                self.report.unheard = true;
                return Ok(Some(chains).filter(|_| pages > 0));
            };
            for name in listing.names.iter().take(MAX_PAGE_NAMES) {
                let folder = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('/'));
                let chain = folder.and_then(|folder| format!("{space}/{folder}").parse().ok());
                match chain.filter(|chain: &Chain| Some(&*chain.folder()) == folder) {
                    Some(chain) => drop(chains.insert(chain)),
                    None => self.report.ignored_names += 1,
                }
            }
            pages += 1;
            if !advance(&mut request, &listing.names, listing.more) {
                break;
            }
        }
        Ok(Some(chains))
    }

    /// Reads what is here of a chain: everything a listing from the watermark on can be compared with.
    ///
    /// Where a second branch came since, from whatever side, the watermark steps back: the store may lack the branch.
    fn read_here(&self, view: &mut View) -> Result<(), Stop> {
        let floor = self.floor(&view.chain);
        let all: Vec<ArtifactName> = self.local.checkpoints(&view.chain, floor)?;
        if let Some(fork) = fork_of(&all) {
            view.mark.seq = view.mark.seq.min(fork - 1);
        }
        let from = view.mark.seq.saturating_sub(1);
        view.here = all.into_iter().filter(|name| name.seq() >= from).collect();
        Ok(())
    }

    /// Lists a chain, then reads what is here of it again if more of it is needed, or if it is our own: what another thread published and pushed between the two
    /// must not look as if somebody else had.
    fn list_chain(&mut self, view: &mut View) -> Result<(), Stop> {
        let from = view.mark.seq;
        self.list_there(view)?;
        let stale = self.config.own.contains(&view.chain) || view.mark.seq != from;
        if stale { self.read_here(view) } else { Ok(()) }
    }

    /// From the watermark on, or whole at first sight.
    fn list_there(&mut self, view: &mut View) -> Result<(), Stop> {
        if view.mark.seq > 0 {
            let folder = format!("{}/{}/checkpoints/", self.config.app, view.chain);
            // With the number's own checkpoints: a store that lost them, or has another one, shows it here.
            let from = format!("{folder}cp-{:016}-", view.mark.seq);
            let request = ListRequest::new(folder, Depth::All).after(from);
            self.list_names(view, request)?;
            if view.closed || !self.check_rolled_back(view) {
                return Ok(());
            }
        }
        let whole = format!("{}/{}/", self.config.app, view.chain);
        let complete = self.list_names(view, ListRequest::new(whole, Depth::All))?;
        let (checkpoints, parts): (BTreeSet<_>, BTreeSet<_>) =
            std::mem::take(&mut view.remote).into_iter().partition(|name| name.kind() == ArtifactKind::Checkpoint);
        view.remote = checkpoints;
        view.remote_parts = Some(parts).filter(|_| complete);
        Ok(())
    }

    /// Lists the parts alone: `packs/` and `records/` sort behind `checkpoints/`.
    pub fn list_parts(&mut self, view: &mut View) -> Result<(), Stop> {
        let folder = format!("{}/{}/", self.config.app, view.chain);
        let request = ListRequest::new(folder.clone(), Depth::All).after(format!("{folder}packs/"));
        let checkpoints = std::mem::take(&mut view.remote);
        let complete = self.list_names(view, request);
        let mut parts = std::mem::replace(&mut view.remote, checkpoints);
        parts.retain(|name| name.kind() != ArtifactKind::Checkpoint);
        let complete = complete?;
        // A look that failed is no reason to leave the chain alone.
        view.closed = false;
        view.remote_parts = Some(parts).filter(|_| complete);
        Ok(())
    }

    /// Gathers the names of a listing in `view.remote`. True if it came to an end.
    fn list_names(&mut self, view: &mut View, mut request: ListRequest) -> Result<bool, Stop> {
        let floor = self.floor(&view.chain);
        let mut pages = 0;
        while pages * MAX_PAGE_NAMES < MAX_NAMES_PER_CHAIN {
            let Some(listing) = self.list(&request)? else {
                // What came before may be used, but nothing may be concluded.
                self.report.unheard = true;
                view.closed |= pages == 0;
                return Ok(false);
            };
            for name in listing.names.iter().take(MAX_PAGE_NAMES) {
                match self.parse(name).filter(|parsed| *parsed.chain() == view.chain) {
                    // Whoever still holds it: it does not come back.
                    Some(ArtifactName::Checkpoint { seq, .. }) if seq < floor => {}
                    Some(parsed) => drop(view.remote.insert(parsed)),
                    None => self.report.ignored_names += 1,
                }
            }
            pages += 1;
            if !advance(&mut request, &listing.names, listing.more) {
                return Ok(!listing.more);
            }
        }
        self.report.budget_spent = true;
        Ok(false)
    }

    /// True if the store no longer lists what it held at the watermark; then nothing about it is known any more.
    fn check_rolled_back(&mut self, view: &mut View) -> bool {
        let held = view.mark.seq;
        let at_mark = |name: &ArtifactName| name.seq() == held;
        if held == 0 || view.remote.iter().any(at_mark) {
            return false;
        }
        self.find(Finding::StoreRolledBack { chain: view.chain.clone(), held });
        view.mark = Watermark::default();
        view.remote.clear();
        true
    }

    /// Stops at our own chain if the store has checkpoints of it that we do not: we would write a second one.
    pub fn guard_own(&mut self, view: &mut View) -> Result<(), Stop> {
        if view.closed || view.quiet || !self.config.own.contains(&view.chain) {
            return Ok(());
        }
        let strange: Vec<ArtifactName> = view.remote.difference(&view.here).cloned().collect();
        if !strange.is_empty() && view.here.is_empty() {
            // The watermark is above everything that is here: the ledger was restored, the journal was not.
            view.here = self.local.checkpoints(&view.chain, self.floor(&view.chain))?.into_iter().collect();
        }
        for there in strange.iter().rev().take(MAX_OWN_CHECKS) {
            self.fill_own_hole(view, there)?;
        }
        for there in strange.into_iter().filter(|there| !view.here.contains(there)).take(MAX_OWN_CHECKS) {
            if let Some((facts, _)) = self.look_at_own(&there)? {
                view.closed = true;
                let finding = own_finding(&view.chain, &view.here, there, &facts);
                self.find(finding);
                break;
            }
        }
        Ok(())
    }

    /// Takes a checkpoint of ours that is lost here back, if the one after it, which is here, names it: no second writer.
    fn fill_own_hole(&mut self, view: &mut View, there: &ArtifactName) -> Result<(), Stop> {
        let seq = there.seq();
        let Some(next) = view.here.iter().find(|name| name.seq() == seq + 1).cloned() else { return Ok(()) };
        if !self.config.pulls() || view.here.iter().any(|name| name.seq() == seq) {
            return Ok(());
        }
        let Some((lost, bytes)) = self.look_at_own(there)? else { return Ok(()) };
        if self.local_facts(&next)?.is_some_and(|next| next.prev == Some(lost.hash)) && self.store(there, &bytes)? {
            view.here.insert(there.clone());
        }
        Ok(())
    }

    /// The facts of a checkpoint of our chain that we do not have, if our key really signed it, and its bytes.
    fn look_at_own(&mut self, name: &ArtifactName) -> Result<Option<(CheckpointFacts, Vec<u8>)>, Stop> {
        let Fetched::Bytes(bytes) = self.get(name)? else {
            return Ok(None);
        };
        let accepted = self.journal.accepted_key(name.chain())?;
        match self.local.inspect(name, &bytes) {
            Ok(facts) if accepted.is_none_or(|key| key == facts.key) => Ok(Some((facts, bytes))),
            Ok(_) => {
                let why = format!(
                    "it is signed by another key than ours; if two machines adopted {origin} at once, `larder origin adopt {origin}` on one of them settles it",
                    origin = name.chain().origin
                );
                self.note(Problem::Refused { name: name.clone(), why });
                Ok(None)
            }
            Err(error) => self.refuse_theirs(name, &bytes, error).map(|()| None),
        }
    }
}

/// Names by their chains.
type Names = BTreeMap<Chain, BTreeSet<ArtifactName>>;

/// What is known of the chains that a store has before each is looked at.
enum There {
    /// Nobody asked: only chains that are here are looked at.
    Unasked,
    /// Those that have a folder.
    Chains(BTreeSet<Chain>),
    /// The newest checkpoints of each.
    Heads(Names),
    /// Everything of each.
    Names(Names),
}

impl There {
    fn chains(&self) -> Box<dyn Iterator<Item = &Chain> + '_> {
        match self {
            There::Unasked => Box::new(std::iter::empty()),
            There::Chains(chains) => Box::new(chains.iter()),
            There::Heads(names) | There::Names(names) => Box::new(names.keys()),
        }
    }

    fn may_have(&self, chain: &Chain) -> bool {
        match self {
            There::Unasked => true,
            There::Chains(chains) => chains.contains(chain),
            There::Heads(names) | There::Names(names) => names.contains_key(chain),
        }
    }
}

/// True if the store's newest checkpoint is the one up to which both sides are known to agree, and ours too.
fn is_quiet(view: &View, heads: &Names) -> bool {
    let mut heads = heads.get(&view.chain).into_iter().flatten();
    let (Some(head), None) = (heads.next(), heads.next()) else {
        return false;
    };
    let ours: Vec<&ArtifactName> = view.here.iter().filter(|name| name.seq() >= view.mark.seq).collect();
    head.seq() == view.mark.seq && ours == [head]
}

fn own_finding(chain: &Chain, here: &BTreeSet<ArtifactName>, there: ArtifactName, facts: &CheckpointFacts) -> Finding {
    let tip = here.last();
    let tip_seq = tip.map_or(0, ArtifactName::seq);
    let seq = there.seq();
    let follows = match (tip, facts.prev) {
        (Some(ArtifactName::Checkpoint { hash, .. }), Some(prev)) if seq == tip_seq + 1 => {
            crate::ledger::ShortHash::of(&prev) == *hash
        }
        // Further ahead its ancestry is not known; the number alone says that we are behind.
        _ => seq > tip_seq,
    };
    if follows {
        return Finding::OwnChainAhead { chain: chain.clone(), here: tip_seq, there };
    }
    let ours = here.iter().find(|name| name.seq() == seq).or(tip).cloned();
    Finding::OwnChainForked { chain: chain.clone(), here: ours, there }
}

/// The lowest number on which several of these checkpoints, which are sorted, stand.
pub(super) fn fork_of<'a>(names: impl IntoIterator<Item = &'a ArtifactName>) -> Option<u64> {
    let mut last = 0;
    names.into_iter().map(ArtifactName::seq).find(|&seq| std::mem::replace(&mut last, seq) == seq)
}

/// Moves a request past a page. False if that was the last, or the place does not go forward.
fn advance(request: &mut ListRequest, names: &[String], more: bool) -> bool {
    let Some(last) = names.iter().max() else {
        return false;
    };
    let forward = request.after.as_ref().is_none_or(|after| last > after);
    request.after = Some(last.clone());
    more && forward
}
