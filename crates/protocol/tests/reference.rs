//! The committed documentation is what shapes, catalogue and fixtures say.

use std::path::Path;

#[path = "../examples/reference/files.rs"]
mod files;

#[test]
fn reference_is_current() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for (name, fresh) in files::all() {
        let committed = std::fs::read_to_string(docs.join(&name)).unwrap_or_default();
        assert!(
            committed == fresh,
            "docs/{name} is stale: run `cargo run -p signalbox-protocol --example reference`"
        );
    }
}
