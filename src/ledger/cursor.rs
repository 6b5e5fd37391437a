//! Walking a chain: where it stands, and what may come next.
//!
//! Invariant: a cursor moves only to a verified checkpoint with the next number, the right predecessor, the chain's key
//! and a count of versions that adds up. Reads nothing by itself.

use super::checkpoint::Checkpoint;
use super::error::{LedgerError, OrderProblem};
use super::key::PublicKey;
use crate::model::{ArtifactHash, Chain};

/// The end of a chain as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tip {
    /// The number of the last checkpoint.
    pub seq: u64,
    /// Its hash.
    pub hash: ArtifactHash,
    /// The number of the chain's last version.
    pub last_n: u64,
}

/// Walks a chain and refuses what does not follow.
#[derive(Clone, Debug)]
pub struct ChainCursor {
    chain: Chain,
    tip: Option<Tip>,
    key: Option<PublicKey>,
}

impl ChainCursor {
    /// Begins before the first checkpoint.
    pub fn start(chain: Chain) -> ChainCursor {
        ChainCursor { chain, tip: None, key: None }
    }

    /// Begins after a checkpoint that was accepted before, `key` being the chain's device key if it is known.
    pub fn after(chain: Chain, tip: Tip, key: Option<PublicKey>) -> ChainCursor {
        ChainCursor { chain, tip: Some(tip), key }
    }

    /// The last accepted checkpoint.
    pub fn tip(&self) -> Option<Tip> {
        self.tip
    }

    /// The chain's device key, once a checkpoint was accepted.
    pub fn key(&self) -> Option<PublicKey> {
        self.key
    }

    /// Moves on to `next`. Errors: it does not follow; the cursor stays.
    pub fn accept(&mut self, next: &Checkpoint) -> Result<(), LedgerError> {
        match self.problem(next) {
            Some(problem) => Err(LedgerError::Order { name: next.name.clone(), problem }),
            None => {
                (self.tip, self.key) = (Some(next.tip()), Some(next.body.key));
                Ok(())
            }
        }
    }

    fn problem(&self, next: &Checkpoint) -> Option<OrderProblem> {
        let body = &next.body;
        if body.chain != self.chain {
            return Some(OrderProblem::Chain);
        }
        let expected = self.tip.map_or(1, |tip| tip.seq + 1);
        if body.seq != expected {
            return Some(OrderProblem::Gap { expected, actual: body.seq });
        }
        let expected = self.tip.map(|tip| tip.hash);
        if body.prev != expected {
            return Some(OrderProblem::Predecessor { expected, actual: body.prev });
        }
        if self.key.is_some_and(|key| key != body.key) {
            return Some(OrderProblem::Key);
        }
        let expected = self.tip.map_or(0, |tip| tip.last_n) + body.versions;
        (body.last_n != expected).then_some(OrderProblem::Count { expected, actual: body.last_n })
    }
}
