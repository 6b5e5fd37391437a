//! The compact blobs of `index.db`: varints, a version's rarer fields, a slot's heads, a manifest's segments.
//!
//! Invariant: decoding what encoding wrote gives it back; decoding anything else is `None`, which callers call damage.

use std::collections::BTreeMap;

use crate::model::{Channel, ContentKind, Reason, SegmentHash, SegmentRef};

/// A vector with its lanes interned: (chain row, first) -> n.
pub(super) type Lanes = BTreeMap<(i64, u64), u64>;

/// The fields of a version that a fresh file does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ext {
    /// Rows of the parents, in the order of their ids.
    pub parents: Vec<i64>,
    /// The stored vector: without the own lane.
    pub lanes: Lanes,
    pub moved_from: Option<String>,
    pub moved_to: Option<String>,
    pub via: Option<String>,
}

/// One head of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeadRef {
    pub vid: i64,
    /// Dominated by the twin rule alone: not a head for anybody outside, but still compared with.
    pub shadowed: bool,
}

impl Ext {
    /// `None` if there is nothing to store.
    pub fn encode(&self) -> Option<Vec<u8>> {
        if *self == Ext::default() {
            return None;
        }
        let mut out = Vec::with_capacity(32);
        put(&mut out, self.parents.len() as u64);
        for parent in &self.parents {
            put(&mut out, parent.cast_unsigned());
        }
        put(&mut out, self.lanes.len() as u64);
        for ((cid, first), n) in &self.lanes {
            put(&mut out, cid.cast_unsigned());
            put(&mut out, *first);
            put(&mut out, n - first);
        }
        for text in [&self.moved_from, &self.moved_to, &self.via] {
            // 0 is "none", so that an empty text stays different from it.
            put(&mut out, text.as_ref().map_or(0, |t| t.len() as u64 + 1));
            out.extend_from_slice(text.as_deref().unwrap_or_default().as_bytes());
        }
        Some(out)
    }

    pub fn decode(blob: Option<&[u8]>) -> Option<Ext> {
        let Some(mut rest) = blob else { return Some(Ext::default()) };
        let bytes = &mut rest;
        let mut ext = Ext::default();
        for _ in 0..take(bytes)? {
            ext.parents.push(take(bytes)?.cast_signed());
        }
        for _ in 0..take(bytes)? {
            let (cid, first, lag) = (take(bytes)?.cast_signed(), take(bytes)?, take(bytes)?);
            ext.lanes.insert((cid, first), first.checked_add(lag)?);
        }
        ext.moved_from = take_text(bytes)?;
        ext.moved_to = take_text(bytes)?;
        ext.via = take_text(bytes)?;
        bytes.is_empty().then_some(ext)
    }
}

/// The heads as a slot stores them: nothing if its last version is the only one.
pub(super) fn encode_heads(heads: &[HeadRef], last: i64) -> Option<Vec<u8>> {
    if let [HeadRef { vid, shadowed: false }] = heads
        && *vid == last
    {
        return None;
    }
    let mut out = Vec::with_capacity(heads.len() * 4);
    for head in heads {
        put(&mut out, head.vid.cast_unsigned() << 1 | u64::from(head.shadowed));
    }
    Some(out)
}

pub(super) fn decode_heads(blob: Option<&[u8]>, last: i64) -> Option<Vec<HeadRef>> {
    let Some(mut rest) = blob else { return Some(vec![HeadRef { vid: last, shadowed: false }]) };
    let mut heads = Vec::new();
    while !rest.is_empty() {
        let packed = take(&mut rest)?;
        heads.push(HeadRef { vid: (packed >> 1).cast_signed(), shadowed: packed & 1 == 1 });
    }
    Some(heads)
}

pub(super) fn encode_segments(segments: &[SegmentRef]) -> Vec<u8> {
    let mut out = Vec::with_capacity(segments.len() * 36);
    for SegmentRef(hash, len) in segments {
        out.extend_from_slice(hash.as_bytes());
        out.extend_from_slice(&len.to_le_bytes());
    }
    out
}

pub(super) fn decode_segments(blob: &[u8]) -> Option<Vec<SegmentRef>> {
    let (entries, rest) = blob.as_chunks::<36>();
    let segment = |entry: &[u8; 36]| {
        let len = u32::from_le_bytes(entry[32..].try_into().ok()?);
        Some(SegmentRef(SegmentHash::from_slice(&entry[..32])?, len))
    };
    if rest.is_empty() { entries.iter().map(segment).collect() } else { None }
}

/// What stands in `versions.flags`: bits 0-1 the channel, 2-4 the kind, 5 adopted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Flags(pub i64);

impl Flags {
    pub fn new(channel: Channel, kind: Result<ContentKind, Reason>, adopted: bool) -> Flags {
        let channel = match channel {
            Channel::Shared => 0,
            Channel::Private => 1,
            Channel::Archive => 2,
        };
        let kind = match kind {
            Ok(ContentKind::File { exec: false }) => 0,
            Ok(ContentKind::File { exec: true }) => 1,
            Ok(ContentKind::Link) => 2,
            Err(Reason::User) => 3,
            Err(Reason::Trash) => 4,
            Err(Reason::Move) => 5,
        };
        Flags(channel | kind << 2 | i64::from(adopted) << 5)
    }

    pub fn channel(self) -> Option<Channel> {
        match self.0 & 3 {
            0 => Some(Channel::Shared),
            1 => Some(Channel::Private),
            2 => Some(Channel::Archive),
            _ => None,
        }
    }

    /// The kind of the content, or why it is a tombstone.
    pub fn kind(self) -> Option<Result<ContentKind, Reason>> {
        match self.0 >> 2 & 7 {
            0 => Some(Ok(ContentKind::File { exec: false })),
            1 => Some(Ok(ContentKind::File { exec: true })),
            2 => Some(Ok(ContentKind::Link)),
            3 => Some(Err(Reason::User)),
            4 => Some(Err(Reason::Trash)),
            5 => Some(Err(Reason::Move)),
            _ => None,
        }
    }

    pub fn adopted(self) -> bool {
        self.0 >> 5 & 1 == 1
    }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take_text(bytes: &mut &[u8]) -> Option<Option<String>> {
    let Some(len) = take(bytes)?.checked_sub(1) else { return Some(None) };
    let (text, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    *bytes = rest;
    Some(Some(String::from_utf8(text.to_vec()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rarer_fields_come_back(
            parents in proptest::collection::vec(0i64..1 << 50, 0..5),
            lanes in proptest::collection::btree_map((0i64..1000, 1u64..1 << 50), 0u64..1 << 40, 0..6),
            from: Option<String>, via: Option<String>,
        ) {
            let lanes = lanes.into_iter().map(|((cid, first), lag)| ((cid, first), first + lag)).collect();
            let ext = Ext { parents, lanes, moved_from: from, moved_to: None, via };

            prop_assert_eq!(Ext::decode(ext.encode().as_deref()), Some(ext));
        }

        #[test]
        fn heads_come_back(vids in proptest::collection::vec((1i64..1 << 50, any::<bool>()), 1..6), last in 1i64..100) {
            let heads: Vec<HeadRef> = vids.into_iter().map(|(vid, shadowed)| HeadRef { vid, shadowed }).collect();

            prop_assert_eq!(decode_heads(encode_heads(&heads, last).as_deref(), last), Some(heads));
        }

        #[test]
        fn no_blob_makes_decoding_panic(blob: Vec<u8>) {
            let _ = Ext::decode(Some(&blob));
            let _ = decode_heads(Some(&blob), 1);
            let _ = decode_segments(&blob);
        }
    }
}
