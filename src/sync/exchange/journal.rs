//! What the exchange remembers between runs: accepted keys, and how far each store and this machine agree.
//!
//! Invariant: losing all of it loses no artifact. A lost watermark costs a whole listing; a lost key is asked for, or
//! pinned, again.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use crate::ledger::ArtifactName;
use crate::model::Chain;

/// A watermark names at most this many holes; with more it stays where it is.
pub const MAX_HOLES: usize = 1000;

/// Why the journal could not answer.
#[derive(Debug, thiserror::Error)]
#[error("keep the exchange's journal: {0}")]
pub struct JournalError(#[from] pub Box<dyn Error + Send + Sync>);

/// How far a store and this machine hold the same of one chain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Watermark {
    /// Every checkpoint up to this number is on both sides; 0 before the first exchange.
    pub seq: u64,
    /// Parts of those checkpoints that one of the sides lacks; asked for or offered at each exchange.
    pub holes: BTreeSet<ArtifactName>,
}

/// Keeps what the exchange remembers. `set_watermark` is called after what it covers is durable here.
pub trait Journal {
    /// The device key accepted for a chain; `None` if it was never seen.
    fn accepted_key(&self, chain: &Chain) -> Result<Option<[u8; 32]>, JournalError>;

    /// Accepts a chain's key on first sight. Durable before the chain's first checkpoint is stored.
    fn pin_key(&mut self, chain: &Chain, key: [u8; 32]) -> Result<(), JournalError>;

    /// How far `store` (a transport's label) and this machine agree; the default for an unknown pair.
    fn watermark(&self, store: &str, chain: &Chain) -> Result<Watermark, JournalError>;

    /// Remembers it, or a lower one after the store lost something.
    fn set_watermark(&mut self, store: &str, chain: &Chain, watermark: &Watermark) -> Result<(), JournalError>;
}

/// A journal in memory, for tests and simulations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemoryJournal {
    keys: BTreeMap<Chain, [u8; 32]>,
    watermarks: BTreeMap<(String, Chain), Watermark>,
}

impl Journal for MemoryJournal {
    fn accepted_key(&self, chain: &Chain) -> Result<Option<[u8; 32]>, JournalError> {
        Ok(self.keys.get(chain).copied())
    }

    fn pin_key(&mut self, chain: &Chain, key: [u8; 32]) -> Result<(), JournalError> {
        self.keys.insert(chain.clone(), key);
        Ok(())
    }

    fn watermark(&self, store: &str, chain: &Chain) -> Result<Watermark, JournalError> {
        Ok(self.watermarks.get(&(store.to_owned(), chain.clone())).cloned().unwrap_or_default())
    }

    fn set_watermark(&mut self, store: &str, chain: &Chain, watermark: &Watermark) -> Result<(), JournalError> {
        self.watermarks.insert((store.to_owned(), chain.clone()), watermark.clone());
        Ok(())
    }
}
