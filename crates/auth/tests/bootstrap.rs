//! The first start of a single machine:
//! - one API key for each role, in a private file and on the bus
//! - the next starts keep them, and make the bus know them again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use async_nats::jetstream::kv::Store;
use signalbox_auth::bootstrap::{Credentials, ensure_api_keys};
use signalbox_bus::key;
use signalbox_identity::{ApiKeyRecord, Role};

use crate::common::{Service, World};

#[tokio::test]
async fn the_first_start_makes_a_working_key_for_each_role() {
    let world = World::new().await;
    let path = world.dir.path().join("credentials.json");
    let credentials = ensure_api_keys(&world.admin, &path).await.unwrap();

    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(json["keys"].as_object().unwrap().len(), Role::ALL.len());

    let _auth = Service::start(world.options()).await;
    for role in Role::ALL {
        let key = credentials.key(role).unwrap().expose();
        assert_eq!(json["keys"][role.as_str()], key.expose());
        let principal = world.verify(key.expose()).await.unwrap();
        assert_eq!(principal.role, Some(role));
        assert_eq!(principal.subject.to_string(), format!("{role}@local"));
        assert_eq!(principal.name, format!("local {role}"));
        assert_eq!(principal.agent_id, None);
    }
}

#[tokio::test]
async fn later_starts_keep_the_keys_and_their_records() {
    let world = World::new().await;
    let path = world.dir.path().join("credentials.json");
    let first = ensure_api_keys(&world.admin, &path).await.unwrap();
    let admin = first.key(Role::Admin).unwrap();
    let bucket = world.bucket(key::API_KEYS).await;
    let mut revoked = stored(&bucket, admin.id().as_str()).await;
    revoked.revoked = true;
    world.put_record(&revoked).await;
    let text = fs::read_to_string(&path).unwrap();

    let second = ensure_api_keys(&world.admin, &path).await.unwrap();
    for role in Role::ALL {
        let (one, two) = (first.key(role).unwrap(), second.key(role).unwrap());
        assert_eq!(one.expose().expose(), two.expose().expose());
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert!(stored(&bucket, admin.id().as_str()).await.revoked);
}

#[tokio::test]
async fn keys_work_again_after_the_bus_lost_its_data() {
    let world = World::new().await;
    let path = world.dir.path().join("credentials.json");
    let credentials = ensure_api_keys(&world.admin, &path).await.unwrap();
    let jetstream = world.admin.jetstream();
    jetstream.delete_key_value(key::API_KEYS).await.unwrap();
    world.init().await;

    ensure_api_keys(&world.admin, &path).await.unwrap();
    let _auth = Service::start(world.options()).await;
    for role in Role::ALL {
        let key = credentials.key(role).unwrap().expose();
        assert_eq!(world.verify(key.expose()).await.unwrap().role, Some(role));
    }
}

#[tokio::test]
async fn a_role_that_the_file_lacks_is_added() {
    let world = World::new().await;
    let path = world.dir.path().join("credentials.json");
    let before = ensure_api_keys(&world.admin, &path).await.unwrap();
    let mut json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    json["keys"].as_object_mut().unwrap().remove("agent");
    fs::write(&path, json.to_string()).unwrap();

    let after = ensure_api_keys(&world.admin, &path).await.unwrap();
    assert_ne!(
        after.key(Role::Agent).unwrap().id(),
        before.key(Role::Agent).unwrap().id()
    );
    assert_eq!(
        after.key(Role::Viewer).unwrap().id(),
        before.key(Role::Viewer).unwrap().id()
    );
    let read = Credentials::read(&path).unwrap();
    assert_eq!(
        read.key(Role::Agent).unwrap().id(),
        after.key(Role::Agent).unwrap().id()
    );
}

async fn stored(bucket: &Store, id: &str) -> ApiKeyRecord {
    serde_json::from_slice(&bucket.get(id).await.unwrap().unwrap()).unwrap()
}
