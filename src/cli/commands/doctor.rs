//! `larder doctor`: is this machine fit, and what would make it fitter?

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::cli::text::{size, time};
use crate::node::{Glance, NodeError, ProjectDirs, warning_of_backend};

/// Fewer watches than this are soon used up.
const FEW_WATCHES: u64 = 65_536;
/// Less free space than this is noted, in bytes.
const LITTLE_SPACE: u64 = 256 << 20;
/// 2024-01-01: a clock before it was never set, in milliseconds.
const CLOCK_UNSET_BEFORE_MS: u64 = 1_704_067_200_000;

/// One thing looked at.
struct Check {
    name: &'static str,
    ok: bool,
    text: String,
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, text: impl Into<String>) -> Check {
        Check { name, ok: true, text: text.into(), advice: None }
    }

    fn warn(name: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Check {
        Check { name, ok: false, text: text.into(), advice: Some(advice.into()) }
    }
}

/// What `larder doctor` takes.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Take down mounted views that lost their process
    #[arg(long)]
    fix: bool,
}

/// Looks at everything; a warning is no failure.
pub fn run(context: &Context, args: &DoctorArgs) -> Result<Answer, NodeError> {
    let mut checks = vec![version(), sqlite(), fuse(), watches(), clock(context)];
    checks.extend(stale_mounts(args.fix));
    checks.extend(project(context));
    let lines = checks.iter().flat_map(lines).collect();
    let object =
        |check: &Check| json!({ "name": check.name, "ok": check.ok, "text": check.text, "advice": check.advice });
    let objects: Vec<Value> = checks.iter().map(object).collect();
    let all_ok = checks.iter().all(|check| check.ok);
    Ok(Answer::new(lines, json!({ "ok": all_ok, "checks": objects })))
}

fn lines(check: &Check) -> Vec<String> {
    let word = if check.ok { "ok  " } else { "warn" };
    let mut lines = vec![format!("{word}  {}: {}", check.name, check.text)];
    lines.extend(check.advice.as_ref().map(|advice| format!("      {advice}")));
    lines
}

fn version() -> Check {
    Check::ok("larder", env!("CARGO_PKG_VERSION"))
}

fn sqlite() -> Check {
    Check::ok("sqlite", format!("{}, built in", rusqlite::version()))
}

fn fuse() -> Check {
    let root = rustix::process::geteuid().is_root();
    if !Path::new("/dev/fuse").exists() {
        return Check::warn(
            "mount",
            "there is no /dev/fuse",
            "only needed for `larder mount`: load the kernel's fuse module",
        );
    }
    let may_open = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
    if rustix::fs::access("/dev/fuse", may_open).is_err() {
        return Check::warn(
            "mount",
            "/dev/fuse is not open to this user",
            "only needed for `larder mount`: ask who administers this machine for read and write rights on it",
        );
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let helper = std::env::split_paths(&path).any(|folder| folder.join("fusermount3").is_file());
    match (root, helper) {
        (true, _) => Check::ok("mount", "/dev/fuse is there, and this is root"),
        (false, true) => Check::ok("mount", "/dev/fuse and fusermount3 are there"),
        (false, false) => {
            Check::warn("mount", "there is no fusermount3", "only needed for `larder mount`: install the package fuse3")
        }
    }
}

fn watches() -> Check {
    let limit = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    match (limit("max_user_watches"), limit("max_user_instances")) {
        (Some(watches), Some(instances)) if watches < FEW_WATCHES => Check::warn(
            "watching",
            format!("{watches} folders can be watched, by {instances} programs"),
            format!(
                "raise it with `sysctl fs.inotify.max_user_watches={}`; beyond it, folders are polled",
                FEW_WATCHES * 8
            ),
        ),
        (Some(watches), Some(instances)) => {
            Check::ok("watching", format!("{watches} folders can be watched, by {instances} programs"))
        }
        _ => Check::warn("watching", "inotify's limits cannot be read", "folders may be polled instead of watched"),
    }
}

fn clock(context: &Context) -> Check {
    let now = context.now_ms();
    if now < CLOCK_UNSET_BEFORE_MS {
        return Check::warn(
            "clock",
            format!("it says {}", time(now)),
            "set it: times shown would be wrong; no edit is lost by it",
        );
    }
    Check::ok("clock", time(now))
}

#[cfg(target_os = "linux")]
fn stale_mounts(fix: bool) -> Vec<Check> {
    crate::mount::stale_views().iter().map(|dir| stale_mount(dir, fix)).collect()
}

#[cfg(target_os = "linux")]
fn stale_mount(dir: &Path, fix: bool) -> Check {
    let shown = larder_patterns::shown(&dir.to_string_lossy());
    let advice = "run `larder doctor --fix`, or mount there again";
    if !fix {
        return Check::warn("mount", format!("the view at {shown} has lost its process"), advice);
    }
    match crate::mount::unmount_path(dir) {
        Ok(()) => Check::ok("mount", format!("the view at {shown} had lost its process and was taken down")),
        Err(error) => Check::warn("mount", error.to_string(), format!("run `larder umount {shown}` as who mounted it")),
    }
}

#[cfg(not(target_os = "linux"))]
fn stale_mounts(_fix: bool) -> Vec<Check> {
    Vec::new()
}

/// What can be said of the project here, if there is one.
fn project(context: &Context) -> Vec<Check> {
    let settings = match context.open.settings(&context.env) {
        Ok(settings) => settings,
        Err(error) => {
            let first = error.message.lines().next().unwrap_or_default().to_owned();
            return vec![Check::warn("project", first, error.hint.unwrap_or_default())];
        }
    };
    let dirs = ProjectDirs::of(&settings.config);
    let mut checks = vec![Check::ok("project", larder_patterns::shown(&settings.config.file().to_string_lossy()))];
    checks.push(space(settings.project_dir()));
    checks.extend(warning_of_backend(&settings).map(|warning| Check::warn("backend", warning, "see docs/backends.md")));
    if dirs.larder.exists() {
        checks.push(permissions(&dirs));
        checks.push(opens(context));
    }
    checks
}

fn space(dir: &Path) -> Check {
    let Ok(stat) = rustix::fs::statvfs(dir) else {
        return Check::warn("space", "cannot be told", "check the disk");
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < LITTLE_SPACE {
        let advice = "replaces stop when the disk is full; nothing is lost by it";
        return Check::warn("space", format!("{} free", size(free)), advice);
    }
    Check::ok("space", format!("{} free", size(free)))
}

fn permissions(dirs: &ProjectDirs) -> Check {
    let mode_of = |path: &Path| std::fs::symlink_metadata(path).map(|meta| meta.permissions().mode() & 0o777).ok();
    if let Some(uid) = crate::ledger::other_user(&dirs.larder) {
        let advice = format!("run larder as that user: `sudo -u '#{uid}' larder ..`");
        return Check::warn("permissions", format!(".larder belongs to another user (uid {uid})"), advice);
    }
    let (folder, key) = (mode_of(&dirs.larder), mode_of(&dirs.larder.join("device.key")));
    if folder.is_some_and(|mode| mode & 0o077 != 0) {
        return Check::warn("permissions", ".larder can be read by others", "run `chmod 700 .larder`");
    }
    if key.is_some_and(|mode| mode & 0o077 != 0) {
        return Check::warn(
            "permissions",
            "the device key can be read by others",
            "run `chmod 600 .larder/device.key`",
        );
    }
    Check::ok("permissions", ".larder is readable by you alone")
}

fn opens(context: &Context) -> Check {
    let glance = Glance::open(&context.env, &context.open);
    if let Ok(Glance { missing: Some(missing), .. }) = &glance {
        return Check::warn("state", format!("{} is missing", missing.path()), missing.way_on());
    }
    match glance.and_then(|glance| glance.status()) {
        Ok(_) => Check::ok("state", "state and index can be read"),
        Err(error) => {
            Check::warn("state", error.message, error.hint.unwrap_or_else(|| "run `larder verify`".to_owned()))
        }
    }
}
