//! What of external issuers' tokens is accepted.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;

const NOW: i64 = 1_700_000_000;

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(NOW).unwrap()
}

fn trust() -> Trust {
    serde_json::from_value(json!({
        "name": "corp", "issuer": "https://id.example", "audience": "signalbox",
        "algorithms": ["ES256", "EdDSA"], "role_claim": "realm_access.roles",
        "roles": [{"theirs": "soc-lead", "ours": "operator"}, {"theirs": "soc", "ours": "viewer"}],
        "projects_claim": "teams",
    }))
    .unwrap()
}

/// An issuer with one key of each kind, and those keys.
struct Issuer {
    ec: EcdsaKeyPair,
    ec_der: Vec<u8>,
    ed_der: Vec<u8>,
    jwks: Value,
}

impl Issuer {
    fn new() -> Self {
        let rng = aws_lc_rs::rand::SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let ec_der = EcdsaKeyPair::generate_pkcs8(algorithm, &rng).unwrap();
        let ec = EcdsaKeyPair::from_pkcs8(algorithm, ec_der.as_ref()).unwrap();
        let ed_der = Ed25519KeyPair::generate_pkcs8v1(&rng).unwrap();
        let ed = Ed25519KeyPair::from_pkcs8_maybe_unchecked(ed_der.as_ref()).unwrap();
        let point = ec.public_key().as_ref();
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwks = json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": "ec", "x": b64(&point[1..33]), "y": b64(&point[33..])},
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "use": "sig", "x": b64(ed.public_key().as_ref())},
            {"kty": "oct", "kid": "mac", "k": "c2VjcmV0"},
            {"kty": "RSA", "kid": "short", "n": b64(&[255; 128]), "e": "AQAB"},
            {"kty": "EC", "crv": "P-256", "kid": "enc", "use": "enc", "x": b64(&point[1..33]), "y": b64(&point[33..])},
        ]});
        Self {
            ec_der: ec_der.as_ref().to_vec(),
            ec,
            ed_der: ed_der.as_ref().to_vec(),
            jwks,
        }
    }

    fn verifier(&self, trust: Trust) -> ExternalVerifier {
        ExternalVerifier::new(ExternalIssuer {
            trust,
            jwks: self.jwks.clone(),
            fetched_at: now(),
            stale_at: now() + Duration::from_secs(1_000),
        })
    }

    fn sign(&self, algorithm: Algorithm, kid: &str, changes: Value) -> String {
        let mut header = Header::new(algorithm);
        header.kid = Some(kid.to_owned());
        let key = match algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_der(&self.ec_der),
            Algorithm::EdDSA => EncodingKey::from_ed_der(&self.ed_der),
            _ => EncodingKey::from_secret(self.ec.public_key().as_ref()),
        };
        encode(&header, &claims(changes), &key).unwrap()
    }
}

fn claims(changes: Value) -> Value {
    let mut claims = json!({
        "iss": "https://id.example", "aud": ["other", "signalbox"], "sub": "ada", "name": "Ada",
        "iat": NOW - 10, "exp": NOW + 600, "realm_access": {"roles": ["x", "soc", "soc-lead"]},
        "teams": ["apollo"], "jti": "t1", "role": "admin", "permissions": ["admin"],
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn verify(verifier: &ExternalVerifier, token: &str) -> Result<Principal, VerifyError> {
    verifier.verify_at(token, Duration::ZERO, now())
}

#[test]
fn each_trusted_algorithm_names_a_holder_in_our_words() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier(trust());
    for (algorithm, kid) in [(Algorithm::ES256, "ec"), (Algorithm::EdDSA, "ed")] {
        let token = issuer.sign(algorithm, kid, json!({}));
        assert_eq!(claimed_issuer(&token).as_deref(), Some(verifier.issuer()));
        let principal = verify(&verifier, &token).unwrap();
        assert_eq!(principal.subject.as_str(), "corp|ada");
        assert_eq!(principal.credential.as_str(), "corp|t1");
        // The order of the settings counts, and not what the token calls itself.
        assert_eq!(principal.role, Some(Role::Operator));
        assert_eq!(principal.permissions, Role::Operator.permissions());
        assert_eq!(principal.projects, ["apollo"]);
        assert_eq!(
            principal.origin.issued_at.unwrap().unix_timestamp(),
            NOW - 10
        );
    }
}

#[test]
fn whoever_has_no_role_here_is_refused() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier(trust());
    for roles in [
        json!([]),
        json!(["admin"]),
        json!("operator"),
        json!(null),
        json!(7),
    ] {
        let changes = json!({"realm_access": {"roles": roles}});
        let token = issuer.sign(Algorithm::ES256, "ec", changes);
        assert_eq!(
            verify(&verifier, &token),
            Err(VerifyError::Invalid(Flaw::Role))
        );
    }
    let one = json!({"realm_access": {"roles": "soc"}});
    let token = issuer.sign(Algorithm::ES256, "ec", one);
    assert_eq!(verify(&verifier, &token).unwrap().role, Some(Role::Viewer));
}

#[test]
fn the_key_decides_the_algorithm() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier(trust());
    let mac = issuer.sign(Algorithm::HS256, "ec", json!({}));
    assert_eq!(
        verify(&verifier, &mac),
        Err(VerifyError::Invalid(Flaw::Algorithm))
    );
    let other = issuer.sign(Algorithm::EdDSA, "ec", json!({}));
    assert_eq!(
        verify(&verifier, &other),
        Err(VerifyError::Invalid(Flaw::Algorithm))
    );
    for kid in ["mac", "short", "enc", "none"] {
        let token = issuer.sign(Algorithm::ES256, kid, json!({}));
        let unknown = VerifyError::UnknownKey {
            kid: kid.to_owned(),
        };
        assert_eq!(verify(&verifier, &token), Err(unknown));
    }
    let mut narrower = trust();
    narrower.algorithms = vec![TrustedAlgorithm::EdDSA];
    let token = issuer.sign(Algorithm::ES256, "ec", json!({}));
    let refused = verify(&issuer.verifier(narrower), &token);
    assert!(matches!(refused, Err(VerifyError::UnknownKey { .. })));
}

#[test]
fn wrong_claims_are_refused() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier(trust());
    let refused = |changes| {
        let token = issuer.sign(Algorithm::EdDSA, "ed", changes);
        verify(&verifier, &token).unwrap_err()
    };
    let invalid = VerifyError::Invalid;
    assert_eq!(
        refused(json!({"iss": "https://other"})),
        invalid(Flaw::Issuer)
    );
    assert_eq!(refused(json!({"aud": "other"})), invalid(Flaw::Audience));
    assert_eq!(refused(json!({"aud": null})), invalid(Flaw::Claims));
    assert_eq!(refused(json!({"exp": null})), invalid(Flaw::Claims));
    assert_eq!(refused(json!({"iat": null})), invalid(Flaw::Claims));
    assert_eq!(refused(json!({"sub": "a b"})), invalid(Flaw::Claims));
    assert_eq!(refused(json!({"exp": NOW})), VerifyError::Expired);
    assert_eq!(refused(json!({"nbf": NOW + 1})), VerifyError::NotYetValid);
    // However long it says that it lives.
    let old = json!({"iat": NOW - 86_400, "exp": NOW + 1_000_000});
    assert_eq!(refused(old), VerifyError::Expired);
    let token = issuer.sign(Algorithm::EdDSA, "ed", json!({}));
    // The last byte of a signature is often zero; its first is not known.
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let tampered = format!("{signed}.{first}{}", &signature[1..]);
    assert_eq!(verify(&verifier, &tampered), Err(invalid(Flaw::Signature)));
}

#[test]
fn stale_keys_are_trusted_no_longer() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier(trust());
    let token = issuer.sign(Algorithm::EdDSA, "ed", json!({"exp": NOW + 9_000}));
    let at = |seconds| now() + Duration::from_secs(seconds);
    assert!(verifier.verify_at(&token, Duration::ZERO, at(999)).is_ok());
    let refused = verifier.verify_at(&token, Duration::ZERO, at(1_000));
    assert_eq!(refused, Err(VerifyError::Invalid(Flaw::StaleKeys)));
}

#[test]
fn tokens_without_an_id_get_one_of_their_own() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier(trust());
    let credential = |changes| {
        let token = issuer.sign(Algorithm::EdDSA, "ed", changes);
        verify(&verifier, &token).unwrap().credential
    };
    let (one, two) = (
        credential(json!({"jti": null})),
        credential(json!({"jti": null, "exp": NOW + 601})),
    );
    assert!(one.as_str().starts_with("corp|") && one != two);
}
