//! What an address says of a bucket: `s3://bucket/some/prefix?conditional=no`.
//!
//! Invariant: an address either means exactly one place or is refused; nothing is decoded or corrected. Pure.

use crate::config::address::scheme;
use crate::transport::{TransportError, TransportErrorKind, check_name};

/// Longer prefixes leave too little room for names, in bytes.
const MAX_PREFIX_BYTES: usize = 512;
const MAX_BUCKET_BYTES: usize = 222;

/// How keys are created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Writes {
    /// Only where nothing stands, and the server sees to it.
    Conditional,
    /// After a look: the user accepted that the server ignores conditions.
    Unconditional,
}

/// An address, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct BucketAddress {
    /// `s3`, `gs` or `az`.
    pub scheme: String,
    /// The bucket, or Azure's container.
    pub bucket: String,
    /// Empty, or ends in `/`.
    pub prefix: String,
    /// What the query says.
    pub writes: Writes,
}

impl BucketAddress {
    /// Reads `scheme://bucket[/prefix][?conditional=no]`.
    ///
    /// Errors: Unsupported, with what is wrong as one clause.
    pub fn parse(address: &str) -> Result<BucketAddress, TransportError> {
        let shown = crate::config::address::shown(address);
        let refused = |why: &str| TransportError::new(TransportErrorKind::Unsupported, "open", &shown, why);
        let form = || refused("an address of a bucket reads `s3://bucket` or `s3://bucket/prefix`");
        let (scheme, rest) = scheme(address).ok_or_else(form)?;
        let rest = rest.strip_prefix("//").ok_or_else(form)?;
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        let writes = match query {
            None => Writes::Conditional,
            Some("conditional=no") => Writes::Unconditional,
            Some(_) => return Err(refused("after the `?` only `conditional=no` is known")),
        };
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let plain = bucket.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'$'));
        if bucket.is_empty() || bucket.len() > MAX_BUCKET_BYTES || !plain {
            return Err(refused("the name of a bucket has letters, digits, `-`, `.` and `_`"));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let sound = prefix.is_empty() || (prefix.len() <= MAX_PREFIX_BYTES && check_name(prefix).is_ok());
        if !sound || prefix.contains('#') {
            return Err(refused("the prefix has parts between single `/`, without `.`, `..`, `\\` and `#`"));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(BucketAddress { scheme: scheme.to_owned(), bucket: bucket.to_owned(), prefix, writes })
    }

    /// The place as people read it, without what is asked of it.
    pub fn place(&self) -> String {
        let path = format!("{}/{}", self.bucket, self.prefix);
        larder_patterns::shown(&format!("{}://{}", self.scheme, path.trim_end_matches('/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_means_one_place_or_is_refused() {
        for (address, bucket, prefix, place) in [
            ("s3://b", "b", "", "s3://b"),
            ("s3://b/", "b", "", "s3://b"),
            ("gs://my.bucket_1/a/b", "my.bucket_1", "a/b/", "gs://my.bucket_1/a/b"),
            ("az://c/a b%20é/", "c", "a b%20é/", "az://c/a b%20é"),
        ] {
            let parsed = BucketAddress::parse(address).expect(address);
            assert_eq!((&*parsed.bucket, &*parsed.prefix, parsed.writes), (bucket, prefix, Writes::Conditional));
            assert_eq!(parsed.place(), place);
        }
        let asked = BucketAddress::parse("s3://b/p?conditional=no").expect("known");
        assert_eq!((asked.writes, asked.place().as_str()), (Writes::Unconditional, "s3://b/p"));

        for address in [
            "s3:b",
            "s3://",
            "s3:///x",
            "s3://b//x",
            "s3://b/../x",
            "s3://b/x//",
            "s3://b/./x",
            "s3://b/x#y",
            "s3://user:secret@b/x",
            "s3://b:99/x",
            "s3://b/x?conditional=yes",
            "s3://b/x?token=geheim",
            "s3://b\\x",
        ] {
            let error = BucketAddress::parse(address).expect_err(address);
            assert_eq!(error.kind, TransportErrorKind::Unsupported);
            assert!(!error.to_string().contains("secret") && !error.to_string().contains("geheim"), "{error}");
        }
    }
}
