//! `signalbox config check` of a file of agents: every mistake on its line, and
//! an exit code that a script can use.

use signalbox_testkit::{DEADLINE, Process, signalbox};

/// The exit code of a check, and what it printed.
async fn check(text: &str, key: Option<&str>) -> (Option<i32>, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agents.toml");
    std::fs::write(&path, text).unwrap();
    let mut command = signalbox();
    command.arg("config").arg("check").arg(&path);
    command.env_remove("ANTHROPIC_API_KEY");
    command.envs(key.map(|key| ("ANTHROPIC_API_KEY", key)));
    let process = Process::spawn(command);
    let status = process.wait(DEADLINE).await;
    let shown = |lines: Vec<String>| {
        lines
            .join("\n")
            .replace(path.to_str().unwrap(), "agents.toml")
    };
    (
        status.code(),
        shown(process.stdout().lines()),
        shown(process.stderr().lines()),
    )
}

#[tokio::test]
async fn every_mistake_has_its_line_and_the_code_is_64() {
    let text = "[providers.local]\nkind = 'openai'\nbase_url = 'http://models.example/v1'\n\
        api_key = 'sk-oops'\n\n[agents.helper]\nprovider = 'locl'\ntools = ['rm']\n\
        [agents.helper.clocks]\ntotal = 'soon'\n";
    let (code, stdout, stderr) = check(text, None).await;
    assert_eq!(code, Some(64));
    let places: Vec<&str> = stdout
        .lines()
        .map(|line| {
            let place = line.strip_prefix("agents.toml: ").expect(line);
            place.split(": ").nth(1).expect(line)
        })
        .collect();
    let expected = [
        "providers.local.base_url",
        "providers.local.api_key",
        "agents.helper.provider",
        "agents.helper.tools[0]",
        "agents.helper.clocks.total",
    ];
    assert_eq!(places, expected, "{stdout}");
    for line in [3, 4, 7, 8, 10] {
        assert!(
            stdout.contains(&format!("agents.toml: line {line}: ")),
            "{stdout}"
        );
    }
    assert!(stderr.contains("5 mistakes"), "{stderr}");
    assert!(!stdout.contains("sk-oops") && !stderr.contains("sk-oops"));
}

#[tokio::test]
async fn a_good_file_lists_its_agents_and_a_missing_key_is_a_warning() {
    let text = "[agents.threat_classifier]\nprovider = 'anthropic'\nmodel = 'some-model'\n";
    let (code, stdout, _) = check(text, Some("sk-fine")).await;
    assert_eq!(code, Some(0), "{stdout}");
    assert!(
        stdout.contains("threat_classifier: Threat Classifier, some-model"),
        "{stdout}"
    );
    assert!(
        stdout.contains("response_advisor: Response Advisor, offline-analyst"),
        "{stdout}"
    );
    assert!(
        !stdout.contains("warning") && !stdout.contains("sk-fine"),
        "{stdout}"
    );
    let (code, stdout, _) = check(text, None).await;
    assert_eq!(code, Some(0), "{stdout}");
    assert!(
        stdout.contains("line 2: warning: providers.anthropic.api_key_env"),
        "{stdout}"
    );
}
