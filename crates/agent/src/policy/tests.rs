//! Patterns, and tricks to get around them.

use super::*;

fn allows(pattern: &str, command: &str, args: &[&str]) -> bool {
    let mut words = words::split(command).unwrap();
    words.extend(args.iter().map(|&arg| arg.to_owned()));
    pattern.parse::<Pattern>().unwrap().matches(&words)
}

#[test]
fn a_pattern_without_wildcards_is_one_command() {
    assert!(allows("cargo test", "cargo test", &[]));
    assert!(allows("cargo test", "'cargo'  te\"st\"", &[]));
    assert!(allows("cargo test", "cargo", &["test"]));
    assert!(!allows("cargo test", "cargo test --all", &[]));
    assert!(!allows("cargo test", "cargo test", &["--all"]));
    assert!(!allows("cargo test", "cargo", &[]));
    assert!(!allows("cargo test", "cargo 'test;id'", &[]));
}

#[test]
fn the_program_is_named_as_in_the_pattern() {
    for other in [
        "/bin/ls",
        "./ls",
        "bin/../ls",
        "A=b ls",
        "env ls",
        "LS",
        "ls\u{200b}",
    ] {
        assert!(!allows("ls **", other, &[]), "{other}");
    }
    assert!(allows("/opt/run **", "/opt/run x", &[]));
    assert!(!allows("/opt/run **", "run x", &[]));
}

#[test]
fn a_star_stays_within_its_component() {
    assert!(allows("cat logs/*.log", "cat logs/a.log", &[]));
    assert!(allows("cat logs/a*b*c", "cat logs/abbc", &[]));
    assert!(!allows("cat logs/a*b*c", "cat logs/acb", &[]));
    assert!(!allows("cat logs/*.log", "cat logs/x/a.log", &[]));
    assert!(!allows("cat logs/*", "cat logs/..", &[]));
    assert!(!allows("cat */*", "cat logs/..", &[]));
    assert!(!allows("cat *", "cat /etc/passwd", &[]));
    assert!(!allows("echo a*a", "echo a", &[]));
}

#[test]
fn a_star_behind_a_literal_part_is_not_the_folder_above_either() {
    for (pattern, command) in [
        ("make --directory=*", "make --directory=.."),
        ("make -C*", "make -C.."),
        ("tool --file=*/config", "tool --file=../config"),
        ("cp host:*/x .", "cp host:../x ."),
        ("tool --in=a/*:*", "tool --in=a/..:b"),
        ("tool --in=a/*:*", "tool --in=a/b:.."),
        // Whichever `:` is the one of the pattern.
        ("tool --in=*:*", "tool --in=a:b:.."),
        ("make -C.*", "make -C.."),
        ("make -C*.", "make -C.."),
    ] {
        assert!(!allows(pattern, command, &[]), "{command}");
    }
    for (pattern, command) in [
        ("git log *", "git log main.."),
        ("git log *..*", "git log main..work"),
        ("git log main..*", "git log main..work"),
        ("git log main..*", "git log main.."),
        ("make -C*", "make -C.hidden"),
        ("make -C*", "make -C..."),
        ("make -C*", "make -Ca..b"),
        ("tool v*.*", "tool v1.2"),
    ] {
        assert!(allows(pattern, command, &[]), "{command}");
    }
}

#[test]
fn an_option_needs_to_be_allowed_as_one() {
    assert!(allows("git log *", "git log main", &[]));
    assert!(!allows("git log *", "git log", &["--output=x"]));
    assert!(allows(
        "git log --max-count=*",
        "git log --max-count=3",
        &[]
    ));
    assert!(allows("git log **", "git log -p", &["x"]));
    assert!(allows("git log **", "git log", &[]));
}

#[test]
fn a_quoted_star_is_a_star() {
    assert!(allows("expr 2 '*' 3", "expr 2 * 3", &[]));
    assert!(!allows("expr 2 '*' 3", "expr 2 + 3", &[]));
}

#[test]
fn patterns_that_would_allow_more_than_they_say_are_refused() {
    assert_eq!("*".parse::<Pattern>(), Err(BadPattern::Program));
    assert_eq!("ca* test".parse::<Pattern>(), Err(BadPattern::Program));
    assert_eq!("a ** b".parse::<Pattern>(), Err(BadPattern::Rest));
    assert_eq!("a b**".parse::<Pattern>(), Err(BadPattern::Rest));
    assert!(allows("**", "anything at all", &[]));
}

#[test]
fn a_refusal_says_how_to_allow() {
    let none = Policy::Nothing.permit("ls -l", &[], OsStr::new("/bin"), Path::new("/"));
    let Err(Refusal::NotAllowed(sentence)) = none else {
        panic!("allowed: {none:?}");
    };
    assert!(sentence.contains("--allow 'ls **'") && sentence.contains("--shell"));
    let some = Policy::Matching(vec!["cargo test".parse().unwrap()]);
    let refused = some.permit("cargo build", &[], OsStr::new("/bin"), Path::new("/"));
    assert!(refused.unwrap_err().to_string().contains("--allow"));
}

#[test]
fn programs_are_looked_for_in_absolute_folders_alone() {
    let dir = tempfile::tempdir().unwrap();
    let planted = dir.path().join("ls");
    std::fs::copy("/bin/ls", &planted).unwrap();
    let all = Policy::Matching(vec!["**".parse().unwrap()]);
    let permit = |command: &str, path: &str| {
        all.permit(command, &[], OsStr::new(path), dir.path())
            .map(|permit| permit.program)
    };
    // The same folder, as it is called from here.
    let here = std::env::current_dir().unwrap();
    let up = "../".repeat(here.components().count() - 1);
    let relative = format!("{up}{}", dir.path().strip_prefix("/").unwrap().display());
    assert!(Path::new(&relative).join("ls").is_file());
    assert_eq!(
        permit("ls", &format!("{relative}::.:/bin")).unwrap(),
        Path::new("/bin/ls")
    );
    assert!(matches!(permit("ls", &relative), Err(Refusal::NotFound(_))));
    assert_eq!(permit("./ls", "/bin").unwrap(), dir.path().join("./ls"));
    assert!(matches!(permit("''", "/bin"), Err(Refusal::NotFound(_))));
}

#[test]
fn a_shell_gets_args_as_parameters() {
    let args = ["$(id)".to_owned()];
    let permit = Policy::Shell.permit("echo \"$1\"", &args, OsStr::new(""), Path::new("/"));
    assert_eq!(
        permit.unwrap().words,
        ["sh", "-c", "echo \"$1\"", "sh", "$(id)"]
    );
}
