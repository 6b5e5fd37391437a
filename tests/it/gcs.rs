//! A bucket of Google Cloud Storage, over a strict stand-in: the laws of a transport, machines that share nothing else, and what is
//! wrong with the credentials in one sentence.
//!
//! The stand-in (`gcs_server`) is checked by Google's own client, which speaks the same interface; `scripts/test` installs it from
//! PyPI and says where it is (`LARDER_GSUTIL`).

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::gcs_server::{BUCKET, CloudStorage};
use crate::support::{CONFIG, Lab, Project, has_program, keeps_the_contract, skip};

fn vars(lab: &Lab, server: &CloudStorage) -> [(&'static str, String); 2] {
    let file = lab.path("account.json");
    fs::write(&file, server.account_file()).expect("write the account's file");
    [("GOOGLE_APPLICATION_CREDENTIALS", file.display().to_string()), ("GOOGLE_BASE_URL", server.url())]
}

fn machine(lab: &Lab, server: &CloudStorage, name: &str) -> Project {
    let project = lab.project(name, CONFIG).with_home(&lab.path(format!("home-{name}")));
    vars(lab, server).into_iter().fold(project, |project, (name, value)| project.with_var(name, &value))
}

#[test]
fn a_google_bucket_keeps_the_transport_contract() {
    let (lab, server) = (Lab::new(), CloudStorage::start());

    keeps_the_contract(&lab, &format!("gs://{BUCKET}"), vars(&lab, &server));
}

#[test]
fn machines_that_share_only_a_google_bucket_converge() {
    let (lab, server) = (Lab::new(), CloudStorage::start());
    let (a, b) = (machine(&lab, &server, "a"), machine(&lab, &server, "b"));
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    a.write("shared/large.bin", &large);
    a.write("shared/é & x.md", "name\n");
    a.write("shared/log.jsonl", "{\"n\":0}\n");
    for project in [&a, &b] {
        project.run(["peers", "add", "bucket", &format!("gs://{BUCKET}/team")]).expect(0);
        project.sync();
    }
    a.append("shared/log.jsonl", "{\"by\":\"a\"}\n");
    b.append("shared/log.jsonl", "{\"by\":\"b\"}\n");
    b.remove("shared/é & x.md");
    for project in [&a, &b, &a] {
        project.sync();
    }

    assert_eq!(a.tree("shared"), b.tree("shared"));
    assert_eq!(a.read("shared/log.jsonl").map(|bytes| bytes.iter().filter(|byte| **byte == b'\n').count()), Some(3));
    assert!(server.keys().iter().all(|key| key.starts_with("team/")), "{:?}", server.keys());
    let quiet = a.run(["sync", "--json"]).expect(0).json();
    assert_eq!((&quiet["pushed"], &quiet["pulled"]), (&0.into(), &0.into()));
    [&a, &b].into_iter().for_each(Project::verify);
}

#[test]
fn what_is_wrong_with_a_google_bucket_is_one_sentence_and_stops_nothing_else() {
    let (lab, server, stranger) = (Lab::new(), CloudStorage::start(), CloudStorage::start());
    let a = machine(&lab, &server, "a");
    a.write("shared/a.md", "a\n");
    a.run(["peers", "add", "bucket", &format!("gs://{BUCKET}/p")]).expect(0);
    a.sync();
    let other = lab.path("other.json");
    fs::write(&other, stranger.account_file()).expect("write the account's file");

    let wrong_key = a.clone().with_var("GOOGLE_APPLICATION_CREDENTIALS", &other.display().to_string());
    let no_file = a.clone().with_var("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/account.json");
    for (wrong, said) in [(&wrong_key, "GOOGLE_APPLICATION_CREDENTIALS"), (&no_file, "GOOGLE_APPLICATION_CREDENTIALS")]
    {
        a.write("shared/a.md", format!("{:?}\n", wrong.run(["status"]).said()));
        let outcome = wrong.run(["sync"]).expect(2).says(said).says("1 recorded");
        assert!(!outcome.said().contains("PRIVATE") && !outcome.said().contains("ya29"), "{outcome:#?}");
    }
    server.set_revoked(true);
    a.run(["sync"]).expect(2).says("bucket");
    server.set_revoked(false);
    a.run(["peers", "add", "x", "gs://no-such-bucket/p"]).expect(1).says("no bucket called `no-such-bucket`");

    a.sync();
    let b = machine(&lab, &server, "b");
    b.run(["peers", "add", "bucket", &format!("gs://{BUCKET}/p")]).expect(0);
    b.sync();
    assert_eq!(a.tree("shared"), b.tree("shared"));
}

/// Google's own client, in a home of its own.
struct Gsutil {
    program: PathBuf,
    config: PathBuf,
    folder: PathBuf,
}

impl Gsutil {
    fn new(lab: &Lab, server: &CloudStorage) -> Option<Gsutil> {
        let named = std::env::var_os("LARDER_GSUTIL").map(PathBuf::from).filter(|path| path.is_file());
        let program = named.or_else(|| has_program("gsutil").then(|| PathBuf::from("gsutil")))?;
        let (config, folder) = (lab.path("boto"), lab.path("gsutil"));
        fs::create_dir(&folder).expect("make its folder");
        fs::write(folder.join("account.json"), server.account_file()).expect("write the account's file");
        let text = format!(
            "[Credentials]\ngs_service_key_file = {folder}/account.json\ngs_host = 127.0.0.1\ngs_port = {port}\n\
             [Boto]\nis_secure = False\nhttps_validate_certificates = False\nnum_retries = 0\n\
             [GSUtil]\nprefer_api = xml\nstate_dir = {folder}/state\nsoftware_update_check_period = 0\n\
             [OAuth2]\nprovider_token_uri = {token}\ntoken_cache = in_memory\n",
            folder = folder.display(),
            port = server.port(),
            token = server.token_url(),
        );
        fs::write(&config, text).expect("write its settings");
        Some(Gsutil { program, config, folder })
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.args(words).current_dir(&self.folder).stdin(Stdio::null());
        command.env("BOTO_CONFIG", &self.config).env("HOME", &self.folder);
        command.output().expect("it starts")
    }

    #[track_caller]
    fn says(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }
}

#[test]
fn googles_own_client_speaks_with_the_stand_in_and_reads_what_machines_put_there() {
    const TEST: &str = "googles_own_client_speaks_with_the_stand_in_and_reads_what_machines_put_there";
    let (lab, server) = (Lab::new(), CloudStorage::start());
    let Some(gsutil) = Gsutil::new(&lab, &server) else { return skip(TEST, "`gsutil` (PyPI gsutil) is not installed") };
    let a = machine(&lab, &server, "a");
    a.write("shared/a.md", "a\n");
    a.run(["peers", "add", "bucket", &format!("gs://{BUCKET}/team")]).expect(0);
    a.sync();
    let keys = server.keys();
    fs::write(gsutil.folder.join("f.txt"), "mine\n").expect("write a file");
    let (key, url) = ("team/lab/f & g.txt", format!("gs://{BUCKET}/team/lab/f & g.txt"));

    // A condition holds, once.
    let condition = ["-h", "x-goog-if-generation-match:0", "cp", "f.txt", url.as_str()];
    gsutil.says(&condition);
    fs::write(gsutil.folder.join("f.txt"), "other\n").expect("write a file");
    let again = gsutil.run(&condition);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains("PreconditionException: 412"), "{said}");
    assert_eq!(server.bytes(key).as_deref(), Some(&b"mine\n"[..]));

    // Listings, whole and by folder; reading, whole and in part.
    let all = gsutil.says(&["ls", &format!("gs://{BUCKET}/**")]);
    let urls = |keys: &[String]| keys.iter().map(|key| format!("gs://{BUCKET}/{key}\n")).collect::<String>();
    assert_eq!(all, urls(&server.keys()));
    assert_eq!(
        gsutil.says(&["ls", &format!("gs://{BUCKET}/team/")]).lines().count(),
        2,
        "a folder and the store's file"
    );
    let store = keys.iter().find(|key| key.ends_with("larder-store.json")).expect("it says what it is");
    assert_eq!(
        gsutil.says(&["cat", &format!("gs://{BUCKET}/{store}")]).into_bytes(),
        server.bytes(store).expect("is there")
    );
    assert_eq!(gsutil.says(&["cat", "-r", "1-2", &url]), "in");

    gsutil.says(&["rm", &url]);
    assert_eq!(server.keys(), keys);
    let gone = gsutil.run(&["cat", &url]);
    assert!(!gone.status.success(), "{gone:?}");
    a.sync();
    a.verify();
}
