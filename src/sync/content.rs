//! The bytes of a resolved path, in pieces, and as the body of a row.
//!
//! Invariant: what is handed out has the hash it is asked for; a merged content's hash is known once all of it was read.

use larder_adapters::{Body, Capabilities, Row, RowContent};

use super::resolve::{Appended, Outcome, Resolution};
use super::{Engine, Result};
use crate::chunk::{self, ContentHasher};
use crate::model::{Content, ContentHash, ContentKind, Manifest, RelPath};

/// Bytes handed out at once.
const PIECE_BYTES: u64 = 1 << 20;
/// A merged content larger than this has no row, in bytes.
const MAX_MERGED_ROW_BYTES: u64 = 64 << 20;

/// Hands out the bytes of an outcome piece by piece.
pub(super) struct Pieces<'a> {
    engine: &'a Engine,
    base: Option<Content>,
    tail: &'a [u8],
    offset: u64,
    hasher: ContentHasher,
}

impl<'a> Pieces<'a> {
    /// The next piece; `None` at the end. Errors name the segment that is missing.
    pub(super) fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let piece = match self.base {
            Some(base) if self.offset < base.size => {
                let len = PIECE_BYTES.min(base.size - self.offset);
                self.engine.contents.read(&base, self.offset, len).map_err(std::io::Error::other)?
            }
            _ => std::mem::take(&mut self.tail).to_vec(),
        };
        if piece.is_empty() {
            return Ok(None);
        }
        self.offset += piece.len() as u64;
        self.hasher.update(&piece);
        Ok(Some(piece))
    }

    /// The hash of what was handed out.
    pub(super) fn hash(&self) -> ContentHash {
        self.hasher.finish()
    }

    /// Where hashing can go on when what was handed out grows.
    pub(super) fn resume(&self) -> Vec<u8> {
        self.hasher.state().to_bytes()
    }
}

/// Size and kind of what a path holds.
pub(super) fn shape_of(outcome: &Outcome) -> Option<(u64, ContentKind)> {
    match outcome {
        Outcome::Content(content) => Some((content.size, content.kind)),
        Outcome::Appended(appended) => Some((appended.size(), appended.kind)),
        Outcome::Unknown | Outcome::Absent | Outcome::Pending(_) => None,
    }
}

impl Engine {
    /// The bytes of an outcome.
    pub(super) fn pieces<'a>(&'a self, outcome: &'a Outcome) -> Pieces<'a> {
        let (base, tail): (Option<Content>, &[u8]) = match outcome {
            Outcome::Content(content) => (Some(*content), &[]),
            Outcome::Appended(Appended { base, tail, .. }) => (*base, tail),
            Outcome::Unknown | Outcome::Absent | Outcome::Pending(_) => (None, &[]),
        };
        Pieces { engine: self, base, tail, offset: 0, hasher: ContentHasher::new() }
    }

    /// All bytes of an outcome at once; `None` if some are not here.
    pub fn whole(&self, outcome: &Outcome) -> Option<Vec<u8>> {
        let mut pieces = self.pieces(outcome);
        let mut whole = Vec::new();
        while let Some(piece) = pieces.next().ok()? {
            whole.extend_from_slice(&piece);
        }
        Some(whole)
    }

    /// The bytes of an outcome from `offset` to its end; `None` if some are not here.
    pub(super) fn bytes_from(&self, outcome: &Outcome, offset: u64) -> Option<Vec<u8>> {
        let read = |content: &Content| self.contents.read(content, offset, content.size.saturating_sub(offset)).ok();
        let (mut bytes, tail): (Vec<u8>, &[u8]) = match outcome {
            Outcome::Content(content) => (read(content)?, &[]),
            Outcome::Appended(Appended { base: Some(base), tail, .. }) => {
                let skipped = usize::try_from(offset.saturating_sub(base.size)).ok()?;
                (read(base)?, tail.get(skipped..)?)
            }
            _ => return None,
        };
        bytes.extend_from_slice(tail);
        Some(bytes)
    }

    /// All bytes and their hash; `None` if some are not here, or are not what the content's hash says.
    fn whole_proven(&self, outcome: &Outcome) -> Option<(Vec<u8>, ContentHash)> {
        if let Outcome::Content(content) = outcome {
            return Some((self.contents.read_all(content).ok()?, content.hash));
        }
        let whole = self.whole(outcome)?;
        let hash = ContentHash::of(&whole);
        Some((whole, hash))
    }

    /// The body of a path's row and the hash of the content. `None` if bytes are not here, or it is a link.
    pub(super) fn row_body(
        &self,
        limits: &Capabilities,
        path: &RelPath,
        resolution: &Resolution,
        row: Option<&Row>,
    ) -> Result<Option<(Body, ContentHash)>> {
        let Some((size, kind)) = shape_of(&resolution.outcome) else { return Ok(None) };
        if kind == ContentKind::Link {
            return Ok(None);
        }
        if size <= limits.text_limit_bytes {
            let Some((whole, hash)) = self.whole_proven(&resolution.outcome) else { return Ok(None) };
            if limits.admits_text(&whole).is_some() {
                // The check above proved that it is UTF-8.
                return Ok(Some((Body::Text(String::from_utf8(whole).unwrap_or_default()), hash)));
            }
        }
        match &resolution.outcome {
            Outcome::Content(content) => self.chunk_body(content, row),
            _ if size <= MAX_MERGED_ROW_BYTES => {
                let Some(whole) = self.whole(&resolution.outcome) else { return Ok(None) };
                let manifest = chunk::split_bytes(chunk::CutKind::of(path), &whole);
                let mut rest = whole.as_slice();
                let mut add = Vec::with_capacity(manifest.segments.len());
                for segment in &manifest.segments {
                    let (chunk, after) = rest.split_at(segment.1 as usize);
                    add.push(chunk.to_vec());
                    rest = after;
                }
                Ok(Some((Body::Chunks { keep: 0, add }, manifest.content)))
            }
            _ => Ok(None),
        }
    }

    /// Chunk rows, cut where the ledger cuts; chunks that the stored row already has are kept.
    fn chunk_body(&self, content: &Content, row: Option<&Row>) -> Result<Option<(Body, ContentHash)>> {
        let Some(manifest) = self.index.manifest(&content.hash, content.size)? else { return Ok(None) };
        let keep = self
            .stored_manifest(row)?
            .map_or(0, |old| old.segments.iter().zip(&manifest.segments).take_while(|(a, b)| a == b).count());
        let mut offset: u64 = manifest.segments[..keep].iter().map(|segment| u64::from(segment.1)).sum();
        let mut add = Vec::new();
        for segment in &manifest.segments[keep..] {
            match self.contents.read(content, offset, u64::from(segment.1)) {
                Ok(bytes) => add.push(bytes),
                Err(_) => return Ok(None),
            }
            offset += u64::from(segment.1);
        }
        Ok(Some((Body::Chunks { keep: keep as u32, add }, content.hash)))
    }

    /// The manifest of what the row's chunks hold, if the row is ours and as we wrote it.
    fn stored_manifest(&self, row: Option<&Row>) -> Result<Option<Manifest>> {
        let Some(row) = row.filter(|row| !row.is_foreign()) else { return Ok(None) };
        let RowContent::Chunked { size_bytes, chunk_count } = row.content else { return Ok(None) };
        let Some(entry) = &row.mirror else { return Ok(None) };
        let hash = ContentHash(crate::model::Hash::from_bytes(entry.content_hash));
        let manifest = self.index.manifest(&hash, size_bytes)?;
        Ok(manifest.filter(|manifest| manifest.segments.len() == chunk_count as usize))
    }
}
