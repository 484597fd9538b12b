//! The handshake's rules, one by one.

use super::*;

fn handshake() -> Request<()> {
    Request::get("/v1/ws")
        .header("connection", "keep-alive, Upgrade")
        .header("upgrade", "WebSocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(())
        .unwrap()
}

#[test]
fn key_of_the_rfc_gets_the_answer_of_the_rfc() {
    let (response, _) = accept(&mut handshake()).unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(
        response.headers()["sec-websocket-accept"],
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    assert_eq!(response.headers()["upgrade"], "websocket");
    assert_eq!(response.headers()["connection"], "Upgrade");
}

#[test]
fn each_broken_rule_has_its_own_rejection() {
    use UpgradeRejection as Rejection;
    let cases = [
        ("connection", None, Rejection::NotUpgrade),
        ("connection", Some("close"), Rejection::NotUpgrade),
        ("upgrade", None, Rejection::NotUpgrade),
        ("upgrade", Some("h2c"), Rejection::NotUpgrade),
        ("sec-websocket-version", None, Rejection::WebSocketVersion),
        (
            "sec-websocket-version",
            Some("8"),
            Rejection::WebSocketVersion,
        ),
        ("sec-websocket-key", None, Rejection::Key),
        ("sec-websocket-key", Some("c2hvcnQ="), Rejection::Key),
        (
            "sec-websocket-key",
            Some("!GhlIHNhbXBsZSBub25jZQ=="),
            Rejection::Key,
        ),
    ];
    for (name, value, rejection) in cases {
        let mut request = handshake();
        request.headers_mut().remove(name);
        if let Some(value) = value {
            request
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        assert_eq!(
            accept(&mut request).unwrap_err(),
            rejection,
            "{name}: {value:?}"
        );
    }

    let mut twice = handshake();
    twice.headers_mut().append(
        "sec-websocket-key",
        HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="),
    );
    assert_eq!(accept(&mut twice).unwrap_err(), Rejection::Key);
    let mut post = handshake();
    *post.method_mut() = Method::POST;
    assert_eq!(accept(&mut post).unwrap_err(), Rejection::Method);
    let mut old = handshake();
    *old.version_mut() = Version::HTTP_10;
    assert_eq!(accept(&mut old).unwrap_err(), Rejection::HttpVersion);
}

#[test]
fn rejections_map_to_their_status() {
    for (rejection, status) in [
        (UpgradeRejection::Method, 405),
        (UpgradeRejection::HttpVersion, 400),
        (UpgradeRejection::NotUpgrade, 426),
        (UpgradeRejection::WebSocketVersion, 426),
        (UpgradeRejection::Key, 400),
    ] {
        assert_eq!(rejection.response().status(), status);
    }
}

#[test]
fn rejections_carry_the_headers_their_status_demands() {
    assert_eq!(
        UpgradeRejection::Method.response().headers()["allow"],
        "GET"
    );
    for rejection in [
        UpgradeRejection::NotUpgrade,
        UpgradeRejection::WebSocketVersion,
    ] {
        let response = rejection.response();
        assert_eq!(response.headers()["sec-websocket-version"], "13");
        assert_eq!(response.headers()["upgrade"], "websocket");
    }
}

#[test]
fn extensions_and_unknown_subprotocols_are_ignored() {
    let mut request = handshake();
    request.headers_mut().insert(
        "sec-websocket-extensions",
        HeaderValue::from_static("permessage-deflate; client_max_window_bits"),
    );
    request
        .headers_mut()
        .insert("sec-websocket-protocol", HeaderValue::from_static("chat"));
    let (response, _) = accept(&mut request).unwrap();
    assert!(!response.headers().contains_key("sec-websocket-extensions"));
    assert!(!response.headers().contains_key("sec-websocket-protocol"));
}

#[test]
fn first_supported_subprotocol_that_is_offered_is_chosen() {
    let mut request = handshake();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", HeaderValue::from_static("v1, v2"));
    request
        .headers_mut()
        .append("sec-websocket-protocol", HeaderValue::from_static("v3"));
    let (response, _) = accept_subprotocol(&mut request, &["v4", "v3", "v1"]).unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "v3");
    let (response, _) = accept_subprotocol(&mut request, &["v4"]).unwrap();
    assert!(!response.headers().contains_key("sec-websocket-protocol"));
}
