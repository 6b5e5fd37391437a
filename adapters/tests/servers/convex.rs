//! A Convex deployment for tests: the vendor's mock runs the functions that Larder ships, behind its HTTP interface, in Node.
//!
//! `LARDER_CONVEX_NODE` names the folder of the packages that `scripts/test` installs; what is not there is the caller's to skip.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What the functions ask for.
pub const SECRET: &str = "geheim-und-lang";

/// A running mock, ended when dropped.
pub struct Deployment {
    child: Child,
    pub url: String,
    packages: PathBuf,
    adapters: PathBuf,
}

impl Drop for Deployment {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Deployment {
    /// Starts one; `adapters` is the folder of the crate that ships the functions. Why not, if the packages are not there.
    pub fn start(adapters: &Path) -> Result<Deployment, &'static str> {
        let named = std::env::var_os("LARDER_CONVEX_NODE").map(PathBuf::from).filter(|folder| folder.is_dir());
        let packages = named.ok_or("LARDER_CONVEX_NODE names no folder with convex and convex-test")?;
        let mut command = node(adapters, &packages, "server.mjs");
        command.arg(adapters.join("convex")).env("LARDER_OWNERS", "");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node starts");
        let mut said = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut said).expect("it speaks");
        let port = said.trim().strip_prefix("ready ").unwrap_or_else(|| panic!("it said {said:?}")).to_owned();
        Ok(Deployment { child, url: format!("http://127.0.0.1:{port}"), packages, adapters: adapters.to_owned() })
    }

    /// The vendor's client, with these words.
    pub fn client_command(&self, words: &[&str]) -> Command {
        let mut command = node(&self.adapters, &self.packages, "client.mjs");
        command.arg(&self.url).args(words);
        command
    }
}

fn node(adapters: &Path, packages: &Path, script: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(adapters.join("tests/convex_server").join(script));
    command.env("NODE_MODULES", packages.join("node_modules")).env("LARDER_SECRET", SECRET);
    command
}
