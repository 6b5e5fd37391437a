//! From here to the store: everything of every chain that is here, its parts before the checkpoint.
//!
//! Invariant: when a checkpoint is offered, its records are there, and every pack that this side holds. Other people's
//! chains are offered exactly like our own, byte for byte.

use super::Phase;
use super::local::LocalError;
use super::run::{Run, Stop, View};
use crate::ledger::ArtifactName;

/// Whether an artifact is in the store now.
#[derive(PartialEq, Eq)]
enum Offer {
    There,
    /// We do not have it either.
    NotHere,
    /// The store did not take it.
    Declined,
}

impl Run<'_> {
    /// Offers what the store lacks of one chain, and what heals holes in it.
    pub fn push(&mut self, view: &mut View) -> Result<(), Stop> {
        self.rise_to_words(view);
        if view.closed {
            return Ok(());
        }
        for hole in view.holes.clone() {
            if self.local.has(&hole)? && self.offer_part(&hole)? == Offer::There {
                view.holes.remove(&hole);
            }
        }
        if view.quiet {
            return Ok(());
        }
        for name in view.here.difference(&view.remote).cloned().collect::<Vec<_>>() {
            if self.refuses_writes {
                break;
            }
            if name.seq() < view.mark.seq {
                continue;
            }
            if !self.push_checkpoint(view, &name)? {
                // What follows would stand there without its predecessor.
                break;
            }
        }
        Ok(())
    }

    /// True if the checkpoint is there now.
    fn push_checkpoint(&mut self, view: &mut View, name: &ArtifactName) -> Result<bool, Stop> {
        let Some(facts) = self.local_facts(name)? else {
            return Ok(false);
        };
        // After a push that was cut off, what is there already is not sent again.
        let unknown = view.remote_parts.is_none() && !view.asked_for_parts;
        if unknown && facts.parts().next().is_some() {
            view.asked_for_parts = true;
            self.list_parts(view)?;
        }
        self.bar.add(facts.parts().count());
        for part in facts.parts() {
            self.bar.step();
            let there = view.remote_parts.as_ref().is_some_and(|parts| parts.contains(part));
            if there {
                continue;
            }
            let needed = facts.records.contains(part);
            match self.offer_part(part)? {
                Offer::There => {}
                Offer::NotHere if !needed => {
                    view.holes.insert(part.clone());
                    view.bulk.insert(part.clone());
                }
                _ if self.refuses_writes || needed => return Ok(false),
                // The store has other bytes there, or no room: readers find the part elsewhere.
                _ => drop(view.holes.insert(part.clone())),
            }
        }
        let there = self.offer_part(name)? == Offer::There;
        self.bar.step();
        if there {
            view.remote.insert(name.clone());
        }
        Ok(there)
    }

    fn offer_part(&mut self, name: &ArtifactName) -> Result<Offer, Stop> {
        if self.refuses_writes || self.is_known_as_too_large(name) {
            return Ok(Offer::Declined);
        }
        self.give_way(Phase::Sending)?;
        // What cannot be opened is told by reading it.
        if let Ok(Some(body)) = self.local.open(name)
            && let Some(there) = self.offer_from(name, body)?
        {
            return Ok(if there { Offer::There } else { Offer::Declined });
        }
        let bytes = match self.local.read(name) {
            Ok(bytes) => bytes,
            Err(LocalError::Missing { .. }) => return Ok(Offer::NotHere),
            Err(error) => return self.refuse_ours(name, error).map(|()| Offer::NotHere),
        };
        let put = self.offer(name, &bytes)?;
        Ok(if put.is_some() { Offer::There } else { Offer::Declined })
    }
}
