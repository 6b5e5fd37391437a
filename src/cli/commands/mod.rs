//! One file a command; each takes the context first and gives an answer.
//!
//! Invariant: a command asks the facade and words its answer; what it may do to a project is decided there.

pub mod backend;
pub mod bundle;
pub mod cat;
pub mod completions;
pub mod config;
pub mod conflicts;
pub mod connect;
pub mod deletes;
pub mod diff;
pub mod doctor;
pub mod explain;
pub mod gc;
pub mod init;
pub mod log;
pub mod ls;
pub mod members;
pub mod mount;
pub mod origin;
pub mod peers;
pub mod purge;
pub mod rebuild;
pub mod repair;
pub mod restore;
pub mod search;
pub mod serve;
pub mod star;
pub mod status;
pub mod sync;
pub mod undo;
pub mod up;
pub mod verify;

use super::args::Command;
use super::context::Context;
use super::out::Answer;
use crate::node::NodeError;

/// Runs a command. `None` if it has said everything already.
pub fn dispatch(context: &Context, command: &Command) -> Result<Option<Answer>, NodeError> {
    match command {
        Command::Init(args) => init::run(context, args).map(Some),
        Command::Up(args) => up::run(context, args).map(|()| None),
        Command::Sync(args) => sync::run(context, args).map(Some),
        Command::Push(args) => sync::push(context, args).map(Some),
        Command::Pull(args) => sync::pull(context, args).map(Some),
        Command::Export(args) => bundle::export(context, args).map(Some),
        Command::Import(args) => bundle::import(context, args).map(Some),
        Command::Connect(args) => connect::run(context, args).map(Some),
        Command::Status => status::run(context).map(Some),
        Command::Log(args) => log::run(context, args).map(Some),
        Command::Diff(args) => diff::run(context, args).map(Some),
        Command::Explain(args) => explain::run(context, args).map(Some),
        Command::Conflicts(args) => conflicts::run(context, args).map(Some),
        Command::Deletes(args) => deletes::run(context, args).map(Some),
        Command::Restore(args) => restore::run(context, args).map(Some),
        Command::Undo(args) => undo::run(context, args).map(Some),
        Command::Verify(args) => verify::run(context, args).map(Some),
        Command::Rebuild(args) => rebuild::run(context, args).map(Some),
        Command::Gc(args) => gc::run(context, args).map(Some),
        Command::Purge(args) => purge::run(context, args).map(Some),
        Command::Star(args) => star::run(context, args).map(Some),
        Command::Repair(args) => repair::run(context, args).map(Some),
        Command::Mount(args) => mount::run(context, args).map(|()| None),
        Command::Umount(args) => mount::take_down(context, args).map(Some),
        Command::Config(args) => config::run(context, args).map(Some),
        Command::Doctor(args) => doctor::run(context, args).map(Some),
        Command::Completions(args) => completions::run(context, args).map(|()| None),
        Command::Origin(args) => origin::run(context, args).map(Some),
        Command::Backend(args) => backend::run(context, args).map(Some),
        Command::Peers(args) => peers::run(context, args).map(Some),
        Command::Serve(args) => serve::run(context, args).map(|()| None),
        Command::Search(args) => search::run(context, args).map(Some),
        Command::Ls(args) => ls::run(context, args).map(Some),
        Command::Cat(args) => cat::run(context, args),
    }
}
