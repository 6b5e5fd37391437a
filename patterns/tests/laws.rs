//! The laws of the patterns, held against random spellings, lists and paths.
//!
//! Every run draws from a fixed seed, so a failure is the same failure everywhere; proptest prints the smallest case it finds.

use larder_patterns::{
    CONTENT_HEAD_BYTES, Channel, MAX_ALTERNATIVES, MAX_PATTERN_CHARS, PatternLists, RelPath, Rules, denied,
    denied_content, denylist, fold_key, runs_code, shown,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

const SEED: [u8; 32] = *b"larder-patterns-laws-seed-000001";

/// Runs a property with the fixed seed.
fn law<S: Strategy>(cases: u32, strategy: S, property: impl Fn(S::Value)) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &SEED));
    let outcome = runner.run(&strategy, |value| {
        property(value);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("seed {:?}: {failure}", std::str::from_utf8(&SEED));
    }
}

/// Names that some line of the denylist covers, made from the lines themselves.
fn denied_name() -> impl Strategy<Value = String> {
    let lines: Vec<&'static str> = denylist().collect();
    (select(lines), "[a-z0-9]{1,5}")
        .prop_map(|(line, filling)| line.trim_end_matches('/').replace('*', &filling).replace("<.digits>", ".17"))
}

/// One way to write a name differently that some system takes for the same.
#[derive(Clone, Debug)]
enum Disguise {
    UpperCase(Vec<bool>),
    FullWidth(Vec<bool>),
    Invisible(Index, char),
    Trailing(String),
    Stream,
    Decomposed,
}

fn disguise() -> impl Strategy<Value = Disguise> {
    let invisible = vec![
        '\u{200b}',
        '\u{200d}',
        '\u{feff}',
        '\u{ad}',
        '\u{2060}',
        '\u{fe0f}',
        '\u{e0041}',
        '\u{61c}',
        '\u{1}',
        '\n',
    ];
    prop_oneof![
        vec(any::<bool>(), 1..40).prop_map(Disguise::UpperCase),
        vec(any::<bool>(), 1..40).prop_map(Disguise::FullWidth),
        (any::<Index>(), select(invisible)).prop_map(|(at, c)| Disguise::Invisible(at, c)),
        "[. ]{1,4}".prop_map(Disguise::Trailing),
        Just(Disguise::Stream),
        Just(Disguise::Decomposed),
    ]
}

impl Disguise {
    /// Disguises each `/`-separated component on its own.
    fn apply(&self, name: &str) -> String {
        name.split('/').map(|component| self.apply_to_component(component)).collect::<Vec<_>>().join("/")
    }

    fn apply_to_component(&self, component: &str) -> String {
        use unicode_normalization::UnicodeNormalization;

        let choose = |mask: &[bool], change: fn(char) -> String| -> String {
            component
                .chars()
                .enumerate()
                .map(|(at, c)| if mask[at % mask.len()] { change(c) } else { c.to_string() })
                .collect()
        };
        match self {
            Disguise::UpperCase(mask) => choose(mask, |c| c.to_uppercase().collect()),
            Disguise::FullWidth(mask) => choose(mask, full_width),
            Disguise::Invisible(at, c) => {
                let mut chars: Vec<char> = component.chars().collect();
                chars.insert(at.index(chars.len() + 1), *c);
                chars.into_iter().collect()
            }
            Disguise::Trailing(tail) => format!("{component}{tail}"),
            Disguise::Stream => format!("{component}::$DATA"),
            Disguise::Decomposed => component.nfd().collect(),
        }
    }
}

fn full_width(c: char) -> String {
    match c {
        // A component that starts with a drive-like colon is no path at all: colons stay as they are.
        '!'..='~' if c != ':' => char::from_u32(u32::from(c) - 0x21 + 0xff01).unwrap_or(c).to_string(),
        _ => c.to_string(),
    }
}

fn hostile_lists() -> impl Strategy<Value = PatternLists> {
    let patterns = vec![
        "**",
        "**/*",
        "*",
        ".env*",
        "**/.env",
        ".*/**",
        "*.key",
        ".git/config",
        "auth.json",
        "{,**/}{.*,*}",
        "node_modules/",
    ];
    let list = || vec(select(patterns.clone()).prop_map(str::to_owned), 0..6);
    (list(), list(), list()).prop_map(|(mut shared, private, archive)| {
        shared.push("**".to_owned());
        PatternLists { shared, private, archive }
    })
}

fn folder_name() -> impl Strategy<Value = String> {
    select(vec!["a", "data", "src", "e\u{301}", "é", "b.d", ".x", "notes"]).prop_map(str::to_owned)
}

fn ordinary_path() -> impl Strategy<Value = String> {
    vec(folder_name(), 1..6).prop_map(|names| names.join("/"))
}

/// Patterns over the same few names as [`ordinary_path`], so that they often match.
fn pattern() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "a",
        "data",
        "src",
        "é",
        "e\u{301}",
        "*",
        "**",
        "b.*",
        ".x",
        "{a,src}",
        "[a-d]*",
        "no?es",
        "*s",
        "{a/b.d,data}",
    ]);
    (any::<bool>(), any::<bool>(), vec(piece, 1..5)).prop_map(|(excludes, folder, pieces)| {
        format!("{}{}{}", if excludes { "!" } else { "" }, pieces.join("/"), if folder { "/" } else { "" })
    })
}

fn pattern_lists() -> impl Strategy<Value = PatternLists> {
    (vec(pattern(), 0..6), vec(pattern(), 0..4), vec(pattern(), 0..4))
        .prop_map(|(shared, private, archive)| PatternLists { shared, private, archive })
}

fn compile(lists: &PatternLists) -> Rules {
    match Rules::compile(lists) {
        Ok((rules, _)) => rules,
        Err(error) => panic!("{lists:?}: {error}"),
    }
}

#[test]
fn no_spelling_of_a_denied_name_is_ever_admitted() {
    let around = (vec(folder_name(), 0..3), vec(folder_name(), 0..3));
    law(
        1_000,
        (denied_name(), vec(disguise(), 0..4), around, hostile_lists()),
        |(name, disguises, (above, below), lists)| {
            let disguised = disguises.iter().fold(name.clone(), |name, disguise| disguise.apply(&name));
            let text = above.into_iter().chain([disguised]).chain(below).collect::<Vec<_>>().join("/");
            // What is no path cannot be admitted either.
            let Ok(path) = RelPath::parse(&text) else {
                return;
            };

            let rules = compile(&lists);

            assert!(denied(&path).is_some(), "{name:?} as {text:?}");
            assert!(rules.admit(&path).is_err() && rules.admit_from_outside(&path).is_err(), "{text:?}");
            assert!(!rules.may_contain(&path), "{text:?}");
        },
    );
}

#[test]
fn what_is_denied_is_refused_in_both_directions() {
    law(1_000, (any::<String>(), hostile_lists()), |(text, lists)| {
        let Ok(path) = RelPath::parse(&text) else {
            return;
        };
        let rules = compile(&lists);
        if denied(&path).is_some() {
            assert!(rules.admit(&path).is_err() && rules.admit_from_outside(&path).is_err(), "{text:?}");
        }
        if rules.admit_from_outside(&path).is_ok() {
            assert!(rules.admit(&path).is_ok(), "what is accepted from outside is admitted at all: {text:?}");
        }
    });
}

#[test]
fn order_of_patterns_never_changes_a_verdict() {
    let shuffled = pattern_lists().prop_flat_map(|lists| {
        let other = (
            Just(lists.shared.clone()).prop_shuffle(),
            Just(lists.private.clone()).prop_shuffle(),
            Just(lists.archive.clone()).prop_shuffle(),
        );
        (Just(lists), other.prop_map(|(shared, private, archive)| PatternLists { shared, private, archive }))
    });
    law(600, (shuffled, vec(ordinary_path(), 1..8)), |((lists, other), paths)| {
        let (rules, other_rules) = (compile(&lists), compile(&other));
        for text in paths {
            let Ok(path) = RelPath::parse(&text) else {
                return;
            };
            let channel = |rules: &Rules| rules.admit(&path).ok().map(|admitted| admitted.channel());
            assert_eq!(channel(&rules), channel(&other_rules), "{text:?}");
            assert_eq!(rules.may_contain(&path), other_rules.may_contain(&path), "{text:?}");
        }
    });
}

#[test]
fn a_walk_that_obeys_may_contain_reaches_every_admitted_path() {
    law(1_000, (pattern_lists(), vec(ordinary_path(), 1..12)), |(lists, paths)| {
        let rules = compile(&lists);
        for text in paths {
            let Ok(path) = RelPath::parse(&text) else {
                return;
            };
            if rules.admit(&path).is_ok() {
                for folder in path.ancestors() {
                    assert!(rules.may_contain(&folder), "{lists:?}: {text:?} is admitted, {folder:?} is not entered");
                }
            }
        }
    });
}

#[test]
fn adding_an_exclusion_never_admits_more_to_its_list() {
    law(600, (pattern_lists(), pattern(), ordinary_path()), |(lists, extra, text)| {
        let Ok(path) = RelPath::parse(&text) else {
            return;
        };
        let before = compile(&lists);
        let mut narrowed = lists.clone();
        narrowed.private.push(format!("!{}", extra.trim_start_matches('!')));
        let after = compile(&narrowed);

        let is_private =
            |rules: &Rules| rules.admit(&path).is_ok_and(|admitted| admitted.channel() == Channel::Private);
        assert!(is_private(&before) || !is_private(&after), "{lists:?} {extra:?} {text:?}");
    });
}

#[test]
fn both_forms_of_a_letter_get_one_verdict_from_patterns_without_wildcards_for_it() {
    use unicode_normalization::UnicodeNormalization;

    let names = || vec(select(vec!["é", "ü", "a", "ﬁ", "한"]), 1..4).prop_map(|names| names.join("/"));
    law(1_000, (vec(names(), 1..4), vec(names(), 0..3), names()), |(named, excluded, text)| {
        let patterns = named.into_iter().chain(excluded.into_iter().map(|name| format!("!{name}")));
        let rules = compile(&PatternLists { shared: patterns.collect(), ..PatternLists::default() });
        let verdict = |text: String| RelPath::parse(&text).ok().map(|path| rules.admit(&path).is_ok());
        assert_eq!(verdict(text.nfc().collect()), verdict(text.nfd().collect()), "{text:?}");
    });
}

#[test]
fn no_pattern_panics_and_none_matches_across_a_separator() {
    let syntax = "[ab/.*?!^,{}\\[\\]\\\\é-]{0,40}";
    law(5_000, (prop_oneof![syntax.prop_map(String::from), any::<String>()], ordinary_path()), |(pattern, text)| {
        let Ok(path) = RelPath::parse(&text) else {
            return;
        };
        let Ok((rules, _)) = Rules::compile(&PatternLists { shared: vec![pattern.clone()], ..PatternLists::default() })
        else {
            return;
        };
        let is_admitted = rules.admit(&path).is_ok();
        if is_admitted && !pattern.contains("**") && !pattern.ends_with('/') {
            let most_separators = pattern.matches('/').count();
            assert!(text.matches('/').count() <= most_separators, "{pattern:?} matches {text:?}");
        }
        let _explained = rules.explain(&path).to_string();
        let _warned = rules.may_contain(&path);
    });
}

#[test]
fn what_a_pattern_stands_for_is_bounded_by_its_length() {
    // Matching is a scan of the path by an automaton whose size is the globs' length: so that is the figure to bound.
    let syntax = "[ab/{},*?\\[\\]]{150,200}";
    law(1_000, syntax, |pattern| {
        let Ok((rules, warnings)) =
            Rules::compile(&PatternLists { shared: vec![pattern.clone()], ..PatternLists::default() })
        else {
            return;
        };
        assert_eq!(rules.positive_patterns().count(), 1);
        for warning in warnings {
            if let larder_patterns::PatternWarningKind::Rewritten { to } = warning.kind {
                assert!(to.len() <= MAX_ALTERNATIVES);
                // A class is written out member by member, anything else grows by an escape at most, and by `/**` once.
                assert!(to.iter().all(|glob| glob.len() <= 128 * MAX_PATTERN_CHARS));
            }
        }
    });
}

#[test]
fn hostile_lists_are_refused_or_answer() {
    let stars = "*a".repeat(MAX_PATTERN_CHARS / 2);
    let deep = "**/a/".repeat(MAX_PATTERN_CHARS / 5);
    let classes = "[!a]".repeat(MAX_PATTERN_CHARS / 4);
    let marks = "?".repeat(MAX_PATTERN_CHARS);
    let longest = RelPath::parse(&vec!["a".repeat(60); 67].join("/")).expect("67 components of 60 bytes are a path");
    for pattern in [stars, deep, classes, marks, "{a,b,c,d}".repeat(4) + "*", "*".repeat(MAX_PATTERN_CHARS)] {
        let patterns: Vec<String> = (0..16).map(|_| pattern.clone()).collect();
        let Ok((rules, _)) = Rules::compile(&PatternLists { shared: patterns, ..PatternLists::default() }) else {
            continue;
        };
        let _verdict = (rules.admit(&longest), rules.may_contain(&longest));
    }
}

#[test]
fn a_path_that_parses_stays_below_its_root() {
    let piece = select(vec![
        "a", "..", ".", "", "...", " ", "\\", "..\\", "C:", "\u{200b}", "．", "b c", "\0", "‥", "%2e", "\u{202e}", "/",
    ]);
    law(5_000, (vec(piece, 0..7), vec(select(vec!["/", "", "\\"]), 7)), |(pieces, separators)| {
        let text: String =
            pieces.iter().zip(separators).map(|(piece, separator)| format!("{piece}{separator}")).collect();
        let Ok(path) = RelPath::parse(&text) else {
            return;
        };

        assert_eq!(path.as_str(), text);
        assert!(!text.starts_with(['/', '\\']) && !text.contains('\0') && !text.is_empty());
        for name in text.split(['/', '\\']) {
            let visible = name.trim_matches(|c: char| c == ' ' || c == '\u{200b}' || c == '\u{202e}');
            let trimmed = visible.trim_end_matches(['.', ' ', '．', '\u{200b}', '\u{202e}']);
            assert!(!trimmed.is_empty() || name.is_empty(), "{text:?}");
        }
        let joined = std::path::Path::new("/root/project").join(path.as_str());
        assert!(joined.components().all(|component| component != std::path::Component::ParentDir));
        assert!(joined.starts_with("/root/project") && joined.components().count() > 3);
    });
}

#[test]
fn parsing_never_panics_and_keeps_the_bytes() {
    law(5_000, any::<String>(), |text| {
        if let Ok(path) = RelPath::parse(&text) {
            assert_eq!(path.to_string(), text);
            assert_eq!(path.components().collect::<Vec<_>>().join("/"), text);
            assert_eq!(path.ancestors().count(), path.components().count() - 1);
            let _found = (denied(&path), runs_code(&path), path.extension());
        }
    });
}

#[test]
fn shown_text_is_harmless_and_different_texts_stay_different() {
    law(5_000, (any::<String>(), any::<String>()), |(one, other)| {
        let bidi = |c: char| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        assert!(!shown(&one).chars().any(|c| c.is_control() || bidi(c)), "{one:?}");
        assert_eq!(shown(&one) == shown(&other), one == other);
    });
}

#[test]
fn fold_key_is_idempotent_and_blind_to_case_and_form() {
    use unicode_normalization::UnicodeNormalization;

    law(5_000, any::<String>(), |text| {
        let key = fold_key(&text);
        assert_eq!(fold_key(&key), key, "{text:?}");
        assert_eq!(fold_key(&text.nfd().collect::<String>()), key, "{text:?}");
        assert_eq!(fold_key(&text.nfc().collect::<String>()), key, "{text:?}");
        assert_eq!(fold_key(&text.to_ascii_uppercase()), key, "{text:?}");
    });
}

#[test]
fn every_twin_of_a_denied_name_is_denied() {
    law(1_000, (denied_name(), vec(disguise(), 0..3)), |(name, disguises)| {
        let twin = disguises.iter().fold(name.clone(), |name, disguise| disguise.apply(&name));
        if let Ok(key) = RelPath::parse(&fold_key(&twin)) {
            assert!(denied(&key).is_some(), "{name:?} as {twin:?}");
        }
    });
}

#[test]
fn a_private_key_is_found_after_anything_that_ends_a_line() {
    law(
        600,
        (
            vec(any::<u8>(), 0..200),
            select(vec!["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "]),
            select(vec!["", " ", "\t\t"]),
        ),
        |(mut head, label, indent)| {
            let is_database = head.starts_with(b"SQLite format 3\0");
            head.extend_from_slice(format!("\n{indent}-----BEGIN {label}PRIVATE KEY-----\n").as_bytes());
            assert!(is_database || denied_content(&head).is_some());
            assert!(head.len() <= CONTENT_HEAD_BYTES);
        },
    );
}

/// Names of every kind that decides something: ordinary, denied, half of a rule of two names, disguised, of two forms, no names at all.
fn any_name() -> impl Strategy<Value = String> {
    let telling = vec![
        ".docker",
        "config.json",
        ".claude",
        "worktrees",
        ".config",
        "gcloud",
        ".DOCKER",
        "CONFIG~1.JSO",
        "a.",
        "b.d.",
        "",
        ".",
        "..",
        "a\\.docker",
        "a:b",
        "e\u{301}",
        "\u{301}",
        ".env ",
        "ok.tmp.1",
        "note.md",
        "note.json",
        "[x]",
        "a\nb",
        "C:x",
        "..\\a",
    ];
    prop_oneof![
        4 => folder_name(),
        3 => select(telling).prop_map(str::to_owned),
        1 => (denied_name(), vec(disguise(), 0..3)).prop_map(|(name, disguises)| {
            let name = name.split('/').next_back().unwrap_or_default().to_owned();
            disguises.iter().fold(name, |name, disguise| disguise.apply(&name))
        }),
        1 => "[a-dA-D.~*?\\[\\]é ]{1,6}",
        1 => any::<String>(),
    ]
}

/// Patterns as [`pattern`] and with wildcards of every kind in any place.
fn any_lists() -> impl Strategy<Value = PatternLists> {
    let wild = (any::<bool>(), "(\\*\\*/)?([a-d.*?é]|\\[!?a-c\\]|/){1,8}(/\\*\\*|\\*\\.json|\\*\\.md)?")
        .prop_map(|(excludes, text)| format!("{}{text}", if excludes { "!" } else { "" }));
    let usable = |text: &String| {
        let one = PatternLists { shared: vec![text.clone()], ..PatternLists::default() };
        Rules::compile(&one).is_ok()
    };
    let list = move || {
        let one = prop_oneof![pattern(), wild.clone(), Just("**".to_owned()), Just("data/**".to_owned())];
        vec(one.prop_filter("a pattern", usable), 0..5)
    };
    (list(), list(), list()).prop_map(|(shared, private, archive)| PatternLists { shared, private, archive })
}

#[test]
fn inside_a_folder_every_name_gets_the_verdict_of_its_whole_path() {
    let tried = std::cell::Cell::new((0u32, 0u32));
    law(800, (any_lists(), vec(any_name(), 0..5), vec(any_name(), 1..12)), |(lists, folders, names)| {
        let rules = compile(&lists);
        let mut within = rules.within(None);
        for folder in folders {
            let Ok(below) = within.enter(&folder) else {
                continue;
            };
            within = below;
        }
        let prefix = within.folder().map_or(String::new(), |folder| format!("{folder}/"));
        let anew = rules.within(within.folder());
        for name in &names {
            let parsed = match name.contains('/') {
                false => RelPath::parse(&format!("{prefix}{name}")),
                true => within.child(name),
            };
            assert_eq!(within.child(name), parsed, "{prefix:?} {name:?}");
            let admitted = parsed.clone().map(|path| rules.admit(&path).ok());
            let (all, some) = tried.get();
            tried.set((all + 1, some + u32::from(matches!(admitted, Ok(Some(_))))));
            assert_eq!(within.admit(name), admitted, "{lists:?}: {prefix:?} {name:?}");
            assert_eq!(anew.admit(name), admitted, "{lists:?}: {prefix:?} {name:?}");
            let entered = parsed.map(|path| rules.may_contain(&path).then_some(path));
            assert_eq!(within.may_contain(name), entered, "{lists:?}: {prefix:?} {name:?}");
        }
    });
    let (all, some) = tried.get();
    assert!(some > all / 20, "{some} of {all} admitted: too few to tell");
}

#[test]
fn very_many_patterns_change_no_verdict_inside_a_folder() {
    let lists = PatternLists {
        shared: (0..200).map(|at| format!("data/**/*{at}.json")).chain(["!data/**/13.json".to_owned()]).collect(),
        ..PatternLists::default()
    };
    let rules = compile(&lists);
    let folder = RelPath::parse("data/x").expect("a path");
    let within = rules.within(Some(&folder));
    for at in 0..250 {
        let name = format!("{at}.json");
        let path = folder.child(&name).expect("a name");
        assert_eq!(within.admit(&name), Ok(rules.admit(&path).ok()), "{name}");
    }
}
