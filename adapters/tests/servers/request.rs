//! What stand-ins of services share: lines on this machine alone, and requests read whole from them, with the parts of their addresses
//! decoded.
//!
//! Invariant: nothing is accepted after the handle's end; a client that waits to be told to send its body is told so. Bounds nothing: it
//! speaks to tests alone.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Accepts lines until it is dropped.
pub struct Lines {
    pub address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the thread that accepts; it may have ended.
        let _ = TcpStream::connect(self.address);
    }
}

impl Lines {
    /// Has each line served by a thread of its own, which is told whether all is over.
    pub fn accept<S>(serve: S) -> Lines
    where
        S: Fn(&TcpStream, &AtomicBool) -> io::Result<()> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let ended = Arc::new(AtomicBool::new(false));
        let (over, serve) = (Arc::clone(&ended), Arc::new(serve));
        std::thread::spawn(move || {
            for line in listener.incoming() {
                if over.load(Ordering::Acquire) {
                    return;
                }
                let (serve, over) = (Arc::clone(&serve), Arc::clone(&over));
                std::thread::spawn(move || line.map(|line| serve(&line, &over)));
            }
        });
        Lines { address, ended }
    }
}

/// One request, whole.
pub struct Request {
    pub method: String,
    /// Parts of the path, decoded.
    pub path: Vec<String>,
    /// Decoded.
    pub query: Vec<(String, String)>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// Reads the next one; `None` at the line's end.
    pub fn read(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(None);
        }
        let mut headers = Vec::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut parts = first.split(' ');
        let (method, target) = (parts.next().unwrap_or_default().to_owned(), parts.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = path.trim_start_matches('/').split('/').map(decoded).collect();
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let query = pairs.map(|(name, value)| (decoded(name), decoded(&value.replace('+', " ")))).collect();
        let mut request = Request { method, path, query, headers, body: Vec::new() };
        request.read_body(reader)?;
        Ok(Some(request))
    }

    fn read_body(&mut self, reader: &mut BufReader<TcpStream>) -> io::Result<()> {
        if self.header("expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue")) {
            reader.get_ref().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let length = self.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut chunked = self.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked"));
        self.body = vec![0; length];
        reader.read_exact(&mut self.body)?;
        while chunked {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
            let mut part = vec![0; size + 2];
            reader.read_exact(&mut part)?;
            self.body.extend_from_slice(&part[..size]);
            chunked = size > 0;
        }
        Ok(())
    }

    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The token that it shows.
    pub fn bearer(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ")
    }

    /// A part of the query.
    pub fn asked(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Text without its `%XX`.
pub fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
