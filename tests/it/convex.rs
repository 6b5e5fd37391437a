//! Convex through the shipped binary, over the vendor's mock that runs Larder's functions: machines that share nothing else converge,
//! and the vendor's client writes beside them.
//!
//! `scripts/test` installs what it needs and names it (`LARDER_CONVEX_NODE`); each test has a deployment of its own.

use std::path::Path;
use std::process::Stdio;

use crate::convex_server::{Deployment, SECRET};
use crate::support::{CONFIG, DAEMON_DEADLINE, Lab, Project, finish, skip, until};

/// A deployment, or a reason not to go on.
fn start(test: &str) -> Option<Deployment> {
    let adapters = Path::new(env!("CARGO_MANIFEST_DIR")).join("adapters");
    Deployment::start(&adapters).map_err(|reason| skip(test, reason)).ok()
}

impl Deployment {
    fn machine(&self, lab: &Lab, name: &str) -> Project {
        let project = lab.project(name, CONFIG).with_home(&lab.path(format!("home-{name}")));
        let project = project.with_var("FILE_SYNC_BACKEND", "convex").with_var("CONVEX_URL", &self.url);
        project.with_var("CONVEX_LARDER_SECRET", SECRET)
    }

    /// Runs the vendor's client; what it printed.
    #[track_caller]
    fn client(&self, words: &[&str]) -> String {
        let mut command = self.client_command(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(command).expect(0).out.trim_end().to_owned()
    }
}

#[test]
fn two_machines_that_share_only_convex_converge_beside_a_program_of_the_vendors_client() {
    let test = "two_machines_that_share_only_convex_converge_beside_a_program_of_the_vendors_client";
    let Some(deployment) = start(test) else { return };
    let lab = Lab::new();
    let (a, b) = (deployment.machine(&lab, "a"), deployment.machine(&lab, "b"));
    let settle = || [&a, &b, &a].into_iter().for_each(|project| drop(project.sync_any()));
    settle();
    let large: Vec<u8> = (0..2_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    a.write("shared/große datei.md", "eins\n");
    a.write("shared/large.bin", &large);
    b.write("shared/of-b.md", "zwei\n");
    settle();
    assert_eq!(a.tree("shared"), b.tree("shared"));
    assert_eq!(b.read("shared/large.bin"), Some(large));

    deployment.client(&["put", "lab", "shared/theirs.md", "new\n"]);
    deployment.client(&["put", "lab", "shared/of-b.md", "edited\n"]);
    settle();
    assert_eq!(b.read("shared/theirs.md"), Some(b"new\n".to_vec()));
    assert_eq!(a.read("shared/of-b.md"), Some(b"edited\n".to_vec()));

    b.write("shared/theirs.md", "von b\n");
    settle();
    assert_eq!(deployment.client(&["read", "lab", "shared/theirs.md"]), "von b");
    deployment.client(&["delete", "lab", "shared/theirs.md"]);
    a.remove("shared/große datei.md");
    settle();
    assert_eq!((a.read("shared/theirs.md"), b.read("shared/große datei.md")), (None, None));
    assert_eq!(a.tree("shared"), b.tree("shared"));

    let stranger = deployment.machine(&lab, "c").with_var("CONVEX_LARDER_SECRET", "other");
    stranger.run(["sync"]).expect(2).says("is not the deployment's LARDER_SECRET");
}

#[test]
fn a_project_that_moves_to_another_deployment_fills_it() {
    let test = "a_project_that_moves_to_another_deployment_fills_it";
    let (Some(old), Some(new)) = (start(test), start(test)) else { return };
    let lab = Lab::new();
    let a = old.machine(&lab, "a");
    a.write("shared/first.md", "first\n");
    a.sync_any();

    let a = a.with_var("CONVEX_URL", &new.url);
    a.write("shared/second.md", "second\n");
    a.sync_any();

    assert_eq!(new.client(&["read", "lab", "shared/first.md"]), "first");
    assert_eq!(new.client(&["read", "lab", "shared/second.md"]), "second");
    assert_eq!(old.client(&["read", "lab", "shared/second.md"]), "null", "the old one stays as it was");
}

#[test]
fn rows_of_convex_with_hostile_names_land_nowhere_and_stop_no_other() {
    let Some(deployment) = start("rows_of_convex_with_hostile_names_land_nowhere_and_stop_no_other") else { return };
    let lab = Lab::new();
    let a = deployment.machine(&lab, "a");
    a.write("shared/a.md", "ours\n");
    a.sync_any();

    let hostile = ["../outside.md", "shared/../../outside.md", "/tmp/larder-outside.md", "shared/.env", ".git/config"];
    for path in hostile.into_iter().chain(["shared/theirs.md"]) {
        deployment.client(&["put", "lab", path, "planted\n"]);
    }
    a.sync_any();
    a.sync_any();

    assert_eq!(a.read("shared/theirs.md"), Some(b"planted\n".to_vec()));
    assert!(!lab.path("outside.md").exists() && !Path::new("/tmp/larder-outside.md").exists());
    assert_eq!((a.read("shared/.env"), a.read(".git/config")), (None, None));
    assert_eq!(deployment.client(&["read", "lab", "../outside.md"]), "planted", "another program's row is left alone");
    a.verify();
}

#[test]
fn daemons_tell_each_other_over_the_socket_of_convex_and_go_on_when_it_goes() {
    let test = "daemons_tell_each_other_over_the_socket_of_convex_and_go_on_when_it_goes";
    let Some(deployment) = start(test) else { return };
    let lab = Lab::new();
    let (a, b) = (deployment.machine(&lab, "a"), deployment.machine(&lab, "b"));
    let (_first, _second) = (a.up(), b.up());
    let stands = |count: &str| deployment.client(&["socket", "{}"]) == count;
    until("both hear", DAEMON_DEADLINE, || stands("2"));

    a.write("shared/a.md", "von a\n");
    until("it reaches b", DAEMON_DEADLINE, || b.read("shared/a.md").as_deref() == Some(b"von a\n"));
    deployment.client(&["socket", r#"{"refuse":true,"drop":true}"#]);
    let told = "tells of no changes";
    until("status says so", DAEMON_DEADLINE, || b.run(["status"]).said().contains(told));
    assert!(!b.run(["status"]).said().contains(SECRET));
    b.remove("shared/a.md");
    until("its end reaches a", DAEMON_DEADLINE, || a.read("shared/a.md").is_none());
    deployment.client(&["socket", r#"{"refuse":false}"#]);
    until("both hear again", DAEMON_DEADLINE, || stands("2") && !b.run(["status"]).said().contains(told));
}
