//! Node: one project, open. The facade that every surface calls: command line, daemon, later MCP and HTTP.
//!
//! `Node` writes: it holds the project's lock. `Glance` only reads and works beside a running daemon.
//! Invariant: a failed step is in the report and in the journal; nothing is only printed. Prints nothing itself.

mod backends;
mod bundle;
mod change;
mod check;
mod errand;
mod error;
mod explain;
mod garbage;
mod heads;
mod history;
mod identity;
mod lock;
mod members;
mod open;
mod origins;
mod peers;
mod prove;
mod purge;
mod repair;
mod run;
mod star;
mod status;
#[cfg(test)]
mod tests;

pub use backends::{BackendLine, SettingLine, backend_ddl, backends, check_backend, check_remains, migrate_backend};
pub use bundle::{ExportRequest, ImportRequest};
pub use change::ChangeRequest;
pub use check::{Found, Rebuilt, Verified, rebuild, verify};
pub use errand::{Errand, Errands};
pub use error::{Kind, NodeError};
pub use explain::explain;
pub use garbage::{collect, retire_origin};
pub use history::DiskChange;
pub use identity::refuse_another_users;
pub use lock::ProjectLock;
pub use members::{Verdict, word as standing_word};
pub use open::{Glance, Node, OpenOptions, ProjectDirs, warning_of_backend};
pub use origins::{Adopted, Adoption, OriginLine, adopt_origin, new_origin};
pub use peers::{Probe, add_peer, is_address, join_peer, name_for, pair_peer, probe_peer, remove_peer};
pub use repair::{Missing, Repaired, repair};
pub use run::{Places, RunOptions, Way};
pub use star::Behind;
pub use status::{
    BackendStatus, ContactStatus, CountStatus, OpenConflict, OriginStatus, OutboxStatus, PeerStatus, PendingStatus,
    ProblemStatus, RevivedStatus, Status, StopStatus, VerifiedFrom, held_remain,
};
