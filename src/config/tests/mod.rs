//! The laws of the config module, and what its tests share.

mod consent;
mod discovery;
mod gallery;
mod layers;
mod proposal;
mod shipped;

use std::path::PathBuf;

use super::{ConfigError, ConfigFile, ConfigPath, Flags, Settings};
use crate::env::Env;

const PROJECT_DIR: &str = "/home/anna/project";

fn env(vars: &[(&str, &str)]) -> Env {
    let (mut env, _) = Env::fixed(1_700_000_000_000, 1, "laptop", PathBuf::from("/nonexistent/state"));
    env.vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    env
}

fn resolve(text: &str, env: &Env, flags: &Flags) -> Result<Settings, ConfigError> {
    let config = ConfigPath::assumed(PROJECT_DIR);
    let file = ConfigFile::parse(text.as_bytes(), config.file())?;
    Settings::resolve(&config, file, env, flags)
}

fn settings(text: &str) -> Settings {
    resolve(text, &env(&[]), &Flags::default()).unwrap_or_else(|error| panic!("{}", error.render(false)))
}

fn repository_file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// True if goldens are to be written instead of compared.
fn is_blessing() -> bool {
    std::env::var_os("LARDER_BLESS").is_some_and(|value| !value.is_empty())
}
