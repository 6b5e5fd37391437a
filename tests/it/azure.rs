//! A container of Azure's own emulator: the laws of a transport, and machines that share nothing else.
//!
//! `scripts/test` installs it from npm and says where it is (`LARDER_AZURITE`); the test starts one on this machine alone, in memory,
//! and kills it at its end.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{CONFIG, Lab, Project, has_program, keeps_the_contract, skip, until};

const SERVER_DEADLINE: Duration = Duration::from_secs(90);
/// What every installation of the emulator has; no secret.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const CONTAINER: &str = "box";

/// Makes a container with a signed request, which Larder never does.
const MAKE_CONTAINER: &str = r#"
import base64, datetime, hashlib, hmac, sys, urllib.request
port, account, key, container = sys.argv[1:5]
now = datetime.datetime.now(datetime.timezone.utc)
headers = {"x-ms-date": now.strftime("%a, %d %b %Y %H:%M:%S GMT"), "x-ms-version": "2021-12-02"}
named = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
signed = "PUT" + "\n" * 12 + named + f"/{account}/{account}/{container}\nrestype:container"
signature = hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()
headers["Authorization"] = f"SharedKey {account}:{base64.b64encode(signature).decode()}"
url = f"http://127.0.0.1:{port}/{account}/{container}?restype=container"
urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers))
"#;

/// The emulator; killed when dropped.
struct Azurite {
    child: Child,
    port: u16,
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Azurite {
    /// Starts one with a container. Errors: why it cannot be had here.
    fn start(lab: &Lab) -> Result<Azurite, &'static str> {
        let program = std::env::var_os("LARDER_AZURITE").map(PathBuf::from).filter(|path| path.is_file());
        let named = || has_program("azurite-blob").then(|| PathBuf::from("azurite-blob"));
        let program = program.or_else(named).ok_or("`azurite-blob` (npm azurite) is not installed")?;
        if !has_program("python3") {
            return Err("python3, which makes the container, is not installed");
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let said = fs::File::create(lab.path("azurite.log")).expect("make a log");
        let mut command = Command::new(program);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--inMemoryPersistence", "--silent"]);
        command.args(["--skipApiVersionCheck", "--disableTelemetry"]).current_dir(lab.path("home"));
        command.stdin(Stdio::null()).stdout(said.try_clone().expect("the same log")).stderr(said);
        let azurite = Azurite { child: command.spawn().expect("starts"), port };
        until("there is a container", SERVER_DEADLINE, || {
            let mut make = Command::new("python3");
            make.args(["-c", MAKE_CONTAINER, &port.to_string(), ACCOUNT, KEY, CONTAINER]);
            make.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        });
        Ok(azurite)
    }

    fn vars(&self) -> [(&'static str, String); 3] {
        [
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.to_owned()),
            ("AZURE_STORAGE_ACCOUNT_KEY", KEY.to_owned()),
            ("AZURE_STORAGE_ENDPOINT", format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)),
        ]
    }

    fn machine(&self, lab: &Lab, name: &str) -> Project {
        let project = lab.project(name, CONFIG).with_home(&lab.path(format!("home-{name}")));
        self.vars().into_iter().fold(project, |project, (name, value)| project.with_var(name, &value))
    }
}

#[test]
fn an_azure_container_keeps_the_transport_contract_and_brings_machines_together() {
    const TEST: &str = "an_azure_container_keeps_the_transport_contract_and_brings_machines_together";
    let lab = Lab::new();
    let azurite = match Azurite::start(&lab) {
        Ok(azurite) => azurite,
        Err(why) => return skip(TEST, why),
    };
    keeps_the_contract(&lab, &format!("az://{CONTAINER}"), azurite.vars());

    let (a, b) = (azurite.machine(&lab, "a"), azurite.machine(&lab, "b"));
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    a.write("shared/large.bin", &large);
    a.write("shared/log.jsonl", "{\"n\":0}\n");
    for project in [&a, &b] {
        project.run(["peers", "add", "box", "az://box/team"]).expect(0);
        project.sync();
    }
    a.append("shared/log.jsonl", "{\"by\":\"a\"}\n");
    b.append("shared/log.jsonl", "{\"by\":\"b\"}\n");
    for project in [&a, &b, &a] {
        project.sync();
    }

    assert_eq!(a.tree("shared"), b.tree("shared"));
    assert_eq!(b.read("shared/log.jsonl").map(|bytes| bytes.iter().filter(|byte| **byte == b'\n').count()), Some(3));
    let wrong = a.clone().with_var("AZURE_STORAGE_ACCOUNT_KEY", "bm90IHRoZSBrZXk=");
    wrong.run(["peers", "add", "again", "az://box/other"]).expect(1).says("credentials");
    [&a, &b].into_iter().for_each(Project::verify);
}
