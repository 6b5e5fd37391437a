//! Records artifacts: canonical lines, compressed, named by the hash of the lines.
//!
//! Invariant: every line ends with a line end; the name is checked against the decompressed bytes before a line is read.
//! Lines of unknown kinds pass through. Does not judge what the records say.

use std::io::{self, Read, Write};

use super::disk::io_error;
use super::error::{Damage, LedgerError};
use super::store::Ledger;
use crate::model::{ArtifactHash, Hash, Record};

/// A records artifact is closed when its lines have this many bytes.
pub const RECORDS_RAW_BYTES: u64 = 16 << 20;
/// No records artifact decompresses to more: the target and one line of the longest kind.
pub const MAX_RECORDS_RAW_BYTES: u64 = 96 << 20;
/// No records artifact has more stored bytes.
pub const MAX_RECORDS_BYTES: u64 = MAX_RECORDS_RAW_BYTES + (1 << 20);

/// Larger windows than this are refused, whatever the frame asks for.
const WINDOW_LOG_MAX: u32 = 27;
/// Lines are hashes and repeated keys: level 1 makes them smaller than level 3 does, in half the time (measured).
const ZSTD_LEVEL: i32 = 1;
const HASH_STEP_BYTES: usize = 128 << 10;

/// Lines that are complete and wait for their name.
#[derive(Debug)]
pub(crate) struct FinishedRecords {
    pub stored: Vec<u8>,
    pub hash: ArtifactHash,
    pub raw_len: u64,
}

/// Gathers lines into one records artifact after the other.
#[derive(Default)]
pub(crate) struct RecordsBuilder {
    /// Lines that are neither hashed nor compressed yet.
    waiting: Vec<u8>,
    stream: Option<Stream>,
}

struct Stream {
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
    hasher: blake3::Hasher,
    raw_len: u64,
}

impl RecordsBuilder {
    /// True if no line was added since the last artifact.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.stream.is_none()
    }

    /// Adds a line, without its line end.
    pub fn line(&mut self, ledger: &Ledger, line: &[u8]) -> Result<(), LedgerError> {
        self.waiting.extend_from_slice(line);
        self.waiting.push(b'\n');
        if self.waiting.len() < HASH_STEP_BYTES {
            return Ok(());
        }
        self.press().map_err(io_error("compress for", ledger.root()))
    }

    /// True if the artifact has reached its size.
    pub fn is_full(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.raw_len >= RECORDS_RAW_BYTES)
    }

    /// The lines, if they are few enough to be still uncompressed.
    pub fn in_memory(&self) -> Option<&[u8]> {
        self.stream.is_none().then_some(&self.waiting)
    }

    fn press(&mut self) -> io::Result<()> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(Stream {
                encoder: zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?,
                hasher: blake3::Hasher::new(),
                raw_len: 0,
            }),
        };
        stream.hasher.update(&self.waiting);
        stream.encoder.write_all(&self.waiting)?;
        stream.raw_len += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// Closes the artifact; the builder begins the next one.
    pub fn finish(&mut self, ledger: &Ledger) -> Result<FinishedRecords, LedgerError> {
        let failed = |error| io_error("compress for", ledger.root())(error);
        self.press().map_err(failed)?;
        let Stream { encoder, hasher, raw_len } = self.stream.take().expect("pressed just above");
        let stored = encoder.finish().map_err(failed)?;
        let hash = ArtifactHash(Hash::from_bytes(*hasher.finalize().as_bytes()));
        Ok(FinishedRecords { stored, hash, raw_len })
    }
}

/// Decompresses `stored` and proves that it is the artifact named `hash`.
///
/// Takes at most `limit` bytes of memory for the result, whatever the frame promises.
pub(crate) fn open(stored: &[u8], hash: ArtifactHash, limit: u64) -> Result<Vec<u8>, Damage> {
    let limit = limit.min(MAX_RECORDS_RAW_BYTES);
    let mut decoder = zstd::stream::read::Decoder::with_buffer(stored).map_err(Damage::Zstd)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(Damage::Zstd)?;
    let mut raw = Vec::new();
    decoder.take(limit + 1).read_to_end(&mut raw).map_err(Damage::Zstd)?;
    if raw.len() as u64 > limit {
        return Err(Damage::Bound { what: "the lines' bytes", actual: raw.len() as u64, limit });
    }
    let actual = Hash::of(&raw);
    if actual != hash.0 {
        return Err(Damage::Hash { expected: hash.to_string(), actual });
    }
    Ok(raw)
}

/// Calls `visit` with every line (without its line end) and what it says.
pub(crate) fn each_line<E: From<LedgerError>>(
    raw: &[u8],
    wrong: impl Fn(Damage) -> LedgerError,
    mut visit: impl FnMut(&[u8], Record) -> Result<(), E>,
) -> Result<(), E> {
    let Some(body) = raw.strip_suffix(b"\n") else {
        return if raw.is_empty() { Ok(()) } else { Err(wrong(Damage::Form("the last line has no end")).into()) };
    };
    for (line, bytes) in (1..).zip(body.split(|byte| *byte == b'\n')) {
        let record = Record::parse(bytes).map_err(|source| wrong(Damage::Record { line, source }))?;
        visit(bytes, record)?;
    }
    Ok(())
}
