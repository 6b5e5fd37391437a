//! Two machines that share nothing but a cable: daemons in network namespaces of their own, a line that is cut and mended.
//!
//! Invariant: each machine sees its own interfaces alone, so that nothing but the line between them can carry an edit. Needs root,
//! for the namespaces; without it the test says so.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{CONFIG, DAEMON_DEADLINE, Daemon, Lab, Project, finish, is_root, skip, started_by, until};

const HUB: &str = "10.203.77.1";
const FAR: &str = "10.203.77.2";
const PORT: &str = "7171";
/// A line that is down is noticed by timeouts.
const NOTICED: Duration = Duration::from_secs(90);

/// Two namespaces and the cable between them; gone when dropped.
struct Cable {
    hub: String,
    far: String,
}

fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split(' ')).output().map_err(|error| format!("run ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

impl Cable {
    fn lay() -> Result<Cable, String> {
        if !is_root() {
            return Err("network namespaces need root".to_owned());
        }
        let id = std::process::id();
        let cable = Cable { hub: format!("larder-{id}-hub"), far: format!("larder-{id}-far") };
        ip(&format!("netns add {}", cable.hub))?;
        ip(&format!("netns add {}", cable.far))?;
        ip(&format!("-n {} link add line type veth peer name line netns {}", cable.hub, cable.far))?;
        for (name, address) in [(&cable.hub, HUB), (&cable.far, FAR)] {
            ip(&format!("-n {name} addr add {address}/24 dev line"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} link set line up"))?;
        }
        Ok(cable)
    }

    /// On the far side, whose network then knows at once that it has no way.
    fn set(&self, state: &str) {
        ip(&format!("-n {} link set line {state}", self.far)).expect("the link changes");
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in [&self.hub, &self.far] {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// `larder ARGS` of a project, in a namespace.
fn inside(namespace: &str, project: &Project, args: &[&str]) -> Command {
    started_by(&["ip", "netns", "exec", namespace], &project.command(args))
}

fn up(namespace: &str, project: &Project, args: &[&str]) -> Daemon {
    let mut daemon = Daemon::start(inside(namespace, project, &[&["up"], args].concat()));
    daemon.wait_ready();
    daemon
}

fn pair(cable: &Cable, hub: &Project, far: &Project) {
    let invited = finish(inside(&cable.hub, hub, &["peers", "invite", "--json"])).expect(0).json();
    let code = invited["code"].as_str().expect("a code").to_owned();
    let url = format!("https://{HUB}:{PORT}");
    let mut command = inside(&cable.far, far, &["peers", "pair", "hub", &url]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("starts");
    child.stdin.take().expect("piped").write_all(code.as_bytes()).expect("types the code");
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn daemons_in_separate_networks_converge_again_after_the_line_was_down() {
    let cable = match Cable::lay() {
        Ok(cable) => cable,
        Err(why) => return skip("daemons_in_separate_networks_converge_again_after_the_line_was_down", &why),
    };
    let lab = Lab::new();
    let [hub, far] = ["hub", "far"].map(|name| lab.project(name, CONFIG).with_home(&lab.path(format!("home-{name}"))));
    let made = rcgen::generate_simple_self_signed(vec![HUB.to_owned()]).expect("a certificate");
    let (cert, key) = (lab.path("cert.pem"), lab.path("key.pem"));
    fs::write(&cert, made.cert.pem()).expect("write");
    fs::write(&key, made.signing_key.serialize_pem()).expect("write");
    hub.write("shared/log.jsonl", "{\"n\":0}\n");
    let address = format!("{HUB}:{PORT}");
    let served = ["--serve", &address, "--cert", &cert.to_string_lossy(), "--key", &key.to_string_lossy()];
    let up_hub = up(&cable.hub, &hub, &served);
    pair(&cable, &hub, &far);
    let up_far = up(&cable.far, &far, &[]);
    until("the line carries", DAEMON_DEADLINE, || far.read("shared/log.jsonl").is_some());

    cable.set("down");
    for n in 1..=5 {
        for (project, name) in [(&hub, "hub"), (&far, "far")] {
            project.write(format!("shared/{name}-{n}.md"), format!("{name} {n}\n"));
            project.append("shared/log.jsonl", format!("{{\"by\":\"{name}\",\"n\":{n}}}\n"));
        }
    }
    until("the far side tells that the hub is away", NOTICED, || {
        finish(inside(&cable.far, &far, &["status"])).said().contains("hub push: last success")
            && finish(inside(&cable.far, &far, &["status"])).said().contains("failed")
    });
    assert_eq!(far.read("shared/hub-1.md"), None, "nothing comes over a line that is down");
    assert_eq!(hub.read("shared/far-1.md"), None);

    cable.set("up");
    until("both hold everything of both", NOTICED, || {
        let lines = far.read("shared/log.jsonl").unwrap_or_default().iter().filter(|byte| **byte == b'\n').count();
        let tree = far.tree("shared");
        tree == hub.tree("shared") && tree.len() == 11 && lines == 11
    });
    up_far.stop();
    up_hub.stop();
    hub.verify();
    far.verify();
}
