//! The control socket: one JSON line in, one JSON line out.
//!
//! Invariant: only processes of the same user (or root) are answered; a line is bounded; a silent client costs one
//! thread for ten seconds and nothing else. Knows nothing of what is asked.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use super::{Reply, Request};
use crate::env::at_short_path;

const MAX_LINE_BYTES: u64 = 1 << 16;
const MAX_REPLY_BYTES: u64 = 64 << 20;
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// What is known without the daemon is told without it after this.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// A run that the daemon was asked for may take this long.
const RUN_TIMEOUT: Duration = Duration::from_secs(3600);

/// A request and where its answer goes.
pub(super) struct Asked {
    pub request: Request,
    pub answer: Sender<Reply>,
}

/// Listens until it is dropped; then the socket file goes.
pub(super) struct Listener {
    path: PathBuf,
    /// Which file it is: device and inode.
    file: Option<(u64, u64)>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Another daemon's, if the folder was replaced meanwhile, stays.
        if file_at(&self.path) == self.file {
            // Left behind it would only be refused and replaced at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn file_at(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Starts listening. The socket's folder is private (mode 0700), the socket too.
pub(super) fn listen(path: &Path, notes: impl Fn(Asked) + Send + Clone + 'static) -> std::io::Result<Listener> {
    // The project's lock is held: a socket that is here belongs to nobody.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = at_short_path(path, |path| UnixListener::bind(path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    std::thread::Builder::new().name("larder-socket".to_owned()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let notes = notes.clone();
            // A thread that cannot be had costs one client its answer.
            let _ = std::thread::Builder::new().name("larder-ask".to_owned()).spawn(move || serve(&stream, &notes));
        }
    })?;
    Ok(Listener { path: path.to_owned(), file: file_at(path) })
}

fn serve(stream: &UnixStream, notes: &impl Fn(Asked)) {
    let Some(request) = read_request(stream) else { return };
    let (answer, answered) = channel();
    notes(Asked { request, answer });
    if let Ok(reply) = answered.recv_timeout(RUN_TIMEOUT) {
        write_line(stream, &reply);
    }
}

fn read_request(stream: &UnixStream) -> Option<Request> {
    let peer = rustix::net::sockopt::socket_peercred(stream).ok()?;
    let own = rustix::process::geteuid();
    if peer.uid != own && !peer.uid.is_root() {
        return None;
    }
    stream.set_read_timeout(Some(CLIENT_TIMEOUT)).ok()?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT)).ok()?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE_BYTES)).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

fn write_line(mut stream: &UnixStream, value: &impl serde::Serialize) {
    let Ok(mut line) = serde_json::to_vec(value) else { return };
    line.push(b'\n');
    // The client is gone; nobody is left to tell.
    let _ = stream.write_all(&line);
}

/// What works on files may take long; what only asks may not.
fn patience(request: &Request) -> Duration {
    match request {
        Request::Sync | Request::Change(_) | Request::Errand(_) => RUN_TIMEOUT,
        Request::Status => STATUS_TIMEOUT,
        Request::Stop => CLIENT_TIMEOUT,
    }
}

/// What came of a question.
pub enum Heard {
    /// The answer.
    Reply(Reply),
    /// Somebody listens and is at work: no answer came in time.
    Silence,
    /// Nobody listens.
    Nobody,
}

/// Asks a running daemon.
pub fn hear(socket: &Path, request: &Request) -> Heard {
    let Ok(stream) = at_short_path(socket, |path| UnixStream::connect(path)) else { return Heard::Nobody };
    let limits =
        stream.set_write_timeout(Some(CLIENT_TIMEOUT)).and_then(|()| stream.set_read_timeout(Some(patience(request))));
    if limits.is_err() {
        return Heard::Nobody;
    }
    write_line(&stream, request);
    let mut line = String::new();
    match BufReader::new((&stream).take(MAX_REPLY_BYTES)).read_line(&mut line) {
        Ok(_) => serde_json::from_str(&line).map_or(Heard::Nobody, Heard::Reply),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Heard::Silence,
        Err(_) => Heard::Nobody,
    }
}

/// Asks a running daemon; `None` if none answers on this socket.
pub fn ask(socket: &Path, request: &Request) -> Option<Reply> {
    match hear(socket, request) {
        Heard::Reply(reply) => Some(reply),
        Heard::Silence | Heard::Nobody => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_at_work_keeps_nobody_waiting_who_only_wants_to_know() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("control.sock");
        assert!(matches!(hear(&path, &Request::Status), Heard::Nobody));
        let _busy = UnixListener::bind(&path).expect("listens and never answers");
        let began = std::time::Instant::now();

        assert!(matches!(hear(&path, &Request::Status), Heard::Silence));

        assert!(began.elapsed() < CLIENT_TIMEOUT / 2, "{:?}", began.elapsed());
    }
}
