//! The OpenAPI document describes what is there: every path and method in it
//! is served, no other method is, and real answers fit its schemas.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox_identity::{Expectations, KeySet};
use signalbox_testkit::{Answer, Platform, request};

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

type Headers<'a> = &'a [(&'a str, &'a str)];

pub(crate) async fn document(platform: &Platform) -> Value {
    let listener = platform.gateways[0].listener();
    let answer = request(listener, "GET", "/api/v1/openapi.json", &[], "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.json()
}

#[tokio::test]
async fn what_is_documented_is_served_and_nothing_else() {
    let platform = Platform::start(1).await;
    let document = document(&platform).await;
    let version = document["openapi"].as_str().unwrap();
    assert!(version.starts_with("3.1"), "{version}");
    let listener = platform.gateways[0].listener();
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 20, "{:?}", paths.keys());
    for (path, item) in paths {
        for method in METHODS {
            let documented = item.get(method.to_lowercase()).is_some();
            let answer = request(listener, method, path, &[], "").await;
            assert_ne!(answer.status, 404, "{method} {path}");
            assert_eq!(answer.status != 405, documented, "{method} {path}");
        }
    }
}

/// Checks an answer against the schema for its operation and status.
pub(crate) fn fits(document: &Value, path: &str, method: &str, answer: &Answer) {
    let at = format!("{method} {path} {}", answer.status);
    let operation = &document["paths"][path][method];
    let described = &operation["responses"][answer.status.to_string()];
    assert!(described.is_object(), "{at} is not documented");
    if answer.status == 204 {
        assert_eq!(answer.body, "", "{at}");
        return;
    }
    let content_type = answer.header("content-type").unwrap();
    let essence = content_type.split(';').next().unwrap();
    let schema = &described["content"][essence]["schema"];
    assert!(schema.is_object(), "{at} has no schema for {essence}");
    if essence != "application/json" {
        return;
    }
    let mut whole = schema.clone();
    // References in the schema are relative to the document.
    whole["components"] = document["components"].clone();
    let validator = jsonschema::draft202012::new(&whole).unwrap();
    let body = answer.json();
    let errors: Vec<String> = validator
        .iter_errors(&body)
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{at}: {errors:?} in {body}");
    let described = described_fields(document, schema);
    for field in body.as_object().unwrap().keys() {
        let known = described.as_ref().is_none_or(|known| known.contains(field));
        assert!(known, "{at}: `{field}` is not documented");
    }
}

/// The fields that a schema names; `None` for an object of any kind.
fn described_fields(document: &Value, schema: &Value) -> Option<Vec<String>> {
    let resolved = match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    let properties = resolved["properties"].as_object()?;
    Some(properties.keys().cloned().collect())
}

#[tokio::test]
async fn answers_fit_the_document() {
    let platform = Platform::start(1).await;
    let document = document(&platform).await;
    let listener = platform.gateways[0].listener();
    let key = platform.api_key("producer");
    let (producer, viewer) = (key.as_str(), platform.api_key("viewer"));
    let keyed = |key| ("X-API-Key", key);
    let alert = r#"{"incident_id":"t","threat_type":"x","severity":"LOW"}"#;
    let event = "?type=threat.threat_alert&id=a";
    let token = json!({"api_key": producer}).to_string();
    let over = format!("{:>20000}", token);
    let foreign = ("Origin", "https://evil.example");
    let xml = ("Content-Type", "text/xml");
    let cases: &[(&str, &str, &str, Headers<'_>, &str, u16)] = &[
        ("post", "/api/v1/auth/token", "", &[], &token, 200),
        ("post", "/api/v1/auth/token", "", &[], "{}", 400),
        (
            "post",
            "/api/v1/auth/token",
            "",
            &[],
            r#"{"api_key":"sbk_a_b"}"#,
            401,
        ),
        ("post", "/api/v1/auth/token", "", &[], &over, 413),
        ("post", "/api/v1/auth/token", "", &[foreign], &token, 403),
        (
            "post",
            "/api/v1/events",
            event,
            &[keyed(producer)],
            alert,
            202,
        ),
        (
            "post",
            "/api/v1/events",
            event,
            &[keyed(producer)],
            alert,
            202,
        ),
        (
            "post",
            "/api/v1/events",
            event,
            &[keyed(producer)],
            "{}",
            400,
        ),
        ("post", "/api/v1/events", event, &[], alert, 401),
        (
            "post",
            "/api/v1/events",
            event,
            &[keyed(&viewer)],
            alert,
            403,
        ),
        (
            "post",
            "/api/v1/events",
            event,
            &[keyed(producer), xml],
            alert,
            415,
        ),
        ("get", "/.well-known/jwks.json", "", &[], "", 200),
        ("get", "/.well-known/jwks.json", "", &[foreign], "", 403),
        ("get", "/api/v1/openapi.json", "", &[], "", 200),
        ("get", "/v1/ws", "", &[], "", 426),
        ("get", "/v1/ws", "", &[foreign], "", 403),
    ];
    for (method, path, query, headers, body, status) in cases {
        let full = format!("{path}{query}");
        let answer = request(listener, &method.to_uppercase(), &full, headers, body).await;
        assert_eq!(answer.status, *status, "{method} {full} {answer:?}");
        fits(&document, path, method, &answer);
    }
}

/// The published keys verify the tokens that are issued, and are public halves
/// alone.
#[tokio::test]
async fn published_keys_verify_tokens() {
    let platform = Platform::start(1).await;
    let listener = platform.gateways[0].listener();
    let answer = request(listener, "GET", "/.well-known/jwks.json", &[], "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("cache-control"), Some("public, max-age=30"));
    for key in answer.json()["keys"].as_array().unwrap() {
        let mut members: Vec<&String> = key.as_object().unwrap().keys().collect();
        members.sort();
        assert_eq!(members, ["alg", "crv", "kid", "kty", "use", "x"], "{key}");
    }
    let keys: KeySet = serde_json::from_str(&answer.body).unwrap();
    let expected = Expectations {
        issuer: "signalbox".to_owned(),
        audience: "signalbox".to_owned(),
        leeway: Duration::from_secs(5),
    };
    let token = platform.token("viewer").await;
    assert!(keys.verify(&token, &expected).is_ok());
}
