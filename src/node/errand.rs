//! Errands: what needs a whole project for itself and opens it anew, done by a command or by the daemon that holds the project.
//!
//! Invariant: whoever holds the project lends its lock and uses nothing of it meanwhile; afterwards the project is opened anew,
//! because an errand may change who this folder is. What came of it is plain data, the same whoever did it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::open::OpenOptions;
use super::{
    Adopted, Adoption, NodeError, Rebuilt, Repaired, adopt_origin, collect, new_origin, rebuild, repair, retire_origin,
};
use crate::env::Env;
use crate::sync::{Collected, Progress};

/// What can be asked of a project as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "errand", rename_all = "kebab-case")]
pub enum Errand {
    /// What is damaged here and in the stores is put right.
    Repair {
        /// Only look.
        dry_run: bool,
    },
    /// What nothing needs any more is let go.
    Collect {
        /// Only look.
        dry_run: bool,
    },
    /// The index is made anew from the ledger.
    Rebuild {
        /// Only look.
        dry_run: bool,
    },
    /// This folder becomes a machine of its own.
    NewOrigin {
        /// The person agrees to what the config reaches beyond its folder.
        trust: bool,
    },
    /// This folder goes on as a machine that there was already.
    AdoptOrigin {
        /// As which, and what need not be heard for it.
        adoption: Adoption,
        /// The person agrees to what the config reaches beyond its folder.
        trust: bool,
    },
    /// A machine is gone for good.
    RetireOrigin {
        /// Its name.
        origin: String,
        /// Only look whether it is known.
        dry_run: bool,
    },
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "done", content = "what", rename_all = "kebab-case")]
pub enum Errands {
    /// What was repaired, and what could not be.
    Repaired(Repaired),
    /// What was let go, or would be.
    Collected(Collected),
    /// What the index holds now, or would.
    Remade(Remade),
    /// This folder is a new machine.
    Renewed,
    /// Who this folder is now, or would be.
    Adopted(Adopted),
    /// Who is gone.
    Retired(String),
}

/// An index made anew, as it is told.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Remade {
    /// Checkpoints that were read.
    pub checkpoints: usize,
    /// Paths that have content now.
    pub files: u64,
    /// Versions of all paths.
    pub versions: u64,
    /// Versions that were left out.
    pub rejected: usize,
    /// Records of kinds that a newer release wrote.
    pub unknown: usize,
    /// Chains that could not be followed to their end or whose packs are not here, and why.
    pub problems: Vec<(String, String)>,
}

impl From<Rebuilt> for Remade {
    fn from(Rebuilt { replayed, counts }: Rebuilt) -> Remade {
        let problems = replayed.problems.iter().map(|problem| (problem.chain.to_string(), problem.error.to_string()));
        Remade {
            checkpoints: replayed.checkpoints,
            files: counts.live_files,
            versions: counts.versions,
            rejected: replayed.rejected.len(),
            unknown: replayed.unknown,
            problems: problems.collect(),
        }
    }
}

impl Errand {
    /// True if nothing is to be changed.
    pub fn is_dry_run(&self) -> bool {
        match self {
            Errand::Repair { dry_run }
            | Errand::Collect { dry_run }
            | Errand::Rebuild { dry_run }
            | Errand::RetireOrigin { dry_run, .. } => *dry_run,
            Errand::AdoptOrigin { adoption, .. } => adoption.dry_run,
            Errand::NewOrigin { .. } => false,
        }
    }

    /// Does it. With `options.lock` beside an open project whose holder waits meanwhile.
    ///
    /// Errors: those of what was asked for; another holder of the project.
    pub fn run(&self, env: &Env, options: &OpenOptions, progress: Arc<dyn Progress>) -> Result<Errands, NodeError> {
        match self {
            Errand::Repair { dry_run } => repair(env, options, *dry_run, progress).map(Errands::Repaired),
            Errand::Collect { dry_run } => collect(env, options, *dry_run, progress).map(Errands::Collected),
            Errand::Rebuild { dry_run } => {
                rebuild(env, options, *dry_run).map(|rebuilt| Errands::Remade(rebuilt.into()))
            }
            Errand::NewOrigin { trust } => {
                new_origin(env, &trusting(options, *trust), progress).map(|()| Errands::Renewed)
            }
            Errand::AdoptOrigin { adoption, trust } => {
                adopt_origin(env, &trusting(options, *trust), adoption, progress).map(Errands::Adopted)
            }
            Errand::RetireOrigin { origin, dry_run } => {
                let retired = retire_origin(env, options, origin, *dry_run, progress)?;
                Ok(Errands::Retired(retired.to_string()))
            }
        }
    }
}

fn trusting(options: &OpenOptions, trust: bool) -> OpenOptions {
    OpenOptions { trust: options.trust || trust, ..options.clone() }
}
