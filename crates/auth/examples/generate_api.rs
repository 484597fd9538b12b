//! Writes `src/gen/` anew from `proto/`:
//! `cargo run -p signalbox-auth --example generate_api`.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    generate(&here.join("../../proto"), &here.join("src/gen"))
}

include!("generate_api/code.rs");
