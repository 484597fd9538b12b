//! Origins by their shapes, and who passes.

use http::HeaderValue;

use super::*;

fn origins(listed: &[&str], local: bool) -> Origins {
    let listed = listed.iter().map(|text| text.parse().unwrap()).collect();
    Origins::new(Arc::new(listed), local)
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

#[test]
fn origins_are_scheme_host_and_port_and_nothing_else() {
    for (given, written) in [
        ("http://a.example", "http://a.example"),
        ("http://A.Example:80", "http://a.example"),
        ("https://a.example:443", "https://a.example"),
        ("https://a.example:80", "https://a.example:80"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        (
            "http://xn--bcher-kva.example",
            "http://xn--bcher-kva.example",
        ),
    ] {
        let origin: Origin = given.parse().unwrap();
        assert_eq!(origin.to_string(), written);
        assert_eq!(written.parse(), Ok(origin));
    }
    for wrong in [
        "",
        "null",
        "a.example",
        "//a.example",
        "ftp://a.example",
        "http:a.example",
        "http:/a.example",
        "http://",
        "http://:80",
        "http://a.example:",
        "http://a.example:x",
        "http://a.example:65536",
        "http://a.example/",
        "http://a.example/path",
        "http://a.example?x",
        "http://a.example#x",
        "http://user@a.example",
        "http://a.example\\@b.example",
        "http://*.example",
        "http://a example",
        "http://a.example\r\nX: y",
        "http://a.example http://b.example",
        "http://a.example,http://b.example",
        "http://bücher.example",
        "http://a%2eexample",
        "http://[::1",
        "chrome-extension://abc",
    ] {
        assert_eq!(wrong.parse::<Origin>(), Err(InvalidOrigin::Form), "{wrong}");
    }
    assert_eq!("*".parse::<Origin>(), Err(InvalidOrigin::Any));
}

#[test]
fn blank_entries_list_nothing() {
    let listed = |text: &str| text.parse::<ListedOrigin>().map(ListedOrigin::into_origin);
    assert_eq!(listed(""), Ok(None));
    assert_eq!(
        listed(" https://a.example "),
        Ok(Some("https://a.example".parse().unwrap()))
    );
    assert!(listed("*").unwrap_err().to_string().contains("one by one"));
}

#[test]
fn own_listed_and_absent_origins_pass_and_no_others() {
    let strict = origins(&["https://app.example"], false);
    let cases: &[(&[(&'static str, &str)], bool)] = &[
        (&[], true),
        (&[("host", "a.example")], true),
        // Its own, whatever TLS is in between.
        (
            &[("host", "a.example"), ("origin", "http://a.example")],
            true,
        ),
        (
            &[("host", "a.example"), ("origin", "https://a.example")],
            true,
        ),
        (
            &[("host", "A.Example:80"), ("origin", "http://a.example")],
            true,
        ),
        (
            &[
                ("host", "a.example:8080"),
                ("origin", "http://a.example:8080"),
            ],
            true,
        ),
        (
            &[("host", "[::1]:8080"), ("origin", "http://[::1]:8080")],
            true,
        ),
        (
            &[
                ("host", "127.0.0.1:8080"),
                ("origin", "http://127.0.0.1:8080"),
            ],
            true,
        ),
        // Another port, host or scheme's port.
        (
            &[("host", "a.example:8080"), ("origin", "http://a.example")],
            false,
        ),
        (
            &[("host", "a.example:80"), ("origin", "https://a.example")],
            false,
        ),
        (
            &[("host", "a.example"), ("origin", "http://a.example:8080")],
            false,
        ),
        (
            &[("host", "a.example"), ("origin", "http://b.example")],
            false,
        ),
        (
            &[("host", "a.example"), ("origin", "http://sub.a.example")],
            false,
        ),
        (
            &[
                ("host", "a.example"),
                ("origin", "http://a.example.evil.example"),
            ],
            false,
        ),
        (
            &[
                ("host", "127.0.0.1:8080"),
                ("origin", "http://localhost:8080"),
            ],
            false,
        ),
        // Listed.
        (&[("origin", "https://app.example")], true),
        (
            &[("host", "a.example"), ("origin", "https://app.example:443")],
            true,
        ),
        (&[("origin", "http://app.example")], false),
        (&[("origin", "https://app.example:8443")], false),
        (&[("origin", "https://evil-app.example")], false),
        // Unclear.
        (&[("host", "a.example"), ("origin", "null")], false),
        (&[("host", "a.example"), ("origin", "")], false),
        (&[("host", ""), ("origin", "http://")], false),
        (
            &[
                ("origin", "https://app.example"),
                ("origin", "https://app.example"),
            ],
            false,
        ),
        (
            &[
                ("host", "a.example"),
                ("host", "b.example"),
                ("origin", "http://a.example"),
            ],
            false,
        ),
        (
            &[
                ("host", "b.example@a.example"),
                ("origin", "http://a.example"),
            ],
            false,
        ),
        (
            &[("host", "a.example/x"), ("origin", "http://a.example")],
            false,
        ),
        (
            &[
                ("host", "a.ex\u{e4}mple"),
                ("origin", "http://a.ex\u{e4}mple"),
            ],
            false,
        ),
    ];
    for (lines, allowed) in cases {
        let verdict = strict.check(&headers(lines));
        assert_eq!(verdict.is_ok(), *allowed, "{lines:?}");
    }
}

#[test]
fn pages_of_this_machine_pass_where_they_may() {
    for (origin, local) in [
        ("http://localhost:3000", true),
        ("http://localhost", true),
        ("http://127.0.0.1:5173", true),
        ("https://localhost:3000", false),
        ("http://127.0.0.2:3000", false),
        ("http://localhost.evil.example", false),
        ("http://evil-localhost", false),
    ] {
        let request = headers(&[("host", "127.0.0.1:8080"), ("origin", origin)]);
        assert_eq!(
            origins(&[], true).check(&request).is_ok(),
            local,
            "{origin}"
        );
        assert!(origins(&[], false).check(&request).is_err(), "{origin}");
    }
}
