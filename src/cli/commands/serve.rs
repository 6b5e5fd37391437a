//! `larder serve`: offers this project, or a plain folder, to paired devices, until it is stopped.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::daemon::{self, Door, Served};
use crate::node::NodeError;
use crate::server::{LISTEN, ServeOptions};
use crate::transport::http::Plain;

/// How to be reached, for every command that serves.
#[derive(Args, Debug, Clone, Default)]
pub struct LineArgs {
    /// The certificate to be known by, a PEM file; encrypts the line
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The certificate's key, a PEM file
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Serve other machines although everybody on the way can listen
    #[arg(long)]
    allow_plain_http: bool,
}

impl LineArgs {
    /// As the server takes them. Errors: User for what is no address.
    pub fn at(&self, listen: &str) -> Result<ServeOptions, NodeError> {
        let plain = if self.allow_plain_http { Plain::Allowed } else { Plain::Refused };
        let tls = self.cert.clone().zip(self.key.clone());
        Ok(ServeOptions { plain, tls, ..ServeOptions::at(address(listen)?) })
    }
}

/// `HOST:PORT`, or a port alone, which is this machine's own.
fn address(listen: &str) -> Result<SocketAddr, NodeError> {
    let whole = if listen.parse::<u16>().is_ok() { format!("127.0.0.1:{listen}") } else { listen.to_owned() };
    let resolved = whole.to_socket_addrs().ok().and_then(|mut found| found.next());
    resolved.ok_or_else(|| {
        let message = format!("{} is no address to listen at", larder_patterns::shown(listen));
        NodeError::user(message, "name it as HOST:PORT, such as 127.0.0.1:7171 or 0.0.0.0:7171")
    })
}

/// What `larder serve` takes.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value = LISTEN)]
    listen: String,
    /// Serve this folder for whatever project comes, instead of this project
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    #[command(flatten)]
    line: LineArgs,
    /// Show a code by which one device may be paired
    #[arg(long)]
    pair: bool,
}

/// What a command is about: this project, or a store named by a flag.
pub fn served(context: &Context, store: Option<&PathBuf>) -> Served {
    match store {
        // As typed: relative to the folder that the command works in.
        Some(dir) => Served::Store(context.open.start_dir.join(dir)),
        None => Served::Project(Box::new(context.open.clone())),
    }
}

/// Runs until it is stopped. With `--json` each line is one object.
pub fn run(context: &Context, args: &ServeArgs) -> Result<(), NodeError> {
    let options = args.line.at(&args.listen)?;
    let say = |line: &str| {
        if context.out.is_json() {
            context.out.line(&json!({ "line": line }).to_string());
        } else {
            context.out.line(line);
        }
    };
    let door = if args.pair { Door::Open } else { Door::Shut };
    daemon::serve(&context.env, &served(context, args.store.as_ref()), &options, door, &say)
}
