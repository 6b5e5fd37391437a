//! The names that are never touched, and the names that are not accepted from outside.
//!
//! Both lists are text files compiled in, so that a reader can check them without reading code. There is no way to build [`crate::Rules`]
//! without them. Invariant: what is denied stays denied in every spelling and at every depth, and so does everything below it.
//! Knows nothing of file contents: that is [`crate::denied_content`].

use std::sync::LazyLock;

use crate::path::RelPath;
use crate::spelling::{ShortName, Spelling, plain_spelling, spellings};

static DENIED: LazyLock<NameList> = LazyLock::new(|| NameList::parse(include_str!("denylist.txt")));
static RUNS_CODE: LazyLock<NameList> = LazyLock::new(|| NameList::parse(include_str!("runs_code.txt")));

/// What a rule line may end with to stand for one or more groups of a dot and digits.
const DIGITS_MARK: &str = "<.digits>";

/// Returns the line of the denylist that covers `path`, if one does.
///
/// A line covers a path if it names any of its components, however spelled: so everything below a denied name is denied too.
pub fn denied(path: &RelPath) -> Option<&'static str> {
    DENIED.find(path)
}

/// Returns the lines of the denylist, in their order, without comments.
pub fn denylist() -> impl Iterator<Item = &'static str> {
    DENIED.rules.iter().map(|rule| rule.line)
}

/// Returns the line of the list of code-running files that covers `path`, if one does.
///
/// These are files that make other programs run code: tool servers, editor tasks, shell start-up files, git hooks.
pub fn runs_code(path: &RelPath) -> Option<&'static str> {
    RUNS_CODE.find(path)
}

/// A parsed list, indexed by what a component must start or end with, because most components agree with no line.
#[derive(Debug)]
struct NameList {
    rules: Vec<Rule>,
    /// Rules whose first name starts with a literal, by its first byte.
    by_first_byte: ByByte,
    /// Rules whose first name starts with anything and ends with a literal, by its last byte.
    by_last_byte: ByByte,
    /// The other rules.
    unindexed: Vec<usize>,
    /// Most names of one rule.
    longest_run: usize,
}

/// Places of rules by a byte; 256 lists.
type ByByte = Vec<Vec<usize>>;

/// What the denylist knows of a folder: enough to judge the names in it without judging the folder's own again.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeniedFolder {
    /// The rule that covers the folder itself.
    rule: Option<usize>,
    /// The folder's last spellings, as many as a rule that goes on below it may have used.
    tail: Vec<Spelling>,
    /// Rules that the folder's last names begin but do not end, with how many of their names these are.
    begun: Vec<(usize, usize)>,
}

impl DeniedFolder {
    /// Returns what is known of the folder called `name` in this one.
    pub fn enter(&self, name: &str) -> DeniedFolder {
        DENIED.enter(self, name)
    }

    /// Tells whether the path of `name` in this folder is denied.
    pub fn denies(&self, name: &str) -> bool {
        DENIED.find_in(self, name).is_some()
    }
}

/// One line: names of components that follow each other.
#[derive(Debug)]
struct Rule {
    line: &'static str,
    names: Vec<NameRule>,
}

/// The rule for one component: literal segments with anything between them.
#[derive(Debug)]
struct NameRule {
    segments: Vec<String>,
    ends_in_digits: bool,
    short_stem: Option<StemRule>,
    short_extension: Option<String>,
}

/// How an 8.3 stem is compared with a rule.
#[derive(Debug)]
enum StemRule {
    /// The long name's stem is this.
    Is(String),
    /// The long name's stem starts with this.
    StartsWith(String),
}

impl NameList {
    fn parse(text: &'static str) -> NameList {
        let is_comment = |line: &str| line.is_empty() || line == "#" || line.starts_with("# ");
        let lines = text.lines().map(str::trim).filter(|line| !is_comment(line));
        let mut list = NameList {
            rules: lines.map(Rule::parse).collect(),
            by_first_byte: vec![Vec::new(); 256],
            by_last_byte: vec![Vec::new(); 256],
            unindexed: Vec::new(),
            longest_run: 1,
        };
        for (at, rule) in list.rules.iter().enumerate() {
            let bucket = match rule.names[0].literal_ends() {
                (Some(byte), _) => &mut list.by_first_byte[usize::from(byte)],
                (None, Some(byte)) => &mut list.by_last_byte[usize::from(byte)],
                (None, None) => &mut list.unindexed,
            };
            bucket.push(at);
            list.longest_run = list.longest_run.max(rule.names.len());
        }
        list
    }

    fn find(&self, path: &RelPath) -> Option<&'static str> {
        let rule = match self.find_plain(path.as_str()) {
            Some(found) => found,
            None => self.find_spelled(&spellings(path.as_str())),
        };
        rule.map(|rule| self.rules[rule].line)
    }

    /// Finds as [`NameList::find_spelled`] a path whose names are all plain; none if one is not.
    fn find_plain(&self, path: &str) -> Option<Option<usize>> {
        let mut found: Option<usize> = None;
        let mut rest = Some(path);
        while let Some(run) = rest {
            let (name, below) = match run.split_once('/') {
                Some((name, below)) => (name, Some(below)),
                None => (run, None),
            };
            let spelling = plain_spelling(name)?;
            for rule in self.candidates_of_plain(&spelling) {
                if found.is_none_or(|found| rule < found) && self.rules[rule].covers_plain_start(&spelling, below) {
                    found = Some(rule);
                }
            }
            rest = below;
        }
        Some(found)
    }

    fn find_spelled(&self, spellings: &[Spelling]) -> Option<usize> {
        let covering = (0..spellings.len()).flat_map(|at| {
            let run = &spellings[at..];
            self.candidates(&run[0]).filter(|&rule| self.rules[rule].covers_start(run))
        });
        // The first line decides, wherever in the path it applies.
        covering.min()
    }

    /// Finds as [`NameList::find`] the path of one name in a folder.
    fn find_in(&self, folder: &DeniedFolder, name: &str) -> Option<usize> {
        let Some(spelling) = plain_spelling(name) else {
            let found = self.find_spelled(&self.run_of(folder, name));
            return folder.rule.into_iter().chain(found).min();
        };
        // A rule of several names ends below this one, or has begun above it.
        let here = self
            .candidates_of_plain(&spelling)
            .filter(|&rule| matches!(self.rules[rule].names.as_slice(), [only] if only.matches(&spelling)));
        let begun = folder
            .begun
            .iter()
            .filter(|&&(rule, count)| matches!(&self.rules[rule].names[count..], [last] if last.matches(&spelling)));
        here.chain(begun.map(|&(rule, _)| rule)).chain(folder.rule).min()
    }

    fn enter(&self, folder: &DeniedFolder, name: &str) -> DeniedFolder {
        let run = self.run_of(folder, name);
        let found = self.find_spelled(&run);
        let tail = run[run.len().saturating_sub(self.longest_run - 1)..].to_vec();
        let begins = |rule: &Rule, count: usize| {
            count < rule.names.len()
                && rule.names[..count]
                    .iter()
                    .zip(&tail[tail.len() - count..])
                    .all(|(name, spelling)| name.covers(spelling))
        };
        let begun = (1..=tail.len()).flat_map(|count| {
            let rules = self.rules.iter().enumerate();
            rules.filter_map(move |(at, rule)| begins(rule, count).then_some((at, count)))
        });
        DeniedFolder { rule: folder.rule.into_iter().chain(found).min(), begun: begun.collect(), tail: tail.clone() }
    }

    /// Returns the spellings of a name after those of its folder that a rule may need.
    fn run_of(&self, folder: &DeniedFolder, name: &str) -> Vec<Spelling> {
        let mut run = folder.tail.clone();
        run.extend(spellings(name));
        run
    }

    /// Returns the rules that could cover a component: never fewer than those that do.
    fn candidates(&self, spelling: &Spelling) -> Box<dyn Iterator<Item = usize> + '_> {
        // Streams and short names are compared by parts that the index knows nothing of; they are rare.
        if spelling.before_stream.is_some() || spelling.short.is_some() {
            return Box::new(0..self.rules.len());
        }
        Box::new(self.candidates_of_plain(&spelling.whole))
    }

    /// Returns the rules that could match a name: never fewer than those that do.
    fn candidates_of_plain(&self, name: &str) -> impl Iterator<Item = usize> + '_ {
        let bytes = name.as_bytes();
        let none: &[usize] = &[];
        let first = bytes.first().map_or(none, |&byte| &self.by_first_byte[usize::from(byte)]);
        let last = bytes.last().map_or(none, |&byte| &self.by_last_byte[usize::from(byte)]);
        first.iter().chain(last).chain(&self.unindexed).copied()
    }
}

impl Rule {
    fn parse(line: &'static str) -> Rule {
        Rule { line, names: line.trim_end_matches('/').split('/').map(NameRule::parse).collect() }
    }

    /// Tells whether the rule covers the components that `spellings` starts with.
    fn covers_start(&self, spellings: &[Spelling]) -> bool {
        self.names.len() <= spellings.len()
            && self.names.iter().zip(spellings).all(|(name, spelling)| name.covers(spelling))
    }

    /// Tells whether the rule covers the components `first` and `below`, all of them plain, `first` in its spelling.
    fn covers_plain_start(&self, first: &str, below: Option<&str>) -> bool {
        let [name, others @ ..] = self.names.as_slice() else {
            return false;
        };
        let mut components = below.into_iter().flat_map(|below| below.split('/'));
        name.matches(first)
            && others.iter().all(|other| {
                components.next().and_then(plain_spelling).is_some_and(|spelling| other.matches(&spelling))
            })
    }
}

impl NameRule {
    fn parse(name: &str) -> NameRule {
        let lower = name.to_lowercase();
        let (lower, ends_in_digits) = match lower.strip_suffix(DIGITS_MARK) {
            Some(start) => (start, true),
            None => (lower.as_str(), false),
        };
        NameRule {
            segments: lower.split('*').map(str::to_owned).collect(),
            ends_in_digits,
            short_stem: StemRule::parse(lower),
            short_extension: short_extension(lower),
        }
    }

    fn covers(&self, spelling: &Spelling) -> bool {
        self.matches(&spelling.whole)
            || spelling.before_stream.as_deref().is_some_and(|name| self.matches(name))
            || spelling.short.as_ref().is_some_and(|short| self.has_short_name(short))
    }

    /// Returns the first and the last byte that every name this rule matches has.
    fn literal_ends(&self) -> (Option<u8>, Option<u8>) {
        let first = self.segments.first().and_then(|segment| segment.bytes().next());
        let last = self.segments.last().and_then(|segment| segment.bytes().next_back());
        (first, last.filter(|_| !self.ends_in_digits))
    }

    fn matches(&self, name: &str) -> bool {
        if !self.ends_in_digits {
            return segments_match(&self.segments, name);
        }
        let start = name.trim_end_matches(|c: char| c == '.' || c.is_ascii_digit());
        let digits = &name[start.len()..];
        digits.len() >= 2 && digits.starts_with('.') && segments_match(&self.segments, start)
    }

    /// Tells whether a name that this rule covers could have this 8.3 short name.
    fn has_short_name(&self, short: &ShortName) -> bool {
        let extension_agrees = match &self.short_extension {
            Some(extension) => short.stands_for_extension(extension),
            None => true,
        };
        match &self.short_stem {
            Some(StemRule::Is(stem)) => {
                extension_agrees
                    && short.stands_for_stem(stem)
                    && (self.short_extension.is_some() || short.extension.is_empty())
            }
            Some(StemRule::StartsWith(start)) => extension_agrees && stem_may_start_with(short, start),
            // `*.sqlite`: any stem, and an extension long enough to have been cut.
            None => self.short_extension.is_some() && extension_agrees,
        }
    }
}

fn stem_may_start_with(short: &ShortName, start: &str) -> bool {
    let common_chars = short.stem.chars().count().min(start.chars().count());
    // A stem that was cut shows less than the whole start; one that was not must show all of it.
    let was_cut = short.stem.chars().count() >= 7usize.saturating_sub(short.digits).min(6);
    (was_cut || common_chars == start.chars().count())
        && short.stem.chars().take(common_chars).eq(start.chars().take(common_chars))
}

impl StemRule {
    /// Windows makes the stem of a short name from the long name without its leading dots, up to its last dot.
    fn parse(rule: &str) -> Option<StemRule> {
        const SHORTEST_START_CHARS: usize = 3;
        let bare = rule.trim_start_matches('.');
        match bare.split_once('*') {
            None => Some(StemRule::Is(bare.rsplit_once('.').map_or(bare, |(stem, _)| stem).replace('.', ""))),
            Some((start, _)) if start.len() >= SHORTEST_START_CHARS => Some(StemRule::StartsWith(start.to_owned())),
            Some(_) => None,
        }
    }
}

/// Returns the extension that a rule fixes, if a short name would show it.
fn short_extension(rule: &str) -> Option<String> {
    let bare = rule.trim_start_matches('.');
    let (stem, extension) = bare.rsplit_once('.')?;
    let extension = extension.split(['*', '-']).next().unwrap_or_default();
    // Extensions of up to three letters are shown whole: `*.key` covers `NOTES~1.KEY` as it stands.
    let is_cut = extension.len() > 3;
    let is_telling = is_cut || !rule.contains('*');
    (is_telling && !stem.contains(['#', '~'])).then(|| extension.to_owned())
}

/// Matches literal segments with anything between them: the first is the start, the last the end. Linear in the name.
fn segments_match(segments: &[String], name: &str) -> bool {
    let [first, middle @ .., last] = segments else {
        return segments.first().is_some_and(|only| only == name);
    };
    if !may_match(first, last, name) {
        return false;
    }
    let Some(mut rest) = name.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str())) else {
        return false;
    };
    // The earliest place for each middle segment leaves the most room for those after it.
    middle.iter().all(|segment| match place_of(segment, rest) {
        Some(at) => {
            rest = &rest[at + segment.len()..];
            true
        }
        None => false,
    })
}

/// Compares the outermost bytes: nearly every name differs there, and a call to compare the rest costs more than these.
fn may_match(first: &str, last: &str, name: &str) -> bool {
    let (first, last, name) = (first.as_bytes(), last.as_bytes(), name.as_bytes());
    (first.is_empty() || first.first() == name.first()) && (last.is_empty() || last.last() == name.last())
}

/// Finds a segment in a name. Both are so short that preparing a cleverer search would take longer than the search.
fn place_of(segment: &str, name: &str) -> Option<usize> {
    let (name, segment) = (name.as_bytes(), segment.as_bytes());
    let Some(&first) = segment.first() else {
        return Some(0);
    };
    let last = name.len().checked_sub(segment.len())?;
    (0..=last).find(|&at| name[at] == first && name[at..].starts_with(segment))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spelling::reduce;

    fn rule_for(text: &str) -> Option<&'static str> {
        denied(&RelPath::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}")))
    }

    #[test]
    fn every_named_secret_and_state_file_is_denied() {
        for (text, rule) in [
            (".env", ".env*"),
            (".env.local", ".env*"),
            ("server.key", "*.key"),
            ("cert.pem", "*.pem"),
            ("a.p12", "*.p12"),
            ("a.pfx", "*.pfx"),
            ("credentials.json", "credentials.json"),
            ("service-account.json", "service-account*.json"),
            ("service-account-prod.json", "service-account*.json"),
            (".ssh/config", ".ssh/"),
            (".npmrc", ".npmrc"),
            (".pypirc", ".pypirc"),
            (".yarnrc.yml", ".yarnrc.yml"),
            ("a.jks", "*.jks"),
            (".docker/config.json", ".docker/config.json"),
            ("home/.docker/config.json", ".docker/config.json"),
            (".aws/credentials", ".aws/"),
            ("id_rsa", "id_rsa*"),
            ("id_rsa.pub", "id_rsa*"),
            ("id_ed25519", "id_ed25519*"),
            ("id_ecdsa_sk", "id_ecdsa*"),
            ("id_dsa", "id_dsa*"),
            (".git/config", ".git/"),
            (".git", ".git/"),
            ("sub/.git/HEAD", ".git/"),
            ("node_modules/a/index.js", "node_modules/"),
            ("node_modules", "node_modules/"),
            ("a.sqlite", "*.sqlite"),
            ("a.sqlite3", "*.sqlite3"),
            ("a.sqlite-wal", "*.sqlite-*"),
            ("a.sqlite3-shm", "*.sqlite3-*"),
            ("sync.db", "*.db"),
            ("sync.db-wal", "*.db-wal"),
            ("sync.db-shm", "*.db-shm"),
            ("sync.db-journal", "*.db-journal"),
            ("terraform.tfstate", "*.tfstate*"),
            ("terraform.tfstate.backup", "*.tfstate*"),
            (".sessions.json", ".sessions.json"),
            ("sync-config.json", "sync-config.json"),
            ("sub/sync-config.json", "sync-config.json"),
            (".sync-status.json", ".sync-status.json"),
            (".sync-failures.json", ".sync-failures.json"),
            ("notes.md~", "*~"),
            (".notes.md.swp", "*.swp"),
            ("notes.swo", "*.swo"),
            (".#notes.md", ".#*"),
            ("#notes.md#", "#*#"),
            (".DS_Store", ".DS_Store"),
            ("Thumbs.db", "*.db"),
            ("desktop.ini", "desktop.ini"),
            ("notes.md.conflict", "*.conflict"),
            ("_tmp-larder-1", "_tmp-*"),
            (".netrc", ".netrc"),
            (".git-credentials", ".git-credentials"),
            (".kube/config", ".kube/"),
            (".gnupg/secring.gpg", ".gnupg/"),
            (".config/gcloud/access_tokens", ".config/gcloud/"),
            (".azure/token", ".azure/"),
            ("a.keystore", "*.keystore"),
            ("a.kdbx", "*.kdbx"),
            ("a.p8", "*.p8"),
            ("a.ovpn", "*.ovpn"),
            (".pgpass", ".pgpass"),
            (".htpasswd", ".htpasswd"),
            (".vault-token", ".vault-token"),
            (".terraform/x", ".terraform/"),
            (".hg/x", ".hg/"),
            (".svn/x", ".svn/"),
            (".larder/device.key", "*.key"),
            (".larder/state", ".larder/"),
            (".larder-set-aside-abc234/origin.json", ".larder-set-aside-*"),
            (".claude/.credentials.json", ".claude/.credentials.json"),
            ("auth.json", "auth.json"),
            ("sub/auth.json", "auth.json"),
            (".claude/worktrees/a/b", ".claude/worktrees/"),
            (".notes.md.kate-swp", "*.kate-swp"),
            (".goutputstream-ABCDEF", ".goutputstream-*"),
            ("notes.md___jb_tmp___", "*___jb_tmp___"),
            ("notes.md___jb_old___", "*___jb_old___"),
            ("notes.md.crswap", "*.crswap"),
            ("notes.md.sb-1a2b3c4d-AbCdEf", "*.sb-*"),
            (".~lock.notes.odt#", ".~lock.*#"),
            ("~$notes.docx", "~$*"),
            ("settings.json.tmp.4711", "*.tmp<.digits>"),
            ("settings.json.tmp.4711.1763720000", "*.tmp<.digits>"),
            (".nfs000000000123", ".nfs0*"),
            (".fuse_hidden0000", ".fuse_hidden*"),
        ] {
            assert_eq!(rule_for(text), Some(rule), "{text:?}");
        }
    }

    #[test]
    fn no_disguise_hides_a_denied_name() {
        for text in [
            ".ENV",
            "a/b/.Env.Production",
            "．ｅｎｖ",
            ".e\u{200b}nv",
            ".env.",
            ".env ",
            ".env . ",
            ".git ",
            ".git.",
            ".Git\u{200c}/config",
            ".env::$DATA",
            ".git::$INDEX_ALLOCATION/config",
            ".git ::$DATA",
            "a\\.env",
            "a／.env",
            "GIT~1",
            "git~1/config",
            "CREDEN~1.JSO",
            "NODE_M~1/x",
            "LARDER~1",
            "SSH~1/config",
            "AUTH~1.JSO",
            "SYNC-C~1.JSO",
            "ID_ED2~1",
            "ENV~1",
            "ENVLO~12",
            "NOTES~1.SQL",
            "SERVIC~1.JSO",
            "KEYS.KEY",
            "NOTES~1.KEY",
            "İD_RSA",
            "ıd_rsa",
            "id_rſa",
            "\u{212a}ey.\u{212a}ey",
            ".ssh\u{ad}/config",
            ".env\n",
            ".env/file",
            "server.key/readme.md",
            "auth.json/x",
            ".DOCKER/Config.JSON",
            ".claude./.credentials.json ",
            ".config/GCLOUD",
            ".\u{1d41e}nv",
            ".aws\u{e0020}",
            "\u{feff}.netrc",
        ] {
            assert!(rule_for(text).is_some(), "{text:?}");
        }
    }

    #[test]
    fn ordinary_artifacts_are_not_denied() {
        for text in [
            "README.md",
            "CLAUDE.md",
            ".gitignore",
            ".gitattributes",
            ".github/workflows/ci.yml",
            "env.md",
            "my.env",
            "environment.md",
            "keys.md",
            "key",
            "monkey",
            "turkey.md",
            "db",
            "my-db.json",
            "sqlite.md",
            "credentials.json.md",
            "oauth.json",
            "auth.md",
            ".docker/daemon.json",
            "docker/config.json",
            "config.json",
            ".config/app.toml",
            "gcloud/x",
            ".claude/settings.json",
            ".claude/agents/a.md",
            ".claude/commands/worktrees.md",
            "worktrees/a.md",
            "issues/4913/notes.md",
            "notes.tmp.md",
            "tmp.1",
            "_tmp",
            "tmp-1",
            "conflict.md",
            "data/2024.01.15",
            "a.tmp",
            "report~1.json",
            "notes~1.md",
            "#1.md",
            "# plan",
            "C#/x",
            "a#b#c",
            "résumé.md",
            "日本語.md",
            "clé.md",
            ".éenv",
            "swp",
            "pem/readme.md",
            "terraform/main.tf",
            "package.json",
            "note:b.md",
            "id.rsa",
            "Git/notes",
            "nodemodules/x",
            "sb-1.md",
            "history.jsonl",
            ".nfsrc",
        ] {
            assert_eq!(rule_for(text), None, "{text:?}");
        }
    }

    #[test]
    fn code_running_files_are_recognised() {
        let rule_for =
            |text: &str| runs_code(&RelPath::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}")));
        for text in [
            ".mcp.json",
            "sub/.MCP.json",
            ".claude/settings.json",
            ".claude/settings.local.json",
            ".vscode/tasks.json",
            ".envrc",
            ".bashrc",
            ".zshenv",
            ".husky/pre-commit",
            "tools/hooks/post-checkout",
            ".mcp.json ",
            ".config/fish/config.fish",
        ] {
            assert!(rule_for(text).is_some(), "{text:?}");
        }
        for text in [
            "mcp.json",
            ".claude/agents/a.md",
            "settings.json",
            ".vscode/extensions.json",
            "pre-commit",
            "hooks/readme.md",
            "a.bashrc",
        ] {
            assert_eq!(rule_for(text), None, "{text:?}");
        }
    }

    #[test]
    fn every_line_is_reduced_and_covers_its_own_example() {
        for list in [&*DENIED, &*RUNS_CODE] {
            for rule in &list.rules {
                for name in rule.line.trim_end_matches('/').split('/') {
                    assert_eq!(reduce(name), name.to_lowercase(), "a line must be written in the reduced spelling");
                }
                let example = rule.line.trim_end_matches('/').replace('*', "x").replace(DIGITS_MARK, ".1");
                assert!(rule.covers_start(&spellings(&example)), "{}", rule.line);
                for place in [example.clone(), format!("a/b/{example}/c")] {
                    let found = list.find(&RelPath::parse(&place).expect("the example of a line is a path"));
                    assert!(found.is_some(), "{} by {place}", rule.line);
                }
            }
        }
        let distinct: std::collections::BTreeSet<&str> = denylist().collect();
        assert_eq!(distinct.len(), DENIED.rules.len());
    }

    #[test]
    fn the_index_never_changes_what_is_found() {
        for text in [
            ".env",
            "a/x.key",
            "a.tmp.1",
            "GIT~1",
            "note:b/.git:x",
            "plain.md",
            "x.tfstate.y",
            ".docker/config.json",
            "-",
            "é/ü.db",
        ] {
            let spellings = spellings(text);
            let by_scan =
                DENIED.rules.iter().find(|rule| (0..spellings.len()).any(|at| rule.covers_start(&spellings[at..])));
            assert_eq!(rule_for(text), by_scan.map(|rule| rule.line), "{text:?}");
        }
    }

    #[test]
    fn segments_match_like_stars() {
        let matches =
            |rule: &str, name: &str| segments_match(&rule.split('*').map(str::to_owned).collect::<Vec<_>>(), name);
        for (rule, name, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "a", true),
            ("*a", "ba", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("#*#", "#", false),
            ("#*#", "##", true),
            ("*b*", "abc", true),
            ("a*b*c", "axxbxxc", true),
            ("a*b*c", "axxc", false),
        ] {
            assert_eq!(matches(rule, name), expected, "{rule} {name}");
        }
    }
}
