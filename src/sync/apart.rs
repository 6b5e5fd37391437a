//! Apart: chains of owners who are not accepted here, kept beside the ledger, unread, until somebody lets their owner in.
//!
//! `.larder/apart/` is a ledger of its own that nothing replays. Invariant: what stands there was proven to be what its name says and
//! came in the order of its chain, and nothing else was made of it; it is not offered to anybody. Once its owner is accepted it moves
//! into the ledger without a new transfer, and only what is whole there leaves here. Who is accepted is `members`' question.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::exchange::{
    Budget, Cause, Direction, ExchangeConfig, LocalStore, MemoryJournal, Need, Owner, Report as Exchanged,
    Thoroughness, Trust, exchange,
};
use super::members::{Members, Word, heads_about};
use super::{Engine, Report, Result, SyncError};
use crate::index::Reader;
use crate::ledger::{ArtifactName, Ledger, PublicKey};
use crate::model::{Chain, Membership, OriginName, Space};
use crate::state::Problem;
use crate::transport::Transport;

/// The folder, in `.larder`.
const APART: &str = "apart";
/// Who tells of it in `status`.
const SOURCE: &str = "apart";
/// What may stand apart in all, in bytes; more of it is fetched once it is accepted.
const MAX_APART_BYTES: u64 = 1 << 30;

/// An owner, and what is known of it here.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Known {
    /// The key, 64 hex digits: what counts.
    pub key: String,
    /// A label.
    pub owner: String,
    /// The machines that write with it.
    pub origins: Vec<OriginName>,
    /// How it stands.
    pub standing: Standing,
}

/// How an owner stands here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// This machine's own.
    Own,
    /// Taken in.
    Accepted,
    /// Kept apart until somebody accepts it.
    Waiting,
    /// Taken out: nothing new is taken.
    Removed,
}

fn owners_of(ledger: &Ledger) -> Result<BTreeMap<Chain, Owner>> {
    let mut owners = BTreeMap::new();
    for chain in ledger.chains()? {
        if let Some(owner) = ledger.newest_sound(&chain)?.map(|newest| Owner::of(&newest.body.cert)) {
            owners.insert(chain, owner);
        }
    }
    Ok(owners)
}

/// The ledger of what stands apart, if there is one.
fn ledger_apart(larder: &Path) -> Result<Option<Ledger>> {
    let folder = larder.join(APART);
    Ok(if folder.exists() { Some(Ledger::open(&folder)?) } else { None })
}

fn words_in(index: &Reader, owners: &BTreeMap<Chain, Owner>) -> Result<Vec<Word>> {
    let events = index.membership_events()?.into_iter().filter(|(chain, _)| chain.space.is_shared());
    let word = |(chain, event): (Chain, crate::model::MetaEvent)| {
        let (hash, said) = (event.hash(), event.as_membership()?);
        Some(Word { hash, by: owners.get(&chain)?.key, said, prev: event.prev })
    };
    Ok(events.filter_map(word).collect())
}

/// Everybody who may write here, who waits and who was removed, in the order of how they stand. For people.
pub fn known_owners(index: &Reader, ledger: &Ledger, own: Owner) -> Result<Vec<Known>> {
    let (here, apart) = (owners_of(ledger)?, ledger_apart(ledger.larder())?);
    let apart = apart.as_ref().map(owners_of).transpose()?.unwrap_or_default();
    let words = words_in(index, &here)?;
    let present = here.values().map(|owner| owner.key).collect();
    let members = Members::of(own.key, &present, &words);
    let mut known: BTreeMap<PublicKey, Known> = BTreeMap::new();
    let labels = words.iter().map(|word| (PublicKey::from_bytes(*word.said.key.as_bytes()), word.said.owner.clone()));
    let met = here.iter().chain(&apart).map(|(_, owner)| (owner.key, owner.name.clone()));
    for (key, owner) in std::iter::once((own.key, own.name.clone())).chain(met).chain(labels) {
        let standing = match () {
            () if key == own.key => Standing::Own,
            () if members.removed.contains(&key) => Standing::Removed,
            () if members.accepted.contains(&key) => Standing::Accepted,
            () => Standing::Waiting,
        };
        let one = Known { key: key.to_string(), owner, origins: Vec::new(), standing };
        known.entry(key).or_insert(one);
    }
    for (chain, owner) in here.iter().chain(&apart) {
        let origins = known.get_mut(&owner.key).map(|known| &mut known.origins);
        origins
            .into_iter()
            .filter(|origins| !origins.contains(&chain.origin))
            .for_each(|o| o.push(chain.origin.clone()));
    }
    let mut known: Vec<Known> = known.into_values().collect();
    known.sort_by(|a, b| (a.standing, &a.owner, &a.key).cmp(&(b.standing, &b.owner, &b.key)));
    Ok(known)
}

impl Engine {
    fn own_owner(&self) -> Owner {
        Owner::of(self.identity.certificate())
    }

    /// Everybody who is known here as an owner.
    pub fn known_owners(&self) -> Result<Vec<Known>> {
        known_owners(&self.index, &self.ledger, self.own_owner())
    }

    /// Who may write here. Where everybody may and nothing was said, nobody has to be looked up.
    pub(super) fn members(&self, trust: Trust) -> Result<Members> {
        if trust == Trust::FirstUse && self.index.membership_events()?.is_empty() {
            return Ok(Members::default());
        }
        let owners = owners_of(&self.ledger)?;
        let present = owners.values().map(|owner| owner.key).collect();
        Ok(Members::of(self.own_owner().key, &present, &words_in(&self.index, &owners)?))
    }

    /// The chains that stand apart, with their owners.
    pub(super) fn apart(&self) -> Result<BTreeMap<Chain, Owner>> {
        let ledger = ledger_apart(self.ledger.larder())?;
        ledger.as_ref().map(owners_of).transpose().map(Option::unwrap_or_default)
    }

    /// Fetches the chains whose owners an exchange with this place found unknown, to stand apart.
    ///
    /// What cannot be had now is tried again by the next exchange. Errors: only what is about this machine.
    pub(super) fn keep_apart(&self, place: &dyn Transport, done: &Exchanged) -> Result<()> {
        let unknown = done.waiting.iter().filter(|waiting| matches!(waiting.need, Need::Owner(_)));
        let chains: BTreeSet<Chain> = unknown.map(|waiting| waiting.name.chain().clone()).collect();
        if chains.is_empty() {
            return Ok(());
        }
        let apart = Ledger::open(&self.ledger.larder().join(APART))?;
        apart.clean_staging()?;
        let mut held: u64 = 0;
        for origin in apart.chains()?.iter().map(|chain| &chain.origin).collect::<BTreeSet<_>>() {
            held = held.saturating_add(apart.held_bytes(origin)?);
        }
        let spaces = chains.iter().map(|chain| chain.space.clone()).collect::<BTreeSet<Space>>();
        let config = ExchangeConfig {
            direction: Direction::Pull,
            only: Some(chains),
            thoroughness: Thoroughness::Whole,
            max_origin_bytes: self.policy.max_origin_bytes,
            budget: Budget { bytes: MAX_APART_BYTES.saturating_sub(held), ..self.exchange_budget },
            ..ExchangeConfig::new(&self.policy.app, spaces.into_iter().collect())
        };
        // That the place is away now, or damaged, was told by the exchange before.
        if let Err(error) = exchange(&apart, place, &config, &mut MemoryJournal::default())
            && matches!(error.cause, Cause::Local(_))
        {
            let problem = Problem { path: format!(".larder/{APART}"), what: error.to_string() };
            self.state.set_problems(SOURCE, &[problem], self.now_ms() as i64)?;
        }
        Ok(())
    }

    /// Takes what stands apart and belongs to owners who are accepted by now into the ledger, and replays it. Returns how many
    /// artifacts came. What belongs to removed ones goes.
    pub fn take_apart(&mut self, report: &mut Report) -> Result<u64> {
        let Some(apart) = ledger_apart(self.ledger.larder())? else { return Ok(0) };
        let members = self.members(Trust::Members)?;
        let (mut came, mut problems) = (0, Vec::new());
        let owners = owners_of(&apart)?;
        // Nobody's any more: cut off while it came or went, or damaged. It is fetched again if it is wanted.
        for chain in apart.chains()?.iter().filter(|chain| !owners.contains_key(chain)) {
            remove_chain(&apart, chain)?;
        }
        for (chain, owner) in owners {
            if members.removed.contains(&owner.key) {
                remove_chain(&apart, &chain)?;
            } else if members.accepted.contains(&owner.key) {
                match self.take_chain(&apart, &chain) {
                    Ok(taken) => came += taken,
                    // What is damaged apart comes from a store, as that of any member; the others do not wait for it.
                    Err(error @ (SyncError::Ledger(_) | SyncError::Refused { .. })) => {
                        problems.push(Problem { path: chain.to_string(), what: error.to_string() });
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        self.state.set_problems(SOURCE, &problems, self.now_ms() as i64)?;
        report.pulled += came;
        if came > 0 {
            self.replay()?;
        }
        Ok(came)
    }

    /// Moves one chain: parts first, then its checkpoints from the first on, so that a stop in between leaves a chain without a gap.
    fn take_chain(&self, apart: &Ledger, chain: &Chain) -> Result<u64> {
        let mut came = 0;
        for name in &apart.artifact_names(chain)? {
            if self.ledger.has(name) {
                continue;
            }
            let bytes = apart.read_whole(name)?;
            if let ArtifactName::Checkpoint { .. } = name {
                let facts = LocalStore::inspect(apart, name, &bytes);
                let facts = facts.map_err(|error| refused(chain, error.to_string()))?;
                self.state.pin_key(&chain.to_string(), &facts.key)?;
                if self.state.key(&chain.to_string())? != Some(facts.key) {
                    return Err(refused(chain, "another key was accepted for this machine".to_owned()));
                }
            }
            LocalStore::put(&*self.ledger, name, &bytes).map_err(|error| refused(chain, error.to_string()))?;
            came += 1;
        }
        remove_chain(apart, chain)?;
        Ok(came)
    }

    /// Says of an owner that its devices may write, or may not any more, to everybody who accepts this machine's owner.
    ///
    /// Errors: Refused while nothing may be published, and about this machine's own owner.
    pub fn say_of_owner(&mut self, owner: &Owner, admits: bool) -> Result<()> {
        if let Some(stop) = self.stopped() {
            return Err(SyncError::Stopped(stop));
        }
        if owner.key == self.own_owner().key {
            let why = "it is this machine's own owner, who may always write here".to_owned();
            return Err(SyncError::Refused { path: owner.to_string(), why });
        }
        let words = words_in(&self.index, &owners_of(&self.ledger)?)?;
        let said = Membership {
            key: crate::model::Hash::from_bytes(*owner.key.as_bytes()),
            owner: owner.name.clone(),
            admits,
        };
        self.publish_membership(&said, heads_about(owner.key, &words))
    }
}

fn refused(chain: &Chain, why: String) -> SyncError {
    SyncError::Refused { path: chain.to_string(), why }
}

/// Its checkpoints go first: what is left of a removal that was cut off has no owner and is fetched anew.
fn remove_chain(apart: &Ledger, chain: &Chain) -> Result<()> {
    let folder = apart.root().join(chain.to_string());
    for part in [folder.join("checkpoints"), folder] {
        match std::fs::remove_dir_all(&part) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(SyncError::Io { doing: "remove what stood apart", source: error });
            }
            _ => {}
        }
    }
    Ok(())
}
