//! Who writes in a project's folder, and whether that is who opens it.
//!
//! Invariant: a `.larder` that was not made by who opens it is never written with: one that came with a folder is moved aside
//! unread, one that another user of this machine keeps, or that somebody works with, stays where it is.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::error::{Kind, NodeError};
use super::open::{OpenOptions, ProjectDirs, create_private_folder, require_consent};
use crate::config::Settings;
use crate::env::Env;
use crate::ledger::{Identity, Standing, other_user};

/// A `.larder` that no machine of this user ever made is moved aside unread.
///
/// Errors: another user of this machine keeps it.
pub(super) fn set_aside_foreign(dirs: &ProjectDirs, env: &Env, owner: &str) -> Result<(), NodeError> {
    if !is_in(&dirs.larder)? {
        return Ok(());
    }
    let opened = Identity::open(&dirs.larder, env, owner)?;
    if opened.standing != Standing::Unknown {
        return Ok(());
    }
    if let Some(refusal) = another_users(&dirs.larder) {
        return Err(refusal);
    }
    // Whose process works with it, be it in a container, finds out by the lock that it is taken.
    let Some(_held) = hold_as_found(&dirs.lock()) else { return Ok(()) };
    let aside = dirs.larder.with_file_name(format!(".larder-set-aside-{}", env.random_base32(6)));
    std::fs::rename(&dirs.larder, &aside)
        .map_err(|error| NodeError::new(Kind::User, format!("set aside {}: {error}", dirs.larder.display())))?;
    tracing::warn!("a .larder of another machine came with this folder; it was moved to {} unread", aside.display());
    Ok(())
}

/// Keeps everybody from beginning to work with a folder from elsewhere, in which nothing is written or followed. `None` if somebody
/// works with it; no file if there is nothing that could be held.
fn hold_as_found(lock: &Path) -> Option<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let found = rustix::fs::open(lock, flags, Mode::empty()).map(File::from);
    let file = found.ok().filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()));
    match file.as_ref().map(File::try_lock) {
        Some(Err(TryLockError::WouldBlock)) => None,
        _ => Some(file),
    }
}

/// Who this install is, also before its first run: then it is made here. With the project's own folder.
pub(super) fn identity_of(
    env: &Env,
    options: &OpenOptions,
    settings: &Settings,
) -> Result<(Identity, PathBuf), NodeError> {
    let dirs = ProjectDirs::of(&settings.config);
    if options.lock.is_none() {
        set_aside_foreign(&dirs, env, &settings.owner_id.value)?;
    }
    if is_in(&dirs.larder)? {
        let identity = Identity::load(&dirs.larder)?;
        let standing = identity.standing(&dirs.larder, env)?;
        return refusal(standing, &identity).map_or(Ok((identity, dirs.larder)), Err);
    }
    create_private_folder(&dirs.larder)?;
    let _lock = options.lock_of(&dirs)?;
    Ok((open_identity(&dirs, env, &settings.owner_id.value)?, dirs.larder))
}

/// The identity that stands in the folder, or a new one. Errors: the folder is not the one that it was made in.
pub(super) fn open_identity(dirs: &ProjectDirs, env: &Env, owner: &str) -> Result<Identity, NodeError> {
    let opened = Identity::open(&dirs.larder, env, owner)?;
    let mut identity = opened.identity;
    if let Some(refusal) = refusal(opened.standing, &identity) {
        return Err(refusal);
    }
    if opened.standing == Standing::Moved {
        identity.settle(&dirs.larder, env)?;
    }
    Ok(identity)
}

/// What the next run would be refused for: by consent that is missing, or by a folder that is not the identity's own.
pub(super) fn refusal_of_run(
    settings: &Settings,
    dirs: &ProjectDirs,
    env: &Env,
) -> Result<Option<NodeError>, NodeError> {
    if let Err(error) = require_consent(settings, env, false) {
        return Ok(Some(error));
    }
    if !is_in(&dirs.larder)? {
        return Ok(None);
    }
    let identity = Identity::load(&dirs.larder)?;
    let standing = identity.standing(&dirs.larder, env)?;
    if standing == Standing::Unknown {
        // Otherwise the next run sets it aside and begins anew.
        return Ok(another_users(&dirs.larder));
    }
    Ok(refusal(standing, &identity))
}

/// Errors: another user of this machine keeps the project.
pub fn refuse_another_users(dirs: &ProjectDirs, env: &Env) -> Result<(), NodeError> {
    if is_in(&dirs.larder)? && Identity::load(&dirs.larder)?.standing(&dirs.larder, env)? == Standing::Unknown {
        return another_users(&dirs.larder).map_or(Ok(()), Err);
    }
    Ok(())
}

/// As `Identity::is_in`; where that cannot be told because the folder is another user's, this is said.
pub(super) fn is_in(larder: &Path) -> Result<bool, NodeError> {
    Identity::is_in(larder).map_err(|error| another_users(larder).unwrap_or_else(|| error.into()))
}

/// Why nothing is done with a `.larder` that another user of this machine keeps; `None` if it is one's own.
fn another_users(larder: &Path) -> Option<NodeError> {
    let uid = other_user(larder)?;
    let shown = larder_patterns::shown(&larder.to_string_lossy());
    Some(NodeError::user(
        format!("{shown} belongs to another user of this machine (uid {uid}), who keeps this project"),
        format!(
            "run larder as that user (`sudo -u '#{uid}' larder ..`); if the folder came from elsewhere, move its .larder away"
        ),
    ))
}

/// Why nothing is written with an identity in this folder; `None` if it is its own.
fn refusal(standing: Standing, identity: &Identity) -> Option<NodeError> {
    let why = match standing {
        Standing::Same | Standing::Moved => return None,
        Standing::Restored => "was restored from a backup or replaced",
        Standing::Copied => "is a copy of another project folder, its .larder included",
        Standing::OtherMachine => "came from another machine, its .larder included",
        Standing::Unknown => "was made by another machine",
    };
    let message = format!("this folder {why}: two folders must not both write as {}", identity.origin());
    let hint = format!(
        "run `larder origin new` here to make it a machine of its own, or, if the other folder is gone for good, `larder origin adopt {}` to go on as it; nothing is lost",
        identity.origin()
    );
    Some(NodeError::user(message, hint))
}
