//! A look at every byte of every store: what stands there under a name that it is not, and what can be done about it.
//!
//! Invariant: bytes are read within their kind's bound, one artifact at a time; only what is proven wrong is replaced, and only by
//! bytes of our own that were verified a moment before. Whatever is wrong and not here is named, never removed.

use std::sync::Arc;

use super::exchange::Direction;
use super::peers::{Peer, mend_store_file_of};
use super::{Engine, Result, SyncError};
use crate::ledger::{ArtifactName, Depth as Deep, Finding, Ledger, max_artifact_bytes, proves_wrong, verify_bytes};
use crate::model::Space;
use crate::transport::{Depth, ListRequest, Transport, TransportError, TransportErrorKind};

/// Pages of one space that are read; a store with more is looked at in part, and says so.
const MAX_PAGES: u64 = 10_000;

/// What a store was found to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreLook {
    /// What the user calls the store.
    pub store: String,
    /// Artifacts read.
    pub read: u64,
    /// Artifacts with wrong bytes that were replaced by ours, or would be.
    pub mended: Vec<ArtifactName>,
    /// Artifacts with wrong bytes that are not here either.
    pub wrong: Vec<ArtifactName>,
    /// Artifacts that this release cannot judge, or that could not be read, and why.
    pub unread: Vec<(ArtifactName, String)>,
    /// Why the store could not be looked at to its end, if it could not.
    pub failed: Option<String>,
}

/// Reads every artifact that a place holds of these spaces. Wrong ones that `ledger` has whole are in `mended`; `mend` is
/// told of each of them with the right bytes.
pub fn look_through(
    store: &str,
    place: &dyn Transport,
    app: &str,
    spaces: &[Space],
    ledger: &Ledger,
    mut mend: impl FnMut(&str, &[u8]) -> std::result::Result<bool, TransportError>,
) -> StoreLook {
    let mut look = StoreLook { store: store.to_owned(), ..StoreLook::default() };
    for space in spaces {
        if let Err(error) = look.space(place, app, space, ledger, &mut mend) {
            look.failed = Some(error.to_string());
            break;
        }
    }
    look
}

impl StoreLook {
    fn space(
        &mut self,
        place: &dyn Transport,
        app: &str,
        space: &Space,
        ledger: &Ledger,
        mend: &mut impl FnMut(&str, &[u8]) -> std::result::Result<bool, TransportError>,
    ) -> std::result::Result<(), TransportError> {
        let mut request = ListRequest::new(format!("{app}/{space}/"), Depth::All);
        for _ in 0..MAX_PAGES {
            let listing = place.list(&request)?;
            for name in &listing.names {
                let artifact = name.strip_prefix(app).and_then(|rest| rest.strip_prefix('/')?.parse().ok());
                if let Some(artifact) = artifact {
                    self.artifact(place, name, artifact, ledger, mend)?;
                }
            }
            request.after = listing.names.last().cloned();
            if !listing.more || listing.names.is_empty() {
                return Ok(());
            }
        }
        let detail = format!("more than {MAX_PAGES} pages of names stand there");
        Err(TransportError::new(TransportErrorKind::TooLarge, "list", &request.prefix, detail))
    }

    fn artifact(
        &mut self,
        place: &dyn Transport,
        name: &str,
        artifact: ArtifactName,
        ledger: &Ledger,
        mend: &mut impl FnMut(&str, &[u8]) -> std::result::Result<bool, TransportError>,
    ) -> std::result::Result<(), TransportError> {
        self.read += 1;
        let why = match place.get(name, None, max_artifact_bytes(artifact.kind())) {
            Ok(bytes) => match verify_bytes(&artifact, &bytes) {
                Ok(()) => return Ok(()),
                Err(_) if proves_wrong(&artifact, &bytes) => None,
                Err(damage) => Some(damage.to_string()),
            },
            Err(error) => match error.kind {
                TransportErrorKind::TooLarge | TransportErrorKind::Corrupt => None,
                // It went while we looked.
                TransportErrorKind::NotFound => return Ok(()),
                _ if error.is_about_the_place() => return Err(error),
                _ => Some(error.to_string()),
            },
        };
        match (why, ledger.read_whole(&artifact)) {
            (Some(why), _) => self.unread.push((artifact, why)),
            (None, Ok(ours)) if verify_bytes(&artifact, &ours).is_ok() && mend(name, &ours)? => {
                self.mended.push(artifact);
            }
            (None, _) => self.wrong.push(artifact),
        }
        Ok(())
    }
}

impl Engine {
    /// Reads every byte of every store, and puts right what is here whole. With `dry_run` only tells.
    pub fn look_through_stores(&mut self, dry_run: bool) -> Result<Vec<StoreLook>> {
        let mut looks = Vec::new();
        for peer in self.policy.peers.clone() {
            let mut spaces = vec![Space::shared()];
            if peer.private {
                spaces.push(self.private_space.clone());
            }
            let look = match self.place_to_look_at(&peer) {
                Ok(Some(place)) => self.look_at(&peer.name, &place, &spaces, dry_run || !peer.push),
                Ok(None) => continue,
                Err(SyncError::Transport(error)) => failed(&peer.name, error.to_string()),
                Err(SyncError::Marker(why)) => failed(&peer.name, why),
                Err(error) => return Err(error),
            };
            looks.push(look);
        }
        let Some(adapter) = self.adapter.clone() else { return Ok(looks) };
        if dry_run && self.kept_project()?.is_none() {
            return Ok(looks);
        }
        let mut spaces = vec![Space::shared()];
        if adapter.capabilities().own {
            spaces.push(self.private_space.clone());
        }
        let look = match self.backend_transport() {
            Ok(Some(place)) => {
                let place: Arc<dyn Transport> = place;
                self.look_at("the backend", &place, &spaces, dry_run)
            }
            Ok(None) => return Ok(looks),
            Err(SyncError::Adapter(error)) => failed("the backend", error.to_string()),
            Err(SyncError::Transport(error)) => failed("the backend", error.to_string()),
            Err(error) => return Err(error),
        };
        looks.push(look);
        Ok(looks)
    }

    /// The place of a peer that holds this project; `None` if it holds nothing of it yet.
    fn place_to_look_at(&mut self, peer: &Peer) -> Result<Option<Arc<dyn Transport>>> {
        let place = self.peer_place(peer)?;
        Ok(self.belongs_there(peer, &*place, Direction::Pull)?.then_some(place))
    }

    /// Writes again what says that a folder is a store, where this project was before and that is damaged or gone.
    pub fn mend_store_files(&mut self) -> Result<()> {
        for peer in self.policy.peers.clone() {
            match self.peer_place(&peer) {
                Err(SyncError::Transport(error)) => {
                    // What cannot be mended is told by the exchange.
                    let _ = mend_store_file_of(&self.state, &peer, self.root.path(), &error);
                }
                place => drop(place?),
            }
        }
        Ok(())
    }

    fn look_at(&self, store: &str, place: &Arc<dyn Transport>, spaces: &[Space], dry_run: bool) -> StoreLook {
        let mending = place.mending();
        let mut look =
            look_through(store, &**place, &self.policy.app, spaces, &self.ledger, |name, ours| match mending {
                Some(_) if dry_run => Ok(true),
                Some(mending) => match mending.mend(name, ours) {
                    // Somebody else is at it, or an older server does not put it right: it is named as wrong.
                    Err(error) if error.kind == TransportErrorKind::Conflict => Ok(false),
                    mended => mended.and_then(|()| mending.settle(name)).map(|()| true),
                },
                None => Ok(false),
            });
        if let (Some(mending), false) = (mending, dry_run) {
            for name in &look.wrong {
                if let Err(error) = mending.ask(&format!("{}/{name}", self.policy.app)) {
                    look.failed.get_or_insert(error.to_string());
                }
            }
        }
        look
    }

    /// What is wrong with the ledger here.
    pub fn verify_ledger(&self, depth: Deep) -> Result<Vec<Finding>> {
        Ok(self.ledger.verify(depth)?)
    }

    /// Notes that an artifact is damaged or lost here, so that the next exchange asks for it.
    pub fn note_damage(&self, name: &ArtifactName, why: &str) -> Result<()> {
        Ok(self.ledger.note_damage(name, why)?)
    }

    /// Packs that checkpoints name and that are not here.
    pub fn awaited_packs(&self) -> Result<Vec<ArtifactName>> {
        let mut packs = self.index.absent_packs()?;
        packs.retain(|name| !self.ledger.has(name));
        Ok(packs)
    }

    /// From here on every store is listed whole once more.
    pub fn list_whole(&mut self) {
        self.whole_exchanges_ms.clear();
    }
}

fn failed(store: &str, why: String) -> StoreLook {
    StoreLook { store: store.to_owned(), failed: Some(why), ..StoreLook::default() }
}
