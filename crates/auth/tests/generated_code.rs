//! The committed code in `src/gen/` is what `proto/` says.

use std::error::Error;
use std::path::Path;

include!("../examples/generate_api/code.rs");

#[test]
fn generated_code_is_current() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = Path::new(env!("CARGO_TARGET_TMPDIR"));
    generate(&here.join("../../proto"), fresh).unwrap();
    for file in ["signalbox.api.v1.rs", "signalbox.api.v1.bin"] {
        let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
        assert!(
            read(&here.join("src/gen")) == read(fresh),
            "{file} is stale: run `cargo run -p signalbox-auth --example generate_api`"
        );
    }
}
