//! What both ends of an HTTP peer agree on: how names stand in targets, which words and headers there are.
//!
//! Invariant: a name has exactly one spelling in a target, and no spelling leads to a name that `check_name` refuses: encoded
//! separators, dots, NUL and second spellings are no names. Pure.

use super::super::{Depth, ListRequest, check_name};

/// Every target begins so.
pub const ROOT: &str = "/v1/";
/// Where a device is paired: no app, so that no name can be it.
pub const PAIR_TARGET: &str = "/v1/pair";
/// On every answer: a Larder answers, and speaks this version.
pub const SPEAKS_HEADER: &str = "larder-speaks";
/// The version.
pub const SPEAKS: &str = "1";
/// On refusals for want of a token: what the next token must name. Drawn at each start of the server.
pub const EPOCH_HEADER: &str = "larder-epoch";
/// Beside it: the server's clock, in milliseconds since 1970.
pub const NOW_HEADER: &str = "larder-now";
/// The last part of a space's target that tells its heads.
pub const HEADS: &str = "heads";
/// The last part of an app's target that tells of news.
pub const NEWS: &str = "news";
/// Longer targets are refused, in bytes: a name of 1,024 bytes twice, three bytes for each.
pub const MAX_TARGET_BYTES: usize = 8 << 10;
/// A server lets a question for news rest this long at most, in milliseconds; clients wait somewhat longer for any answer.
pub const MAX_NEWS_WAIT_MS: u64 = 20_000;
/// A body may take as long as it would at this pace, at both ends.
pub const SLOWEST_BYTES_PER_SECOND: u64 = 16 << 10;
/// A listing's answer: 10,000 names of 1,024 bytes, escaped, and some room.
pub const MAX_LIST_BYTES: u64 = 64 << 20;
/// Any other answer that is no artifact.
pub const MAX_WORD_BYTES: u64 = 64 << 10;

/// One page of names, as it travels.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Names {
    /// Whole names, ascending; `None` if the place cannot tell (only for heads).
    pub names: Option<Vec<String>>,
    /// Names may follow.
    #[serde(default)]
    pub more: bool,
}

/// The answer to a question for news.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct News {
    /// Somebody else put something since the cursor that was sent.
    pub changed: bool,
    /// Where to ask from next.
    pub cursor: String,
}

/// Why something was refused, as it travels.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Refused {
    /// One sentence, a lower-case fragment.
    pub reason: String,
}

/// Spells one part of a name, or a value of a query: `A-Z a-z 0-9 - . _ ~` stand for themselves.
pub fn encode(text: &str) -> String {
    let mut spelled = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => spelled.push(char::from(byte)),
            other => spelled.push_str(&format!("%{other:02X}")),
        }
    }
    spelled
}

/// Reads what `encode` spelled; `None` for any other spelling.
pub fn decode(spelled: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(spelled.len());
    let mut rest = spelled.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = behind;
    }
    String::from_utf8(bytes).ok().filter(|text| encode(text) == spelled)
}

fn encode_name(name: &str) -> String {
    name.split('/').map(encode).collect::<Vec<_>>().join("/")
}

/// The target of an artifact.
pub fn artifact_target(name: &str) -> String {
    format!("{ROOT}{}", encode_name(name))
}

/// The target of a page of names. The prefix ends in `/`.
pub fn list_target(request: &ListRequest) -> String {
    let depth = match request.depth {
        Depth::Children => "children",
        Depth::All => "all",
    };
    let mut target = format!("{ROOT}{}?depth={depth}&limit={}", encode_name(&request.prefix), request.page_names());
    if let Some(after) = &request.after {
        target.push_str(&format!("&after={}", encode(after)));
    }
    target
}

/// The target of a space's heads. The prefix ends in `/`.
pub fn heads_target(prefix: &str) -> String {
    format!("{ROOT}{}{HEADS}", encode_name(prefix))
}

/// The target of the question for news.
pub fn news_target(app: &str, after: Option<&str>, wait_ms: u64) -> String {
    let after = after.map(|after| format!("&after={}", encode(after))).unwrap_or_default();
    format!("{ROOT}{}/{NEWS}?ms={wait_ms}{after}", encode(app))
}

/// What a target asks about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// One artifact.
    Artifact(String),
    /// A page of names.
    List(ListRequest),
    /// The newest checkpoints below a prefix, which ends in `/`.
    Heads(String),
    /// Whether there is news of an app.
    News {
        /// The app.
        app: String,
        /// The cursor of the answer before.
        after: Option<String>,
        /// How long to wait for some, in milliseconds.
        wait_ms: u64,
    },
}

impl Asked {
    /// The name's parts, `/` between them.
    pub fn path(&self) -> &str {
        match self {
            Asked::Artifact(path) | Asked::Heads(path) => path,
            Asked::List(request) => &request.prefix,
            Asked::News { app, .. } => app,
        }
    }
}

/// Understands a target: path and query as they came. `None` for what is no target of ours.
pub fn parse_target(path: &str, query: Option<&str>) -> Option<Asked> {
    let rest = path.strip_prefix(ROOT)?;
    let folder = rest.strip_suffix('/');
    let parts = folder.unwrap_or(rest).split('/').map(decode).collect::<Option<Vec<String>>>()?;
    // A part that holds a separator once it is read is caught here.
    if parts.iter().any(|part| part.contains('/')) || check_name(&parts.join("/")).is_err() {
        return None;
    }
    let name = parts.join("/");
    let last = parts.last().map(String::as_str);
    let value = |key: &str| -> Option<Option<String>> {
        let found = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        found.map(decode).map_or(Some(None), |read| read.map(Some))
    };
    let number = |key: &str| value(key).map(|text| text.and_then(|text| text.parse::<u64>().ok()));
    match (folder, parts.len(), last) {
        (None, 2, Some(NEWS)) => {
            Some(Asked::News { app: parts[0].clone(), after: value("after")?, wait_ms: number("ms")?.unwrap_or(0) })
        }
        (None, 3, Some(HEADS)) => Some(Asked::Heads(format!("{}/", parts[..2].join("/")))),
        // A chain's checkpoints may be asked for without the `/` at the end.
        (None, 4, Some("checkpoints")) | (Some(_), _, _) => {
            let depth = if value("depth")?.as_deref() == Some("children") { Depth::Children } else { Depth::All };
            let request = ListRequest { after: value("after")?, ..ListRequest::new(format!("{name}/"), depth) };
            let limit = number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(request.limit);
            Some(Asked::List(ListRequest { limit, ..request }))
        }
        (None, _, _) => Some(Asked::Artifact(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling_and_comes_back_from_it() {
        for name in ["app/shared/laptop-abc234~1/packs/x.pack", "app/a%/b", "app/caf\u{e9} (1)/+&=?#", "app/a_/x"] {
            let target = artifact_target(name);
            assert_eq!(parse_target(&target, None), Some(Asked::Artifact(name.to_owned())), "{target}");
        }
        for spelled in ["%61", "%2f", "%2F%2", "%", "%zz", "a+b ", "%C3", "\u{e9}", "%c3%a9", "%+1"] {
            assert!(decode(spelled).is_none_or(|text| text == "/"), "{spelled}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_name_comes_back_from_its_spelling(parts in proptest::collection::vec("[^/\\\\\\p{Cc}]{1,20}", 1..6)) {
            let name = parts.join("/");
            let reserved = matches!((parts.len(), parts.last().map(String::as_str)), (2, Some(NEWS)) | (3, Some(HEADS)) | (4, Some("checkpoints")));
            if check_name(&name).is_ok() && !reserved {
                proptest::prop_assert_eq!(parse_target(&artifact_target(&name), None), Some(Asked::Artifact(name)));
            }
        }

        #[test]
        fn whatever_a_target_is_it_means_a_sound_name_or_nothing(rest in "[/.%a-fA-F0-9x~\\\\-]{0,40}", query in "[a-z=&%0-9]{0,20}") {
            if let Some(asked) = parse_target(&format!("{ROOT}{rest}"), Some(&query)) {
                let path = asked.path();
                proptest::prop_assert!(check_name(path.strip_suffix('/').unwrap_or(path)).is_ok(), "{}", path);
            }
        }
    }

    #[test]
    fn no_spelling_leads_out_of_the_store() {
        let hostile = [
            "/v1/app/../x",
            "/v1/app/%2e%2e/x",
            "/v1/app/%2E%2E/x",
            "/v1/app/..%2Fx",
            "/v1/app%2F..%2Fx",
            "/v1/app/%5C..%5Cx",
            "/v1/app/x%00",
            "/v1/app/%0A",
            "/v1//etc/passwd",
            "/v1/app//x",
            "/v1/./x",
            "/v1/",
            "/v1",
            "/v2/app/x",
            "/etc/passwd",
            "/v1/app/%C0%AE%C0%AE/x",
            "/v1/app/\u{2025}",
        ];
        for target in hostile {
            assert_eq!(parse_target(target, None), None, "{target}");
        }
        let long = format!("/v1/app/{}", "x".repeat(256));
        assert_eq!(parse_target(&long, None), None);
    }

    #[test]
    fn what_is_asked_comes_back_from_its_target() {
        let split = |target: String| {
            let (path, query) = target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query)));
            parse_target(path, query)
        };
        let request =
            ListRequest { limit: 7, ..ListRequest::new("app/s/c~1/", Depth::Children) }.after("app/s/c~1/%&=");
        assert_eq!(split(list_target(&request)), Some(Asked::List(request)));
        assert_eq!(split(heads_target("app/shared/")), Some(Asked::Heads("app/shared/".to_owned())));
        let news = Asked::News { app: "app".into(), after: Some("x-1".into()), wait_ms: 9 };
        assert_eq!(split(news_target("app", Some("x-1"), 9)), Some(news));
        let plain = split("/v1/app/shared/c~1/checkpoints?after=app/x".to_owned());
        assert_eq!(plain, None, "a value has one spelling as well");
        let after = "app%2Fshared%2Fc~1%2Fcheckpoints%2Fcp-1";
        let Some(Asked::List(listed)) = split(format!("/v1/app/shared/c~1/checkpoints?after={after}")) else {
            panic!("a chain's checkpoints are a listing")
        };
        assert_eq!(listed.prefix, "app/shared/c~1/checkpoints/");
        assert_eq!(listed.after.as_deref(), Some("app/shared/c~1/checkpoints/cp-1"));
    }
}
