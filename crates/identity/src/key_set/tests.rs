//! One test per way in which a token may be wrong, and the JSON of keys.

use jsonwebtoken::{EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::signing::SigningKey;

/// The present of these tests, in Unix seconds.
const NOW: i64 = 1_700_000_000;

struct Issuer {
    signing: SigningKey,
    keys: KeySet,
}

impl Issuer {
    fn new() -> Self {
        let signing = SigningKey::generate().unwrap();
        let keys = KeySet::from_iter([signing.public_key().clone()]);
        Self { signing, keys }
    }

    fn header(&self) -> Header {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.signing.kid().to_owned());
        header
    }

    /// Signs a body that need not be valid claims, under any header.
    fn sign(&self, header: &Header, body: &Value) -> String {
        let pem = self.signing.to_pkcs8_pem();
        let key = EncodingKey::from_ed_pem(pem.expose().as_bytes()).unwrap();
        encode(header, body, &key).unwrap()
    }

    fn token(&self, changes: Value) -> String {
        self.sign(&self.header(), &body(changes))
    }

    fn verify(&self, token: &str) -> Result<Claims, VerifyError> {
        self.keys.verify_at(token, &expectations(), at(0))
    }

    fn flaw(&self, token: &str) -> Flaw {
        match self.verify(token) {
            Err(VerifyError::Invalid(flaw)) => flaw,
            other => panic!("expected an invalid token, got {other:?}"),
        }
    }
}

fn expectations() -> Expectations {
    Expectations {
        issuer: "signalbox".to_owned(),
        audience: "gateway".to_owned(),
        leeway: Duration::from_secs(5),
    }
}

fn at(seconds_from_now: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(NOW + seconds_from_now).unwrap()
}

/// A good body with members replaced, or removed where the change is null.
fn body(changes: Value) -> Value {
    let mut body = json!({
        "iss": "signalbox", "aud": "gateway", "sub": "user-1", "name": "Ada",
        "role": "viewer", "iat": NOW - 10, "exp": NOW + 60, "jti": "t1",
    });
    for (key, value) in changes.as_object().unwrap() {
        if value.is_null() {
            body.as_object_mut().unwrap().remove(key);
        } else {
            body[key] = value.clone();
        }
    }
    body
}

fn segment(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[test]
fn a_good_token_is_accepted() {
    let issuer = Issuer::new();
    let claims = issuer.verify(&issuer.token(json!({}))).unwrap();
    assert_eq!(claims.sub.as_str(), "user-1");
    let token = issuer.signing.sign(&claims).unwrap();
    assert_eq!(issuer.verify(token.expose()), Ok(claims));
}

#[test]
fn a_token_without_a_signature_is_refused() {
    let issuer = Issuer::new();
    let claims = segment(&body(json!({})));
    for alg in ["none", "None", "NONE"] {
        let header = segment(&json!({"alg": alg, "typ": "JWT", "kid": issuer.signing.kid()}));
        assert_eq!(issuer.flaw(&format!("{header}.{claims}.")), Flaw::Malformed);
    }
    let signed = issuer.token(json!({}));
    let unsigned = signed.rsplit_once('.').unwrap().0;
    assert_eq!(issuer.flaw(&format!("{unsigned}.")), Flaw::Signature);
    assert_eq!(issuer.flaw(unsigned), Flaw::Malformed);
}

#[test]
fn a_public_key_is_no_shared_secret() {
    let issuer = Issuer::new();
    let mut header = issuer.header();
    header.alg = Algorithm::HS256;
    let raw = issuer.signing.public_key().key;
    let jwk = serde_json::to_string(issuer.signing.public_key()).unwrap();
    for secret in [raw.as_slice(), jwk.as_bytes()] {
        let key = EncodingKey::from_secret(secret);
        let token = encode(&header, &body(json!({})), &key).unwrap();
        assert_eq!(issuer.flaw(&token), Flaw::Algorithm);
    }

    header.kid = Some("another".to_owned());
    let token = encode(&header, &body(json!({})), &EncodingKey::from_secret(&raw)).unwrap();
    assert_eq!(
        issuer.flaw(&token),
        Flaw::Algorithm,
        "no reason to refetch keys"
    );
}

#[test]
fn a_key_inside_the_token_is_ignored() {
    let (issuer, attacker) = (Issuer::new(), Issuer::new());
    let jwk = serde_json::to_value(attacker.signing.public_key()).unwrap();
    let mut header = issuer.header();
    header.jwk = Some(serde_json::from_value(jwk).unwrap());
    header.jku = Some("https://attacker.example/keys".to_owned());
    assert_eq!(
        issuer.flaw(&attacker.sign(&header, &body(json!({})))),
        Flaw::Signature
    );
}

#[test]
fn another_signer_under_our_key_id_is_refused() {
    let (issuer, attacker) = (Issuer::new(), Issuer::new());
    let token = attacker.sign(&issuer.header(), &body(json!({})));
    assert_eq!(issuer.flaw(&token), Flaw::Signature);
}

#[test]
fn an_unknown_key_is_told_apart() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let kid = other.signing.kid().to_owned();
    assert_eq!(
        issuer.verify(&other.token(json!({}))),
        Err(VerifyError::UnknownKey { kid })
    );
    let empty = KeySet::default().verify(&issuer.token(json!({})), &expectations());
    assert!(matches!(empty, Err(VerifyError::UnknownKey { .. })));
}

#[test]
fn a_missing_or_oversized_key_id_is_refused() {
    let issuer = Issuer::new();
    for kid in [None, Some("k".repeat(MAX_KID_BYTES + 1))] {
        let mut header = issuer.header();
        header.kid = kid;
        assert_eq!(
            issuer.flaw(&issuer.sign(&header, &body(json!({})))),
            Flaw::Malformed
        );
    }
}

#[test]
fn a_critical_extension_is_refused() {
    let issuer = Issuer::new();
    let mut header = issuer.header();
    header.crit = Some(vec!["b64".to_owned()]);
    assert_eq!(
        issuer.flaw(&issuer.sign(&header, &body(json!({})))),
        Flaw::Malformed
    );
}

#[test]
fn another_issuer_or_audience_is_refused() {
    let issuer = Issuer::new();
    let cases = [
        (json!({"iss": "evil"}), Flaw::Issuer),
        (json!({"iss": ["signalbox"]}), Flaw::Claims),
        (json!({"iss": null}), Flaw::Claims),
        (json!({"aud": "billing"}), Flaw::Audience),
        (json!({"aud": ["billing"]}), Flaw::Audience),
        (json!({"aud": []}), Flaw::Audience),
        (json!({"aud": null}), Flaw::Claims),
    ];
    for (changes, flaw) in cases {
        assert_eq!(
            issuer.flaw(&issuer.token(changes.clone())),
            flaw,
            "{changes}"
        );
    }
    assert!(
        issuer
            .verify(&issuer.token(json!({"aud": ["billing", "gateway"]})))
            .is_ok()
    );
}

#[test]
fn missing_claims_are_refused() {
    let issuer = Issuer::new();
    for claim in ["exp", "iat", "sub", "jti"] {
        assert_eq!(
            issuer.flaw(&issuer.token(json!({claim: null}))),
            Flaw::Claims,
            "{claim}"
        );
    }
}

#[test]
fn a_token_ends_at_exp_plus_leeway() {
    let issuer = Issuer::new();
    let token = issuer.token(json!({"exp": NOW}));
    let verify = |seconds| issuer.keys.verify_at(&token, &expectations(), at(seconds));
    assert!(verify(0).is_ok());
    assert!(verify(4).is_ok());
    assert_eq!(verify(5), Err(VerifyError::Expired));
}

#[test]
fn a_token_starts_at_nbf_minus_leeway() {
    let issuer = Issuer::new();
    let token = issuer.token(json!({"nbf": NOW}));
    let verify = |seconds| issuer.keys.verify_at(&token, &expectations(), at(seconds));
    assert_eq!(verify(-6), Err(VerifyError::NotYetValid));
    assert!(verify(-5).is_ok());
}

#[test]
fn extreme_times_do_not_overflow() {
    let issuer = Issuer::new();
    let forever = issuer.token(json!({"exp": 253_402_300_799_i64, "nbf": -377_705_116_800_i64}));
    let mut expected = expectations();
    expected.leeway = Duration::MAX;
    assert!(issuer.keys.verify(&forever, &expected).is_ok());
    assert!(issuer.keys.verify(&forever, &expectations()).is_ok());
}

#[test]
fn the_present_is_the_default_time() {
    let issuer = Issuer::new();
    let outcome = issuer
        .keys
        .verify(&issuer.token(json!({})), &expectations());
    assert_eq!(outcome, Err(VerifyError::Expired));
}

#[test]
fn a_forged_expired_token_is_not_called_expired() {
    let (issuer, attacker) = (Issuer::new(), Issuer::new());
    let token = attacker.sign(&issuer.header(), &body(json!({"exp": NOW - 1_000})));
    assert_eq!(issuer.flaw(&token), Flaw::Signature);
}

#[test]
fn an_oversized_token_is_refused() {
    let issuer = Issuer::new();
    let token = issuer.token(json!({"name": "n".repeat(MAX_TOKEN_BYTES)}));
    assert_eq!(issuer.flaw(&token), Flaw::Malformed);
}

#[test]
fn claims_swapped_between_tokens_are_refused() {
    let issuer = Issuer::new();
    let (low, high) = (
        issuer.token(json!({})),
        issuer.token(json!({"role": "admin"})),
    );
    let low: Vec<&str> = low.split('.').collect();
    let high: Vec<&str> = high.split('.').collect();
    assert_eq!(
        issuer.flaw(&[high[0], high[1], low[2]].join(".")),
        Flaw::Signature
    );
}

#[test]
fn a_key_set_is_a_jwk_set() {
    let issuer = Issuer::new();
    let json = serde_json::to_value(&issuer.keys).unwrap();
    let key = &json["keys"][0];
    assert_eq!(
        (&key["kty"], &key["crv"], &key["alg"], &key["use"]),
        (
            &json!("OKP"),
            &json!("Ed25519"),
            &json!("EdDSA"),
            &json!("sig")
        )
    );
    assert_eq!(key["kid"], issuer.signing.kid());
    let read: KeySet = serde_json::from_value(json).unwrap();
    assert!(
        read.verify_at(&issuer.token(json!({})), &expectations(), at(0))
            .is_ok()
    );
}

#[test]
fn foreign_keys_in_a_set_are_skipped() {
    let x = URL_SAFE_NO_PAD.encode([7; KEY_BYTES]);
    let set: KeySet = serde_json::from_value(json!({"keys": [
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "rsa"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"},
        {"kty": "OKP", "crv": "X25519", "x": x, "kid": "exchange"},
        {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "enc", "use": "enc"},
        {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "hmac", "alg": "HS256"},
        {"kty": "OKP", "crv": "Ed25519", "x": "c2hvcnQ", "kid": "short"},
        {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "good", "x5t": "extra"},
        "nonsense",
    ]}))
    .unwrap();
    let kids: Vec<&str> = set.iter().map(PublicKey::kid).collect();
    assert_eq!(kids, ["good"]);
}

#[test]
fn the_key_id_is_the_rfc_7638_thumbprint() {
    // The key and thumbprint of RFC 8037, appendix A.
    let jwk = json!({
        "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    });
    let key: PublicKey = serde_json::from_value(jwk).unwrap();
    assert_eq!(key.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

proptest! {
    #[test]
    fn no_text_panics_or_passes(text in ".{0,200}") {
        prop_assert!(Issuer::new().verify(&text).is_err());
    }

    #[test]
    fn a_changed_token_never_passes(position in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.-]") {
        let issuer = Issuer::new();
        let token = issuer.token(json!({}));
        let at = position.index(token.len());
        let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
        prop_assume!(changed != token);
        prop_assert!(issuer.verify(&changed).is_err());
    }
}
