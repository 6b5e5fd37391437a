//! Laws of the ledger.

pub(crate) mod fixture;

mod canonical;
mod closed;
mod crash;
mod damage;
mod golden;
mod identity;
mod publish;
mod snapshot;
