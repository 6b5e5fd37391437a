//! What is made durable beside recording: a batch waits for the disk on a thread of its own, while the next is gathered.
//!
//! Invariant: nothing but the ledger knows of a batch before it is durable, and batches become so in the order of their
//! chain, one after the other. Whoever holds one waits for it, however the run ends. Decides nothing.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::publish::{Brings, Notes, SealedBatch};
use super::{Result, io};
use crate::ledger::{Ledger, LedgerError, Published};
use crate::model::Space;
use crate::state::Base;

type Answer = std::result::Result<Vec<(Space, Published, Notes)>, LedgerError>;

/// Batches, at most one of a space, that the ledger is about to have.
pub(super) struct UnderWay {
    thread: Option<JoinHandle<Answer>>,
    brings: Vec<(Space, Arc<Brings>)>,
    bases: Vec<Base>,
    linear: bool,
}

/// What came of it.
pub(super) struct Durable {
    pub batches: Answer,
    /// What then stands on the disk.
    pub bases: Vec<Base>,
    /// Every version stands on all heads of its path.
    pub linear: bool,
}

impl UnderWay {
    /// Begins to make `batches` durable.
    pub fn start(
        ledger: Arc<Ledger>,
        mut batches: Vec<SealedBatch>,
        bases: Vec<Base>,
        linear: bool,
    ) -> Result<UnderWay> {
        let brings = batches.iter_mut().map(|batch| (batch.space.clone(), Arc::new(batch.take_brings()))).collect();
        let durable = move |batch: SealedBatch| {
            let published = batch.sealed.make_durable(&ledger)?;
            Ok((batch.space, published, batch.notes))
        };
        let work = move || batches.into_iter().map(durable).collect();
        let thread = std::thread::Builder::new().name("larder-durable".to_owned()).spawn(work);
        Ok(UnderWay { thread: Some(thread.map_err(io("start a thread"))?), brings, bases, linear })
    }

    /// What the batch of a space brings.
    pub fn brings(&self, space: &Space) -> Option<Arc<Brings>> {
        self.brings.iter().find(|(of, _)| of == space).map(|(_, brings)| brings.clone())
    }

    /// True if there is nothing to wait for any more.
    pub fn is_durable(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for it.
    pub fn wait(mut self) -> Durable {
        let thread = self.thread.take().expect("is taken here and in drop alone");
        let batches = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Durable { batches, bases: std::mem::take(&mut self.bases), linear: self.linear }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // Nobody asked: what became durable is found in the ledger, as after a kill.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
