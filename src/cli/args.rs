//! What can be typed: commands, arguments and flags, as clap derives them.
//!
//! Invariant: a value is only taken here, never judged: settings go to `config` as typed, paths and ids to their commands.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

use super::commands;
use crate::config::Flags;

/// Keeps the artifact and config files of a project the same on every machine.
#[derive(Parser, Debug)]
#[command(name = "larder", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(ClapArgs, Debug, Clone, Default)]
pub struct Global {
    /// Work in this folder instead of the current one
    #[arg(
        long,
        short = 'C',
        global = true,
        value_name = "DIR",
        visible_alias = "dir",
        help_heading = "Global options"
    )]
    pub project: Option<PathBuf>,
    /// Use this config instead of searching for one
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    #[command(flatten)]
    pub settings: SettingFlags,
}

/// Values of the config, for one command; they win over the file and the environment.
#[derive(ClapArgs, Debug, Clone, Default)]
#[command(next_help_heading = "Settings for this command")]
pub struct SettingFlags {
    /// The mirror's address, such as `sqlite:sync.db`
    #[arg(long, global = true, value_name = "URL")]
    pub backend: Option<String>,
    /// The name this project shares with its copies elsewhere
    #[arg(long, global = true, value_name = "ID")]
    pub app_id: Option<String>,
    /// Whose rows these are in the backend
    #[arg(long, global = true, value_name = "ID")]
    pub owner_id: Option<String>,
    /// Seconds between automatic exchanges; 0 = only on command
    #[arg(long, global = true, value_name = "SECONDS")]
    pub interval_secs: Option<String>,
    /// Leave out what `.gitignore` names
    #[arg(long, global = true, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub respect_gitignore: Option<String>,
    /// Skip larger files
    #[arg(long, global = true, value_name = "BYTES")]
    pub max_file_bytes: Option<String>,
    /// How long superseded contents are kept
    #[arg(long, global = true, value_name = "DURATION")]
    pub retention: Option<String>,
    /// Add or replace a peer
    #[arg(long = "peer", global = true, value_name = "NAME=ADDRESS")]
    pub peers: Vec<String>,
}

impl SettingFlags {
    /// As the config takes them.
    pub fn to_flags(&self) -> Flags {
        Flags {
            backend: self.backend.clone(),
            app_id: self.app_id.clone(),
            owner_id: self.owner_id.clone(),
            interval_secs: self.interval_secs.clone(),
            respect_gitignore: self.respect_gitignore.clone(),
            max_file_bytes: self.max_file_bytes.clone(),
            retention: self.retention.clone(),
            peers: self.peers.clone(),
        }
    }
}

/// For every command that changes something.
#[derive(ClapArgs, Debug, Clone, Default)]
pub struct Dry {
    /// Only list what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// For the commands that begin to use a config.
#[derive(ClapArgs, Debug, Clone, Default)]
pub struct Trust {
    /// Agree to what the config reaches beyond its folder
    #[arg(long)]
    pub trust: bool,
}

/// One command each.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Look at this project and write a sync-config.json for it
    Init(commands::init::InitArgs),
    /// Keep the project the same until stopped
    Up(commands::up::UpArgs),
    /// Record, exchange, merge and write once, both ways
    Sync(commands::sync::SyncArgs),
    /// Send what is here; change no file here
    Push(commands::sync::PushArgs),
    /// Take what is elsewhere; leave the backend's rows alone
    Pull(commands::sync::PullArgs),
    /// Name a place where machines meet, and exchange with it once
    Connect(commands::connect::ConnectArgs),
    /// Write everything into one file, for machines that no line joins, or the tree as plain files
    Export(commands::bundle::ExportArgs),
    /// Take in a file that `export` wrote
    Import(commands::bundle::ImportArgs),
    /// Say what is kept, what waits and what is wrong, without looking at the disk
    Status,
    /// List versions, newest first
    Log(commands::log::LogArgs),
    /// Compare the disk with what was recorded, or two versions
    Diff(commands::diff::DiffArgs),
    /// Say which rule decides about a path
    Explain(commands::explain::ExplainArgs),
    /// Edits that could not both be kept in place
    Conflicts(commands::conflicts::ConflictsArgs),
    /// Deletions that wait for approval
    Deletes(commands::deletes::DeletesArgs),
    /// Bring an earlier version back
    Restore(commands::restore::RestoreArgs),
    /// Take back what the last run changed in this folder
    Undo(Dry),
    /// Check that everything recorded is here and sound
    Verify(commands::verify::VerifyArgs),
    /// Make the index anew from the ledger
    Rebuild(Dry),
    /// Put right what is damaged here or in a store, from wherever it is whole
    Repair(Dry),
    /// Let go what was replaced longer ago than `retention` and every machine knows of
    Gc(Dry),
    /// Let the contents of a file's versions go from everywhere, at once and for good
    Purge(commands::purge::PurgeArgs),
    /// Mark a file, so that it is at hand in `starred/` on every machine; or list what is marked
    Star(commands::star::StarArgs),
    /// Show all machines' files as a read-only folder
    Mount(commands::mount::MountArgs),
    /// Take a mounted view down
    Umount(commands::mount::UmountArgs),
    /// Show every setting and where it came from
    Config(commands::config::ConfigArgs),
    /// Check this machine: mounts, watches, permissions, clock, space
    Doctor(commands::doctor::DoctorArgs),
    /// Print a completion script for a shell
    Completions(commands::completions::CompletionsArgs),
    /// Who this machine is in this project
    Origin(commands::origin::OriginArgs),
    /// The databases that a project can be mirrored into
    Backend(commands::backend::BackendArgs),
    /// The places where machines meet beside the backend
    Peers(commands::peers::PeersArgs),
    /// Offer this project, or a plain folder, to paired devices until stopped
    Serve(commands::serve::ServeArgs),
    /// Find words in what every machine's files say
    Search(commands::search::SearchArgs),
    /// List what is recorded in a folder
    Ls(commands::ls::LsArgs),
    /// Print what is recorded of a file
    Cat(commands::cat::CatArgs),
}
