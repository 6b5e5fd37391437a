//! Ours alone: who this state belongs to, and what stops publishing because somebody else writes, or wrote, as this machine.
//!
//! Invariant: once a second writer of an own chain was seen, nothing is recorded under it until the identity changes, or
//! the place where it was seen was looked at whole and tells it no more; that outlives the process. What another identity
//! recorded is kept; only what is an origin's or an owner's alone (archive and private files) is found anew by the next one.

use std::collections::BTreeMap;
use std::fmt;

use super::exchange::{self, Finding};
use super::peers::PEER_LINE;
use super::{Engine, Result, SyncError};
use crate::ledger::{Seen, ShortHash};
use crate::model::{Chain, Channel, OriginName, RelPath, Space};
use crate::state::{Problem, State, StateError};

/// Whose this state is, in `state.db`: `<origin>~<generation> <private space>`.
const IDENTITY: &str = "identity";
/// Begins the entries of what stops publishing, before the journal's line of the store.
const STOP: &str = "stopped by ";
/// The line of what no single store tells: a later generation of our own.
const LATER: &str = "a later generation";
/// The line of what this machine's own ledger tells: the end of a chain that cannot be read.
const UNREAD: &str = "an end that cannot be read";
/// Who tells of it in `status`.
const SOURCE: &str = "origin";

/// Why nothing is recorded or written here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stop {
    /// What was seen.
    pub why: String,
    /// What settles it.
    pub way_on: String,
}

impl Stop {
    fn new(why: String, origin: &OriginName) -> Stop {
        Stop { why, way_on: way_on(origin) }
    }

    fn to_text(&self) -> String {
        format!("{}\n{}", self.why, self.way_on)
    }

    fn of_text(text: &[u8]) -> Stop {
        let text = String::from_utf8_lossy(text);
        let (why, way_on) = text.split_once('\n').unwrap_or((&text, ""));
        Stop { why: why.to_owned(), way_on: way_on.to_owned() }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why, self.way_on)
    }
}

/// Why nothing is recorded or written here; empty if all is well. For `status`.
pub fn stops(state: &State) -> std::result::Result<Vec<Stop>, StateError> {
    Ok(state.metas_below(STOP)?.iter().map(|(_, text)| Stop::of_text(text)).collect())
}

impl Engine {
    /// Why nothing is recorded or written here, with what settles it; `None` if all is well.
    pub fn stopped(&self) -> Option<Stop> {
        self.publishing_stopped.values().next().cloned()
    }

    /// What the identity before recorded stays; what is found under its name alone is found anew.
    pub(super) fn begin_identity(&mut self) -> Result<()> {
        let chain = self.identity.chain(Space::shared()).folder();
        let now = format!("{chain} {}", self.private_space);
        let before = self.state.meta_text(IDENTITY)?;
        if before.as_deref() == Some(&*now) {
            return Ok(());
        }
        let (origin, space) = (self.identity.origin().clone(), self.private_space.clone());
        self.state.transaction(|state| {
            if let Some((was, space_was)) = before.as_deref().and_then(|before| before.split_once(' ')) {
                if was.split_once('~').is_none_or(|(was, _)| was != origin.as_str()) {
                    state.remove_bases_of(Channel::Archive)?;
                }
                if space_was != space.as_str() {
                    state.remove_bases_of(Channel::Private)?;
                }
                // Whatever has no base is found, not made: it must not win over what others did since.
                state.set_meta("contact_rules", None)?;
                for (stop, _) in state.metas_below(STOP)? {
                    state.set_meta(&stop, None)?;
                }
                state.set_problems(SOURCE, &[], 0)?;
            }
            state.set_meta(IDENTITY, Some(now.as_bytes()))
        })?;
        if before.is_some() { self.forget_unknown_bases() } else { Ok(()) }
    }

    /// Files that stand on versions which no ledger here knows any more are found anew: nobody else could ever hear of them.
    fn forget_unknown_bases(&mut self) -> Result<()> {
        let mut paths = Vec::new();
        self.state.for_each_stat(None, |path, _, _, _| -> Result<()> {
            paths.extend(RelPath::parse(path));
            Ok(())
        })?;
        let mut unknown = Vec::new();
        for path in paths {
            let versions = self.state.base(&path)?.map(|base| base.versions).unwrap_or_default();
            let mut known = false;
            for id in &versions {
                known |= self.index.version(id)?.is_some();
            }
            if !versions.is_empty() && !known {
                unknown.push(path);
            }
        }
        self.state.transaction(|state| {
            for path in &unknown {
                state.remove_base(path)?;
            }
            Ok::<(), SyncError>(())
        })
    }

    /// What stopped an earlier run stops this one.
    pub(super) fn load_stops(&mut self) -> Result<()> {
        for (key, why) in self.state.metas_below(STOP)? {
            let line = key.strip_prefix(STOP).unwrap_or_default().to_owned();
            self.publishing_stopped.insert(line, Stop::of_text(&why));
        }
        self.look_at_own_ends()?;
        self.look_for_later_generation()
    }

    /// Damage in an own chain may have been healed since it stopped this machine.
    pub fn look_again_at_own_ends(&mut self) -> Result<()> {
        if !self.publishing_stopped.contains_key(UNREAD) {
            return Ok(());
        }
        self.replay()?;
        self.look_at_own_ends()
    }

    /// An own chain of which more stands here than the index could read is not written on: its numbers are taken.
    fn look_at_own_ends(&mut self) -> Result<()> {
        for space in [Space::shared(), self.private_space.clone()] {
            let chain = self.identity.chain(space);
            let read = self.index.applied(&chain)?.map_or(0, |(seq, _)| seq);
            let Some(next) = self.ledger.checkpoint_names(&chain, read)?.into_iter().next() else { continue };
            let why =
                format!("what this folder wrote last cannot be read: {next} is damaged, or something that it needs");
            let way_on =
                format!("`larder sync` asks every store for good bytes; if none holds them, {}", way_on(&chain.origin));
            return self.stop(UNREAD, Stop { why, way_on });
        }
        self.forget_stop(UNREAD)
    }

    /// Notes what an exchange tells of our own chains; only one that saw everything can take it back.
    pub(super) fn note_stops(&mut self, line: &str, done: &exchange::Report, saw_all: bool) -> Result<()> {
        let twin = done.findings.iter().find_map(|finding| Some((finding, twin_sentence(finding)?)));
        if let Some((_, why)) = twin {
            let why = format!("{why} (in {})", line.strip_suffix(":exchange").unwrap_or(line));
            self.stop(line, Stop::new(why, &self.identity.origin().clone()))?;
        } else if saw_all {
            self.forget_stop(line)?;
        }
        if done.pulled.is_empty() { Ok(()) } else { self.look_for_later_generation() }
    }

    /// The same origin goes on elsewhere: another machine adopted it, or this one is older than what it once wrote.
    fn look_for_later_generation(&mut self) -> Result<()> {
        let (origin, own) = (self.identity.origin().clone(), self.identity.generation());
        let later = self.ledger.chains()?.into_iter().filter(|chain| chain.origin == origin);
        let Some(later) = later.map(|chain| chain.generation).filter(|&known| known > own).max() else {
            return Ok(());
        };
        let why = format!(
            "{origin} goes on elsewhere as generation {later}, and this folder is generation {own} of it: another machine adopted it, or this folder was restored from a backup"
        );
        let stop = Stop::new(why, &origin);
        let problem = Problem { path: origin.to_string(), what: stop.to_string() };
        self.state.set_problems(SOURCE, &[problem], self.now_ms() as i64)?;
        self.stop(LATER, stop)
    }

    fn stop(&mut self, line: &str, stop: Stop) -> Result<()> {
        self.state.set_meta(&format!("{STOP}{line}"), Some(stop.to_text().as_bytes()))?;
        self.publishing_stopped.insert(line.to_owned(), stop);
        Ok(())
    }

    fn forget_stop(&mut self, line: &str) -> Result<()> {
        if self.publishing_stopped.remove(line).is_some() {
            self.state.set_meta(&format!("{STOP}{line}"), None)?;
        }
        Ok(())
    }

    /// A peer that is not asked any more stops nothing.
    pub(super) fn forget_other_stops(&mut self, lines: &[String]) -> Result<()> {
        let stops = self.publishing_stopped.keys();
        let gone: Vec<String> =
            stops.filter(|line| line.starts_with(PEER_LINE) && !lines.contains(line)).cloned().collect();
        gone.iter().try_for_each(|line| self.forget_stop(line))
    }

    /// True if a fork is history: its origin went on as a later generation, which freezes the chain.
    pub(super) fn is_settled(&self, finding: &Finding, chains: &[Chain]) -> bool {
        let Finding::Forked { chain, .. } = finding else { return false };
        let own = self.identity.chain(chain.space.clone());
        let later = |other: &Chain| other.origin == chain.origin && other.generation > chain.generation;
        later(&own) || chains.iter().any(later)
    }

    /// Says in the ledger that a later generation began, before it has anything else to say: others learn that its chain
    /// before is closed, and nobody takes the same generation again. Does nothing for a first generation.
    pub fn claim_generation(&mut self) -> Result<()> {
        let space = Space::shared();
        if self.identity.generation() == 1 || self.own_chain(&space)?.tip.is_some() {
            return Ok(());
        }
        let mut seen = BTreeMap::new();
        for chain in self.ledger.chains()? {
            let before = chain.space == space && chain.origin == *self.identity.origin();
            if let Some((seq, hash)) = self.index.applied(&chain)?.filter(|_| before) {
                seen.insert(chain, Seen(seq, ShortHash::of(&hash)));
            }
        }
        let pen = self.pen();
        let open = self.open_batch(&pen, &space)?;
        let wall_ms = self.now_ms();
        let hlc = self.clock.tick(wall_ms, None);
        let Some(published) = open.batch.finish(hlc, seen)? else { return Ok(()) };
        self.take_in_own(&space, published.tip, published.places, Vec::new()).map(drop)
    }
}

/// What a finding says of a second writer behind our chain; `None` if it says nothing of that.
pub(super) fn twin_sentence(finding: &Finding) -> Option<String> {
    match finding {
        Finding::OwnChainAhead { chain, here, there } => Some(format!(
            "{} went on without this folder, which ends at checkpoint {here}, while {} exists: this folder was restored from a backup, or a copy of it works elsewhere",
            chain.origin,
            there.file()
        )),
        Finding::OwnChainForked { chain, here, there } => Some(format!(
            "two machines write as {}: this folder wrote {} and another one {}, both of which are kept",
            chain.origin,
            here.as_ref().map_or_else(|| "nothing yet".to_owned(), |here| here.file()),
            there.file()
        )),
        _ => None,
    }
}

/// What settles it.
pub(super) fn way_on(origin: &OriginName) -> String {
    format!(
        "`larder origin adopt {origin}` here if this folder is to go on as it, `larder origin new` if another one does; nothing is lost either way"
    )
}
