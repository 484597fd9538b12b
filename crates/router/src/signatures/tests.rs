//! Whose signature counts for which type (M8 at the level of the router).

use signalbox_bus::HeaderMap;
use signalbox_bus::header::MessageHeaders;
use signalbox_identity::SigningKey;
use signalbox_protocol::domain::Domain;
use tempfile::TempDir;

use super::*;

const PAYLOAD: &[u8] = br#"{"node_id": "n"}"#;

struct Bench {
    dir: TempDir,
    keys: Vec<SigningKey>,
    signatures: Signatures,
}

/// Two keys for `node_joined`, in files `first.pem` and `second.pem`.
fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let keys: Vec<SigningKey> = (0..2).map(|_| SigningKey::generate().unwrap()).collect();
    let requirements: Vec<Requirement> = ["first", "second"]
        .iter()
        .zip(&keys)
        .map(|(name, key)| {
            let path = dir.path().join(format!("{name}.pem"));
            std::fs::write(&path, key.public_key().to_pem()).unwrap();
            format!("network.node_joined={}", path.display())
                .parse()
                .unwrap()
        })
        .collect();
    let signatures = Signatures::read(&requirements).unwrap();
    Bench {
        dir,
        keys,
        signatures,
    }
}

fn check(
    signatures: &Signatures,
    kind: &str,
    payload: &[u8],
    headers: &[(&'static str, &str)],
) -> Result<(), Flaw> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    let kind = catalogue::find(Domain::Network, kind).unwrap();
    signatures.check(kind, &MessageHeaders(Some(&map)), payload)
}

#[test]
fn a_signature_counts_by_any_name_of_its_key() {
    let Bench {
        keys, signatures, ..
    } = bench();
    let by = |key: &SigningKey| key.sign_detached(PAYLOAD).unwrap().to_string();
    let joined =
        |headers: &[(&'static str, &str)]| check(&signatures, "node_joined", PAYLOAD, headers);
    for (key, file) in keys.iter().zip(["first", "second"]) {
        let signature = by(key);
        assert_eq!(joined(&[(header::SIGNATURE, &signature)]), Ok(()));
        for id in [file, key.kid()] {
            let named = [
                (header::SIGNATURE, signature.as_str()),
                (header::KEY_ID, id),
            ];
            assert_eq!(joined(&named), Ok(()));
        }
        let lower = [
            ("signalbox-signature", signature.as_str()),
            ("signalbox-key-id", file),
        ];
        assert_eq!(joined(&lower), Ok(()));
    }
    let signature = by(&keys[0]);
    let named = |id| {
        joined(&[
            (header::SIGNATURE, signature.as_str()),
            (header::KEY_ID, id),
        ])
    };
    assert_eq!(named("second"), Err(Flaw::Mismatch));
    assert_eq!(named("third"), Err(Flaw::UnknownKey("third".into())));
    assert_eq!(named(""), Err(Flaw::UnknownKey(String::new())));
    let stranger = by(&SigningKey::generate().unwrap());
    assert_eq!(
        joined(&[(header::SIGNATURE, &stranger)]),
        Err(Flaw::Mismatch)
    );
    assert_eq!(joined(&[]), Err(Flaw::Missing));
    assert_eq!(joined(&[(header::SIGNATURE, "x")]), Err(Flaw::Malformed));
    let tampered = check(
        &signatures,
        "node_joined",
        br#"{"node_id":"n"}"#,
        &[(header::SIGNATURE, &signature)],
    );
    assert_eq!(tampered, Err(Flaw::Mismatch));
}

#[test]
fn other_types_need_none() {
    let Bench { signatures, .. } = bench();
    assert_eq!(check(&signatures, "node_left", PAYLOAD, &[]), Ok(()));
    assert_eq!(
        check(
            &signatures,
            "node_left",
            PAYLOAD,
            &[(header::SIGNATURE, "x")]
        ),
        Ok(())
    );
    assert_eq!(
        check(&Signatures::default(), "node_joined", PAYLOAD, &[]),
        Ok(())
    );
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let Bench { dir, .. } = bench();
    for (text, cause) in [
        ("network.node_joined", InvalidRequirement::Form),
        ("network.node_joined=", InvalidRequirement::Form),
        (
            "network.nope=f",
            InvalidRequirement::UnknownType("network.nope".into()),
        ),
        ("nope.x=f", InvalidRequirement::UnknownType("nope.x".into())),
    ] {
        assert_eq!(text.parse::<Requirement>(), Err(cause), "{text}");
    }
    let path = dir.path().join("bad.pem");
    for content in [None, Some("nonsense")] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let text = format!("network.node_joined={}", path.display());
        let error = Signatures::read(&[text.parse().unwrap()]).unwrap_err();
        assert!(error.to_string().contains("bad.pem"), "{error}");
    }
}

#[test]
fn a_reason_repeats_only_the_beginning_of_a_key_id() {
    let reason = Flaw::UnknownKey("k\n".repeat(10_000)).to_string();
    assert!(reason.len() < 300 && !reason.contains('\n'), "{reason}");
}
