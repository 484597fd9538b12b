//! Credentials over HTTP: logins, refreshes, revocation, and what
//! administrators do to keys and users. Every answer is checked against the
//! OpenAPI document.

use serde_json::{Value, json};
use signalbox_testkit::{Answer, Platform, request};

use crate::openapi;

pub(crate) const PASSWORD: &str = "correct horse battery staple";
const TOKEN: &str = "/api/v1/auth/token";
const REFRESH: &str = "/api/v1/auth/refresh";
const REVOKE: &str = "/api/v1/auth/revoke";

/// A platform with one gateway, and what it documents.
pub(crate) struct Rest {
    pub(crate) platform: Platform,
    document: Value,
    admin: String,
}

impl Rest {
    pub(crate) async fn start() -> Self {
        Self::of(Platform::start(1).await).await
    }

    pub(crate) async fn of(platform: Platform) -> Self {
        let document = openapi::document(&platform).await;
        let admin = platform.api_key("admin");
        Self {
            platform,
            document,
            admin,
        }
    }

    /// Sends a request whose answer must be documented. Dots stand for ids:
    /// `template` is the path as the document has it.
    pub(crate) async fn call(
        &self,
        method: &str,
        template: &str,
        path: &str,
        bearer: Option<&str>,
        body: &Value,
    ) -> Answer {
        let listener = self.platform.gateways[0].listener();
        let authorization = bearer.map(|token| format!("Bearer {token}"));
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(authorization.as_deref().map(|it| ("Authorization", it)));
        let text = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let answer = request(listener, method, path, &headers, &text).await;
        openapi::fits(&self.document, template, &method.to_lowercase(), &answer);
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert!(answer.header("x-request-id").is_some(), "{path}");
        answer
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, path, None, body).await
    }

    /// An administrator's request, with the status it must have.
    pub(crate) async fn manage(
        &self,
        method: &str,
        template: &str,
        id: &str,
        body: Value,
        status: u16,
    ) -> Answer {
        let path = template.replace("{id}", id).replace("{username}", id);
        let path = path.replace("{token_id}", id).replace("{family_id}", id);
        let answer = self
            .call(method, template, &path, Some(&self.admin), &body)
            .await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        answer
    }

    pub(crate) async fn add_user(&self, username: &str, role: &str) {
        let user = json!({"username": username, "password": PASSWORD, "role": role});
        self.manage("POST", USERS, "", user, 201).await;
    }

    pub(crate) async fn login(&self, username: &str, password: &str) -> Answer {
        let body = json!({"username": username, "password": password});
        self.post(TOKEN, &body).await
    }

    async fn refresh(&self, token: &Value) -> Answer {
        self.post(REFRESH, &json!({"refresh_token": token})).await
    }

    /// The status of an administrator's request with this token; the auth
    /// service itself looks at it.
    async fn presented(&self, token: &Value) -> u16 {
        let token = token.as_str().unwrap();
        let answer = self.call("GET", KEYS, KEYS, Some(token), &Value::Null);
        answer.await.status
    }
}

pub(crate) const KEYS: &str = "/api/v1/admin/keys";
const KEY: &str = "/api/v1/admin/keys/{id}";
pub(crate) const USERS: &str = "/api/v1/admin/users";
pub(crate) const USER: &str = "/api/v1/admin/users/{username}";

/// What a token says.
fn claims(answer: &Value) -> Value {
    use base64::Engine as _;
    let token = answer["access_token"].as_str().unwrap();
    let part = token.split('.').nth(1).unwrap();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part);
    serde_json::from_slice(&bytes.unwrap()).unwrap()
}

#[tokio::test]
async fn keys_and_passwords_are_exchanged_for_tokens() {
    let rest = Rest::start().await;
    rest.add_user("ada", "analyst").await;
    let by_password = rest.login("ada", PASSWORD).await;
    let key = rest.platform.api_key("viewer");
    let by_key = rest.post(TOKEN, &json!({"api_key": key, "ttl": 60})).await;
    for (answer, role) in [(&by_password, "analyst"), (&by_key, "viewer")] {
        assert_eq!(answer.status, 200, "{answer:?}");
        let tokens = answer.json();
        assert_eq!(tokens["token_type"], "Bearer");
        assert_eq!(claims(&tokens)["role"], role);
        assert_eq!(tokens["refresh_expires_in"], 2_592_000);
    }
    assert_eq!(by_key.json()["expires_in"], 60);
    assert_eq!(by_password.json()["expires_in"], 900);
    assert_eq!(claims(&by_password.json())["sub"], "ada");
}

#[tokio::test]
async fn refresh_tokens_rotate_and_reuse_ends_the_line() {
    let rest = Rest::start().await;
    rest.add_user("root", "admin").await;
    let first = rest.login("root", PASSWORD).await.json();
    assert_eq!(rest.presented(&first["access_token"]).await, 200);
    let second = rest.refresh(&first["refresh_token"]).await.json();
    let third = rest.refresh(&second["refresh_token"]).await.json();
    assert_ne!(second["refresh_token"], third["refresh_token"]);
    assert_eq!(rest.presented(&third["access_token"]).await, 200);
    // Two steps back: nobody who lost an answer has it.
    let reused = rest.refresh(&first["refresh_token"]).await;
    assert_eq!(reused.status, 401, "{reused:?}");
    assert_eq!(reused.json()["error"]["code"], "AUTH_FAILED");
    for tokens in [&first, &second, &third] {
        assert_eq!(rest.presented(&tokens["access_token"]).await, 401);
        assert_eq!(rest.refresh(&tokens["refresh_token"]).await.status, 401);
    }
    // The user may log in as ever.
    assert_eq!(rest.login("root", PASSWORD).await.status, 200);
}

#[tokio::test]
async fn bearers_revoke_what_they_hold() {
    let rest = Rest::start().await;
    rest.add_user("root", "admin").await;
    for field in ["access_token", "refresh_token"] {
        let tokens = rest.login("root", PASSWORD).await.json();
        let other = rest.login("root", PASSWORD).await.json();
        let held = json!({"token": tokens[field]});
        // The second time there is nothing left, which is no error.
        for _ in 0..2 {
            assert_eq!(rest.post(REVOKE, &held).await.status, 200);
        }
        assert_eq!(rest.presented(&tokens["access_token"]).await, 401);
        assert_eq!(rest.refresh(&tokens["refresh_token"]).await.status, 401);
        assert_eq!(rest.presented(&other["access_token"]).await, 200);
        let named = json!({"refresh_token": other["refresh_token"]});
        assert_eq!(rest.post(REVOKE, &named).await.status, 200);
        assert_eq!(rest.presented(&other["access_token"]).await, 401);
    }
    for unknown in ["nothing", "a.b.c", "sbr_x_1_y"] {
        let answer = rest.post(REVOKE, &json!({"token": unknown})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    // A key stays good, so this must not look like success.
    let key = rest.platform.api_key("viewer");
    let answer = rest.post(REVOKE, &json!({"token": key})).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"]["field"], "token");
}

#[tokio::test]
async fn an_administrator_makes_changes_and_revokes_a_key() {
    let rest = Rest::start().await;
    let wanted = json!({"role": "viewer", "name": "Wall", "projects": ["apollo"]});
    let made = rest.manage("POST", KEYS, "", wanted, 201).await;
    let location = made.header("location").unwrap().to_owned();
    let made = made.json();
    let id = made["key"]["id"].as_str().unwrap();
    let secret = made["api_key"].as_str().unwrap();
    assert_eq!(location, format!("/api/v1/admin/keys/{id}"));
    let exchange = async || rest.post(TOKEN, &json!({"api_key": secret})).await;
    let tokens = exchange().await.json();
    assert_eq!(claims(&tokens)["projects"], json!(["apollo"]));

    let shown = rest.manage("GET", KEY, id, Value::Null, 200).await;
    assert_eq!(shown.json(), made["key"]);
    assert!(!shown.body.contains(secret), "{}", shown.body);
    let change = json!({"role": "analyst", "projects": [], "messages_per_minute": 7});
    let changed = rest.manage("PATCH", KEY, id, change, 200).await.json();
    assert_eq!(
        (&changed["role"], &changed["messages_per_minute"]),
        (&json!("analyst"), &json!(7))
    );
    assert_eq!(
        (&changed["name"], &changed["projects"]),
        (&json!("Wall"), &json!([]))
    );
    // The change is in the next token of the line that began before it.
    let next = rest.refresh(&tokens["refresh_token"]).await.json();
    assert_eq!(claims(&next)["role"], "analyst");

    rest.manage("DELETE", KEY, id, Value::Null, 204).await;
    assert_eq!(exchange().await.status, 401);
    assert_eq!(rest.refresh(&next["refresh_token"]).await.status, 401);
    rest.manage("PATCH", KEY, id, json!({"role": "viewer"}), 404)
        .await;
    let shown = rest.manage("GET", KEY, id, Value::Null, 200).await;
    assert_eq!(shown.json()["revoked"], true);
    for (method, body) in [
        ("GET", Value::Null),
        ("PATCH", json!({})),
        ("DELETE", Value::Null),
    ] {
        rest.manage(method, KEY, "unknown", body, 404).await;
    }
}

#[tokio::test]
async fn an_administrator_makes_changes_and_deletes_a_user() {
    let rest = Rest::start().await;
    // What has a meaning in paths is a name like any other.
    let (name, id) = ("ada/l?", "ada%2Fl%3F");
    let user = json!({"username": name, "password": PASSWORD, "role": "viewer"});
    let made = rest.manage("POST", USERS, "", user.clone(), 201).await;
    assert_eq!(
        made.header("location"),
        Some("/api/v1/admin/users/ada%2Fl%3F")
    );
    let taken = rest.manage("POST", USERS, "", user, 409).await.json();
    assert_eq!(
        (&taken["error"]["code"], &taken["error"]["field"]),
        (&json!("ALREADY_EXISTS"), &json!("username"))
    );
    let shown = rest.manage("GET", USER, id, Value::Null, 200).await;
    assert_eq!(shown.json(), made.json());

    let tokens = rest.login(name, PASSWORD).await.json();
    rest.manage("PATCH", USER, id, json!({"role": "operator"}), 200)
        .await;
    let next = rest.refresh(&tokens["refresh_token"]).await.json();
    assert_eq!(claims(&next)["role"], "operator");

    let everywhere = "/api/v1/admin/users/{username}/tokens";
    rest.manage("DELETE", everywhere, id, Value::Null, 204)
        .await;
    assert_eq!(rest.refresh(&next["refresh_token"]).await.status, 401);
    assert_eq!(rest.login(name, PASSWORD).await.status, 200);

    rest.manage("PATCH", USER, id, json!({"disabled": true}), 200)
        .await;
    assert_eq!(rest.login(name, PASSWORD).await.status, 401);
    rest.manage("PATCH", USER, id, json!({"disabled": false}), 200)
        .await;
    assert_eq!(rest.login(name, PASSWORD).await.status, 200);

    let passwd = "/api/v1/admin/users/{username}/password";
    let another = "another long password";
    let short = rest
        .manage("PUT", passwd, id, json!({"password": "short"}), 400)
        .await;
    assert_eq!(short.json()["error"]["field"], "password");
    rest.manage("PUT", passwd, id, json!({"password": another}), 204)
        .await;
    assert_eq!(rest.login(name, PASSWORD).await.status, 401);
    assert_eq!(rest.login(name, another).await.status, 200);

    rest.manage("DELETE", USER, id, Value::Null, 204).await;
    rest.manage("DELETE", USER, id, Value::Null, 404).await;
    rest.manage("GET", USER, id, Value::Null, 404).await;
    assert_eq!(rest.login(name, another).await.status, 401);
}

#[tokio::test]
async fn single_tokens_and_lines_are_ended_by_their_ids() {
    let rest = Rest::start().await;
    rest.add_user("root", "admin").await;
    let tokens = rest.login("root", PASSWORD).await.json();
    let says = claims(&tokens);
    let token = "/api/v1/admin/tokens/{token_id}";
    let jti = says["jti"].as_str().unwrap();
    rest.manage("DELETE", token, jti, Value::Null, 204).await;
    assert_eq!(rest.presented(&tokens["access_token"]).await, 401);
    let next = rest.refresh(&tokens["refresh_token"]).await.json();
    assert_eq!(rest.presented(&next["access_token"]).await, 200);
    let family = "/api/v1/admin/families/{family_id}";
    let sid = says["sid"].as_str().unwrap();
    rest.manage("DELETE", family, sid, Value::Null, 204).await;
    assert_eq!(rest.presented(&next["access_token"]).await, 401);
    assert_eq!(rest.refresh(&next["refresh_token"]).await.status, 401);
    rest.manage("DELETE", family, "unknown", Value::Null, 404)
        .await;
    rest.manage("DELETE", token, "a%20b", Value::Null, 400)
        .await;
}

#[tokio::test]
async fn lists_come_in_parts_without_gap_or_repeat() {
    let rest = Rest::start().await;
    for name in ["a", "b/c", "d"] {
        rest.add_user(name, "viewer").await;
    }
    for (list, key, id) in [(USERS, "users", "username"), (KEYS, "keys", "id")] {
        let whole = rest.manage("GET", list, "", Value::Null, 200).await.json();
        assert!(whole.get("next").is_none());
        let mut parts = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("{list}?limit=2&after={after}");
            let admin = Some(rest.admin.as_str());
            let part = rest
                .call("GET", list, &path, admin, &Value::Null)
                .await
                .json();
            parts.extend(part[key].as_array().unwrap().clone());
            match part["next"].as_str() {
                Some(next) => after = next.replace('/', "%2F"),
                None => break,
            }
        }
        let ids = |list: &[Value]| -> Vec<Value> { list.iter().map(|it| it[id].clone()).collect() };
        assert_eq!(ids(&parts), ids(whole[key].as_array().unwrap()));
        assert!(parts.len() >= 3);
    }
    let roles = "/api/v1/admin/roles";
    let roles = rest.manage("GET", roles, "", Value::Null, 200).await.json();
    let roles = roles["roles"].as_array().unwrap().clone();
    let viewer = roles.iter().find(|role| role["role"] == "viewer").unwrap();
    assert!(
        viewer["permissions"]
            .as_array()
            .unwrap()
            .contains(&json!("read_threats"))
    );
    assert_eq!(roles.len(), 6);
}

#[tokio::test]
async fn no_log_has_a_secret() {
    let rest = Rest::start().await;
    rest.add_user("ada", "viewer").await;
    let guess = "a wrong but telling password";
    rest.login("ada", guess).await;
    let tokens = rest.login("ada", PASSWORD).await.json();
    let next = rest.refresh(&tokens["refresh_token"]).await.json();
    rest.refresh(&tokens["refresh_token"]).await;
    let made = rest
        .manage("POST", KEYS, "", json!({"role": "viewer"}), 201)
        .await
        .json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let key = text(&made["api_key"]);
    rest.post(TOKEN, &json!({"api_key": key})).await;
    rest.post(REVOKE, &json!({"token": next["access_token"]}))
        .await;
    let signature = |token: String| token[token.len() - 30..].to_owned();
    let mut secrets = vec![guess.to_owned(), PASSWORD.to_owned()];
    for secret in [
        &tokens["access_token"],
        &tokens["refresh_token"],
        &next["access_token"],
    ] {
        secrets.push(signature(text(secret)));
    }
    secrets.push(signature(key));
    secrets.push(signature(rest.admin.clone()));
    let platform = &rest.platform;
    let told = platform
        .auth
        .process
        .wait_for_line("revoked by its bearer", signalbox_testkit::DEADLINE);
    told.await;
    for process in [
        &platform.auth.process,
        &platform.gateways[0].process,
        &platform.router.process,
    ] {
        for line in process
            .stderr()
            .lines()
            .iter()
            .chain(&process.stdout().lines())
        {
            for secret in &secrets {
                assert!(secret.len() > 10 && !line.contains(secret), "{line}");
            }
        }
    }
}
