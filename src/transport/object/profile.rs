//! The shared profile files of the AWS tools: `~/.aws/credentials` and `~/.aws/config`.
//!
//! Invariant: what stands in them is never shown; a way of getting keys that is not known here is an error that says so, never
//! passed over for another. Reads two files within a bound and changes none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

const MAX_FILE_BYTES: u64 = 1 << 20;
const DEFAULT: &str = "default";
/// Settings by which other tools get keys that stand in no file.
const OTHER_WAYS: [&str; 5] = ["credential_process", "sso_session", "sso_start_url", "role_arn", "login_session"];

/// What one profile says, by key in lower case.
#[derive(Default)]
pub(super) struct Profile(BTreeMap<String, String>);

impl Profile {
    /// The profile that the variables name, or the one called `default`; empty if there is none.
    ///
    /// Errors: a sentence for a profile that was named and is not there, for a file that cannot be read, and for keys that are
    /// to be got in a way that is not known here.
    pub fn of(vars: &BTreeMap<String, String>) -> Result<Profile, String> {
        let var = |name: &str| vars.get(name).filter(|value| !value.is_empty());
        let named = var("AWS_PROFILE").or_else(|| var("AWS_DEFAULT_PROFILE")).map(String::as_str);
        let name = named.unwrap_or(DEFAULT);
        let file = |variable: &str, below_home: &str| {
            let at_home = || var("HOME").map(|home| Path::new(home).join(below_home));
            var(variable).map(PathBuf::from).or_else(at_home)
        };
        let config_section = if name == DEFAULT { name.to_owned() } else { format!("profile {name}") };
        let files = [
            (file("AWS_CONFIG_FILE", ".aws/config"), config_section.as_str()),
            (file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"), name),
        ];
        let mut found = None;
        for (path, section) in files.iter().filter_map(|(path, section)| Some((path.as_ref()?, section))) {
            let Some(text) = read(path)? else { continue };
            // What stands in the file for credentials counts more, so it comes last.
            if let Some(values) = section_of(&text, section) {
                found.get_or_insert_with(BTreeMap::new).extend(values);
            }
        }
        match (found, named) {
            (None, Some(named)) => {
                Err(format!("there is no profile `{}` in the AWS files", larder_patterns::shown(named)))
            }
            (found, _) => Ok(Profile(found.unwrap_or_default())),
        }
    }

    /// A value; `None` if it is not there or empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The key, its secret and the token of a session, if the profile holds keys.
    ///
    /// Errors: a sentence if they are to be got in another way.
    pub fn keys(&self) -> Result<Option<(&str, &str, Option<&str>)>, String> {
        if let (Some(key), Some(secret)) = (self.get("aws_access_key_id"), self.get("aws_secret_access_key")) {
            return Ok(Some((key, secret, self.get("aws_session_token"))));
        }
        let Some(way) = OTHER_WAYS.into_iter().find(|way| self.get(way).is_some()) else { return Ok(None) };
        Err(format!(
            "the AWS profile gets its keys by `{way}`, which larder cannot do: \
             `aws configure export-credentials --format env` prints variables that it can use"
        ))
    }
}

fn read(path: &Path) -> Result<Option<String>, String> {
    let shown = larder_patterns::shown(&path.to_string_lossy());
    let mut bytes = Vec::new();
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|error| format!("{shown} cannot be read: {error}"))?,
    };
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("{shown} cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("{shown} is larger than {MAX_FILE_BYTES} bytes"));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The values below `[section]`; `None` if there is no such section. Of one key the last counts.
fn section_of(text: &str, section: &str) -> Option<BTreeMap<String, String>> {
    let mut found: Option<BTreeMap<String, String>> = None;
    let mut inside = false;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix('[') {
            let title = rest.split(']').next().unwrap_or_default();
            inside = title.split_whitespace().eq(section.split_whitespace());
            if inside {
                found.get_or_insert_default();
            }
            continue;
        }
        // What is indented belongs to the setting above it, and none of those is used here.
        let plain = !line.starts_with(char::is_whitespace) && !line.starts_with(['#', ';']);
        if let (true, true, Some((key, value))) = (inside, plain, line.split_once('=')) {
            let end = [" #", " ;", "\t#", "\t;"].into_iter().filter_map(|comment| value.find(comment)).min();
            let value = value[..end.unwrap_or(value.len())].trim();
            found.get_or_insert_default().insert(key.trim().to_ascii_lowercase(), value.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "# ours\n[default]\naws_access_key_id = AK\naws_secret_access_key=SK # not this\n\n\
                               [ two ]\nAWS_ACCESS_KEY_ID=AK2\naws_secret_access_key = S=K;2\naws_session_token = T\n";
    const CONFIG: &str = "[default]\nregion = eu-1\naws_access_key_id = OLD\ns3 =\n  endpoint_url = http://nested\n\
                          [profile two]\nendpoint_url = https://two.example\n[profile three]\nsso_session = x\n";

    fn vars(folder: &Path, profile: &str) -> BTreeMap<String, String> {
        let home = ("HOME".to_owned(), folder.to_string_lossy().into_owned());
        BTreeMap::from([home, ("AWS_PROFILE".to_owned(), profile.to_owned())])
    }

    fn home() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join(".aws")).expect("creates");
        std::fs::write(folder.path().join(".aws/credentials"), CREDENTIALS).expect("writes");
        std::fs::write(folder.path().join(".aws/config"), CONFIG).expect("writes");
        folder
    }

    #[test]
    fn the_named_profile_is_read_from_both_files_and_credentials_count_more() {
        let home = home();

        let first = Profile::of(&vars(home.path(), "")).expect("reads");
        assert_eq!(first.keys(), Ok(Some(("AK", "SK", None))));
        assert_eq!((first.get("region"), first.get("endpoint_url")), (Some("eu-1"), None));

        let second = Profile::of(&vars(home.path(), "two")).expect("reads");
        assert_eq!(second.keys(), Ok(Some(("AK2", "S=K;2", Some("T")))));
        assert_eq!(second.get("endpoint_url"), Some("https://two.example"));
    }

    #[test]
    fn a_profile_that_is_missing_or_gets_its_keys_elsewhere_is_told() {
        let home = home();

        let missing = Profile::of(&vars(home.path(), "four")).err().expect("named and not there");
        assert!(missing.contains("no profile `four`"), "{missing}");
        let elsewhere = Profile::of(&vars(home.path(), "three")).expect("reads").keys().expect_err("no keys here");
        assert!(elsewhere.contains("`sso_session`") && elsewhere.contains("export-credentials"), "{elsewhere}");
        let nothing = Profile::of(&BTreeMap::new()).expect("no home, no files");
        assert_eq!(nothing.keys(), Ok(None));
    }

    #[test]
    fn a_file_without_end_is_refused() {
        let home = home();
        let mut vars = vars(home.path(), "");
        vars.insert("AWS_CONFIG_FILE".to_owned(), "/dev/zero".to_owned());

        let error = Profile::of(&vars).err().expect("refused");

        assert!(error.contains("is larger than"), "{error}");
    }
}
