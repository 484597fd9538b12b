//! Compares the redaction with its definition, however the stream is cut.

use proptest::prelude::*;

use super::*;

fn redaction(secrets: &[&str]) -> Redaction {
    let secrets: Vec<Secret> = secrets.iter().map(|text| text.parse().unwrap()).collect();
    Redaction::new(&secrets).unwrap()
}

fn redact<'a>(redaction: &Redaction, parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut redactor = redaction.redactor().unwrap();
    let mut out = Vec::new();
    for part in parts {
        redactor.push(part, &mut out);
    }
    redactor.finish(&mut out);
    out
}

/// The definition: marks bytes in the whole stream.
fn reference(secrets: &[&str], stream: &[u8]) -> Vec<u8> {
    let mut removed = vec![false; stream.len()];
    for secret in secrets {
        match secret.strip_prefix("re:") {
            Some(text) => {
                let syntax = regex_automata::util::syntax::Config::new()
                    .unicode(false)
                    .utf8(false);
                let regex = regex_automata::meta::Regex::builder()
                    .syntax(syntax)
                    .build(text);
                for one in regex.unwrap().find_iter(stream) {
                    removed[one.range()].fill(true);
                }
            }
            None => {
                for (at, window) in stream.windows(secret.len()).enumerate() {
                    if window == secret.as_bytes() {
                        removed[at..at + secret.len()].fill(true);
                    }
                }
            }
        }
    }
    let mut out = Vec::new();
    for (at, &byte) in stream.iter().enumerate() {
        match removed[at] {
            false => out.push(byte),
            true if at == 0 || !removed[at - 1] => out.extend_from_slice(MARKER),
            true => {}
        }
    }
    out
}

/// Cuts at every place once, then into single bytes.
fn check_all_cuts(secrets: &[&str], stream: &str) {
    let redaction = redaction(secrets);
    let stream = stream.as_bytes();
    let expected = reference(secrets, stream);
    for at in 0..=stream.len() {
        let (front, back) = stream.split_at(at);
        assert_eq!(
            String::from_utf8_lossy(&redact(&redaction, [front, back])),
            String::from_utf8_lossy(&expected),
            "cut at {at}"
        );
    }
    assert_eq!(redact(&redaction, stream.chunks(1)), expected);
}

#[test]
fn values_are_removed_wherever_the_stream_is_cut() {
    let secrets = [
        "hunter2hunter2",
        "s3cr3t",
        "s3cr3t-and-more",
        "and-more-still",
    ];
    check_all_cuts(
        &secrets,
        "user hunter2hunter2hunter2, s3cr3t s3cr3t-and-more-still s3cr3",
    );
    check_all_cuts(&secrets, "s3cr3ts3cr3t");
    check_all_cuts(&["aaaaaa"], "aaaaaaaaaaaaaaa aaaaa aaaaaa");
}

#[test]
fn matches_are_removed_wherever_the_stream_is_cut() {
    check_all_cuts(
        &[r"re:sk-[a-z0-9]{4,12}"],
        "sk-abc sk-abcd sk-abcdefghijklmnop sk-",
    );
    check_all_cuts(
        &[r"re:\btoken=\w{3,9}\b"],
        "token=abc; xtoken=abc token=abcdefghij token=abc",
    );
    check_all_cuts(
        &[r"re:(?m)^key: .{1,20}$"],
        "key: one\nno key: two\nkey: three",
    );
    check_all_cuts(
        &[r"re:abc|abcdef", "abcdefghi"],
        "abc abcdefgh abcdefghi abcde",
    );
    check_all_cuts(&[r"re:x{2,5}", "xxxxxx"], "x xx xxxxxxx xxxxxxxxxxxx");
}

#[test]
fn what_cannot_be_a_secret_is_not_held_back() {
    let redaction = redaction(&["s3cr3t-value", r"re:sk-[a-z0-9]{4,12}"]);
    let mut redactor = redaction.redactor().unwrap();
    let mut out = Vec::new();
    redactor.push(b"Password: ", &mut out);
    assert_eq!(out, b"Password: ");
    redactor.push(b"s3cr", &mut out);
    assert_eq!(out, b"Password: ");
    redactor.push(b"!", &mut out);
    assert_eq!(out, b"Password: s3cr!");
}

#[test]
fn little_is_held_of_an_endless_secret() {
    let redaction = redaction(&["aaaaaa", "re:b{1,64}"]);
    for byte in [b'a', b'b'] {
        let mut redactor = redaction.redactor().unwrap();
        let mut out = Vec::new();
        for _ in 0..1_000 {
            redactor.push(&[byte; 1_000], &mut out);
            assert!(redactor.buffer.len() <= CONTEXT_BYTES + 1_000 + 66);
        }
        redactor.finish(&mut out);
        assert_eq!(out, MARKER);
    }
}

#[test]
fn values_of_several_lines_are_found_in_terminals_too() {
    let key = "-----BEGIN\nabcdef\n-----END\n";
    let redaction = redaction(&[key]);
    let written = [&b"<-----BEGIN\r\nabcdef\r\n-----END\r\n>"[..]];
    assert_eq!(redact(&redaction, written), b"<[redacted]\r\n>");
    assert_eq!(redact(&redaction, [key.as_bytes()]), b"[redacted]\n");
}

#[test]
fn what_could_not_be_kept_is_refused() {
    let refused = |text: &str| Redaction::new(&[text.parse().unwrap()]).unwrap_err();
    assert_eq!(refused("short"), BadSecret::Length);
    assert_eq!(
        refused("env:SIGNALBOX_NOT_SET"),
        BadSecret::NotSet("SIGNALBOX_NOT_SET".into())
    );
    assert!(matches!(refused("re:a+"), BadSecret::Unbounded(_)));
    assert!(matches!(refused("re:a{0,3}"), BadSecret::Unbounded(_)));
    assert!(matches!(refused("re:^abc"), BadSecret::Look(_)));
    assert!(matches!(refused("re:(abc"), BadSecret::Invalid(..)));
}

#[test]
fn a_secret_shows_nowhere() {
    let secret: Secret = "hunter2hunter2".parse().unwrap();
    let redaction = Redaction::new(std::slice::from_ref(&secret)).unwrap();
    assert!(!format!("{secret:?} {redaction:?}").contains("hunter2"));
    assert_eq!(
        redaction.text("no hunter2hunter2 here"),
        "no [redacted] here"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn cuts_make_no_difference(
        stream in "[abc \n]{0,120}",
        cuts in prop::collection::vec(1usize..12, 1..60),
    ) {
        let secrets = ["abcabc", "bcabca", "aaaaaa", r"re:\bab{1,3}c?\b", r"re:c{3,7}", r"re:(?m)^b[ac]{2,4}$"];
        let mut rest = stream.as_bytes();
        let mut parts = Vec::new();
        for cut in cuts {
            let (part, tail) = rest.split_at(cut.min(rest.len()));
            parts.push(part);
            rest = tail;
        }
        parts.push(rest);
        prop_assert_eq!(redact(&redaction(&secrets), parts), reference(&secrets, stream.as_bytes()));
    }
}
