//! The committed code in `src/gen/` is what `proto/` says.

use std::error::Error;
use std::path::Path;

include!("../examples/generate/code.rs");

#[test]
fn generated_code_is_current() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = Path::new(env!("CARGO_TARGET_TMPDIR"));
    generate(&here.join("../../proto"), fresh).unwrap();
    let read = |folder: &Path| std::fs::read_to_string(folder.join("signalbox.v1.rs")).unwrap();
    assert_eq!(
        read(&here.join("src/gen")),
        read(fresh),
        "stale: run `cargo run -p signalbox-protocol --example generate`"
    );
}
