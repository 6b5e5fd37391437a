//! Peers: the places of the config where artifacts are exchanged beside the backend.
//!
//! Invariant: each peer stands for itself: one that is away, belongs to another project or refuses is noted in the journal and
//! the report, and stops nothing else. What a peer lacks is never taken for lost: a store that was there before and is
//! empty now is refused rather than filled or believed. A store is this project's if one of its ids is one that this project has
//! in another store, or if it was named before this project had any.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::exchange::{Direction, Trust};
use super::stores::{DAMAGE_THERE, Marks, PROJECT, Terms};
use super::{Engine, Report, Result, SyncError};
use crate::config::address::{Address, scheme};
use crate::env::Env;
use crate::ledger::MAX_CHECKPOINT_BYTES;
use crate::model::Space;
use crate::state::{self, State, StateError};
use crate::transport::marker::ProjectId;
use crate::transport::{self, Deadlines, Marker, Opening, Transport, TransportError, TransportErrorKind};

/// Begins the journal's lines of peers, before the name.
pub const PEER_LINE: &str = "peer ";
/// Begins the entries in `state.db` of places that hold this project, each with the id it has there.
pub(super) const HELD: &str = "held by ";
/// Begins those of places that were named when this project was new here and not yet heard: what they hold, it is.
pub(super) const AWAITED: &str = "awaits ";

/// Whom a run asks for news.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Asked {
    /// Nobody: something changed here.
    Nobody,
    /// Those who rang.
    These {
        /// The backend.
        backend: bool,
        /// Peers by name.
        peers: BTreeSet<String>,
    },
    /// The backend and every peer.
    #[default]
    Everybody,
    /// The same because it is time to, and nobody asked: but not the peers that kept a run waiting in vain lately, or asked to be left alone.
    Due,
}

impl Asked {
    /// Whether the backend is asked.
    pub fn backend(&self) -> bool {
        self.is_everybody() || matches!(self, Asked::These { backend: true, .. })
    }

    /// Whether the peer of this name is asked.
    pub fn peer(&self, name: &str) -> bool {
        match self {
            Asked::Nobody => false,
            Asked::These { peers, .. } => peers.contains(name),
            Asked::Everybody | Asked::Due => true,
        }
    }

    /// Whether all are asked.
    pub fn is_everybody(&self) -> bool {
        matches!(self, Asked::Everybody | Asked::Due)
    }
}

/// Chains whose agreed checkpoint is looked for where a marker was lost; one that is there is enough.
const MAX_CHAINS_LOOKED_AT: usize = 100;

/// A place of the config.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// What the config calls it.
    pub name: String,
    /// Where it is; folders are absolute.
    pub address: Address,
    /// Whether it is one's own, so that private files may go there.
    pub private: bool,
    /// Whether to take from it.
    pub pull: bool,
    /// Whether to give to it.
    pub push: bool,
    /// Who is believed there.
    pub trust: Trust,
}

impl Peer {
    /// Its line in the journal.
    pub fn line(&self) -> String {
        format!("{PEER_LINE}{}", self.name)
    }

    fn goes(&self, direction: Direction) -> bool {
        match direction {
            Direction::Pull => self.pull,
            Direction::Push => self.push,
            Direction::Both => self.pull || self.push,
        }
    }

    fn ways(&self, direction: Direction) -> Vec<state::Direction> {
        let pull = (self.pull && direction != Direction::Push).then_some(state::Direction::Pull);
        let push = (self.push && direction != Direction::Pull).then_some(state::Direction::Push);
        pull.into_iter().chain(push).collect()
    }
}

/// Opens the place of a peer of the project that lives in `root` and keeps its own things in `larder`.
///
/// Errors: the transport's; Denied for a folder inside the project, whose files would be taken for the project's own.
pub fn open_peer(
    env: &Env,
    address: &Address,
    app: &str,
    root: &std::path::Path,
    larder: &std::path::Path,
) -> std::result::Result<Arc<dyn Transport>, TransportError> {
    open_peer_in_time(env, address, app, (root, larder), Deadlines::default())
}

fn open_peer_in_time(
    env: &Env,
    address: &Address,
    app: &str,
    (root, larder): (&std::path::Path, &std::path::Path),
    deadlines: Deadlines,
) -> std::result::Result<Arc<dyn Transport>, TransportError> {
    let text = address.reveal();
    let folder = scheme(text).is_none().then(|| root.join(text));
    let (own, shown) = (root.to_owned(), address.to_string());
    let check = move || match (folder.map(|folder| folder.canonicalize()), own.canonicalize()) {
        (Some(Ok(folder)), Ok(own)) if folder.starts_with(&own) => {
            let detail = "it stands inside the project, whose files it would hold and be: name a folder elsewhere";
            Err(TransportError::new(TransportErrorKind::Denied, "open", &shown, detail))
        }
        // What is not there is told by opening it.
        _ => Ok(()),
    };
    let (vars, larder) = (Arc::new(env.vars.clone()), Some(larder.to_owned()));
    let opening = Opening { app: app.to_owned(), base: root.to_owned(), vars, larder, deadlines };
    transport::open_checked(text, &opening, check)
}

impl Engine {
    /// Exchanges artifacts with peers, one after the other, and replays what came: takes from those who are asked, and gives to all.
    ///
    /// A peer that failed in this run is not tried again, and one that failed before only if it is asked: who is away must not
    /// hold up each edit. Errors: only what is about this machine.
    pub fn exchange_peers(&mut self, asked: &Asked, direction: Direction, report: &mut Report) -> Result<()> {
        let peers = self.policy.peers.clone();
        self.exchange_with(&peers, asked, direction, report)
    }

    /// The same with these peers alone, whether the config names them or not.
    pub fn exchange_with(
        &mut self,
        peers: &[Peer],
        asked: &Asked,
        direction: Direction,
        report: &mut Report,
    ) -> Result<()> {
        if !peers.is_empty() {
            self.await_places(peers)?;
        }
        for peer in peers {
            let began_ms = self.now_ms();
            let is_paused = *asked == Asked::Due && self.pauses.holds(&peer.name, began_ms);
            let is_asked = asked.peer(&peer.name) && !is_paused;
            let tries = is_asked || (direction != Direction::Pull && !self.away.contains(&peer.name));
            if asked.peer(&peer.name) || direction != Direction::Pull {
                self.left_over.take_up(&peer.line(), direction);
            }
            let failed = report.peer_errors.iter().any(|(name, _)| *name == peer.name);
            if !tries || failed || !peer.goes(direction) {
                continue;
            }
            let (why, wait_ms) = match self.exchange_peer(peer, direction, report) {
                Ok(None) => {
                    self.away.remove(&peer.name);
                    self.pauses.answered(&peer.name);
                    // It is there, so the next edit goes there at once; but who trusts a run's end trusts that all of it arrived.
                    let undelivered = self.told.get(&peer.line()).and_then(|told| told.undelivered.clone());
                    report.peer_errors.extend(undelivered.map(|why| (peer.name.clone(), why)));
                    continue;
                }
                Ok(Some(why)) => (why, self.wait_asked_by(&peer.line())),
                Err(SyncError::Transport(error)) if error.kind == TransportErrorKind::AtWork => {
                    self.left_over.leave(&peer.line(), direction, true);
                    continue;
                }
                Err(SyncError::Transport(error)) => (error.to_string(), error.wait_ms()),
                Err(SyncError::Marker(why)) => (why, None),
                Err(error) => return Err(error),
            };
            // Opened anew next time: another disk may be mounted there by then.
            self.open_peers.remove(&peer.name);
            self.away.insert(peer.name.clone());
            let now_ms = self.now_ms();
            self.pauses.failed(&peer.name, began_ms, now_ms);
            if let Some(wait_ms) = wait_ms {
                self.pauses.asked_for(&peer.name, now_ms, wait_ms);
            }
            let now = now_ms as i64;
            for way in peer.ways(Direction::Both) {
                self.state.note_failure(&peer.line(), way, now, &why)?;
            }
            report.peer_errors.push((peer.name.clone(), why));
        }
        Ok(())
    }

    /// How long places are waited for, for whoever has more to do meanwhile.
    pub fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    /// The peers of the config that failed when they were tried last.
    pub fn away(&self) -> impl Iterator<Item = &str> {
        self.policy.peers.iter().map(|peer| peer.name.as_str()).filter(|name| self.away.contains(*name))
    }

    /// Those of them who are asked.
    pub fn away_of(&self, asked: &Asked) -> Vec<String> {
        self.away().filter(|name| asked.peer(name)).map(str::to_owned).collect()
    }

    /// The places that are open and taken from, by the peers' names: for whoever waits for news there.
    pub fn open_places(&self) -> Vec<(String, Arc<dyn Transport>)> {
        let takes = |name: &String| self.policy.peers.iter().any(|peer| peer.pull && peer.name == *name);
        let open = self.open_peers.iter().filter(|(name, _)| takes(name));
        open.map(|(name, open)| (name.clone(), open.place.clone())).collect()
    }

    /// While this project has no id, what it is told to exchange with is its own, also if it is heard later: those places, and
    /// those of the config though they may not be asked now.
    fn await_places(&self, peers: &[Peer]) -> Result<()> {
        if self.kept_project()?.is_some() {
            return Ok(());
        }
        for peer in peers.iter().chain(&self.policy.peers) {
            self.state.set_meta(&awaited_key(&peer.address), Some(b"1"))?;
        }
        Ok(())
    }

    /// Counts what a place holds that is not here, and takes nothing. One that cannot be used is noted in the report alone.
    pub fn count_at(&mut self, peer: &Peer, report: &mut Report) -> Result<()> {
        // A dry run gives the project its id too: in earnest it must not be a stranger there for that.
        self.await_places(std::slice::from_ref(peer))?;
        let looked = self.peer_place(peer).and_then(|place| {
            held_there(&self.state, &peer.address, &*place, &self.policy.app)?;
            self.count_missing(&*place, &[Space::shared()])
        });
        match looked {
            Ok(missing) => report.to_receive += missing,
            Err(error @ (SyncError::Transport(_) | SyncError::Marker(_))) => {
                report.peer_errors.push((peer.name.clone(), error.to_string()));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Forgets what the journal says of peers that are in the config no more.
    pub fn forget_other_peers(&mut self) -> Result<()> {
        let lines: Vec<String> = self.policy.peers.iter().map(Peer::line).collect();
        self.forget_other_stops(&lines)?;
        let peers = &self.policy.peers;
        self.open_peers
            .retain(|name, open| peers.iter().any(|peer| peer.name == *name && peer.address == open.address));
        self.told.retain(|line, _| !line.starts_with(PEER_LINE) || lines.contains(line));
        self.left_over.retain(|line| !line.starts_with(PEER_LINE) || lines.iter().any(|kept| kept == line));
        let damage = lines.iter().map(|line| format!("{line}{DAMAGE_THERE}"));
        let kept: Vec<String> = damage.chain(lines.iter().cloned()).collect();
        Ok(self.state.forget_stores(PEER_LINE, &kept)?)
    }

    /// The id that a place had, if all its markers are gone and what it held of this project still stands there: then it is no
    /// empty mount point and nobody else's, and the marker alone was lost.
    fn lost_marker(&self, peer: &Peer, place: &dyn Transport) -> Result<Option<ProjectId>> {
        let app = &self.policy.app;
        let id = self.state.meta_text(&held_key(&peer.address))?.and_then(|id| ProjectId::try_from(id).ok());
        let no_marker = matches!(Marker::of_place(place, app, None, false), Ok(None));
        let Some(id) = id.filter(|_| no_marker) else { return Ok(None) };
        for chain in self.ledger.chains()?.into_iter().take(MAX_CHAINS_LOOKED_AT) {
            let Some((agreed, _)) = self.state.watermark(place.label(), &chain.to_string())? else { continue };
            let ours = self.ledger.checkpoint_names(&chain, agreed.saturating_sub(1))?;
            let Some(ours) = ours.first().filter(|_| agreed > 0) else { continue };
            if place
                .get(&format!("{app}/{ours}"), None, MAX_CHECKPOINT_BYTES)
                .is_ok_and(|there| self.ledger.read_whole(ours).is_ok_and(|here| here == there))
            {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn exchange_peer(&mut self, peer: &Peer, direction: Direction, report: &mut Report) -> Result<Option<String>> {
        let place = self.peer_place(peer)?;
        if !self.belongs_there(peer, &*place, direction)? {
            // A pull from a place where nothing is yet.
            let now = self.now_ms() as i64;
            self.state.note_success(&peer.line(), state::Direction::Pull, now)?;
            return Ok(None);
        }
        let mut spaces = vec![Space::shared()];
        if peer.private {
            spaces.push(self.private_space.clone());
        }
        let ways = peer.ways(direction);
        let (line, problems, push) = (peer.line(), peer.line(), peer.push);
        let (marks, trust, late) = (Marks::Kept, peer.trust, Vec::new());
        let terms = Terms { line, problems, ways, spaces, direction, push, marks, trust, late, gives_way: true };
        self.exchange_store(&*place, terms, report)
    }

    /// From here on a peer's place misbehaves as `wrap` makes it, until it is opened anew.
    #[cfg(test)]
    pub fn wrap_place(&mut self, peer: &Peer, wrap: impl FnOnce(Arc<dyn Transport>) -> Arc<dyn Transport>) {
        let place = wrap(self.peer_place(peer).expect("opens"));
        self.open_peers.insert(peer.name.clone(), OpenPeer { address: peer.address.clone(), place });
    }

    pub(super) fn peer_place(&mut self, peer: &Peer) -> Result<Arc<dyn Transport>> {
        if let Some(open) = self.open_peers.get(&peer.name).filter(|open| open.address == peer.address) {
            return Ok(open.place.clone());
        }
        let (app, larder) = (&self.policy.app, self.ledger.larder());
        let deadlines = self.deadlines.of_place(&peer.name);
        let place = open_peer_in_time(&self.env, &peer.address, app, (self.root.path(), larder), deadlines)?;
        // Another disk may be mounted there by now.
        self.forget_even(&peer.line());
        let open = OpenPeer { address: peer.address.clone(), place: place.clone() };
        self.open_peers.insert(peer.name.clone(), open);
        Ok(place)
    }

    /// Proves that a place holds this project; makes an empty one this project's unless only looked at. False if
    /// nothing is there.
    pub(super) fn belongs_there(&self, peer: &Peer, place: &dyn Transport, direction: Direction) -> Result<bool> {
        let app = &self.policy.app;
        let held = match held_there(&self.state, &peer.address, place, app) {
            Err(SyncError::Marker(why)) => match self.lost_marker(peer, place)? {
                Some(project) => {
                    if peer.push && !self.dry_run {
                        Marker::set_place(place, app, &project)?;
                    }
                    Some(project)
                }
                None => return Err(SyncError::Marker(why)),
            },
            held => held?,
        };
        let project = match held {
            Some(project) => project,
            None if direction == Direction::Pull => return Ok(false),
            None => {
                let ours = projects(&self.state)?;
                let project = ours.into_iter().next().unwrap_or_else(|| ProjectId::draw(&self.env));
                Marker::set_place(place, app, &project)?;
                project
            }
        };
        if self.dry_run {
            return Ok(true);
        }
        self.state.set_meta(&held_key(&peer.address), Some(project.as_str().as_bytes()))?;
        self.state.set_meta(&awaited_key(&peer.address), None)?;
        Ok(true)
    }
}

fn held_key(address: &Address) -> String {
    format!("{HELD}{address}")
}

fn awaited_key(address: &Address) -> String {
    format!("{AWAITED}{address}")
}

/// The id under which a place holds this project; `None` if it holds nothing of that name. Writes nothing.
///
/// Errors: Marker if it is another project's, or was filled before; the place's.
pub fn held_there(state: &State, address: &Address, place: &dyn Transport, app: &str) -> Result<Option<ProjectId>> {
    let seen = state.meta(&held_key(address))?.is_some();
    let takes_any = !seen && state.meta(&awaited_key(address))?.is_some();
    let ours = projects(state)?;
    Ok(Marker::of_place(place, app, Some(&ours).filter(|_| !takes_any), seen)?)
}

/// True if the backend was claimed for this project: only then is it one that is there.
pub fn claimed(state: &State) -> std::result::Result<bool, StateError> {
    Ok(state.meta(PROJECT)?.is_some())
}

/// Every id that this project has in its stores; none before any of them was heard.
pub fn projects(state: &State) -> std::result::Result<BTreeSet<ProjectId>, StateError> {
    let places = state.metas_below(HELD)?;
    let ids = state.meta(PROJECT)?.into_iter().chain(places.into_iter().map(|(_, id)| id));
    Ok(ids.filter_map(|id| ProjectId::try_from(String::from_utf8(id).ok()?).ok()).collect())
}

/// Writes the file that says that a folder is a store, if that is what is wrong there and the folder held this project before.
pub(super) fn mend_store_file_of(
    state: &State,
    peer: &Peer,
    root: &std::path::Path,
    error: &TransportError,
) -> Result<bool> {
    let address = peer.address.reveal();
    let folder = match scheme(address) {
        None => address,
        Some(("folder", _)) => address.strip_prefix("folder:").unwrap_or(address),
        Some(_) => return Ok(false),
    };
    let about_it = matches!(error.kind, TransportErrorKind::Corrupt | TransportErrorKind::Denied);
    if !about_it || !peer.push || state.meta(&held_key(&peer.address))?.is_none() {
        return Ok(false);
    }
    transport::folder::mend_store_file(&root.join(folder))?;
    Ok(true)
}

/// A place that was opened.
pub(super) struct OpenPeer {
    address: Address,
    place: Arc<dyn Transport>,
}
